"""Trials in processes of their own: a kernel that crashes, or never ends, takes nothing with it."""

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
"""Seconds without a word after which a process hangs; the slowest trial of a large network takes one or two."""

TOGETHER = 264
"""Trials in one process at most."""


class Verdict(msgspec.Struct, frozen=True):
    """What came of a trial: ``fault`` says what is wrong; ``sure`` is False where a busy machine may be to blame."""

    fault: str | None = None
    sure: bool = True


class Job(msgspec.Struct, frozen=True):
    """What the host is asked: trials, and the number of threads to compute them with."""

    trials: tuple[Trial, ...]
    threads: int
    patience: float = PATIENCE


def judge(trials: Sequence[Trial], threads: int) -> list[Verdict]:
    """The verdict on each of ``trials``, computed with ``threads`` threads, in the order given.

    They are tried one after another in one process. Where that dies, the heap may have been damaged long before, so
    halves of them are tried again, and where both halves live on, all of them are at fault.
    """
    job = Job(tuple(trials), threads)
    return list(_judge_here(job) if _can_fork() else judge_elsewhere(job))


def _judge_here(job: Job) -> Iterator[Verdict]:
    """By forks of this process, which must not have a pool of threads that computes."""
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

    ``watched`` has the C library look after its heap, where it can (glibc): what is damaged is then found at once.
    """
    environment = dict(os.environ)
    if watched:
        environment |= {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    command = [sys.executable, "-c", "from oneticket.kernels.isolation import host; host()"]
    told = 0
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(job))
            process.stdin.close()
        for line in process.stdout:
            told += 1
            yield msgspec.json.decode(line, type=Verdict)
    reason = f"the process that was to try it ended with code {process.returncode}"
    yield from [Verdict(reason, sure=False)] * (len(job.trials) - told)


def host() -> None:
    """The life of the process of :func:`judge_elsewhere`: a job in, a line for each verdict out."""
    torch.set_num_threads(1)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    on_cpu = all(trial.device == "cpu" for trial in job.trials)
    for verdict in _judge_here(job) if on_cpu and hasattr(os, "fork") else map(_verdict, job.trials):
        sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
        sys.stdout.buffer.flush()


def _can_fork() -> bool:
    # A pool of threads, and an accelerator, would not survive it; on macOS nor do the system's own libraries.
    alone = torch.get_num_threads() == 1 and torch.accelerator.current_accelerator() is None
    return alone and sys.platform == "linux"


class _Forked(NamedTuple):
    """How a process ended (None: well), and the verdicts that it had told until then."""

    ending: Verdict | None
    verdicts: list[Verdict]


def _forked(trials: Sequence[Trial], job: Job) -> _Forked:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _live(trials, job.threads, writing)
    os.close(writing)
    told, hung = _told(reading, job.patience)
    os.close(reading)
    if hung:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    verdicts = [msgspec.json.decode(line, type=Verdict) for line in told.splitlines()]
    if hung:
        return _Forked(Verdict(f"it does not end within {job.patience:.0f} s", sure=False), verdicts)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return _Forked(Verdict(f"it crashes ({signal.Signals(-code).name})"), verdicts)
    if code or len(verdicts) != len(trials):
        return _Forked(Verdict(f"its process ended with code {code}", sure=False), verdicts)
    return _Forked(None, verdicts)


def _live(trials: Sequence[Trial], threads: int, writing: int) -> None:
    """The whole life of a child: whatever happens, it never returns to its parent's code."""
    code = 1
    try:
        faulthandler.disable()  # what it would print is not for the terminal of the parent
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
    """Have glibc visit every block that is free: one whose size was overwritten ends the process."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _told(reading: int, patience: float) -> tuple[bytes, bool]:
    """All that is said before the pipe is closed, and whether nothing was said for too long."""
    told, heard = b"", time.monotonic()
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, heard + patience - time.monotonic()))
        if not ready:
            return told, True
        part: Any = os.read(reading, 65536)
        if not part:
            return told, False
        told, heard = told + part, time.monotonic()
