"""Gradual magnitude pruning: the smallest weights go while the network trains, along a cubic curve."""

from __future__ import annotations

from typing import Literal

from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import Cutting, checked, interval, refuse_masked
from oneticket.training import Callback, TrainState


@method("gmp", source="Zhu & Gupta 2017", makes="masks")
def gmp(
    context: MethodContext,
    *,
    every: int = 100,
    stop: float = 0.5,
    allocation: Literal["layerwise", "global"] = "layerwise",
) -> Callback:
    """Gradual magnitude pruning: sparsity grows as s_t = s_f (1 − (1 − t/T)³) while training.

    As published, each layer is pruned to s_t by itself: its smallest |W| go, and none comes back. With ``allocation`` =
    ``global`` the smallest |W| of the whole network go. This happens every ``every`` steps, or every tenth of the phase
    if that is less, from the first step until the fraction ``stop`` of the training, T, is over; then the masks stay
    fixed.
    """
    stop, every = checked("gmp", "stop", stop, most=1), int(checked("gmp", "every", every))
    return Gradual(context.density, stop, every, allocation)


def density_after(progress: float, final: float) -> float:
    """1 − s_t = ρ + (1 − ρ)(1 − t/T)³ for ``progress`` = t/T and ``final`` = ρ; never below ρ.

    >>> density_after(0.5, 0.5), density_after(1.0, 0.2)
    (0.5625, 0.2)
    """
    return final + (1 - final) * (1 - progress) ** 3


class Gradual(Cutting):
    """Prunes by magnitude at regular intervals; the last time, at the cut, to exactly ρ."""

    def __init__(self, density: float, stop: float, every: int, allocation: str) -> None:
        super().__init__(density, stop, allocation)
        self._every = every

    def on_train_start(self, state: TrainState) -> None:
        refuse_masked("gmp", state)
        super().on_train_start(state)
        self._phase = self.cut_at - state.times.first
        self._interval = interval(self._every, self._phase)

    def learn(self, state: TrainState) -> None:
        done = state.step + 1 - state.times.first
        if done % self._interval == 0:
            state.replace_masks(self.settle(density_after(done / self._phase, self.density)))
