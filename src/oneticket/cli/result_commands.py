"""Commands that look at what was computed: results, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oneticket.cli import tables
from oneticket.cli.checks import check_out
from oneticket.cli.text import harmless

if TYPE_CHECKING:
    from oneticket.report import Table

_table = click.argument("store", type=click.Path(path_type=Path))
_only = click.option("--experiment", help="Only the rows of this experiment.")
_against = click.option(
    "--against", multiple=True, metavar="ARM",
    help="Compare with this arm, or with rescale=none, source=NAME@RECIPE; may be repeated.  [default: dense, random]",
)  # fmt: skip


@click.command()
@_table
@click.option("--format", "kind", type=click.Choice(tables.FORMATS), default="table")
@_only
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@_against
@click.option("--arm", "arms", multiple=True, metavar="ARM", help="Only this arm; may be repeated.")
@click.option("--wide", is_flag=True, help="One column for each target.")
@click.option("--cost", is_flag=True, help="What each network has cost, its search included, instead of the table.")
@click.option("--footprint", is_flag=True, help="Accuracy, bytes and time per prediction, measured now, instead of it.")
def results(
    store: Path, kind: str, experiment: str | None, out: Path | None, against: tuple[str, ...], arms: tuple[str, ...],
    wide: bool, cost: bool, footprint: bool,
) -> None:  # fmt: skip
    """The results in STORE, a store or its tidy table in CSV: over the seeds, or one row for each trained network."""
    if cost and footprint:
        raise click.UsageError("--cost or --footprint, not both")
    if (against or arms or wide) and (cost or footprint or kind not in ("table", "markdown")):
        raise click.UsageError("--against, --arm and --wide need --format table or markdown, of accuracies")
    if wide and len(against) > 1:
        raise click.UsageError("--wide has room for one --against")
    if out is not None:
        if kind == "table":
            raise click.UsageError("--out needs --format markdown, csv, json or parquet")
        check_out(out)
    told: list[tuple[str, Table]] | str | bytes
    if cost or footprint:
        told = (tables.costs if cost else tables.footprints)(store, kind, experiment)
    elif kind in ("table", "markdown"):
        told = tables.compared(store, kind, experiment, against, arms, wide=wide)
    else:
        told = tables.results(store, kind, experiment)
    if isinstance(told, list):
        for number, (title, table) in enumerate(told):
            if title:
                click.echo(("\n" if number else "") + harmless(title))
            tables.show(table)
    elif out is not None:
        out.write_bytes(told if isinstance(told, bytes) else told.encode())
    elif isinstance(told, bytes):
        sys.stdout.buffer.write(told)
    else:
        click.echo(told.removesuffix("\n"))
    if not cost:  # of which wrong gradients change nothing
        say_cautions(store, experiment)


def say_cautions(store: Path, experiment: str | None) -> None:
    """Say on standard error, out of the way of data, what must be known of the networks of a store."""
    for caution in tables.cautions(store, experiment):
        click.echo(f"\nCaution: {harmless(caution)}", err=True)


@click.command()
@_table
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report.  [default: STORE/report]")
@_only
@_against
def report(store: Path, out: Path | None, experiment: str | None, against: tuple[str, ...]) -> None:
    """Write report.html (one file, no network), the figures and the tables of STORE, a store or its table in CSV."""
    beside = store.with_name(f"{store.stem}-report") if store.is_file() else store / "report"
    click.echo(write_page(store, out or beside, experiment, against))


def write_page(store: Path, out: Path, experiment: str | None = None, against: tuple[str, ...] = ()) -> Path:
    """Write the report and return the path of its page."""
    from oneticket.report import write_report

    rows, cautions = tables.rows_of(store, experiment), tables.cautions(store, experiment)
    if not against:
        return write_report(rows, out, cautions=cautions)
    return write_report(rows, out, cautions=cautions, against=against)
