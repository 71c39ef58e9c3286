"""Which of several equal networks trains fastest here: measured once, and kept in the cache.

``CACHE/kernels/sparse/choices-MACHINE.jsonl``: a line for each network, its sizes and numbers of kept weights as powers
of two, batch, precision and threads. A choice changes rounding, so what was chosen first stands: later trainings,
resumed ones and those of other processes get the same bits. It can be deleted; then the next training measures again.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from oneticket.identity import digest
from oneticket.kernels.machine import this_machine
from oneticket.masks import Masks
from oneticket.places import cache_home
from oneticket.training.recipe import Precision
from oneticket.training.runtime import kept_heap

VERSION = 4
"""To be raised when kernels or the alternatives change."""

TURNS, SECONDS = 5, 10.0
"""Alternated steps of each network, of which the fastest counts; no further turn begins after so many seconds."""

LAYER_TURNS = 3
"""Alternated passes of a single layer."""

CLEAR = 1.5
"""A ratio of the first network's time to the best other one's, or its inverse, that needs no further turn."""

WORTH = 0.98
"""The fraction of the first network's time below which another one is taken."""


class Choice(msgspec.Struct, frozen=True):
    """What was measured: ``names`` of the layers that compute sparsely, seconds of a step without and with them."""

    key: str
    names: tuple[str, ...]
    dense: float
    sparse: float


def known(key: str) -> Choice | None:
    """The choice that this machine made for ``key``, the first if several processes measured at once."""
    with contextlib.suppress(OSError):
        for line in _file().read_bytes().splitlines():
            with contextlib.suppress(msgspec.MsgspecError):  # a line that was cut off when a process was killed
                choice = msgspec.json.decode(line, type=Choice)
                if choice.key == key:
                    return choice
    return None


def settle(choice: Choice) -> Choice:
    """Keep ``choice``, and return the one that stands: an earlier one, or none sparse where the cache can't be written.

    Without a cache the next training would measure again, and could end with other bits.
    """
    with contextlib.suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        place = os.open(_file(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(place, msgspec.json.encode(choice) + b"\n")  # in one write: lines of two processes do not mix
        finally:
            os.close(place)
    return known(choice.key) or msgspec.structs.replace(choice, names=())


def key_of(model: nn.Module, masks: Masks, example: Tensor, precision: Precision, layout: torch.memory_format) -> str:
    """A digest of all that the time of a step depends on, apart from the machine.

    Sizes and numbers of kept weights are rounded to a fifth: the networks of other seeds share a choice.
    """
    modules = [type(module).__qualname__ for module in model.modules()]
    shapes = {name: [_about(size) for size in parameter.shape] for name, parameter in model.named_parameters()}
    kept = {name: _about(int(mask.sum())) for name, mask in masks.items()}
    facts = [modules, shapes, kept, list(example.shape), str(example.dtype), precision, str(layout)]
    return digest([*facts, torch.get_num_threads()])


def _about(number: int) -> int:
    return round(4 * math.log2(max(number, 1)))


def fastest(key: str, networks: Mapping[tuple[str, ...], nn.Module], example: Tensor, precision: Precision) -> Choice:
    """Measure a step of each of ``networks`` in turns; their keys are the sparse layers, the dense one comes first."""
    dense, *others = networks
    with kept_heap():
        seconds = _in_turns(list(networks.values()), example, precision)
    times = dict(zip(networks, seconds, strict=True))
    best = min(others, key=times.__getitem__)
    chosen = best if times[best] < WORTH * times[dense] else dense
    return Choice(key, chosen, times[dense], times[best])


def _in_turns(networks: Sequence[nn.Module], example: Tensor, precision: Precision) -> list[float]:
    best, begun = [float("inf")] * len(networks), time.perf_counter()
    for turn in range(1 + TURNS):  # the first one sets things up
        if turn > 1 and time.perf_counter() - begun > SECONDS:
            break
        for i, network in enumerate(networks):
            seconds = _step(network, example, precision)
            best[i] = min(best[i], seconds) if turn else best[i]
        gain = best[0] / min(best[1:]) if turn else 1.0
        if max(gain, 1 / gain) > CLEAR:
            break
    return best


def _step(network: nn.Module, example: Tensor, precision: Precision) -> float:
    network.train()
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        outputs = network(example)
    leaves = [parameter for parameter in network.parameters() if parameter.requires_grad]
    torch.autograd.grad(outputs.float().sum(), leaves, allow_unused=True)
    return time.perf_counter() - began


def gain(layers: tuple[nn.Module, nn.Module], inputs: tuple[Tensor, Tensor], precision: Precision) -> float:
    """The time of the first layer over that of the second, forward and backward, each on inputs in its own layout."""
    best = [float("inf")] * 2
    for turn in range(1 + LAYER_TURNS):  # the first one sets things up
        for i, (layer, given) in enumerate(zip(layers, inputs, strict=True)):
            seconds = _layer_step(layer, given.detach().requires_grad_(), precision)
            best[i] = min(best[i], seconds) if turn else best[i]
    return best[0] / best[1]


def _layer_step(layer: nn.Module, inputs: Tensor, precision: Precision) -> float:
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        outputs = layer(inputs)
    between = time.perf_counter()
    slope = torch.ones_like(outputs)
    begun_again = time.perf_counter()
    torch.autograd.grad(outputs, [inputs, *layer.parameters()], slope, allow_unused=True)
    return time.perf_counter() - begun_again + between - began


def _file() -> Path:
    facts = [VERSION, msgspec.to_builtins(this_machine())]
    return cache_home() / "kernels" / "sparse" / f"choices-{digest(facts)[:16]}.jsonl"
