"""Which cells a tracker has, for trackers that cannot be asked: a line for each in a file beside what they write."""

from __future__ import annotations

from pathlib import Path

from oneticket.tracking.base import TrackedCell


class Ledger:
    """The cells of one experiment that were written completely; the file may be deleted, and all are written again."""

    def __init__(self, folder: Path, experiment: str) -> None:
        self._file = folder / f"oneticket-{experiment}.txt"
        self._known = set(self._file.read_text("utf-8").split()) if self._file.exists() else set()

    def __contains__(self, cell: str) -> bool:
        return cell in self._known

    def add(self, cell: str) -> None:
        """Note that the cell is written."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{cell}\n")
        self._known.add(cell)


def by_step(cell: TrackedCell) -> list[tuple[int, dict[str, float]]]:
    """The values of all curves by step, rising; the results stand at the last one."""
    steps: dict[int, dict[str, float]] = {}
    for name, points in cell.curves.items():
        for step, value in points:
            steps.setdefault(step, {})[name] = value
    steps.setdefault(cell.step, {}).update(cell.results)
    return sorted(steps.items())
