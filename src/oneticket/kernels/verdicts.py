"""Verdicts on the kernels of this machine: each trial is made once and kept in the cache.

``CACHE/kernels/MACHINE.jsonl``: the machine in the first line, then one line for each trial. It can be deleted; trying
again takes a second.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import torch

from oneticket.identity import digest
from oneticket.kernels.isolation import Verdict, judge
from oneticket.kernels.machine import this_machine
from oneticket.kernels.trial import Trial
from oneticket.places import cache_home

VERSION = 1  # to be raised when trials are judged in another way


class Line(msgspec.Struct, omit_defaults=True):
    """A verdict as it is kept; ``about`` describes only trials at fault."""

    trial: str
    threads: int
    fault: str | None = None
    about: str = ""


def faults(trials: Iterable[Trial]) -> dict[Trial, str]:
    """The trials that are wrong with the current number of threads, and how; unknown ones are tried first."""
    threads, trials = torch.get_num_threads(), list(trials)
    known = _known(_file())
    lacking = [trial for trial in trials if (trial.name, threads) not in known]
    if lacking:
        fresh = dict(zip(lacking, judge(lacking, threads), strict=True))
        known |= {(trial.name, threads): verdict.fault for trial, verdict in fresh.items()}
        _keep({trial: verdict for trial, verdict in fresh.items() if verdict.sure}, threads)
    found = {trial: known[trial.name, threads] for trial in trials}
    return {trial: fault for trial, fault in found.items() if fault is not None}


def known_faults() -> tuple[int, list[Line]]:
    """The number of trials known on this machine, and those at fault."""
    lines = list(_lines(_file()))
    return len(lines), [line for line in lines if line.fault is not None]


def _file() -> Path:
    facts = [VERSION, msgspec.to_builtins(this_machine())]
    return cache_home() / "kernels" / f"{digest(facts)[:16]}.jsonl"


@cache
def _known(file: Path) -> dict[tuple[str, int], str | None]:
    return {(line.trial, line.threads): line.fault for line in _lines(file)}


def _lines(file: Path) -> Iterable[Line]:
    with contextlib.suppress(OSError):
        for text in file.read_bytes().splitlines()[1:]:
            with contextlib.suppress(msgspec.MsgspecError):  # a line that was cut off when a process was killed
                yield msgspec.json.decode(text, type=Line)


def _keep(verdicts: Mapping[Trial, Verdict], threads: int) -> None:
    """Append the verdicts; if the file cannot be written, the trials are made again next time."""
    lines: list[Any] = [
        Line(trial.name, threads, verdict.fault, trial.about if verdict.fault else "")
        for trial, verdict in verdicts.items()
    ]
    file = _file()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        head = [] if file.exists() else [this_machine()]
        text = b"".join(msgspec.json.encode(line) + b"\n" for line in head + lines)
        place = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(place, text)  # in one write, so that lines of two processes do not mix
        finally:
            os.close(place)
