"""Data sources: one function for each origin that a ``[data.NAME]`` table may name, found by its key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oneticket.data.cache import Decoded, Part
from oneticket.data.decoding import Encoded, Picture, decode, extra
from oneticket.data.derivations import Size
from oneticket.errors import InputError, nearest, unknown
from oneticket.registry import NoFacts, Registry

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
Read = Callable[[Size | None], tuple[Decoded, bool]]


@dataclass(frozen=True)
class Source:
    """The data that an origin leads to, before anything is read.

    Parameters
    ----------
    files : Sequence[Path]
        The files that hold the data; the cache remembers its fingerprint until one of them changes.
    read : Callable
        Decodes everything and brings pictures of different sizes to the given size; also returns whether that was
        necessary.
    """

    files: Sequence[Path]
    read: Read


SOURCES: Registry[Callable[[str, Path], Source], NoFacts] = Registry("data source", NoFacts)
source = SOURCES.register


@source("builtin")
def builtin(name: str, folder: Path) -> Source:
    """Images that come with scikit-learn: ``digits``, 1,797 grey images of 8×8."""
    if name != "digits":
        raise unknown("built-in data set", name, ["digits"])
    return Source((), lambda size: (digits(), False))


@source("path")
def parquet(place: str, folder: Path) -> Source:
    """A folder of train.parquet and test.parquet (or train-*.parquet …) in the Hugging Face convention."""
    home = _existing(folder / Path(place).expanduser())
    shards = {part: sorted(home.glob(f"{part}-*.parquet")) or [home / f"{part}.parquet"] for part in ("train", "test")}
    for part, files in shards.items():
        if not files[0].is_file():
            raise InputError(f"no {part}.parquet in {home}", expected="train.parquet and test.parquet")

    def read(size: Size | None) -> tuple[Decoded, bool]:
        tables = {part: _joined([_parquet_table(file, home) for file in files]) for part, files in shards.items()}
        return _decode_tables(tables, size)

    return Source([file for files in shards.values() for file in files], read)


@source("images")
def image_folder(place: str, folder: Path) -> Source:
    """A folder of images: train/CLASS/FILE and test/CLASS/FILE."""
    home = _existing(folder / Path(place).expanduser())
    classes = _class_folders(home)
    found = {part: _labelled_images(home / part, classes) for part in ("train", "test")}
    for label in set(range(len(classes))) - {label for _, label in found["train"]}:
        raise InputError(f"class '{classes[label]}' has no image in train", where=str(home))

    def read(size: Size | None) -> tuple[Decoded, bool]:
        splits = {
            part: Encoded([Picture(str(file), file) for file, _ in files], [label for _, label in files])
            for part, files in found.items()
        }
        return decode(classes, splits, size)

    return Source([file for files in found.values() for file, _ in files], read)


def _class_folders(home: Path) -> list[str]:
    """The classes of a folder of images: the names of the folders in train, in the order of their labels."""
    classes = sorted((entry.name for entry in _existing(home / "train").iterdir() if entry.is_dir()), key=_in_order)
    strangers = {entry.name for entry in _existing(home / "test").iterdir() if entry.is_dir()} - set(classes)
    if strangers:
        word = min(strangers)
        raise InputError(
            f"class '{word}' is in test, but not in train", where=str(home), nearest=nearest(word, classes)
        )
    unreadable = [name for name in classes if any("\ud800" <= letter <= "\udfff" for letter in name)]
    if unreadable:
        raise InputError(
            f"the name of the class folder {unreadable[0]!a} is not valid UTF-8",
            where=str(home),
            expected="a UTF-8 name",
        )
    return classes


def _labelled_images(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    return [(file, label) for label, name in enumerate(classes) for file in _images(folder / name)]


@source("hub")
def hub(name: str, folder: Path) -> Source:
    """A data set of the Hugging Face hub, by its id; downloaded once, later changes there have no effect."""

    def read(size: Size | None) -> tuple[Decoded, bool]:
        datasets = extra("datasets", "hub")
        splits = _load_quietly(datasets, name)
        missing = [part for part in ("train", "test") if part not in splits]
        if missing:
            raise InputError(
                f"'{name}' has no {missing[0]} split", expected=f"train and test; it has {', '.join(splits)}"
            )
        tables = {part: _hub_table(datasets, f"{name} {part}", splits[part]) for part in ("train", "test")}
        return _decode_tables(tables, size)

    return Source((), read)


def digits() -> Decoded:
    """scikit-learn's digits with 0 … 16 stretched to 0 … 255; every fifth image of each class is for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    for_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        for_test[(labels == label).nonzero()[4::5]] = True
    train, test = (Part(images[rows], labels[rows]) for rows in (~for_test, for_test))
    return Decoded(tuple(map(str, range(10))), train, test)


@dataclass(frozen=True)
class _Table:
    """Rows of pictures and labels; the names of the classes, or None if the table does not have them."""

    rows: Encoded
    classes: tuple[str, ...] | None


def _decode_tables(tables: Mapping[str, _Table], size: Size | None) -> tuple[Decoded, bool]:
    train, test = tables["train"].classes, tables["test"].classes
    if train != test:
        raise InputError("train and test name different classes", expected="the same classes in the same order")
    if train is None:
        train = tuple(str(label) for label in range(1 + max(max(t.rows.labels, default=0) for t in tables.values())))
    return decode(train, {part: table.rows for part, table in tables.items()}, size)


def _joined(tables: Sequence[_Table]) -> _Table:
    rows = [table.rows for table in tables]
    joined = Encoded([p for part in rows for p in part.pictures], [label for part in rows for label in part.labels])
    return _Table(joined, tables[0].classes)


def _parquet_table(file: Path, home: Path) -> _Table:
    reader = extra("pyarrow.parquet", "data")
    try:
        table = reader.read_table(file)
    except (OSError, ValueError) as error:
        raise InputError(f"this is not a Parquet file ({error})", where=str(file)) from None
    notes = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(notes)["info"]["features"] if notes else {}
    image, label, classes = _columns(features, table.column_names, str(file))
    return _table(str(file), table.column(image).to_pylist(), table.column(label).to_pylist(), classes, home)


def _hub_table(datasets: Any, where: str, split: Any) -> _Table:
    image, label, classes = _columns(split.features.to_dict(), split.column_names, where)
    rows = split.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    return _table(where, list(rows[image]), list(rows[label]), classes, Path())


def _columns(features: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[str, str, tuple[str, ...] | None]:
    """The column of images, that of labels, and the names of the classes, or None if the features lack them."""

    def one(kind: str, usual: Iterable[str]) -> str:
        typed = [name for name in names if features.get(name, {}).get("_type") == kind]
        fitting = [name for name in usual if name in (typed or names)] or typed
        if not fitting:
            found = f"no column of type {kind}, nor one named {' or '.join(usual)}"
            raise InputError(found, where=where, expected=f"one; the columns are {', '.join(names)}")
        return fitting[0]

    image, label = one("Image", ("image", "img")), one("ClassLabel", ("label", "labels", "fine_label"))
    classes = features.get(label, {}).get("names")
    return image, label, tuple(classes) if classes else None


def _table(
    where: str, images: Sequence[Any], labels: Sequence[Any], classes: tuple[str, ...] | None, home: Path
) -> _Table:
    pictures = []
    for row, (value, label) in enumerate(zip(images, labels, strict=True)):
        place = f"{where} row {row}"
        content = value if isinstance(value, bytes) else (value or {}).get("bytes") or (value or {}).get("path")
        if content is None:
            raise InputError("the image is missing", where=place)
        if not isinstance(label, int):
            raise InputError(f"the label is {label!r}", where=place, expected="the number of a class")
        pictures.append(Picture(place, content if isinstance(content, bytes) else home / content))
    return _Table(Encoded(pictures, labels), classes)


def _load_quietly(datasets: Any, name: str) -> Any:
    """``datasets.load_dataset`` without progress bars and without counting the download at the hub."""
    shown, counted = not datasets.are_progress_bars_disabled(), datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        return datasets.load_dataset(name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"'{name}' cannot be loaded from the hub ({error})", expected="the id of an image data set"
        ) from None
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counted
        if shown:
            datasets.enable_progress_bars()


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        beside = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise InputError(f"the folder {folder} does not exist", nearest=nearest(folder.name, beside))
    return folder


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _in_order(name: str) -> tuple[int, str]:
    # Classes named by numbers stand in the order of the numbers: 10 after 9, not after 1.
    return (int(name), name) if name.isdecimal() else (2**63, name)
