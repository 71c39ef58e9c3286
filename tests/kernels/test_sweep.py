"""The sweep: what layers compute is right at every number of channels; what is wrong is told with its channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from oneticket.kernels import sweep as module
from oneticket.kernels.isolation import Job, Verdict
from oneticket.kernels.sweep import BATCHES, CHANNELS, SIZES, Kind, Wrong, kinds, spans, sweep, trials
from oneticket.kernels.trial import Blank

NARROW = Kind(
    transposed=False, kernel=1, stride=2, grouped=False, layout="channels-last", precision="float32", threads=2
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "threads"),
    [(1, 1), (3, 1), (5, 1), (3, 2), *(pytest.param(kernel, 2, marks=pytest.mark.sweep) for kernel in (1, 5))],
)
def test_every_kind_of_layer_is_right_on_this_machine(kernel: int, threads: int) -> None:
    chosen = [kind for kind in kinds([threads]) if kind.kernel == kernel]
    assert [str(wrong) for _, wrong in sweep(chosen, layers=True) if wrong is not None] == []


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_layers_that_were_wrong_are_right(threads: int) -> None:
    """All of them in one process, which takes longer to start than to try them."""
    chosen = [kind for kind in kinds([threads]) if kind.kernel == 1 and kind.stride == 2 and not kind.grouped]
    assert len(chosen) == 8
    found = list(sweep(chosen, channels=[1, 3, 4, 7, 8, 12, 15, 16], layers=True))
    assert [kind for kind, _ in found] == chosen
    assert [str(wrong) for _, wrong in found if wrong is not None] == []


def test_kinds_and_trials_are_those_that_were_asked_for() -> None:
    assert len(set(kinds())) == len(kinds()) == 8 * 2 * 2 * 2 * 2
    numbered = list(trials(NARROW))
    assert len(numbered) == len(CHANNELS) * len(SIZES) * len(BATCHES)
    assert {count for count, _ in numbered} == set(range(1, 34))
    shapes = {trial.arguments[0].shape for count, trial in numbered if count == 5}  # type: ignore[union-attr]
    assert shapes == {(batch, 5, size, size) for batch in (1, 2, 27, 64) for size in SIZES}
    assert all(trial.reference == "float64" for _, trial in numbered)


def test_what_is_wrong_is_told_with_its_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(job: Job, *, watched: bool) -> Iterator[Verdict]:
        assert watched
        for trial in job.trials:
            images: Any = trial.arguments[0]
            assert isinstance(images, Blank)
            count, batch = images.shape[1], images.shape[0]
            wrong = count in (2, 3, 7) and batch == 27
            yield Verdict(f"the value 1 is off by 0.{count} of its size" if wrong and count < 7 else
                          "it crashes (SIGABRT)" if wrong else None)  # fmt: skip

    monkeypatch.setattr(module, "judge_elsewhere", judge)
    found = [wrong for _, wrong in sweep([NARROW, NARROW], channels=[1, 2, 3, 7])]
    fault = "it crashes (SIGABRT); the value 1 is off by 0.2 of its size"
    assert found == [Wrong(NARROW, (2, 3, 7), fault)] * 2
    assert [wrong for _, wrong in sweep([NARROW], channels=[1, 4])] == [None]


def test_numbers_in_rows_are_spans() -> None:
    assert spans([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert spans([]) == ""


def test_a_kind_reads_as_a_line() -> None:
    assert str(NARROW) == "1 × 1, stride 2, channels-last, float32, 2 threads"
