"""The ``[data.NAME]`` tables of an experiment file: where data come from, and how data sets are derived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from oneticket.data.derivations import (
    AnyDerivation,
    Channels,
    Classes,
    Fraction,
    Half,
    PerClass,
    ShuffledLabels,
    Size,
    Windows,
)
from oneticket.data.pixels import Fit
from oneticket.data.sets import Kind
from oneticket.errors import InputError, nearest, unknown

ORIGINS = ("path", "hub", "builtin", "images", "text", "table", "from")
LARGEST_SIDE = 4096
LARGEST_WINDOW = 65536

_OF_ORIGIN: dict[str, tuple[str, ...]] = {
    "window": ("text",), "pattern": ("text",), "label": ("table",), "columns": ("table",),
    "test": ("images", "text", "table"),
}  # fmt: skip
_OF_KIND: dict[str, tuple[Kind, ...]] = {
    "classes": ("images", "table"), "per_class": ("images", "table"), "labels": ("images", "table"),
    "windows": ("text",), "size": ("images",), "channels": ("images",),
}  # fmt: skip
_KINDS: dict[Kind, str] = {"images": "pictures", "text": "text", "table": "a table"}


class DataSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data set as the user describes it: exactly one origin, and derivations.

    Origin
        ``path``: a folder with train.parquet and test.parquet in the Hugging Face convention. ``hub``: an id of the
        Hugging Face hub. ``builtin``: ``"digits"``. ``images``: a folder of train/CLASS/FILE and test/CLASS/FILE, or
        with ``test`` of CLASS/FILE. ``text``: a folder of files, whose bytes are the tokens. ``table``: a CSV or
        Parquet file with a ``label`` column. ``from``: the name of another data set (``from_`` in Python); the
        derivations here follow those of that one.
    About an origin
        ``window``: tokens of a window of text, 128 by default. ``pattern``: the names of the files that are text, such
        as ``"*.py"``. ``label``: the column of the classes; ``columns``: those of the features, by default all others.
        ``test``: the fraction for testing, of files (0.1 by default for text), of the rows of each class (0.2 for a
        table), or of the pictures of each class; or the table of the test split.
    Train and test
        ``classes``: names or numbers, renumbered in this order. ``size``: height and width, reached by ``fit``.
        ``channels``: 1 or 3.
    Train only
        ``half``, ``per_class`` or ``fraction`` (equal in each class), ``labels = "shuffled"``; of text ``windows``, a
        number of them.
    Labels
        ``labels = "compact"``, with an origin other than ``from``: labels that leave gaps or begin at 1 are numbered
        anew, in their order; without it they are refused.
    Random choice
        ``split``: the number of the random split, which determines halves, subsets and validation images, and in the
        table of an origin what is for testing;
        ``validation``: the fraction of the training images of each class that is held out. Both are inherited
        through ``from``; by default they are 0 and 0.1.

    The derivations act in the order classes, half, per_class, windows or fraction, labels, size, channels.

    >>> spec = DataSpec(from_="fashion", classes=(0, "Dress"), half="a")
    >>> spec.origin
    ('from', 'fashion')
    """

    path: str | None = None
    hub: str | None = None
    builtin: str | None = None
    images: str | None = None
    text: str | None = None
    table: str | None = None
    from_: str | None = msgspec.field(name="from", default=None)
    classes: tuple[int | str, ...] | None = None
    half: Literal["a", "b"] | None = None
    per_class: int | None = None
    fraction: float | None = None
    labels: Literal["true", "shuffled", "compact"] = "true"
    size: int | None = None
    channels: Literal[1, 3] | None = None
    fit: Fit = "resize"
    split: int | None = None
    validation: float | None = None
    window: int | None = None
    windows: int | None = None
    pattern: str | tuple[str, ...] | None = None
    label: str | None = None
    columns: tuple[str, ...] | None = None
    test: float | str | None = None

    @property
    def origin(self) -> tuple[str, str]:
        """The key and the value of the origin; InputError unless there is exactly one."""
        values = (self.path, self.hub, self.builtin, self.images, self.text, self.table, self.from_)
        given = [(key, value) for key, value in zip(ORIGINS, values, strict=True) if value is not None]
        if len(given) != 1:
            found = f"{' and '.join(key for key, _ in given)} are all given" if given else "the origin is missing"
            raise InputError(found, expected=f"exactly one of {', '.join(ORIGINS)}")
        return given[0]

    def check(self) -> None:
        """Raise InputError, placed at the key, for a value out of its range."""
        try:
            msgspec.convert(msgspec.to_builtins(self), DataSpec)
        except msgspec.ValidationError as error:
            raise InputError(str(error)) from None
        _ = self.origin
        _check("classes", self.classes, self.classes is None or len(self.classes) > 0, "at least one class")
        _check("per_class", self.per_class, self.per_class is None or self.per_class >= 1, "at least 1")
        _check("fraction", self.fraction, self.fraction is None or 0 < self.fraction <= 1, "above 0 and at most 1")
        _check("size", self.size, self.size is None or 1 <= self.size <= LARGEST_SIDE, f"1 to {LARGEST_SIDE}")
        _check("split", self.split, self.split is None or self.split >= 0, "0 or more")
        _check("validation", self.validation, self.validation is None or 0 <= self.validation < 1, "0 to below 1")
        _check("window", self.window, self.window is None or 2 <= self.window <= LARGEST_WINDOW, "2 to 65536")
        _check("windows", self.windows, self.windows is None or self.windows >= 1, "at least 1")
        in_range = not isinstance(self.test, int | float) or 0 < self.test < 1
        _check("test", self.test, in_range, "a fraction above 0 and below 1")
        for key in ("per_class", "windows"):
            if getattr(self, key) is not None and self.fraction is not None:
                raise InputError(f"{key} and fraction are both given", where="fraction", expected="one of them")
        self._check_origin()
        if self.labels == "compact" and self.from_ is not None:
            raise InputError('"compact" is about an origin', where="labels", expected=f"it in data.{self.from_}")
        if self.fit == "pad" and self.size is None:
            raise InputError('"pad" needs a size', where="fit", expected="size = 32, or another")

    def _check_origin(self) -> None:
        """Refuse keys that belong to another origin, and a table without its label."""
        origin, _ = self.origin
        for key, origins in _OF_ORIGIN.items():
            if getattr(self, key) is not None and origin not in origins:
                told = f"it in data.{self.from_}" if self.from_ is not None else "no such key"
                raise InputError(f'"{key}" is about {" or ".join(origins)} = …', where=key, expected=told)
        if origin == "table" and self.label is None:
            raise InputError("the key is missing", where="label", expected="the name of the column of the classes")
        if isinstance(self.test, str) and origin != "table":
            raise InputError(f"'{self.test}' is text", where="test", expected="a fraction, such as 0.2")
        if origin in ("text", "table"):
            self.check_kind("text" if origin == "text" else "table")
            if self.labels == "compact":
                raise InputError('"compact" is about pictures', where="labels", expected="no such key")

    def check_kind(self, kind: Kind) -> None:
        """Raise InputError, placed at the key, for a derivation of another kind of data."""
        for key, kinds in _OF_KIND.items():
            if kind not in kinds and getattr(self, key) not in (None, "true"):
                what = " and ".join(_KINDS[able] for able in kinds)
                raise InputError(f'"{key}" is for {what}, and the data are {_KINDS[kind]}', where=key)

    def derivations(self, classes: Sequence[str], split: int) -> Iterator[AnyDerivation]:
        """The derivations of data with these classes, in the order in which they act."""
        if self.classes is not None:
            yield Classes(_named(self.classes, classes))
        if self.half is not None:
            yield Half(self.half, split)
        if self.per_class is not None:
            yield PerClass(self.per_class, split)
        if self.windows is not None:
            yield Windows(self.windows, split)
        if self.fraction is not None:
            yield Fraction(float(self.fraction), split)
        if self.labels == "shuffled":
            yield ShuffledLabels(split)
        if self.size is not None:
            yield Size(self.size, self.fit)
        if self.channels is not None:
            yield Channels(self.channels)


def chain(specs: Mapping[str, DataSpec], name: str) -> list[tuple[str, DataSpec]]:
    """``name`` and all data sets that it is derived from, the base first.

    Raises InputError for an unknown name, a cycle, and a bad value.
    """
    found: list[tuple[str, DataSpec]] = []
    wanted: str | None = name
    while wanted is not None:
        where = f"data.{found[-1][0]}.from" if found else None
        if wanted not in specs:
            raise unknown("data set", wanted, specs, where)
        names = [seen for seen, _ in found]
        if wanted in names:
            raise InputError(f"is derived from itself: {' → '.join([*names, wanted])}", where=where)
        spec = specs[wanted]
        try:
            spec.check()
        except InputError as error:
            raise error.at(f"data.{wanted}") from None
        found.append((wanted, spec))
        wanted = spec.from_
    return found[::-1]


def _check(key: str, value: object, fine: bool, expected: str) -> None:
    if not fine:
        raise InputError(f"{value} is out of range", where=key, expected=expected)


def _named(wanted: Sequence[int | str], classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the chosen classes; InputError for a class that the data lacks, and for one given twice."""
    names: list[str] = []
    for word in wanted:
        if isinstance(word, int):
            if not 0 <= word < len(classes):
                found = f"the data has no class {word}"
                raise InputError(found, where="classes", expected=f"0 to {len(classes) - 1}")
            name = classes[word]
        elif word in classes:
            name = word
        else:
            few = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
            raise InputError(
                f"the data has no class '{word}'",
                where="classes",
                expected=f"one of {few}, or a number from 0 to {len(classes) - 1}",
                nearest=nearest(word, classes),
            )
        if name in names:
            raise InputError(f"class '{name}' is given twice", where="classes", expected="each class once")
        names.append(name)
    return tuple(names)
