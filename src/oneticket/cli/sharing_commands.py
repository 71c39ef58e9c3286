"""Commands that move tickets between people: ticket push and pull, zoo list, get and make."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oneticket.cli.text import harmless

if TYPE_CHECKING:
    from oneticket.sharing import Place

_file = click.Path(path_type=Path)
_force = click.option("--force", is_flag=True, help="Replace files that have other content.")
_to = click.option("--to", type=_file, help="File to write.  [default: the ticket's name, here]")
_sha256 = click.option("--sha256", metavar="DIGEST", help="Refuse a file with another SHA-256 than this.")
_from = click.option(
    "--from", "source", default="zoo", show_default=True, envvar="ONETICKET_ZOO", show_envvar=True, metavar="PLACE",
    help="A folder, a URL, or hf:user/name with an index.json.",
)  # fmt: skip


@click.command()
@click.argument("file", metavar="TICKET", type=_file)
@click.argument("dest")
@click.option("--name", help="Name in a zoo: DEST then holds other tickets too.")
@click.option("--license", default="", metavar="SPDX", help="Terms under which it is given, such as cc-by-4.0.")
@click.option("--results", type=_file, help="A store or its tidy table in CSV: its numbers beside its controls.")
@click.option("--experiment", help="With --results: only the rows of this experiment.")
@click.option("--source", metavar="DATA@RECIPE", help="With --results: only this source and its controls.")
@click.option("--citation", type=_file, help="File of BibTeX.  [default: Frankle & Carbin 2019]")
@click.option("--private", is_flag=True, help="A repository of the hub that is made is private.")
@_force
def push(
    file: Path, dest: str, name: str | None, license: str, results: Path | None, experiment: str | None,
    source: str | None, citation: Path | None, private: bool, force: bool,
) -> None:  # fmt: skip
    """Write TICKET with a card and an index to DEST: a folder, a URL of fsspec (s3://…), or hf:user/name."""
    from oneticket.sharing import place_of
    from oneticket.sharing import push as push_ticket
    from oneticket.sharing.card import check_license
    from oneticket.ticket import Ticket

    if results is None and (experiment or source):
        raise click.UsageError("--experiment and --source need --results")
    check_license(license)
    place = place_of(dest, private=private)
    density = Ticket.load(file).density
    told = results_at(results, density, experiment, source) if results is not None else ""
    pushed = push_ticket(
        file, place, name=name, license=license, results=told, force=force,
        citation=citation.read_text(encoding="utf-8") if citation is not None else "",
    )  # fmt: skip
    if not pushed.written:
        click.echo(f"{harmless(dest)} has it already: sha256 {pushed.entry.sha256}")
        return
    for written in pushed.written:
        click.echo(f"{harmless(dest)}/{written}")
    click.echo(f"sha256 {pushed.entry.sha256}")
    if not license:
        click.echo("Note: the card says that no licence was stated; --license names one", err=True)


@click.command()
@click.argument("src")
@_to
@click.option("--name", help="Which ticket, where there are several.")
@_sha256
@_force
def pull(src: str, to: Path | None, name: str | None, sha256: str | None, force: bool) -> None:
    """Fetch a ticket from SRC, a place that was pushed to or the address of a ticket file, and verify it."""
    _pull(src, to, name, sha256, force)


@click.group()
def zoo() -> None:
    """Places with several tickets: list, get, make."""


@zoo.command("list")
@_from
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def list_tickets(source: str, as_json: bool) -> None:
    """The tickets of a place: name, network, weights kept, data seen, licence."""
    import msgspec

    from oneticket.sharing import place_of, read_index

    index = read_index(_known(place_of(source)))
    assert index is not None
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(index), indent=1))
        return
    rows = [("name", "network", "weights %", "kept", "seen", "licence")]
    rows += [
        (e.name, e.model or "unknown", f"{100 * e.density:.3g}", f"{e.kept}", ", ".join(e.seen) or "unknown",
         e.license or "not stated")
        for e in index.tickets
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo(harmless("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()))


@zoo.command("get")
@click.argument("name")
@_from
@_to
@_sha256
@_force
def get(name: str, source: str, to: Path | None, sha256: str | None, force: bool) -> None:
    """Fetch the ticket NAME of a place, and verify it."""
    _pull(source, to, name, sha256, force)


@zoo.command()
@click.argument("store", type=_file)
@click.option("--to", default="zoo", show_default=True, metavar="PLACE", help="A folder, a URL, or hf:user/name.")
@click.option("--experiment", help="Only the rows of this experiment.")
@click.option("--license", default="", metavar="SPDX", help="Terms under which they are given, such as cc-by-4.0.")
@click.option("--cache", type=_file, help="Folder of decoded data.  [default: per user]")
@_force
def make(store: Path, to: str, experiment: str | None, license: str, cache: Path | None, force: bool) -> None:
    """Share the tickets behind the winning rows of STORE: of each source and density that of its first seed."""
    import tempfile

    from oneticket.cli import tables
    from oneticket.data import default_cache
    from oneticket.errors import InputError
    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.tickets import stored_tickets
    from oneticket.sharing import place_of
    from oneticket.sharing import push as push_ticket
    from oneticket.sharing.card import check_license

    check_license(license)
    place, rows = place_of(to), tables.rows_of(store, experiment)
    if not any(row["arm"] == "winning" for row in rows):
        raise InputError("has no finished winning network", where=str(store), expected="a store of tickets")
    with tempfile.TemporaryDirectory() as folder:
        for found, name_of, source, density in stored_tickets(Store.open(store), rows, cache or default_cache()):
            file = Path(folder) / "ticket.safetensors"
            found.save(file)
            beside = [row for row in rows if row["experiment"] == name_of]
            told = numbers_of(beside, found.density, source, str(store))
            name = _name(f"{found.provenance.model}-{source}-{100 * density:.3g}")
            pushed = push_ticket(file, place, name=name, license=license, results=told, force=force)
            click.echo(f"{harmless(to)}/{name}: {'written' if pushed.written else 'there already'}")


def _name(text: str) -> str:
    """``text`` as a name in a zoo."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100]


def _known(place: Place) -> Place:
    """``place``, if it has an index; InputError otherwise."""
    from oneticket.errors import InputError
    from oneticket.sharing import read_index

    if read_index(place) is None:
        raise InputError(
            "it holds no shared tickets", where=place.where, expected="--from a place with an index.json; `make zoo`"
        )
    return place


def _pull(src: str, to: Path | None, name: str | None, sha256: str | None, force: bool) -> None:
    from oneticket.sharing import place_of
    from oneticket.sharing import pull as pull_ticket
    from oneticket.sharing.index import stem_of
    from oneticket.sharing.pulling import save

    place, file = _place_and_file(src)
    pulled = pull_ticket(place_of(place), name=name, file=file, sha256=sha256)
    stem = pulled.entry.name if pulled.entry is not None else stem_of(file or "")
    target = to if to is not None else Path(f"{stem}.safetensors")
    new = save(pulled, target, force=force)
    found = pulled.verification
    click.echo(f"{harmless(str(target))}: {'verified and written' if new else 'there already, and verified'}")
    click.echo(f"{found.kept} of {found.total} weights kept, sha256 {pulled.sha256}, of its content {found.checksum}")


def _place_and_file(src: str) -> tuple[str, str | None]:
    """A place, and the ticket file in it where ``src`` is the address of one."""
    if not src.endswith(".safetensors") or src.startswith("hf:") or Path(src).is_dir():
        return src, None
    folder, _, file = src.rpartition("/")
    return folder or ("/" if src.startswith("/") else "."), file


def results_at(place: Path, density: float, experiment: str | None, source: str | None) -> str:
    """What networks of this density reached beside their controls and dense ones, in Markdown.

    Raises InputError where the table has no such network: numbers of other tickets would mislead.
    """
    from oneticket.cli import tables

    rows = tables.rows_of(place, experiment)
    return numbers_of(rows, density, source, str(place))


def numbers_of(rows: Sequence[Mapping[str, Any]], density: float, source: str | None, where: str) -> str:
    """The part of the table over the seeds that is about tickets of this density; see :func:`results_at`."""
    from oneticket.errors import InputError, unknown
    from oneticket.report import reading, summary, summary_table
    from oneticket.report.writers import markdown

    sources = {f"{row['source']}@{row['source_recipe']}" for row in rows if row.get("source")}
    if source is not None and source not in sources:
        raise unknown("source", source, sorted(sources), where=where)
    of_source = [
        row for row in rows
        if source is None or not row.get("source") or f"{row['source']}@{row['source_recipe']}" == source
    ]  # fmt: skip
    near = [row for row in of_source if row["density"] is not None and abs(row["density"] - density) < 5e-5]
    if not any(row["arm"] not in ("dense",) for row in near):
        known = sorted({f"{row['density']:.4g}" for row in of_source if row["density"]}, key=float)
        expected = f"a table of its experiment, at one of the densities {', '.join(known)}"
        raise InputError(f"has no network of density {density:.4g}", where=where, expected=expected)
    short = summary([*near, *(row for row in of_source if row["arm"] == "dense" and row not in near)])
    return "\n".join([markdown(summary_table(short)), *(f"{note}\n" for note in reading(short))])
