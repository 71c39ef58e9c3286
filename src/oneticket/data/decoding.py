"""From encoded images to uint8 pixels: one colour depth, one number of channels, one size."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from oneticket.data.cache import Decoded, Part
from oneticket.data.derivations import Size
from oneticket.data.folders import FORMATS
from oneticket.data.pixels import fitted
from oneticket.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


MAX_PIXELS = 2**26  # 8192 × 8192; a decoder takes a few bytes for each
SET_FACTOR = 128
_LIMIT: ContextVar[int] = ContextVar("pixel limit", default=MAX_PIXELS)
_ORIENTATION = 0x0112  # the number of that tag in EXIF
_WHOLE = 65535


@dataclass(frozen=True)
class Reading:
    """How an origin is read.

    Parameters
    ----------
    size : Size or None
        What pictures of different sizes are brought to.
    compact : bool
        Whether labels that leave gaps are accepted and numbered anew, in their order.
    """

    size: Size | None = None
    compact: bool = False


class _Header(NamedTuple):
    """What a picture says of itself: whether it has colour, whether 16 bits of grey; its height and width, upright."""

    colour: bool
    deep: bool
    height: int
    width: int


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


def decode(classes: Sequence[str], splits: Mapping[str, Encoded], reading: Reading) -> tuple[Decoded, bool]:
    """Decode every picture to uint8.

    Grey stays one channel if every picture is grey; otherwise all become RGB. Transparency is dropped, an orientation
    noted by the camera is applied. 16-bit grey becomes 8-bit by the range that the training pictures use: the smallest
    of 2ᵇ − 1 (8 ≤ b ≤ 16) that holds them becomes 255, so that 12 bits in a file of 16 keep all grey levels of 8 bits.

    Parameters
    ----------
    classes : Sequence[str]
        The names of the classes; the place of a name is its label.
    splits : Mapping[str, Encoded]
        "train" and "test".
    reading : Reading
        Among others the size that all pictures are brought to if they have different ones; pictures of one size stay
        as they are.

    Returns
    -------
    tuple of (Decoded, bool)
        The images, and whether the size was needed.

    Raises
    ------
    InputError
        For a picture that does not decode, has several frames, 32-bit pixels, 16 bits of colour, or more pixels than
        :func:`pixel_limit` allows; for different sizes without a size, for a label without a class, and for a class
        name that is used twice.
    """
    classes = tuple(classes)
    _check_names(classes)
    for name, split in splits.items():
        _check_labels(name, split, classes)
    with _unlimited():
        headers = {name: [_header(picture) for picture in split.pictures] for name, split in splits.items()}
        every = [header for part in headers.values() for header in part]
        channels = 3 if any(header.colour for header in every) else 1
        sizes = {(header.height, header.width) for header in every}
        needed = _common_size(sizes, reading.size)
        height, width = (needed.side, needed.side) if needed else next(iter(sizes))
        _check_total(len(every), height, width)
        top = _top(splits, headers)
        parts = {}
        for name, split in splits.items():
            images = torch.empty(len(split.pictures), channels, height, width, dtype=torch.uint8)
            for row, picture in enumerate(split.pictures):
                images[row] = _pixels(picture, channels, needed, top)
            parts[name] = Part(images, torch.tensor(split.labels, dtype=torch.int64))
    return Decoded(classes, parts["train"], parts["test"]), needed is not None


@contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Inside this context a picture may have at most ``pixels`` pixels, and a data set 128 times as many."""
    token = _LIMIT.set(pixels)
    try:
        yield
    finally:
        _LIMIT.reset(token)


@contextmanager
def _unlimited() -> Iterator[None]:
    """Pillow's own limit for the size of a picture is off: ours is checked before anything is decoded."""
    pillow = extra("PIL.Image", "data")
    usual = pillow.MAX_IMAGE_PIXELS
    pillow.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        pillow.MAX_IMAGE_PIXELS = usual


def _check_total(count: int, height: int, width: int) -> None:
    most = _LIMIT.get() * SET_FACTOR
    if count * height * width > most:
        raise InputError(
            f"{count} pictures of {height}×{width} have {count * height * width:,} pixels",
            expected=f"at most {most:,} in a data set; a smaller size, or a larger --max-pixels",
        )


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
    repeated = sorted(name for name, times in Counter(classes).items() if times > 1)
    if repeated:
        raise InputError(f"two classes have the name '{repeated[0]}'", expected="a different name for each class")


def _check_labels(name: str, split: Encoded, classes: Sequence[str]) -> None:
    if not split.pictures:
        raise InputError(f"the {name} split is empty")
    for picture, label in zip(split.pictures, split.labels, strict=True):
        if not 0 <= label < len(classes):
            raise InputError(f"label {label} is not a class", where=picture.where, expected=f"0 to {len(classes) - 1}")


def _header(picture: Picture) -> _Header:
    with _opened(picture) as image:
        where = picture.where
        if image.width * image.height > _LIMIT.get():
            found = f"the picture has {image.height}×{image.width} = {image.width * image.height:,} pixels"
            raise InputError(found, where=where, expected=f"at most {_LIMIT.get():,}, or a larger --max-pixels")
        if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
            raise InputError(f"pixels of 32 bits (mode {image.mode})", where=where, expected="8 or 16 bits")
        deep = image.mode.startswith("I")
        try:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph and its previews
            layouts = [
                args if isinstance(args, str) else str(args[0]) for *_, args in getattr(image, "tile", ()) if args
            ]
            turned = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        except Exception as error:
            raise _broken(picture, error) from None
        if frames > 1:
            raise InputError(f"the picture has {frames} frames or pages", where=where, expected="one picture in a file")
        if not deep and image.format in ("PNG", "TIFF") and any("16" in layout for layout in layouts):
            raise InputError("colours of 16 bits", where=where, expected="8 bits for each colour, or 16 bits of grey")
        height, width = (image.width, image.height) if turned else (image.height, image.width)
        return _Header(not (deep or image.mode in ("1", "L", "LA")), deep, height, width)


def _top(splits: Mapping[str, Encoded], headers: Mapping[str, Sequence[_Header]]) -> int:
    """The value of 16-bit pictures that becomes 255; 65535 without such pictures.

    Raises InputError where 8-bit pictures are among 16-bit ones that do not use their whole range, or where a test
    picture exceeds the range of the training pictures: what is bright would depend on the file.
    """
    deep = {
        name: [picture for picture, header in zip(split.pictures, headers[name], strict=True) if header.deep]
        for name, split in splits.items()
    }
    peaks = {
        name: max(((_peak(picture), picture.where) for picture in own), default=(0, "")) for name, own in deep.items()
    }
    if not any(deep.values()):
        return _WHOLE
    top: int = next(2**bits - 1 for bits in range(8, 17) if 2**bits > peaks["train"][0])
    if top == _WHOLE:
        return top
    mixed = [
        picture
        for name, split in splits.items()
        for picture, header in zip(split.pictures, headers[name], strict=True)
        if not header.deep
    ]
    if mixed:
        found = f"has 8 bits, {next(own for own in deep.values() if own)[0].where} has 16, of which 0 to {top} are used"
        raise InputError(found, where=mixed[0].where, expected="pictures of one kind")
    if peaks["test"][0] > top:
        found = f"has a pixel of {peaks['test'][0]}, the training pictures go up to {peaks['train'][0]}"
        raise InputError(found, where=peaks["test"][1], expected=f"at most {top}")
    return top


def _peak(picture: Picture) -> int:
    with _opened(picture) as image:
        try:
            peak: int = np.asarray(image).max().item()
            return peak
        except Exception as error:
            raise _broken(picture, error) from None


def _pixels(picture: Picture, channels: int, size: Size | None, top: int) -> Tensor:
    """One picture, uint8 [C, H, W]."""
    with _opened(picture) as image:
        try:
            upright = _upright(image)
            if upright.mode.startswith("I"):
                pixels = ((np.asarray(upright).astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
                pixels = pixels[..., None].repeat(channels, axis=2)
            else:
                pixels = np.array(upright.convert("L" if channels == 1 else "RGB")).reshape(
                    *upright.size[::-1], channels
                )
        except Exception as error:
            raise _broken(picture, error) from None
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    if size is None:
        return tensor
    try:
        return fitted(tensor[None], size.side, size.fit)[0]
    except InputError as error:
        raise error.at(picture.where) from None


def _upright(image: Image) -> Image:
    upright: Image = extra("PIL.ImageOps", "data").exif_transpose(image) if "exif" in image.info else image
    return upright


def _opened(picture: Picture) -> Image:
    """The picture with its header read; its pixels are read on first use. Only formats of pictures are tried."""
    pillow = extra("PIL.Image", "data")
    source = BytesIO(picture.content) if isinstance(picture.content, bytes) else picture.content
    try:
        pillow.init()
        image: Image = pillow.open(source, formats=[name for name in FORMATS if name in pillow.OPEN])
    except Exception as error:
        raise _broken(picture, error) from None
    return image


def _broken(picture: Picture, error: Exception) -> InputError:
    # Each decoder has its own exceptions; after any of them this picture cannot be used.
    return InputError(f"the image does not decode ({type(error).__name__}: {error})", where=picture.where)
