"""Each arm over all its targets: the interquartile mean of its differences from a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oneticket.report.baselines import USUAL, Baselines, parse
from oneticket.report.formatting import Table, density, signed
from oneticket.report.groups import NONE
from oneticket.report.palette import arm_order
from oneticket.report.tables import Row, accuracies_of, grouped
from oneticket.statistics import InterquartileMean, interquartile_mean, paired

READING_OF_TARGETS = (
    "Over the targets: the mean of the middle half of the differences of all seeds and targets, with a bootstrap over "
    "the seeds of each target (Agarwal et al. 2021). Its 95 % interval is for other seeds, not for other targets, and "
    "too narrow with few seeds."
)


class OverTargets(NamedTuple):
    """An arm at one density against a baseline, over ``targets`` of them (from every source); a fraction of 1."""

    experiment: str
    model: str
    arm: str
    rescale: str
    density: float | None
    against: str
    targets: int
    middle: InterquartileMean


def over_targets(rows: Iterable[Row], against: Sequence[str] = USUAL) -> list[OverTargets]:
    """Every arm at every density that has two targets or more where it can be compared with the baseline.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table.
    against : Sequence[str], optional
        The baselines, as :meth:`Baseline.parse` reads them.

    Returns
    -------
    list of OverTargets
        Baseline by baseline; arms in the order of a report, densities falling.
    """
    accuracies = accuracies_of(grouped(rows))
    known, found = Baselines(accuracies), []
    for baseline in parse(against, accuracies):
        places: dict[tuple[str, str, str, str, float | None], dict[tuple[str, ...], list[float]]] = {}
        for group, values in accuracies.items():
            differences = paired(values, known.find(group, baseline) or {})
            if differences:
                arm = (group.experiment, group.model, group.arm, group.rescale, group.density_asked)
                place = (group.target, group.target_recipe, group.source, group.source_recipe)
                places.setdefault(arm, {})[place] = differences
        for arm in sorted(places, key=lambda a: (a[:2], arm_order(a[2]), a[3], -(a[4] or 1.0))):
            targets = len({place[:2] for place in places[arm]})
            if targets > 1:
                found.append(OverTargets(*arm, baseline.label, targets, interquartile_mean(places[arm])))
    return found


def over_targets_table(rows: Sequence[OverTargets]) -> Table:
    """The rows as text, in points; experiment, model and rescaling only where they tell rows apart."""
    words = [word for word in ("experiment", "model", "rescale") if len({getattr(row, word) for row in rows}) > 1]
    return Table(
        header=(*words, "weights %", "arm", "against", "targets", "n", "middle half"),
        lines=tuple(
            (
                *(getattr(row, word) for word in words), density(row.density), row.arm, row.against,
                str(row.targets), str(row.middle.n), _middle(row.middle),
            )
            for row in rows
        ),
        numeric=(*(False for _ in words), True, False, False, True, True, True),
    )  # fmt: skip


def _middle(found: InterquartileMean) -> str:
    if found.interval is None:
        return f"{signed(found.value)} {NONE}"
    return f"{signed(found.value)} [{signed(found.interval.low)}, {signed(found.interval.high)}]"
