"""From the description of a data set to its identity, and from there to its samples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from oneticket.data.cache import Decoded, Part, keep, kept, locked, redrawn, remember, remembered
from oneticket.data.decoding import Reading
from oneticket.data.derivations import AnyDerivation, Channels, Selection, Size, View, held_out
from oneticket.data.sets import AnySet, ImageSet, Splits, TableSet, TextSet
from oneticket.data.sources import SOURCES, Source
from oneticket.data.spec import DataSpec, chain
from oneticket.errors import InputError
from oneticket.identity import digest

DEFAULT_VALIDATION = 0.1
RULES = 2  # of reading: a data set that was decoded under earlier ones is read again, since it may be refused now


class DataRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The identity of a data set, without the names and paths by which it was found.

    Parameters
    ----------
    fingerprint : str
        Of the decoded base.
    steps : tuple
        The derivations, in order, without those that would change nothing.
    split : int
        The number of the random split that the validation images are drawn from.
    validation : float
        The fraction of each class of the training split that is held out for validation.
    """

    fingerprint: str
    steps: tuple[AnyDerivation, ...] = ()
    split: int = 0
    validation: float = DEFAULT_VALIDATION


def resolve(specs: Mapping[str, DataSpec], name: str, *, folder: Path, cache: Path) -> DataRef:
    """The identity of the data set ``name``, which is decoded into the cache if it is not there.

    Parameters
    ----------
    specs : Mapping[str, DataSpec]
        The data sets of an experiment file.
    name : str
        One of them.
    folder : Path
        The folder of the experiment file, which relative paths start from.
    cache : Path
        The folder of decoded data.

    Returns
    -------
    DataRef

    Raises
    ------
    InputError
        For data that cannot be used; its place is ``data.NAME: key``.
    """
    path = chain(specs, name)
    fingerprint = _decoded(path, folder, cache)
    base = _base(cache, fingerprint)
    _say_empty(base, path[0][0])
    for note in base.notes:
        warnings.warn(f"data.{path[0][0]}: {note}", stacklevel=3)
    view = _whole(base)
    steps: list[AnyDerivation] = []
    split, validation = 0, DEFAULT_VALIDATION
    for where, spec in path:
        split = split if spec.split is None else spec.split
        validation = validation if spec.validation is None else float(spec.validation)
        try:
            spec.check_kind(view.kind)
            for step in spec.derivations(view.classes, split):
                derived = step.apply(view)
                if not derived.equals(view):
                    steps.append(step)
                view = derived
            for part_name, part in (("train", view.train), ("test", view.test)):
                if not len(part.rows):
                    raise InputError(f"the {part_name} split is empty")
        except InputError as error:
            raise error.at(f"data.{where}") from None
    try:
        held_out(view, split, validation)
    except InputError as error:
        raise error.at(f"data.{name}") from None
    # Derivations on pixels and on rows commute: one order for both keeps equal data under one identity.
    ordered = sorted(steps, key=lambda step: isinstance(step, Size | Channels))
    return DataRef(fingerprint=fingerprint, steps=tuple(ordered), split=split, validation=validation)


def open_data(ref: DataRef, *, cache: Path) -> Splits:
    """Train, validation and test of ``ref``, memory-mapped from the cache; the source is no longer needed.

    Images at another size or with other channels are made when first opened, and kept in the cache. Raises InputError
    if the cache does not have the data.
    """
    base = _base(cache, ref.fingerprint)
    view = _whole(base)
    for step in ref.steps:
        view = step.apply(view)
    train, validation = held_out(view, ref.split, ref.validation)
    images = _images(base, ref, cache)

    def shown(part: Selection, inputs: Tensor) -> AnySet:
        index = None if torch.equal(part.rows, torch.arange(len(inputs))) else part.rows
        if view.kind == "text":
            return TextSet(inputs, index)
        made = ImageSet if view.kind == "images" else TableSet
        return made(inputs, part.labels, view.classes, index)

    return Splits(shown(train, images["train"]), shown(validation, images["train"]), shown(view.test, images["test"]))


def _decoded(path: list[tuple[str, DataSpec]], folder: Path, cache: Path) -> str:
    """The fingerprint of the base: from the memo if its files are unchanged, otherwise by decoding it."""
    where, base = path[0]
    kind, place = base.origin
    compact = base.labels == "compact"
    size = next((Size(spec.size, spec.fit) for _, spec in path if spec.size is not None), None)
    try:
        found = SOURCES[kind](place, folder, base)
        for note in found.notes:
            warnings.warn(f"data.{where}: {note}", stacklevel=4)
        of: list[object] = [RULES, kind, _state(found) or place, compact]
        if base.test is not None or kind in ("text", "table"):
            about = (base.test, base.split or 0, base.window, base.pattern, base.label, base.columns)
            of.append(msgspec.to_builtins(about))
        same_size, mixed = (digest([*of, to]) for to in (None, msgspec.to_builtins(size)))
        with locked(cache, same_size):
            fingerprint = remembered(cache, same_size) or remembered(cache, mixed)
            if fingerprint is None:
                data, resized = found.read(Reading(size, compact))
                fingerprint = keep(cache, data)
                remember(cache, mixed if resized else same_size, fingerprint)
    except InputError as error:
        raise error.at(f"data.{where}") from None
    return fingerprint


def _say_empty(base: Decoded, where: str) -> None:
    """Warn of classes without images: an output of the network stands for each, and no image asks for it."""
    if base.kind == "text":  # most bytes are not in most texts
        return
    for part_name, part in base.parts.items():
        counts = torch.bincount(part.labels, minlength=len(base.classes)).tolist()
        empty = [name for name, count in zip(base.classes, counts, strict=True) if not count]
        if empty:
            named = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
            warnings.warn(f"data.{where}: no image in {part_name} of class {named}", stacklevel=3)


def _state(found: Source) -> list[tuple[str, int, int]]:
    """Absolute path, size in bytes and time of the last change (ns) of each file."""
    # Links are not followed: the folder of a link is its class.
    states = ((file.absolute(), file.stat()) for file in found.files)
    return [(str(file), state.st_size, state.st_mtime_ns) for file, state in states]


def _base(cache: Path, fingerprint: str) -> Decoded:
    base = kept(cache, fingerprint)
    if base is None:
        raise InputError(
            f"the data {fingerprint[:12]}… is not in the cache {cache}", expected="to plan the experiment again"
        )
    return base


def _whole(base: Decoded) -> View:
    def everything(part: Part) -> Selection:
        return Selection(torch.arange(len(part.labels)), part.labels)

    shape = tuple(base.train.images.shape[1:])
    return View(base.classes, everything(base.train), everything(base.test), shape, base.kind)


def _images(base: Decoded, ref: DataRef, cache: Path) -> dict[str, Tensor]:
    steps = [step for step in ref.steps if isinstance(step, Size | Channels)]
    if not steps:
        return {name: part.images for name, part in base.parts.items()}

    def drawn(part: str) -> Tensor:
        images = base.parts[part].images
        for step in steps:
            images = step.pixels(images)
        return images

    return redrawn(cache, digest([ref.fingerprint, msgspec.to_builtins(steps)]), drawn)
