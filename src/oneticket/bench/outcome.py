"""The outcome of runs of the bench: the content of the JSON, how it is kept, and how several are merged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from oneticket.bench.machine import Machine
from oneticket.bench.measures.ceiling import Ceiling, Floor
from oneticket.bench.pairing import Spread
from oneticket.bench.rows import ROWS, Row
from oneticket.errors import InputError, unknown
from oneticket.training.recipe import Precision

_TO = " to "


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row, measured.

    ``measured`` is in ``unit``, and None if the row could not be measured, for the reason in ``note``. ``seconds`` has
    every repetition of every contestant (for training steps, seconds of a step), ``against`` the ratios to contestants
    other than the reference loop. ``met`` is None also in the short form: targets are for the full size.
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


class ModelStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training step of one network: milliseconds (the mean over ``steps`` steps), floor, and where the time goes.

    ``ms`` is measured without the profiler, the families with it.
    """

    model: str
    precision: Precision
    batch_size: int
    steps: int
    ms: float
    floor: Floor
    families: list[Family]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that was measured, and on which machine.

    ``profiles`` are those of rows, by name; ``models`` holds what ``--profile-models`` measures instead of rows.
    """

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
    models: list[ModelStep] = []

    def as_json(self) -> str:
        """The JSON of the command."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode()

    def write(self, path: Path) -> None:
        """Write the JSON to ``path``; after an interruption the file is as it was before."""
        place = path.resolve()
        text = f"{self.as_json()}\n"
        if place.exists() and not place.is_file():  # a pipe, say
            place.write_text(text, encoding="utf-8")
            return
        beside = place.with_name(f"{place.name}.{os.getpid()}.writing")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, place)


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
    """An outcome that ``--out`` wrote earlier; InputError for a file that does not hold one."""
    try:
        outcome = msgspec.json.decode(path.read_bytes(), type=Outcome)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), expected="a JSON file") from None
    except msgspec.DecodeError as error:
        expected = "what `oneticket bench --out` writes"
        raise InputError(f"is not an outcome of the bench ({error})", where=str(path), expected=expected) from None
    for entry in outcome.results:
        if entry.row not in ROWS:
            raise unknown("row", entry.row, ROWS, where=str(path))
    return outcome


def merged(earlier: Outcome, later: Outcome) -> Outcome:
    """Both outcomes as one; what both have, ceiling and repetitions included, is taken from ``later``.

    Raises InputError unless both are of one machine, device and form, with equal versions, threads and loaders.
    """
    one, other = _kind(earlier), _kind(later)
    for key, value in one.items():
        if other[key] != value:
            what = f"the outcomes are of two kinds: {key} {value} and {other[key]}"
            raise InputError(what, where="--from", expected="outcomes of one machine, measured alike")
    results = {entry.row: entry for entry in (*earlier.results, *later.results)}
    models = {(entry.model, entry.precision): entry for entry in (*earlier.models, *later.models)}
    dates = sorted({*earlier.date.split(_TO), *later.date.split(_TO)})
    return msgspec.structs.replace(
        later,
        date=_TO.join(dict.fromkeys((dates[0], dates[-1]))),
        results=[results[name] for name in ROWS if name in results],
        profiles={**earlier.profiles, **later.profiles},
        models=list(models.values()),
    )


def _kind(outcome: Outcome) -> dict[str, object]:
    machine = {key: getattr(outcome.machine, key) for key in ("processor", "cores", "vectors", "bf16", "versions")}
    alike = {key: getattr(outcome, key) for key in ("device", "short", "threads", "loader_workers")}
    return {**machine, **alike}
