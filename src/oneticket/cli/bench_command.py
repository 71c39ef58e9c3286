"""The command that measures: bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from oneticket.cli.checks import check_device, check_out

if TYPE_CHECKING:
    from oneticket.bench.outcome import Outcome

    Again = Callable[[Sequence[str]], Outcome]

_file = click.Path(path_type=Path, dir_okay=False)

_WITH_MODELS = {"profile_models", "names", "threads", "as_json", "out", "markdown"}


@dataclass(frozen=True)
class _Options:
    """The options of the command; `bench` explains each."""

    names: tuple[str, ...]
    device: str
    short: bool
    check: bool
    as_json: bool
    threads: int | None
    repeats: int
    loader_workers: int
    profile: bool
    profile_models: bool
    ticket: Path | None
    out: Path | None
    ratios: Path | None
    markdown: Path | None
    earlier: tuple[Path, ...]


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
def bench(**given: Any) -> int:
    """How fast training is here: ratios to the loop that this field trains with, measured in turns.

    Also against plain PyTorch and the machine's ceiling. Needs a quiet machine. The rows are explained in
    docs/benchmarks.md.
    """
    _refuse_what_does_not_go_together(click.get_current_context())
    options = _Options(**given)
    earlier = _read(options.earlier)
    _check_places(options, earlier)
    again = None
    if earlier is not None:
        outcome = earlier
        _keep(options, outcome)
    elif options.profile_models:
        outcome = _measure_models(options)
    else:
        again = _measurement(options)
        outcome = again(options.names, profile=options.profile, keep=partial(_keep, options))
    _publish(options, outcome)
    return _check(outcome, again) if options.check else 0


def _read(files: Sequence[Path]) -> Outcome | None:
    """The outcomes in ``files`` as one; None without a file."""
    from oneticket.bench.outcome import merged, read_outcome

    return reduce(merged, map(read_outcome, files)) if files else None


def _check_places(options: _Options, earlier: Outcome | None) -> None:
    """Raise InputError for a file that cannot be written, before anything is measured."""
    from oneticket.bench.table import mark_of, marks, split_page

    for file in (options.out, options.ratios):
        if file is not None:
            check_out(file)
    if options.markdown is not None:
        named = marks(earlier) if earlier else [mark_of(options.device, models=options.profile_models)]
        for mark in named:
            split_page(options.markdown, mark)


def _measure_models(options: _Options) -> Outcome:
    from oneticket.bench import measure

    return measure.profile_models(options.names, threads=options.threads, say=_say, keep=partial(_keep, options))


def _measurement(options: _Options) -> Callable[..., Outcome]:
    """The function that measures the rows of given names, as the options say."""
    from oneticket.bench import measure
    from oneticket.ticket import Ticket

    check_device(options.device)
    return partial(
        measure.run_bench, device=options.device, short=options.short, threads=options.threads,
        repeats=options.repeats, loader_workers=options.loader_workers,
        ticket=Ticket.load(options.ticket).masks if options.ticket else None, say=_say,
    )  # fmt: skip


def _publish(options: _Options, outcome: Outcome) -> None:
    """Fill the page, write the ratios, and print."""
    from oneticket.bench.check import write_ratios
    from oneticket.bench.table import fill

    if options.markdown is not None:
        fill(options.markdown, outcome)
    if options.ratios is not None:
        write_ratios(options.ratios, outcome)
    if options.as_json:
        click.echo(outcome.as_json())
    else:
        _print(outcome)


def _keep(options: _Options, outcome: Outcome) -> None:
    if options.out is not None:
        outcome.write(options.out)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _refuse_what_does_not_go_together(context: click.Context) -> None:
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    for name, option in (("check", "--check"), ("ratios", "--ratios")):
        if name in given:
            _refuse_another_kind(option, given, context.params)
    if "profile_models" in given and (others := given - _WITH_MODELS):
        options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
        unfit = ", ".join(sorted(options[name] for name in others))
        raise click.UsageError(f"--profile-models does not go with {unfit}")


def _refuse_another_kind(option: str, given: set[str], values: dict[str, Any]) -> None:
    """Refuse ``option`` unless what is measured, or read, is what the expected ratios were measured with."""
    if "earlier" not in given and not (values["short"] and values["device"] == "cpu"):
        raise click.UsageError(f"{option} needs --short on the CPU: only that is compared")
    if values["threads"] not in (None, 1):
        raise click.UsageError(f"{option} needs one thread: only that is compared")


def _check(outcome: Outcome, again: Again | None) -> int:
    """Say which rows have become slower; the exit code."""
    from oneticket.bench.check import incomparable, read_ratios, regressions, unmeasured

    expected = read_ratios()
    for line in [*unmeasured(outcome, expected), *incomparable(outcome, expected)]:
        _say(f"not compared: {line}")

    def once_more(rows: Sequence[str]) -> Outcome:
        _say(f"slower than expected, so measured once more: {', '.join(rows)}")
        return again(rows) if again else outcome

    fallen = regressions(outcome, expected, once_more if again else None)
    for line in fallen:
        _say(f"fallen: {line}")
    return 1 if fallen else 0


def _print(outcome: Outcome) -> None:
    from oneticket.bench.table import HEADER, MODELS_HEADER, ceiling_line, heading, lines, model_lines

    if outcome.results:
        _print_table(HEADER, lines(outcome))
    if outcome.models:
        _print_table(MODELS_HEADER, model_lines(outcome))
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
