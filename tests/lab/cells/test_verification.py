"""Verification: every damage is found, named and put aside; sound stores stay as they are; old ones get digests."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lab.cells.marker import STORE_VERSION, version_of
from oneticket.lab.cells.records import CORRECT
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
def root(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "store")
    return tmp_path / "store"


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def cells(root: Path) -> list[Path]:
    return sorted((root / "cells").glob("*/*"))


def test_a_sound_store_stays_as_it_is(root: Path) -> None:
    before = tree(root)
    found = verify(root, repair=True)
    assert (found.cells, found.tables, found.digested, found.damaged) == (len(cells(root)), 1, 0, ())
    assert found.sound
    assert tree(root) == before


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def shorter(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = (flipped, longer, shorter, emptied, os.unlink)
NAMES = ("cell.json", "history.jsonl", "masks.safetensors", "weights-end.safetensors", "weights-1ep.safetensors")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*NAMES, CORRECT])
def test_a_damaged_file_is_named_and_its_cell_put_aside(
    root: Path, name: str, damage: Callable[[Path], object]
) -> None:
    folder = next(folder for folder in cells(root) if (folder / name).exists())
    damage(folder / name)
    found = verify(root)
    assert [damage.path for damage in found.damaged] == [str(folder / name)]
    assert not found.sound
    assert folder.exists(), "it is moved only when that is asked for"
    repaired = verify(root, repair=True)
    assert repaired.sound
    assert [damage.moved for damage in repaired.damaged] == [str(root / "damaged" / folder.name)]
    assert not folder.exists()
    assert verify(root).damaged == ()


def test_what_was_put_aside_is_computed_again_with_equal_bits(lab: Any, whole: Path) -> None:
    plan, store = lab.plan(seeds=1), lab.store()
    remember(plan, store)
    lab.run(plan, store)
    right = as_csv([{**row, "seconds": 0} for row in tidy(store)])
    for folder in cells(store.root)[:3]:
        for _ in range(2):  # of one cell, two damaged ones have room
            flipped(folder / "cell.json")
            assert verify(store.root, repair=True).sound
            assert lab.run(plan, store).trained == 1
    assert as_csv([{**row, "seconds": 0} for row in tidy(store)]) == right
    assert len(list((store.root / "damaged").iterdir())) == 6


def test_foreign_files_and_cells_in_wrong_places_are_found(root: Path) -> None:
    first, second, third, fourth = cells(root)[:4]
    (first / "notes.txt").write_text("mine")
    shutil.copy(second / "history.jsonl", third / "history.jsonl")
    (third / "history.jsonl").write_text("{}\n")
    fourth.rename(root / "cells" / first.parent.name / ("f" * 64))
    (root / "cells" / "aa").mkdir(exist_ok=True)
    (root / "cells" / "aa" / "stray").write_text("x")
    found = {Path(damage.path).name: damage.fault for damage in verify(root).damaged}
    assert set(found) == {"notes.txt", "history.jsonl", "f" * 64, "stray"}


def test_two_cells_that_changed_places_are_both_found(root: Path) -> None:
    first, second = cells(root)[:2]
    for here, there in ((first, "aside"), (second, first.name), (first.with_name("aside"), second.name)):
        here.rename(second.parent / there if there == second.name else first.parent / there)
    assert {Path(damage.path).parent.name for damage in verify(root).damaged} == {first.name, second.name}


def test_a_damaged_table_is_put_aside_and_a_run_writes_it_anew(root: Path, shared_lab: Any) -> None:
    (table,) = (root / "experiments").iterdir()
    flipped(table)
    assert [Path(damage.path) for damage in verify(root, repair=True).damaged] == [table]
    assert not table.exists()
    remember(shared_lab.plan(seeds=1), Store.open(root, create=True))
    assert verify(root).tables == 1


# -- stores of version 1 ------------------------------------------------------------------------------------------
def aged(root: Path) -> None:
    """Make the store one of the version before digests."""
    for path in root.glob("cells/*/*/cell.json"):
        record = json.loads(path.read_text())
        del record["files"], record["sha256"]
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        (path.parent / CORRECT).unlink(missing_ok=True)
    for path in root.glob("experiments/*.json"):
        content = json.loads(path.read_text())
        del content["sha256"], content["name"], content["file"]
        path.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")))
    (root / "store.json").write_text('{"store":1}')


def test_an_old_store_is_read_as_it_is_and_has_digests_once_it_is_verified(root: Path) -> None:
    rows = tidy(Store.open(root))
    aged(root)
    assert tidy(Store.open(root)) == rows
    found = verify(root)
    assert (found.cells, found.tables, found.digested) == (len(cells(root)), 1, len(cells(root)) + 1)
    assert version_of(root) == STORE_VERSION
    assert tidy(Store.open(root)) == rows
    assert verify(root).digested == 0
    flipped(cells(root)[0] / "weights-end.safetensors")
    assert len(verify(root).damaged) == 1


@pytest.mark.parametrize(
    ("name", "damage"),
    # Lines of a history that are missing can't be told from lines that never were.
    [(name, damage) for name in NAMES for damage in DAMAGES[2:] if name != "history.jsonl" or damage is os.unlink],
)
def test_what_is_damaged_in_an_old_store_gets_no_digest(
    root: Path, name: str, damage: Callable[[Path], object]
) -> None:
    aged(root)
    folder = next(folder for folder in cells(root) if (folder / name).exists())
    damage(folder / name)
    found = verify(root)
    assert [Path(damage.path) for damage in found.damaged] == [folder / name]
    assert version_of(root) == 1
    assert verify(root, repair=True).sound
    assert version_of(root) == STORE_VERSION


def test_masks_that_contradict_the_record_of_an_old_cell_are_damaged(root: Path) -> None:
    aged(root)
    masks = cells(root)[0] / "masks.safetensors"
    data = bytearray(masks.read_bytes())
    data[-1] ^= 128
    masks.write_bytes(data)
    (damage,) = verify(root).damaged
    assert damage.path == str(masks)
    assert "the record says" in damage.fault


# -- what can't be verified ---------------------------------------------------------------------------------------
def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a store"):
        verify(tmp_path)


def test_a_marker_that_was_lost_is_written_anew(root: Path) -> None:
    (root / "store.json").write_text("")
    assert verify(root).sound
    assert version_of(root) == STORE_VERSION


def test_a_store_that_cannot_be_written_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(root)

    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system", "cell.json")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(InputError, match=r"can't be verified \(Read-only file system: cell\.json\)"):
        verify(root)
