"""What a user sees while cells are computed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import oneticket.cli.progress
from oneticket.cli.progress import _LiveListener, duration, make_listener
from oneticket.lab.execution.engines import Done, Progress
from oneticket.lab.planning.plan import Plan, make_plan
from oneticket.lab.spec.experiment import load_experiment


@pytest.fixture
def plan(tiny: Callable[..., Path], tmp_path: Path, cache: Path) -> Plan:
    return make_plan(load_experiment(tmp_path / tiny()), folder=tmp_path, cache=cache)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0, "0.0 s"), (9.94, "9.9 s"), (10.4, "10 s"), (59.6, "1 min 0 s"), (95, "1 min 35 s"),
     (3599, "59 min 59 s"), (3600, "1 h 0 min"), (90061, "25 h 1 min")],
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_tell_cells_done_failures_and_the_last_accuracy(
    plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oneticket.cli.progress, "PLAIN_EVERY", 0.0)
    listener = make_listener()
    listener.begin(plan, 1)
    first, second, third, fourth, *_ = plan.cells
    listener.started(first)
    listener.progress(Progress(first, 1, 2, 0.5))
    listener.finished(first, Done(test_accuracy=0.875))
    listener.started(second)
    listener.started(third)
    listener.postponed(third)
    listener.retried(fourth, "signal 9")
    listener.failed(second, "the loss is nan\x1b[31m")
    listener.tick()
    listener.end()
    told = capsys.readouterr().err
    assert f"tiny: {len(plan.cells)} cells, 1 already there" in told
    assert f"2/{len(plan.cells)} cells done (1 cached), 0 running, 1 failed" in told
    assert "left; last: dense low@sgd" in told or "87.50 % test" in told
    assert f"trying again, alone: {plan.labels[fourth]}: signal 9" in told
    assert f"failed: {plan.labels[second]}: the loss is nan\\x1b[31m" in told


def test_nothing_is_told_of_a_run_that_has_nothing_to_do(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    for listener in (make_listener(), make_listener(quiet=True)):
        listener.begin(plan, len(plan.cells))
        listener.tick()
        listener.end()
    assert capsys.readouterr().err == ""


def test_the_live_display_shows_what_runs_and_disappears(plan: Plan) -> None:
    screen = io.StringIO()
    listener = _LiveListener(Console(file=screen, force_terminal=True, width=160))
    listener.begin(plan, 0)
    first, second, *_ = plan.cells
    listener.started(first)
    listener.progress(Progress(first, 1, 2, 0.625))
    listener.finished(second, Done(val_accuracy=0.75))
    console = Console(file=io.StringIO(), width=160)
    console.print(listener.picture())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"1/{len(plan.cells)} cells done (0 cached), 1 running" in shown
    assert plan.labels[first] in shown
    assert "epoch 1/2" in shown
    assert "62.50 % validation" in shown
    assert f"{plan.labels[second]}: 75.00 % validation" in shown
    listener.failed(first, "[red]odd[/red]")
    assert "[red]odd[/red]" in screen.getvalue(), "no markup"
    listener.end()
    assert listener.live is None
