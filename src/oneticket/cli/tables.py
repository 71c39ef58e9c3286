"""What ``oneticket results`` shows, in each format; tables of text on a terminal."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from oneticket.cli.text import harmless

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from oneticket.report import SummaryRow, Table
    from oneticket.verdicts import Verdict


class Shown(NamedTuple):
    """Tables for a terminal, each with its title, sentences to show below them, and lines to show before them."""

    tables: list[tuple[str, Table]]
    notes: list[str]
    verdicts: Sequence[str] = ()


_MOST_LAID_OUT = 500
"""Lines that rich lays out; a table of many more would take it half a minute."""
_NARROW = re.compile("[ -~−±×–—…]*")
"""Texts whose letters all take one column of a terminal."""

FORMATS = ("table", "markdown", "csv", "json", "parquet", "latex")


def rows_of(place: Path, experiment: str | None) -> list[dict[str, Any]]:
    """The tidy table of a store, or of a file in CSV."""
    from oneticket.lab.cells.store import Store
    from oneticket.lab.results import table as tidy

    if place.is_file():
        return tidy.from_csv(place, experiment=experiment)
    return tidy.tidy(Store.open(place), experiment=experiment)


def correct_of(place: Path) -> Callable[[str], NDArray[np.bool_] | None] | None:
    """Which test images each network of a store classifies rightly; None for a table in CSV, which does not know."""
    if place.is_file():
        return None
    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.correct import correct_of as of_store

    return of_store(Store.open(place))


@contextmanager
def uncollected() -> Iterator[None]:
    """A context without garbage collection: of a large table, all is kept, and looking for cycles takes seconds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def cautions(place: Path, experiment: str | None, rows: Sequence[Mapping[str, Any]] | None = None) -> list[str]:
    """Warnings about networks of a store whose numbers may be wrong, were computed in different ways, or are not level.

    A table in CSV holds enough to say for the last of them only; ``rows`` are its rows, where they have been read.
    """
    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.natural import correction, correction_of_rows
    from oneticket.lab.results.surroundings import facts_of, mixtures
    from oneticket.lab.results.suspects import suspects
    from oneticket.lab.results.table import undecided, unlevel

    if place.is_file():
        return correction_of_rows(rows_of(place, experiment) if rows is None else rows)
    store = Store.open(place)
    facts = facts_of(store, experiment)
    found = suspects(store, facts=facts)
    return [
        *([str(found)] if found else []),
        *mixtures(facts),
        *correction(facts),
        *undecided(store, experiment),
        *unlevel(store, experiment),
    ]


def verdicts(place: Path, rows: Sequence[Mapping[str, Any]], experiment: str | None) -> list[Verdict]:
    """The verdicts on the claims of a store; a table in CSV holds no claims."""
    if place.is_file():
        return []
    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.verdicts import verdicts as judged

    return judged(Store.open(place), rows, experiment)


def withdrawn(place: Path, experiment: str | None) -> list[str]:
    """Claims that were made in a store and are no longer in the file of their experiment."""
    if place.is_file():
        return []
    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.verdicts import withdrawn as taken_out

    return taken_out(Store.open(place), experiment)


def verdict_lines(place: Path, rows: Sequence[Mapping[str, Any]], experiment: str | None) -> list[str]:
    """What a terminal shows of the claims of a store, before its table."""
    from oneticket.report import as_lines

    lines = as_lines(verdicts(place, rows, experiment))
    return lines + [f"Claimed once, and taken out of the file: {says}" for says in withdrawn(place, experiment)]


def results(rows: list[dict[str, Any]], kind: str) -> str | bytes:
    """The tidy table as CSV, JSON or Parquet."""
    from oneticket.lab.results import table as tidy

    if kind == "parquet":
        return tidy.as_parquet(rows)
    return tidy.as_json(rows) if kind == "json" else tidy.as_csv(rows)


def compared(
    store: Path,
    rows: Sequence[Mapping[str, Any]],
    kind: str,
    experiment: str | None,
    against: Sequence[str],
    arms: Sequence[str],
    *,
    wide: bool,
) -> Shown | str:
    """The table over the seeds, in one piece or with a column for each target; titles where there are several."""
    from oneticket.report import alike, as_markdown, at_edge, fairness, reading, summary_table, tuning_table
    from oneticket.report import summary as over_seeds
    from oneticket.report.baselines import USUAL
    from oneticket.report.writers import markdown

    if all(row["test_accuracy"] is None for row in rows):
        return "No finished cell yet."
    _refuse_unknown_arms(arms, {row["arm"] for row in rows})
    width = _console().width if kind == "table" else None
    short = over_seeds(rows, against if against or wide else USUAL, transfers=False)
    kept = [row for row in short if not arms or row.group.arm in arms]
    found = _wide(short, arms, width) if wide else [("", summary_table(kept, width=width))]
    shown = [row for row in rows if not arms or row["arm"] in arms]
    notes = [*reading(kept), *fairness(shown), *at_edge(shown), *alike(shown)]
    if (chosen := tuning_table(shown)) is not None:
        found = [*found, ("Chosen by validation", chosen)]
    if kind == "table":
        return Shown(found, notes, verdict_lines(store, rows, experiment))
    tables = [(f"{title}\n\n" if title else "") + markdown(table) for title, table in found]
    if said := as_markdown(verdicts(store, rows, experiment)):
        tables.insert(0, said)
    return "\n".join([*tables, *(f"{note}\n" for note in notes)])


def _refuse_unknown_arms(arms: Sequence[str], known: Collection[str]) -> None:
    from oneticket.errors import unknown

    for arm in arms:
        if arm not in known:
            raise unknown("arm", arm, sorted(known), where="--arm")


def _wide(rows: Sequence[SummaryRow], arms: Sequence[str], width: int | None) -> list[tuple[str, Table]]:
    from oneticket.report import wide_tables

    found = wide_tables(rows, arms=arms, width=width)
    return found if len(found) > 1 else [("", table) for _, table in found]


def comparisons(
    store: Path,
    rows: Sequence[Mapping[str, Any]],
    kind: str,
    against: Sequence[str],
    arms: Sequence[str],
    points: float | None,
) -> Shown | str:
    """Every comparison with its verdict; ``points`` is the margin of equivalence."""
    _refuse_others("--comparisons", kind, "table", "markdown", "csv", "latex")

    from oneticket.report import (
        READING_OF_TARGETS,
        comparison_table,
        over_targets,
        over_targets_table,
        reading_of_comparisons,
        reading_of_images,
        tally,
    )
    from oneticket.report import comparisons as compare
    from oneticket.report.baselines import USUAL
    from oneticket.report.writers import comparisons_csv, comparisons_latex, markdown
    from oneticket.statistics import MARGIN

    if all(row["test_accuracy"] is None for row in rows):
        return "No finished cell yet."
    _refuse_unknown_arms(arms, {row["arm"] for row in rows})
    margin = MARGIN if points is None else points / 100
    correct = correct_of(store)
    found = [row for row in compare(rows, against or USUAL, margin, correct) if not arms or row.group.arm in arms]
    if not found and kind in ("table", "markdown"):
        return f"No arm has one to be compared with: {' and '.join(against or USUAL)}. Name others with --against."
    if kind == "csv":
        return comparisons_csv(found)
    if kind == "latex":
        return comparisons_latex(found, margin)
    of_images = reading_of_images([row.over_images for row in found], asked=correct is not None)
    shown, notes = [("", comparison_table(found))], [tally(found), reading_of_comparisons(margin), *of_images]
    if over := [row for row in over_targets(rows, against or USUAL) if not arms or row.arm in arms]:
        shown.append(("Over the targets", over_targets_table(over)))
        notes.append(READING_OF_TARGETS)
    if kind == "table":
        return Shown(shown, notes)
    tables = [(f"{title}\n\n" if title else "") + markdown(table) for title, table in shown]
    return "\n".join([*tables, *(f"{note}\n" for note in notes)])


def costs(store: Path, kind: str, experiment: str | None) -> str:
    """What each network has cost, its search included."""
    _refuse_others("--cost", kind, "table", "csv", "json")

    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.cost import cost_report
    from oneticket.lab.results.cost_formats import as_csv, as_json, as_table

    found = cost_report(Store.open(store), experiment=experiment)
    if kind == "table":
        return "\n".join(map(harmless, as_table(found).splitlines()))
    return as_csv(found) if kind == "csv" else as_json(found)


def footprints(store: Path, kind: str, experiment: str | None) -> Shown | str:
    """Accuracy, bytes and time per prediction of the dense, the ``winning`` and the binary networks, measured now."""
    _refuse_others("--footprint", kind, "table", "markdown", "csv", "json")

    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.footprints import as_csv, as_json
    from oneticket.lab.results.footprints import footprints as measured
    from oneticket.report import footprint_table
    from oneticket.report.writers import markdown

    rows = measured(Store.open(store), experiment=experiment)
    if kind in ("csv", "json"):
        return as_csv(rows) if kind == "csv" else as_json(rows)
    table = footprint_table(rows)
    return Shown([("", table)], []) if kind == "table" else markdown(table)


def summary(rows: Sequence[Mapping[str, Any]]) -> Shown:
    """The summary over the seeds, as wide as the terminal allows."""
    from oneticket.report import reading, summary_table
    from oneticket.report import summary as over_seeds

    found = over_seeds(rows)
    return Shown([("", summary_table(found, width=_console().width))], reading(found))


def say_verdicts(lines: Sequence[str]) -> None:
    """Show verdicts, and an empty line before what follows; nothing where there are no claims."""
    for line in lines:
        click.echo(harmless(line))
    if lines:
        click.echo()


def show_all(shown: Shown) -> None:
    """Print the verdicts, then tables below their titles, and the notes below them."""
    say_verdicts(shown.verdicts)
    for number, (title, table) in enumerate(shown.tables):
        if title:
            click.echo(("\n" if number else "") + harmless(title))
        show(table)
    for note in shown.notes:
        click.echo("\n" + harmless(note))


def show(table: Table) -> None:
    """Print a table to standard output."""
    console = _console()
    if len(table.lines) > _MOST_LAID_OUT:
        lines = aligned(table)
        if max(map(len, lines)) <= console.width and all(map(_NARROW.fullmatch, lines)):  # else rich shortens
            console.print(lines[0], style="bold", markup=False, highlight=False, no_wrap=True)
            click.echo("\n".join(lines[1:]))
            return

    from rich.table import Table as Shown
    from rich.text import Text

    # Names are users' words: they must not act as markup or as codes for the terminal.
    shown = Shown(box=None, header_style="bold", pad_edge=False)
    for title, numeric in zip(table.header, table.numeric, strict=True):
        shown.add_column(Text(harmless(title)), justify="right" if numeric else "left", no_wrap=True)
    for line in table.lines:
        shown.add_row(*(Text(harmless(text)) for text in line))
    console.print(shown)


def aligned(table: Table) -> list[str]:
    """The lines of a table, its columns aligned by their numbers of letters; for narrow letters as rich sets them."""
    texts = [[harmless(text) for text in line] for line in (table.header, *table.lines)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    form = "  ".join(f"{{:{'>' if right else '<'}{room}}}" for right, room in zip(table.numeric, widths, strict=True))
    return [form.format(*line) for line in texts]


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=240)


def _refuse_others(option: str, kind: str, *known: str) -> None:
    if kind not in known:
        raise click.UsageError(f"{option} needs --format {', '.join(known[:-1])} or {known[-1]}")
