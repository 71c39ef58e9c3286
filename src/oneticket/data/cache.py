"""The cache of decoded data: each data set once, under its fingerprint, for memory-mapping.

::

    CACHE/data/FINGERPRINT/  meta.json  {train,test}-images.npy  {train,test}-labels.npy
    CACHE/data/DIGEST/       meta.json  {train,test}-images.npy   the same images at another size or with other channels
    CACHE/data/memo/         which source files, unchanged, decode to which fingerprint
    CACHE/data/locks/        one process decodes, the others wait for it

The files of windows of text and of rows of a table have the names of those of images.

Everything in it can be deleted at any time; it is made again when needed. What is read is compared with its fingerprint
once by each process, and again after its files have changed. What does not agree is dropped, with one line.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from oneticket.data.sets import Kind
from oneticket.errors import InputError
from oneticket.identity import canonical_json, digest
from oneticket.places import cache_home

PARTS = ("train", "test")
LOG = logging.getLogger("oneticket.cache")

State = tuple[tuple[str, int, int, int, int], ...]
"""Path, inode, size, and times (ns) of the last changes of content and of status, for each file of a folder."""

_FORMS = {"images": (torch.uint8, 4), "text": (torch.uint8, 2), "table": (torch.float32, 2)}
_SOUND: set[State] = set()  # what this process, or the one that it works for, has compared


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Part:
    """One split: images uint8 [N, C, H, W], windows uint8 [N, T] or rows float32 [N, F]; and labels int64 [N].

    The label of a window is the number of its file.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Decoded:
    """A data set as its source gives it, before any derivation; ``notes`` say what of it was left out, and why."""

    classes: tuple[str, ...]
    train: Part
    test: Part
    kind: Kind = "images"
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Part]:
        """Train and test by name."""
        return {"train": self.train, "test": self.test}


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/oneticket``, or ``~/.cache/oneticket``."""
    return cache_home()


def fingerprint(data: Decoded) -> str:
    """SHA-256 over the class names, and over shape, inputs and labels of train and test; 64 hexadecimal digits."""
    text: dict[str, object] = {"classes": data.classes}
    text["shapes"] = {name: list(part.images.shape) for name, part in data.parts.items()}
    if data.kind != "images":
        text["kind"] = data.kind
    content = hashlib.sha256(canonical_json(text).encode())
    for part in data.parts.values():
        content.update(part.images.contiguous().numpy().data)
        content.update(part.labels.numpy().astype("<i8").data)
    return content.hexdigest()


def keep(cache: Path, data: Decoded) -> str:
    """Put ``data`` into the cache, unless the cache has it whole; returns its fingerprint."""
    name = fingerprint(data)
    if kept(cache, name) is not None:
        return name
    with _written(cache, name) as folder:
        if folder is not None:
            for part_name, part in data.parts.items():
                np.save(folder / f"{part_name}-images.npy", part.images.numpy())
                np.save(folder / f"{part_name}-labels.npy", part.labels.numpy())
            (folder / "meta.json").write_text(canonical_json(_meta(data)), encoding="utf-8")
    return name


def kept(cache: Path, name: str) -> Decoded | None:
    """The data set with this fingerprint, its images memory-mapped; None if the cache does not have it whole."""

    def opened(folder: Path) -> Decoded:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        labels = {part: torch.from_numpy(np.load(folder / f"{part}-labels.npy")) for part in PARTS}
        images = _mapped(folder)
        train, test = (Part(images[part], labels[part]) for part in PARTS)
        kind, notes = meta.get("kind", "images"), tuple(meta.get("notes", ()))
        return Decoded(tuple(meta["classes"]), train, test, kind, notes)

    return _compared(_home(cache) / name, opened, lambda _, data: _fits(data) and fingerprint(data) == name)


def redrawn(cache: Path, name: str, draw: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Images kept under ``name``, memory-mapped; ``draw`` makes those of train and of test if they are missing."""
    folder = _home(cache) / name

    def agrees(folder: Path, images: Mapping[str, Tensor]) -> bool:
        return bool(json.loads((folder / "meta.json").read_text(encoding="utf-8"))["images"] == _digest(name, images))

    images = _compared(folder, _mapped, agrees)
    if images is not None:
        return images
    with locked(cache, name), _written(cache, name) as fresh:
        if fresh is not None:
            drawn = {part: draw(part) for part in PARTS}
            for part, tensor in drawn.items():
                np.save(fresh / f"{part}-images.npy", tensor.numpy())
            (fresh / "meta.json").write_text(canonical_json({"images": _digest(name, drawn)}), encoding="utf-8")
    images = _compared(folder, _mapped, agrees)
    if images is None:
        raise InputError(f"the cached data in {folder} does not stay as it is written", expected="a disk that is sound")
    return images


def remembered(cache: Path, key: str) -> str | None:
    """The fingerprint noted under ``key``; None without one, or if the cache does not have that data whole."""
    memo = _home(cache) / "memo" / key
    try:
        text = memo.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    name = text[:64].decode("ascii", "replace")
    if text != _memo(key, name):
        if len(text) != 64:  # as earlier versions noted it, without a digest
            _say_damaged(memo)
        with suppress(OSError):
            memo.unlink()
        return None
    return name if kept(cache, name) is not None else None


def remember(cache: Path, key: str, name: str) -> None:
    """Note that the source with this key decodes to fingerprint ``name``."""
    home = _made(_home(cache) / "memo")
    beside = home / _unique()
    beside.write_bytes(_memo(key, name))
    os.replace(beside, home / key)


def compared() -> frozenset[State]:
    """What this process has compared with its fingerprint, for processes that work for it."""
    return frozenset(_SOUND)


def trust(states: Iterable[State]) -> None:
    """Take over what the process that this one works for has just compared; files that change are compared again."""
    _SOUND.update(states)


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
    return {part: torch.from_numpy(np.load(folder / f"{part}-images.npy", mmap_mode="c")) for part in PARTS}


def _compared(folder: Path, opened: Callable[[Path], T], agrees: Callable[[Path, T], bool]) -> T | None:
    """The content of a folder; None if it is missing, or damaged: then the folder is dropped."""
    if not folder.is_dir():
        return None
    try:
        before = _state(folder)
        content = opened(folder)
        if before not in _SOUND and not agrees(folder, content):
            raise ValueError("the content does not agree with its digest")
    except Exception:  # what readers make of damaged files is not documented
        _say_damaged(folder)
        _drop(folder)
        return None
    _SOUND.add(before)
    return content


def _state(folder: Path) -> State:
    files = sorted((str(file.absolute()), file.stat()) for file in folder.iterdir())
    return tuple((path, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in files)


def _meta(data: Decoded) -> dict[str, object]:
    meta: dict[str, object] = {"classes": data.classes}
    if data.kind != "images":
        meta |= {"kind": data.kind, "notes": data.notes}
    return meta


def _fits(data: Decoded) -> bool:
    """Whether images and labels have the types and shapes that all data have; the fingerprint does not cover types."""
    kind, dimensions = _FORMS[data.kind]
    return all(
        part.images.dtype == kind and part.images.dim() == dimensions
        and part.labels.dtype == torch.int64 and part.labels.shape == part.images.shape[:1]
        for part in data.parts.values()
    )  # fmt: skip


def _digest(name: str, images: Mapping[str, Tensor]) -> str:
    facts = [[part, str(images[part].dtype), list(images[part].shape)] for part in PARTS]
    content = hashlib.sha256(canonical_json([name, facts]).encode())
    for part in PARTS:
        content.update(images[part].contiguous().numpy().data)
    return content.hexdigest()


def _memo(key: str, name: str) -> bytes:
    return f"{name} {digest([key, name])}".encode("ascii", "replace")


def _say_damaged(place: Path) -> None:
    LOG.warning("%s is damaged or of an earlier version; it is dropped and made anew", place)


def _drop(folder: Path) -> None:
    aside = folder.with_name(_unique())
    with suppress(OSError):  # another process was faster
        os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)
