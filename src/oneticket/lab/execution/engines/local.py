"""The local engine: one process per cell on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.process
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection, wait
from pathlib import Path

import msgspec

from oneticket.errors import OneticketError
from oneticket.lab.cells.claims import Busy
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.engines.base import (
    CellFailed,
    Crashed,
    DiskFull,
    Done,
    OutOfMemory,
    Progress,
    Stalled,
    Task,
    WorkerDied,
    engine,
)
from oneticket.lab.execution.engines.lastwords import LastWords
from oneticket.lab.execution.engines.stall import Stall
from oneticket.lab.execution.forkserver import start_server

_KINDS: dict[str, type[OneticketError]] = {
    kind.__name__: kind for kind in (Busy, CellFailed, DiskFull, OutOfMemory)
}  # the errors that a worker reports; its death is seen here


class LocalEngine:
    """One process per cell, started from a server process that has torch loaded already.

    So a cell that is killed or runs out of memory harms no other, and its numbers cannot depend on earlier cells.
    """

    def __init__(self) -> None:
        self._running: set[multiprocessing.process.BaseProcess] = set()
        self._lock = threading.Lock()

    def submit(self, task: Task, on_progress: Callable[[Progress], None]) -> Future[Done]:
        """Start a process for the cell and a thread that listens to it."""
        future: Future[Done] = Future()
        future.set_running_or_notify_cancel()
        receiver, sender = multiprocessing.Pipe(duplex=False)
        words = LastWords()
        ends = (sender, *words.ends)
        try:
            process = start_server().Process(target=_enter, args=(msgspec.json.encode(task), *ends), daemon=True)
            with self._lock:  # starting a process reads the exit codes of others, which only one thread at a time may
                process.start()
                self._running.add(process)
        except (OSError, EOFError) as error:
            receiver.close()
            future.set_exception(WorkerDied(f"its process could not be started ({error})"))
            return future
        finally:
            for end in ends:
                end.close()
        heard = (task, process, receiver, words, future, on_progress)
        threading.Thread(target=self._listen, args=heard, daemon=True).start()
        return future

    def _listen(
        self,
        task: Task,
        process: multiprocessing.process.BaseProcess,
        receiver: Connection,
        words: LastWords,
        future: Future[Done],
        on_progress: Callable[[Progress], None],
    ) -> None:
        ended: Done | OneticketError | None = None
        bytes_seen = 0
        stall = Stall(task.workplace.patience, process)
        with contextlib.suppress(EOFError, OSError):
            while ended is None:
                words.hear_until(receiver, process, stall.tick)
                kind, content = receiver.recv()
                stall.heard(content if kind == "beat" else 0.0)
                if kind == "beat":
                    continue
                if kind == "progress":
                    progress = msgspec.convert(content, Progress)
                    bytes_seen = progress.bytes
                    on_progress(progress)
                elif kind == "done":
                    ended = msgspec.convert(content, Done)
                else:
                    ended = _KINDS[kind](content)
        if isinstance(ended, Done):
            future.set_result(ended)  # its cell is in the store: the next one need not wait for the process to exit
        words.hear_until(process.sentinel, process)
        words.hear_the_rest()
        with self._lock:
            process.join()
            self._running.discard(process)
        if ended is None and stall.noticed is not None:
            file = Store(Path(task.workplace.store)).note_stacks(task.cell.identity, words.stacks())
            ended = Stalled(stall.noticed, stall.stopped, str(file) if file else None)
        elif ended is None:
            ended = _death(task, process.exitcode or 0, words, bytes_seen)
        if not isinstance(ended, (Busy, Crashed, Stalled)):
            Store(Path(task.workplace.store)).forget_stacks(task.cell.identity)  # of an earlier attempt
        if not isinstance(ended, Done):
            future.set_exception(ended)

    def close(self) -> None:
        """End the running processes; their checkpoints stay."""
        with self._lock:
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            if not wait([process.sentinel], timeout=5):
                process.kill()


@engine("local")
def local() -> LocalEngine:
    """One process per cell on this machine, threads pinned."""
    return LocalEngine()


def _death(task: Task, code: int, words: LastWords, bytes_seen: int) -> WorkerDied:
    """How a process ended that did not report its end; if it crashed, its stacks are kept in the store."""
    number = words.fatal_signal(code)
    if number is None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return WorkerDied(f"its process ended with {how}, having used {bytes_seen / 2**20:.0f} MiB when last seen")
    file = Store(Path(task.workplace.store)).note_stacks(task.cell.identity, words.stacks())
    return Crashed(task.cell.network.name, number, str(file) if file else None)


def _enter(encoded: bytes, sender: Connection, errors: Connection, crash: Connection) -> None:
    # Imported here: the server has loaded the worker's module; the scheduling process never needs it.
    from oneticket.lab.execution.engines.worker import work

    work(encoded, sender, errors, crash)
