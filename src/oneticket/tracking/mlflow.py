"""MLflow: a run for each cell, in an experiment of the same name."""

from __future__ import annotations

import time
from typing import Any

from oneticket.tracking.base import TrackedCell

_TAG = "oneticket.cell"
_AT_ONCE = 500  # metrics of one request; a server takes 1,000


class MLflow:
    """Writes to the tracking URI that it is given, or to MLflow's own (``MLFLOW_TRACKING_URI``)."""

    def __init__(self, place: str | None) -> None:
        self._place = place

    def begin(self, experiment: str) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=self._place)
        known = self._client.get_experiment_by_name(experiment)
        self._experiment = known.experiment_id if known is not None else self._client.create_experiment(experiment)

    def has(self, cell: str) -> bool:
        return any(run.info.status == "FINISHED" for run in self._runs(cell))

    def write(self, cell: TrackedCell) -> None:
        from mlflow.entities import Metric, Param

        for run in self._runs(cell.cell):  # begun by a run that was killed
            self._client.delete_run(run.info.run_id)
        now = int(time.time() * 1000)
        points = [(name, value, step) for name, curve in cell.curves.items() for step, value in curve]
        points += [(name, value, cell.step) for name, value in cell.results.items()]
        metrics = [Metric(name, value, now, step) for name, value, step in points]
        tags = {_TAG: cell.cell} | ({"diverged": cell.diverged} if cell.diverged else {})
        run = self._client.create_run(self._experiment, tags=tags, run_name=cell.label)
        identity = run.info.run_id
        self._client.log_batch(identity, params=[Param(key, str(value)) for key, value in cell.about.items()])
        for first in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(identity, metrics=metrics[first : first + _AT_ONCE])
        self._client.set_terminated(identity)

    def close(self) -> None:
        return

    def _runs(self, cell: str) -> list[Any]:
        return list(self._client.search_runs([self._experiment], filter_string=f"tags.`{_TAG}` = '{cell}'"))
