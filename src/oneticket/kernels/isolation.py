"""Trials in separate processes, so that a kernel may crash or hang."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import torch

from oneticket.kernels.trial import Trial, worst

PATIENCE = 30.0
"""Seconds without output after which a process counts as hung; the slowest trials take one or two."""

TOGETHER = 264
"""The most trials in one process."""


class Verdict(msgspec.Struct, frozen=True):
    """The result of a trial: its fault, or None; ``sure`` is False if a busy machine may be the reason."""

    fault: str | None = None
    sure: bool = True


class Job(msgspec.Struct, frozen=True):
    """A job for the host: trials, and the number of threads to compute them with."""

    trials: tuple[Trial, ...]
    threads: int
    patience: float = PATIENCE


def judge(trials: Sequence[Trial], threads: int) -> list[Verdict]:
    """The verdict on each of ``trials``, computed with ``threads`` threads, in the order given.

    They run one after the other in one process. If it dies, an earlier trial may have damaged the heap, so each half of
    them is tried again; if both halves survive, all of them are at fault.
    """
    job = Job(tuple(trials), threads)
    return list(_judge_here(job) if _can_fork() else judge_elsewhere(job))


def _judge_here(job: Job) -> Iterator[Verdict]:
    """Verdicts by forks of this process, which must not have a pool of computing threads."""
    for first in range(0, len(job.trials), TOGETHER):
        yield from _judge_together(job.trials[first : first + TOGETHER], job)


def _judge_together(trials: Sequence[Trial], job: Job) -> list[Verdict]:
    whole = _forked(trials, job)
    if whole.ending is None:
        return whole.verdicts
    half = len(trials) // 2
    parts = _judge_together(trials[:half], job) + _judge_together(trials[half:], job) if half else []
    return parts if any(verdict.fault for verdict in parts) else [whole.ending] * len(trials)


def judge_elsewhere(job: Job, *, watched: bool = False) -> Iterator[Verdict]:
    """As :func:`judge`, from a process that has no threads yet.

    With ``watched`` the C library (glibc) checks its heap, so that damage is found at once.
    """
    environment = dict(os.environ)
    if watched:
        environment |= {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    command = [sys.executable, "-c", "from oneticket.kernels.isolation import host; host()"]
    received = 0
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(job))
            process.stdin.close()
        for line in process.stdout:
            received += 1
            yield msgspec.json.decode(line, type=Verdict)
    reason = f"the process that should have tried it ended with code {process.returncode}"
    yield from [Verdict(reason, sure=False)] * (len(job.trials) - received)


def host() -> None:
    """Main function of the process of :func:`judge_elsewhere`: reads a job, writes a line for each verdict."""
    torch.set_num_threads(1)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    on_cpu = all(trial.device == "cpu" for trial in job.trials)
    for verdict in _judge_here(job) if on_cpu and hasattr(os, "fork") else map(_verdict, job.trials):
        sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
        sys.stdout.buffer.flush()


def _can_fork() -> bool:
    # Pools of threads and accelerators do not survive a fork; on macOS system libraries do not either.
    alone = torch.get_num_threads() == 1 and torch.accelerator.current_accelerator() is None
    return alone and sys.platform == "linux"


class _Forked(NamedTuple):
    """How a process ended (None: normally), and its verdicts until then."""

    ending: Verdict | None
    verdicts: list[Verdict]


def _forked(trials: Sequence[Trial], job: Job) -> _Forked:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _live(trials, job.threads, writing)
    os.close(writing)
    output, hung = _output(reading, job.patience)
    os.close(reading)
    if hung:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    verdicts = [msgspec.json.decode(line, type=Verdict) for line in output.splitlines()]
    if hung:
        return _Forked(Verdict(f"it does not end within {job.patience:.0f} s", sure=False), verdicts)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return _Forked(Verdict(f"it crashes ({signal.Signals(-code).name})"), verdicts)
    if code or len(verdicts) != len(trials):
        return _Forked(Verdict(f"its process ended with code {code}", sure=False), verdicts)
    return _Forked(None, verdicts)


def _live(trials: Sequence[Trial], threads: int, writing: int) -> None:
    """Main function of a child: it never returns to its parent's code, also after an exception."""
    code = 1
    try:
        faulthandler.disable()  # its output would appear on the parent's terminal
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE):
            signal.signal(number, signal.SIG_DFL)
        torch.set_num_threads(threads)
        for trial in trials:
            os.write(writing, msgspec.json.encode(_verdict(trial)) + b"\n")
        _look_through_the_heap()
        code = 0
    finally:
        os._exit(code)


def _verdict(trial: Trial) -> Verdict:
    try:
        return Verdict(worst(trial))
    except MemoryError:
        return Verdict("there was not enough memory to try it", sure=False)
    except RuntimeError as error:
        refused = str(error).splitlines()[0]
        return Verdict(f"it is refused ({refused})", sure="memory" not in refused)


def _look_through_the_heap() -> None:
    """Let glibc visit every free block: one whose size was overwritten ends the process."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _output(reading: int, patience: float) -> tuple[bytes, bool]:
    """The output until the pipe is closed, and whether it stopped for longer than ``patience`` seconds."""
    output, heard = b"", time.monotonic()
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, heard + patience - time.monotonic()))
        if not ready:
            return output, True
        part: Any = os.read(reading, 65536)
        if not part:
            return output, False
        output, heard = output + part, time.monotonic()
