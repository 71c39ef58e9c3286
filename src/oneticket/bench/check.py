"""Whether oneticket has become slower: ratios compared with expected ones, with room for noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from oneticket.bench.outcome import Outcome
from oneticket.errors import InputError

EXPECTED = Path(__file__).with_name("expected.json")
"""What ``oneticket bench --short --ratios`` wrote on a quiet machine."""

TOLERATED = 0.25
"""The part of an expected ratio by which a measured one may be smaller."""

COMPARED = ("reference", "plain")
"""The rivals that a change of oneticket makes neither slower nor faster."""

Ratios = Mapping[str, Mapping[str, float]]
"""Row → alternative → how many times as fast oneticket is."""


def ratios(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The fastest turn of each rival over the fastest turn of oneticket, for each row that was measured.

    Other work on the machine makes a turn slower, never faster. So these are the ratios of an undisturbed machine as
    soon as each contestant has had one undisturbed turn, not necessarily the same; a median needs half of them.
    """
    return {
        entry.row: {
            name: min(entry.seconds[name]) / min(entry.seconds["ours"]) for name in COMPARED if name in entry.seconds
        }
        for entry in outcome.results
        if entry.measured is not None and entry.unit == "×"
    }


def fallen(measured: Ratios, expected: Ratios) -> list[str]:
    """The rows whose ratio to every rival is smaller than expected by more than a quarter.

    To every rival: a slower oneticket loses to all of them, while on another machine, where Python is slow or vectors
    are short, it loses to some.
    """
    return [
        row
        for row, now in measured.items()
        if (common := now.keys() & expected.get(row, {}).keys())
        and all(now[name] < (1 - TOLERATED) * expected[row][name] for name in common)
    ]


def regressions(
    outcome: Outcome, expected: Ratios, again: Callable[[Sequence[str]], Outcome] | None = None
) -> list[str]:
    """A line for each row that has fallen in ``outcome`` and, if there is ``again`` to measure it anew, there too.

    Raises InputError unless ``outcome`` is of the kind that the expected ratios are of: the short form, one thread, on
    a CPU.
    """
    _check_kind(outcome, "--check")
    found = {row: now for row, now in ratios(outcome).items() if row not in _of_slow_bf16(outcome)}
    suspects = fallen(found, expected)
    if suspects and again is not None:
        found = ratios(again(suspects))
        suspects = fallen(found, expected)
    return [f"{row}: {_as_text(found[row])}, expected {_as_text(expected[row])}" for row in suspects]


def unmeasured(outcome: Outcome, expected: Ratios) -> list[str]:
    """The rows that should have been compared and could not be measured, each with the reason."""
    return [
        f"{entry.row}: {entry.note}" for entry in outcome.results if entry.measured is None and entry.row in expected
    ]


def incomparable(outcome: Outcome, expected: Ratios) -> list[str]:
    """The rows whose expected ratio says nothing of this machine, each with the reason.

    The expected ratios of bf16, against rivals in float32, are of a processor that multiplies bf16 faster. Some have
    the instructions and multiply it slower.
    """
    speeds = f"{outcome.ceiling.bf16 / 1e9:.0f} GFLOP/s, {outcome.ceiling.float32 / 1e9:.0f} in float32"
    return [f"{row}: bf16 is not faster here ({speeds})" for row in _of_slow_bf16(outcome) if row in expected]


def _of_slow_bf16(outcome: Outcome) -> list[str]:
    slow = outcome.ceiling.bf16 <= outcome.ceiling.float32
    return [entry.row for entry in outcome.results if slow and entry.row.endswith("-bf16")]


def read_ratios(path: Path = EXPECTED) -> dict[str, dict[str, float]]:
    """The expected ratios."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, float]])


def write_ratios(path: Path, outcome: Outcome) -> None:
    """Write the ratios of a run, to be expected from now on; three digits, since further ones do not repeat.

    Raises InputError as `regressions` does.
    """
    _check_kind(outcome, "--ratios")
    rounded = {row: {name: float(f"{x:.3g}") for name, x in found.items()} for row, found in ratios(outcome).items()}
    path.write_text(msgspec.json.format(msgspec.json.encode(rounded), indent=1).decode() + "\n", encoding="utf-8")


def _check_kind(outcome: Outcome, where: str) -> None:
    if (outcome.short, outcome.device, outcome.threads) != (True, "cpu", 1):
        raise InputError(
            "this run is of another kind", where=where, expected="the short form, on the CPU, with one thread"
        )


def _as_text(found: Mapping[str, float]) -> str:
    return ", ".join(f"{ratio:.2f} × {name}" for name, ratio in found.items())
