"""Watching: what a running store holds, seen from another process, which only reads it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from oneticket.errors import InputError
from oneticket.lab.cells.claims import LEASE_SECONDS
from oneticket.lab.cells.store import Store


class Stage(msgspec.Struct, frozen=True):
    """How far an experiment is: numbers of cells. Cells that are shared count in each experiment that plans them."""

    experiment: str
    planned: int
    done: int
    failed: int
    running: int

    @property
    def complete(self) -> bool:
        """Whether every cell is finished or has failed, and none is being computed."""
        return self.done + self.failed >= self.planned and not self.running


class Seen(msgspec.Struct, frozen=True):
    """A store at one moment.

    Parameters
    ----------
    stages : one for each experiment.
    running : label and seconds since the beginning of each cell that a process holds.
    recent : label, accuracy (a fraction; None where the training diverged) and its split, of the cells that were
        finished last, the newest at the end. A network of a table has its accuracy on test, others that on validation.
    """

    stages: tuple[Stage, ...]
    running: tuple[tuple[str, float], ...]
    recent: tuple[tuple[str, float | None, str], ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return all(stage.complete for stage in self.stages) and bool(self.stages)


class Watcher:
    """Reads a store again and again; finished cells, which do not change, are read once.

    Parameters
    ----------
    store : the store.
    experiment : only the cells of this one.
    most : cells that are remembered as the last finished ones.
    """

    def __init__(self, store: Store, experiment: str | None = None, *, most: int = 60) -> None:
        self._store, self._experiment, self._most = store, experiment, most
        self._finished: dict[str, float] = {}  # cell → when
        self._accuracies: dict[str, tuple[float | None, str]] = {}
        self._begun: dict[str, float] = {}

    def look(self) -> Seen:
        """What the store holds now.

        Raises
        ------
        InputError : an experiment that the store lacks, and a damaged table.
        """
        labels: dict[str, str] = {}
        plans: dict[str, set[str]] = {}
        for content in self._store.experiments(self._experiment):
            rows = [dict(zip(content["columns"], values, strict=True)) for values in content["rows"]]
            labels |= {row["cell"]: _label(row) for row in rows if row["cell"] not in labels}
            plans[content["name"]] = {*content.get("cells", ()), *(row["cell"] for row in rows)}
        cells = set().union(*plans.values())
        self._note_finished(cells)
        held = {cell: since for cell, since in self._held() if cell in cells and cell not in self._finished}
        failed = {cell for cell in self._failed() if cell not in self._finished and cell not in held}
        stages = tuple(
            Stage(name, len(plan), len(plan & self._finished.keys()), len(plan & failed), len(plan & held.keys()))
            for name, plan in plans.items()
        )
        running = tuple((_name(cell, labels), since) for cell, since in sorted(held.items(), key=lambda one: -one[1]))
        return Seen(stages, running, tuple(self._recent(labels)))

    def _note_finished(self, cells: Iterable[str]) -> None:
        there = self._store.finished(cell for cell in cells if cell not in self._finished)
        for cell in there:
            with suppress(OSError):
                self._finished[cell] = (self._store.folder(cell) / "cell.json").stat().st_mtime

    def _recent(self, labels: Mapping[str, str]) -> Iterator[tuple[str, float | None, str]]:
        newest = sorted(self._finished, key=lambda cell: (self._finished[cell], cell))[-self._most :]
        for cell in newest:
            if cell not in self._accuracies:
                with suppress(InputError):  # damaged cells are reported by the table
                    self._accuracies[cell] = _accuracy(self._store.figures(cell))
            if cell in self._accuracies:
                yield _name(cell, labels), *self._accuracies[cell]

    def _held(self) -> Iterator[tuple[str, float]]:
        """The cells whose claims are alive, and the seconds since their folder was made, as far as that was seen."""
        for place in (self._store.root / "leases").glob("*.lease"):
            with suppress(OSError):
                now = time.time()
                if abs(now - place.stat().st_mtime) <= LEASE_SECONDS:
                    working = self._store.root / "working" / place.stem
                    began = working.stat().st_mtime  # it changes when a checkpoint comes
                    self._begun[place.stem] = min(began, self._begun.get(place.stem, began))
                    yield place.stem, max(0.0, now - self._begun[place.stem])

    def _failed(self) -> Iterator[str]:
        for place in (self._store.root / "failures").glob("*.json"):
            with suppress(OSError, ValueError):
                json.loads(place.read_bytes())
                yield place.stem


def _accuracy(figures: Mapping[str, Any]) -> tuple[float | None, str]:
    if figures.get("diverged") is not None:
        return None, "diverged"
    split = "test" if figures.get("test_accuracy") is not None else "validation"
    return figures.get("test_accuracy" if split == "test" else "val_accuracy"), split


def _name(cell: str, labels: Mapping[str, str]) -> str:
    return labels.get(cell, f"search {cell[:12]}")


def _label(row: Mapping[str, Any]) -> str:
    source = f"{row['source']}@{row['source_recipe']} → " if row.get("source") else ""
    density = f", {100 * row['density_asked']:.3g} %" if row.get("density_asked") not in (None, 1) else ""
    others = "".join(f", {word}" for word in (_rescaling(row), row.get("tuned")) if word)
    return f"{row['arm']}{density}{others}, {source}{row['target']}@{row['target_recipe']}, seed {row['seed']}"


def _rescaling(row: Mapping[str, Any]) -> str:
    return "" if row.get("rescale") in (None, "", "none") else f"rescale {row['rescale']}"
