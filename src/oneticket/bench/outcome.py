"""The outcome of a run of the bench: what JSON carries, and whether a ratio has fallen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from oneticket.bench.ceiling import Ceiling, Floor
from oneticket.bench.machine import Machine
from oneticket.bench.pairing import Spread
from oneticket.bench.rows import Row
from oneticket.errors import InputError

EXPECTED = Path(__file__).with_name("expected.json")
"""The outcome of ``oneticket bench --short`` on a reference machine, as ``--out`` writes it."""

TOLERATED = 0.25
"""The part of an expected ratio by which a measured one may be smaller."""


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row, measured.

    ``measured`` is in ``unit`` and None where nothing could be measured, which ``note`` explains. ``seconds`` has every
    repetition of every alternative (for training steps, seconds of a step), ``against`` the ratios to the alternatives
    besides the reference loop. ``met`` is None in the short form too: targets are those of the full size.
    """

    row: str
    what: str
    unit: str
    target: float
    measured: Spread | None = None
    met: bool | None = None
    seconds: dict[str, list[float]] = {}
    against: dict[str, Spread] = {}
    floor: Floor | None = None
    details: dict[str, Any] = {}
    note: str = ""


class Family(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of a training step that one family of operators takes: milliseconds, and the fraction of the step."""

    family: str
    ms: float
    share: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything one run of the bench measured, with what it was measured on."""

    schema: int = 1
    date: str
    short: bool
    device: str
    threads: int
    repeats: int
    loader_workers: int
    machine: Machine
    ceiling: Ceiling
    results: list[Result]
    profiles: dict[str, list[Family]] = {}

    def as_json(self) -> str:
        """The JSON of the command."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode()


def result(row: Row, measured: Spread, **facts: Any) -> Result:
    """The result of a row that was measured."""
    return Result(
        row=row.name, what=row.what, unit=row.unit, target=row.target, measured=measured, met=row.met(measured.median),
        **facts,
    )  # fmt: skip


def absent(row: Row, note: str) -> Result:
    """The result of a row that could not be measured, and why."""
    return Result(row=row.name, what=row.what, unit=row.unit, target=row.target, note=note)


def read_outcome(path: Path) -> Outcome:
    """An outcome written earlier; InputError when the file holds none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Outcome)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), expected="a JSON file") from None
    except msgspec.DecodeError as error:
        expected = "what `oneticket bench --out` writes"
        raise InputError(f"is no outcome of the bench ({error})", where=str(path), expected=expected) from None


def regressions(measured: Outcome, expected: Outcome) -> list[str]:
    """A line for each ratio that is smaller than expected by more than a quarter.

    Only rows that both measured are compared: seconds depend on the machine, ratios hardly do. InputError when one of
    the two is of the short form and the other is not, or when they are of different devices.
    """
    if (measured.short, measured.device) != (expected.short, expected.device):
        raise InputError(
            f"a run {_kind(measured)} compared with one {_kind(expected)}", where="--check", expected="two of one kind"
        )
    before = {r.row: r.measured.median for r in expected.results if r.measured is not None and r.unit == "×"}
    return [
        f"{r.row}: {r.measured.median:.2f} ×, expected {before[r.row]:.2f} × (at least {least:.2f} ×)"
        for r in measured.results
        if r.measured is not None and r.row in before and r.measured.median < (least := (1 - TOLERATED) * before[r.row])
    ]


def unmeasured(measured: Outcome, expected: Outcome) -> list[str]:
    """The rows that were expected and not measured, each with the reason."""
    ratios = {r.row for r in expected.results if r.measured is not None and r.unit == "×"}
    return [f"{r.row}: {r.note}" for r in measured.results if r.measured is None and r.row in ratios]


def _kind(outcome: Outcome) -> str:
    return f"{'in short' if outcome.short else 'at full size'} on {outcome.device}"
