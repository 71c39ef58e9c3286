"""Tables of features: CSV and Parquet files whose columns become numbers, and one column the classes."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from oneticket.data.cache import Decoded, Part
from oneticket.data.decoding import extra
from oneticket.data.folders import in_order, regular
from oneticket.data.parting import for_testing
from oneticket.errors import InputError, nearest

TEST = 0.2
"""The fraction of the rows of each class for testing, unless said otherwise."""

MOST_CATEGORIES = 256
"""Maximum of different texts in a column of categories: a column of more names its rows rather than describes them."""

MISSING = frozenset(("", "na", "n/a", "nan", "null", "?"))
"""Texts, in small letters, that stand for a missing value."""

Column: TypeAlias = list[str | float | None]
Columns: TypeAlias = dict[str, Column]
"""Column → its values, numbers or texts; None where a value is missing."""


def existing_file(file: Path) -> Path:
    """``file``; InputError with the nearest name if it does not exist."""
    if not file.exists():
        beside = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise InputError(f"the file {file} does not exist", nearest=nearest(file.name, beside))
    return file


def read_columns(file: Path) -> Columns:
    """The columns of a CSV file with a header, or of a Parquet file.

    Values of a CSV file are numbers where all of the column are. Raises InputError for a file that cannot be read, a
    column name that is missing or used twice, lines of another length, and values that are neither numbers nor texts.
    """
    regular(file)
    kind = file.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise InputError(f"'{file.name}' is not a table", where=str(file), expected="FILE.csv or FILE.parquet")
    columns = _csv(file) if kind == ".csv" else _parquet(file)
    if not columns or not len(next(iter(columns.values()))):
        raise InputError("has no rows", where=str(file), expected="a line of names and lines of values")
    return columns


def parted(columns: Columns, label: str, test: float, split: int) -> tuple[Columns, Columns]:
    """The rows for training and those for testing, ⌊test · n⌉ of the n rows of each class; equal rows are together."""
    labels, rows = classes_in(columns, label), list(zip(*columns.values(), strict=True))
    for_test = [False] * len(rows)
    for name in dict.fromkeys(labels):
        places = [place for place, own in enumerate(labels) if own == name]
        try:
            sides = for_testing([repr(rows[place]) for place in places], test, split)
        except InputError:
            found = f"class '{name}' has {len(places)} rows that cannot be parted into train and test"
            raise InputError(found, where="test", expected="two different rows of each class") from None
        for place, side in zip(places, sides, strict=True):
            for_test[place] = side
    for_train = [not side for side in for_test]
    kept = [{n: list(compress(column, which)) for n, column in columns.items()} for which in (for_train, for_test)]
    return kept[0], kept[1]


def numbers_of(train: Columns, test: Columns, label: str, only: Sequence[str] | None) -> Decoded:
    """The table in numbers: standardised columns, categories one-hot, labels by the names of the training classes.

    Means, deviations and categories are those of the training rows. A category that only test has is a row of zeros;
    missing categories are a category of their own. Columns follow the order of the training table.

    Parameters
    ----------
    train, test : dict
        The columns of each split.
    label : str
        The column of the classes.
    only : Sequence of str or None
        The columns of the features; None for all but the label.

    Raises
    ------
    InputError
        For a column that a split lacks, a missing number or label, texts among the numbers of a column, more than
        256 categories, a class that only test has, and one class alone.
    """
    names = _features(train, test, label, only)
    labels = {part: classes_in(columns, label) for part, columns in (("train", train), ("test", test))}
    classes = sorted(set(labels["train"]), key=in_order)
    if len(classes) < 2:
        raise InputError(f"all labels are '{classes[0]}'", where="label", expected="two or more classes")
    strangers = set(labels["test"]) - set(classes)
    if strangers:
        raise InputError(f"class '{min(strangers)}' is in test, but not in train", where="label")
    told: list[str] = []
    blocks = [_block(name, train[name], test[name], told) for name in names]
    pairs = [block for block in blocks if block[0].shape[1]]
    if not pairs:
        raise InputError("no column varies", where="columns", expected="at least one")
    number = {name: place for place, name in enumerate(classes)}
    train_part, test_part = (
        Part(
            torch.from_numpy(np.concatenate([block[side] for block in pairs], axis=1).astype(np.float32)),
            torch.tensor([number[name] for name in labels[part]]),
        )
        for side, part in enumerate(("train", "test"))
    )
    return Decoded(tuple(classes), train_part, test_part, "table", tuple(told))


def classes_in(columns: Columns, label: str) -> list[str]:
    """The class of each row; InputError for a label that is missing, or a number with a fraction."""
    if label not in columns:
        raise InputError(f"no column '{label}'", where="label", nearest=nearest(label, columns))
    found = []
    for row, value in enumerate(columns[label], start=1):
        if value is None:
            raise InputError("the label is missing", where=f"row {row}", expected="the name of a class in every row")
        if isinstance(value, float) and value != int(value):
            expected = "classes; numbers as targets are for ot.train(…, loss='regression')"
            raise InputError(f"the label is {value:g}", where=f"row {row}", expected=expected)
        found.append(str(int(value)) if isinstance(value, float) else value)
    return found


def _csv(file: Path) -> Columns:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:  # spreadsheets write a byte order mark first
            reader = csv.reader(opened, strict=True)
            header, lines = next(reader, []), [(reader.line_num, line) for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", where=str(file), expected="a table in CSV, UTF-8") from None
    _check_header(file, header)
    for number, line in lines:
        if len(line) != len(header):
            found = f"{len(line)} values, where the header has {len(header)} names"
            raise InputError(found, where=f"{file}, line {number}")
    columns = zip(*(line for _, line in lines), strict=True) if lines else ([] for _ in header)
    return {name: _converted(values) for name, values in zip(header, columns, strict=True)}


def _check_header(file: Path, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1 or not name.strip()]
    if repeated:
        what = f"two columns are called '{repeated[0]}'" if repeated[0].strip() else "a column has no name"
        raise InputError(what, where=str(file), expected="a different name for each column")


def _converted(values: Sequence[str]) -> Column:
    texts = [None if value.strip().lower() in MISSING else value.strip() for value in values]
    try:
        return [None if text is None else float(text) for text in texts]
    except ValueError:
        return list(texts)


def _parquet(file: Path) -> Columns:
    reader = extra("pyarrow.parquet", "data")
    try:
        table = reader.read_table(file)
        columns = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    except Exception as error:  # each codec has its own; after any of them the file cannot be used
        raise InputError(f"this is not a Parquet file ({error})", where=str(file)) from None
    _check_header(file, table.column_names)
    return {name: [_value(v, f"{file}, {name}, row {n}") for n, v in enumerate(c, 1)] for name, c in columns.items()}


def _value(value: Any, where: str) -> str | float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        return None if value.strip().lower() in MISSING else value.strip()
    raise InputError(f"the value is a {type(value).__name__}", where=where, expected="a number, a text or nothing")


def _features(train: Columns, test: Columns, label: str, only: Sequence[str] | None) -> list[str]:
    """The names of the columns of features, in the order of the training table."""
    for name in only or ():
        if name not in train:
            raise InputError(f"no column '{name}'", where="columns", nearest=nearest(name, train))
        if name == label:
            raise InputError(f"'{name}' is the label", where="columns", expected="other columns")
    names = [name for name in train if name != label and (only is None or name in only)]
    for name in [*names, label]:
        if name not in test:
            found = f"the test table has no column '{name}'"
            raise InputError(found, where="test", expected="the columns of the training table")
    if not names:
        raise InputError("no column besides the label", where="columns", expected="at least one")
    return names


def _block(name: str, train: Column, test: Column, told: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of one column in train and test, float64 (N, width); of width 0 where it does not vary."""
    if any(isinstance(value, str) for value in train):
        return _one_hot(name, train, test, told)
    if all(value is None for value in train):
        told.append(f"column {name} left out: it is empty in train")
        return np.empty((len(train), 0)), np.empty((len(test), 0))
    here, there = (_numbers(name, part, column) for part, column in (("train", train), ("test", test)))
    mean, deviation = here.mean(), here.std()
    if deviation == 0:
        told.append(f"column {name} left out: it has one value in train")
        return np.empty((len(train), 0)), np.empty((len(test), 0))
    standardised: Callable[[np.ndarray], np.ndarray] = lambda values: ((values - mean) / deviation)[:, None]  # noqa: E731
    return standardised(here), standardised(there)


def _numbers(name: str, part: str, column: Column) -> np.ndarray:
    for row, value in enumerate(column, start=1):
        where = f"column {name}, {part}, row {row}"
        if value is None:
            expected = "a number in every row, or columns = […] without this one"
            raise InputError("the number is missing", where=where, expected=expected)
        if isinstance(value, str):
            raise InputError(f"'{value:.60}' is not a number", where=where, expected="numbers, as in the other rows")
        if not math.isfinite(value):
            raise InputError(f"{value} is not finite", where=where, expected="numbers without infinity")
    return np.array(column, np.float64)


def _one_hot(name: str, train: Column, test: Column, told: list[str]) -> tuple[np.ndarray, np.ndarray]:
    texts = {part: list(_texts(column)) for part, column in (("train", train), ("test", test))}
    known = sorted(set(texts["train"]), key=in_order)
    if len(known) > MOST_CATEGORIES:
        found = f"column {name} has {len(known)} different texts"
        expected = f"at most {MOST_CATEGORIES}, or columns = […] without this one"
        raise InputError(found, where="columns", expected=expected)
    missing = sum(value is None for column in (train, test) for value in column)
    if missing:
        told.append(f"column {name}: {missing} missing values are a category of their own")
    if len(known) == 1:
        told.append(f"column {name} left out: it has one value in train")
        return np.empty((len(train), 0)), np.empty((len(test), 0))
    strangers = [text for text in texts["test"] if text not in known]
    if strangers:
        told.append(f"column {name}: {len(strangers)} test rows have a category that train lacks, such as "
                    f"'{strangers[0]}'; they are zero in all of its columns")  # fmt: skip
    place: Mapping[str, int] = {text: number for number, text in enumerate(known)}
    rows = np.vstack([np.eye(len(known)), np.zeros(len(known))])
    here, there = (rows[[place.get(text, len(known)) for text in texts[part]]] for part in ("train", "test"))
    return here, there


def _texts(column: Column) -> Iterator[str]:
    for value in column:
        yield "" if value is None else f"{value:g}" if isinstance(value, float) else value
