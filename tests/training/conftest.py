"""What the tests of training share: a small network, small data whose last batch is partial, masks, and a recorder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from oneticket.masks import Masks
from oneticket.randomness import seeded

Data = tuple[Tensor, Tensor]
MakeNetwork = Callable[..., nn.Sequential]


@pytest.fixture
def network() -> MakeNetwork:
    """A factory of networks with linear layers, normalisation and, where asked for, dropout."""

    def make(seed: int = 0, *, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
        with seeded(seed):
            # No bias before a normalisation: its gradient would be rounding noise, which adaptive optimisers blow up.
            layers = [
                nn.Linear(6, 8, bias=False),
                nn.BatchNorm1d(8),
                nn.Tanh(),
                nn.Dropout(dropout),
                nn.Linear(8, 7),
                nn.Tanh(),
            ]
            return nn.Sequential(*layers, nn.Linear(7, 3)).to(dtype)

    return make


@pytest.fixture(scope="session")
def data() -> Data:
    """22 samples of 6 numbers in 3 classes: in batches of 5 an epoch has 5 steps, the last one of 2 samples."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(22, 6, generator=generator)
    return inputs, (inputs[:, :3] * 2 + torch.randn(22, 3, generator=generator)).argmax(1)


@pytest.fixture(scope="session")
def masks() -> Masks:
    """Half of both hidden layers of that network."""
    generator = torch.Generator().manual_seed(8)
    shapes = {"0.weight": (8, 6), "4.weight": (7, 8)}
    return Masks({name: torch.rand(shape, generator=generator) < 0.5 for name, shape in shapes.items()})


@dataclass
class Recorder:
    """What any optimiser in the process left after each of its steps, and the rates it stepped with."""

    model: nn.Module | None = None
    states: list[dict[str, Tensor]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def watch(self, model: nn.Module) -> nn.Module:
        """Record ``model`` from now on."""
        self.model, self.states, self.rates = model, [], []
        return model


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """States and rates after every optimiser step, seen by a hook of torch's, not by the loop under test."""
    record = Recorder()

    def after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
        record.rates.append(optimizer.param_groups[0]["lr"])
        if record.model is not None:
            record.states.append({name: value.clone() for name, value in record.model.state_dict().items()})

    handle = register_optimizer_step_post_hook(after_step)
    yield record
    handle.remove()
