"""The worker: the life of one process that computes one cell. Loaded once, by the server that workers fork from."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import logging
import multiprocessing
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import torch

from oneticket.errors import OneticketError
from oneticket.lab.cells.claims import Busy
from oneticket.lab.cells.rates import cycles_of
from oneticket.lab.cells.run import Patience, Watch, run_cell
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.engines.base import STACK, Done, Progress, Task
from oneticket.training import EpochRecord
from oneticket.training.kernels import LOG

_TASK = msgspec.json.Decoder(Task)  # made here, once, and not in every worker


def work(encoded: bytes, sender: Connection, errors: Connection, crash: Connection) -> None:
    """Claim the cell, compute it, commit it, report how it went."""
    _leave_last_words(errors, crash)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    faulthandler.register(STACK, crash, all_threads=True)  # the parent asks for it when nothing advances
    _end_with_parent()
    LOG.setLevel(logging.CRITICAL)  # standard error is the run's terminal, and the run reports once for many cells
    task = _TASK.decode(encoded)
    torch.set_num_threads(task.workplace.runtime.threads or 1)

    def say(kind: str, content: Any) -> None:
        with contextlib.suppress(OSError):
            sender.send((kind, content))

    try:
        say("done", msgspec.to_builtins(_compute(task, say)))
    except Busy as error:
        say("Busy", str(error))
    except OneticketError as error:
        say("CellFailed", str(error))
    except MemoryError:
        say("OutOfMemory", _memory_text())
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        say(
            "DiskFull" if full else "CellFailed",
            f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error),
        )
    except RuntimeError as error:
        if any(words in str(error).lower() for words in ("out of memory", "not enough memory", "allocate memory")):
            say("OutOfMemory", f"{_memory_text()}: {str(error).splitlines()[0]}")
        elif "No space left" in str(error) or "unexpected pos" in str(error) or "file write failed" in str(error):
            say("DiskFull", str(error).splitlines()[0])
        else:
            say("CellFailed", _where(error))
    except Exception as error:
        say("CellFailed", _where(error))


def _compute(task: Task, say: Callable[[str, Any], None]) -> Done:
    cell = task.cell
    identity = cell.identity
    store = Store(Path(task.workplace.store))
    pulse = Pulse(task.workplace.patience, lambda slowest: say("beat", slowest))
    # A worker that was suspended so long that its claim was taken over must not write beside its successor.
    with store.claimed(identity, on_lost=lambda: os._exit(1)) as working:
        if store.has(identity):
            store.discard(identity)
            return Done(cached=True)

        epochs = cell.recipe.epochs * cycles_of(cell.start)

        def on_epoch(record: EpochRecord) -> None:
            progress = Progress(identity, record.epoch, epochs, record.val_accuracy, _own_bytes())
            say("progress", msgspec.to_builtins(progress))

        watch = Watch(on_epoch=on_epoch, on_step=pulse.beat, before_save=lambda: store.check_claim(identity))
        record = run_cell(cell, task.workplace, working, watch)
        store.commit(identity, working, record)
    outcome, environment = record["outcome"], record["environment"]
    unchecked = environment.get("kernels_unchecked")
    return Done(
        test_accuracy=outcome.get("test_accuracy"),
        val_accuracy=outcome["val_accuracy"],
        seconds=record["cost"]["seconds"],
        diverged=outcome.get("diverged"),
        plain=environment.get("plain_layers", {}) | ({"": unchecked} if unchecked else {}),
    )


class Pulse:
    """Progress: each step tells the parent, at most once a second, how long the slowest so far took.

    Without progress for longer than ``patience`` and some more, this process ends itself: its parent should have ended
    it by then, and the claim that it keeps alive would keep others from computing the cell.
    """

    def __init__(self, patience: Patience, tell: Callable[[float], None]) -> None:
        self._patience, self._tell = patience, tell
        self._last = self._told = time.monotonic()
        self._every = min(1.0, patience.seconds / 10)
        self._slowest = self._silent = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def beat(self) -> None:
        """A step is done."""
        now = time.monotonic()
        # The time for which this process was stopped as a whole is not a slow step.
        self._slowest = max(self._slowest, min(now - self._last, self._silent + 2 * self._every))
        self._last, self._silent = now, 0.0
        if now - self._told >= self._every:
            self._told = now
            self._tell(self._slowest)

    def _watch(self) -> None:
        while self._silent < 1.5 * self._patience.limit(self._slowest):
            time.sleep(self._every)
            self._silent += self._every
        os._exit(1)


def _leave_last_words(errors: Connection, crash: Connection) -> None:
    """Send standard error to the parent, which passes it on, and the stacks when native code crashes."""
    os.dup2(errors.fileno(), 2)
    # Of the two handlers of fatal signals the one set last is called first: Python's, which needs no memory. Torch's
    # can hang when the heap is broken; like the C library, it writes only to standard error. It replaces the handler
    # of SIGINT, too, so SIGINT must be ignored afterwards.
    _torch_tells_stacks(True)
    faulthandler.enable(crash.fileno(), all_threads=True)

    def fall_silent() -> None:  # the crash of a process forked from this one is not the end of this one
        faulthandler.disable()
        _torch_tells_stacks(False)

    os.register_at_fork(after_in_child=fall_silent)


def _torch_tells_stacks(on: bool) -> None:
    with contextlib.suppress(AttributeError):  # a private function, which other versions may lack
        torch._C._set_print_stack_traces_on_fatal_signal(on)


def _end_with_parent() -> None:
    """End this worker when the run ends: nobody would hear it, and it would hold its cell."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _own_bytes() -> int:
    """Peak memory of this process in bytes, without the mapped files, which all workers share."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        mapped = int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")
        return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - mapped, 0)
    return 0


def _memory_text() -> str:
    return f"memory exhausted at {_own_bytes() / 2**20:.0f} MiB"


def _where(error: Exception) -> str:
    """One line: the error and the innermost place it came from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
