"""The local engine: one process per cell on this machine."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import msgspec
import torch

from oneticket.errors import OneticketError
from oneticket.lab.cell import run_cell
from oneticket.lab.engines.base import CellFailed, DiskFull, Done, OutOfMemory, Progress, Task, WorkerDied, engine
from oneticket.lab.store import Busy, Store
from oneticket.training import EpochRecord

_KINDS: dict[str, type[OneticketError]] = {
    kind.__name__: kind for kind in (Busy, CellFailed, DiskFull, OutOfMemory, WorkerDied)
}


class LocalEngine:
    """One process per cell, started from a server process that has torch loaded already.

    A process of its own, so that a cell that is killed or runs out of memory takes nothing else with it, and so that
    its numbers cannot depend on what ran before it.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", "oneticket.lab.engines.local"])
        self._running: set[multiprocessing.process.BaseProcess] = set()
        self._lock = threading.Lock()

    def submit(self, task: Task, on_progress: Callable[[Progress], None]) -> Future[Done]:
        """Start a process for the cell and a thread that listens to it."""
        future: Future[Done] = Future()
        future.set_running_or_notify_cancel()
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(msgspec.json.encode(task), sender), daemon=True)
        process.start()
        sender.close()
        with self._lock:
            self._running.add(process)
        threading.Thread(target=self._listen, args=(task, process, receiver, future, on_progress), daemon=True).start()
        return future

    def _listen(
        self,
        task: Task,
        process: multiprocessing.process.BaseProcess,
        receiver: Connection,
        future: Future[Done],
        on_progress: Callable[[Progress], None],
    ) -> None:
        ended: Done | OneticketError | None = None
        bytes_seen = 0
        with contextlib.suppress(EOFError, OSError):
            while ended is None:
                wait([receiver])
                kind, content = receiver.recv()
                if kind == "progress":
                    bytes_seen = content.pop("bytes")
                    on_progress(msgspec.convert(content, Progress))
                elif kind == "done":
                    ended = msgspec.convert(content, Done)
                else:
                    ended = _KINDS[kind](content)
        process.join()
        with self._lock:
            self._running.discard(process)
        if ended is None:
            how = f"signal {-process.exitcode}" if (process.exitcode or 0) < 0 else f"exit code {process.exitcode}"
            ended = WorkerDied(f"its process ended with {how}, having used {bytes_seen / 2**20:.0f} MiB when last seen")
        if isinstance(ended, Done):
            future.set_result(ended)
        else:
            future.set_exception(ended)

    def close(self) -> None:
        """End the running processes; what they have checkpointed stays."""
        with self._lock:
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            process.join(5)
            if process.is_alive():
                process.kill()


@engine("local")
def local() -> LocalEngine:
    """One process per cell on this machine, threads pinned."""
    return LocalEngine()


def _work(encoded: bytes, sender: Connection) -> None:
    """The life of a worker: claim the cell, compute it, commit it, say how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _end_with_parent()
    task = msgspec.json.decode(encoded, type=Task)
    torch.set_num_threads(task.setting.threads)
    torch.use_deterministic_algorithms(False)

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
        say("DiskFull" if full else "CellFailed", f"{error.strerror}: {error.filename}" if error.filename else str(error))
    except RuntimeError as error:
        if "memory" in str(error).lower():
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
    store = Store(Path(task.setting.store))
    with store.claimed(identity) as working:
        if store.has(identity):
            store.discard(identity)
            return Done(cached=True)

        def on_epoch(record: EpochRecord) -> None:
            progress = Progress(identity, record.epoch, cell.recipe.epochs, record.val_accuracy)
            say("progress", {**msgspec.to_builtins(progress), "bytes": _bytes_now()})

        record = run_cell(cell, task.setting, working, on_epoch)
        store.commit(identity, working, record)
    outcome = record["outcome"]
    return Done(False, outcome.get("test_accuracy"), outcome["val_accuracy"], record["cost"]["seconds"])


def _end_with_parent() -> None:
    """A worker must not outlive the run: nobody would hear it, and it would hold its cell."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _bytes_now() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _memory_text() -> str:
    return f"memory exhausted at {_bytes_now() / 2**20:.0f} MiB"


def _where(error: Exception) -> str:
    """One line: the error and the innermost place it came from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
