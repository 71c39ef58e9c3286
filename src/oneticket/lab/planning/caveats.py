"""Caveats: arms that are not at their best under a plan, or not what they are meant to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product

from oneticket.lab.planning.resolve import ResolvedExperiment
from oneticket.lab.planning.rows import Role, Row
from oneticket.lab.spec.arms import DENSE, Arm
from oneticket.lab.spec.experiment import Experiment
from oneticket.lab.spec.parsing import split_role
from oneticket.lab.spec.tuning import RATE, TRIALS, axes_of, tunable
from oneticket.methods import PRETRAININGS
from oneticket.models import ModelSpec
from oneticket.pruning import kept_count
from oneticket.pruning.selection import apportion, erk_share, smart_shares, smart_vgg_shares

STAYS = 0.99
"""The part of a permuted mask that stays in its place from which the control is told to be no other mask."""

FEW = 0.05
"""The density up to which the mask of SynFlow is told to be ill-conditioned."""


# -- trials -------------------------------------------------------------------------------------------------------
def other_trials(experiment: Experiment, rows: Sequence[Row]) -> Iterator[str]:
    """Arms of a target that have fewer trials than those beside them."""
    asked = {target: grid.tune.get(TRIALS) for grid in experiment.transfer for target in grid.targets if grid.is_tuned}
    arms, told = experiment.arms(), dict[str, list[str]]()
    for target, trials in asked.items():
        counts: dict[str, int] = {}
        for row in rows:
            if str(Role(row.target, row.target_recipe)) == target and not arms[row.arm].takes_no_step:
                counts[row.arm] = max(row.trials or 1, counts.get(row.arm, 1))
        most = trials or max(counts.values(), default=1)
        for count in sorted(set(counts.values()) - {most}):
            fewer = [arm for arm in counts if counts[arm] == count]
            told.setdefault(f"{', '.join(fewer)} can only try {count} of {most}", []).append(target)
        if not trials and len(set(counts.values())) > 1:
            told.setdefault(f"trials = {min(counts.values())} gives every arm as many", []).append(target)
    for what, targets in told.items():
        yield f"on {', '.join(targets)} {what}"


def untuned(experiment: Experiment) -> Iterator[str]:
    """Arms that have options, none of which is tuned, beside arms whose options are; arms without rates to choose."""
    arms = experiment.arms()
    for grid in experiment.transfer:
        own = {name: [key for key in tunable(arms[name]) if key != RATE] for name in grid.arms}
        tuned = [name for name in grid.arms if set(axes_of(grid.tune, arms[name])) - {RATE}]
        lacking = [f"{name} ({', '.join(own[name])})" for name in grid.arms if own[name] and name not in tuned]
        if tuned and lacking:
            yield (
                f"{', '.join(lacking)} on {', '.join(grid.targets)}: options at their defaults, "
                f"where those of {', '.join(tuned)} are tuned"
            )
        rated = [name for name in (DENSE, *grid.arms) if RATE in tunable(arms[name])]
        if grid.tune and RATE not in grid.tune and rated:
            yield f"on {', '.join(grid.targets)} tune has no lr: every arm has the recipe's, whether it suits it or not"


# -- rates that an arm brings with it --------------------------------------------------------------------------------
def scaled_gradients(experiment: Experiment) -> Iterator[str]:
    """Binary networks whose gradients the paper's estimator makes small, at the common rate of SGD."""
    for grid in experiment.transfer:
        if grid.lr or RATE in grid.tune:
            continue
        small = [name for name in grid.arms if _has_small_gradients(experiment.arms()[name])]
        on = [role for role in grid.targets if experiment.recipe[split_role(role)[1]].optimizer == "sgd"]
        if small and on:
            yield (
                f"{', '.join(small)} on {', '.join(on)}: by the paper's estimator gradients are multiplied by 1/n plus "
                "the scale of a filter, about a twentieth, and the rate is that of all others; "
                "lr in tune, or the option gradient = 'authors-code', levels it"
            )


def _has_small_gradients(arm: Arm) -> bool:
    return arm.method in ("bwn", "xnor") and arm.options.get("gradient", "paper") == "paper"


def short_parts(experiment: Experiment, resolved: ResolvedExperiment) -> Iterator[str]:
    """Pre-trainings of one layer after the other with more layers than epochs."""
    for grid in experiment.transfer:
        names = [name for name in grid.arms if _trains_parts(experiment.arms()[name])]
        for spec in experiment.models if names else ():
            for role in grid.sources:
                data, recipe = split_role(role)
                head = f"{resolved.network(spec, data).head}.weight"
                layers = len(resolved.shapes(spec, data).keys() - {head})
                epochs = experiment.recipe[recipe].epochs
                if layers > epochs:
                    yield (
                        f"{', '.join(names)} from {role}: {spec.name} has {layers} layers and the recipe {epochs} "
                        f"epochs; each layer has one, {layers} in all; a longer recipe of the source levels it"
                    )


def _trains_parts(arm: Arm) -> bool:
    return arm.weights in PRETRAININGS and PRETRAININGS.entry(arm.weights).facts.parts


# -- masks --------------------------------------------------------------------------------------------------------
def unstable_masks(experiment: Experiment, resolved: ResolvedExperiment) -> Iterator[str]:
    """Masks of SynFlow of few weights, of which rounding decides a part."""
    for grid in experiment.transfer:
        few = [density for density in resolved.densities(grid) if density <= FEW]
        names = [name for name in grid.arms if _is_synflow(experiment, name)]
        if few and names:
            densities = ", ".join(f"{100 * density:.3g}" for density in few)
            yield (
                f"{', '.join(names)} at {densities} % of the weights: SynFlow's mask is ill-conditioned there; one "
                "weight more or less in each of its rounds moves up to a third of the mask at 1 %"
            )


def _is_synflow(experiment: Experiment, name: str) -> bool:
    arm = experiment.arms()[name]
    return arm.mask == "synflow" or (arm.needs == "ticket" and experiment.search_of(name).criterion == "synflow")


def equal_controls(experiment: Experiment, resolved: ResolvedExperiment) -> Iterator[str]:
    """Permuted masks that keep nearly every weight in its place, and random masks with the densities of another."""
    arms = experiment.arms()
    for grid in experiment.transfer:
        densities = [density for density in resolved.densities(grid) if density < 1]
        permuted = [name for name in grid.arms if arms[name].mask in ("layer-permuted", "globally-permuted")]
        full = [density for density in densities if density > STAYS]
        if permuted and full:
            told = ", ".join(f"{100 * density:.4g}" for density in full)
            yield (
                f"{', '.join(permuted)} at {told} % of the weights: where so many are kept, a permuted mask keeps "
                "nearly all of them, and the control is hardly another network"
            )
        by_shares = [name for name in grid.arms if arms[name].mask in _SHARES]
        for spec, role in product(experiment.models if len(by_shares) > 1 else (), grid.targets):
            yield from _equal_shares(resolved, spec, role, densities, {name: arms[name] for name in by_shares})


def _equal_shares(
    resolved: ResolvedExperiment, spec: ModelSpec, role: str, densities: Sequence[float], arms: Mapping[str, Arm]
) -> Iterator[str]:
    data, _ = split_role(role)
    shapes = resolved.shapes(spec, data)
    sizes = [math.prod(shape) for shape in shapes.values()]
    layers = len(shapes) + (f"{resolved.network(spec, data).head}.weight" not in shapes)
    for density in densities:
        kept = kept_count(density, sum(sizes))
        counts = {name: apportion(kept, _SHARES[arm.mask](shapes, sizes, layers), sizes) for name, arm in arms.items()}
        for (one, here), (other, there) in combinations(counts.items(), 2):
            if kept and sum(abs(a - b) for a, b in zip(here, there, strict=True)) / 2 <= (1 - STAYS) * kept:
                yield (
                    f"{one} and {other} on {role} at {100 * density:.3g} % of the weights: both keep as many weights "
                    f"of each layer of {spec.name}, and are one control"
                )


Shapes = Mapping[str, tuple[int, ...]]

_SHARES: dict[str, Callable[[Shapes, Sequence[int], int], Sequence[int]]] = {
    "even": lambda _, sizes, __: sizes,
    "erk": lambda shapes, _, __: [erk_share(shape) for shape in shapes.values()],
    "smart": lambda _, sizes, layers: smart_shares(sizes, layers),
    "smart-vgg": lambda _, sizes, layers: smart_vgg_shares(sizes, layers),
}
"""For each control that fixes the densities of layers: shapes, sizes and number of layers → the layers' shares."""
