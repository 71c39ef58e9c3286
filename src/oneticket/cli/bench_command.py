"""The command that measures: bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from oneticket.bench.outcome import Outcome

_file = click.Path(path_type=Path, dir_okay=False)

_WITH_MODELS = {"profile_models", "names", "threads", "as_json", "out", "markdown"}


@click.command()
@click.option("--only", "names", multiple=True, metavar="NAME", help="Only this row, or model; several times for more.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--short", is_flag=True, help="Training steps only, smaller, with one thread: about a minute.")
@click.option("--check", is_flag=True, help="Exit with 1 when a ratio has fallen by more than a quarter.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output, with every repetition.")
@click.option("--threads", type=click.IntRange(1), help="Threads of a training step.  [default: one per core]")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Turns of the alternatives.")
@click.option(
    "--loader-workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Processes of the reference's loader.",
)
@click.option("--profile", is_flag=True, help="Also the part of each step that each family of operators takes.")
@click.option("--profile-models", is_flag=True, help="Instead of rows, a step of every model: time, floor, profile.")
@click.option("--ticket", type=_file, help="A ticket of vgg19 whose masks the sparse row uses.")
@click.option("--out", type=_file, help="Also write the JSON to a file, whenever something is measured.")
@click.option("--ratios", type=_file, help="Also write the ratios of the short form that --check compares with.")
@click.option("--markdown", type=_file, help="Fill the blocks of this page with the tables.")
@click.option(
    "--from", "earlier", type=_file, multiple=True,
    help="Show what --out wrote earlier; nothing is measured. Of several files the later one counts, row by row.",
)  # fmt: skip
def bench(
    names: tuple[str, ...], device: str, short: bool, check: bool, as_json: bool, threads: int | None, repeats: int,
    loader_workers: int, profile: bool, profile_models: bool, ticket: Path | None, out: Path | None,
    ratios: Path | None, markdown: Path | None, earlier: tuple[Path, ...],
) -> int:  # fmt: skip
    """How fast training is here: ratios to the loop that this field trains with, measured in turns.

    Also against plain PyTorch and the machine's ceiling. Needs a quiet machine. The rows are explained in
    docs/benchmarks.md.
    """
    _refuse_what_does_not_go_together(click.get_current_context())
    from oneticket.bench import measure
    from oneticket.bench.check import write_ratios
    from oneticket.bench.outcome import merged, read_outcome
    from oneticket.bench.table import fill, mark_of, marks, split_page
    from oneticket.cli.checks import check_device, check_out
    from oneticket.ticket import Ticket

    known = reduce(merged, map(read_outcome, earlier)) if earlier else None
    for file in (out, ratios):
        if file is not None:
            check_out(file)
    if markdown is not None:
        for mark in marks(known) if known else [mark_of(device, models=profile_models)]:
            split_page(markdown, mark)

    def keep(outcome: Outcome) -> None:
        if out is not None:
            outcome.write(out)

    def say(line: str) -> None:
        click.echo(line, err=True)

    again = None
    if known is not None:
        outcome = known
        keep(outcome)
    elif profile_models:
        outcome = measure.profile_models(names, threads=threads, say=say, keep=keep)
    else:
        check_device(device)
        again = partial(
            measure.run_bench, device=device, short=short, threads=threads, repeats=repeats,
            loader_workers=loader_workers, ticket=Ticket.load(ticket).masks if ticket else None, say=say,
        )  # fmt: skip
        outcome = again(names, profile=profile, keep=keep)
    if markdown is not None:
        fill(markdown, outcome)
    if ratios is not None:
        write_ratios(ratios, outcome)
    if as_json:
        click.echo(outcome.as_json())
    else:
        _print(outcome)
    return _check(outcome, again) if check else 0


def _refuse_what_does_not_go_together(context: click.Context) -> None:
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    compared = {"check": "--check", "ratios": "--ratios"}
    for name in compared.keys() & given:
        if "earlier" not in given and not (context.params["short"] and context.params["device"] == "cpu"):
            raise click.UsageError(f"{compared[name]} needs --short on the CPU: only that is compared")
        if context.params["threads"] not in (None, 1):
            raise click.UsageError(f"{compared[name]} goes with one thread: only that is compared")
    if "profile_models" in given and (others := given - _WITH_MODELS):
        options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
        unfit = ", ".join(sorted(options[name] for name in others))
        raise click.UsageError(f"--profile-models does not go with {unfit}")


def _check(outcome: Outcome, again: Callable[[Sequence[str]], Outcome] | None) -> int:
    from oneticket.bench.check import read_ratios, regressions, unmeasured

    expected = read_ratios()
    for line in unmeasured(outcome, expected):
        click.echo(f"not compared: {line}", err=True)

    def once_more(rows: Sequence[str]) -> Outcome:
        click.echo(f"slower than expected, so measured once more: {', '.join(rows)}", err=True)
        return again(rows) if again else outcome

    fallen = regressions(outcome, expected, once_more if again else None)
    for line in fallen:
        click.echo(f"fallen: {line}", err=True)
    return 1 if fallen else 0


def _print(outcome: Outcome) -> None:
    from oneticket.bench.table import HEADER, MODELS_HEADER, ceiling_line, cells, heading, model_cells

    if outcome.results:
        _print_table(HEADER, cells(outcome))
    if outcome.models:
        _print_table(MODELS_HEADER, model_cells(outcome))
    click.echo(f"\n{heading(outcome)}\n{ceiling_line(outcome.ceiling)}")
    for row, families in outcome.profiles.items():
        click.secho(f"\n{row}", bold=True)
        for entry in families:
            click.echo(f"  {entry.family:<24} {entry.ms:>9.3f} ms  {100 * entry.share:>3.0f} %")


def _print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for title in header:
        shown.add_column(title)
    for line in lines:
        shown.add_row(*line)
    console.print(shown)
