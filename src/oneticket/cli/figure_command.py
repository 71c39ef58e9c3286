"""The command that draws one figure of a table of results."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import click

from oneticket.cli import tables
from oneticket.cli.checks import check_out
from oneticket.cli.completion_command import ARMS
from oneticket.errors import InputError

_KINDS = ("accuracy", "arms", "differences", "heat-map", "compute")
_FILES = ("svg", "pdf", "png")


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--kind", type=click.Choice(_KINDS), default="accuracy", show_default=True,
    help="Accuracy against density; by arm at the lowest density; differences; sources × targets; against compute.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="An SVG, PDF or PNG file.")
@click.option("--target", metavar="NAME@RECIPE", help="Only this target.")
@click.option(
    "--arm", "arms", multiple=True, metavar="ARM", shell_complete=ARMS, help="Only this arm; may be repeated."
)
@click.option(
    "--against", multiple=True, metavar="ARM", shell_complete=ARMS, help="As in `results`.  [default: dense, random]"
)
@click.option("--experiment", help="Only the rows of this experiment.")
@click.option("--columns", type=click.Choice(["1", "2"]), default="2", show_default=True, help="Its width on a page.")
def figure(
    store: Path, kind: str, out: Path, target: str | None, arms: tuple[str, ...], against: tuple[str, ...],
    experiment: str | None, columns: str,
) -> None:  # fmt: skip
    """Draw one figure of STORE, a store or its table in CSV."""
    suffix = out.suffix.removeprefix(".")
    if suffix not in _FILES:
        raise InputError(
            f"'{out.name}' is not a figure", where="--out", expected="a name that ends in .svg, .pdf or .png"
        )
    check_out(out)
    rows = tables.rows_of(store, experiment)

    from oneticket.report.baselines import USUAL
    from oneticket.report.drawing import render
    from oneticket.report.figure_kinds import make_figure
    from oneticket.report.inline import standalone
    from oneticket.report.writers import write

    width = cast("Literal[1, 2]", int(columns))
    drawn = make_figure(rows, kind, target=target, arms=arms, against=against or USUAL, columns=width)
    data = render(drawn, suffix)
    write(out, standalone(data) if suffix == "svg" else data)
    click.echo(out)
