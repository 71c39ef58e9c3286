"""Data sources: one function for each origin that a ``[data.NAME]`` table may name, found by its key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oneticket.data.cache import Decoded, Part
from oneticket.data.decoding import Encoded, Picture, Reading, decode, extra
from oneticket.data.folders import Left, classes_of, existing, notes, pictures_of
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


SOURCES: Registry[Callable[[str, Path], Source], NoFacts] = Registry("data source", NoFacts)
source = SOURCES.register


@source("builtin")
def builtin(name: str, folder: Path) -> Source:
    """Images that come with scikit-learn: ``digits``, 1,797 grey images of 8×8."""
    if name != "digits":
        raise unknown("built-in data set", name, ["digits"])
    return Source((), lambda reading: (digits(), False))


@source("path")
def parquet(place: str, folder: Path) -> Source:
    """A folder of train.parquet and test.parquet (or train-*.parquet …) in the Hugging Face convention."""
    home = existing(folder / Path(place).expanduser())
    shards = {part: shards_of(home, part) for part in PARTS}
    files = [file for part in shards.values() for file in part]

    def read(reading: Reading) -> tuple[Decoded, bool]:
        tables = {part: joined([parquet_table(file, home) for file in own], own) for part, own in shards.items()}
        return decode_tables(tables, reading)

    return Source(files, read, notes(home, left_out_of(home, files)))


@source("images")
def image_folder(place: str, folder: Path) -> Source:
    """A folder of images: train/CLASS/FILE and test/CLASS/FILE."""
    home = existing(folder / Path(place).expanduser())
    left: list[Left] = []
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


@source("hub")
def hub(name: str, folder: Path) -> Source:
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
