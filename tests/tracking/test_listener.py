"""Trackers get each finished cell once, and never hurt a run."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.identity import digest
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.events import RunListener
from oneticket.tracking import TRACKERS, TrackedCell, open_trackers, tracked
from oneticket.tracking import listener as module
from oneticket.tracking.base import read_cell

HISTORY = (
    b'{"epoch":1,"step":10,"lr":0.1,"train_loss":2.0,"val_accuracy":0.25,"val_loss":1.5}\n'
    b'{"epoch":2,"step":20,"lr":0.05,"train_loss":1.0,"val_accuracy":0.5,"val_loss":1.25}\n'
)


class FakePlan:
    experiment = "tiny"

    def __init__(self, cells: list[str]) -> None:
        self.cells = dict.fromkeys(cells)
        self.labels = {cell: f"label {number}" for number, cell in enumerate(cells)}


class Kept:
    """A tracker that keeps what it gets, and raises at the cells named in ``broken``."""

    def __init__(self, known: set[str] | None = None, broken: set[str] | None = None) -> None:
        self.known, self.broken = known or set(), broken or set()
        self.got: list[TrackedCell] = []
        self.closed = False

    def begin(self, experiment: str) -> None:
        self.experiment = experiment

    def has(self, cell: str) -> bool:
        return cell in self.known

    def write(self, cell: TrackedCell) -> None:
        if cell.cell in self.broken:
            raise OSError("the server is away\nmore")
        self.got.append(cell)
        self.known.add(cell.cell)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def finish(store: Store, seed: int, **outcome: Any) -> str:
    """A finished cell in the store."""
    description = {"network": {"name": "lenet"}, "seed": seed, "recipe": {"lr": 0.1, "schedule": {"kind": "constant"}}}
    identity = digest(description)
    with store.claimed(identity) as working:
        (working / "history.jsonl").write_bytes(HISTORY)
        known = {"test_accuracy": 0.75, "density": 0.5, "effective_density": None} | outcome
        store.commit(identity, working, {"description": description, "outcome": known, "cost": {}})
    return identity


def run(shown: RunListener, plan: Any, cells: list[str]) -> None:
    shown.begin(plan, 0)
    for cell in cells:
        shown.started(cell)
        shown.finished(cell, None)  # type: ignore[arg-type]
    shown.tick()
    shown.end()


def test_curves_densities_and_results_of_a_cell(store: Store) -> None:
    cell = read_cell(store, finish(store, 3), "a label")
    assert cell.curves == {
        "train/loss": [(10, 2.0), (20, 1.0)],
        "validation/accuracy": [(10, 0.25), (20, 0.5)],
        "validation/loss": [(10, 1.5), (20, 1.25)],
        "lr": [(10, 0.1), (20, 0.05)],
    }
    assert cell.results == {"test/accuracy": 0.75, "density": 0.5}
    assert cell.about == {"model": "lenet", "seed": 3, "recipe.lr": 0.1}
    assert (cell.step, cell.label, cell.diverged) == (20, "a label", "")
    assert read_cell(store, finish(store, 4, diverged="the loss is nan"), "").diverged == "the loss is nan"


def test_cells_of_this_and_of_earlier_runs_are_written_once(store: Store) -> None:
    earlier, now = finish(store, 0), finish(store, 1)
    tracker = Kept()
    run(tracked(RunListener(), [tracker], store), FakePlan([earlier, now, "0" * 64]), [now, now])
    assert sorted(cell.cell for cell in tracker.got) == sorted([earlier, now])
    assert {cell.label for cell in tracker.got} == {"label 0", "label 1"}
    assert (tracker.experiment, tracker.closed) == ("tiny", True)
    run(tracked(RunListener(), [tracker], store), FakePlan([earlier, now]), [])
    assert len(tracker.got) == 2, "a run that is resumed adds nothing twice"


def test_a_tracker_that_fails_is_told_once_and_the_others_go_on(store: Store) -> None:
    cells = [finish(store, seed) for seed in range(3)]
    bad, good = Kept(broken={cells[1]}), Kept()
    shown = tracked(RunListener(), [bad, good], store)
    with pytest.warns(UserWarning, match=r"Kept has not got all cells \(OSError: the server is away\)") as told:
        run(shown, FakePlan(cells), [])
    assert len(told) == 1
    assert len(good.got) == 3


def test_a_tracker_that_hangs_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    released = threading.Event()

    class Hanging(Kept):
        def write(self, cell: TrackedCell) -> None:
            released.wait(60)

    with pytest.warns(UserWarning, match="nothing was written in 0 s"):
        run(tracked(RunListener(), [Hanging()], store), FakePlan([finish(store, 0)]), [])
    released.set()


def test_what_is_shown_hears_every_event(store: Store) -> None:
    heard: list[str] = []

    class Hearing(RunListener):
        def __getattribute__(self, name: str) -> Any:
            if name in events:
                heard.append(name)
            return super().__getattribute__(name)

    events = [name for name, value in vars(RunListener).items() if callable(value) and not name.startswith("_")]
    shown = tracked(Hearing(), [Kept()], store)
    shown.begin(FakePlan([]), 0)  # type: ignore[arg-type]
    shown.finished("c", None)  # type: ignore[arg-type]
    shown.progress(None)  # type: ignore[arg-type]
    for name in ("started", "postponed"):
        getattr(shown, name)("c")
    shown.retried("c", "why", alone=False)
    shown.failed("c", "why")
    shown.crowded("why")
    shown.tick()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cell "c" is not in the store
        shown.end()
    assert sorted(heard) == sorted(events)
    plain = RunListener()
    assert tracked(plain, [], store) is plain


def test_a_tracker_is_named_and_its_library_is_there_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean 'tensorboard'"):
        open_trackers(["tensorbord"])
    with pytest.raises(InputError, match="one place for 2 trackers"):
        open_trackers(["tensorboard", "mlflow"], "runs")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(InputError, match=rf"{name} is not installed; expected pip install 'oneticket\[{name}\]'"):
            open_trackers([name])
