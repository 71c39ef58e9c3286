"""Cells in TensorBoard and MLflow, read by their own readers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oneticket.tracking import TrackedCell, open_trackers

HERE = str(Path(__file__).parent)

CELL = TrackedCell(
    cell="ab" * 32, label="winning a@b, 5 % of the weights · lenet · seed 0", about={"model": "lenet", "seed": 0},
    curves={"train/loss": [(10, 2.0), (20, 1.0)], "validation/accuracy": [(10, 0.25), (20, 0.5)]},
    results={"test/accuracy": 0.75, "density": 0.05}, step=20,
)  # fmt: skip
OTHER = msgspec.structs.replace(CELL, cell="cd" * 32, diverged="the loss is nan")


def test_tensorboard_shows_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "tiny" / ".writing-x").mkdir(parents=True)  # what a killed run has left
    for _ in range(2):  # the second run has nothing to add
        (tracker,) = open_trackers(["tensorboard"], str(tmp_path))
        tracker.begin("tiny")
        for cell in (CELL, OTHER):
            if not tracker.has(cell.cell):
                tracker.write(cell)
        tracker.close()
    folders = sorted(path.name for path in (tmp_path / "tiny").iterdir())
    assert folders == [f"{CELL.label} {'ab' * 6}", f"{CELL.label} {'cd' * 6}"]
    read = EventAccumulator(str(tmp_path / "tiny" / folders[0])).Reload()
    curves = {tag: [(e.step, round(e.value, 6)) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert curves == CELL.curves | {name: [(20, value)] for name, value in CELL.results.items()}


def test_mlflow_shows_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    place = f"sqlite:///{tmp_path}/m.db"
    client: Any = mlflow.MlflowClient(tracking_uri=place)
    for _ in range(2):
        (tracker,) = open_trackers(["mlflow"], place)
        tracker.begin("tiny")
        for cell in (CELL, OTHER):
            if not tracker.has(cell.cell):
                half = client.create_run(
                    client.get_experiment_by_name("tiny").experiment_id, tags={"oneticket.cell": cell.cell}
                )  # as a killed run leaves it
                assert not tracker.has(cell.cell)
                tracker.write(cell)
                assert client.get_run(half.info.run_id).info.lifecycle_stage == "deleted"
        tracker.close()
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert sorted(run.data.tags["oneticket.cell"] for run in runs) == [CELL.cell, OTHER.cell]
    first = next(run for run in runs if run.data.tags["oneticket.cell"] == CELL.cell)
    assert (first.info.run_name, first.info.status) == (CELL.label, "FINISHED")
    assert first.data.params == {"model": "lenet", "seed": "0"}
    for name, points in {**CELL.curves, **{n: [(20, v)] for n, v in CELL.results.items()}}.items():
        assert [(m.step, m.value) for m in client.get_metric_history(first.info.run_id, name)] == points


def twice(name: str, place: str | None) -> None:
    """Write two cells, and again: the second time there is nothing to add."""
    for number in range(2):
        (tracker,) = open_trackers([name], place)
        tracker.begin("tiny")
        for cell in (CELL, OTHER):
            assert tracker.has(cell.cell) == bool(number)
            if not number:
                tracker.write(cell)
        tracker.close()


def test_wandb_holds_the_runs_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    twice("wandb", str(tmp_path))
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [file.stem.removeprefix("run-") for file in files] == [CELL.cell[:32], OTHER.cell[:32]]
    assert b"train/loss" in files[0].read_bytes()


def test_trackio_shows_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    code = """
import trackio, test_trackers
test_trackers.twice("trackio", None)
runs = {run.name: run for run in trackio.Api().runs("tiny")}
assert sorted(runs) == [f"{test_trackers.CELL.label} · {cell * 6}" for cell in ("ab", "cd")], runs
logs = trackio.SQLiteStorage.get_logs("tiny", min(runs))
assert [(log["step"], log["train/loss"]) for log in logs] == [(10, 2.0), (20, 1.0)], logs
assert logs[-1]["test/accuracy"] == 0.75
"""
    # Its folder is chosen when it is imported: a process of its own.
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([*sys.path, HERE])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
