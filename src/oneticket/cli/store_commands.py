"""Commands on stores: store verify, merge."""

from __future__ import annotations

import json
from pathlib import Path

import click

from oneticket.cli.text import harmless


@click.group()
def store() -> None:
    """Look after a store of finished cells."""


@store.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Move what is damaged to STORE/damaged; `run` computes it again.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def verify(store: Path, repair: bool, as_json: bool) -> int:
    """Compare every cell and every table of STORE with its digests; exit code 1 while something is damaged.

    Cells of an earlier version, which have no digests, get them.
    """
    import msgspec

    from oneticket.lab.cells.verification import verify as verified

    found = verified(store, repair=repair)
    if as_json:
        click.echo(json.dumps({**msgspec.to_builtins(found), "sound": found.sound}, indent=1))
        return 0 if found.sound else 1
    for damage in found.damaged:
        moved = f"; moved to {damage.moved}" if damage.moved else ""
        click.echo(harmless(f"damaged: {damage.path}: {damage.fault}{moved}"))
    click.echo(f"{harmless(str(store))}: {found.cells} cells and {found.tables} tables are whole")
    if found.digested:
        click.echo(f"{found.digested} of them, of an earlier version, have digests now")
    if not found.sound:
        click.echo(f"{len(found.damaged)} damaged; --repair moves them aside, and a new run computes them again")
    elif found.damaged:
        click.echo(f"{len(found.damaged)} moved aside; run the experiment again to compute them")
    return 0 if found.sound else 1


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--into", required=True, type=click.Path(path_type=Path), help="The store that has everything afterwards."
)
@click.option("--copy", is_flag=True, help="Copy files also where hard links can be made.")
def merge(stores: tuple[Path, ...], into: Path, copy: bool) -> None:
    """Join STORES in another store; they stay as they are.

    Every cell is compared with its digests. Stores that contradict each other are refused. An interrupted merge goes on
    when it is called again.
    """
    from oneticket.lab.cells.merging import merge as merged

    found = merged(stores, into, copy=copy)
    click.echo(
        harmless(
            f"{into}: {found.cells} cells and {found.tables} tables were added; {found.known} cells were there already"
        )
    )
