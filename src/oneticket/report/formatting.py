"""Tables as text: the columns that a reader needs, and how each number is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from oneticket.report.baselines import Baseline
from oneticket.report.groups import NONE, at
from oneticket.report.tables import COSTS, Comparison, Cost, CostRow, SummaryRow
from oneticket.statistics import Difference, Interval

MINUS = "−"
_GAP = 2  # spaces between two columns on a terminal
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Table:
    """A table of text.

    Parameters
    ----------
    header : tuple of str
        The titles of the columns.
    lines : tuple of tuple of str
        One text for each column, line by line.
    numeric : tuple of bool
        Which columns hold numbers, to be set flush right.
    """

    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class _Column:
    header: str
    text: Callable[[SummaryRow], str]
    numeric: bool = True
    # Left out where all rows would say the same, or where ``idle`` says so of all of them.
    optional: bool = False
    idle: Callable[[SummaryRow], bool] | None = None
    # Where the width does not hold all columns, they are dropped in the order of these numbers; None always stays.
    dropped: int | None = None


def _is_met(row: SummaryRow) -> bool:
    """Whether a network has the density asked for, to the digits in which it was asked: at least two, at most three."""
    asked, met = row.group.density_asked, row.density
    if asked is None or met is None:
        return True
    digits = next((n for n in (2, 3) if float(f"{asked:.{n}g}") == asked), 3)
    return f"{asked:.{digits}g}" == f"{met:.{digits}g}"


_SUMMARY = (
    _Column("experiment", lambda row: row.group.experiment, numeric=False, optional=True),
    _Column("model", lambda row: row.group.model, numeric=False, optional=True),
    _Column("target", lambda row: at(row.group.target, row.group.target_recipe), numeric=False, optional=True),
    _Column("source", lambda row: at(row.group.source, row.group.source_recipe), numeric=False, optional=True),
    _Column("asked %", lambda row: density(row.group.density_asked), idle=_is_met),
    _Column("weights %", lambda row: density(row.density)),
    _Column("effective %", lambda row: density(row.effective_density), optional=True),
    _Column("arm", lambda row: row.group.arm, numeric=False),
    _Column("rescale", lambda row: row.group.rescale, numeric=False, optional=True),
    _Column("n", lambda row: counted(row.accuracy.n, row.diverged)),
    _Column("accuracy %", lambda row: spread(row.accuracy.mean, row.accuracy.deviation)),
    _Column("95 % interval", lambda row: interval(row.accuracy.interval), dropped=0),
)
_COST_HEADERS = {
    "search_trainings": "search trainings",
    "train_flops": "training FLOPs",
    "masked_flops": "mask-aware FLOPs",
    "seconds": "seconds",
    "own_steps": "steps of its own",
    "total_steps": "steps, search included",
    "total_samples": "samples, search included",
    "total_masked_flops": "mask-aware FLOPs, search included",
}


def summary_table(rows: Sequence[SummaryRow], *, width: int | None = None) -> Table:
    """The summary as text, for a terminal, a page or a paper; columns that tell no rows apart are left out.

    Accuracies are percentages, differences percentage points, both with two decimals; weights % is the density, with
    asked % beside it where a network has another than was asked for, to two digits or the three in which it was.

    Parameters
    ----------
    rows : Sequence[SummaryRow]
        One line for each, in this order.
    width : int, optional
        Characters of a line, two spaces between columns. Intervals are left out, then the differences from the last
        baseline to the first, until the table fits.

    Returns
    -------
    Table
    """
    texts = _needed(rows)
    dropped = _dropped(texts, width)
    kept = [column for column in texts if column not in dropped]
    return Table(
        header=tuple(column.header for column in kept),
        lines=tuple(zip(*(texts[column] for column in kept), strict=True)),
        numeric=tuple(column.numeric for column in kept),
    )


def _needed(rows: Sequence[SummaryRow]) -> dict[_Column, list[str]]:
    """The texts of all columns but those that would say the same in each row, or nothing."""
    versus = [_versus(baseline, place) for place, baseline in enumerate(rows[0].versus)] if rows else []
    columns = [c for c in (*_SUMMARY, *versus) if c.idle is None or not all(map(c.idle, rows))]
    texts = {column: list(map(column.text, rows)) for column in columns}
    return {column: said for column, said in texts.items() if not column.optional or len(set(said)) > 1}


def _dropped(texts: Mapping[_Column, Sequence[str]], width: int | None) -> list[_Column]:
    """The columns to leave out so that the rest fits, as far as it can."""
    dropped: list[_Column] = []
    widths = {column: max(map(len, (column.header, *said))) for column, said in texts.items()}
    excess = 0 if width is None else sum(widths.values()) + _GAP * (len(widths) - 1) - width
    for column in sorted((c for c in texts if c.dropped is not None), key=lambda c: c.dropped or 0):
        if excess <= 0:
            break
        dropped.append(column)
        excess -= widths[column] + _GAP
    return dropped


def _versus(baseline: Baseline, place: int) -> _Column:
    text = lambda row: comparison(row.versus[baseline])  # noqa: E731
    return _Column(f"vs {baseline.label}", text, optional=True, dropped=1000 - place)


def cost_table(rows: Sequence[CostRow]) -> Table:
    """The costs as text: the mean and, where the networks differ, the least and the greatest in brackets.

    Experiment and model have a column where they tell rows apart, a cost where anything of it was recorded.
    """
    keys = [key for key in ("experiment", "model") if len({getattr(row, key) for row in rows}) > 1]
    kept = [cost for cost in COSTS if any(row.costs[cost] for row in rows)]
    return Table(
        header=(*keys, "arm", "networks", *(_COST_HEADERS[cost] for cost in kept)),
        lines=tuple(_cost_line(row, keys, kept) for row in rows),
        numeric=(*(False for _ in keys), False, *(True for _ in range(1 + len(kept)))),
    )


def _cost_line(row: CostRow, keys: Sequence[str], kept: Sequence[str]) -> tuple[str, ...]:
    names = (str(getattr(row, key)) for key in keys)
    return (*names, row.arm, str(row.n), *(_cost(row.costs[cost]) for cost in kept))


def density(value: float | None) -> str:
    """A fraction as a percentage with three significant digits."""
    return NONE if value is None else f"{100 * value:#.3g}".rstrip(".")


def counted(n: int, diverged: int) -> str:
    """How many networks, and in brackets how many of them diverged, if any did."""
    return f"{n} ({diverged} diverged)" if diverged else str(n)


def percent(value: float) -> str:
    """A fraction as a percentage with two decimals."""
    return f"{100 * value:.2f}".replace("-", MINUS)


def spread(mean: float, deviation: float | None) -> str:
    """Mean ± standard deviation, fractions as percentages; the mean alone for one seed."""
    return percent(mean) if deviation is None else f"{percent(mean)} ± {percent(deviation)}"


def interval(value: Interval | None) -> str:
    """An interval of fractions, as percentages in brackets."""
    return NONE if value is None else f"[{percent(value.low)}, {percent(value.high)}]"


def difference(value: Difference) -> str:
    """A difference of fractions in percentage points, with its sign and its interval."""
    if value.interval is None:
        return signed(value.mean)
    return f"{signed(value.mean)} [{signed(value.interval.low)}, {signed(value.interval.high)}]"


def comparison(value: Comparison | None) -> str:
    """A difference with its interval, starred where it is significant after Holm's correction; a dash for None."""
    if value is None:
        return NONE
    return ("* " if value.significant() else "") + difference(value.difference)


def quantity(value: float) -> str:
    """A count or an amount with three significant digits and an SI prefix: ``1.23 T``."""
    for unit, prefix in PREFIXES:
        if abs(value) >= unit:
            return f"{value / unit:.3g} {prefix}"
    return f"{value:.3g}"


def signed(value: float) -> str:
    """A fraction in percentage points with two decimals and its sign; zero has none."""
    text = f"{100 * value:+.2f}".replace("-", MINUS)
    return "0.00" if text[1:] == "0.00" else text


def _cost(cost: Cost | None) -> str:
    if cost is None:
        return NONE
    least, most = quantity(cost.low), quantity(cost.high)
    return quantity(cost.mean) if least == most else f"{quantity(cost.mean)} ({least} – {most})"
