"""Tuning: what validation chose for each arm, and where its grid does not decide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

from oneticket.report.formatting import Table, density
from oneticket.report.groups import at
from oneticket.report.palette import arm_order
from oneticket.report.tables import Row

_COLUMNS: tuple[tuple[str, Callable[[Row], str], bool], ...] = (
    ("experiment", lambda row: str(row["experiment"]), True),
    ("model", lambda row: str(row["model"]), True),
    ("target", lambda row: at(row["target"], row["target_recipe"]), True),
    ("source", lambda row: at(row["source"], row["source_recipe"]), True),
    ("asked %", lambda row: density(row["density_asked"]), True),
    ("arm", lambda row: str(row["arm"]), False),
    ("rescale", lambda row: str(row["rescale"]), True),
    ("chosen", lambda row: str(row["tuned"]), False),
    ("trials", lambda row: str(row["trials"]), False),
    ("at the edge", lambda row: str(row["trials_at_edge"]), True),
)
"""Each column: its title, its text, and whether it is left out where all lines say the same."""

_PLACE = ("experiment", "model", "target", "target_recipe", "rescale", "density_asked")
_RESULTS = ("test_accuracy", "val_accuracy", "test_loss")


def tuning_table(rows: Iterable[Row]) -> Table | None:
    """What validation chose for each arm at each density; None where nothing was tuned.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table; rows of earlier versions, without the columns ``tuned`` and ``trials``, are left out.

    Returns
    -------
    Table or None
        In the order of the rows, one line for all seeds.
    """
    tuned = [row for row in rows if row.get("tuned")]
    lines = list(dict.fromkeys(tuple(text(row) for _, text, _ in _COLUMNS) for row in tuned))
    if not lines:
        return None
    kept = [
        place
        for place, (_, _, optional) in enumerate(_COLUMNS)
        if not optional or len({line[place] for line in lines}) > 1
    ]
    return Table(
        header=tuple(_COLUMNS[place][0] for place in kept),
        lines=tuple(tuple(line[place] for place in kept) for line in lines),
        numeric=tuple(_COLUMNS[place][0] in ("asked %", "trials") for place in kept),
    )


def at_edge(rows: Iterable[Row]) -> list[str]:
    """A sentence for each tuned key whose best value lies at the edge of its grid, so that a better one may lie beyond.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table.

    Returns
    -------
    list of str
        In the order of the table; the targets of one key and the same arms together.
    """
    arms: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for row in rows:
        for key in filter(None, (row.get("trials_at_edge") or "").split(", ")):
            arms[key, at(row["target"], row["target_recipe"])][row["arm"]] = None
    told: dict[str, list[str]] = defaultdict(list)
    for (key, target), named in arms.items():
        told[f"the best {key} of {', '.join(sorted(named, key=arm_order))}"].append(target)
    return [f"not decided: {what} on {', '.join(places)} lies at the edge of its grid" for what, places in told.items()]


def alike(rows: Iterable[Row]) -> list[str]:
    """A sentence for arms that have the same results to the last digit in every seed, though they are other networks.

    A control that changes nothing is one, such as a permuted mask under which no unit is reached. Rows of one cell are
    one network by definition, such as those of ``own`` and ``winning`` where the source is the target; so tables that
    do not name their cells are not looked at. Trainings that diverged have no loss to compare.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table.

    Returns
    -------
    list of str
        A sentence for each pair of arms.
    """
    groups: dict[tuple[object, ...], dict[tuple[str, str], dict[object, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        named = not str(row["cell"]).startswith("line ")  # as a table is read that has no such column
        if named and row["test_loss"] is not None and row["val_accuracy"] is not None:
            place = tuple(row[column] for column in _PLACE)
            groups[place][row["arm"], at(row["source"], row["source_recipe"])][row["seed"]] = row
    told: dict[str, dict[str, None]] = defaultdict(dict)
    for found in groups.values():
        for one, other in _twins(found):
            row = next(iter(found[one].values()))
            told[" and ".join(sorted((one[0], other[0]), key=arm_order))][at(row["target"], row["target_recipe"])] = (
                None
            )
    return [
        f"{arms} on {', '.join(places)} have the same results to the last digit in every seed: read them as one arm"
        for arms, places in told.items()
    ]


_Arm = tuple[str, str]
"""An arm and its source."""


def _twins(found: Mapping[_Arm, Mapping[object, Row]]) -> list[tuple[_Arm, _Arm]]:
    """The pairs of different arms with the same results, in the order of ``found``."""
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    arms = list(found)
    for place, arm in enumerate(arms):  # only what agrees in the first seed is compared in pairs
        seed, row = min(found[arm].items(), key=lambda entry: str(entry[0]))
        alike[seed, *(row[what] for what in _RESULTS)].append(place)
    pairs = sorted(pair for places in alike.values() for pair in combinations(places, 2))
    return [
        (arms[one], arms[other])
        for one, other in pairs
        if arms[one][0] != arms[other][0] and _same(found[arms[one]], found[arms[other]])
    ]


def _same(here: Mapping[object, Row], there: Mapping[object, Row]) -> bool:
    """Whether two arms have the same seeds, at least two, of other cells with the same results."""
    return (
        len(here) > 1
        and here.keys() == there.keys()
        and all(
            row["cell"] != there[seed]["cell"] and all(row[what] == there[seed][what] for what in _RESULTS)
            for seed, row in here.items()
        )
    )
