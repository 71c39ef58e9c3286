"""What an arm is worth as a transfer: the share of the own ticket's gain, and how sparse it still matches."""

from __future__ import annotations

from collections.abc import Mapping

from oneticket.report.baselines import OWN, Accuracies, Baseline, Baselines
from oneticket.report.groups import Group, Section
from oneticket.statistics import TransferEfficiency, smallest_matching_density, transfer_efficiency

_DENSE, _OWN, _RANDOM = (Baseline("arm", arm) for arm in ("dense", OWN, "random"))


def efficiencies(
    accuracies: Mapping[Group, Accuracies], images: Mapping[Section, int]
) -> dict[Group, TransferEfficiency]:
    """For each network of another source: its gain over ``random`` as a part of that of the target's own ticket.

    That is the arm ``own`` or, in a table without it, ``winning`` with the target as its source.
    """
    known, found = Baselines(accuracies), {}
    for group, values in accuracies.items():
        at_home = (group.source, group.source_recipe) in (("", ""), (group.target, group.target_recipe))
        if at_home or group.arm in (OWN, "random"):
            continue
        home = group._replace(source=group.target, source_recipe=group.target_recipe, arm="winning")
        own, random = known.find(group, _OWN) or accuracies.get(home), known.find(group, _RANDOM)
        if own is not None and random is not None:
            efficiency = transfer_efficiency(values, own, random, images=images.get(group.section))
            if efficiency is not None:
                found[group] = efficiency
    return found


def matching_densities(accuracies: Mapping[Group, Accuracies], images: Mapping[Section, int]) -> dict[Group, float]:
    """For each sparse network whose arm matches ``dense`` somewhere: the smallest density where that is shown."""
    known = Baselines(accuracies)
    lines: dict[Group, dict[float, Group]] = {}
    for group in accuracies:
        if group.density_asked is not None and group.density_asked < 1:
            lines.setdefault(group._replace(density_asked=None), {})[group.density_asked] = group
    found: dict[Group, float] = {}
    for line in lines.values():
        dense = known.find(next(iter(line.values())), _DENSE)
        if dense is not None:
            arms = {density: accuracies[group] for density, group in line.items()}
            smallest = smallest_matching_density(arms, dense, images=images.get(next(iter(line.values())).section))
            found |= dict.fromkeys(line.values(), smallest) if smallest is not None else {}
    return found
