"""Tables with several rows a network, cut into lines: who is shown, at which density, and means over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from oneticket.errors import InputError, unknown
from oneticket.report.captions import n_of
from oneticket.report.drawing import PAPER
from oneticket.report.figures import arm_handle, rescale_handle, source_handle
from oneticket.report.formatting import density as as_percent
from oneticket.report.groups import at
from oneticket.report.palette import (
    SOLID,
    Dash,
    Fill,
    arm_colour,
    arm_marker,
    arm_order,
    rescale_fill,
    source_dashes,
)
from oneticket.statistics import Sample, describe

Row = Mapping[str, Any]


class Drawn(NamedTuple):
    """A figure, and its caption: what it shows, how many seeds it rests on, what its bars and bands are."""

    figure: Figure
    caption: str


class Key(NamedTuple):
    """What distinguishes one line of such a figure from another."""

    arm: str
    source: str
    rescale: str
    density: float | None


class Look(NamedTuple):
    """How a line is drawn: the colour and the marker of its arm, the dash of its source, the fill of its rescaling."""

    colour: str
    marker: str
    dash: Dash
    fill: Fill

    def options(self) -> dict[str, Any]:
        """Arguments of matplotlib."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.dash,
            "fillstyle": self.fill,
            "markerfacecoloralt": PAPER,
            "markersize": 6.5 if self.marker == "*" else 4,
            "linewidth": 1.2,
        }


class Lines(NamedTuple):
    """The rows of each line, in the order of a legend, and what all of them share."""

    of: Mapping[Key, Sequence[Row]]
    seeds: int
    fewest: int

    @property
    def one_arm(self) -> bool:
        """Whether the lines are the densities of one arm."""
        return len({key.arm for key in self.of}) == 1 and len({key.density for key in self.of}) > 1

    def looks(self) -> dict[Key, Look]:
        """How each line is drawn."""
        dashes = source_dashes(key.source for key in self.of if key.source)
        return {
            key: Look(
                arm_colour(key.arm), arm_marker(key.arm), dashes.get(key.source, SOLID), rescale_fill(key.rescale)
            )
            for key in self.of
        }

    def handles(self) -> list[Line2D]:
        """The entries of the legend: arms; sources and rescalings where lines differ in them."""
        found = [arm_handle(arm) for arm in sorted({key.arm for key in self.of}, key=arm_order)]
        dashes = source_dashes(key.source for key in self.of if key.source)
        if len(dashes) > 1:
            found += [source_handle(name, dash) for name, dash in dashes.items()]
        rescales = sorted({key.rescale for key in self.of}, key=lambda name: (name != "none", name))
        if len(rescales) > 1:
            found += [rescale_handle(name) for name in rescales]
        return found

    def about(self) -> str:
        """The densities and the seeds, for a caption."""
        densities = sorted({key.density for key in self.of if key.density not in (None, 1.0)}, reverse=True)
        *most, last = [as_percent(density) for density in densities] or ["100"]
        told = f"{', '.join(most)} and {last}" if most else last
        return f"at {told} % of the weights, {n_of((self.fewest, self.seeds))}"


def sparsest(rows: Iterable[Row]) -> list[Row]:
    """The dense networks, and those at the lowest density; where they are all of one arm, at all its densities."""
    known = list(rows)
    sparse = [row for row in known if row["arm"] != "dense"]
    lowest = min((row["density_asked"] for row in sparse if row["density_asked"] is not None), default=None)
    whole = len({row["arm"] for row in sparse}) == 1
    return [row for row in known if row["arm"] == "dense" or whole or row["density_asked"] in (lowest, None)]


def lines_of(rows: Iterable[Row], *, with_dense: bool) -> Lines:
    """The lines of a figure: each arm, source and rescaling at the lowest density; of one arm alone, all its densities.

    Parameters
    ----------
    rows : Iterable[Row]
        Rows of one target; those of the target's own tickets and of dense networks have no source of their own.
    with_dense : bool
        Whether dense networks have a line.

    Raises
    ------
    InputError
        Without a row.
    """
    known = [row for row in sparsest(rows) if with_dense or row["arm"] != "dense"]
    if not known:
        raise InputError("no network of the table can be shown", expected="networks that did not diverge")
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in known:
        found[Key(row["arm"], _source(row), row["rescale"], row["density_asked"])].append(row)
    ordered = sorted(found, key=_order)
    seeds = [len({row["seed"] for row in found[key]}) for key in ordered]
    return Lines({key: found[key] for key in ordered}, max(seeds), min(seeds))


def _source(row: Row) -> str:
    """The source of a network; empty for the dense ones and for the target's own tickets."""
    return "" if row["arm"] in ("dense", "own") or not row["source"] else at(row["source"], row["source_recipe"])


def _order(key: Key) -> tuple[Any, ...]:
    return (arm_order(key.arm), key.source, key.rescale != "none", key.rescale, -(key.density or 0.0))


def over_seeds(rows: Iterable[Row], place: str, column: str, **bounds: Any) -> dict[Any, Sample]:
    """The sample of ``column`` over the seeds at each value of ``place``, in its order, of the rows that have one."""
    values: dict[Hashable, list[float]] = defaultdict(list)
    for row in rows:
        if row[column] is not None:
            values[row[place]].append(float(row[column]))
    return {at_place: describe(values[at_place], **bounds) for at_place in sorted(values)}  # type: ignore[type-var]


def one_target(rows: Iterable[Row], kind: str, target: str | None, arms: Sequence[str]) -> list[Row]:
    """The rows of one target of one experiment, of these arms (all if empty) and of dense networks.

    Raises
    ------
    InputError
        For a target or an arm that no row has, and where there are several targets.
    """
    table = list(rows)
    targets = list(dict.fromkeys(at(row["target"], row["target_recipe"]) for row in table))
    if target is not None and target not in targets:
        raise unknown("target", target, targets, where="--target")
    known = sorted({row["arm"] for row in table} | {row.get("other_arm", row["arm"]) for row in table})
    for arm in arms:
        if arm not in known:
            raise unknown("arm", arm, known, where="--arm")
    kept = [row for row in table if target in (None, at(row["target"], row["target_recipe"]))]
    if len({(row["experiment"], row["model"], row["target"], row["target_recipe"]) for row in kept}) > 1:
        raise InputError(
            f"the figure '{kind}' shows one target of one experiment and model, and the table has several",
            where="--target",
            expected=f"one of {', '.join(targets)}, and --experiment or --model where several have it",
        )
    shown = ("dense", *arms) if arms else known
    return [row for row in kept if row["arm"] in shown and row.get("other_arm", row["arm"]) in shown]
