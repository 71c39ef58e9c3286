"""Consent: which files of which folder the user has allowed to run, kept in the user's configuration folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from oneticket.errors import InputError
from oneticket.identity import digest
from oneticket.places import config_home

NAME = "allowed-code.json"


class Allowed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files of a folder that may run: their SHA-256 by path relative to the folder, and when that was allowed."""

    folder: str
    files: dict[str, str]
    when: str = ""

    @property
    def digest(self) -> str:
        """A digest of the names and contents."""
        return digest(self.files)


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    allowed: list[Allowed]


def list_allowed() -> list[Allowed]:
    """Everything that is allowed; InputError, which says to remove the file, if it cannot be read."""
    place = _place()
    try:
        kept = msgspec.json.decode(place.read_bytes(), type=_Kept)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(
            f"cannot be read ({error})", where=str(place), expected="no such file: remove it, and you are asked again"
        ) from None
    if kept.version != 1:
        raise InputError(f"has version {kept.version}", where=str(place), expected="version 1; update oneticket")
    return kept.allowed


def is_allowed(asked: Allowed) -> bool:
    """Whether exactly these contents were allowed for the folder, together or beside others."""
    return any(known.folder == asked.folder and asked.files.items() <= known.files.items() for known in list_allowed())


def allow(asked: Allowed) -> None:
    """Keep that ``asked`` is allowed, in place of earlier contents of the same files. OSError if it can't be kept."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    others = [known for known in list_allowed() if (known.folder, set(known.files)) != (asked.folder, set(asked.files))]
    _keep([*others, msgspec.structs.replace(asked, when=when)])


def revoke(folders: Collection[str] | None) -> list[Allowed]:
    """Forget what was allowed for these folders, or for all (None); returns what was forgotten."""
    known = list_allowed()
    gone = [entry for entry in known if folders is None or entry.folder in folders]
    if gone:
        _keep([entry for entry in known if entry not in gone])
    return gone


def _place() -> Path:
    return config_home() / NAME


def _keep(allowed: list[Allowed]) -> None:
    place = _place()
    place.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(msgspec.to_builtins(_Kept(1, allowed)), indent=1)
    handle, name = tempfile.mkstemp(dir=place.parent)  # readable by the user alone
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, place)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
