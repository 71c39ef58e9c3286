"""What ``oneticket results`` tells of a store, in each format; tables of text on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oneticket.cli.text import harmless

if TYPE_CHECKING:
    from rich.console import Console

    from oneticket.report import Table

FORMATS = ("table", "markdown", "csv", "json", "parquet")


def results(store: Path, kind: str, experiment: str | None) -> Table | str | bytes:
    """The tidy table; as ``table`` and ``markdown`` its summary over the seeds."""
    from oneticket.lab import results as tidy
    from oneticket.lab.store import Store

    rows = tidy.tidy(Store.open(store), experiment=experiment)
    if kind == "table":
        return summary(rows) if rows else "No finished cell yet."
    if kind == "markdown":
        from oneticket.report import summary as over_seeds
        from oneticket.report import summary_table
        from oneticket.report.writers import markdown

        return markdown(summary_table(over_seeds(rows)))
    if kind == "parquet":
        return tidy.as_parquet(rows)
    return tidy.as_json(rows) if kind == "json" else tidy.as_csv(rows)


def costs(store: Path, kind: str, experiment: str | None) -> str:
    """The ledger."""
    _refuse_others("--cost", kind, "table", "csv", "json")

    from oneticket.lab.ledger import ledger
    from oneticket.lab.ledger_formats import as_csv, as_json, as_table
    from oneticket.lab.store import Store

    book = ledger(Store.open(store), experiment=experiment)
    if kind == "table":
        return "\n".join(map(harmless, as_table(book).splitlines()))
    return as_csv(book) if kind == "csv" else as_json(book)


def footprints(store: Path, kind: str, experiment: str | None) -> Table | str:
    """Accuracy, bytes and time per prediction of the dense, the ``winning`` and the binary networks, measured now."""
    _refuse_others("--footprint", kind, "table", "markdown", "csv", "json")

    from oneticket.lab.footprints import as_csv, as_json
    from oneticket.lab.footprints import footprints as measured
    from oneticket.lab.store import Store
    from oneticket.report import footprint_table
    from oneticket.report.writers import markdown

    rows = measured(Store.open(store), experiment=experiment)
    if kind in ("csv", "json"):
        return as_csv(rows) if kind == "csv" else as_json(rows)
    table = footprint_table(rows)
    return table if kind == "table" else markdown(table)


def summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The summary over the seeds, as wide as the terminal allows."""
    from oneticket.report import summary as over_seeds
    from oneticket.report import summary_table

    return summary_table(over_seeds(rows), width=_console().width)


def show(table: Table) -> None:
    """Print a table to standard output."""
    from rich.table import Table as Shown

    shown = Shown(box=None, header_style="bold", pad_edge=False)
    for title, numeric in zip(table.header, table.numeric, strict=True):
        shown.add_column(title, justify="right" if numeric else "left", no_wrap=True)
    for cells in table.cells:
        shown.add_row(*cells)
    _console().print(shown)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=240)


def _refuse_others(option: str, kind: str, *known: str) -> None:
    if kind not in known:
        raise click.UsageError(f"{option} needs --format {', '.join(known[:-1])} or {known[-1]}")
