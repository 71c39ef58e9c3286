"""The cache of decoded images: each data set once, under its fingerprint, for memory-mapping.

::

    CACHE/data/FINGERPRINT/  meta.json  {train,test}-images.npy  {train,test}-labels.npy
    CACHE/data/DIGEST/       {train,test}-images.npy   the same images at another size or with other channels
    CACHE/data/memo/         which source files, unchanged, decode to which fingerprint
    CACHE/data/locks/        one process decodes, the others wait for it

Everything in it can be deleted at any time; it is made again when needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from oneticket.errors import InputError
from oneticket.identity import canonical_json
from oneticket.places import cache_home

PARTS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Part:
    """One split: images uint8 [N, C, H, W] and labels int64 [N]."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Decoded:
    """A data set as its source gives it, before any derivation."""

    classes: tuple[str, ...]
    train: Part
    test: Part

    @property
    def parts(self) -> dict[str, Part]:
        """Train and test by name."""
        return {"train": self.train, "test": self.test}


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/oneticket``, or ``~/.cache/oneticket``."""
    return cache_home()


def fingerprint(data: Decoded) -> str:
    """SHA-256 over the class names, and over shape, pixels and labels of train and test; 64 hexadecimal digits."""
    text = {"classes": data.classes, "shapes": {name: list(part.images.shape) for name, part in data.parts.items()}}
    content = hashlib.sha256(canonical_json(text).encode())
    for part in data.parts.values():
        content.update(part.images.contiguous().numpy().data)
        content.update(part.labels.numpy().astype("<i8").data)
    return content.hexdigest()


def keep(cache: Path, data: Decoded) -> str:
    """Put ``data`` into the cache, unless the cache has it; returns its fingerprint."""
    name = fingerprint(data)
    with _written(cache, name) as folder:
        if folder is not None:
            for part_name, part in data.parts.items():
                np.save(folder / f"{part_name}-images.npy", part.images.numpy())
                np.save(folder / f"{part_name}-labels.npy", part.labels.numpy())
            (folder / "meta.json").write_text(canonical_json({"classes": data.classes}), encoding="utf-8")
    return name


def kept(cache: Path, name: str) -> Decoded | None:
    """The data set with this fingerprint, its images memory-mapped; None if the cache does not have it."""
    folder = _home(cache) / name
    if not folder.is_dir():
        return None
    try:
        classes = tuple(json.loads((folder / "meta.json").read_text(encoding="utf-8"))["classes"])
        labels = {part: torch.from_numpy(np.load(folder / f"{part}-labels.npy")) for part in PARTS}
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from None
    images = _mapped(folder)
    return Decoded(classes, *(Part(images[part], labels[part]) for part in PARTS))


def redrawn(cache: Path, name: str, draw: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Images kept under ``name``, memory-mapped; ``draw`` makes those of train and of test if they are missing."""
    folder = _home(cache) / name
    if not folder.is_dir():
        with locked(cache, name), _written(cache, name) as fresh:
            if fresh is not None:
                for part in PARTS:
                    np.save(fresh / f"{part}-images.npy", draw(part).numpy())
    return _mapped(folder)


def remembered(cache: Path, key: str) -> str | None:
    """The fingerprint noted under ``key``; None if there is none, or if the cache no longer has that data."""
    try:
        name = (_home(cache) / "memo" / key).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    return name if (_home(cache) / name / "meta.json").is_file() else None


def remember(cache: Path, key: str, name: str) -> None:
    """Note that the source with this key decodes to fingerprint ``name``."""
    home = _made(_home(cache) / "memo")
    beside = home / _unique()
    beside.write_text(name, encoding="ascii")
    os.replace(beside, home / key)


@contextmanager
def locked(cache: Path, key: str) -> Iterator[None]:
    """A lock for this key: one process at a time is inside; the lock of a process that dies becomes free."""
    with FileLock(_made(_home(cache) / "locks") / f"{key}.lock"):
        yield


def _home(cache: Path) -> Path:
    return cache / "data"


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the cache cannot be written: {error}", expected="a directory that can be written") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"the cache cannot be written: {folder}", expected="a directory that can be written")
    return folder


@contextmanager
def _written(cache: Path, name: str) -> Iterator[Path | None]:
    """A folder to write into, renamed to ``name`` at the end; None if ``name`` exists."""
    home = _made(_home(cache))
    if (home / name).is_dir():
        yield None
        return
    folder = home / _unique()
    folder.mkdir()
    try:
        yield folder
        try:
            os.rename(folder, home / name)
        except OSError:
            # Another process wrote the same content first.
            if not (home / name).is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unique() -> str:
    return f".writing-{uuid.uuid4().hex}"


def _mapped(folder: Path) -> dict[str, Tensor]:
    # Mode "c": torch needs writable memory; a write would stay in this process and never reach the file.
    try:
        return {part: torch.from_numpy(np.load(folder / f"{part}-images.npy", mmap_mode="c")) for part in PARTS}
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"the cached data in {folder} is damaged ({error})", expected="that folder deleted, and a new try"
    )
