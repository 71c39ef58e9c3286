"""The command that draws one figure of a table of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import click

from oneticket.cli import tables
from oneticket.cli.checks import check_out
from oneticket.cli.completion_command import ARMS
from oneticket.cli.text import harmless
from oneticket.errors import InputError, unknown

_KINDS = (
    "accuracy", "arms", "differences", "heat-map", "compute", "rescale", "layers", "movement", "overlap", "learning",
)  # fmt: skip
OF_NETWORKS = ("layers", "movement", "overlap", "learning")
"""Kinds that are drawn of a table with several rows a network."""
_FILES = ("svg", "pdf", "png")


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--kind", type=click.Choice(_KINDS), default="accuracy", show_default=True,
    help="Accuracy against density; by arm at the lowest density; differences; sources × targets; against compute; "
    "rescalings × arms; densities of layers; signs flipped and way from W_k; overlap of masks; learning curves.",
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
@click.option("--model", help="Only the networks of this model, as the column `model` has it.")
@click.option("--columns", type=click.Choice(["1", "2"]), default="2", show_default=True, help="Its width on a page.")
@click.option("--reference", metavar="NAME", help="Published curves behind accuracy; `oneticket list reference`.")
@click.option(
    "--table", type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the table behind layers, movement, overlap or learning: a CSV file that can stand for STORE.",
)  # fmt: skip
def figure(
    store: Path, kind: str, out: Path, target: str | None, arms: tuple[str, ...], against: tuple[str, ...],
    experiment: str | None, model: str | None, columns: str, reference: str | None, table: Path | None,
) -> None:  # fmt: skip
    """Draw one figure of STORE, a store or its table in CSV, and say its caption."""
    for file in filter(None, (out, table)):
        check_out(file)
    rows = rows_for(store, kind, experiment, model, target, arms)
    if table is not None:
        if kind not in OF_NETWORKS:
            raise InputError(
                f"the figure '{kind}' is drawn of the tidy table", where="--table", expected="`oneticket results`"
            )
        from oneticket.lab.results.networks import as_csv

        table.write_text(as_csv(kind, rows), encoding="utf-8")
    caption = drawn(rows, kind, out, target=target, arms=arms, against=against, columns=columns, reference=reference)
    click.echo(out)
    click.echo(harmless(caption))


def rows_for(
    store: Path, kind: str, experiment: str | None = None, model: str | None = None, target: str | None = None,
    arms: tuple[str, ...] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of the table that a kind of figure is drawn of; only networks that it shows are read."""
    if kind not in OF_NETWORKS:
        return _of_model(tables.rows_of(store, experiment), model)
    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.networks import TABLES, from_csv
    from oneticket.report.lines import one_target, sparsest

    if store.is_file():
        found = from_csv(kind, store)
        names = sorted({row["experiment"] for row in found})
        if experiment is not None and experiment not in names:
            raise unknown("experiment", experiment, names, where=str(store))
        return _of_model([row for row in found if experiment in (None, row["experiment"])], model)
    shown = sparsest(one_target(_of_model(tables.rows_of(store, experiment), model), kind, target, arms))
    return TABLES[kind][1](Store.open(store), shown)


def _of_model(rows: list[dict[str, Any]], model: str | None) -> list[dict[str, Any]]:
    models = sorted({row["model"] for row in rows})
    if model is not None and model not in models:
        raise unknown("model", model, models, where="--model")
    return [row for row in rows if model in (None, row["model"])]


def drawn(
    rows: list[dict[str, Any]], kind: str, out: Path, *, target: str | None = None, arms: tuple[str, ...] = (),
    against: tuple[str, ...] = (), columns: str = "2", reference: str | None = None,
) -> str:  # fmt: skip
    """Draw a figure of these rows into the file ``out``, and return its caption."""
    suffix = out.suffix.removeprefix(".")
    if suffix not in _FILES:
        raise InputError(
            f"'{out.name}' is not a figure", where="--out", expected="a name that ends in .svg, .pdf or .png"
        )
    from oneticket.report.baselines import USUAL
    from oneticket.report.drawing import render
    from oneticket.report.figure_kinds import make_figure
    from oneticket.report.inline import standalone
    from oneticket.report.writers import write

    width = cast("Literal[1, 2]", int(columns))
    asked: dict[str, Any] = {"target": target, "arms": arms, "against": against or USUAL, "reference": reference}
    made = make_figure(rows, kind, columns=width, **asked)
    data = render(made.figure, suffix)
    write(out, standalone(data) if suffix == "svg" else data)
    return made.caption
