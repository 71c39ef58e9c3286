"""Data sources: one function for each origin that a ``[data.NAME]`` table may name, found by its key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oneticket.data import features, windows
from oneticket.data.cache import Decoded, Part
from oneticket.data.decoding import Encoded, Picture, Reading, decode, extra
from oneticket.data.folders import Labelled, Left, classes_of, existing, notes, pictures_of, pictures_to_part
from oneticket.data.parting import for_testing
from oneticket.data.spec import DataSpec
from oneticket.data.tables import PARTS, decode_tables, hub_table, joined, left_out_of, parquet_table, shards_of
from oneticket.errors import InputError, unknown
from oneticket.registry import NoFacts, Registry

Read = Callable[[Reading], tuple[Decoded, bool]]


@dataclass(frozen=True)
class Source:
    """The data that an origin leads to, before anything is read.

    Parameters
    ----------
    files : Sequence[Path]
        The files that hold the data; the cache remembers its fingerprint until one of them changes.
    read : Callable
        Decodes everything as :class:`Reading` says; also returns whether pictures had to be brought to its size.
    notes : Sequence[str]
        What of the origin is left out and why, a sentence each; told whenever the data set is resolved.
    """

    files: Sequence[Path]
    read: Read
    notes: Sequence[str] = ()


SOURCES: Registry[Callable[..., Source], NoFacts] = Registry("data source", NoFacts)
"""Functions of the value of the origin, the folder that paths start from, and the whole table."""

source = SOURCES.register

_ALONE = DataSpec()  # an origin about which its table says nothing else


@source("builtin")
def builtin(name: str, folder: Path, spec: DataSpec = _ALONE) -> Source:
    """Images that come with scikit-learn: ``digits``, 1,797 grey images of 8×8."""
    if name != "digits":
        raise unknown("built-in data set", name, ["digits"])
    return Source((), lambda reading: (digits(), False))


@source("path")
def parquet(place: str, folder: Path, spec: DataSpec = _ALONE) -> Source:
    """A folder of train.parquet and test.parquet (or train-*.parquet …) in the Hugging Face convention."""
    home = existing(folder / Path(place).expanduser())
    shards = {part: shards_of(home, part) for part in PARTS}
    files = [file for part in shards.values() for file in part]

    def read(reading: Reading) -> tuple[Decoded, bool]:
        tables = {part: joined([parquet_table(file, home) for file in own], own) for part, own in shards.items()}
        return decode_tables(tables, reading)

    return Source(files, read, notes(home, left_out_of(home, files)))


@source("images")
def image_folder(place: str, folder: Path, spec: DataSpec = _ALONE) -> Source:
    """A folder of images: train/CLASS/FILE and test/CLASS/FILE, or CLASS/FILE of which ``test`` parts each class."""
    home = existing(folder / Path(place).expanduser())
    left: list[Left] = []
    if isinstance(spec.test, float):
        classes, found = _parted(home, spec.test, spec.split or 0, left)
    else:
        if not any((home / part).is_dir() for part in PARTS) and any(entry.is_dir() for entry in home.iterdir()):
            expected = "train and test, each with a folder for each class; or test = 0.2 for a folder of classes"
            raise InputError(f"{home} has neither train nor test", expected=expected)
        classes = classes_of(home, left)
        found = {part: pictures_of(home / part, classes, left) for part in PARTS}
    for label in set(range(len(classes))) - {picture.label for picture in found["train"]}:
        raise InputError(f"class '{classes[label]}' has no image in train", where=str(home))

    def read(reading: Reading) -> tuple[Decoded, bool]:
        splits = {
            part: Encoded([Picture(str(p.file), p.file) for p in own], [p.label for p in own])
            for part, own in found.items()
        }
        return decode(classes, splits, reading)

    return Source([picture.file for own in found.values() for picture in own], read, notes(home, left))


def _parted(home: Path, test: float, split: int, left: list[Left]) -> tuple[list[str], dict[str, list[Labelled]]]:
    """The pictures of a folder of classes, parted by their names, the same fraction of each class."""
    both = [name for name in PARTS if (home / name).is_dir()]
    if both:
        found = f"test = {test} and a folder '{both[0]}'"
        raise InputError(found, where="test", expected="no such key: the folder is parted already")
    classes, pictures = pictures_to_part(home, left)
    found_in: dict[str, list[Labelled]] = {part: [] for part in PARTS}
    for label, name in enumerate(classes):
        own = [picture for picture in pictures if picture.label == label]
        if len(own) < 2:
            raise InputError(f"class '{name}' has {len(own)} pictures", where="test", expected="two or more to part")
        sides = for_testing([picture.file.relative_to(home).as_posix() for picture in own], test, split)
        for picture, side in zip(own, sides, strict=True):
            found_in["test" if side else "train"].append(picture)
    return classes, found_in


@source("text")
def text_folder(place: str, folder: Path, spec: DataSpec = _ALONE) -> Source:
    """A folder of files of text, whose bytes are the tokens; a fraction ``test`` of the files is for testing."""
    home = existing(folder / Path(place).expanduser())
    left: list[Left] = []
    patterns = (spec.pattern,) if isinstance(spec.pattern, str) else spec.pattern or ()
    files = windows.files_of(home, patterns, left)
    window, test = spec.window or windows.WINDOW, float(spec.test or windows.TEST)

    def read(reading: Reading) -> tuple[Decoded, bool]:
        return windows.windows_of(home, files, window, test, spec.split or 0), False

    return Source(files, read, notes(home, left))


@source("table")
def table_file(place: str, folder: Path, spec: DataSpec = _ALONE) -> Source:
    """A CSV or Parquet table of numbers and categories with a column of classes, ``label``."""
    files = [features.existing_file(folder / Path(place).expanduser())]
    if isinstance(spec.test, str):
        files.append(features.existing_file(folder / Path(spec.test).expanduser()))

    def read(reading: Reading) -> tuple[Decoded, bool]:
        label, (train, *others) = spec.label or "", map(features.read_columns, files)
        if others:
            return features.numbers_of(train, others[0], label, spec.columns), False
        parts = features.parted(train, label, float(spec.test or features.TEST), spec.split or 0)
        return features.numbers_of(*parts, label, spec.columns), False

    return Source(files, read)


@source("hub")
def hub(name: str, folder: Path, spec: DataSpec = _ALONE) -> Source:
    """A data set of the Hugging Face hub, by its id; downloaded once, later changes there have no effect."""

    def read(reading: Reading) -> tuple[Decoded, bool]:
        datasets = extra("datasets", "hub")
        splits = _load_quietly(datasets, name)
        missing = [part for part in PARTS if part not in splits]
        if missing:
            raise InputError(
                f"'{name}' has no {missing[0]} split", expected=f"train and test; it has {', '.join(splits)}"
            )
        return decode_tables({part: hub_table(datasets, f"{name} {part}", splits[part]) for part in PARTS}, reading)

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
