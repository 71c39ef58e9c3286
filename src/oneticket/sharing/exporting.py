"""Exporting: a ticket for programs that do not know this package; each file is loaded again and compared."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import torch
from torch import Tensor, nn

from oneticket.calling import outputs_on
from oneticket.errors import InputError, OneticketError, unknown
from oneticket.masks import Masks
from oneticket.ticket import Ticket
from oneticket.ticket.format import write
from oneticket.ticket.placement import carried
from oneticket.training.compact.channels import shrink
from oneticket.training.compact.model import tensors
from oneticket.training.evaluation import evaluating

Kind = Literal["torch", "onnx", "dense-smaller", "csv"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ENDINGS: dict[Kind, str] = {"torch": ".pt", "onnx": ".onnx", "dense-smaller": ".pt2", "csv": ".csv"}

TOLERANCE = 1e-4
"""The largest difference of two outputs, over the largest output, that is rounding."""


class Exported(NamedTuple):
    """A file that was written, loaded again and compared; ``error`` is the largest difference found, over the largest
    value; ``facts`` says in words what was done."""

    path: Path
    error: float
    facts: str


def export(
    ticket: Ticket,
    path: str | os.PathLike[str],
    *,
    to: Kind,
    model: nn.Module | None = None,
    example: Tensor | None = None,
) -> Exported:
    """Write a ticket, or a network that carries it, to a file of another kind; the file is there whole or not at all.

    Parameters
    ----------
    ticket : Ticket
        The ticket.
    path : path
        The file to write.
    to : {"torch", "onnx", "dense-smaller", "csv"}
        "torch": a dict of ``state_dict`` (masked weights 0.0), ``masks``, ``head`` and ``provenance`` (JSON), for
        ``torch.load(…, weights_only=True)``. "csv": layer, shape, kept, total, density. "onnx": the network as ONNX.
        "dense-smaller": the network without the channels that are dead under the masks, as a program of
        ``torch.export``. The networks take batches of any size.
    model : nn.Module, optional
        The network that carries the ticket, as it is: after ``put_into``, or trained. Needed for "onnx" and
        "dense-smaller"; with "torch" its weights are written instead of the ticket's.
    example : Tensor, optional
        A batch of inputs to compare outputs on; needed with a network.

    Returns
    -------
    Exported

    Raises
    ------
    InputError
        For another word, a model that does not carry the ticket, and where a library is missing.
    OneticketError
        When the network cannot be exported, or when the file does not compute what the network does.
    """
    if to not in KINDS:
        raise unknown("kind of file", to, KINDS, where="export")
    place = Path(path)
    masks = carrying(ticket, model) if model is not None else ticket.masks
    if to == "csv":
        return _csv(masks, place)
    if to == "torch":
        return _torch(ticket, masks, model, place)
    if model is None or example is None:
        raise InputError(f"{to} needs a network and an example", where="export", expected="model=…, example=a batch")
    if to == "onnx":
        return _onnx(model, example, place)
    return _smaller(model, masks, example, place)


def carrying(ticket: Ticket, model: nn.Module) -> Masks:
    """The masks by the names of ``model``, all of which it must carry; InputError otherwise."""
    try:
        masks = carried(ticket._contents(), model)
    except InputError as error:
        raise InputError(
            error.what, where="export", expected="ticket.put_into(model), and ticket.kept in training"
        ) from None
    if masks.total != ticket.masks.total:
        raise InputError(
            f"the model carries {len(masks)} of the ticket's {len(ticket.masks)} masks", where="export",
            expected="a network like the ticket's, after ticket.put_into(model)",
        )  # fmt: skip
    return masks


def _csv(masks: Masks, path: Path) -> Exported:
    rows = [(name, "x".join(map(str, masks[name].shape)), kept, total, d) for name, kept, total, d in masks.table()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("layer", "shape", "kept", "total", "density"), *rows])
    again = list(csv.reader(io.StringIO(text.getvalue())))[1:]
    same = [(n, s, int(k), int(t), float(d)) for n, s, k, t, d in again] == rows
    _refuse_unequal(path, 0.0 if same else 1.0)
    write(path, text.getvalue().encode())
    return Exported(path, 0.0, f"{len(rows)} layers, {masks.kept} of {masks.total} weights kept")


def _torch(ticket: Ticket, masks: Masks, model: nn.Module | None, path: Path) -> Exported:
    own = model.state_dict() if model is not None else {**ticket.weights, **ticket.rest}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in own.items()}
    provenance = msgspec.json.encode(ticket.provenance).decode()
    content: dict[str, Any] = {"state_dict": state, "masks": dict(masks), "head": ticket.head, "provenance": provenance}
    data = io.BytesIO()
    torch.save(content, data)
    data.seek(0)
    again = torch.load(data, weights_only=True)
    same = all(_equal(again[part], content[part]) for part in ("state_dict", "masks"))
    zero = not any(bool(again["state_dict"][name][~mask].any()) for name, mask in again["masks"].items())
    _refuse_unequal(path, 0.0 if same and zero else 1.0)
    write(path, data.getvalue())
    return Exported(path, 0.0, f"{len(state)} tensors and {len(masks)} masks, for torch.load(…, weights_only=True)")


def _onnx(model: nn.Module, example: Tensor, path: Path) -> Exported:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(library) is None:
            raise InputError(f"{library} is not installed", where="onnx", expected="pip install 'oneticket[onnx]'")
    import onnxruntime

    with evaluating(model), torch.no_grad(), _quietly("ONNX"):
        expected = outputs_on(model, example)
        program: Any = torch.onnx.export(
            model, (example,), dynamo=True, dynamic_shapes=_any_batch(), verbose=False,
            input_names=["inputs"], output_names=["outputs"],
        )  # fmt: skip
    with _beside(path) as file:
        program.save(str(file), external_data=False)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        error = 0.0
        for batch in (example, example[:1]):
            (outputs, *_) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
            error = max(error, _difference(torch.from_numpy(outputs), expected[: len(batch)]))
        _refuse_unequal(path, error)
        written = file.stat().st_size
    return Exported(path, error, f"ONNX of {written} bytes; zeros are stored as zeros; ran in onnxruntime")


def _smaller(model: nn.Module, masks: Masks, example: Tensor, path: Path) -> Exported:
    with evaluating(model), torch.no_grad():
        expected = outputs_on(model, example)
    compact = shrink(model, masks, example, worth=0.0)
    small = compact.model
    for part in compact.slices.values():  # weights that only a training needs
        owner, _, leaf = part.detached_name.rpartition(".")
        if len(part.detached):
            delattr(small.get_submodule(owner), leaf)
    with evaluating(small), torch.no_grad(), _quietly("torch.export"):
        program = torch.export.export(small, (example,), dynamic_shapes=_any_batch())
    with _beside(path) as file:
        torch.export.save(program, str(file))
        again: Any = torch.export.load(str(file)).module()
        with torch.no_grad():
            error = max(_difference(again(batch), expected[: len(batch)]) for batch in (example, example[:1]))
        _refuse_unequal(path, error)
    sizes = [sum(tensor.numel() for tensor in _once(network)) for network in (model, small)]
    removed = f"{compact.removed} dead channels removed" if compact.removed else "no channel is dead: nothing removed"
    saved = f"{100 * compact.saved:.1f} % of the operations of a dense network saved"
    return Exported(path, error, f"{removed}, {sizes[0]} → {sizes[1]} numbers, {saved}; for torch.export.load")


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch")},)


def _once(network: nn.Module) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors(network).values()}.values())


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _refuse_unequal(path: Path, error: float) -> None:
    if not error <= TOLERANCE:
        raise OneticketError(
            f"{path}: not written: loaded again it differs from the network by {error:.2g} of the largest value"
        )


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that is renamed to it at the end, or removed when something fails."""
    if path.is_dir() or not path.parent.is_dir():
        raise InputError("cannot be written", where=str(path), expected="a file name in a folder that exists")
    file = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield file
        os.replace(file, path)
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def _quietly(kind: str) -> Iterator[None]:
    """A context without the remarks of PyTorch's exporters; what makes them fail is told in one line."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OneticketError:
        raise
    except Exception as error:  # exporters raise errors of many kinds
        reason = str(error).strip().partition("\n")[0]
        raise OneticketError(f"{kind} cannot hold this network: {type(error).__name__}: {reason[:300]}") from error
    finally:
        log.setLevel(level)
