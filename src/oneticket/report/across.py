"""The summary with one column for each target: what the arms of each source are worth, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from oneticket.report.cells import Table, comparison, density, spread
from oneticket.report.groups import NONE, Group, at
from oneticket.report.palette import arm_order
from oneticket.report.tables import SummaryRow

ITSELF = "the target"
"""Source of an arm that is found on every target itself."""

Form = Callable[[SummaryRow], list[str]]
"""What a cell tells: a value, and notes in brackets behind it."""


class _Line(NamedTuple):
    """What the cells of one line have in common."""

    source: str
    density: float
    arm: str
    rescale: str


def across_tables(
    rows: Sequence[SummaryRow], *, arms: Sequence[str] = (), width: int | None = None
) -> list[tuple[str, Table]]:
    """A title and a table for each experiment and model; ``arms``, if given, are those shown, in this order.

    A cell is mean ± sample standard deviation in percent and, where the summary has a baseline, the difference to the
    first of them with its interval, in points. Differences and then deviations are left out until ``width`` holds all.
    """
    shown = [row for row in rows if not arms or row.group.arm in arms]
    tables = []
    for (experiment, model), part in groupby(shown, key=lambda row: (row.group.experiment, row.group.model)):
        kept = list(part)
        counts = {row.accuracy.n for row in kept}
        told = f" · n = {min(counts)}" if len(counts) == 1 else ""
        forms = [_table(kept, arms, form, tell=not told) for form in (_compared, _spread, _mean)]
        fitting = (table for table in forms if width is None or _width(table) <= width)
        tables.append((f"{experiment} · {model}{told}", next(fitting, forms[-1])))
    return tables


def _table(rows: Sequence[SummaryRow], arms: Sequence[str], form: Form, *, tell: bool) -> Table:
    targets = list(dict.fromkeys(at(row.group.target, row.group.target_recipe) for row in rows))
    own = {row.group.arm for row in rows} - {row.group.arm for row in rows if not _is_own(row.group)}
    lines: dict[_Line, dict[str, SummaryRow]] = {}
    for row in rows:
        group = row.group
        source = ITSELF if group.arm in own and len(targets) > 1 else at(group.source, group.source_recipe)
        line = _Line(source, group.density_asked or 0.0, group.arm, group.rescale)
        lines.setdefault(line, {})[at(group.target, group.target_recipe)] = row

    def place(line: _Line) -> tuple[object, ...]:
        shared = {NONE: 0, ITSELF: 1}.get(line.source, 2)
        if arms:
            return arms.index(line.arm), shared, line.source, -line.density, line.rescale != "none", line.rescale
        return shared, line.source, -line.density, arm_order(line.arm), line.rescale != "none", line.rescale

    ordered = sorted(lines, key=place)
    columns: list[tuple[str, list[str], bool]] = [
        ("source", [line.source for line in ordered], False),
        ("weights %", [density(next(iter(lines[line].values())).density) for line in ordered], True),
        ("arm", [line.arm for line in ordered], False),
        ("rescale", [line.rescale for line in ordered], False),
    ]
    for target in targets:
        columns.append((target, [_cell(lines[line].get(target), form, tell=tell) for line in ordered], False))
    named = {line.source for line in ordered} - {NONE, ITSELF}
    spared = {"source"} if len(named) < 2 else set()
    spared |= {"rescale"} if len({line.rescale for line in ordered}) < 2 else set()
    kept = [column for column in columns if column[0] not in spared]
    return Table(
        header=tuple(title for title, _, _ in kept),
        cells=tuple(zip(*(texts for _, texts, _ in kept), strict=True)),
        numeric=tuple(numeric for _, _, numeric in kept),
    )


def _is_own(group: Group) -> bool:
    return (group.source, group.source_recipe) == (group.target, group.target_recipe)


def _cell(row: SummaryRow | None, form: Form, *, tell: bool) -> str:
    if row is None:
        return NONE
    value, *notes = form(row)
    if tell:
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
    columns = zip(table.header, *table.cells, strict=True)
    return sum(max(map(len, column)) for column in columns) + 2 * (len(table.header) - 1)
