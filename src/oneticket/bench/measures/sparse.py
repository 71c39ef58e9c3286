"""Sparse layers: training steps against oneticket's own dense float32 step, and the break-even of single layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import exp, log
from typing import NamedTuple

import torch
from msgspec.structs import asdict
from torch import Tensor, nn

from oneticket.bench.measures.steps import time_ours
from oneticket.bench.outcome import Result, absent, result
from oneticket.bench.pairing import Spread, in_turns, ratio
from oneticket.bench.rows import SPARSE_STEPS, Row
from oneticket.kernels.plain import lay_out
from oneticket.kernels.sparse import as_planes, building
from oneticket.kernels.sparse.layout import from_planes
from oneticket.training.compact.planes import PlanesLayer

DENSITIES = (0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)


class Size(NamedTuple):
    """A 3 × 3 convolution of as many outputs as inputs, and the side of its images."""

    channels: int
    side: int
    images: int = 128


LAYERS = {"layer-256": Size(256, 8), "layer-64": Size(64, 32), "layer-512": Size(512, 4)}


def measure_sparse(
    rows: Sequence[Row], *, short: bool, repeats: int, say: Callable[[str], None] = lambda _: None
) -> Iterator[Result]:
    """The results of rows of the group "sparse", as they come."""
    lacking = building.why_not()
    for row in rows:
        if lacking is not None:
            yield absent(row, lacking)
        elif row.name in LAYERS:
            yield _layer(row, LAYERS[row.name], repeats, say)
        else:
            yield _step(row, repeats, say, short=short)


def _step(row: Row, repeats: int, say: Callable[[str], None], *, short: bool) -> Result:
    step = SPARSE_STEPS[row.name]
    workload = step.short if short else step.full
    masks = workload.masks()
    contestants: dict[str, Callable[[], float]] = {
        "dense": partial(time_ours, workload),
        "ours": partial(time_ours, workload, masks),
    }
    seconds = in_turns(contestants, repeats, lambda turn: say(f"{row.name}: {turn}"))
    return result(row, ratio(seconds["dense"], seconds["ours"]), seconds=seconds, details=asdict(workload))


def _layer(row: Row, size: Size, repeats: int, say: Callable[[str], None]) -> Result:
    layer = nn.Conv2d(size.channels, size.channels, 3, padding=1, bias=False)
    images = torch.randn(size.images, size.channels, size.side, size.side)
    lay_out(layer, "channels-last")
    contestants = {"dense": _timed(layer, images, torch.channels_last)}
    for density in DENSITIES:
        mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) < density
        contestants[_named(density)] = _timed(PlanesLayer(layer, mask, None), images, None)
    seconds = in_turns(contestants, repeats + 1, lambda turn: say(f"{row.name}: {turn}"))
    seconds = {name: values[1:] for name, values in seconds.items()}  # the first turn sets things up
    gains = {name: ratio(seconds["dense"], values) for name, values in seconds.items() if name != "dense"}
    turns = [{d: gains[_named(d)].values[turn] for d in DENSITIES} for turn in range(repeats)]
    found = Spread.of([100 * break_even(turn) for turn in turns])
    return result(row, found, seconds=seconds, against=gains, details=size._asdict())


def break_even(gains: Mapping[float, float]) -> float:
    """The density at which a sparse layer takes as long as a dense one.

    ``gains`` are the ratios of times by density. Between two densities the ratio's logarithm is taken to be linear in
    that of the density; beyond all of them, the largest density, or 0 if none is faster.

    >>> break_even({0.4: 0.5, 0.1: 2.0})
    0.2
    """
    ordered = sorted(gains.items(), reverse=True)
    if ordered[0][1] >= 1:
        return ordered[0][0]
    for (above, slower), (below, faster) in pairwise(ordered):
        if faster >= 1:
            part = log(1 / slower) / log(faster / slower)
            return round(exp(log(above) + part * log(below / above)), 12)
    return 0.0


def _named(density: float) -> str:
    return f"{100 * density:g} %"


def _timed(layer: nn.Module, images: Tensor, layout: torch.memory_format | None) -> Callable[[], float]:
    """Seconds of a forward pass and of both gradients, in the layer's own layout."""

    def laid(maps: Tensor) -> Tensor:
        return from_planes(as_planes(maps)) if layout is None else maps.contiguous(memory_format=layout)

    slope = laid(torch.randn_like(images))
    given = laid(images).requires_grad_()

    def run() -> float:
        began = time.perf_counter()
        torch.autograd.grad(layer(given), (given, *layer.parameters()), slope)
        return time.perf_counter() - began

    return run
