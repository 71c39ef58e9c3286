"""The ticket file: a safetensors file with packed masks, kept values and one key of canonical JSON.

docs/ticket-format.md describes it for readers without this package.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

import msgspec
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from oneticket.errors import DamagedTicket, ForeignFile, InputError, TicketError, TooNewTicket
from oneticket.identity import canonical_json
from oneticket.masks import Masks
from oneticket.ticket.provenance import Provenance

VERSION = 1
KEY = "oneticket"
_START = b'{"__metadata__":{"oneticket":'
_LENGTH = 8  # bytes that hold the length of the header

Size = Annotated[int, msgspec.Meta(ge=0)]
T = TypeVar("T")


class Contents(NamedTuple):
    """The decoded content of a ticket file: masks and full-shape weights, all other tensors, head and provenance."""

    masks: Masks
    weights: Mapping[str, Tensor]
    rest: Mapping[str, Tensor]
    head: str
    provenance: Provenance


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a sound ticket file; a file that is not sound raises instead."""

    ok: bool = True
    path: str
    version: int
    checksum: str
    bytes: int
    tensors: int
    kept: int
    total: int


class _Masked(msgspec.Struct, frozen=True):
    """Name and full shape of one prunable tensor."""

    name: str
    shape: tuple[Size, ...]


class _About(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON under the metadata key. ``masks`` is in the order of the model, which a permutation depends on."""

    format: int
    checksum: str
    masks: tuple[_Masked, ...]
    rest: tuple[str, ...]
    head: str
    provenance: Provenance


class _Entry(msgspec.Struct, frozen=True):
    """One tensor in the header of a safetensors file; its bytes are counted from the end of the header."""

    dtype: str
    shape: tuple[Size, ...]
    data_offsets: tuple[Size, Size]


def encode(contents: Contents) -> bytes:
    """The bytes of the ticket file; equal contents give equal bytes. InputError for a type that it cannot hold."""
    tensors = {f"mask/{name}": bits for name, bits in contents.masks.packed().items()}
    tensors |= {f"kept/{name}": contents.weights[name][mask] for name, mask in contents.masks.items()}
    tensors |= {f"rest/{name}": tensor for name, tensor in contents.rest.items()}
    about = {
        "format": VERSION,
        "masks": [{"name": name, "shape": list(mask.shape)} for name, mask in contents.masks.items()],
        "rest": list(contents.rest),
        "head": contents.head,
        "provenance": msgspec.to_builtins(contents.provenance),
    }
    unsigned = _serialised(tensors, about)
    header, begin = _header(unsigned, "")
    signature = _checksum(about, _entries(header, ""), memoryview(unsigned)[begin:])
    return _serialised(tensors, about | {"checksum": signature})


def decode(data: bytes, where: str) -> tuple[Contents, Verification]:
    """The contents of a ticket file, checked completely, from its bytes; ``where`` names the file in errors.

    Raises ForeignFile, TooNewTicket or DamagedTicket. Nothing in the file is ever executed.
    """
    header, begin = _header(data, where)
    about = _metadata(header, where)
    entries = _entries(header, where)
    ends = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if begin + ends != len(data):
        _damaged(where, f"the file has {len(data)} bytes where its header announces {begin + ends}")
    found = _checksum({k: v for k, v in about.items() if k != "checksum"}, entries, memoryview(data)[begin:])
    if found != about.get("checksum"):
        _damaged(where, "the content does not agree with its checksum")
    try:
        tensors = safetensors.load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        _damaged(where, f"its tensors cannot be read ({error})", error)
    typed = _converted(about, _About, "the metadata", where)
    try:
        contents = _contents(typed, tensors, where)
    except (OverflowError, RuntimeError) as error:
        _damaged(where, f"its shapes cannot exist ({error})", error)
    verification = Verification(
        path=where,
        version=typed.format,
        checksum=found,
        bytes=len(data),
        tensors=len(tensors),
        kept=contents.masks.kept,
        total=contents.masks.total,
    )
    return contents, verification


def read(path: str | os.PathLike[str]) -> tuple[Contents, Verification]:
    """:func:`decode` of a file; TicketError when it does not exist or cannot be opened."""
    return decode(read_bytes(path), str(Path(path)))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that should be a ticket; TicketError when it does not exist or cannot be opened."""
    place = Path(path)
    if place.is_dir():
        raise ForeignFile("this is a folder", where=str(place), expected="a ticket file")
    try:
        return place.read_bytes()
    except FileNotFoundError as error:
        raise TicketError("the file does not exist", where=str(place), expected="a ticket file") from error
    except (OSError, ValueError) as error:
        raise TicketError(f"the file cannot be read ({error})", where=str(place)) from error


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it into place: the file is there whole or not at all.

    Raises InputError when the folder does not exist or cannot be written.
    """
    place = Path(path)
    if place.is_dir():
        raise InputError("the ticket cannot be saved over a folder", where=str(place), expected="a file name")
    beside = place.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, place)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        expected = "a file name in a folder that exists and can be written"
        raise InputError(
            f"the ticket cannot be saved ({error.strerror})", where=str(place), expected=expected
        ) from error
    finally:
        if beside.exists():  # the disk was full, say
            beside.unlink()


def _serialised(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    try:
        return safetensors.save(tensors, {KEY: canonical_json(about)})
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"a ticket file cannot hold this ticket: {error}") from error


def _checksum(about: dict[str, Any], entries: Mapping[str, _Entry], data: memoryview) -> str:
    sha = hashlib.sha256(canonical_json(about).encode())
    for name, entry in sorted(entries.items()):
        sha.update(canonical_json([name, entry.dtype, entry.shape]).encode())
        sha.update(data[slice(*entry.data_offsets)])
    return sha.hexdigest()


def _parsed(text: str | bytes) -> Any:
    value = json.loads(text)
    canonical_json(value).encode()  # refuses NaN and broken Unicode, which no ticket has
    return value


def _header(data: bytes, where: str) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and the offset of its tensor data."""
    start = data[_LENGTH : _LENGTH + len(_START)]
    ours = start == _START or (len(data) < _LENGTH + len(_START) and _START.startswith(start))
    if len(data) < _LENGTH:
        _damaged(where, f"it ends after {len(data)} bytes")
    size = int.from_bytes(data[:_LENGTH], "little")
    if size > len(data) - _LENGTH:
        if ours:
            _damaged(where, f"it has {len(data)} bytes, too few for the header of {size} bytes it announces")
        _foreign(where, "it is not a safetensors file")
    begin = _LENGTH + size
    try:
        header = _parsed(data[_LENGTH:begin])
    except (ValueError, RecursionError) as error:
        if ours:
            _damaged(where, f"its header cannot be read ({error})", error)
        _foreign(where, "it is not a safetensors file", error)
    if not isinstance(header, dict):
        _foreign(where, "it is not a safetensors file")
    return header, begin


def _metadata(header: dict[str, Any], where: str) -> dict[str, Any]:
    """The JSON under the metadata key; TooNewTicket for a version that cannot be read here."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        _foreign(where, f"it is a safetensors file without the metadata key '{KEY}'")
    try:
        about = _parsed(metadata[KEY])
    except (ValueError, RecursionError) as error:
        _damaged(where, f"its metadata cannot be read ({error})", error)
    version = about.get("format") if isinstance(about, dict) else None
    if not isinstance(version, int) or version < 1:
        _damaged(where, "its metadata give no version of the format")
    if version > VERSION:
        expected = f"version {VERSION} at most; install a newer oneticket"
        raise TooNewTicket(f"the ticket has version {version} of the format", where=where, expected=expected)
    return dict(about)


def _entries(header: dict[str, Any], where: str) -> dict[str, _Entry]:
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return _converted(tensors, dict[str, _Entry], "the header", where)


def _contents(about: _About, tensors: dict[str, Tensor], where: str) -> Contents:
    names = [masked.name for masked in about.masks]
    wanted = [*(f"{kind}/{name}" for name in names for kind in ("mask", "kept")), *(f"rest/{n}" for n in about.rest)]
    if sorted(wanted) != sorted(tensors):
        odd = sorted(set(wanted) ^ set(tensors))
        _damaged(where, f"its metadata and its tensors disagree about {', '.join(odd) or 'names that occur twice'}")
    weights = {}
    masks: dict[str, Tensor] = {}
    for name, shape in ((masked.name, masked.shape) for masked in about.masks):
        bits, kept = tensors[f"mask/{name}"], tensors[f"kept/{name}"]
        if bits.dtype != torch.uint8 or bits.shape != ((math.prod(shape) + 7) // 8,):
            _damaged(where, f"the mask of '{name}' does not have its shape {shape}")
        masks |= Masks.unpacked({name: bits}, {name: shape})
        if kept.shape != (int(masks[name].sum()),):
            _damaged(where, f"'{name}' has {tuple(kept.shape)} kept values for {int(masks[name].sum())} kept weights")
        weights[name] = torch.zeros(shape, dtype=kept.dtype).masked_scatter_(masks[name], kept)
    rest = {name: tensors[f"rest/{name}"] for name in about.rest}
    return Contents(Masks(masks), weights, rest, about.head, about.provenance)


def _converted(value: Any, kind: type[T], what: str, where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        _damaged(where, f"{what} cannot be understood ({error})", error)


def _damaged(where: str, fault: str, cause: BaseException | None = None) -> NoReturn:
    raise DamagedTicket(f"the ticket is damaged: {fault}", where=where, expected="a complete ticket file") from cause


def _foreign(where: str, fault: str, cause: BaseException | None = None) -> NoReturn:
    raise ForeignFile(f"this is not a ticket: {fault}", where=where, expected="a ticket file") from cause
