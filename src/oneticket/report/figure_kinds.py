"""The kinds of figures, by the names that the command line has for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from oneticket.errors import InputError, unknown
from oneticket.report import captions
from oneticket.report.baselines import USUAL
from oneticket.report.drawing import Columns
from oneticket.report.figure_by_arm import draw_by_arm
from oneticket.report.figure_by_layer import draw_layers, draw_movement
from oneticket.report.figure_compute import draw_compute, spent, totals
from oneticket.report.figure_forest import draw_forest, questions
from oneticket.report.figure_heat_map import draw_heat_map, heat_map
from oneticket.report.figure_learning import draw_learning
from oneticket.report.figure_overlap import draw_overlap
from oneticket.report.figure_rescale import draw_rescale
from oneticket.report.figures import draw
from oneticket.report.findings import main_arm
from oneticket.report.groups import at
from oneticket.report.lines import Drawn, one_target
from oneticket.report.palette import source_dashes
from oneticket.report.references import agreeing, caption, curves
from oneticket.report.tables import Row, SummaryRow, checked, summary


class Asked(NamedTuple):
    """What a figure is drawn of: the tidy table, its summary, the arms that are shown (all if empty), the width."""

    table: Sequence[Row]
    rows: Sequence[SummaryRow]
    arms: Sequence[str]
    columns: Columns
    reference: str | None = None

    @property
    def title(self) -> str:
        """The first target."""
        return at(self.rows[0].group.target, self.rows[0].group.target_recipe)


def make_figure(
    table: Iterable[Row],
    kind: str,
    *,
    target: str | None = None,
    arms: Sequence[str] = (),
    against: Sequence[str] = USUAL,
    columns: Columns = 2,
    reference: str | None = None,
) -> Drawn:
    """A figure of a table of results, and its caption.

    Parameters
    ----------
    table : Iterable[Row]
        The tidy table; for a kind in ``OF_NETWORKS``, the table that it is drawn of.
    kind : str
        One of ``KINDS`` or ``OF_NETWORKS``.
    target : str, optional
        Only this target, ``name@recipe``.
    arms : Sequence[str], optional
        Only these arms, and the dense network; all by default, of ``heat-map`` and ``differences`` the arm in question.
    against : Sequence[str], optional
        What the networks are compared with.
    columns : {1, 2}
        The width, in columns of a page of two.
    reference : str, optional
        Published curves to draw behind those of ``accuracy``, one of ``REFERENCES``.

    Raises
    ------
    InputError
        For words that the table does not hold, for a kind that shows one target where there are several, and where
        the table has nothing that the figure could show.
    """
    if kind not in (*KINDS, *OF_NETWORKS):
        raise unknown("figure", kind, (*KINDS, *OF_NETWORKS), where="--kind")
    if reference is not None and kind != "accuracy":
        raise InputError(f"'{kind}' has no published curves", where="--reference", expected="the figure 'accuracy'")
    if kind in OF_NETWORKS:
        return OF_NETWORKS[kind](one_target(table, kind, target, arms), columns)
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
            f"the figure '{kind}' shows one target of one experiment and model, and the table has several",
            where="--target",
            expected=f"one of {', '.join(targets)}, and --experiment or --model where several have it",
        )
    return KINDS[kind](Asked(networks, rows, arms, columns, reference))


def _accuracy(asked: Asked) -> Drawn:
    dashes = source_dashes(
        at(row.group.source, row.group.source_recipe) for row in asked.rows if row.group.arm not in ("dense", "own")
    )
    shown, name = _shown(asked), asked.reference
    told = captions.accuracy(shown, asked.title, by_arm=False)
    if name is None:
        return Drawn(draw(shown, dashes, asked.columns), told)
    agreeing(name, shown)
    return Drawn(draw(shown, dashes, asked.columns, curves(name)), f"{told} {caption(name)}")


def _arms(asked: Asked) -> Drawn:
    lowest = min((row.group.density_asked or 1.0 for row in asked.rows), default=1.0)
    kept = [row for row in _shown(asked) if row.group.arm == "dense" or row.group.density_asked == lowest]
    return Drawn(draw_by_arm(kept, asked.columns), captions.accuracy(kept, asked.title, by_arm=True))


def _differences(asked: Asked) -> Drawn:
    arms = asked.arms or [main_arm(asked.rows) or ""]
    found = questions(asked.rows, arms)
    if not found:
        raise InputError("no arm of the table is compared with anything", expected="a baseline (--against)")
    return Drawn(draw_forest(found, asked.columns), captions.forest(found, arms[0] if len(arms) == 1 else None))


def _heat_map(asked: Asked) -> Drawn:
    found = heat_map(asked.rows, asked.arms[0] if asked.arms else main_arm(asked.rows) or "")
    if found is None:
        raise InputError("a map needs an arm with two sources and two targets that is compared with something")
    return Drawn(draw_heat_map(found, asked.columns), captions.heat_map(found))


def _compute(asked: Asked) -> Drawn:
    found = spent(totals(asked.table), _shown(asked))
    if not found:
        raise InputError("the table does not know what its networks cost", expected="the column total_masked_flops")
    return Drawn(draw_compute(found, asked.columns), captions.compute(found, asked.title))


def _rescale(asked: Asked) -> Drawn:
    return draw_rescale(_shown(asked), asked.columns)


def _shown(asked: Asked) -> list[SummaryRow]:
    return [row for row in asked.rows if not asked.arms or row.group.arm in ("dense", *asked.arms)]


OF_ONE_TARGET = frozenset(("accuracy", "arms", "compute", "rescale"))
KINDS: dict[str, Callable[[Asked], Drawn]] = {
    "accuracy": _accuracy,
    "arms": _arms,
    "differences": _differences,
    "heat-map": _heat_map,
    "compute": _compute,
    "rescale": _rescale,
}
"""Accuracy against density; of each arm at the lowest density; differences with intervals; source × target; accuracy
against compute; rescaling × arm."""

OF_NETWORKS: dict[str, Callable[[Sequence[Row], Columns], Drawn]] = {
    "layers": draw_layers,
    "movement": draw_movement,
    "overlap": draw_overlap,
    "learning": draw_learning,
}
"""Figures of one target that are drawn of tables with several rows a network: the densities of the layers; sign flips
and distance from W_k by layer; the overlap of masks; learning curves."""
