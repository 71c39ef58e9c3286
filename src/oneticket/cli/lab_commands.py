"""Commands of the laboratory that compute: demo, plan, run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from oneticket.cli import tables
from oneticket.cli.checks import check_device, max_pixels
from oneticket.cli.code_options import CodeOptions, allowed_code, code_options, registered_code
from oneticket.cli.result_commands import say_cautions, write_page
from oneticket.cli.text import harmless

if TYPE_CHECKING:
    from oneticket.kernels.sparse.building import Compute
    from oneticket.kernels.trial import Layout
    from oneticket.lab.cells.store import Store
    from oneticket.lab.execution.events import Summary
    from oneticket.lab.planning.plan import Plan
    from oneticket.lab.planning.plan_cache import Origin
    from oneticket.lab.spec.code import NamedCode
    from oneticket.tracking import Tracker

QUICKSTART = Path(__file__).with_name("quickstart.toml")

_experiment = click.argument("experiment", type=click.Path(path_type=Path))
_store = click.option("--store", type=click.Path(path_type=Path), help="Folder of cells.  [default: stores/NAME]")
_cache = click.option("--cache", type=click.Path(path_type=Path), help="Folder of decoded data.  [default: per user]")
_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
_workers = click.option("--workers", type=click.IntRange(1), help="Cells side by side.  [default: as many as fit]")

_device = click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("oneticket-demo"), show_default=True)
@_workers
def demo(out: Path, workers: int | None) -> int:
    """The quick start: tickets on built-in data, compared and reported, in under 3 minutes."""
    code = _run(QUICKSTART, out / "store", None, "local", workers, 1, "cpu", CodeOptions(), as_json=False)
    if code == 0:
        page = write_page(out / "store", out / "report")
        click.echo(f"\nThe report: {page}")
    return code


@click.command()
@_experiment
@_store
@_cache
@_workers
@code_options
@max_pixels
@_json
def plan(
    experiment: Path, store: Path | None, cache: Path | None, workers: int | None, code: CodeOptions, as_json: bool
) -> None:
    """Show the cells of EXPERIMENT, the work they share and the estimated time; nothing is trained."""
    from oneticket.lab.spec.parsing import read_toml

    raw = read_toml(experiment)  # faults in syntax and code are reported before torch is loaded, which takes seconds
    named = allowed_code(experiment, raw, code)

    from oneticket.cli.plan_facts import plan_facts, print_plan
    from oneticket.data import default_cache
    from oneticket.lab.cells.store import Store, is_store
    from oneticket.lab.execution.capacity import Workers, default_workers
    from oneticket.lab.execution.estimate import estimated_seconds
    from oneticket.lab.execution.scheduler import missing

    place = cache or default_cache()
    registered_code(experiment, named)
    graph, _ = _planned(experiment, raw, place, named)
    root = store or default_store(graph.experiment)
    opened = Store.open(root) if is_store(root) else None
    lacking = missing(graph, opened)
    beside = Workers(workers, "as asked for") if workers else default_workers()
    seconds = estimated_seconds(graph, store=opened, cache=place, folder=named.folder, packages=named.packages)
    facts: dict[str, Any] = {
        **plan_facts(graph),
        "missing": len(lacking),
        "workers": beside.count,
        "workers_because": beside.reason,
        "estimated_seconds": round(seconds / beside.count, 1),
    }
    if as_json:
        cells = [{"cell": i, "label": graph.labels[i], "parents": c.parents} for i, c in graph.cells.items()]
        click.echo(json.dumps({**facts, "cells": cells}, indent=1))
        return
    print_plan(graph, facts, root)


@click.command()
@_experiment
@_store
@_cache
@click.option("--engine", default="local", show_default=True, help="Where cells are computed.")
@_workers
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one cell.")
@_device
@click.option(
    "--layout", type=click.Choice(["channels-last", "contiguous"]), default="channels-last", show_default=True,
    help="How images lie in memory. Like threads, it changes rounding only.",
)  # fmt: skip
@click.option(
    "--compute", type=click.Choice(["measured", "sparse", "dense"]), default="measured", show_default=True,
    help="Layers that compute with kept weights only: where that is faster, all that can, none. Changes rounding only.",
)  # fmt: skip
@click.option(
    "--stall-after",
    type=click.FloatRange(1),
    default=600.0,
    show_default=True,
    help="Seconds without a step after which a worker is ended and tried once more.",
)
@click.option(
    "--stall-steps",
    type=click.FloatRange(1),
    default=20.0,
    show_default=True,
    help="It has at least the time of so many of its slowest steps.",
)
@click.option(
    "--track",
    "trackers",
    multiple=True,
    metavar="NAME",
    help="Show finished cells in tensorboard, mlflow, wandb or trackio; may be repeated.",
)
@click.option("--track-to", metavar="PLACE", help="Folder or address for --track.  [default: that of each]")
@code_options
@max_pixels
@_json
def run(
    experiment: Path, store: Path | None, cache: Path | None, engine: str, workers: int | None, threads: int,
    device: str, layout: Layout, compute: Compute, stall_after: float, stall_steps: float, trackers: tuple[str, ...],
    track_to: str | None, code: CodeOptions, as_json: bool,
) -> int:  # fmt: skip
    """Compute the missing cells of EXPERIMENT. After an interruption the same command continues where it stopped."""
    opened: Sequence[Tracker] = ()
    if trackers or track_to is not None:
        from oneticket.tracking import open_trackers

        opened = open_trackers(trackers, track_to)
    patience = (stall_after, stall_steps)
    of_run = (experiment, store, cache, engine, workers, threads, device, code, layout, patience, compute)
    return _run(*of_run, trackers=opened, as_json=as_json)


def _run(*given: Any, as_json: bool, trackers: Sequence[Tracker] = ()) -> int:
    """Compute what is missing, and show how that ended; returns the exit code."""
    return _told(computed(*given, trackers=trackers, quiet=as_json), as_json=as_json)


class Ended(NamedTuple):
    """How a run ended: the experiment, its store, what was done, and a name for each cell."""

    experiment: str
    store: Store
    summary: Summary
    labels: Mapping[str, str]


def computed(
    file: Path, store: Path | None, cache: Path | None, engine_name: str, workers: int | None, threads: int,
    device: str, code: CodeOptions, layout: Layout = "channels-last", patience: tuple[float, float] = (600.0, 20.0),
    compute: Compute = "measured", *, trackers: Sequence[Tracker] = (), quiet: bool,
) -> Ended:  # fmt: skip
    """Compute the missing cells of an experiment file; the arguments are the options of ``run``."""
    from oneticket.lab.execution.events import Summary
    from oneticket.lab.planning.plan_cache import recall
    from oneticket.lab.spec.parsing import read_toml

    raw = read_toml(file)  # faults in syntax and code are reported before torch is loaded, which takes seconds

    # Another engine or device is checked first, even where nothing is left to compute.
    usual = (engine_name, device) == ("local", "cpu") and not trackers
    known = recall(file, lambda name: store or default_store(name)) if usual else None
    if known is not None:
        done = Summary(cells=known.cells, cached=known.cells)
        return Ended(known.experiment, known.store, done, {})

    named = allowed_code(file, raw, code)
    from oneticket.cli.progress import make_listener
    from oneticket.data import default_cache
    from oneticket.lab.cells.run import Patience, Workplace, compared_data
    from oneticket.lab.cells.store import Store
    from oneticket.lab.execution.capacity import cores, default_workers
    from oneticket.lab.execution.engines import ENGINES
    from oneticket.lab.execution.scheduler import missing, run_plan
    from oneticket.lab.results.table import remember
    from oneticket.tracking import tracked
    from oneticket.training import Runtime

    check_device(device)
    place = cache or default_cache()
    registered = registered_code(file, named)
    make_engine = ENGINES[engine_name]
    graph, origin = _planned(file, raw, place, named)
    _compile(device, compute)
    root = store or default_store(graph.experiment)
    opened = Store.open(root, create=True)
    remember(graph, opened, origin, file)
    workplace = Workplace(
        store=str(root.resolve()),
        cache=str(place.resolve()),
        folder=str(named.folder.resolve()),
        packages=named.packages,
        code=registered,
        runtime=Runtime(device=device, layout=layout, compute=compute, threads=threads),
        patience=Patience(seconds=patience[0], steps=patience[1]),
        compared=compared_data(missing(graph, opened).values(), place),
    )
    beside = workers or max(default_workers().count // threads, 1)
    if beside * threads > cores():
        # They wait for each other at every operator: a training becomes many times slower.
        warnings.warn(f"{beside} × {threads} threads for {cores()} cores: each cell takes far longer", stacklevel=1)
    listener = tracked(make_listener(quiet=quiet), trackers, opened)
    summary = run_plan(graph, opened, make_engine(), workplace, workers=beside, listener=listener)
    return Ended(graph.experiment, opened, summary, graph.labels)


def _compile(device: str, compute: Compute) -> None:
    """Compile the sparse kernels here, not in each worker, where they will be used."""
    from oneticket.errors import InputError
    from oneticket.kernels.sparse.building import LOST, why_not

    if device != "cpu" or compute == "dense" or (lacking := why_not()) is None:
        return
    if compute == "sparse":
        raise InputError(f"--compute sparse: {lacking}", expected="measured or dense")
    warnings.warn(f"{lacking}: {LOST}", stacklevel=1)


def _told(ended: Ended, *, as_json: bool) -> int:
    """Show how a run ended; returns the exit code."""
    import msgspec

    from oneticket.lab.results.table import tidy

    name, store, summary, labels = ended
    rows = tidy(store, experiment=name)
    if as_json:
        facts = {**msgspec.to_builtins(summary), "complete": summary.complete, "store": str(store.root), "rows": rows}
        click.echo(json.dumps(facts, indent=1))
    else:
        if rows:
            tables.show_all(tables.summary(rows)._replace(verdicts=tables.verdict_lines(store.root, rows, name)))
        print_end(labels, summary, store.root)
    say_cautions(store.root, name)
    return 0 if summary.complete else 1


def _planned(file: Path, raw: dict[str, Any], cache: Path, code: NamedCode) -> tuple[Plan, Origin | None]:
    """The plan of an experiment file, and what it was made of; every fault names its place in the file."""
    import torch

    from oneticket.errors import InputError
    from oneticket.lab.planning.plan import make_plan
    from oneticket.lab.planning.plan_cache import origin
    from oneticket.lab.spec.experiment import read_experiment

    # Planning is light work; a pool of threads would only compete with the cells.
    torch.set_num_threads(1)
    try:
        experiment = read_experiment(raw)
        made_of = origin(file, experiment)  # before planning, so that a change during planning is noticed
        plan = make_plan(experiment, folder=file.parent, cache=cache, code=code.folder, packages=code.packages)
        return plan, made_of
    except InputError as error:
        raise error.at(str(file)) from None


def print_end(labels: Mapping[str, str], summary: Summary, root: Path, *, err: bool = False) -> None:
    """Say what a run has done, and what diverged, failed and was left out."""
    from oneticket.cli.progress import duration

    elsewhere = f", {summary.elsewhere} by another run" if summary.elsewhere else ""
    diverged = f" ({len(summary.diverged)} diverged)" if summary.diverged else ""
    click.echo(
        f"\n{summary.trained} trained{diverged}{elsewhere}, {summary.cached} already there, "
        f"{len(summary.failed)} failed, {len(summary.left_out)} left out, in {duration(summary.seconds)}. "
        f"Store: {root}",
        err=err,
    )
    if summary.diverged:
        from oneticket.lab.cells.outcome import is_inherited

        for identity, reason in summary.diverged.items():
            if not is_inherited(reason):
                click.echo(f"  diverged: {labels[identity]}: {harmless(reason)}  [{identity[:12]}]", err=True)
    for path in summary.plain:
        click.echo(f"  plain path: {harmless(str(path))}", err=True)
    for identity, reason in summary.failed.items():
        click.echo(f"  failed: {labels[identity]}: {harmless(reason)}  [{identity[:12]}]", err=True)
    reasons: dict[str, int] = {}
    for reason in summary.left_out.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        click.echo(f"  left out: {count} cells, because {harmless(reason)}", err=True)


def default_store(name: str) -> Path:
    """The folder of an experiment's cells where none is given."""
    return Path("stores") / name
