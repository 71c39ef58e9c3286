"""Derivations: how one data set is made from another, each a small value that can be written as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import torch
from torch import Tensor

from oneticket.data.pixels import Fit, check_padding, fitted, recoloured
from oneticket.data.sets import Kind
from oneticket.errors import InputError
from oneticket.randomness import Streams

NOUNS = {"images": "images", "text": "windows", "table": "rows"}
"""The samples of each kind of data, for messages."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The rows that are taken of a stored split (int64 [N], ascending), and their labels (int64 [N]).

    The label of a window of text is the number of its file.
    """

    rows: Tensor
    labels: Tensor

    def take(self, positions: Tensor) -> Selection:
        """The samples at ``positions``, in their original order."""
        positions = positions.sort().values
        return Selection(self.rows[positions], self.labels[positions])

    def equals(self, other: Selection) -> bool:
        """Whether the same rows are taken, with the same labels."""
        return torch.equal(self.rows, other.rows) and torch.equal(self.labels, other.labels)


@dataclass(frozen=True, eq=False)
class View:
    """A data set between two derivations: its part of the base, its classes, the shape of a sample, and its kind.

    The shape of an image is (C, H, W), that of a window of text (T,), that of a row of a table (F,).
    """

    classes: tuple[str, ...]
    train: Selection
    test: Selection
    shape: tuple[int, ...]
    kind: Kind = "images"

    def equals(self, other: View) -> bool:
        """Whether both are the same data."""
        return (
            (self.classes, self.shape) == (other.classes, other.shape)
            and self.train.equals(other.train)
            and self.test.equals(other.test)
        )


class Derivation(msgspec.Struct, frozen=True, tag_field="step", forbid_unknown_fields=True):
    """One derivation; raises InputError, with its key as the place, if the data does not allow it."""

    def apply(self, view: View) -> View:
        """``view`` after this derivation."""
        raise NotImplementedError  # abstract: a msgspec.Struct can't be an ABC besides, their metaclasses conflict

    def pixels(self, images: Tensor) -> Tensor:
        """The pixels after this derivation, uint8 [N, C, H, W]; most derivations do not change them."""
        return images


class Classes(Derivation, frozen=True, tag="classes"):
    """Only these classes, in train and test; labels are numbered in the given order."""

    keep: tuple[str, ...]

    def apply(self, view: View) -> View:
        number = torch.full((len(view.classes),), -1)
        for label, name in enumerate(self.keep):
            number[view.classes.index(name)] = label

        def kept(part: Selection) -> Selection:
            labels = number[part.labels]
            return Selection(part.rows[labels >= 0], labels[labels >= 0])

        return replace(view, classes=self.keep, train=kept(view.train), test=kept(view.test))


class Half(Derivation, frozen=True, tag="half"):
    """One of two halves of the train split: disjoint, together all of it, equal in each class (to within one image).

    Text is halved by files: at most one of them lies in both.
    """

    which: Literal["a", "b"]
    split: int

    def apply(self, view: View) -> View:
        first = 0 if self.which == "a" else 1
        if view.kind == "text":
            (drawn,) = shuffled(view, self.split, "half")
            chosen = [drawn.tensor_split([(len(drawn) + 1) // 2])[first]]
        else:
            chosen = [drawn[first::2] for drawn in shuffled(view, self.split, "half")]
        return replace(view, train=_taken(view, chosen, "half", f'half = "{self.which}"'))


class PerClass(Derivation, frozen=True, tag="per_class"):
    """This many training images of each class; a smaller number takes a subset of what a larger one takes."""

    count: int
    split: int

    def apply(self, view: View) -> View:
        chosen = []
        for name, drawn in zip(view.classes, shuffled(view, self.split, "subset"), strict=True):
            if len(drawn) < self.count:
                found = f"{self.count} {NOUNS[view.kind]} of each class are too many: class '{name}' has {len(drawn)}"
                raise InputError(found, where="per_class")
            chosen.append(drawn[: self.count])
        return replace(view, train=_taken(view, chosen, "per_class", f"per_class = {self.count}"))


class Windows(Derivation, frozen=True, tag="windows"):
    """This many training windows of text, of whole files in random order; a smaller number takes a subset."""

    count: int
    split: int

    def apply(self, view: View) -> View:
        (drawn,) = shuffled(view, self.split, "subset")
        if len(drawn) < self.count:
            raise InputError(f"{self.count} windows are too many: there are {len(drawn)}", where="windows")
        return replace(view, train=_taken(view, [drawn[: self.count]], "windows", f"windows = {self.count}"))


class Fraction(Derivation, frozen=True, tag="fraction"):
    """⌊fraction · n⌉ of the n training images of each class; a smaller fraction takes a subset of a larger one's.

    Of text, that fraction of all windows, of whole files in random order.
    """

    value: float
    split: int

    def apply(self, view: View) -> View:
        drawn = shuffled(view, self.split, "subset")
        chosen = [positions[: _share(self.value, len(positions))] for positions in drawn]
        return replace(view, train=_taken(view, chosen, "fraction", f"fraction = {self.value}"))


class ShuffledLabels(Derivation, frozen=True, tag="shuffled_labels"):
    """The training labels permuted over all training images: equally many of each class, but without meaning."""

    split: int

    def apply(self, view: View) -> View:
        generator = Streams(self.split).generator("split", "labels")
        labels = view.train.labels[torch.randperm(len(view.train.labels), generator=generator)]
        return replace(view, train=replace(view.train, labels=labels))


class Size(Derivation, frozen=True, tag="size"):
    """Images of ``side`` × ``side``, in train and test."""

    side: int
    fit: Fit

    def apply(self, view: View) -> View:
        channels, height, width = view.shape
        if self.fit == "pad":
            check_padding(height, width, self.side)
        return replace(view, shape=(channels, self.side, self.side))

    def pixels(self, images: Tensor) -> Tensor:
        return fitted(images, self.side, self.fit)


class Channels(Derivation, frozen=True, tag="channels"):
    """Images of 1 (grey) or 3 (RGB) channels, in train and test."""

    count: Literal[1, 3]

    def apply(self, view: View) -> View:
        return replace(view, shape=(self.count, *view.shape[1:]))

    def pixels(self, images: Tensor) -> Tensor:
        return recoloured(images, self.count)


AnyDerivation = Classes | Half | PerClass | Windows | Fraction | ShuffledLabels | Size | Channels


def shuffled(view: View, split: int, purpose: str) -> Iterator[Tensor]:
    """For each class, the positions of its training samples in random order, int64; of text, those of all windows.

    The windows of a file stay together, in their order; the files are in random order.
    """
    if view.kind != "text":
        yield from shuffled_by_class(view, split, purpose)
        return
    files, number = view.train.labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    rank = torch.randperm(len(files), generator=Streams(split).generator("split", purpose, "files")).argsort()
    yield rank[number].argsort(stable=True)


def shuffled_by_class(view: View, split: int, purpose: str) -> Iterator[Tensor]:
    """For each class, the positions of its training images in random order, int64.

    The order depends only on ``split``, ``purpose``, the name of the class and the number of its images: a half holds
    the same images whichever other classes the data has.
    """
    labels = view.train.labels
    counts = torch.bincount(labels, minlength=len(view.classes)).tolist()
    streams = Streams(split)
    for name, positions in zip(view.classes, torch.split(labels.argsort(stable=True), counts), strict=True):
        generator = streams.generator("split", purpose, name)
        yield positions[torch.randperm(len(positions), generator=generator)]


def held_out(view: View, split: int, fraction: float) -> tuple[Selection, Selection]:
    """The train split without its validation part, and that part: ⌊fraction · n⌉ of the n images of each class.

    Of text, that many of all windows, of whole files: at most one file lies in both.
    """
    train, validation = [], []
    for drawn in shuffled(view, split, "validation"):
        count = _share(fraction, len(drawn))
        validation.append(drawn[:count])
        train.append(drawn[count:])
    rest = _taken(view, train, "validation", f"validation = {fraction}")
    part = view.train.take(torch.cat(validation))
    if fraction and not len(part.rows):
        many = len(view.train.rows)
        of = f"{many} {NOUNS[view.kind]}" + (f" in {len(view.classes)} classes" if view.kind != "text" else "")
        found = f"validation = {fraction} of {of} leaves none"
        raise InputError(f"{found} to validate on", where="validation", expected="a larger fraction, or 0 for none")
    return rest, part


def _share(fraction: float, count: int) -> int:
    return math.floor(fraction * count + 0.5)


def _taken(view: View, chosen: Sequence[Tensor], key: str, text: str) -> Selection:
    """The chosen positions of each class; InputError if a class that had images would have none."""
    part = view.train.take(torch.cat(list(chosen)))
    if view.kind == "text":
        if not len(part.rows):
            raise InputError(f"{text} leaves no training window of {len(view.train.rows)}", where=key)
        return part
    size = len(view.classes)
    before, after = (torch.bincount(s.labels, minlength=size).tolist() for s in (view.train, part))
    for name, had, has in zip(view.classes, before, after, strict=True):
        if had and not has:
            raise InputError(
                f"{text} leaves no training {NOUNS[view.kind][:-1]} of class '{name}', which has {had}", where=key
            )
    return part
