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


def rows_of(place: Path, experiment: str | None) -> list[dict[str, Any]]:
    """The tidy table of a store, or of a file in CSV."""
    from oneticket.lab import results as tidy
    from oneticket.lab.store import Store

    if place.is_file():
        return tidy.from_csv(place, experiment=experiment)
    return tidy.tidy(Store.open(place), experiment=experiment)


def cautions(place: Path, experiment: str | None) -> list[str]:
    """What must be known of the networks of a store before their numbers are believed; a file in CSV can't tell."""
    from oneticket.lab.store import Store
    from oneticket.lab.suspects import suspects

    found = None if place.is_file() else suspects(Store.open(place), experiment=experiment)
    return [str(found)] if found else []


def results(store: Path, kind: str, experiment: str | None) -> str | bytes:
    """The tidy table as CSV, JSON or Parquet."""
    from oneticket.lab import results as tidy

    rows = rows_of(store, experiment)
    if kind == "parquet":
        return tidy.as_parquet(rows)
    return tidy.as_json(rows) if kind == "json" else tidy.as_csv(rows)


def compared(
    store: Path, kind: str, experiment: str | None, against: Sequence[str], arms: Sequence[str], *, wide: bool
) -> list[tuple[str, Table]] | str:
    """The table over the seeds, in one piece or with a column for each target; a title with each where needed."""
    from oneticket.errors import unknown
    from oneticket.report import summary as over_seeds
    from oneticket.report import summary_table, wide_tables
    from oneticket.report.writers import markdown

    rows = rows_of(store, experiment)
    if all(row["test_accuracy"] is None for row in rows):
        return "No finished cell yet."
    there = sorted({row["arm"] for row in rows})
    for arm in arms:
        if arm not in there:
            raise unknown("arm", arm, there, where="--arm")
    width = _console().width if kind == "table" else None
    if wide:
        found = wide_tables(over_seeds(rows, against), arms=arms, width=width)
        found = found if len(found) > 1 else [("", table) for _, table in found]
    else:
        short = over_seeds(rows, against) if against else over_seeds(rows)
        found = [("", summary_table([row for row in short if not arms or row.group.arm in arms], width=width))]
    if kind == "table":
        return found
    return "\n".join((f"{title}\n\n" if title else "") + markdown(table) for title, table in found)


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


def footprints(store: Path, kind: str, experiment: str | None) -> list[tuple[str, Table]] | str:
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
    return [("", table)] if kind == "table" else markdown(table)


def summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The summary over the seeds, as wide as the terminal allows."""
    from oneticket.report import summary as over_seeds
    from oneticket.report import summary_table

    return summary_table(over_seeds(rows), width=_console().width)


def show(table: Table) -> None:
    """Print a table to standard output."""
    from rich.table import Table as Shown
    from rich.text import Text

    # Names are somebody's words: neither markup nor codes for the terminal.
    shown = Shown(box=None, header_style="bold", pad_edge=False)
    for title, numeric in zip(table.header, table.numeric, strict=True):
        shown.add_column(Text(harmless(title)), justify="right" if numeric else "left", no_wrap=True)
    for cells in table.lines:
        shown.add_row(*(Text(harmless(cell)) for cell in cells))
    _console().print(shown)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=240)


def _refuse_others(option: str, kind: str, *known: str) -> None:
    if kind not in known:
        raise click.UsageError(f"{option} needs --format {', '.join(known[:-1])} or {known[-1]}")
