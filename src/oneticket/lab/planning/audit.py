"""Audit of a plan: what makes its comparisons unlevel, each finding in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from oneticket.data.spec import chain
from oneticket.lab.cells.description import ArmStart, Description, Round
from oneticket.lab.cells.rates import cycles_of
from oneticket.lab.planning import caveats
from oneticket.lab.planning.resolve import ResolvedExperiment
from oneticket.lab.planning.rows import Role, Row
from oneticket.lab.spec.experiment import Experiment
from oneticket.lab.spec.parsing import split_role
from oneticket.methods import METHODS, MethodContext, callback_of
from oneticket.methods.dense_to_sparse import Cutting, moment_of
from oneticket.training import Start, Step
from oneticket.training.schedule import StepDecay
from oneticket.training.start import Timetable

SLOWEST = 1e-5
"""The fraction of a recipe's learning rate below which a training hardly moves."""

ALIKE = 1.01
"""The factor from which numbers of steps with their searches count as different."""

HANDED = frozenset(("digits", "mnist", "emnist", "kmnist", "qmnist", "usps", "svhn", "gtsrb", "omniglot", "letters"))
"""Data sets, by the words of their origins, whose mirrored images are other classes, or none."""

Kind = Literal["steps", "rate", "cut", "flip", "trials", "untuned", "gradient", "parts", "unstable", "equal"]


class Finding(msgspec.Struct, frozen=True):
    """Something that makes a comparison unlevel.

    Parameters
    ----------
    kind : ``steps``, arms with other numbers of steps; ``rate``, a learning rate of next to nothing; ``cut``, weights
        cut after a drop of the rate; ``flip``, mirrored images of another class; ``trials``, arms with other numbers of
        settings to choose from; ``untuned``, options or rates that are not chosen where others are; ``gradient``,
        gradients of another scale at a common rate; ``parts``, pre-training with more layers than epochs;
        ``unstable``, masks that rounding decides; ``equal``, controls that are hardly another network.
    text : what, where, and what would be level.
    """

    kind: Kind
    text: str

    def __str__(self) -> str:
        return self.text


def audit(
    experiment: Experiment,
    cells: Mapping[str, Description],
    rows: Sequence[Row],
    labels: Mapping[str, str],
    resolved: ResolvedExperiment,
) -> tuple[Finding, ...]:
    """What makes the comparisons of a plan unlevel, as far as the plan shows it.

    Parameters
    ----------
    experiment : what is compared.
    cells, rows, labels : its plan.
    resolved : its data.

    Returns
    -------
    tuple of Finding
        Each once, by kind.
    """
    found = _Audit(cells, rows, labels, _samples(experiment, resolved))
    texts: list[tuple[Kind, Iterable[str]]] = [
        ("steps", found.other_steps()),
        ("rate", found.slow_trainings()),
        ("cut", found.late_cuts()),
        ("flip", _flips(experiment)),
        ("trials", caveats.other_trials(experiment, rows)),
        ("untuned", caveats.untuned(experiment)),
        ("gradient", caveats.scaled_gradients(experiment)),
        ("parts", caveats.short_parts(experiment, resolved)),
        ("unstable", caveats.unstable_masks(experiment, resolved)),
        ("equal", caveats.equal_controls(experiment, resolved)),
    ]
    return tuple(Finding(kind, text) for kind, lines in texts for text in dict.fromkeys(lines))


def _samples(experiment: Experiment, resolved: ResolvedExperiment) -> dict[Hashable, int]:
    """The number of training images of each data set, by its identity."""
    names = {split_role(role)[0] for grid in experiment.transfer for role in (*grid.sources, *grid.targets)}
    return {resolved.ref(name): resolved.samples(name) for name in names}


class _Audit:
    def __init__(
        self,
        cells: Mapping[str, Description],
        rows: Sequence[Row],
        labels: Mapping[str, str],
        samples: Mapping[Hashable, int],
    ) -> None:
        self._cells, self._rows, self._samples = cells, rows, samples
        # Several rows may share a cell; those that differ in seed or density are named once.
        self._names: dict[str, dict[tuple[str, str], None]] = {}
        for row in rows:
            self._names.setdefault(row.cell, {})[row.arm, str(Role(row.target, row.target_recipe))] = None
        for name in cells:
            if name not in self._names:
                self._names[name] = {(labels[name].partition(" · ")[0].partition(", round")[0], ""): None}
        self._tables: dict[tuple[object, ...], Timetable] = {}

    def _timetable(self, cell: Description) -> Timetable:
        moment, last = _beginning(cell)
        cycles = cycles_of(cell.start)
        key = (id(cell.recipe), id(cell.data), moment, last, cycles)  # of thousands of cells, which share these objects
        if key not in self._tables:
            per_epoch = math.ceil(self._samples[cell.data] / cell.recipe.batch_size)
            start = Start(step=moment or 0, lr_schedule="last" if last else "recipe", cycles=cycles)
            self._tables[key] = Timetable.of(cell.recipe, per_epoch, start, ())
        return self._tables[key]

    def _told(self, faults: Mapping[str, Collection[str]]) -> Iterator[str]:
        """For each fault, the arms and the places of the cells that have it, then the fault."""
        for fault, cells in faults.items():
            places: dict[str, dict[str, None]] = {}
            for cell in cells:
                for what, place in self._names[cell]:
                    places.setdefault(place, {})[what] = None
            who = "; ".join(", ".join(arms) + (f" on {place}" if place else "") for place, arms in places.items())
            yield f"{who}: {fault}"

    # -- steps ---------------------------------------------------------------------------------------------------
    def other_steps(self) -> Iterator[str]:
        """Arms that have other numbers of steps than those beside them."""
        places: dict[str, dict[str, None]] = {}
        for target, rows in _by_target(row for row in self._rows if row.own_steps).items():  # no step, no training
            if rows[0].budget in ("recipe", "equal-k"):
                levels = _levels((row.own_steps, row.arm) for row in rows)
                if len(levels) > 1:
                    repeated = any(cycles_of(self._cells[row.cell].start) > 1 for row in rows)
                    remedy = ', which budget = "equal-k" levels' if rows[0].budget == "recipe" and not repeated else ""
                    places.setdefault(f"{_listed(levels)}{remedy}", {})[target] = None
            elif rows[0].budget == "equal-search" and (levels := self._widest(rows)):
                places.setdefault(f"{_listed(levels)}, with those of the search", {})[target] = None
        for fault, targets in places.items():
            yield f"on {', '.join(targets)} networks have other numbers of steps: {fault}"

    def _widest(self, rows: Sequence[Row]) -> dict[int, list[str]]:
        """The steps with those of the search at the density at which they differ most; empty where they are alike.

        Networks that stay dense count with the lowest density.
        """
        lowest = min(row.density_asked for row in rows)
        at: dict[float, list[tuple[int, str]]] = {}
        for row in rows:
            asked = lowest if row.density_asked == 1 else row.density_asked
            at.setdefault(asked, []).append((self._total(row.cell), row.arm))
        widest = max(map(_levels, at.values()), key=_ratio)
        return widest if _ratio(widest) >= ALIKE else {}

    def _total(self, cell: str) -> int:
        """The steps of a cell and of all that it rests on, each once."""
        met, ahead = set[str](), [cell]
        while ahead:
            name = ahead.pop()
            if name not in met:
                met.add(name)
                ahead += self._cells[name].parents
        tables = [self._timetable(self._cells[name]) for name in met]
        return sum(table.total - table.first for table in tables)

    # -- rates and cuts ------------------------------------------------------------------------------------------
    def slow_trainings(self) -> Iterator[str]:
        """Trainings whose learning rate is never a notable part of their recipe's, as fine-tuning after a cosine."""
        faults: dict[str, list[str]] = {}
        known: dict[int, float] = {}
        for name, cell in self._cells.items():
            table = self._timetable(cell)
            if id(table) not in known:
                moments = range(table.first, table.total, table.per_epoch)
                known[id(table)] = max(map(table.lr, moments), default=cell.recipe.lr)
            rate = known[id(table)]
            if rate < SLOWEST * cell.recipe.lr:
                fault = f"the learning rate is never above {rate:.2g}, where the recipe has {cell.recipe.lr:g}"
                faults.setdefault(fault, []).append(name)
        return self._told(faults)

    def late_cuts(self) -> Iterator[str]:
        """Methods that cut weights when the rate has dropped: what they destroy cannot recover."""
        faults: dict[str, list[str]] = {}
        known: dict[Hashable, str] = {}
        for name, cell in self._cells.items():
            if isinstance(cell.start, ArmStart) and isinstance(cell.recipe.schedule, StepDecay):
                key = (id(cell.recipe), id(cell.data), cell.start.method, id(cell.start.options), cell.start.rewind)
                if key not in known:
                    known[key] = self._late_cut(cell, cell.start, cell.recipe.schedule)
                if known[key]:
                    faults.setdefault(known[key], []).append(name)
        return self._told(faults)

    def _late_cut(self, cell: Description, arm: ArmStart, schedule: StepDecay) -> str:
        callback = callback_of(arm.method, MethodContext(arm.density, cell.network.head, cell.recipe), arm.options)
        if not isinstance(callback, Cutting):
            return ""
        table = self._timetable(cell)
        cut = moment_of(table, callback.fraction)
        drops = [Step.parse(moment).iterations(table.per_epoch) for moment in schedule.at]
        passed = [drop for drop in drops if drop <= cut % table.cycle]  # each cycle begins at the whole rate again
        if not passed or cut == table.total:
            return ""
        return (
            f"the cut at step {cut} of {table.total} comes when the learning rate has dropped to "
            f"{schedule.decay ** len(passed):g} of the recipe's (at {', '.join(map(str, passed))}): "
            "what is cut recovers at that rate; an earlier cut levels it"
        )


def _beginning(cell: Description) -> tuple[str, bool]:
    """The moment of its recipe at which a training begins, empty for step 0; whether it has the last rate all along."""
    if isinstance(cell.start, Round):
        search = cell.start.ticket.search
        return ("", True) if search.method == "fine-tune" else (str(search.rewind), False)
    if isinstance(cell.start, ArmStart):
        facts = METHODS.entry(cell.start.method).facts
        return f"{cell.recipe.epochs}ep" if facts.start == "end" else cell.start.rewind, facts.lr == "last"
    return "", False


def _by_target(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(Role(row.target, row.target_recipe)), []).append(row)
    return found


def _levels(values: Iterable[tuple[int, str]]) -> dict[int, list[str]]:
    """Numbers of steps, rising, with the arms that have them."""
    levels: dict[int, dict[str, None]] = {}
    for steps, arm in values:
        levels.setdefault(steps, {})[arm] = None
    return {steps: list(levels[steps]) for steps in sorted(levels)}


def _ratio(levels: Mapping[int, object]) -> float:
    return max(levels) / min(levels)


def _listed(levels: Mapping[int, Sequence[str]]) -> str:
    """The arms at each level, most steps first; the level with the most arms, where they are many, is the others'."""
    usual = max(levels, key=lambda steps: len(levels[steps]))

    def who(steps: int) -> str:
        return "the other arms" if steps == usual and len(levels[steps]) > 3 else ", ".join(levels[steps])

    return "; ".join(f"{steps} {who(steps)}" for steps in sorted(levels, key=lambda steps: (steps == usual, -steps)))


# -- data ---------------------------------------------------------------------------------------------------------
def _flips(experiment: Experiment) -> Iterator[str]:
    """Data sets whose images a recipe mirrors although that makes other classes of them, told by their names."""
    for grid in experiment.transfer:
        for role in (*grid.sources, *grid.targets):
            data, recipe = split_role(role)
            base, spec = chain(experiment.data, data)[0]
            origin = spec.origin[1]
            if experiment.recipe[recipe].augment.flip and is_handed(f"{base} {origin}"):
                yield f"{role} mirrors its images: those of {origin} are then of another class; flip = false levels it"


def is_handed(name: str) -> bool:
    """Whether a data set of this name has images whose mirrored images are of other classes, or of none.

    >>> is_handed("ylecun/mnist"), is_handed("../data/gtsrb32"), is_handed("fashion_mnist"), is_handed("cifar10")
    (True, True, False, False)
    """
    words = set(re.findall(r"[a-z]+", name.lower()))
    return bool(words & HANDED) and "fashion" not in words
