"""Commands between tickets and files of other programs: ticket export and import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from oneticket.cli.checks import check_out
from oneticket.cli.text import harmless
from oneticket.cli.ticket_commands import model_of, parsed_options

if TYPE_CHECKING:
    from torch import nn

    from oneticket.models import ModelSpec
    from oneticket.models.base import Shape
    from oneticket.ticket import Ticket

_file = click.Path(path_type=Path)
_input = click.option("--input", "shape", metavar="CxHxW", help="Shape of one input, such as 3x32x32.")
_classes = click.option("--classes", type=click.IntRange(1), help="Number of outputs.")
_model = click.option("--model", "model_name", help="A registered name or package.module:function.")
_option = click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the model, repeatable."
)


@click.command()
@click.argument("file", metavar="TICKET", type=_file)
@click.option("--to", type=click.Choice(["torch", "onnx", "dense-smaller", "csv"]), required=True)
@click.option("--out", type=_file, help="File to write.  [default: TICKET with another ending]")
@_model
@_option
@_input
@_classes
@click.option(
    "--weights", type=_file, help="State dict of the network that was trained from TICKET, instead of its own."
)
def export(
    file: Path, to: str, out: Path | None, model_name: str | None, options: tuple[str, ...], shape: str | None,
    classes: int | None, weights: Path | None,
) -> None:  # fmt: skip
    """Write TICKET for other programs, load what was written again, and compare it."""
    import torch

    from oneticket.sharing.exporting import ENDINGS, KINDS
    from oneticket.sharing.exporting import export as export_ticket
    from oneticket.ticket import Ticket

    loaded = Ticket.load(file)
    kind = next(known for known in KINDS if known == to)
    target = out if out is not None else file.with_suffix(ENDINGS[kind])
    check_out(target)
    model = example = None
    if kind in ("onnx", "dense-smaller") or weights is not None:
        spec = model_of(loaded, model_name, options, str(file))
        of_input = _shape_of(loaded, shape, str(file))
        model = _carrying_model(loaded, spec, of_input, _classes_of(loaded, classes, str(file)), weights)
        example = torch.randn(4, *of_input, generator=torch.Generator().manual_seed(0))
    done = export_ticket(loaded, target, to=kind, model=model, example=example)
    click.echo(f"{harmless(str(target))}: {done.facts}")
    click.echo(f"loaded again and compared: largest difference {done.error:.2g} of the largest value")
    if weights is None and kind != "csv":
        click.echo("Note: its weights are those of the rewind point, before training; --weights takes others", err=True)


@click.command("import")
@click.argument("file", type=_file)
@click.option("--model", "model_name", required=True, help="A registered name or package.module:function.")
@_option
@click.option("--input", "shape", required=True, metavar="CxHxW", help="Shape of one input, such as 3x32x32.")
@click.option("--classes", type=click.IntRange(1), required=True, help="Number of outputs.")
@click.option("--head", help="Name of the classifier layer, if it cannot be found.")
@click.option("--weights", type=_file, help="State dict at the rewind point.  [default: the values in FILE]")
@click.option("--out", type=_file, required=True, help="File of the ticket.")
def import_masks(
    file: Path, model_name: str, options: tuple[str, ...], shape: str, classes: int, head: str | None,
    weights: Path | None, out: Path,
) -> None:  # fmt: skip
    """Make a ticket of FILE: torch.nn.utils.prune, masks of zeros and ones (open_lth), or a state dict with zeros."""
    from oneticket.errors import InputError
    from oneticket.models import ModelSpec
    from oneticket.sharing.importing import imported
    from oneticket.sharing.states import read_state
    from oneticket.ticket import Provenance, versions

    check_out(out)
    spec = ModelSpec(name=model_name, options=parsed_options(options))
    state = read_state(file)
    values = read_state(weights) if weights is not None else None
    notes = {"imported from": file.name} | ({"weights from": weights.name} if weights is not None else {})
    about = Provenance(model=spec.name, model_options=spec.options, versions=versions(), notes=notes)
    model = _built(spec, _parsed_shape(shape), classes)
    try:
        found, kind = imported(state, model, weights=values, head=head, provenance=about)
    except InputError as error:
        raise InputError(error.what, where=str(file), expected=error.expected, nearest=error.nearest) from None
    found.save(out)
    click.echo(f"{out}: {found!r}, from {kind}")
    if weights is None:
        click.echo("Note: its weights are those in FILE, usually trained ones; --weights takes early ones", err=True)


def _carrying_model(ticket: Ticket, spec: ModelSpec, shape: Shape, classes: int, weights: Path | None) -> nn.Module:
    """The network of the ticket with its weights, or with trained ones; InputError for a tensor that does not fit."""
    from oneticket.errors import InputError
    from oneticket.sharing.states import read_state

    model = _built(spec, shape, classes)
    placement = ticket.put_into(model, head="copied")
    if lacking := [*placement.refused, *placement.fresh]:
        raise InputError(
            f"the ticket does not fit the network: {lacking[0].name}: {lacking[0].reason}",
            where=spec.name, expected="--input and --classes of the data that it was found on",
        )  # fmt: skip
    if weights is not None:
        try:
            model.load_state_dict(read_state(weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(reason[:300], where=str(weights), expected=f"a state dict of {spec.name}") from None
    return model.eval()


def _built(spec: ModelSpec, shape: Shape, classes: int) -> nn.Module:
    """The network of the command line; naming a module there is permission to import it."""
    import sys

    from oneticket.models import build

    top = spec.name.partition(":")[0].partition(".")[0]
    packages = () if top in sys.stdlib_module_names else (top,)
    return build(spec, input_shape=shape, classes=classes, seed=0, folder=Path.cwd(), packages=packages)


def _shape_of(ticket: Ticket, given: str | None, where: str) -> Shape:
    from oneticket.errors import InputError

    if given is not None:
        return _parsed_shape(given)
    known = next((seen.input_shape for seen in ticket.provenance.seen if seen.input_shape), None)
    if known is None or len(known) != 3:
        raise InputError("the ticket does not say what its inputs are", where=where, expected="--input CxHxW")
    return (known[0], known[1], known[2])


def _parsed_shape(text: str) -> Shape:
    from oneticket.errors import InputError

    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"'{text}' is not a shape", where="--input", expected="three numbers such as 3x32x32")
    return (int(parts[0]), int(parts[1]), int(parts[2]))


def _classes_of(ticket: Ticket, given: int | None, where: str) -> int:
    from oneticket.errors import InputError

    weight = ticket.rest.get(f"{ticket.head}.weight")
    known = given or (len(weight) if weight is not None else next((s.classes for s in ticket.provenance.seen), None))
    if known is None:
        raise InputError("the ticket does not say how many classes it has", where=where, expected="--classes N")
    return known
