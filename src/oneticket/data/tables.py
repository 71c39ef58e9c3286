"""Tables of pictures and labels: Parquet files in the Hugging Face convention, and data sets of its hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from oneticket.data.cache import Decoded
from oneticket.data.decoding import Encoded, Picture, Reading, decode, extra
from oneticket.data.folders import Left, is_document, listed, regular
from oneticket.errors import InputError

PARTS = ("train", "test")
_SHARD = re.compile(r"(?P<number>\d+)-of-(?P<count>\d+)")


@dataclass(frozen=True)
class Table:
    """Rows of pictures and labels; the names of the classes, or None if the table does not have them."""

    rows: Encoded
    classes: tuple[str, ...] | None


def shards_of(home: Path, part: str) -> list[Path]:
    """The Parquet files of a split, in the order of their names.

    Raises InputError if there are none, if both ``train.parquet`` and shards are there, and if the numbers in their
    names say that one is missing or belongs to another set.
    """
    whole, shards = home / f"{part}.parquet", sorted(home.glob(f"{part}-*.parquet"))
    if whole.exists() and shards:
        found = f"both {whole.name} and {shards[0].name} are there"
        raise InputError(found, where=str(home), expected="one of them: which is the whole?")
    if not (whole.exists() or shards):
        inner = home / "data"
        hint = f"; {inner} has some" if any(inner.glob(f"{part}*.parquet")) else ""
        raise InputError(f"no {part}.parquet in {home}{hint}", expected="train.parquet and test.parquet")
    _check_numbers(home, part, shards)
    return [regular(file) for file in shards or [whole]]


def left_out_of(home: Path, used: Iterable[Path]) -> list[Left]:
    """What a folder of Parquet files has besides those that are read, without documents."""
    taken = set(used)
    return [
        Left(entry, "only train and test are read" if entry.suffix == ".parquet" else "not a table; a row may name it")
        for entry in listed(home)
        if entry not in taken and not is_document(entry)
    ]


def parquet_table(file: Path, home: Path) -> Table:
    """The rows of a Parquet file; pictures that it names by their paths lie in ``home``."""
    reader = extra("pyarrow.parquet", "data")
    try:
        schema = reader.read_schema(file)
        features = _features(schema.metadata, str(file))
        image, label, classes = _columns(features, schema.names, str(file))
        table = reader.read_table(file, columns=[image, label])
        images, labels = table.column(image).to_pylist(), table.column(label).to_pylist()
    except InputError:
        raise
    except Exception as error:  # each codec has its own; after any of them the file cannot be used
        raise InputError(f"this is not a Parquet file ({error})", where=str(file)) from None
    return _table(str(file), images, labels, classes, home)


def hub_table(datasets: Any, where: str, split: Any) -> Table:
    """The rows of a split that the ``datasets`` library has loaded."""
    image, label, classes = _columns(split.features.to_dict(), split.column_names, where)
    rows = split.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    return _table(where, list(rows[image]), list(rows[label]), classes, None)


def joined(tables: Sequence[Table], files: Sequence[Path]) -> Table:
    """The rows of several tables; InputError if they name different classes."""
    for table, file in zip(tables, files, strict=True):
        if table.classes != tables[0].classes:
            raise InputError(
                f"names other classes than {files[0].name}", where=str(file), expected="shards of one data set"
            )
    rows = [table.rows for table in tables]
    pictures = [picture for part in rows for picture in part.pictures]
    return Table(Encoded(pictures, [label for part in rows for label in part.labels]), tables[0].classes)


def decode_tables(tables: Mapping[str, Table], reading: Reading) -> tuple[Decoded, bool]:
    """Decode train and test; their labels are checked before anything is counted by them."""
    train, test = tables["train"].classes, tables["test"].classes
    if train != test:
        raise InputError("train and test name different classes", expected="the same classes in the same order")
    rows = {part: table.rows for part, table in tables.items()}
    if reading.compact:
        train, rows = _compacted(train, rows)
    elif train is None:
        train = _numbered(rows)
    _check_test_only(train, rows)
    return decode(train, rows, reading)


def _check_numbers(home: Path, part: str, shards: Sequence[Path]) -> None:
    numbered = {file: _SHARD.fullmatch(file.stem.removeprefix(f"{part}-")) for file in shards}
    counts = {match["count"]: file for file, match in numbered.items() if match}
    plain = [file for file, match in numbered.items() if not match]
    if len(counts) > 1 or (counts and plain):
        names = [file.name for file in [*counts.values(), *plain]]
        raise InputError(
            f"{names[0]} and {names[1]} are parts of different sets", where=str(home), expected="the shards of one set"
        )
    if counts:
        count = int(next(iter(counts)))
        there = {int(match["number"]) for match in numbered.values() if match}
        # Not the whole range: a name may say that there are 10^9 shards.
        strange = [number for number in there if number >= count]
        absent = next((number for number in range(len(there) + 1) if number not in there), 0)
        if strange or len(there) < count:
            found = f"shard {strange[0]}" if strange else f"{len(there)} shards; number {absent} is missing"
            raise InputError(f"the {part} split of {count} shards has {found}", where=str(home), expected="all of them")
    elif all(file.stem.removeprefix(f"{part}-").isdecimal() for file in shards):
        numbers = sorted(int(file.stem.removeprefix(f"{part}-")) for file in shards)
        gaps = [before + 1 for before, after in pairwise(numbers) if after > before + 1]
        if numbers and (gaps or numbers[0] > 1):
            absent = gaps[0] if gaps and numbers[0] <= 1 else numbers[0] - 1
            raise InputError(f"{part}-{absent}.parquet is missing", where=str(home), expected="all shards")


def _features(metadata: Mapping[bytes, bytes] | None, where: str) -> dict[str, Any]:
    """The description of the columns that the ``datasets`` library wrote; empty without one."""
    notes = (metadata or {}).get(b"huggingface")
    if not notes:
        return {}
    try:
        features = (json.loads(notes).get("info") or {}).get("features") or {}
        fine = isinstance(features, dict) and all(isinstance(feature, dict) for feature in features.values())
    except (ValueError, AttributeError, RecursionError):
        fine = False
    if not fine:
        raise InputError(
            "the Hugging Face metadata of the schema are damaged", where=where, expected="JSON with info.features"
        )
    return dict(features)


def _columns(features: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[str, str, tuple[str, ...] | None]:
    """The column of images, that of labels, and the names of the classes, or None if the features lack them."""

    def one(kind: str, usual: Iterable[str]) -> str:
        typed = [name for name in names if features.get(name, {}).get("_type") == kind]
        fitting = [name for name in usual if name in (typed or names)] or typed
        if not fitting:
            found = f"no column of type {kind}, nor one named {' or '.join(usual)}"
            raise InputError(found, where=where, expected=f"one; the columns are {', '.join(names)}")
        if names.count(fitting[0]) > 1:
            raise InputError(f"two columns have the name '{fitting[0]}'", where=where, expected="one")
        return fitting[0]

    image, label = one("Image", ("image", "img")), one("ClassLabel", ("label", "labels", "fine_label"))
    classes = features.get(label, {}).get("names")
    if classes and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise InputError("the names of the classes are not a list of texts", where=where, expected="one name a class")
    return image, label, tuple(classes) if classes else None


def _table(
    where: str, images: Sequence[Any], labels: Sequence[Any], classes: tuple[str, ...] | None, home: Path | None
) -> Table:
    inside = home.resolve() if home else None
    pictures = []
    for row, (value, label) in enumerate(zip(images, labels, strict=True)):
        place = f"{where} row {row}"
        if isinstance(label, bool) or not isinstance(label, int):
            found = "missing" if label is None else repr(label)[:60]
            raise InputError(f"the label is {found}", where=place, expected="the number of a class")
        pictures.append(Picture(place, _content(value, place, home, inside)))
    return Table(Encoded(pictures, labels), classes)


def _content(value: Any, place: str, home: Path | None, inside: Path | None) -> bytes | Path:
    """The encoded picture of a row: its bytes, or its file, which lies inside the folder of the table."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None:
        raise InputError("the image is missing", where=place)
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        kind = type(value).__name__
        raise InputError(f"the image is a {kind}", where=place, expected="the bytes of an image file, or its path")
    if home is None or inside is None:
        return regular(Path(value))
    file = home / value
    try:
        outside = not file.resolve().is_relative_to(inside)
    except (OSError, ValueError, RuntimeError):
        outside = True
    if outside:
        raise InputError(f"the image {value!r:.80} lies outside {home}", where=place, expected="a path inside")
    return regular(file)


def _numbered(rows: Mapping[str, Encoded]) -> tuple[str, ...]:
    """Class names for labels without names; InputError unless they are 0, 1, 2 … without a gap."""
    backwards = [pair for part in rows.values() for pair in zip(part.pictures, part.labels, strict=True)][::-1]
    first = {label: picture for picture, label in backwards}
    gap = next(number for number in range(len(first) + 1) if number not in first)
    if gap < len(first):
        label = min(first) if min(first) < 0 else min(label for label in first if label > gap)
        found = f"label {label}, but none is {gap}" if label >= 0 else f"label {label} is not a class"
        expected = '0, 1, 2 … without a gap, or labels = "compact" to number the labels that are there'
        raise InputError(found, where=first[label].where, expected=expected)
    return tuple(str(label) for label in range(len(first)))


def _compacted(
    names: tuple[str, ...] | None, rows: Mapping[str, Encoded]
) -> tuple[tuple[str, ...], dict[str, Encoded]]:
    """The classes of the training labels, in the order of these, and the rows with labels that count the classes."""
    present = sorted(set(rows["train"].labels))
    number = {label: place for place, label in enumerate(present)}
    for part in rows.values():
        for picture, label in zip(part.pictures, part.labels, strict=True):
            if label not in number:
                raise InputError(f"label {label} is in test, but not in train", where=picture.where)
            if names is not None and not 0 <= label < len(names):
                raise InputError(
                    f"label {label} is not a class", where=picture.where, expected=f"0 to {len(names) - 1}"
                )
    kept = tuple(str(label) if names is None else names[label] for label in present)
    return kept, {part: Encoded(r.pictures, [number[label] for label in r.labels]) for part, r in rows.items()}


def _check_test_only(classes: Sequence[str], rows: Mapping[str, Encoded]) -> None:
    trained = set(rows["train"].labels)
    for picture, label in zip(rows["test"].pictures, rows["test"].labels, strict=True):
        if trained and label not in trained and 0 <= label < len(classes):
            raise InputError(f"class '{classes[label]}' is in test, but not in train", where=picture.where)
