"""Weights & Biases, offline: a run for each cell in a folder, which ``wandb sync`` uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oneticket.tracking.base import TrackedCell
from oneticket.tracking.ledger import Ledger, by_step


class WandB:
    """Writes ``PLACE/wandb/offline-run-…``; nothing is asked and nothing leaves the machine."""

    def __init__(self, place: str | None) -> None:
        self._root = Path(place or ".")

    def begin(self, experiment: str) -> None:
        self._experiment = experiment
        (self._root / "wandb").mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(self._root / "wandb", experiment)

    def has(self, cell: str) -> bool:
        return cell in self._ledger

    def write(self, cell: TrackedCell) -> None:
        import wandb

        about: dict[str, Any] = {"cell": cell.cell, **cell.about}
        run = wandb.init(
            project=self._experiment, name=cell.label, id=cell.cell[:32], dir=str(self._root), mode="offline",
            config=about | ({"diverged": cell.diverged} if cell.diverged else {}), settings=wandb.Settings(silent=True),
        )  # fmt: skip
        for step, values in by_step(cell):
            run.log(values, step=step)
        run.finish()
        self._ledger.add(cell.cell)

    def close(self) -> None:
        return
