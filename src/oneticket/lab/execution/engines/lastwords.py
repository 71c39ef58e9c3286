"""The last words of a worker: its standard error, and its stacks when its native code crashed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

FATAL = {
    signal.SIGSEGV: b"Segmentation fault",
    signal.SIGABRT: b"Aborted",
    signal.SIGBUS: b"Bus error",
    signal.SIGILL: b"Illegal instruction",
    signal.SIGFPE: b"Floating",
}
"""The signals of crashes in native code, and the beginning of Python's name for each."""

KEPT = 2**14  # bytes of a crashed worker's standard error that are kept with its stacks
TICK = 1.0  # seconds between two looks at a worker
HANGS = 5.0  # seconds that a crashed worker has to write its stacks, which takes a tenth of a second


class LastWords:
    """What the scheduling process hears from a worker, besides the progress of its cell.

    It uses two pipes and no file: a worker that ends well leaves nothing to remove, and a full disk does no harm.
    ``ends`` are the worker's: one for its standard error, which is passed on, and one on which Python reports a crash.
    """

    def __init__(self) -> None:
        self._errors, errors = multiprocessing.Pipe(duplex=False)
        self._crash, crash = multiprocessing.Pipe(duplex=False)
        self.ends = (errors, crash)
        self._open = [self._crash, self._errors]
        self._written = bytearray()
        self._stack = bytearray()
        self._crashed_at: float | None = None

    def hear_until(
        self, awaited: Connection | int, process: BaseProcess, tick: Callable[[], None] | None = None
    ) -> None:
        """Wait until ``awaited`` is ready, and meanwhile pass on the output of the worker.

        ``tick`` is called at least once a second, and each time that something is heard.
        """
        ready: Collection[Any] = ()
        while awaited not in ready:
            ready = wait([awaited, *self._open], timeout=None if self._crashed_at is None and tick is None else TICK)
            self._read(ready)
            if tick is not None:
                tick()
            if self._crashed_at is not None and time.monotonic() - self._crashed_at > HANGS:
                # The native stack is written with memory from the heap, whose lock the crash may have left taken.
                process.kill()

    def hear_the_rest(self) -> None:
        """Pass on the rest of an ended worker's output."""
        while ready := wait(self._open, timeout=0):
            self._read(ready)

    def fatal_signal(self, exit_code: int) -> signal.Signals | None:
        """The signal with which native code ended the worker; None if it ended otherwise."""
        named = (number for number, name in FATAL.items() if b"Fatal Python error: " + name in self._stack)
        return next((number for number in FATAL if number == -exit_code), None) or next(named, None)

    def stacks(self) -> str:
        """The stacks of a crashed worker: those of its Python code, then its standard error with the native ones."""
        parts = {"": self._stack, "The end of what it wrote to standard error:\n": self._written}
        return "\n".join(title + part.decode(errors="replace") for title, part in parts.items() if part)

    def _read(self, ready: Collection[Any]) -> None:
        for pipe in [pipe for pipe in self._open if pipe in ready]:
            content = os.read(pipe.fileno(), 2**16)
            if not content:
                self._open.remove(pipe)
            elif pipe is self._crash:
                self._stack += content
                self._crashed_at = self._crashed_at or time.monotonic()
            else:
                self._written += content
                if self._crashed_at is None:  # the native stacks are for the file alone
                    del self._written[:-KEPT]
                    _pass_on(content)


def _pass_on(content: bytes) -> None:
    with contextlib.suppress(OSError), open(2, "wb", closefd=False) as errors:
        errors.write(content)
