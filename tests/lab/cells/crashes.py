"""Power cuts: a recorder that, at every moment of some work, knows what of a folder may be on disk after a power cut.

What POSIX promises is little: the bytes of a file are on disk after ``fsync`` of the file, and the names in a folder
after ``fsync`` of the folder. Everything else may be there, or not, or in part.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

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

        ``lost`` is how probable it is that something that was not flushed is gone: 1 leaves only what was flushed, 0 all
        names, with the content of files that were not flushed empty, zero, or there in part.
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
