"""The tidy table summarised: accuracy by arm and density, and what each arm cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from oneticket.errors import InputError
from oneticket.report.baselines import USUAL, Accuracies, Baseline, Baselines, parse
from oneticket.report.groups import Group, Section
from oneticket.report.palette import arm_order
from oneticket.report.transfers import efficiencies, matching_densities
from oneticket.statistics import (
    CONFIDENCE,
    Difference,
    Sample,
    TransferEfficiency,
    describe,
    holm,
    mean,
    paired_difference,
)

Row = Mapping[str, Any]

REQUIRED = (
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
ADDED = ("test_images", "criterion", "allocation", "k", "prune")
"""Columns that a table of an earlier version lacks; a missing value is None."""
COLUMNS = (*REQUIRED, *ADDED)
TOTALS = ("total_steps", "total_samples", "total_masked_flops")
COSTS = ("search_trainings", "train_flops", "masked_flops", "seconds", "own_steps", *TOTALS)


@dataclass(frozen=True)
class Comparison:
    """A paired difference and its p value after Holm's correction over its family; None where it has no p value.

    The family are all comparisons of one target with one baseline: every arm, source, rescaling and density, so that
    a reader who looks through the table of a target for stars finds one by chance in 5 % of such tables at most.
    """

    difference: Difference
    holm: float | None

    def significant(self, level: float = 1 - CONFIDENCE) -> bool:
        """Whether the difference is significant after Holm's correction over its family."""
        return self.holm is not None and self.holm <= level


@dataclass(frozen=True)
class SummaryRow:
    """One arm at one density over its seeds; accuracies and densities are fractions of 1.

    ``versus`` compares it, paired by seed, with each :class:`Baseline` of the same place; None where the table has no
    such baseline. ``diverged`` counts the networks whose training diverged: their accuracy is that of guessing.
    ``images`` is the size of the test split; None where the table doesn't say. ``efficiency`` is how much of the gain
    of the target's own ticket over ``random`` a network of another source keeps, where all three are there.
    ``matching_density`` is the smallest density at which the arm is shown to be at most 0.2 points below ``dense``.
    """

    group: Group
    density: float | None
    effective_density: float | None
    accuracy: Sample
    versus: Mapping[Baseline, Comparison | None]
    diverged: int = 0
    images: int | None = None
    efficiency: TransferEfficiency | None = None
    matching_density: float | None = None


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
    return [row for kept in _places(rows).values() for row in kept]


def _places(rows: Iterable[Row]) -> dict[Group, list[Row]]:
    """The rows by group, both in the order of a report; refused as `checked` says."""
    table = list(rows)
    if not table:
        raise InputError("the table of results is empty: there is nothing to report", expected="at least one network")
    needed = frozenset(REQUIRED)
    for row in table:
        if not needed <= row.keys():
            missing = next(column for column in REQUIRED if column not in row)
            raise InputError(f"the table lacks the column '{missing}'", expected="the columns " + ", ".join(REQUIRED))
    places: dict[Group, dict[Any, Row]] = {}
    for row in table:
        other = places.setdefault(group_of(row), {}).setdefault(row["seed"], row)
        if other["cell"] != row["cell"]:
            raise InputError(
                f"two networks are the arm '{row['arm']}' of '{row['experiment']}' on '{row['target']}' at density "
                f"{row['density_asked']} with seed {row['seed']}: the cells {other['cell']} and {row['cell']}",
                expected="one network; give different experiments different names",
            )
    # Groups are sorted, and then the rows in each: of a large table, sorting all rows would take seconds.
    return {group: sorted(places[group].values(), key=_seed_order) for group in sorted(places, key=_group_order)}


_GROUP = itemgetter(*Group._fields)


def group_of(row: Row) -> Group:
    """The group a row belongs to; where no density was asked for, by the density that the network has."""
    group = Group._make(_GROUP(row))
    return group if group.density_asked is not None else group._replace(density_asked=row["density"])


def summary(rows: Iterable[Row], against: Sequence[str] = USUAL, *, transfers: bool = True) -> list[SummaryRow]:
    """The accuracy of each arm at each density, over its seeds; networks without a test accuracy are left out.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table: a mapping with the columns ``COLUMNS`` for each trained network; those in ``ADDED`` may lack.
    against : Sequence[str], optional
        The baselines, as :meth:`Baseline.parse` reads them.
    transfers : bool, optional
        Whether to work out ``efficiency`` and ``matching_density``, which no table of text shows.

    Returns
    -------
    list of SummaryRow
        By target, source, density (falling) and arm.

    Raises
    ------
    InputError
        As `checked` does, and for a baseline that the table does not have.
    """
    groups = grouped(rows)
    accuracies, images = accuracies_of(groups), images_of(groups)
    versus = {baseline: _comparisons(baseline, accuracies, images) for baseline in parse(against, groups)}
    efficiency = efficiencies(accuracies, images) if transfers else {}
    matching = matching_densities(accuracies, images) if transfers else {}
    return [
        SummaryRow(
            group=group,
            density=mean_of(kept, "density"),
            effective_density=mean_of(kept, "effective_density"),
            accuracy=describe(accuracies[group].values(), images=images.get(group.section), bounds=(0, 1)),
            versus={baseline: found.get(group) for baseline, found in versus.items()},
            diverged=sum(row["test_loss"] is None for row in kept),
            images=images.get(group.section),
            efficiency=efficiency.get(group),
            matching_density=matching.get(group),
        )
        for group, kept in groups.items()
    ]


def grouped(rows: Iterable[Row]) -> dict[Group, list[Row]]:
    """The rows that have a test accuracy, by group, in the order of a report."""
    tested = {group: [row for row in kept if row["test_accuracy"] is not None] for group, kept in _places(rows).items()}
    return {group: kept for group, kept in tested.items() if kept}


def accuracies_of(groups: Mapping[Group, Sequence[Row]]) -> dict[Group, dict[Any, float]]:
    """Test accuracy by seed, for each group."""
    return {group: {row["seed"]: float(row["test_accuracy"]) for row in kept} for group, kept in groups.items()}


def images_of(groups: Mapping[Group, Sequence[Row]]) -> dict[Section, int]:
    """The size of the test split of each target that any of its rows knows; the smallest, should they differ."""
    known: dict[Section, int] = {}
    for group, kept in groups.items():
        images = {int(size) for row in kept if (size := row.get("test_images")) is not None}
        if images:
            section, least = group.section, min(images)
            known[section] = min(least, known.get(section, least))
    return known


def differences(
    baseline: Baseline, accuracies: Mapping[Group, Accuracies], images: Mapping[Section, int]
) -> dict[Section, dict[Group, Difference]]:
    """Every group with the baseline of its place; those of one target are a family of tests."""
    known = Baselines(accuracies)
    families: dict[Section, dict[Group, Difference]] = defaultdict(dict)
    for group, values in accuracies.items():
        other = known.find(group, baseline)
        if other is not None:
            found = paired_difference(values, other, images=images.get(group.section))
            if found is not None:
                families[group.section][group] = found
    return families


def _comparisons(
    baseline: Baseline, accuracies: Mapping[Group, Accuracies], images: Mapping[Section, int]
) -> dict[Group, Comparison]:
    found: dict[Group, Comparison] = {}
    for family in differences(baseline, accuracies, images).values():
        adjusted = adjust({group: difference.p for group, difference in family.items()})
        found |= {group: Comparison(difference, adjusted[group]) for group, difference in family.items()}
    return found


def adjust(p_values: Mapping[Group, float | None]) -> dict[Group, float | None]:
    """Holm's p values (1979) of a family; None for what has no p value, which isn't a test."""
    tested = {group: p for group, p in p_values.items() if p is not None}
    return dict.fromkeys(p_values) | dict(zip(tested, holm(list(tested.values())), strict=True))


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


def mean_of(rows: Sequence[Row], column: str) -> float | None:
    """The mean of a column over the rows that have a value there; None where none has."""
    values = _values(rows, column)
    return mean(values) if values else None


def _cost(rows: Sequence[Row], column: str) -> Cost | None:
    values = _values(rows, column)
    return Cost(len(values), mean(values), min(values), max(values)) if values else None


def _group_order(group: Group) -> tuple[Any, ...]:
    density = 1.0 if group.density_asked is None else float(group.density_asked)
    return (
        *group.section,
        group.source,
        group.source_recipe,
        -density,
        arm_order(group.arm),
        group.rescale != "none",
        group.rescale,
    )


def _seed_order(row: Row) -> tuple[int, int, str]:
    # As text where it is not a number, so that any two seeds can be compared.
    seed = row["seed"]
    return (0, seed, "") if isinstance(seed, int) else (1, 0, str(seed))
