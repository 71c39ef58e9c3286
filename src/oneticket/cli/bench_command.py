"""The command that measures: bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from oneticket.bench.outcome import Outcome

_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--only", "names", multiple=True, metavar="NAME", help="Only this row; may be given several times.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--short", is_flag=True, help="Training steps only, smaller: under a minute on two quiet cores.")
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
@click.option("--ticket", type=_file, help="A ticket of vgg19 whose masks the sparse row uses.")
@click.option("--out", type=_file, help="Also write the JSON to a file.")
@click.option("--markdown", type=_file, help="Fill the block of this page with the table.")
@click.option("--from", "earlier", type=_file, help="Show what --out wrote earlier; nothing is measured.")
def bench(
    names: tuple[str, ...], device: str, short: bool, check: bool, as_json: bool, threads: int | None, repeats: int,
    loader_workers: int, profile: bool, ticket: Path | None, out: Path | None, markdown: Path | None,
    earlier: Path | None,
) -> int:  # fmt: skip
    """How fast training is here: ratios to the loop that this field trains with, measured in turns.

    Also against plain PyTorch and the machine's ceiling. Needs a quiet machine. The rows are explained in
    docs/benchmarks.md.
    """
    from oneticket.bench.measure import run_bench
    from oneticket.bench.outcome import read_outcome
    from oneticket.bench.table import fill, split_page
    from oneticket.cli.lab_commands import check_device, check_out
    from oneticket.ticket import Ticket

    if check and not short and earlier is None:
        raise click.UsageError("--check needs --short: what is expected was measured in the short form")
    if out is not None:
        check_out(out)
    if markdown is not None:
        split_page(markdown, device if earlier is None else read_outcome(earlier).device)
    if earlier is not None:
        outcome = read_outcome(earlier)
    else:
        check_device(device)
        outcome = run_bench(
            names, device=device, short=short, threads=threads, repeats=repeats, loader_workers=loader_workers,
            profile=profile, ticket=Ticket.load(ticket).masks if ticket else None,
            say=lambda line: click.echo(line, err=True),
        )  # fmt: skip
    if markdown is not None:
        fill(markdown, outcome)
    if out is not None:
        out.write_text(outcome.as_json() + "\n", encoding="utf-8")
    if as_json:
        click.echo(outcome.as_json())
    else:
        _print(outcome)
    return _check(outcome) if check else 0


def _check(outcome: Outcome) -> int:
    from oneticket.bench.outcome import EXPECTED, read_outcome, regressions, unmeasured

    expected = read_outcome(EXPECTED)
    for line in unmeasured(outcome, expected):
        click.echo(f"not compared: {line}", err=True)
    fallen = regressions(outcome, expected)
    for line in fallen:
        click.echo(f"fallen: {line}", err=True)
    return 1 if fallen else 0


def _print(outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    from oneticket.bench.table import HEADER, ceiling_line, cells, heading

    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for title in HEADER:
        shown.add_column(title)
    for line in cells(outcome):
        shown.add_row(*line)
    console.print(shown)
    click.echo(f"\n{heading(outcome)}\n{ceiling_line(outcome.ceiling)}")
    for row, families in outcome.profiles.items():
        click.secho(f"\n{row}", bold=True)
        for entry in families:
            click.echo(f"  {entry.family:<24} {entry.ms:>9.3f} ms  {100 * entry.share:>3.0f} %")
