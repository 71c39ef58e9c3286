"""Normalisation parameters interpolated between trained and fresh ones during training."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.methods.dense_to_sparse import checked, moment
from oneticket.training import Callback, Start, TrainState
from oneticket.weights import norm_names


def interpolating(start: Start, model: nn.Module, state: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> Start:
    """``start`` with the normalisation parameters of ``model`` interpolated from ``state`` to ``fresh`` in each step.

    Parameters
    ----------
    start : where the training begins.
    model : the network, which says what is a normalisation parameter.
    state, fresh : values by name: those with which the training begins, and fresh ones.
    """
    names = norm_names(model)
    mixed = Interpolated({name: state[name] for name in names}, {name: fresh[name] for name in names})
    return msgspec.structs.replace(start, callbacks=(mixed, *start.callbacks))


class Interpolated(Callback):
    """Each step sees (1 − a)·ψ + a·fresh in place of the normalisation parameters ψ, a uniform on [0, 1).

    ψ begins at ``trained`` and is trained. At each step, one a is drawn for all of ψ; evaluation uses ψ itself (a = 0).
    A network trained so does as well with fresh normalisation parameters: Oh et al. 2025, §4.

    Parameters
    ----------
    trained, fresh : values by name, with the same names and shapes. Only parameters are interpolated; buffers, such as
        running statistics, are left to the network.
    until : the fraction of the training after which ψ is no longer interpolated; 1, as published, interpolates
        throughout.

    Raises
    ------
    InputError : values that don't fit each other or the model.
    """

    def __init__(self, trained: Mapping[str, Tensor], fresh: Mapping[str, Tensor], until: float = 1.0) -> None:
        if trained.keys() != fresh.keys():
            odd = sorted(trained.keys() ^ fresh.keys())[0]
            raise InputError(f"'{odd}' is among only one of trained and fresh parameters", expected="the same names")
        self._trained, self._fresh = trained, fresh
        self._until = checked("interpolated", "until", until, most=1)

    @torch.no_grad()
    def on_train_start(self, state: TrainState) -> None:
        parameters, buffers = dict(state.model.named_parameters()), dict(state.model.named_buffers())
        for name, value in self._trained.items():
            found = parameters.get(name, buffers.get(name))
            if found is None or not found.shape == value.shape == self._fresh[name].shape:
                raise InputError(f"'{name}' does not fit the model", expected="its parameters, with their shapes")
        names = [name for name in self._trained if name in parameters]
        self._end = moment(state, self._until) if names else state.times.first
        self._current: list[Tensor] = [parameters[name] for name in names]
        self._ends = [self._fresh[name].to(parameters[name]) for name in names]
        self._kept = [torch.empty_like(parameter, requires_grad=False) for parameter in self._current]
        for name in names:
            parameters[name].copy_(self._trained[name])

    @torch.no_grad()
    def before_forward(self, state: TrainState) -> None:
        if state.step >= self._end:
            return
        self._share = float(torch.rand((), generator=state.generator("interpolation", state.step)))
        torch._foreach_copy_(self._kept, self._current)
        torch._foreach_lerp_(self._current, self._ends, self._share)

    @torch.no_grad()
    def after_backward(self, state: TrainState) -> None:
        if state.step >= self._end:
            return
        torch._foreach_copy_(self._current, self._kept)
        gradients = [parameter.grad for parameter in self._current if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1 - self._share)
