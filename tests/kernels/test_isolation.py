"""Trials in processes of their own: crashes and hangs end nothing else, and are told of the right one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from oneticket.kernels import isolation
from oneticket.kernels.isolation import Job, Verdict, judge, judge_elsewhere
from oneticket.kernels.trial import Blank, Trial


def trial(op: str = "aten.relu", width: int = 4) -> Trial:
    return Trial(op=op, arguments=(Blank((3, width), "float32", True),), layout="contiguous")


@pytest.fixture(scope="module", autouse=True)
def operations() -> Iterator[None]:
    """Operations that end their process, wait, or raise; and one that only does so for a process of several trials."""
    library = torch.library.Library("oneticket_unsafe", "DEF")
    first = os.getpid()
    seen: list[int] = []

    def kills(number: int, x: Tensor) -> Tensor:
        assert os.getpid() != first, "never in the process that asks"
        os.kill(os.getpid(), number)
        return x

    def late(x: Tensor) -> Tensor:
        seen.append(1)
        if len(seen) > 4:  # twice for each trial: damage that shows when others are at work
            os.kill(os.getpid(), signal.SIGABRT)
        return x.clone()

    def slow(x: Tensor) -> Tensor:
        time.sleep(60)
        return x

    def raises(x: Tensor) -> Tensor:
        raise RuntimeError("no such kernel")

    functions = {
        "segfault": lambda x: kills(signal.SIGSEGV, x), "abort": lambda x: kills(signal.SIGABRT, x),
        "late": late, "slow": slow, "raises": raises,
    }  # fmt: skip
    for name, function in functions.items():
        library.define(f"{name}(Tensor x) -> Tensor")
        library.impl(name, function, "CompositeImplicitAutograd")
    yield
    library._destroy()


def own(name: str) -> Trial:
    return trial(f"oneticket_unsafe.{name}")


def test_right_ones_are_right() -> None:
    assert judge([trial(width=width) for width in (1, 2, 3)], threads=1) == [Verdict()] * 3


@pytest.mark.parametrize(("name", "signal_name"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT")])
@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_crash_is_told_of_the_one_that_crashes(name: str, signal_name: str, place: int) -> None:
    trials = [trial(width=width) for width in (1, 2, 3, 4, 5)]
    trials[place] = own(name)
    verdicts = judge(trials, threads=1)
    assert [verdict.fault for verdict in verdicts] == [
        f"it crashes ({signal_name})" if number == place else None for number in range(5)
    ]


def test_several_crashes_are_told_apart() -> None:
    verdicts = judge([own("segfault"), trial(), own("abort"), trial(width=2)], threads=1)
    assert [verdict.fault for verdict in verdicts] == ["it crashes (SIGSEGV)", None, "it crashes (SIGABRT)", None]


def test_where_none_crashes_alone_all_are_at_fault() -> None:
    trials = [own("late"), trial(), trial(width=2), own("late"), trial(width=3), own("late")]
    assert judge(trials, threads=1) == [Verdict("it crashes (SIGABRT)")] * 6


def test_a_hang_ends_and_is_not_kept() -> None:
    job = Job((own("slow"), trial()), 1, patience=2.0)
    began = time.monotonic()
    hung, right = isolation._judge_here(job)
    assert time.monotonic() - began < 30
    assert (hung.fault, hung.sure) == ("it does not end within 2 s", False)
    assert right == Verdict()


def test_what_is_refused_is_a_fault() -> None:
    (verdict,) = judge([own("raises")], threads=1)
    assert verdict.fault == "it is refused (no such kernel)"


@pytest.mark.slow
def test_a_process_of_its_own_says_the_same() -> None:
    trials = (trial(), trial("aten.not_there"), trial(width=9))
    first, second, third = judge_elsewhere(Job(trials, threads=2))
    assert (first, third) == (Verdict(), Verdict())
    assert second.fault is not None


def test_a_process_that_can_not_start_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.sys, "executable", "/bin/false")
    (verdict,) = judge_elsewhere(Job((trial(),), threads=1))
    assert verdict.fault is not None
    assert not verdict.sure


def test_with_a_pool_of_threads_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    def forked() -> int:
        raise AssertionError("a pool of threads does not survive a fork")

    monkeypatch.setattr(os, "fork", forked)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert judge([trial()], threads=2) == [Verdict()]


def test_a_damaged_heap_is_seen_at_the_end() -> None:
    """The last trial of a process may have damaged it without a word."""
    import ctypes

    library = torch.library.Library("oneticket_heap", "DEF")

    def damages(x: Tensor) -> Tensor:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        blocks = [libc.malloc(ctypes.c_size_t(2000)) for _ in range(3)]
        ctypes.memset(blocks[1], 65, 2064)  # past its end: the size of the next one
        libc.free(ctypes.c_void_p(blocks[0]))
        return x.clone()

    library.define("damages(Tensor x) -> Tensor")
    library.impl("damages", damages, "CompositeImplicitAutograd")
    try:
        (verdict,) = judge([trial("oneticket_heap.damages")], threads=1)
    finally:
        library._destroy()
    assert verdict.fault is None or verdict.fault.startswith("it crashes")
