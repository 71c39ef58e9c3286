"""The comparisons of a table of results as a table of their own: better, worse, equivalent or not decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from oneticket.report.baselines import USUAL, Accuracies, Baseline, Baselines, parse
from oneticket.report.formatting import Table, density, percent, signed
from oneticket.report.formatting import difference as shown_difference
from oneticket.report.groups import NONE, Group, Section, at
from oneticket.report.over_images import UNKNOWN, Correct, OverImages, over_images
from oneticket.report.tables import Row, accuracies_of, adjust, differences, grouped, images_of, mean_of
from oneticket.statistics import (
    CONFIDENCE,
    MARGIN,
    POWER,
    Interval,
    equivalence,
    seeds_needed,
    sign_flip,
    smallest_detectable,
)
from oneticket.statistics import Difference as Paired

Verdict = Literal["better", "worse", "equivalent", "not decided"]
VERDICTS: tuple[Verdict, ...] = ("better", "worse", "equivalent", "not decided")

FIELDS = (
    "n", "estimate", "low", "high", "p", "p_adjusted", "p_sign_flip", "p_equivalent", "p_equivalent_adjusted",
    "smallest_detectable", "seeds_needed", "verdict", "density", *(field.name for field in fields(OverImages)),
)  # fmt: skip
"""The columns behind those of the group and the baseline, in the order of :class:`ComparisonRow` and `OverImages`."""


@dataclass(frozen=True)
class ComparisonRow:
    """One arm at one density against one baseline, paired by seed; differences are fractions of 1.

    Parameters
    ----------
    group, baseline : Group, Baseline
        What is compared, and with what.
    n : int
        Seeds that both have.
    estimate, low, high : float, float or None, float or None
        The mean difference and its 95 % interval.
    p, p_adjusted : float or None
        Of the paired t test; after Holm's correction over all comparisons of the target with this baseline.
    p_sign_flip : float or None
        Of the exact sign-flip test; None for more than 16 pairs.
    p_equivalent, p_equivalent_adjusted : float or None
        Of the two one-sided tests of a difference within the margin; after Holm's correction over the same family.
    smallest_detectable : float or None
        The smallest difference that n seeds show with 80 % power, given the spread seen, as the hardest test of the
        family: at 5 % over the number of its tests.
    seeds_needed : int or None
        The seeds that would show a difference as large as the estimate in the same way.
    verdict : str
        ``better`` or ``worse`` where ``p_adjusted`` is at most 0.05 (the star), else ``equivalent`` where
        ``p_equivalent_adjusted`` is, else ``not decided``.
    density : float or None
        The mean density of the networks.
    over_images : OverImages
        What is known from the test images one by one.

    None stands for what one seed, or a spread that is not known, cannot tell.
    """

    group: Group
    baseline: Baseline
    n: int
    estimate: float
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    p_sign_flip: float | None
    p_equivalent: float | None
    p_equivalent_adjusted: float | None
    smallest_detectable: float | None
    seeds_needed: int | None
    verdict: Verdict
    density: float | None
    over_images: OverImages = UNKNOWN


def comparisons(
    rows: Iterable[Row], against: Sequence[str] = USUAL, margin: float = MARGIN, correct: Correct | None = None
) -> list[ComparisonRow]:
    """Every arm at every density against each baseline of its place.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table.
    against : Sequence[str], optional
        The baselines, as :meth:`Baseline.parse` reads them.
    margin : float, default 0.002
        Differences up to it count as none; a fraction of 1.
    correct : function, optional
        Which test images the network of a cell classifies rightly.

    Returns
    -------
    list of ComparisonRow
        Baseline by baseline, each in the order of the summary.

    Raises
    ------
    InputError
        As `summary` does, and for a margin that is not above 0.
    """
    groups = grouped(rows)
    accuracies, images = accuracies_of(groups), images_of(groups)
    densities = {group: mean_of(kept, "density") for group, kept in groups.items()}
    found = [
        row for baseline in parse(against, groups) for row in _versus(baseline, accuracies, images, margin, densities)
    ]
    if correct is None:
        return found
    cells = {group: {row["seed"]: str(row["cell"]) for row in kept} for group, kept in groups.items()}
    known = Baselines(cells)
    return [
        replace(row, over_images=over_images(cells[row.group], known.find(row.group, row.baseline), correct))
        for row in found
    ]


def _versus(
    baseline: Baseline,
    accuracies: Mapping[Group, Accuracies],
    images: Mapping[Section, int],
    margin: float,
    densities: Mapping[Group, float | None],
) -> list[ComparisonRow]:
    known, found = Baselines(accuracies), []
    for section, family in differences(baseline, accuracies, images).items():
        pairs = {group: (accuracies[group], known.find(group, baseline) or {}) for group in family}
        size = images.get(section)
        tests = {group: equivalence(*pair, margin, images=size) for group, pair in pairs.items()}
        equivalent = {group: None if test is None else test.p for group, test in tests.items()}
        adjusted = adjust({group: difference.p for group, difference in family.items()})
        equivalent_adjusted = adjust(equivalent)
        level = (1 - CONFIDENCE) / max(1, sum(difference.p is not None for difference in family.values()))
        for group, difference in family.items():
            ps = _Ps(
                adjusted[group], sign_flip(*pairs[group], images=size), equivalent[group], equivalent_adjusted[group]
            )
            found.append(_row(group, baseline, difference, ps, level, densities[group]))
    return found


class _Ps(NamedTuple):
    adjusted: float | None
    sign_flip: float | None
    equivalent: float | None
    equivalent_adjusted: float | None


def _row(
    group: Group, baseline: Baseline, difference: Paired, ps: _Ps, level: float, density: float | None
) -> ComparisonRow:
    spread, interval = difference.spread, difference.interval
    return ComparisonRow(
        group=group,
        baseline=baseline,
        n=difference.n,
        estimate=difference.mean,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        p=difference.p,
        p_adjusted=ps.adjusted,
        p_sign_flip=ps.sign_flip,
        p_equivalent=ps.equivalent,
        p_equivalent_adjusted=ps.equivalent_adjusted,
        smallest_detectable=None if spread is None else smallest_detectable(difference.n, spread, POWER, 1 - level),
        seeds_needed=None if spread is None else seeds_needed(difference.mean, spread, POWER, 1 - level),
        verdict=_verdict(difference.mean, ps.adjusted, ps.equivalent_adjusted),
        density=density,
    )


def _verdict(estimate: float, p: float | None, p_equivalent: float | None) -> Verdict:
    level = 1 - CONFIDENCE
    if p is not None and p <= level:
        return "better" if estimate > 0 else "worse"
    return "equivalent" if p_equivalent is not None and p_equivalent <= level else "not decided"


# -- as text ----------------------------------------------------------------------------------------------------------
_Text = Callable[[ComparisonRow], str]

_PLACES: tuple[tuple[str, _Text], ...] = (
    ("experiment", lambda row: row.group.experiment),
    ("model", lambda row: row.group.model),
    ("target", lambda row: at(row.group.target, row.group.target_recipe)),
    ("source", lambda row: at(row.group.source, row.group.source_recipe)),
    ("rescale", lambda row: row.group.rescale),
)
_NUMBERS: tuple[tuple[str, _Text], ...] = (
    ("n", lambda row: str(row.n)),
    ("difference", lambda row: _estimate(row)),
    ("p (Holm)", lambda row: probability(row.p_adjusted)),
    ("p (signs)", lambda row: probability(row.p_sign_flip)),
    ("p (equivalent)", lambda row: probability(row.p_equivalent_adjusted)),
    ("shown from", lambda row: NONE if row.smallest_detectable is None else f"±{percent(row.smallest_detectable)}"),
    ("seeds needed", lambda row: NONE if row.seeds_needed is None else f"{row.seeds_needed:,}"),
)


_IMAGES: tuple[tuple[str, _Text], ...] = (
    ("on other images", lambda row: _on_other_images(row.over_images)),
    ("p (McNemar)", lambda row: probability(row.over_images.p_mcnemar)),
    ("floor", lambda row: _points(row.over_images.noise_floor, "±")),
    ("agree %", lambda row: _points(row.over_images.agreement)),
    ("lost %", lambda row: _lost(row.over_images)),
)


def comparison_table(rows: Sequence[ComparisonRow]) -> Table:
    """The comparisons as text: differences in points, columns that tell no rows apart left out.

    ``p (Holm)`` and ``p (equivalent)`` are those of the verdict, corrected over the family; ``p (signs)`` is of one
    test.
    """
    places = [(title, text) for title, text in _PLACES if len({text(row) for row in rows}) > 1]
    columns: list[tuple[str, _Text, bool]] = [
        *((title, text, False) for title, text in places),
        ("weights %", lambda row: density(row.density), True),
        ("arm", lambda row: row.group.arm, False),
        ("against", lambda row: row.baseline.label, False),
        *((title, text, True) for title, text in _NUMBERS),
        *((title, text, True) for title, text in _IMAGES if any(text(row) != NONE for row in rows)),
        ("verdict", lambda row: row.verdict, False),
    ]
    return Table(
        header=tuple(title for title, _, _ in columns),
        lines=tuple(tuple(text(row) for _, text, _ in columns) for row in rows),
        numeric=tuple(numeric for _, _, numeric in columns),
    )


def tally(rows: Sequence[ComparisonRow]) -> str:
    """How many comparisons ended how, in a sentence: ``Of 16 comparisons 3 are better, …``."""
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"{len(rows)} comparison{'' if len(rows) == 1 else 's'}: {said}."


def reading_of_comparisons(margin: float) -> str:
    """How the columns are to be read, in words."""
    return (
        "Better and worse: p ≤ 0.05 after Holm's correction over all comparisons of the target with that baseline; "
        f"equivalent: shown in the same way to be within ±{percent(margin)} points; not decided is neither. "
        "Shown from: the smallest difference that n seeds show with 80 % power among so many comparisons; seeds "
        "needed: how many show one as large as the one seen. Signs: the exact p of one test, 2/2ⁿ at least."
    )


def comparison_fields(row: ComparisonRow) -> list[Any]:
    """The values of a row of ``comparisons.csv``: the group, the baseline, :data:`FIELDS`."""
    values = vars(row) | vars(row.over_images)
    return [*row.group, row.baseline.slug, *(values[field] for field in FIELDS)]


def probability(p: float | None) -> str:
    """A p value with two digits, nothing below 0.001; a dash for None."""
    if p is None:
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _estimate(row: ComparisonRow) -> str:
    interval = None if row.low is None or row.high is None else Interval(row.low, row.high)
    return shown_difference(Paired(row.n, row.estimate, interval, row.p))


def _on_other_images(found: OverImages) -> str:
    if found.two_way_low is None or found.two_way_high is None:
        return NONE
    return f"[{signed(found.two_way_low)}, {signed(found.two_way_high)}]"


def _points(value: float | None, sign: str = "") -> str:
    return NONE if value is None else sign + percent(value)


def _lost(found: OverImages) -> str:
    return _points(found.lost) + ("" if found.lost_between_seeds is None else f" ({percent(found.lost_between_seeds)})")
