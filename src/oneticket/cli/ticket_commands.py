"""Commands for single tickets: find, transfer, and ticket show, verify, diff."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from oneticket.cli.checks import check_device, check_out, max_pixels
from oneticket.cli.completion_command import ALLOCATIONS, CRITERIA
from oneticket.cli.text import harmless

if TYPE_CHECKING:
    from torch import nn

    from oneticket.data import DataSpec, Splits
    from oneticket.masks import Masks
    from oneticket.models import ModelSpec
    from oneticket.ticket import Ticket
    from oneticket.training import Recipe

_file = click.Path(path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def _training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that find and transfer share: the data set and the recipe."""
    options = [
        click.option("--data", "data_place", required=True, help="digits, a folder of Parquet files, or of images."),
        click.option("--size", type=int, help="Height and width to resize images to."),
        click.option("--channels", type=click.Choice(["1", "3"]), help="Channels to convert images to."),
        click.option("--classes", help="Only these classes: names or numbers, separated by commas."),
        click.option("--optimizer", type=click.Choice(["sgd", "adam", "adamw", "rmsprop"]), default="sgd"),
        click.option("--lr", type=float, help="Learning rate.  [default: 0.1 with sgd, 3e-4 otherwise]"),
        click.option("--epochs", type=int, default=10, show_default=True),
        click.option("--batch-size", type=int, default=128, show_default=True),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True),
        click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True),
        max_pixels,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.option("--model", "model_name", required=True, help="A registered name or package.module:function.")
@click.option("--option", "model_options", multiple=True, metavar="KEY=VALUE", help="Option of the model, repeatable.")
@click.option("--head", help="Name of the classifier layer, if it cannot be found.")
@click.option("--density", type=float, default=0.05, show_default=True, help="Fraction of the weights to keep.")
@click.option("--rewind", default="1ep", show_default=True, help="Moment to rewind to: 1ep, 500it, 0.")
@click.option("--rounds", type=click.IntRange(1), help="Pruning rounds; 1 is one-shot.  [default: 20 % a round]")
@click.option("--criterion", default="magnitude", show_default=True, shell_complete=CRITERIA)
@click.option("--allocation", default="global", show_default=True, shell_complete=ALLOCATIONS)
@click.option("--out", type=_file, required=True, help="File of the ticket.")
@_training_options
def find(
    model_name: str, model_options: tuple[str, ...], head: str | None, density: float, rewind: str, rounds: int | None,
    criterion: str, allocation: str, out: Path, **training: Any,
) -> None:  # fmt: skip
    """Find one ticket on one data set and save it."""
    import msgspec

    from oneticket.finding import find_ticket
    from oneticket.models import ModelSpec
    from oneticket.training import Step, Training
    from oneticket.words import Own

    check_out(out)
    splits, recipe = _prepared(training)
    rewind = str(Step.parse(int(rewind) if rewind.isdecimal() else rewind))
    spec = ModelSpec(name=model_name, options=parsed_options(model_options))
    seed = training["seed"]
    model = _built(spec, splits, seed)

    def on_round(number: int, total: int, run: Training) -> None:
        loss = run.history[-1].train_loss
        click.echo(f"round {number}/{total}: {run.steps} steps in {run.seconds:.1f} s, training loss {loss:.4f}")

    ticket = find_ticket(
        model, splits.train, recipe=recipe, density=density, rewind=rewind, seed=seed, rounds=rounds,
        criterion=Own(criterion), allocation=Own(allocation), head=head,
        name=Path(training["data_place"]).name, device=training["device"], on_round=on_round,
    )  # fmt: skip
    ticket.provenance = msgspec.structs.replace(
        ticket.provenance, model=spec.name, model_options=dict(spec.options), inputs=_input_rule(training)
    ).normalised()
    ticket.save(out)
    click.echo(f"{out}: {ticket!r}")


@click.command()
@click.argument("ticket_file", type=_file)
@click.option("--model", "model_name", help="The model, if the ticket does not name a registered one.")
@click.option("--option", "model_options", multiple=True, metavar="KEY=VALUE", help="Option of the model, repeatable.")
@click.option("--head", "how", type=click.Choice(["fresh", "copied"]), default="fresh", show_default=True)
@_training_options
@_json
def transfer(
    ticket_file: Path, model_name: str | None, model_options: tuple[str, ...], how: Literal["fresh", "copied"],
    as_json: bool, **training: Any,
) -> None:  # fmt: skip
    """Train the ticket in TICKET_FILE on another data set and show its test accuracy."""
    import msgspec

    from oneticket.finding import transfer as transfer_ticket
    from oneticket.ticket import Ticket

    ticket = Ticket.load(ticket_file)
    spec = model_of(ticket, model_name, model_options, str(ticket_file))
    splits, recipe = _prepared(training)
    model = _built(spec, splits, training["seed"])
    _check_fit(ticket, model, str(ticket_file))
    result = transfer_ticket(
        ticket, model, splits.train, recipe=recipe, head=how, seed=training["seed"], device=training["device"],
        validation=splits.validation if len(splits.validation) else None, test_set=splits.test,
    )  # fmt: skip
    if as_json:
        facts = {
            "density": result.placement.density,
            "test_accuracy": result.test_accuracy,
            "test_loss": result.test_loss,
            "history": msgspec.to_builtins(result.training.history),
        }
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(harmless(str(result.placement)))
    click.echo(f"test accuracy {100 * (result.test_accuracy or 0):.2f} %, test loss {result.test_loss:.4f}")


@click.group()
def ticket() -> None:
    """Ticket files: show, verify, diff; push, pull; export, import."""


@ticket.command()
@click.argument("file", type=_file)
@_json
def show(file: Path, as_json: bool) -> None:
    """Show what FILE holds and where it comes from: model, every data set seen, round, density of each layer."""
    import msgspec

    from oneticket.ticket import Ticket

    loaded = Ticket.load(file)
    facts = msgspec.to_builtins(loaded.provenance)
    if as_json:
        layers = [row._asdict() for row in loaded.masks.table()]
        click.echo(json.dumps({"density": loaded.density, "layers": layers, "provenance": facts}, indent=1))
        return
    _show_layers(loaded.masks)
    click.echo("\nprovenance")
    for key, value in facts.items():
        for line in value if key == "seen" else [value]:
            if shown := _in_words(line):
                click.echo(f"  {key:<14}  {harmless(shown)}")


def _show_layers(masks: Masks) -> None:
    click.echo(f"{masks.kept} of {masks.total} weights kept, density {masks.density:.6f}\n")
    width = max(len(name) for name in masks)
    for row in masks.table():
        note = "  collapsed: no weight left" if row.total and not row.kept else ""
        click.echo(harmless(f"  {row.name:<{width}}  {row.kept:>10} / {row.total:<10} {row.density:8.4f}{note}"))


@ticket.command()
@click.argument("file", type=_file)
def verify(file: Path) -> None:
    """Check FILE against its checksum; exit code 2 for a damaged, truncated, foreign or too new file."""
    from oneticket.ticket import Ticket

    found = Ticket.verify(file)
    click.echo(f"{file}: sound; format {found.version}, {found.bytes} bytes, sha256 {found.checksum}")


@ticket.command()
@click.argument("first", type=_file)
@click.argument("second", type=_file)
def diff(first: Path, second: Path) -> int:
    """Show where two tickets differ, layer by layer; exit code 0 also if they do."""
    from oneticket.ticket import Ticket

    difference = Ticket.load(first).diff(Ticket.load(second))
    click.echo("the two tickets are equal" if difference.empty else harmless(str(difference)))
    return 0


def _in_words(value: Any) -> str:
    """A value of the provenance on one line; unknown and empty parts are left out."""
    if isinstance(value, dict):
        known = {key: _in_words(entry) for key, entry in value.items()}
        return ", ".join(f"{key} ({text})" if ", " in text else f"{key} {text}" for key, text in known.items() if text)
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value))
    return "" if value is None else str(value)


def model_of(ticket: Ticket, name: str | None, options: tuple[str, ...], where: str) -> ModelSpec:
    """The model of the command line, else that of the ticket.

    An import path in the ticket is refused with InputError: the code that is run must be named by the user, not by a
    file.
    """
    from oneticket.errors import InputError
    from oneticket.models import ModelSpec

    known = ticket.provenance
    if name is None and (not known.model or ":" in known.model):
        found = f"the ticket is of the model '{known.model}'" if known.model else "the ticket does not name its model"
        raise InputError(found, where=where, expected="--model, with an --option for each that it needs")
    if name is None or (name == known.model and not options and ":" not in name):
        return ModelSpec(name=known.model, options=known.model_options)
    return ModelSpec(name=name, options=parsed_options(options))


def _built(spec: ModelSpec, splits: Splits, seed: int) -> nn.Module:
    """The network of the command line; naming a module there is permission to import it."""
    from oneticket.models import build
    from oneticket.randomness import Streams

    top = spec.name.partition(":")[0].partition(".")[0]
    return build(
        spec, input_shape=splits.train.shape, classes=len(splits.train.classes), seed=Streams(seed).seed("init"),
        folder=Path.cwd(), packages=() if top in sys.stdlib_module_names else (top,),
    )  # fmt: skip


def _check_fit(ticket: Ticket, model: nn.Module, where: str) -> None:
    """Raise InputError unless every masked tensor of the ticket fits: a part of a ticket is another ticket."""
    import warnings

    from oneticket.errors import InputError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        placement = ticket.put_into(model)
    for name, reason in placement.refused:
        if name in ticket.masks:
            raise InputError(
                f"the ticket does not fit the data: {name}: {reason}", where=where, expected="--size and --channels"
            )


def _prepared(training: dict[str, Any]) -> tuple[Splits, Recipe]:
    """The data and the recipe that the options of a command describe."""
    import torch

    from oneticket.data import default_cache, open_data, resolve
    from oneticket.errors import InputError
    from oneticket.training import Recipe

    check_device(training["device"])
    torch.set_num_threads(training["threads"])
    lr = training["lr"] if training["lr"] is not None else 0.1 if training["optimizer"] == "sgd" else 3e-4
    recipe = Recipe(
        optimizer=training["optimizer"], lr=lr, epochs=training["epochs"], batch_size=training["batch_size"]
    )
    cache = default_cache()
    try:
        ref = resolve({"data": _data_spec(training)}, "data", folder=Path(), cache=cache)
    except InputError as error:
        # The place in the message is a key of a [data] table, which the command line does not have.
        expected, (_, _, key) = error.expected, (error.where or "").partition("data.data: ")
        if not key:
            expected = "digits, a folder with train.parquet and test.parquet, or a folder of images"
        where = f"--data {training['data_place']}" + (f": {key}" if key else "")
        raise InputError(error.what, where=where, expected=expected, nearest=error.nearest) from None
    return open_data(ref, cache=cache), recipe


def _data_spec(training: dict[str, Any]) -> DataSpec:
    from oneticket.data import DataSpec

    place = training["data_place"]
    folder = Path(place)
    origin: dict[str, Any]
    if any(folder.glob("train*.parquet")):
        origin = {"path": place}
    elif (folder / "train").is_dir():
        origin = {"images": place}
    else:
        origin = {"builtin": place}
    words = [word.strip() for word in training["classes"].split(",")] if training["classes"] else None
    classes = tuple(int(word) if word.isdecimal() else word for word in words) if words else None
    channels = int(training["channels"]) if training["channels"] else None
    return DataSpec(**origin, classes=classes, size=training["size"], channels=channels)  # type: ignore[arg-type]


def _input_rule(training: dict[str, Any]) -> str:
    """How images were brought to the shape of the model's input, for the provenance."""
    rules = [f"resized to {training['size']}" if training["size"] else "", f"{training['channels']} channels"]
    return ", ".join(rule for rule in rules[: 2 if training["channels"] else 1] if rule) or "as they are"


def parsed_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs; a value is read as TOML, and is text if it is not valid TOML."""
    import tomllib

    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--option {pair}: expected KEY=VALUE")
        try:
            parsed[key] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            parsed[key] = value
    return parsed
