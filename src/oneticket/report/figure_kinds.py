"""The kinds of figures, by the names that the command line has for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from oneticket.errors import InputError, unknown
from oneticket.report.baselines import USUAL
from oneticket.report.drawing import Columns
from oneticket.report.figure_by_arm import draw_by_arm
from oneticket.report.figure_compute import draw_compute, spent, totals
from oneticket.report.figure_forest import draw_forest, questions
from oneticket.report.figure_heat_map import draw_heat_map, heat_map
from oneticket.report.figures import draw
from oneticket.report.findings import main_arm
from oneticket.report.groups import at
from oneticket.report.palette import source_dashes
from oneticket.report.tables import Row, SummaryRow, checked, summary


class Asked(NamedTuple):
    """What a figure is drawn of: the tidy table, its summary, the arms that are shown (all if empty), the width."""

    table: Sequence[Row]
    rows: Sequence[SummaryRow]
    arms: Sequence[str]
    columns: Columns


def make_figure(
    table: Iterable[Row],
    kind: str,
    *,
    target: str | None = None,
    arms: Sequence[str] = (),
    against: Sequence[str] = USUAL,
    columns: Columns = 2,
) -> Figure:
    """A figure of a table of results.

    Parameters
    ----------
    table : Iterable[Row]
        The tidy table.
    kind : str
        One of ``KINDS``.
    target : str, optional
        Only this target, ``name@recipe``.
    arms : Sequence[str], optional
        Only these arms, and the dense network; all by default, of ``heat-map`` and ``differences`` the arm in question.
    against : Sequence[str], optional
        What the networks are compared with.
    columns : {1, 2}
        The width, in columns of a page of two.

    Raises
    ------
    InputError
        For words that the table does not hold, for a kind that shows one target where there are several, and where
        the table has nothing that the figure could show.
    """
    if kind not in KINDS:
        raise unknown("figure", kind, KINDS, where="--kind")
    networks = checked(table)
    rows = summary(networks, against)
    known = {row.group.arm for row in rows}
    for arm in arms:
        if arm not in known:
            raise unknown("arm", arm, sorted(known), where="--arm")
    targets = list(dict.fromkeys(at(row.group.target, row.group.target_recipe) for row in rows))
    if target is not None:
        if target not in targets:
            raise unknown("target", target, targets, where="--target")
        rows = [row for row in rows if at(row.group.target, row.group.target_recipe) == target]
    if kind in OF_ONE_TARGET and len({row.group.section for row in rows}) > 1:
        raise InputError(
            f"the figure '{kind}' shows one target of one experiment, and the table has several",
            where="--target",
            expected=f"one of {', '.join(targets)}, and --experiment where several have it",
        )
    return KINDS[kind](Asked(networks, rows, arms, columns))


def _accuracy(asked: Asked) -> Figure:
    dashes = source_dashes(
        at(row.group.source, row.group.source_recipe) for row in asked.rows if row.group.arm not in ("dense", "own")
    )
    return draw(_shown(asked), dashes, asked.columns)


def _arms(asked: Asked) -> Figure:
    lowest = min((row.group.density_asked or 1.0 for row in asked.rows), default=1.0)
    kept = [row for row in _shown(asked) if row.group.arm == "dense" or row.group.density_asked == lowest]
    return draw_by_arm(kept, asked.columns)


def _differences(asked: Asked) -> Figure:
    found = questions(asked.rows, asked.arms or [main_arm(asked.rows) or ""])
    if not found:
        raise InputError("no arm of the table is compared with anything", expected="a baseline (--against)")
    return draw_forest(found, asked.columns)


def _heat_map(asked: Asked) -> Figure:
    found = heat_map(asked.rows, asked.arms[0] if asked.arms else main_arm(asked.rows) or "")
    if found is None:
        raise InputError("a map needs an arm with two sources and two targets that is compared with something")
    return draw_heat_map(found, asked.columns)


def _compute(asked: Asked) -> Figure:
    found = spent(totals(asked.table), _shown(asked))
    if not found:
        raise InputError("the table does not know what its networks cost", expected="the column total_masked_flops")
    return draw_compute(found, asked.columns)


def _shown(asked: Asked) -> list[SummaryRow]:
    return [row for row in asked.rows if not asked.arms or row.group.arm in ("dense", *asked.arms)]


OF_ONE_TARGET = frozenset(("accuracy", "arms", "compute"))
KINDS: dict[str, Callable[[Asked], Figure]] = {
    "accuracy": _accuracy,
    "arms": _arms,
    "differences": _differences,
    "heat-map": _heat_map,
    "compute": _compute,
}
"""Accuracy against density; of each arm at the lowest density; differences with intervals; source × target; accuracy
against compute."""
