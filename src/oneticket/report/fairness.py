"""Fairness: how many steps each network had, and how many trials each arm, in a sentence for every target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from oneticket.report.formatting import density
from oneticket.report.groups import at
from oneticket.report.palette import arm_order
from oneticket.report.tables import Row

_MEASURED = {"equal-search": ("total_steps", "steps"), "equal-flops": ("total_masked_flops", "mask-aware FLOPs")}
_MANY = 3  # arms of one number of steps that are named; more are "the other arms"


def fairness(rows: Iterable[Row]) -> list[str]:
    """A sentence for each number of steps and of trials on a target, the targets of equal ones together.

    Under ``budget = "recipe"`` and ``"equal-k"`` it is about the steps of their own: those of their training on the
    target, and the k that W_k has behind it. Under the others it is about the total with their searches, as measured.
    Targets whose rows do not know their steps are left out, as those of tables of earlier versions, and so are networks
    that are judged without a step. Trials are the settings from which validation chose that of an arm.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table.

    Returns
    -------
    list of str
        In the order of the table.
    """
    places: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["own_steps"] == 0:
            continue  # a network that is judged without a step has none by definition
        places[row["experiment"], row["model"], at(row["target"], row["target_recipe"])].append(row)
    experiments, models = ({place[number] for place in places} for number in (0, 1))
    sentences: dict[str, list[str]] = defaultdict(list)
    for (experiment, model, target), found in places.items():
        place = target
        if len(models) > 1:
            place += f" of {model}"
        if len(experiments) > 1:
            place += f" in {experiment}"
        for sentence in filter(None, (_sentence(found), _of_trials(found))):
            sentences[sentence].append(place)
    return [sentence.format(place=", ".join(named)) for sentence, named in sentences.items()]


def _sentence(rows: Sequence[Row]) -> str:
    budget = rows[0]["budget"]
    if budget in _MEASURED:
        return _of_totals(rows, budget)
    levels: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        if row["own_steps"] is None:
            return ""
        levels[row["own_steps"]].add(row["arm"])
    rest = "; total_steps adds those of its search."
    if len(levels) == 1:
        return f"On {{place}} each network had {min(levels)} steps of its own{rest}"
    usual = max(levels, key=lambda steps: (len(levels[steps]), -steps))
    told = [
        f"{steps} {_named(levels[steps], most=steps == usual)}"
        for steps in sorted(levels, key=lambda steps: (steps == usual, -steps))
    ]
    return f"On {{place}} networks had other numbers of steps of their own: {'; '.join(told)}{rest}"


def _of_trials(rows: Sequence[Row]) -> str:
    levels: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        levels[row.get("trials") or 1].add(row["arm"])
    if levels.keys() == {1}:
        return ""
    if len(levels) == 1:
        return f"On {{place}} each arm had {min(levels)} trials, from which validation chose."
    told = "; ".join(f"{count} {_named(levels[count], most=False)}" for count in sorted(levels, reverse=True))
    return f"On {{place}} arms had other numbers of trials, from which validation chose: {told}."


def _named(arms: Iterable[str], *, most: bool) -> str:
    ordered = sorted(arms, key=arm_order)
    return "the other arms" if most and len(ordered) > _MANY else ", ".join(ordered)


def _of_totals(rows: Sequence[Row], budget: str) -> str:
    """The density at which the totals of arms differ most; dense networks count with the lowest density."""
    column, unit = _MEASURED[budget]
    lowest = min(row["density_asked"] for row in rows)
    values: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row[column] is None:
            return ""
        asked = lowest if row["density_asked"] == 1 else row["density_asked"]
        values[asked][row["arm"]].append(row[column])
    means = {asked: {arm: fmean(found) for arm, found in arms.items()} for asked, arms in values.items()}
    asked, arms = max(means.items(), key=lambda entry: _ratio(entry[1]))
    least, most = min(arms, key=lambda arm: arms[arm]), max(arms, key=lambda arm: arms[arm])
    if _ratio(arms) < 1.005:
        return f"On {{place}} each network had as many {unit} as the others, its search included."
    return (
        f"On {{place}} networks of one density had {unit}, their searches included, that differ by a factor of at most "
        f"{_ratio(arms):.3g} ({most} most, {least} least, at {density(asked)} % of the weights)."
    )


def _ratio(arms: Mapping[str, float]) -> float:
    return max(arms.values()) / max(min(arms.values()), 1)
