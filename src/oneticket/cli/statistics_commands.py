"""Commands about the statistics themselves: power, statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oneticket.cli import tables
from oneticket.cli.checks import check_out
from oneticket.cli.completion_command import ARMS

if TYPE_CHECKING:
    from oneticket.report import Table
    from oneticket.statistics.simulation import ImageRates, Rates

_points = click.FloatRange(0, 100, min_open=True)


@click.command()
@click.argument("store", required=False, type=click.Path(path_type=Path))
@click.option("--difference", type=_points, required=True, metavar="POINTS", help="The difference that is to be shown.")
@click.option("--spread", type=_points, metavar="POINTS", help="Standard deviation of the differences over the seeds.")
@click.option(
    "--tests", type=click.IntRange(1), default=1, show_default=True, help="Comparisons that are looked at together."
)
@click.option("--experiment", help="Only the rows of this experiment.")
@click.option(
    "--against", multiple=True, metavar="ARM", shell_complete=ARMS, help="As in `results`.  [default: dense, random]"
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def power(
    store: Path | None,
    difference: float,
    spread: float | None,
    tests: int,
    experiment: str | None,
    against: tuple[str, ...],
    as_json: bool,
) -> None:
    """How many seeds show a difference in 80 % of experiments, by a spread or by those seen in STORE (or its CSV)."""
    if (store is None) == (spread is None):
        raise click.UsageError("--spread, or a STORE that has spreads")
    if store is None and (experiment or against):
        raise click.UsageError("--experiment and --against need a STORE")
    if store is not None:
        _by_arm(store, difference, tests, experiment, against, as_json=as_json)
    elif spread is not None:
        _by_spread(difference, spread, tests, as_json=as_json)


def _by_spread(difference: float, spread: float, tests: int, *, as_json: bool) -> None:
    from oneticket.statistics import CONFIDENCE, POWER, seeds_needed, smallest_detectable
    from oneticket.statistics.simulation import SEEDS

    confidence = 1 - (1 - CONFIDENCE) / tests
    needed = seeds_needed(difference, spread, POWER, confidence)
    shown = {n: smallest_detectable(n, spread, POWER, confidence) for n in SEEDS}
    if as_json:
        click.echo(json.dumps({"seeds": needed, "smallest_detectable": shown}, indent=1))
        return
    among = "" if tests == 1 else f", {tests} comparisons looked at together"
    count = "more than 100,000 seeds" if needed is None else f"{needed:,} seeds"
    click.echo(
        f"{count} show a difference of {difference:g} points with 80 % power, where differences scatter by {spread:g} "
        f"points over the seeds (paired t test at 5 %{among})."
    )
    for n, smallest in shown.items():
        click.echo(f"  {n:>2} seeds show {smallest:.2f} points or more")


def _by_arm(
    store: Path, difference: float, tests: int, experiment: str | None, against: Sequence[str], *, as_json: bool
) -> None:
    from oneticket.report import spread_table, spreads
    from oneticket.report.baselines import USUAL

    found = spreads(tables.rows_of(store, experiment), against or USUAL, difference / 100, tests)
    if as_json:
        click.echo(json.dumps([row._asdict() for row in found], indent=1))
    elif not found:
        click.echo("No comparison here has two seeds, so that no spread is known.")
    else:
        tables.show(spread_table(found, difference / 100))


@click.command()
@click.option(
    "--tables", "count", type=click.IntRange(100, 1_000_000), metavar="N",
    help="For each setting.  [default: 10,000; with --images 2,000]",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random numbers.")
@click.option("--format", "kind", type=click.Choice(["table", "markdown", "json"]), default="table")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw it to this SVG file as well.")
@click.option("--images", is_flag=True, help="Intervals over seeds and images, beside those over seeds alone.")
def statistics(count: int | None, seed: int, kind: str, figure: Path | None, images: bool) -> None:
    """Simulate tables without any difference: how often 95 % intervals hold the truth, and how often a star appears."""
    from oneticket.report.simulated import simulated_images, simulated_tables
    from oneticket.statistics.simulation import simulate, simulate_images

    if images and figure is not None:
        raise click.UsageError("--figure is not drawn with --images")
    if images:
        of_images = simulate_images(tables=count or 2000, seed=seed)
        _show_simulated(kind, of_images, [simulated_images(of_images)])
        return
    if figure is not None:
        check_out(figure)
    rates = simulate(tables=count or 10_000, seed=seed)
    _show_simulated(kind, rates, simulated_tables(rates))
    if figure is not None:
        from oneticket.report.drawing import render
        from oneticket.report.simulated import draw_simulated
        from oneticket.report.writers import write

        write(figure, render(draw_simulated(rates), "svg"))


def _show_simulated(kind: str, rates: Sequence[Rates | ImageRates], found: Sequence[tuple[str, Table]]) -> None:
    """What a simulation found, as titled tables or in JSON."""
    from dataclasses import asdict

    from oneticket.report.writers import markdown

    if kind == "json":
        click.echo(json.dumps([asdict(rate) for rate in rates], indent=1))
        return
    for title, table in found:
        click.echo(f"{title}\n")
        if kind == "markdown":
            click.echo(markdown(table))
        else:
            tables.show(table)
            click.echo()
