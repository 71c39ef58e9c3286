"""Durable writes: what counts as written is on disk, whole, with the entries of the folders that lead to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` beside and rename it into place; after a power cut, the old or the new file is there."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.writing")
    try:
        beside.write_text(text, encoding="utf-8")
        sync(beside)  # otherwise a power cut may keep the rename, but lose the content
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):  # on a full disk, the file holds only a part
            beside.unlink()
        raise
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and the missing ones above it, each with its entry on disk."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems of a network can't flush folders
            raise
    finally:
        os.close(place)


def sync_all(paths: Sequence[Path]) -> None:
    """Flush all at once: one after the other, each would wait for its own write of the journal."""
    with ThreadPoolExecutor(max(len(paths), 1)) as threads:
        for _ in threads.map(sync, paths):
            pass
