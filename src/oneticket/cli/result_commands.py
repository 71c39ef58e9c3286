"""Commands that show what was computed: results, report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from oneticket.cli import tables
from oneticket.cli.checks import check_out
from oneticket.cli.completion_command import ARMS
from oneticket.cli.text import harmless

_table = click.argument("store", type=click.Path(path_type=Path))
_only = click.option("--experiment", help="Only the rows of this experiment.")
_against = click.option(
    "--against", multiple=True, metavar="ARM", shell_complete=ARMS,
    help="Compare with this arm, or with rescale=none, source=NAME@RECIPE; may be repeated.  [default: dense, random]",
)  # fmt: skip


@dataclass(frozen=True)
class _Options:
    """The argument and the options of `results`, which explains each."""

    store: Path
    kind: str
    experiment: str | None
    out: Path | None
    against: tuple[str, ...]
    arms: tuple[str, ...]
    wide: bool
    cost: bool
    footprint: bool
    comparisons: bool
    margin: float | None


@click.command()
@_table
@click.option("--format", "kind", type=click.Choice(tables.FORMATS), default="table")
@_only
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@_against
@click.option(
    "--arm", "arms", multiple=True, metavar="ARM", shell_complete=ARMS, help="Only this arm; may be repeated."
)
@click.option("--wide", is_flag=True, help="One column for each target.")
@click.option("--cost", is_flag=True, help="What each network has cost, its search included, instead of the table.")
@click.option("--footprint", is_flag=True, help="Accuracy, bytes and time per prediction, measured now, instead of it.")
@click.option(
    "--comparisons",
    is_flag=True,
    help="What is better, equivalent or not decided, with p values, instead of the table.",
)
@click.option(
    "--margin", type=click.FloatRange(0, 100, min_open=True), metavar="POINTS",
    help="With --comparisons: differences up to it count as none.  [default: 0.2]",
)  # fmt: skip
def results(**given: Any) -> None:
    """The results in STORE, a store or its tidy table in CSV: over the seeds, or one row for each trained network."""
    options = _Options(**given)
    _refuse_what_does_not_go_together(options)
    if options.out is not None:
        check_out(options.out)
    with tables.uncollected():
        rows = None if options.cost or options.footprint else tables.rows_of(options.store, options.experiment)
        found = _found(options, rows or [])
    if isinstance(found, tables.Shown):
        tables.show_all(found)
    elif options.out is not None:
        options.out.write_bytes(found if isinstance(found, bytes) else found.encode())
    elif isinstance(found, bytes):
        sys.stdout.buffer.write(found)
    else:
        click.echo(found.removesuffix("\n"))
    if not options.cost:  # wrong gradients do not change what a network cost
        say_cautions(options.store, options.experiment, rows)


def _refuse_what_does_not_go_together(options: _Options) -> None:
    if options.cost and options.footprint:
        raise click.UsageError("--cost or --footprint, not both")
    if options.comparisons and (options.cost or options.footprint or options.wide):
        raise click.UsageError("--comparisons is a table of its own, without --cost, --footprint and --wide")
    if options.margin is not None and not options.comparisons:
        raise click.UsageError("--margin needs --comparisons")
    if options.kind == "latex" and not options.comparisons:
        raise click.UsageError("--format latex needs --comparisons; `oneticket report` writes tables/summary.tex")
    of_accuracies = options.kind in ("table", "markdown") and not (options.cost or options.footprint)
    if (options.against or options.arms or options.wide) and not (of_accuracies or options.comparisons):
        raise click.UsageError("--against, --arm and --wide need --format table or markdown, of accuracies")
    if options.wide and len(options.against) > 1:
        raise click.UsageError("--wide has room for one --against")
    if options.out is not None and options.kind == "table":
        raise click.UsageError("--out needs --format markdown, csv, json, parquet or latex")


def _found(options: _Options, rows: list[dict[str, Any]]) -> tables.Shown | str | bytes:
    """What the options ask for: titled tables for a terminal, or the content of a file."""
    store, kind, experiment = options.store, options.kind, options.experiment
    if options.cost:
        return tables.costs(store, kind, experiment)
    if options.footprint:
        return tables.footprints(store, kind, experiment)
    if options.comparisons:
        return tables.comparisons(store, rows, kind, options.against, options.arms, options.margin)
    if kind in ("table", "markdown"):
        return tables.compared(store, rows, kind, experiment, options.against, options.arms, wide=options.wide)
    return tables.results(rows, kind)


def say_cautions(store: Path, experiment: str | None, rows: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Write warnings about the networks of a store to standard error, so that they do not mix with data."""
    for caution in tables.cautions(store, experiment, rows):
        click.echo(f"\nCaution: {harmless(caution)}", err=True)


@click.command()
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report.  [default: STORE/report]")
@_only
@_against
@click.option("--live", is_flag=True, help="Write the page again while a run fills STORE, until that is complete.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=30.0, metavar="SECONDS", help="With --live.  [default: 30]"
)
def report(
    stores: tuple[Path, ...],
    out: Path | None,
    experiment: str | None,
    against: tuple[str, ...],
    live: bool,
    every: float,
) -> None:
    """Write report.html (one file, works offline), the figures and the tables of STORE, a store or its table in CSV.

    Of several, one page compares each arm with the same arm in the first.
    """
    if len(stores) > 1:
        if live or out is None:
            raise click.UsageError("several stores need --out, and can't be reported --live")
        click.echo(_write_joint_page(stores, out, experiment, against))
        return
    (store,) = stores
    beside = store.with_name(f"{store.stem}-report") if store.is_file() else store / "report"
    if live:
        _follow(store, out or beside, experiment, against, every)
    else:
        click.echo(write_page(store, out or beside, experiment, against))


def _follow(store: Path, out: Path, experiment: str | None, against: tuple[str, ...], every: float) -> None:
    """Write the page whenever cells were finished, until the run is complete or somebody interrupts."""
    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.watching import Watcher

    if store.is_file():
        raise click.UsageError("--live needs a store, not a table in CSV")
    watcher, told = Watcher(Store.open(store), experiment), -1
    try:
        while True:
            seen = watcher.look()  # before the page is written: what comes meanwhile is in the next one
            done = sum(stage.done for stage in seen.stages)
            if done != told and tables.rows_of(store, experiment):
                page, told = write_page(store, out, experiment, against), done
                click.echo(f"{page}: {done}/{sum(stage.planned for stage in seen.stages)} cells")
            if seen.complete:
                return
            time.sleep(every)
    except KeyboardInterrupt:  # the usual end: the page is whole
        return


def _write_joint_page(
    places: Sequence[Path], out: Path, experiment: str | None = None, against: tuple[str, ...] = ()
) -> Path:
    """Write the report of several stores or tables, and return the path of its page."""
    from dataclasses import replace

    from oneticket.cli.provenance import joint, provenance
    from oneticket.lab.results.together import IN, names_of, together
    from oneticket.report import write_report
    from oneticket.report.baselines import USUAL

    named = dict(zip(names_of(places), places, strict=True))
    with tables.uncollected():
        found = {name: tables.rows_of(place, experiment) for name, place in named.items()}
        rows = together(found, named)
    arms = {row["arm"] for row in rows}
    verdicts = [
        replace(verdict, question=replace(verdict.question, experiment=f"{verdict.question.experiment}{IN}{name}"))
        for name, place in named.items()
        for verdict in tables.verdicts(place, found[name], experiment)
    ]
    return write_report(
        rows,
        out,
        cautions=[f"{n}: {c}" for n, place in named.items() for c in tables.cautions(place, experiment, found[n])],
        against=against or (*(arm for arm in USUAL if arm in arms), f"store={next(iter(named))}"),
        verdicts=verdicts,
        withdrawn=[f"{n}: {w}" for n, place in named.items() for w in tables.withdrawn(place, experiment)],
        provenance=joint({n: provenance(place, found[n], experiment) for n, place in named.items()}, places),
    )


def write_page(store: Path, out: Path, experiment: str | None = None, against: tuple[str, ...] = ()) -> Path:
    """Write the report and return the path of its page."""
    from oneticket.cli.provenance import provenance
    from oneticket.report import write_report
    from oneticket.report.baselines import USUAL

    with tables.uncollected():
        rows = tables.rows_of(store, experiment)
    cautions = tables.cautions(store, experiment, rows)
    return write_report(
        rows,
        out,
        cautions=cautions,
        against=against or USUAL,
        verdicts=tables.verdicts(store, rows, experiment),
        withdrawn=tables.withdrawn(store, experiment),
        provenance=provenance(store, rows, experiment),
        correct=tables.correct_of(store),
    )
