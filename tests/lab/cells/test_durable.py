"""Durable: whatever a power cut loses of what was not flushed, what was told as done is there, and work goes on.

What POSIX promises is little: the bytes of a file are on disk after ``fsync`` of the file, and the names in a folder
after ``fsync`` of the folder. Everything else may be there, or not, or in part.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.identity import digest
from oneticket.lab.cells import durable
from oneticket.lab.cells.durable import make_folder, sync, write_whole
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.verification import verify

Names = dict[str, int]


class Disk:
    """The folder ``root``: what is in it now, and what of it has been flushed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: list[int] = []  # open files, so that no number of an inode is used twice
        self._flushed: dict[int, bytes | Names] = {}
        self.flush(root)

    def flush(self, path: Path) -> None:
        """Note that the content of a file, or the names in a folder, is on disk."""
        self._held.append(os.open(path, os.O_RDONLY))
        self._flushed[path.stat().st_ino] = self._now(path)

    def _now(self, path: Path) -> bytes | Names:
        return {p.name: p.stat().st_ino for p in path.iterdir()} if path.is_dir() else path.read_bytes()

    def _current(self) -> dict[int, bytes | Names]:
        return {path.stat().st_ino: self._now(path) for path in (self.root, *self.root.rglob("*"))}

    def after_a_cut(self, target: Path, chance: random.Random, lost: float) -> None:
        """Write to ``target`` what a power cut at this moment may leave.

        ``lost`` is how probable it is that a name that was not flushed is gone. The content of a file that was not
        flushed is empty, zero, or there in part.
        """
        current = self._current()

        def folder(number: int, place: Path) -> None:
            place.mkdir()
            flushed, now = self._flushed.get(number, {}), current.get(number, {})
            assert isinstance(flushed, dict)
            assert isinstance(now, dict)
            for name in sorted({**flushed, **now}):
                old, new = flushed.get(name), now.get(name)
                chosen = old if old == new or chance.random() < lost else new
                if chosen is not None:
                    (folder if self._is_folder(chosen, current) else file)(chosen, place / name)

        def file(number: int, place: Path) -> None:
            flushed, now = self._flushed.get(number), current.get(number)
            if flushed is not None and (flushed == now or now is None or chance.random() < 0.5):
                content = flushed
            else:
                whole = now if isinstance(now, bytes) else b""
                kept = chance.choice([0, len(whole) // 2, len(whole)])
                content = chance.choice([whole[:kept], whole[:kept].ljust(len(whole), b"\0")])
            assert isinstance(content, bytes)
            place.write_bytes(content)

        folder(self.root.stat().st_ino, target)

    def _is_folder(self, number: int, current: dict[int, bytes | Names]) -> bool:
        return isinstance(current.get(number, self._flushed.get(number)), dict)

    def close(self) -> None:
        for place in self._held:
            os.close(place)


@contextmanager
def recorded(disk: Disk, moment: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Call ``moment`` before everything that flushes or renames, makes or removes something, and after it."""

    within: list[bool] = []  # what a moment does itself is not watched

    def told() -> None:
        within.append(True)
        moment()
        within.pop()

    def watched(what: str, after: Callable[..., object] | None = None) -> None:
        original = getattr(os, what)

        def call(*arguments: Any, **options: Any) -> Any:
            if within:
                return original(*arguments, **options)
            told()
            result = original(*arguments, **options)
            if after is not None:
                after(*arguments)
            told()
            return result

        patch.setattr(os, what, call)

    def flushed(place: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{place}"))
        if path.is_relative_to(disk.root):
            disk.flush(path)

    with monkeypatch.context() as patch:
        watched("fsync", flushed)
        for what in ("rename", "replace", "unlink", "mkdir", "rmdir"):
            watched(what)
        yield


# -- the work, and what is left of it --------------------------------------------------------------------------------
FILES = {"history.jsonl": "{}\n" * 40, "masks.safetensors": "m" * 300}


def record(number: int) -> dict[str, Any]:
    return {"description": {"seed": number}, "outcome": {"test_accuracy": 0.5}, "cost": {"seconds": 1.0}}


def cell(number: int) -> str:
    return digest({"seed": number})


def finish(store: Store, number: int) -> None:
    working = store.root / "working" / cell(number)
    working.mkdir(exist_ok=True)
    for name, text in FILES.items():
        (working / name).write_text(text)
    store.commit(cell(number), working, record(number))


def table(number: int) -> dict[str, Any]:
    return {"columns": ["cell"], "rows": [[cell(number)]], "cells": [cell(number)]}


class Work:
    """A run of two cells in a new store, and what it has told as done."""

    def __init__(self, root: Path) -> None:
        self.root, self.done = root, 0

    def steps(self, store: Store) -> list[Callable[[], object]]:
        return [
            lambda: store.write_experiment("e", table(0)),
            lambda: finish(store, 0),
            lambda: store.write_experiment("e", table(1)),
            lambda: finish(store, 1),
        ]

    def run(self) -> None:
        store = Store.open(self.root / "store", create=True)
        for step in self.steps(store):
            step()
            self.done += 1


def survived(root: Path, done: int) -> None:
    """After a power cut: no cell in part; what was told as done is there; the same work goes on to the same end."""
    if done and (root / "store").exists():
        store = Store.open(root / "store")  # as `results` opens it
        assert store.has(cell(0)) >= (done >= 2)
        assert store.has(cell(1)) >= (done >= 4)
        for number in (0, 1):
            if store.has(cell(number)):
                assert store.figures(cell(number))["test_accuracy"] == 0.5
                assert store.file(cell(number), "masks.safetensors").read_text() == FILES["masks.safetensors"]
        (content,) = store.experiments("e")
        assert content["rows"] in ([[cell(0)]], [[cell(1)]])
        assert content["rows"] == [[cell(1)]] or done < 3
    assert (root / "store").exists() or not done
    Work(root).run()
    found = verify(root / "store")
    assert (found.cells, found.tables, found.damaged) == (2, 1, ())


def power_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, each: int = 1) -> int:
    """Cut the power at every moment of the work, ``each`` times; the number of states that were left and survived."""
    chance, tries = random.Random(seed), iter(range(10**6))
    home = tmp_path / "now"
    home.mkdir()
    disk, work = Disk(home), Work(home)
    left: list[tuple[Path, int]] = []

    def moment() -> None:
        for lost in chance.choices((0.0, 0.5, 1.0), k=each):
            target = tmp_path / f"cut-{next(tries)}"
            disk.after_a_cut(target, chance, lost)
            left.append((target, work.done))

    monkeypatch.setattr(durable, "ThreadPoolExecutor", lambda _: OneAfterTheOther())
    with recorded(disk, moment, monkeypatch):
        work.run()
        moment()
    disk.close()
    monkeypatch.setattr(os, "fsync", lambda _: None)  # these stores may be lost
    for target, done in left:
        survived(target, done)
    return len(left)


class OneAfterTheOther:
    """Stands for a pool of threads, so that there is a moment between any two flushes."""

    def __enter__(self) -> OneAfterTheOther:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    map = staticmethod(map)


def test_a_power_cut_at_any_moment_loses_nothing_that_was_told_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert power_cuts(tmp_path, monkeypatch, seed=0) > 100


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_power_cuts_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    assert power_cuts(tmp_path, monkeypatch, seed, each=8) > 800


@pytest.mark.parametrize("forgotten", ["folders", "files"])
def test_a_store_that_forgets_to_flush_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """The test above can fail."""

    def lazily(path: Path) -> None:
        if path.is_dir() != (forgotten == "folders"):
            sync(path)

    monkeypatch.setattr(durable, "sync", lazily)
    with pytest.raises((AssertionError, InputError, ValueError)):
        power_cuts(tmp_path, monkeypatch, seed=0, each=3)


def test_what_could_not_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "file", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_whole(tmp_path / "file", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_a_file_system_that_cannot_flush_folders_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", cannot)
    make_folder(tmp_path / "a" / "b" / "c")
    write_whole(tmp_path / "a" / "b" / "c" / "file", "text")
    assert (tmp_path / "a" / "b" / "c" / "file").read_text() == "text"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_a_store_on_a_full_or_read_only_disk_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    store = Store.open(tmp_path / "store", create=True)
    finish(store, 0)

    def refused(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "write_bytes", refused)
    monkeypatch.setattr(Path, "write_text", refused)
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(InputError, match=rf"store: cannot be written \({os.strerror(error)}\)"):
        Store.open(tmp_path / "store", create=True)
    with pytest.raises(InputError, match=rf"cannot be written \({os.strerror(error)}\)"):
        Store.open(tmp_path / "other", create=True)
    assert Store.open(tmp_path / "store").figures(cell(0))["seconds"] == 1.0, "it can be read"
