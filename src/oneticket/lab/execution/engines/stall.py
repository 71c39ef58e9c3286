"""A worker that does not advance: noticed by the process that waits for it, asked for its stacks, and ended."""

from __future__ import annotations

import contextlib
import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from oneticket.lab.cells.run import Patience
from oneticket.lab.execution.engines.base import STACK
from oneticket.lab.execution.engines.lastwords import HANGS, TICK


class Stall:
    """Watches one worker. ``noticed`` is the number of seconds for which it did not advance, None while it does.

    Only time in which this process itself runs is counted: when a whole run is stopped for a night, no worker is late.
    """

    def __init__(self, patience: Patience, process: BaseProcess) -> None:
        self._patience, self._process = patience, process
        self._silent, self._looked, self._slowest = 0.0, time.monotonic(), 0.0
        self.noticed: float | None = None
        self.stopped = False
        self._asked = 0.0

    def heard(self, slowest: float) -> None:
        """The worker has advanced; its slowest step took ``slowest`` seconds."""
        self._silent, self._slowest = 0.0, max(slowest, self._slowest)

    def tick(self) -> None:
        """Look at the worker: ask a late one for its stacks, and end it a moment later."""
        now = time.monotonic()
        self._silent += min(now - self._looked, 2 * TICK)
        self._looked = now
        if self.noticed is None and self._silent > self._patience.limit(self._slowest):
            self.noticed, self._asked = self._silent, now
            self.stopped = _is_stopped(self._process.pid)
            if self._process.pid:  # 0 would mean this process and its whole group
                with contextlib.suppress(OSError):
                    os.kill(self._process.pid, STACK)
            if self.stopped:
                self._process.kill()
        elif self.noticed is not None and now - self._asked > HANGS:
            self._process.kill()


def _is_stopped(pid: int | None) -> bool:
    """Whether a process has been stopped, as far as this system tells."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
