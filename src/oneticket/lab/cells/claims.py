"""Claims: one process at a time computes a cell; the claim of a process that is gone or stopped is taken over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from oneticket.errors import OneticketError

RECORDLESS_SECONDS = 5.0  # a claim is made and signed within a millisecond: unsigned for this long, its holder is dead
LEASE_SECONDS = 30.0  # a claim not refreshed for this long is taken over; that of a dead process at once


class Busy(OneticketError):
    """Another process is computing this cell."""


class Claim:
    """The claim of this process on a cell."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._signed = _content(place)

    def holds(self) -> bool:
        """Whether no other process has taken it over: this one was stopped for a while, or its clock was."""
        return self._signed is not None and _content(self._place) == self._signed


@contextmanager
def claimed(folder: Path, identity: str, on_lost: Callable[[], None] | None = None) -> Iterator[Claim]:
    """A context with the claim on a cell; ``on_lost`` is called, from another thread, when another process takes it.

    The claim is refreshed while this process runs. A worker that does not advance ends itself, and with it its claim.

    Raises
    ------
    Busy : another process holds the claim.
    """
    folder.mkdir(exist_ok=True)
    place = folder / f"{identity}.lease"
    lost = on_lost
    _remove_unsigned(place)
    lease = SoftFileLease(str(place), lease_duration=LEASE_SECONDS, on_compromise=(lambda _: lost()) if lost else None)
    try:
        # A claim counts as dead only after this object has watched it for its whole duration, by a clock that nobody
        # can set. So waiting pays only if the claim looks dead: a living holder touches it every few seconds.
        lease.acquire(timeout=LEASE_SECONDS * 1.2 if _untouched(place) > LEASE_SECONDS else 0)
    except (Timeout, LeaseSettingsMismatch):
        # A claim that is damaged names no holder, or another duration, so nobody could take it over.
        if _untouched(place) > LEASE_SECONDS:
            place.unlink(missing_ok=True)
        raise Busy(f"cell {identity[:12]} is being computed by another process") from None
    try:
        yield Claim(place)
    finally:
        lease.release()


def sweep(folder: Path, finished: Callable[[str], bool]) -> None:
    """Remove claims on finished cells: their holders were killed between the rename and the release.

    Who still holds one has only to release it, and there is nothing left for it to protect. So nobody asks whether a
    holder lives: one that was just killed looks alive until its parent has heard of it.
    """
    for place in folder.iterdir():
        if finished(place.name.partition(".")[0]):
            place.unlink(missing_ok=True)


def _remove_unsigned(place: Path) -> None:
    """Remove a claim whose holder was killed before signing it: otherwise nobody could take it over."""
    with suppress(FileNotFoundError), place.open("rb") as file:  # kept open, so that its inode is not reused meanwhile
        seen = os.fstat(file.fileno())
        # A time in the future, after somebody has set the clock back, says as little as one long ago.
        if seen.st_size or -1 < time.time() - seen.st_ctime < RECORDLESS_SECONDS:
            return
        aside = place.with_name(f"{place.name}.{os.getpid()}.unsigned")
        os.rename(place, aside)
        if os.stat(aside).st_ino != seen.st_ino:  # another process was faster, and this claim is alive
            with suppress(FileExistsError):
                os.link(aside, place)
        aside.unlink()


def _untouched(path: Path) -> float:
    """Seconds between the clock of this machine and the last change of a file; 0 if it is missing.

    A change in the future counts like one in the past: somebody has set the clock back since.
    """
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
