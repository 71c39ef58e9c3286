"""TensorBoard: a folder of event files for each cell."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from oneticket.tracking.base import TrackedCell

PLACE = "runs"
"""The folder that TensorBoard's own writer uses, too."""


class TensorBoard:
    """Writes ``PLACE/EXPERIMENT/LABEL CELL``, by renaming a folder that is complete; a cell that is there stays."""

    def __init__(self, place: str | None) -> None:
        self._root = Path(place or PLACE)

    def begin(self, experiment: str) -> None:
        self._folder = self._root / experiment
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob(".writing-*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._known = {path.name.rpartition(" ")[2] for path in self._folder.iterdir()}

    def has(self, cell: str) -> bool:
        return cell[:12] in self._known

    def write(self, cell: TrackedCell) -> None:
        from torch.utils.tensorboard import SummaryWriter

        partial = self._folder / f".writing-{cell.cell[:12]}"
        with SummaryWriter(log_dir=str(partial)) as writer:
            about = {"cell": cell.cell, **cell.about} | ({"diverged": cell.diverged} if cell.diverged else {})
            writer.add_text("about", "\n".join(f"    {key} = {value}" for key, value in about.items()))
            for name, points in cell.curves.items():
                for step, value in points:
                    writer.add_scalar(name, value, step)
            for name, value in cell.results.items():
                writer.add_scalar(name, value, cell.step)
        label = re.sub(r'[\x00-\x1f/\\:*?"<>|]+', " ", cell.label).strip()[:120]
        os.rename(partial, self._folder / f"{label} {cell.cell[:12]}")
        self._known.add(cell.cell[:12])

    def close(self) -> None:
        return
