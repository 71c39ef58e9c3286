"""Small convolutions of every kind compared with float64, values and gradients: which are wrong on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, product

import msgspec

from oneticket.kernels.isolation import Job, judge_elsewhere
from oneticket.kernels.trial import Blank, Layout, Listed, Trial

CHANNELS = range(1, 34)
SIZES = (9, 10)
BATCHES = (1, 2, 27, 64)
OUTPUTS = 8
PATIENCE = 5.0  # seconds; a trial takes milliseconds

PRECISIONS = {"float32": "float32", "bf16": "bfloat16"}


class Kind(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """A kind of convolutions; ``grouped`` ones have a group for each channel."""

    transposed: bool
    kernel: int
    stride: int
    grouped: bool
    layout: Layout
    precision: str
    threads: int

    def __str__(self) -> str:
        size = f"{self.kernel} × {self.kernel}"
        words = [f"transposed {size}" if self.transposed else size, f"stride {self.stride}"]
        words += ["a group for each channel"] * self.grouped + [self.layout, self.precision]
        return ", ".join([*words, f"{self.threads} thread{'s' * (self.threads > 1)}"])


class Wrong(msgspec.Struct, frozen=True):
    """The numbers of channels at which a kind is wrong, and how: of inputs, or of outputs if it is transposed."""

    kind: Kind
    channels: tuple[int, ...]
    fault: str


def kinds(threads: Iterable[int] = (1, 2)) -> list[Kind]:
    """Every kind to try."""
    shapes = [(False, kernel, stride) for kernel, stride in product((1, 3, 5), (1, 2))] + [(True, 1, 2), (True, 3, 2)]
    layouts: tuple[Layout, ...] = ("channels-last", "contiguous")
    return [
        Kind(transposed=transposed, kernel=kernel, stride=stride, grouped=grouped, layout=layout, precision=precision,
             threads=count)
        for (transposed, kernel, stride), grouped, layout, precision, count in product(
            shapes, (False, True), layouts, PRECISIONS, threads
        )
    ]  # fmt: skip


def trials(kind: Kind, channels: Iterable[int] = CHANNELS, *, layers: bool = False) -> Iterator[tuple[int, Trial]]:
    """The number of channels and the trial of every convolution of ``kind``.

    With ``layers`` the layers that networks here have are tried, instead of the plain operation.
    """
    for batch, size, count in product(BATCHES, SIZES, channels):
        ends = (count, count) if kind.grouped else (OUTPUTS, count)  # outputs, inputs; exchanged where transposed
        pixels = -(-size // kind.stride) if kind.transposed else size
        inputs = ends[0] if kind.transposed else ends[1]
        weight = (ends[0], 1 if kind.grouped else ends[1], kind.kernel, kind.kernel)
        dtype, both = PRECISIONS[kind.precision], (kind.kernel // 2, kind.kernel // 2)
        over = int(size % 2 == 0) if kind.transposed else 0
        arguments = (
            Blank((batch, inputs, pixels, pixels), dtype, True), Blank(weight, dtype, True), None,
            Listed((kind.stride, kind.stride)), Listed(both), Listed((1, 1)), kind.transposed, Listed((over, over)),
            count if kind.grouped else 1,
        )  # fmt: skip
        op = "oneticket.convolution" if layers else "aten.convolution"
        yield count, Trial(op=op, arguments=arguments, layout=kind.layout, reference="float64")


def sweep(
    chosen: Iterable[Kind], channels: Iterable[int] = CHANNELS, *, layers: bool = False
) -> Iterator[tuple[Kind, Wrong | None]]:
    """Try each of ``chosen`` and say what is wrong with it; the C library checks the heap if it can."""
    channels = tuple(channels)
    for threads, alike in groupby(sorted(chosen, key=lambda kind: kind.threads), key=lambda kind: kind.threads):
        own = [(kind, list(trials(kind, channels, layers=layers))) for kind in alike]
        job = Job(tuple(trial for _, numbered in own for _, trial in numbered), threads, PATIENCE)
        verdicts = judge_elsewhere(job, watched=True)
        for kind, numbered in own:
            # Only as many as this kind has trials: the next verdicts belong to the next kind.
            found = [(count, next(verdicts).fault) for count, _ in numbered]
            wrong = [(count, fault) for count, fault in found if fault is not None]
            faulty = tuple(sorted({count for count, _ in wrong}))
            yield kind, Wrong(kind, faulty, _loudest(fault for _, fault in wrong)) if wrong else None


def spans(numbers: Iterable[int]) -> str:
    """``1, 2, 3, 7`` → ``1-3, 7``."""
    rows = [[number for _, number in row] for _, row in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(row[0]) if len(row) == 1 else f"{row[0]}-{row[-1]}" for row in rows)


def _loudest(faults: Iterable[str]) -> str:
    """The different faults, each once without regard to numbers; crashes first."""
    several = sorted(set(faults), key=lambda fault: ("crash" not in fault, "does not end" not in fault, fault))
    kept: dict[str, str] = {}
    for fault in several:
        kept.setdefault(fault.partition(" is off")[0] if "off by" in fault else fault, fault)
    return "; ".join(kept.values())
