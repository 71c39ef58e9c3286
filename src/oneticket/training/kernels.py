"""Choice of kernels: another layout or precision is used only where its kernels agree with the plain path."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from oneticket.calling import Inputs, each, size_of
from oneticket.data import BatchSource
from oneticket.errors import InputError
from oneticket.kernels.plain import MEMORY_FORMATS, lay_out, on_plain_path
from oneticket.kernels.pointwise import is_pointwise
from oneticket.kernels.recording import record
from oneticket.kernels.trial import Layout, Trial
from oneticket.kernels.verdicts import faults
from oneticket.training.compact.model import tensors
from oneticket.training.compact.verification import unnoticed
from oneticket.training.objectives import Loss
from oneticket.training.recipe import Precision

LOG = logging.getLogger("oneticket.kernels")

KNOWN = "its gradient is wrong in oneDNN (issue 6035)"


class Kernels(msgspec.Struct, frozen=True):
    """The layout of the images, and the layers that take the plain path instead.

    Parameters
    ----------
    layout : the layout.
    plain : name of a layer → why it takes the plain path; an empty name stands for the network as a whole.
    unchecked : why the kernels could not be checked; empty if they were.
    sparse : names of the layers that compute with their kept weights only.
    """

    layout: Layout = "contiguous"
    plain: dict[str, str] = {}
    unchecked: str | None = None
    sparse: tuple[str, ...] = ()

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as torch's memory format."""
        return MEMORY_FORMATS[self.layout]

    @contextmanager
    def at_work(self, model: nn.Module) -> Iterator[None]:
        """A context in which ``model`` computes with these kernels."""
        with on_plain_path(model, [name for name in self.plain if name], self.layout):
            yield


def choose_kernels(
    model: nn.Module,
    loss: Loss,
    batches: BatchSource,
    *,
    precision: Precision,
    channels_last: bool,
) -> Kernels:
    """Choose the kernels to train ``model`` with on batches like ``batches``, comparing each with the plain path.

    Each operation of a layer is tried in the requested layout and precision, values and gradients, on noise of the
    shapes that a batch has there; results known for this machine are reused. A layer with a fault takes the plain path;
    if the fault belongs to no single layer, the whole network uses the plain layout.

    Raises InputError for an operation that is wrong in bfloat16 and belongs to no layer that could take the plain path.
    """
    layout: Layout = "channels-last" if channels_last else "contiguous"
    if layout == "contiguous" and precision == "float32":
        return Kernels(layout)
    try:
        trials = _trials(model, loss, batches, precision, layout)
    except Exception as error:  # the user's code may raise anything when the network is copied and run
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return _told(Kernels("contiguous", unchecked=f"the network can't be examined ({reason})"))
    found = _at_fault(trials)
    loose = {name: fault for name, fault in found.items() if not _is_layer(model, name)}
    if not loose:
        return _told(Kernels(layout, found))
    name, fault = next(iter(loose.items()))
    where = f"'{name}'" if name else "the network"
    if layout == "contiguous":
        raise InputError(f"{where} is computed wrongly in bfloat16 on this machine: {fault}", expected="float32")
    inner = choose_kernels(model, loss, batches, precision=precision, channels_last=False)
    return _told(msgspec.structs.replace(inner, plain={**inner.plain, "": f"{where}: {fault}"}))


def _trials(
    model: nn.Module,
    loss: Loss,
    batches: BatchSource,
    precision: Precision,
    layout: Layout,
) -> dict[Trial, set[str]]:
    network = _bare_copy(model).train()
    lay_out(network, "contiguous")

    def forward(inputs: Inputs, targets: Tensor) -> None:
        with torch.autocast(targets.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss(network, each(Tensor.contiguous, inputs), targets)

    seen: dict[Trial, set[str]] = {}
    with unnoticed():
        for inputs, targets in _sizes(batches):
            recorded = record(network, partial(forward, inputs, targets), layout, targets.device.type)
            for trial, names in recorded.items():
                for name in names:
                    own = trial.has_known_fault and is_pointwise(network.get_submodule(name))
                    seen.setdefault(trial.avoided if own else trial, set()).add(name)
    return seen


def _sizes(batches: BatchSource) -> Iterator[tuple[Inputs, Tensor]]:
    """A batch of each size that occurs in an epoch: a full batch, and the remainder at its end."""
    inputs, targets = next(iter(batches.ordered()))
    yield inputs, targets
    whole, left = divmod(batches.samples, size_of(inputs))
    if left and batches.steps_per_epoch > whole:  # a source may drop the remainder
        yield each(lambda part: part[:left], inputs), targets[:left]


def _bare_copy(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with ``model``, without its hooks."""
    memo: dict[int, Any] = {}
    copied = copy.deepcopy(model, memo)
    parts = [{id(part) for part in (*m.modules(), *tensors(m).values())} for m in (model, copied)]
    if parts[0] & parts[1]:
        raise TypeError("it shares tensors or modules with its copies")
    for module in [part for part in memo.values() if isinstance(part, nn.Module)]:  # registered or not
        for name, hooks in vars(module).items():
            if name.endswith("_hooks") and hooks:
                hooks.clear()
    return copied


def _at_fault(trials: Mapping[Trial, set[str]]) -> dict[str, str]:
    """Name of a layer → its fault."""
    found = {trial: KNOWN for trial in trials if trial.has_known_fault}
    found |= faults(trial for trial in trials if trial not in found)
    return {name: f"{trial.about}: {fault}" for trial, fault in found.items() for name in sorted(trials[trial])}


def _is_layer(model: nn.Module, name: str) -> bool:
    return bool(name) and not any(model.get_submodule(name).children())


def _told(kernels: Kernels) -> Kernels:
    """Log where ``kernels`` differ from the requested ones, and return them."""
    for name, fault in kernels.plain.items():
        LOG.warning("%s takes the plain path: %s", f"the layer '{name}'" if name else "the network", fault)
    if kernels.unchecked:
        LOG.warning("the network is trained in plain layout: %s", kernels.unchecked)
    return kernels
