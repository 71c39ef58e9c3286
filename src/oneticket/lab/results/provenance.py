"""Provenance: where the networks of a store were computed, from which data and recipes, when, and what failed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from oneticket.lab.cells.store import Store

_MOST_CELLS = 5_000  # records that are read; of a larger store they are every so-manieth of its cells
_MOST_NAMED = 8  # failures and divergences that are named one by one


@dataclass
class Origins:
    """What a store knows of its networks besides their figures.

    ``facts`` are terms with what is said of them; ``files`` has name and text of each experiment file, where the store
    has it; ``used`` the words of arms and searches by kind (``arm``, ``criterion``, …); ``recipes`` the recipes by
    name; ``searches`` the different searches; ``versions`` those of oneticket, torch and Python.
    """

    facts: list[tuple[str, list[str]]] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    used: dict[str, set[str]] = field(default_factory=dict)
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    searches: list[dict[str, Any]] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


def origins(store: Store, experiment: str | None = None) -> Origins:
    """What is known of the networks of one experiment or of all.

    Damaged records are left to the table, which reports them.

    Raises InputError for an experiment that the store lacks.
    """
    found, contents = Origins(), list(store.experiments(experiment))
    rows = [dict(zip(c["columns"], values, strict=True)) for c in contents for values in c["rows"]]
    cells = dict.fromkeys([*(row["cell"] for row in rows), *(cell for c in contents for cell in c.get("cells", ()))])
    there = sorted(store.finished(cells))
    records = dict(_records(store, there))
    _read_rows(found, rows, records)
    _add_surroundings(found, records.values())
    found.facts.append(("dates", _dates(store, there)))
    found.facts.append(("cells", _cells(store, cells, there, records)))
    for content in contents:
        if content.get("text"):
            found.files.append((Path(content["file"]).name, content["text"]))
    return found


def _records(store: Store, cells: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    step = max(1, -(-len(cells) // _MOST_CELLS))
    for cell in cells[::step]:
        with suppress(OSError, ValueError):
            yield cell, json.loads(store.raw(cell))


def _read_rows(found: Origins, rows: Iterable[Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]]) -> None:
    """Data and recipes under the names that the table has for them, the searches, and the words of the arms."""
    data: dict[str, str] = {}
    searches: dict[str, dict[str, Any]] = {}
    for row in rows:
        for kind in ("arm", "rescale"):
            found.used.setdefault(kind, set()).add(row[kind])
        if row["cell"] in records:
            about = records[row["cell"]]["description"]
            data.setdefault(row["target"], _of_data(about["data"]))
            found.recipes.setdefault(row["target_recipe"], about["recipe"])
            ticket = about["start"].get("ticket")
            if ticket:
                searches.setdefault(json.dumps(ticket["search"], sort_keys=True), ticket["search"])
    found.searches = [searches[key] for key in sorted(searches)]
    for kind in ("criterion", "allocation"):
        found.used[kind] = {search[kind] for search in found.searches}
    found.facts.append(("data", [f"{name}: {told}" for name, told in sorted(data.items())]))
    told = [f"{name}: {_words(recipe)}" for name, recipe in sorted(found.recipes.items())]
    found.facts.append(("recipes", told))
    found.facts.append(("searches", [_words(search) for search in found.searches] or ["none"]))


def _add_surroundings(found: Origins, records: Iterable[Mapping[str, Any]]) -> None:
    """Versions and machines, each with the number of its cells where there are several."""
    versions: Counter[str] = Counter()
    machines: Counter[str] = Counter()
    for record in records:
        where = record.get("environment", {})
        versions[", ".join(f"{name} {where[name]}" for name in ("oneticket", "torch", "python") if name in where)] += 1
        threads = where.get("threads")
        parts = [where.get("processor"), where.get("device"), where.get("instructions")]
        parts += [f"{threads} thread{'s' if threads != 1 else ''} a cell" if threads else None, where.get("layout")]
        machines[", ".join(part for part in parts if part)] += 1
    found.versions = [name for name, _ in versions.most_common()]
    found.facts.insert(0, ("versions", _counted(versions)))
    found.facts.insert(1, ("machine", _counted(machines)))


def _counted(counts: Counter[str]) -> list[str]:
    if len(counts) == 1:
        return list(counts)
    return [f"{name} ({count} cells)" for name, count in counts.most_common()]


def _dates(store: Store, cells: Iterable[str]) -> list[str]:
    times = []
    for cell in cells:
        with suppress(OSError):
            times.append((store.folder(cell) / "cell.json").stat().st_mtime)
    if not times:
        return ["nothing is finished"]
    first, last = (datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M") for time in (min(times), max(times)))
    return [f"cells finished from {first} to {last} UTC, by the times of their files"]


def _cells(
    store: Store, planned: Iterable[str], there: Iterable[str], records: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """How many cells are finished, diverged and failed, the last two with their reasons."""
    done, every = set(there), set(planned)
    diverged = {cell: reason for cell, r in records.items() if (reason := r["outcome"].get("diverged"))}
    failed = {path.stem: path for path in sorted((store.root / "failures").glob("*.json")) if path.stem in every - done}
    told = [f"{len(done)} of {len(every)} planned cells are finished, {len(diverged)} diverged, {len(failed)} failed"]
    told += [f"diverged: {cell[:12]}: {reason}" for cell, reason in list(diverged.items())[:_MOST_NAMED]]
    for cell, path in list(failed.items())[:_MOST_NAMED]:
        with suppress(OSError, ValueError):
            told.append(f"failed: {cell[:12]}: {json.loads(path.read_text('utf-8')).get('reason', 'unknown')}")
    return told


def _of_data(about: Mapping[str, Any]) -> str:
    steps = "; ".join(_words(step) for step in about.get("steps", ())) or "whole"
    return (
        f"fingerprint {about['fingerprint'][:16]}, {steps}, {about['validation']:g} of the training split held out for "
        f"validation (split {about['split']})"
    )


def _words(about: Mapping[str, Any]) -> str:
    """The fields of a value in words: ``lr 0.05, momentum 0.9``; what is off, zero or unset is left out."""
    told = {key: _word(value) for key, value in about.items() if value not in (None, False, [], {})}
    return ", ".join(f"{key} {word}" for key, word in told.items() if word)


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({words})" if (words := _words(value)) else ""
    if isinstance(value, list):
        return " ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
