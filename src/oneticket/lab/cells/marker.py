"""The marker ``store.json``, which makes a folder a store and tells the version of its layout."""

from __future__ import annotations

import json
import logging
import os
from functools import cache
from pathlib import Path

from oneticket.errors import InputError
from oneticket.lab.cells.durable import make_folder, write_whole
from oneticket.lab.cells.records import check_seal, sealed

STORE_VERSION = 2
"""From version 2 on, every cell and table carries digests; in version 1, those of earlier releases have none."""

FOLDERS = ("cells", "working", "leases", "experiments", "failures")
LOG = logging.getLogger("oneticket.store")


def is_store(root: Path) -> bool:
    """Whether ``root`` holds a store, also one that lost its marker; InputError if it can't be read."""
    try:
        return (root / "store.json").exists() or _has_folders(root)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(root), expected="a folder") from None


def version_of(root: Path) -> int | None:
    """The version of the store at ``root``; None if a power cut left its marker missing, empty or in part.

    Raises
    ------
    InputError : the marker can't be read or is another program's, or the store was written by a later version.
    """
    data = b""
    try:
        data = (root / "store.json").read_bytes()
        check_seal(data)
        version = json.loads(data)["store"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not isinstance(error, OSError) and (_is_part(data) or _has_folders(root)):
            return None
        raise InputError(f"store.json cannot be read ({error})", where=str(root)) from None
    if type(version) is not int or not 0 < version <= STORE_VERSION:
        raise InputError(
            f"the store has version {version}", where=str(root), expected=f"at most {STORE_VERSION}: update oneticket"
        )
    return version


def prepare(root: Path, *, new_marker: bool) -> None:
    """Make what is missing of a store; InputError if it can't be written."""
    try:
        make_folder(root)
        if new_marker:
            # Nobody knows whether the cells of a store that lost its marker have digests.
            write_marker(root, 1 if any((root / "cells").glob("*/*")) else STORE_VERSION)
        for folder in FOLDERS:
            make_folder(root / folder)
        probe = root / "working" / f".probe-{os.getpid()}"
        probe.write_bytes(b"probe")  # a full disk takes names, but no bytes
        probe.unlink()
    except OSError as error:
        expected = "a folder that can be written"
        raise InputError(f"cannot be written ({error.strerror})", where=str(root), expected=expected) from None


@cache
def say_lost(root: Path) -> None:
    """Tell once that the store at ``root`` has lost its marker."""
    LOG.warning("%s: store.json was lost, as in a power cut; the cells are there", root)


def write_marker(root: Path, version: int) -> None:
    """Write ``store.json``."""
    write_whole(root / "store.json", sealed({"store": version}))


def _has_folders(root: Path) -> bool:
    return (root / "cells").is_dir() and (root / "experiments").is_dir()


def _is_part(data: bytes) -> bool:
    """Whether these are the first bytes of a marker, the rest lost or zero."""
    begun = data.rstrip(b"\0")
    return any(sealed({"store": version}).encode().startswith(begun) for version in (1, STORE_VERSION))
