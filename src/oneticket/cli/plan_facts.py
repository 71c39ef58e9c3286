"""What `plan` says of an experiment: as facts for JSON, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oneticket.cli.text import harmless

if TYPE_CHECKING:
    from oneticket.lab.planning.plan import Plan


def plan_facts(graph: Plan) -> dict[str, Any]:
    """Facts of a plan as values of JSON."""
    from oneticket.lab.cells.description import Round

    search = sum(isinstance(cell.start, Round) for cell in graph.cells.values())
    return {
        "experiment": graph.experiment,
        "networks": len({row.cell for row in graph.rows}),
        "trainings": len(graph.cells),
        "search": search,
        "unshared": sum(1 + row.search_trainings for row in graph.rows),
        "trials": _trials(graph),
        "leaks": [str(leak) for leak in graph.leaks],
        "densities": [{"asked": asked, "met": met} for asked, met in graph.densities.items()],
        "findings": [{"kind": finding.kind, "text": finding.text} for finding in graph.findings],
        "precision": _precisions(graph),
        "too_few_seeds": _too_few_seeds(graph),
        "claims": [{"says": asked.claim.says, "places": len(asked.places)} for asked in graph.claims.asked],
        "unanswered": [{"name": left.name, "lacks": left.lacks} for left in graph.claims.unanswered],
    }


def print_plan(graph: Plan, facts: Mapping[str, Any], root: Path) -> None:
    """Say the facts of `plan_facts`, and those of the work that is left in the store ``root``."""
    from oneticket.cli.progress import duration

    click.echo(f"{graph.experiment}: {facts['networks']} networks to compare, from {facts['trainings']} trainings")
    click.echo(
        f"  {facts['search']} of them search rounds; without sharing there would be {facts['unshared']} trainings"
    )
    if facts["trials"]:
        click.echo(f"  {_told_trials(facts['trials'])}")
    if facts["trials"]:
        click.echo(f"  {_told_trials(facts['trials'])}")
    click.echo(f"  {facts['missing']} not yet done in {root}")
    for leak in graph.leaks:
        click.echo(f"  {leak}")
    for asked, met in graph.densities.items():
        click.echo(
            f"  density {asked:g} stands for {' and '.join(f'{density:.3g}' for density in met)}, the nearest round"
        )
    if facts["too_few_seeds"]:
        click.echo(f"  {facts['too_few_seeds']}")
    for finding in graph.findings:
        click.echo(f"  not level ({finding.kind}): {harmless(finding.text)}")
    for precision, found in facts["precision"].items():
        click.echo(f"  in {precision}: {found['reason']}")
    _print_claims(graph)
    if facts["missing"]:
        seconds, beside = facts["estimated_seconds"], facts["workers"]
        click.echo(f"  about {duration(seconds)} with {beside} workers ({facts['workers_because']})")


def _print_claims(graph: Plan) -> None:
    """Say at how many places each claim is tested, and which ready claims cannot be."""
    for asked in graph.claims.asked:
        count = len(asked.places)
        click.echo(f"  claim: {harmless(asked.claim.says)} ({count} place{'s' if count > 1 else ''})")
    for left in graph.claims.unanswered:
        click.echo(f"  not answered here: {left.name}: {harmless(left.lacks)}")


def _trials(graph: Plan) -> dict[str, Any] | None:
    """What is tried before arms are judged: settings of an arm, trainings, steps on targets; None without tuning."""
    import msgspec

    from oneticket.lab.planning.rows import RowKey

    tried = {row.cell: row for row in graph.rows if row.trials is not None}
    if not tried:
        return None
    kept = {(RowKey.of(msgspec.structs.asdict(row)), row.seed) for row in tried.values()}
    counts = sorted({row.trials for row in tried.values() if row.trials is not None})
    every = {row.cell: row.own_steps for row in graph.rows}
    return {
        "of_an_arm": counts,
        "trainings": len(tried),
        "networks": len(kept),
        "steps": sum(row.own_steps for row in tried.values()),
        "steps_of_all_networks": sum(every.values()),
    }


def _told_trials(trials: Mapping[str, Any]) -> str:
    counts = trials["of_an_arm"]
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"{each} trials of each arm: {trials['trainings']} trainings, "
        f"of which validation chooses {trials['networks']}; "
        f"{trials['steps']} of the {trials['steps_of_all_networks']} steps on targets"
    )


def _too_few_seeds(graph: Plan) -> str | None:
    """Why the seeds of a plan cannot decide its comparisons; None for three or more."""
    from oneticket.statistics import smallest_detectable

    seeds = len({row.seed for row in graph.rows})
    if seeds >= 3:
        return None
    if seeds < 2:
        return "too few seeds: with one there is neither interval nor test, so that nothing can be decided"
    here, three, six = (smallest_detectable(n, 1.0) for n in (2, 3, 6))
    return (
        f"too few seeds: two show a difference of {here:.0f} standard deviations or more, three of {three:.1f}, six of "
        f"{six:.1f} (80 % power)"
    )


def _precisions(graph: Plan) -> dict[str, dict[str, Any]]:
    """For each precision that a recipe of the plan asks for: whether it is the fastest on this CPU, and why."""
    from oneticket.training.precision import choice

    asked = {cell.recipe.precision for cell in graph.cells.values()}
    choices = [choice(precision) for precision in sorted(asked)]
    return {found.precision: {"fastest": found.fastest, "reason": found.reason} for found in choices}
