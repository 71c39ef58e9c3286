"""Cells in TensorBoard and MLflow, read by their own readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from oneticket.tracking import TrackedCell, open_trackers

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
