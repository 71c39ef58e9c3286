"""The summary with one column for each target: what the arms of each source are worth, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from oneticket.report.formatting import Table, comparison, density, spread
from oneticket.report.groups import NONE, Group, at
from oneticket.report.palette import arm_order
from oneticket.report.tables import SummaryRow

ITSELF = "the target"
"""Source of an arm whose ticket is found on each target itself."""

Form = Callable[[SummaryRow], list[str]]
"""How much a field says: a value, and notes to put in brackets behind it."""


class _Line(NamedTuple):
    """What the networks of one line have in common."""

    source: str
    density: float
    arm: str
    rescale: str


class _Column(NamedTuple):
    title: str
    texts: tuple[str, ...]
    numeric: bool = False


_Lines = Mapping[_Line, Mapping[str, SummaryRow]]
"""Line → target → the network there, in the order of the table."""


def wide_tables(
    rows: Sequence[SummaryRow], *, arms: Sequence[str] = (), width: int | None = None
) -> list[tuple[str, Table]]:
    """A title and a table for each experiment and model.

    A field is mean ± sample standard deviation in percent and, where the summary has a baseline, the difference to the
    first baseline with its interval, in points.

    Parameters
    ----------
    rows : Sequence[SummaryRow]
        The summary, in its own order.
    arms : Sequence[str], optional
        The arms to show, in this order; all of them by default.
    width : int, optional
        Characters of a line. Differences and then deviations are left out until the table fits; without a width
        everything is shown.

    Returns
    -------
    list of (str, Table)
        In the order of ``rows``.
    """
    shown = [row for row in rows if not arms or row.group.arm in arms]
    parts = groupby(shown, key=lambda row: (row.group.experiment, row.group.model))
    return [_titled_table(list(part), arms, width) for _, part in parts]


def _titled_table(rows: Sequence[SummaryRow], arms: Sequence[str], width: int | None) -> tuple[str, Table]:
    """The table of one experiment and model; the number of seeds stands in the title where it is the same for all."""
    counts = {row.accuracy.n for row in rows}
    title = f"{rows[0].group.experiment} · {rows[0].group.model}"
    if len(counts) == 1:
        title += f" · n = {min(counts)}"
    targets = list(dict.fromkeys(_target(row.group) for row in rows))
    lines = _lines(rows, arms, several_targets=len(targets) > 1)
    tables = [_table(lines, targets, form, with_n=len(counts) > 1) for form in (_compared, _spread, _mean)]
    return title, next((table for table in tables if width is None or _width(table) <= width), tables[-1])


def _lines(rows: Sequence[SummaryRow], arms: Sequence[str], *, several_targets: bool) -> _Lines:
    found_on_target = _arms_found_on_target(rows) if several_targets else set()
    lines: dict[_Line, dict[str, SummaryRow]] = {}
    for row in rows:
        group = row.group
        source = ITSELF if group.arm in found_on_target else at(group.source, group.source_recipe)
        line = _Line(source, group.density_asked or 0.0, group.arm, group.rescale)
        lines.setdefault(line, {})[_target(group)] = row
    return {line: lines[line] for line in sorted(lines, key=lambda line: _place(line, arms))}


def _arms_found_on_target(rows: Sequence[SummaryRow]) -> set[str]:
    """The arms whose ticket is never of another source than the target itself."""
    groups = [row.group for row in rows]
    elsewhere = {g.arm for g in groups if (g.source, g.source_recipe) != (g.target, g.target_recipe)}
    return {group.arm for group in groups} - elsewhere


def _place(line: _Line, arms: Sequence[str]) -> tuple[Any, ...]:
    """Sorting key: what belongs to no source, the target's own, then the sources by name; in each the densest first."""
    shared = {NONE: 0, ITSELF: 1}.get(line.source, 2)
    rescale = (line.rescale != "none", line.rescale)
    if arms:
        return arms.index(line.arm), shared, line.source, -line.density, *rescale
    return shared, line.source, -line.density, arm_order(line.arm), *rescale


def _table(lines: _Lines, targets: Sequence[str], form: Form, *, with_n: bool) -> Table:
    columns = _columns_of_lines(lines)
    for target in targets:
        texts = tuple(_field(networks.get(target), form, with_n=with_n) for networks in lines.values())
        columns.append(_Column(target, texts))
    return Table(
        header=tuple(column.title for column in columns),
        lines=tuple(zip(*(column.texts for column in columns), strict=True)),
        numeric=tuple(column.numeric for column in columns),
    )


def _columns_of_lines(lines: _Lines) -> list[_Column]:
    """The columns left of the targets; source and rescale only where they tell lines apart."""
    densities = (density(next(iter(networks.values())).density) for networks in lines.values())
    columns = [
        _Column("source", tuple(line.source for line in lines)),
        _Column("weights %", tuple(densities), numeric=True),
        _Column("arm", tuple(line.arm for line in lines)),
        _Column("rescale", tuple(line.rescale for line in lines)),
    ]
    values = {"source": {line.source for line in lines} - {NONE, ITSELF}, "rescale": {line.rescale for line in lines}}
    return [column for column in columns if column.title not in values or len(values[column.title]) > 1]


def _target(group: Group) -> str:
    return at(group.target, group.target_recipe)


def _field(row: SummaryRow | None, form: Form, *, with_n: bool) -> str:
    if row is None:
        return NONE
    value, *notes = form(row)
    if with_n:
        notes.append(f"n = {row.accuracy.n}")
    if row.diverged:
        notes.append(f"{row.diverged} diverged")
    return f"{value} ({'; '.join(notes)})" if notes else value


def _compared(row: SummaryRow) -> list[str]:
    found = next(iter(row.versus.values()), None)
    return _spread(row) + ([comparison(found)] if found is not None else [])


def _spread(row: SummaryRow) -> list[str]:
    return [spread(row.accuracy.mean, row.accuracy.deviation)]


def _mean(row: SummaryRow) -> list[str]:
    return [spread(row.accuracy.mean, None)]


def _width(table: Table) -> int:
    columns = zip(table.header, *table.lines, strict=True)
    return sum(max(map(len, column)) for column in columns) + 2 * (len(table.header) - 1)
