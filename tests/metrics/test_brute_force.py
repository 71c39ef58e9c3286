"""Effective masks against a search through the graph of all units, on random small networks (500 of them)."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.metrics import find_paths

Node = int | None  # None: a zero that nothing reaches
Grid = np.ndarray  # of nodes, [channels, height, width]


class Graph:
    """Units as nodes, one for each position; edges with the name and index of their weight, or None without one."""

    def __init__(self) -> None:
        self.nodes = itertools.count()
        self.edges: list[tuple[int, int, tuple[str, tuple[int, ...]] | None]] = []

    def grid(self, *shape: int) -> Grid:
        return np.array([next(self.nodes) for _ in range(int(np.prod(shape)))], dtype=object).reshape(shape)

    def join(self, start: Node, end: int, weight: tuple[str, tuple[int, ...]] | None = None) -> None:
        if start is not None:
            self.edges.append((start, end, weight))

    def on_paths(self, masks: Masks, inputs: Iterable[Node], outputs: Iterable[Node]) -> dict[str, set[Any]]:
        """Indices of the kept weights on a path from ``inputs`` to ``outputs``, by name."""
        kept = [(u, v, w) for u, v, w in self.edges if w is None or bool(masks[w[0]][w[1]])]
        reached = _closure(inputs, ((u, v) for u, v, _ in kept))
        leading = _closure(outputs, ((v, u) for u, v, _ in kept))
        found: dict[str, set[Any]] = defaultdict(set)
        for u, v, weight in kept:
            if weight is not None and u in reached and v in leading:
                found[weight[0]].add(weight[1])
        return found


def _closure(starts: Iterable[Node], edges: Iterable[tuple[int, int]]) -> set[Node]:
    after: dict[int, list[int]] = defaultdict(list)
    for u, v in edges:
        after[u].append(v)
    seen = {node for node in starts if node is not None}
    waiting = list(seen)
    while waiting:
        for node in after[waiting.pop()]:
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen


# -- layers, each as a module and as a graph --------------------------------------------------------------------------
class Step(ABC):
    """A layer: ``module`` for torch, ``draw`` for the graph."""

    module: nn.Module

    @abstractmethod
    def draw(self, graph: Graph, grid: Grid, name: str) -> Grid: ...


class Convolution(Step):
    def __init__(self, inputs: int, outputs: int, k: int, stride: int = 1, pad: int = 0, dil: int = 1, groups: int = 1):
        self.module = nn.Conv2d(inputs, outputs, k, stride, pad, dil, groups)
        self.facts = (inputs, outputs, k, stride, pad, dil, groups)

    def draw(self, graph: Graph, grid: Grid, name: str) -> Grid:
        inputs, outputs, k, stride, pad, dil, groups = self.facts
        _, height, width = grid.shape
        result = graph.grid(outputs, *((side + 2 * pad - dil * (k - 1) - 1) // stride + 1 for side in (height, width)))
        for (o, y, x), end in np.ndenumerate(result):
            for i, a, b in itertools.product(range(inputs // groups), range(k), range(k)):
                row, column = y * stride - pad + a * dil, x * stride - pad + b * dil
                if 0 <= row < height and 0 <= column < width:
                    channel = o // (outputs // groups) * (inputs // groups) + i
                    graph.join(grid[channel, row, column], end, (f"{name}.weight", (o, i, a, b)))
        return result


class Linear(Step):
    def __init__(self, inputs: int, outputs: int):
        self.module, self.outputs = nn.Linear(inputs, outputs), outputs

    def draw(self, graph: Graph, grid: Grid, name: str) -> Grid:
        result = graph.grid(self.outputs, 1, 1)
        for o, (i, start) in itertools.product(range(self.outputs), enumerate(grid.flatten())):
            graph.join(start, result[o, 0, 0], (f"{name}.weight", (o, i)))
        return result


class Pool(Step):
    """Max or mean over windows; ``size`` 0 takes the whole map."""

    def __init__(self, kind: str, size: int, stride: int = 1, pad: int = 0):
        whole = {"max": nn.AdaptiveMaxPool2d(1), "avg": nn.AdaptiveAvgPool2d(1)}
        windows = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
        self.module = windows[kind](size, stride, pad) if size else whole[kind]
        self.facts = (size, stride, pad)

    def draw(self, graph: Graph, grid: Grid, name: str) -> Grid:
        size, stride, pad = self.facts
        channels, height, width = grid.shape
        sides = [(side + 2 * pad - size) // stride + 1 if size else 1 for side in (height, width)]
        result = graph.grid(channels, *sides)
        for (c, y, x), end in np.ndenumerate(result):
            rows = range(y * stride - pad, y * stride - pad + size) if size else range(height)
            columns = range(x * stride - pad, x * stride - pad + size) if size else range(width)
            for row, column in itertools.product(rows, columns):
                if 0 <= row < height and 0 <= column < width:
                    graph.join(grid[c, row, column], end)
        return result


class Each(Step):
    """What leaves every unit by itself."""

    def __init__(self, module: nn.Module):
        self.module = module

    def draw(self, graph: Graph, grid: Grid, name: str) -> Grid:
        return grid


class Body(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module, join: str):
        super().__init__()
        self.body, self.shortcut, self.join = body, shortcut, join

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.body(x), self.shortcut(x)
        if self.join == "cat":
            return torch.cat([a, b], 1)
        if self.join == "subtract":
            return a - b
        missing = a.shape[1] - b.shape[1]
        return torch.relu(a + nn.functional.pad(b, (0, 0, 0, 0, 0, missing)))


class Residual(Step):
    """Two ways, added (missing channels of the second are zero), subtracted or put side by side."""

    def __init__(self, body: Sequence[Step], shortcut: Sequence[Step], join: str):
        self.body, self.shortcut, self.join = body, shortcut, join
        self.module = Body(_sequential(body), _sequential(shortcut), join)

    def draw(self, graph: Graph, grid: Grid, name: str) -> Grid:
        a = _draw(self.body, graph, grid, f"{name}.body.")
        b = _draw(self.shortcut, graph, grid, f"{name}.shortcut.")
        if self.join == "cat":
            return np.concatenate([a, b])
        result = graph.grid(*a.shape)
        for place, end in np.ndenumerate(result):
            graph.join(a[place], end)
            if place[0] < len(b):
                graph.join(b[place], end)
        return result


def _sequential(steps: Sequence[Step]) -> nn.Sequential:
    return nn.Sequential(*(step.module for step in steps))


def _draw(steps: Sequence[Step], graph: Graph, grid: Grid, prefix: str = "") -> Grid:
    for i, step in enumerate(steps):
        grid = step.draw(graph, grid, f"{prefix}{i}")
    return grid


# -- random networks --------------------------------------------------------------------------------------------------
@st.composite
def networks(draw: Any) -> tuple[tuple[int, int, int], list[Step]]:
    """The shape of an image and the layers of a network for it: none to four of convolutions, then linear ones."""
    channels, height, width = shape = tuple(draw(st.tuples(*[st.integers(1, n) for n in (2, 4, 4)])))
    steps: list[Step] = []

    def pick(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    for _ in range(draw(st.integers(0, 4))):
        small = min(height, width)
        kind = pick("conv", "pool", "residual")
        if kind == "pool":
            size, pad = min(pick(1, 2, 3), small), 0
            steps.append(Pool(pick("max", "avg"), size, stride := pick(1, 2), pad := pick(0, size // 2)))
            height, width = ((side + 2 * pad - size) // stride + 1 for side in (height, width))
            continue
        outputs, stride = draw(st.integers(1, 3)), pick(1, 2)
        if kind == "conv":
            k, dil, pad = pick(1, 2, 3), pick(1, 2), pick(0, 1, 2)
            if small + 2 * pad < dil * (k - 1) + 1:
                k = 1
            groups = pick(1, np.gcd(channels, outputs).item())
            steps += [Convolution(channels, outputs, k, stride, pad, dil, groups), Each(nn.BatchNorm2d(outputs))]
            steps.append(Each(pick(nn.ReLU(inplace=True), nn.GELU(), nn.Dropout(0.5), nn.GroupNorm(1, outputs))))
            height, width = ((side + 2 * pad - dil * (k - 1) - 1) // stride + 1 for side in (height, width))
        else:
            inner, join = draw(st.integers(1, 3)), pick("add", "subtract", "cat")
            body = [Convolution(channels, inner, 3, stride, 1), Each(nn.ReLU()), Convolution(inner, outputs, 3, 1, 1)]
            shortcut: list[Step] = [Convolution(channels, outputs, 1, stride)]
            if join == "add" and outputs >= channels and pick(True, False):
                shortcut = [Pool("avg", 1, stride)]
            steps.append(Residual(body, shortcut, join))
            outputs = 2 * outputs if join == "cat" else outputs
            height, width = ((side - 1) // stride + 1 for side in (height, width))
        channels = outputs
    if pick(True, False):
        steps.append(Pool(pick("max", "avg"), 0))
        height = width = 1
    steps.append(Each(nn.Flatten()))
    width = channels * height * width
    for outputs in draw(st.lists(st.integers(1, 5), max_size=3)):
        steps += [Linear(width, outputs), Each(nn.Tanh())]
        width = outputs
    return shape, [*steps, Linear(width, draw(st.integers(1, 3)))]


@pytest.mark.slow
@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from([0.15, 0.3, 0.5, 0.7, 0.9, 1.0]), st.integers(0, 2**31), st.booleans())
def test_effective_masks_are_what_a_search_through_the_graph_finds(
    network: tuple[tuple[int, int, int], list[Step]], density: float, seed: int, with_head: bool
) -> None:
    shape, steps = network
    model = _sequential(steps)
    names = [name for name, p in model.named_parameters() if name.endswith("weight") and p.dim() > 1]
    assume(with_head or len(names) > 1)  # without its head, a network of one layer has no mask to ask for
    random = np.random.default_rng(seed)
    every = Masks({n: torch.from_numpy(random.random(model.get_parameter(n).shape) < density) for n in names})
    if not with_head:
        every = Masks({n: m | (n == names[-1]) for n, m in every.items()})
    graph = Graph()
    image = graph.grid(*shape)
    output = _draw(steps, graph, image)
    expected = graph.on_paths(every, image.flatten(), output.flatten())

    asked = every if with_head else Masks({n: m for n, m in every.items() if n != names[-1]})
    assert asked
    paths = find_paths(model, asked, torch.zeros(1, *shape))
    assert list(paths.masks) == list(asked)
    for name, mask in paths.masks.items():
        assert {tuple(index) for index in mask.nonzero().tolist()} == expected[name], name
    assert paths.density == sum(len(expected[name]) for name in asked) / asked.total
    for row in paths.units:
        alive = {index[0] for index in expected[row.name]}
        assert (row.dead, row.total) == (len(every[row.name]) - len(alive), len(every[row.name]))
