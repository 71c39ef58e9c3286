"""Text: files whose bytes are the tokens, cut into windows; whole files are for training or for testing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch

from oneticket.data.cache import Decoded, Part
from oneticket.data.folders import Left, is_hidden, notes, regular
from oneticket.data.parting import for_testing
from oneticket.data.sets import VOCABULARY
from oneticket.errors import InputError

WINDOW, TEST = 128, 0.1
"""Tokens of a window, and the fraction of the files for testing, unless said otherwise."""


def files_of(home: Path, patterns: Sequence[str], left: list[Left]) -> list[Path]:
    """The files of a folder and its sub-folders whose names fit one of ``patterns``, or all without patterns, by path.

    Raises InputError for a pipe or a device, for a link to a folder, and for a file that does not exist. What is left
    out is added to ``left``.
    """
    found: list[Path] = []

    def failed(error: OSError) -> None:
        raise InputError(f"cannot be read ({error.strerror})", where=str(error.filename)) from None

    for place, folders, files in os.walk(home, onerror=failed):
        for inner in [Path(place, name) for name in folders]:
            if is_hidden(inner):
                folders.remove(inner.name)
                left.append(Left(inner, "hidden, or left behind by a system"))
            elif inner.is_symlink():
                raise InputError("is a link to a folder", where=str(inner), expected="the folder itself")
        for file in [Path(place, name) for name in files]:
            if is_hidden(file):
                left.append(Left(file, "hidden, or left behind by a system"))
            elif patterns and not any(fnmatchcase(file.name, pattern) for pattern in patterns):
                left.append(Left(file, f"not {' or '.join(patterns)}"))
            else:
                found.append(regular(file))
    if not found:
        kind = " or ".join(patterns) or "a file"
        raise InputError(f"no {kind} in {home}".replace("no a ", "no "), expected="files of text")
    return sorted(found)


def windows_of(home: Path, files: Sequence[Path], window: int, test: float, split: int) -> Decoded:
    """The windows of ``window`` bytes of ``files``; ⌊test · n⌉ of the n files that are used are for testing.

    Windows do not overlap, and do not reach from one file into the next: the end of a file that does not fill a window
    is left out. So are files that are shorter than a window, that are not UTF-8, or that repeat another file.

    Raises
    ------
    InputError
        When fewer than two files can be used.
    """
    texts, left = _texts(home, files, window)
    names = list(texts)
    try:
        sides = for_testing(names, test, split)
    except InputError as error:
        found = f"{len(names)} of {len(files)} files can be used"
        told = "; ".join(notes(home, left))
        raise InputError(f"{found} ({told})" if told else found, expected="two or more") from error
    train, test_part = (
        _part([texts[name] for name, side in zip(names, sides, strict=True) if side is tests], window)
        for tests in (False, True)
    )
    ends = sum(len(text) % window for text in texts.values())
    remarks = [*notes(home, left)]
    if ends:
        remarks.append(
            f"{ends:,} of {sum(map(len, texts.values())):,} bytes left out: ends of files, less than a window"
        )
    return Decoded(VOCABULARY, train, test_part, "text", tuple(remarks))


def _texts(home: Path, files: Sequence[Path], window: int) -> tuple[dict[str, bytes], list[Left]]:
    """The bytes of each file that is used, by its path in the folder, and the files that are not."""
    texts: dict[str, bytes] = {}
    left: list[Left] = []
    seen: set[bytes] = set()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=str(file)) from None
        key = hashlib.sha256(content).digest()
        if len(content) < window:
            left.append(Left(file, f"shorter than a window of {window} bytes"))
        elif not _is_text(content):
            left.append(Left(file, "not text in UTF-8"))
        elif key in seen:
            left.append(Left(file, "the same text as another file"))
        else:
            seen.add(key)
            texts[file.relative_to(home).as_posix()] = content
    return texts, left


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _part(texts: Sequence[bytes], window: int) -> Part:
    counts = [len(text) // window for text in texts]
    rows = [np.frombuffer(text, np.uint8, count * window) for text, count in zip(texts, counts, strict=True)]
    tokens = torch.from_numpy(np.concatenate(rows).reshape(-1, window))
    return Part(tokens, torch.arange(len(texts)).repeat_interleave(torch.tensor(counts)))
