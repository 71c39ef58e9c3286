"""The tidy table summarised: accuracy by arm and density, and what each arm cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oneticket.errors import InputError
from oneticket.report.baselines import USUAL, Accuracies, Baseline, Baselines, parse
from oneticket.report.groups import Group
from oneticket.report.palette import arm_order
from oneticket.statistics import CONFIDENCE, Difference, Sample, describe, holm, mean, paired_difference

Row = Mapping[str, Any]

COLUMNS = (
    "experiment",
    "model",
    "source",
    "source_recipe",
    "target",
    "target_recipe",
    "arm",
    "rescale",
    "density_asked",
    "density",
    "effective_density",
    "round",
    "seed",
    "test_accuracy",
    "val_accuracy",
    "test_loss",
    "best_epoch",
    "steps_to_converge",
    "search_trainings",
    "train_flops",
    "masked_flops",
    "seconds",
    "cell",
    "lr",
    "budget",
    "own_steps",
    "total_steps",
    "total_samples",
    "total_masked_flops",
)
TOTALS = ("total_steps", "total_samples", "total_masked_flops")
COSTS = ("search_trainings", "train_flops", "masked_flops", "seconds", "own_steps", *TOTALS)


@dataclass(frozen=True)
class Comparison:
    """A paired difference and its p value after Holm's correction over the densities of an arm; None for one pair."""

    difference: Difference
    holm: float | None

    def significant(self, level: float = 1 - CONFIDENCE) -> bool:
        """Whether the difference is significant after Holm's correction over the arm's densities."""
        return self.holm is not None and self.holm <= level


@dataclass(frozen=True)
class SummaryRow:
    """One arm at one density over its seeds; accuracies and densities are fractions of 1.

    ``versus`` compares it, paired by seed, with each :class:`Baseline` of the same place; None where the table has no
    such baseline. ``diverged`` counts the networks whose training diverged: their accuracy is that of guessing.
    """

    group: Group
    density: float | None
    effective_density: float | None
    accuracy: Sample
    versus: Mapping[Baseline, Comparison | None]
    diverged: int = 0


@dataclass(frozen=True)
class Cost:
    """Mean, least and greatest of one cost over ``n`` networks."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class CostRow:
    """What one arm cost over all its sources, targets, densities and seeds; None for a cost that was not recorded."""

    experiment: str
    model: str
    arm: str
    n: int
    costs: Mapping[str, Cost | None]


def checked(rows: Iterable[Row]) -> list[Row]:
    """The rows in the order of a report.

    Raises
    ------
    InputError
        When there are no rows, a column is missing, or two networks claim one place (the same arm, density and seed):
        no average over them would mean anything.
    """
    table = list(rows)
    if not table:
        raise InputError("the table of results is empty: there is nothing to report", expected="at least one network")
    for row in table:
        if missing := [column for column in COLUMNS if column not in row]:
            raise InputError(f"the table lacks the column '{missing[0]}'", expected="the columns " + ", ".join(COLUMNS))
    places: dict[Hashable, Row] = {}
    for row in table:
        place = (group_of(row), row["seed"])
        other = places.setdefault(place, row)
        if other["cell"] != row["cell"]:
            raise InputError(
                f"two networks are the arm '{row['arm']}' of '{row['experiment']}' on '{row['target']}' at density "
                f"{row['density_asked']} with seed {row['seed']}: the cells {other['cell']} and {row['cell']}",
                expected="one network; give different experiments different names",
            )
    return sorted(places.values(), key=_row_order)


def group_of(row: Row) -> Group:
    """The group a row belongs to; where no density was asked for, by the density that the network has."""
    group = Group(*(row[column] for column in Group._fields))
    return group if group.density_asked is not None else group._replace(density_asked=row["density"])


def summary(rows: Iterable[Row], against: Sequence[str] = USUAL) -> list[SummaryRow]:
    """The accuracy of each arm at each density, over its seeds; networks without a test accuracy are left out.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table: a mapping with the columns ``COLUMNS`` for each trained network.
    against : Sequence[str], optional
        The baselines, as :meth:`Baseline.parse` reads them.

    Returns
    -------
    list of SummaryRow
        By target, source, density (falling) and arm.

    Raises
    ------
    InputError
        As `checked` does, and for a baseline that the table does not have.
    """
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in checked(rows):
        if row["test_accuracy"] is not None:
            groups[group_of(row)].append(row)
    accuracies = {group: {row["seed"]: float(row["test_accuracy"]) for row in kept} for group, kept in groups.items()}
    versus = {baseline: _comparisons(baseline, accuracies) for baseline in parse(against, groups)}
    return [
        SummaryRow(
            group=group,
            density=_mean(kept, "density"),
            effective_density=_mean(kept, "effective_density"),
            accuracy=describe(accuracies[group].values()),
            versus={baseline: found.get(group) for baseline, found in versus.items()},
            diverged=sum(row["test_loss"] is None for row in kept),
        )
        for group, kept in groups.items()
    ]


def _comparisons(baseline: Baseline, accuracies: Mapping[Group, Accuracies]) -> dict[Group, Comparison]:
    """Every group with the baseline of its place; the densities of one arm are a family of tests (Holm 1979)."""
    known = Baselines(accuracies)
    families: dict[Group, dict[Group, Difference]] = defaultdict(dict)
    for group, values in accuracies.items():
        other = known.find(group, baseline)
        difference = paired_difference(values, other) if other is not None else None
        if difference is not None:
            families[group._replace(density_asked=None)][group] = difference
    found: dict[Group, Comparison] = {}
    for family in families.values():
        tested = {group: difference.p for group, difference in family.items() if difference.p is not None}
        adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
        found |= {group: Comparison(difference, adjusted.get(group)) for group, difference in family.items()}
    return found


def costs(rows: Iterable[Row]) -> list[CostRow]:
    """One row per experiment, model and arm."""
    arms: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in checked(rows):
        arms[row["experiment"], row["model"], row["arm"]].append(row)
    return [
        CostRow(experiment, model, arm, len(kept), {cost: _cost(kept, cost) for cost in COSTS})
        for (experiment, model, arm), kept in sorted(
            arms.items(), key=lambda item: (item[0][0], item[0][1], arm_order(item[0][2]))
        )
    ]


def _values(rows: Sequence[Row], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row[column] is not None]


def _mean(rows: Sequence[Row], column: str) -> float | None:
    values = _values(rows, column)
    return mean(values) if values else None


def _cost(rows: Sequence[Row], column: str) -> Cost | None:
    values = _values(rows, column)
    return Cost(len(values), mean(values), min(values), max(values)) if values else None


def _row_order(row: Row) -> tuple[Any, ...]:
    group = group_of(row)
    density = 1.0 if group.density_asked is None else float(group.density_asked)
    place = (
        *group.section,
        group.source,
        group.source_recipe,
        -density,
        arm_order(group.arm),
        group.rescale != "none",
        group.rescale,
    )
    # As text where it is not a number, so that any two seeds can be compared.
    seed = row["seed"]
    return (*place, (0, seed, "") if isinstance(seed, int) else (1, 0, str(seed)))
