"""Trackio: a run for each cell in its local database."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from oneticket.errors import InputError
from oneticket.tracking.base import TrackedCell
from oneticket.tracking.ledger import Ledger, by_step


class Trackio:
    """Writes to Trackio's own folder (``TRACKIO_DIR``)."""

    def __init__(self, place: str | None) -> None:
        if place is not None:
            raise InputError("trackio has a folder of its own", where="--track-to", expected="TRACKIO_DIR=FOLDER")

    def begin(self, experiment: str) -> None:
        import trackio

        self._experiment = experiment
        folder = Path(trackio.TRACKIO_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(folder, experiment)

    def has(self, cell: str) -> bool:
        return cell in self._ledger

    def write(self, cell: TrackedCell) -> None:
        import trackio

        about: dict[str, Any] = {"cell": cell.cell, **cell.about}
        with contextlib.redirect_stdout(sys.stderr):  # where results go, its greetings do not
            run = trackio.init(
                project=self._experiment, name=f"{cell.label} · {cell.cell[:12]}", embed=False, auto_log_gpu=False,
                config=about | ({"diverged": cell.diverged} if cell.diverged else {}),
            )  # fmt: skip
            for step, values in by_step(cell):
                run.log(values, step=step)
            run.finish()
        self._ledger.add(cell.cell)

    def close(self) -> None:
        return
