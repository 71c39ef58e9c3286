"""One line from a folder or a file to the two sets that a search and a test take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from oneticket.conversion import checked
from oneticket.data.cache import default_cache
from oneticket.data.folders import existing
from oneticket.data.pixels import Fit
from oneticket.data.reference import open_data, resolve
from oneticket.data.sets import AnySet, ImageSet, TableSet, TextSet
from oneticket.data.spec import DataSpec
from oneticket.errors import InputError


class Images(NamedTuple):
    """Images to train on and to test on."""

    train: ImageSet
    test: ImageSet


class Texts(NamedTuple):
    """Windows of text to train on and to test on."""

    train: TextSet
    test: TextSet


class Tables(NamedTuple):
    """Rows to train on and to test on."""

    train: TableSet
    test: TableSet


@checked
def images(
    folder: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    fit: Fit = "resize",
    test: float = 0.2,
    split: int = 0,
    cache: Path | None = None,
) -> Images:
    """The pictures of a folder: of train/CLASS/FILE and test/CLASS/FILE, or of CLASS/FILE, parted by ``test``.

    Parameters
    ----------
    folder : the folder.
    size : height and width; needed where pictures have different sizes.
    channels : 1 for grey, 3 for colour; by default grey where every picture is.
    fit : how they are brought to ``size``, ``"resize"`` or ``"pad"``.
    test : the fraction of the pictures of each class for testing, where the folder is not parted.
    split : the number of that split.
    cache : where decoded data are kept; by default the cache of the laboratory.

    Returns
    -------
    Images : train and test.

    Raises
    ------
    InputError : as for ``images = "…"`` in an experiment file.
    """
    home = existing(Path(folder).expanduser())
    is_parted = (home / "train").is_dir() or (home / "test").is_dir()
    spec = DataSpec(images=str(home.absolute()), test=None if is_parted else test, split=split)
    # Through a conversion, which refuses other numbers of channels.
    asked = msgspec.structs.replace(spec, size=size, channels=cast("None", channels), fit=fit)
    return Images(*cast("tuple[ImageSet, ImageSet]", _opened(asked, cache)))


@checked
def text(
    folder: str | Path,
    *,
    window: int = 128,
    pattern: str | Sequence[str] | None = None,
    windows: int | None = None,
    test: float = 0.1,
    split: int = 0,
    cache: Path | None = None,
) -> Texts:
    """Windows of the files of a folder, a byte a token; whole files are for testing.

    Parameters
    ----------
    folder : the folder; its sub-folders are read too.
    window : tokens of a window.
    pattern : the names of the files that are text, such as ``"*.py"``, or several; by default all.
    windows : so many training windows, of whole files in random order; by default all.
    test : the fraction of the files for testing.
    split : the number of that split.
    cache : where decoded data are kept; by default the cache of the laboratory.

    Returns
    -------
    Texts : train and test.

    Raises
    ------
    InputError : as for ``text = "…"`` in an experiment file.
    """
    names = pattern if pattern is None or isinstance(pattern, str) else tuple(pattern)
    home = str(Path(folder).expanduser().absolute())
    spec = DataSpec(text=home, window=window, pattern=names, windows=windows, test=test, split=split)
    return Texts(*cast("tuple[TextSet, TextSet]", _opened(spec, cache)))


@checked
def table(
    file: str | Path,
    *,
    label: str,
    columns: Sequence[str] | None = None,
    test: float | str | Path = 0.2,
    split: int = 0,
    cache: Path | None = None,
) -> Tables:
    """The rows of a CSV or Parquet table: numbers standardised, categories one-hot, both by the training rows.

    Parameters
    ----------
    file : the table.
    label : the column of the classes.
    columns : those of the features; by default all others.
    test : the fraction of the rows of each class for testing, or the table of the test rows.
    split : the number of that split.
    cache : where decoded data are kept; by default the cache of the laboratory.

    Returns
    -------
    Tables : train and test.

    Raises
    ------
    InputError : as for ``table = "…"`` in an experiment file.
    """
    tested = test if isinstance(test, float) else str(Path(test).expanduser().absolute())
    chosen = None if columns is None else tuple(columns)
    place = str(Path(file).expanduser().absolute())
    spec = DataSpec(table=place, label=label, columns=chosen, test=tested, split=split)
    return Tables(*cast("tuple[TableSet, TableSet]", _opened(spec, cache)))


def _opened(spec: DataSpec, cache: Path | None) -> tuple[AnySet, AnySet]:
    home = cache or default_cache()
    try:
        ref = resolve({"set": msgspec.structs.replace(spec, validation=0.0)}, "set", folder=Path(), cache=home)
    except InputError as error:
        where = (error.where or "").removeprefix("data.set").lstrip(".: ") or None
        raise InputError(error.what, where=where, expected=error.expected, nearest=error.nearest) from error.__cause__
    splits = open_data(ref, cache=home)
    return splits.train, splits.test
