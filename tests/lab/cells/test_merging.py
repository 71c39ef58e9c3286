"""Merging: everything is there afterwards, whole; contradictions are refused and named; sources stay as they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lab.cells import merging
from oneticket.lab.cells.marker import STORE_VERSION, version_of
from oneticket.lab.cells.merging import merge
from oneticket.lab.cells.records import sealed
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.verification import verify
from oneticket.lab.results.table import as_csv, remember, tidy


@pytest.fixture(scope="module")
def whole(shared_lab: Any) -> Path:
    """A store with a search and its arms, really computed."""
    plan, store = shared_lab.plan(seeds=1), shared_lab.store("whole")
    remember(plan, store)
    assert shared_lab.run(plan, store).complete
    root: Path = store.root
    return root


@pytest.fixture
def halves(whole: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two stores that share one cell and the table, and have all other cells between them."""
    found = tmp_path / "one", tmp_path / "two"
    for half in found:
        shutil.copytree(whole, half)
    cells = cells_of(whole)
    for half, gone in zip(found, (cells[1::2], cells[2::2]), strict=True):
        for cell in gone:
            shutil.rmtree(Store(half).folder(cell))
    return found


def cells_of(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "cells").glob("*/*"))


def tree(root: Path) -> dict[str, tuple[bytes, float]]:
    return {str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime) for p in root.rglob("*") if p.is_file()}


def changed(root: Path, cell: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = Store(root).folder(cell) / "cell.json"
    record = Store(root).read(cell)
    change(record)
    path.write_text(sealed(record))


@pytest.mark.parametrize("copy", [False, True])
def test_halves_become_the_whole(halves: tuple[Path, Path], whole: Path, tmp_path: Path, copy: bool) -> None:
    before = [tree(half) for half in halves]
    (halves[0] / "leases" / "someone.lease").write_text("held")
    into = tmp_path / "both"
    found = merge(halves, into, copy=copy)
    cells = cells_of(whole)
    assert (found.cells, found.known, found.tables) == (len(cells), 0, 1)
    assert cells_of(into) == cells
    assert as_csv(tidy(Store.open(into))) == as_csv(tidy(Store.open(whole)))
    assert verify(into).sound
    assert version_of(into) == STORE_VERSION
    assert not list((into / "leases").iterdir())
    assert not list((into / "working").iterdir())
    (halves[0] / "leases" / "someone.lease").unlink()
    assert [tree(half) for half in halves] == before
    one = Store(halves[0]).folder(cells[0]) / "cell.json"
    assert os.path.samefile(one, Store(into).folder(cells[0]) / "cell.json") is not copy
    again = merge(halves, into)
    assert (again.cells, again.known, again.tables) == (0, len(cells), 0)


def test_other_results_for_one_cell_are_refused_before_a_cell_is_added(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    (shared,) = set(cells_of(halves[0])) & set(cells_of(halves[1]))
    changed(halves[1], shared, lambda record: record["cost"].update(seconds=99.0))  # took longer: no contradiction
    merge(halves, tmp_path / "first")
    changed(halves[1], shared, lambda record: record["outcome"].update(val_accuracy=0.123))
    with pytest.raises(InputError, match=rf"one and .*two have different results for 1 cell, {shared[:12]}"):
        merge(halves, tmp_path / "second")
    assert cells_of(tmp_path / "second") == []
    with pytest.raises(InputError, match=rf"first and .*two have different results for 1 cell, {shared[:12]}"):
        merge([halves[1]], tmp_path / "first")


def test_an_interrupted_merge_goes_on(
    halves: tuple[Path, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into, real, calls = tmp_path / "both", os.rename, []

    def killed(*places: Any) -> None:
        calls.append(places)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*places)

    with monkeypatch.context() as patch:
        patch.setattr(merging.os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            merge(halves, into)
    assert len(cells_of(into)) == 2
    assert verify(into).sound
    assert list(Store.open(into).experiments()) == []  # a table says that its cells are there: it comes last
    found = merge(halves, into)
    assert (found.cells, found.known, found.tables) == (len(cells_of(whole)) - 2, 2, 1)
    assert verify(into).sound
    assert not list((into / "working").iterdir())


def test_two_merges_at_once(halves: tuple[Path, Path], whole: Path, tmp_path: Path) -> None:
    into = tmp_path / "both"
    call = [sys.executable, "-m", "oneticket.cli", "merge", *map(str, halves), "--into", str(into)]
    processes = [subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted(process.communicate()[0] for process in processes)
    count = len(cells_of(whole))
    assert [process.returncode for process in processes] == [0, 0]
    assert told == [
        f"{into}: 0 cells and 0 tables were added; {count} cells were there already\n",
        f"{into}: {count} cells and 1 tables were added; 0 cells were there already\n",
    ]
    assert verify(into).sound


def test_damage_is_named_in_its_source_and_not_merged(halves: tuple[Path, Path], tmp_path: Path) -> None:
    cell = cells_of(halves[1])[0]
    path = Store(halves[1]).folder(cell) / "weights-end.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError) as refused:
        merge([halves[1]], tmp_path / "both")
    assert str(path) in str(refused.value)
    assert cell not in cells_of(tmp_path / "both")
    changed(halves[1], cell, lambda record: record.pop("files"))
    with pytest.raises(InputError, match=r"has no digests.*store verify .*two`"):
        merge([halves[1]], tmp_path / "more")


def test_places_that_do_not_go_together(halves: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="merged into itself"):
        merge(halves, halves[1])
    with pytest.raises(InputError, match="lies inside the store"):
        merge(halves, halves[1] / "inner")
    with pytest.raises(InputError, match="is not a store"):
        merge([tmp_path / "missing"], tmp_path / "both")


def rewritten(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    store = Store(root)
    (content,) = store.experiments()
    change(content)
    store.write_experiment(content["name"], content)


def test_the_larger_of_two_tables_stays_with_the_claims_of_both(halves: tuple[Path, Path], tmp_path: Path) -> None:
    early, late = ({"says": "it wins", "there": there, "networks": 9, "seeds": [0]} for there in (0, 4))
    rewritten(halves[0], lambda table: (table["rows"].pop(), table.update(registered={"a": early, "b": early})))
    rewritten(halves[1], lambda table: table.update(registered={"b": late}))
    (second,) = Store(halves[1]).experiments()
    merge(halves, tmp_path / "both")
    (joined,) = Store(tmp_path / "both").experiments()
    assert joined["rows"] == second["rows"]
    assert joined["registered"] == {"a": early, "b": late}
    rewritten(halves[1], lambda table: table["rows"].pop(0))
    with pytest.raises(InputError, match=r"has another experiment called 'tiny' than .*one"):
        merge(halves, tmp_path / "neither")


def test_reasons_of_failures_come_along(halves: tuple[Path, Path], tmp_path: Path) -> None:
    finished, failed = cells_of(halves[0])[0], "f" * 64
    for cell in (finished, failed):
        (halves[1] / "failures" / f"{cell}.json").write_text(json.dumps({"cell": "x", "reason": "y"}))
    merge(halves, tmp_path / "both")
    assert [path.stem for path in (tmp_path / "both" / "failures").iterdir()] == [failed]
