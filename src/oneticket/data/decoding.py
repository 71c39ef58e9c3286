"""From encoded images to uint8 pixels: one colour depth, one number of channels, one size."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from oneticket.data.cache import Decoded, Part
from oneticket.data.derivations import Size
from oneticket.data.pixels import fitted
from oneticket.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class Picture(NamedTuple):
    """One encoded image: its place, for messages, and its bytes or its file."""

    where: str
    content: bytes | Path


@dataclass(frozen=True)
class Encoded:
    """A split before decoding: one label for each picture."""

    pictures: Sequence[Picture]
    labels: Sequence[int]


def extra(module: str, name: str) -> Any:
    """Import the module of an optional dependency; InputError, with the extra to install, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise InputError(f"this data needs {package}", expected=f"pip install 'oneticket[{name}]'") from None


def decode(classes: Sequence[str], splits: Mapping[str, Encoded], size: Size | None) -> tuple[Decoded, bool]:
    """Decode every picture to uint8.

    Grey stays one channel if every picture is grey; otherwise all become RGB. Transparency is dropped, 16-bit grey
    becomes 8-bit (v / 257, rounded), an orientation noted by the camera is applied.

    Parameters
    ----------
    classes : Sequence[str]
        The names of the classes; the place of a name is its label.
    splits : Mapping[str, Encoded]
        "train" and "test".
    size : Size or None
        The size that all pictures are brought to if they have different ones; pictures of one size stay as they are.

    Returns
    -------
    tuple of (Decoded, bool)
        The images, and whether ``size`` was needed.

    Raises
    ------
    InputError
        For a picture that does not decode, for 32-bit pixels, for different sizes without ``size``, for a label
        without a class, and for a class name that is used twice.
    """
    classes = tuple(classes)
    _check_names(classes)
    for name, split in splits.items():
        _check_labels(name, split, classes)
    headers = [_header(picture) for split in splits.values() for picture in split.pictures]
    channels = 3 if any(colour for colour, _, _ in headers) else 1
    sizes = {(height, width) for _, height, width in headers}
    needed = _common_size(sizes, size)
    height, width = (needed.side, needed.side) if needed else next(iter(sizes))
    parts = {}
    for name, split in splits.items():
        images = torch.empty(len(split.pictures), channels, height, width, dtype=torch.uint8)
        for row, picture in enumerate(split.pictures):
            images[row] = _pixels(picture, channels, needed)
        parts[name] = Part(images, torch.tensor(split.labels, dtype=torch.int64))
    return Decoded(classes, parts["train"], parts["test"]), needed is not None


def _common_size(sizes: set[tuple[int, int]], size: Size | None) -> Size | None:
    """``size`` where pictures have different sizes; None where all have one."""
    if len(sizes) == 1:
        return None
    if size is None:
        low, high = min(sizes), max(sizes)
        found = f"images have different sizes, such as {low[0]}×{low[1]} and {high[0]}×{high[1]} (height × width)"
        raise InputError(found, where="size", expected="size = 32, or another, to bring them to one")
    return size


def _check_names(classes: Sequence[str]) -> None:
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise InputError(f"two classes have the name '{repeated[0]}'", expected="a different name for each class")


def _check_labels(name: str, split: Encoded, classes: Sequence[str]) -> None:
    if not split.pictures:
        raise InputError(f"the {name} split is empty")
    for picture, label in zip(split.pictures, split.labels, strict=True):
        if not 0 <= label < len(classes):
            raise InputError(f"label {label} is not a class", where=picture.where, expected=f"0 to {len(classes) - 1}")


def _header(picture: Picture) -> tuple[bool, int, int]:
    """Whether the picture has colour, its height and its width."""
    with _opened(picture) as image:
        if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
            raise InputError(f"pixels of 32 bits (mode {image.mode})", where=picture.where, expected="8 or 16 bits")
        grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
        return not grey, image.height, image.width


def _pixels(picture: Picture, channels: int, size: Size | None) -> Tensor:
    """One picture, uint8 [C, H, W]."""
    with _opened(picture) as image:
        try:
            if image.mode.startswith("I"):
                pixels = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
                pixels = pixels[..., None].repeat(channels, axis=2)
            else:
                pixels = np.array(image.convert("L" if channels == 1 else "RGB")).reshape(*image.size[::-1], channels)
        except Exception as error:
            raise _broken(picture, error) from None
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    if size is None:
        return tensor
    try:
        return fitted(tensor[None], size.side, size.fit)[0]
    except InputError as error:
        raise error.at(picture.where) from None


def _opened(picture: Picture) -> Image:
    """The picture with its header read; its pixels are read on first use."""
    pillow, operations = extra("PIL.Image", "data"), extra("PIL.ImageOps", "data")
    source = BytesIO(picture.content) if isinstance(picture.content, bytes) else picture.content
    try:
        image: Image = pillow.open(source)
        return operations.exif_transpose(image) if "exif" in image.info else image
    except Exception as error:
        raise _broken(picture, error) from None


def _broken(picture: Picture, error: Exception) -> InputError:
    # Each decoder has its own exceptions; after any of them this picture cannot be used.
    return InputError(f"the image does not decode ({type(error).__name__}: {error})", where=picture.where)
