"""Samples of one kind, which may be shared and memory-mapped: labelled images, windows of text, rows of a table."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from oneticket.errors import InputError

Kind = Literal["images", "text", "table"]
VOCABULARY = tuple(str(byte) for byte in range(256))
"""The tokens of text: the bytes of its files."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images. Sets derived from one base share its pixels and differ by ``index`` and ``labels``.

    Parameters
    ----------
    images : Tensor
        uint8 [M, C, H, W]; may be a memory map.
    labels : Tensor
        int64 [N], each from 0 to ``len(classes) - 1``.
    classes : tuple of str
        The name of each class.
    index : Tensor, optional
        int64 [N], the row of ``images`` that each sample shows; without it sample i shows row i (then N = M).

    Raises
    ------
    InputError
        When these do not fit together.

    Examples
    --------
    >>> pixels = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1)
    >>> pair = ImageSet(pixels, torch.tensor([0, 1]), ("cat", "dog"), index=torch.tensor([2, 0]))
    >>> len(pair), pair.shape, pair.gather().flatten().tolist()
    (2, (1, 1, 1), [2, 0])
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise InputError(f"images are {found}", where="images", expected="torch.uint8 of shape [N, C, H, W]")
        rows = len(self.images) if self.index is None else len(self.index)
        _check_labels(self.labels, rows, self.classes, "images")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def digest(self) -> str:
        """SHA-256 of pixels and labels: it identifies the samples, whatever the set is called."""
        content = hashlib.sha256(str(tuple(self.shape)).encode())
        for samples in torch.split(torch.arange(len(self)), 4096):
            content.update(self.gather(samples).numpy().tobytes())
        content.update(self.labels.numpy().tobytes())
        return content.hexdigest()

    def gather(self, samples: Tensor | None = None) -> Tensor:
        """The images of these samples (int64 [n]; None for all, in order), uint8 [n, C, H, W]."""
        return _gathered(self.images, self.index, samples)


@dataclass(frozen=True, eq=False)
class TextSet:
    """Windows of text, a byte a token. Sets derived from one base share its windows and differ by ``index``.

    Parameters
    ----------
    tokens : Tensor
        uint8 [M, T]; may be a memory map.
    index : Tensor, optional
        int64 [N], the row of ``tokens`` that each sample is; without it sample i is row i.

    Raises
    ------
    InputError
        For tokens of another type or shape, and for windows of one token, which has none after it.

    Examples
    --------
    >>> words = torch.tensor([list(b"ab"), list(b"cd")], dtype=torch.uint8)
    >>> text = TextSet(words, index=torch.tensor([1]))
    >>> len(text), text.shape, len(text.classes), bytes(text.gather()[0].tolist())
    (1, (2,), 256, b'cd')
    """

    tokens: Tensor
    index: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.dtype != torch.uint8 or self.tokens.dim() != 2 or self.tokens.shape[1] < 2:
            found = f"{self.tokens.dtype} of shape {tuple(self.tokens.shape)}"
            raise InputError(f"tokens are {found}", where="tokens", expected="torch.uint8 of shape [N, T], T ≥ 2")

    def __len__(self) -> int:
        return len(self.tokens) if self.index is None else len(self.index)

    @property
    def classes(self) -> tuple[str, ...]:
        """The vocabulary: the 256 bytes."""
        return VOCABULARY

    @property
    def shape(self) -> tuple[int]:
        """(T,), the tokens of a window."""
        return (self.tokens.shape[1],)

    def digest(self) -> str:
        """SHA-256 of the windows: it identifies the samples, whatever the set is called."""
        return _digest_of_rows(self, "text")

    def gather(self, samples: Tensor | None = None) -> Tensor:
        """The windows of these samples (int64 [n]; None for all, in order), uint8 [n, T]."""
        return _gathered(self.tokens, self.index, samples)


@dataclass(frozen=True, eq=False)
class TableSet:
    """Labelled rows of numbers. Sets derived from one base share its rows and differ by ``index`` and ``labels``.

    Parameters
    ----------
    features : Tensor
        float32 [M, F]; may be a memory map.
    labels : Tensor
        int64 [N], each from 0 to ``len(classes) - 1``.
    classes : tuple of str
        The name of each class.
    index : Tensor, optional
        int64 [N], the row of ``features`` that each sample is; without it sample i is row i.

    Raises
    ------
    InputError
        When these do not fit together.

    Examples
    --------
    >>> rows = TableSet(torch.eye(3), torch.tensor([0, 1, 1]), ("no", "yes"))
    >>> len(rows), rows.shape, rows.gather(torch.tensor([2])).tolist()
    (3, (3,), [[0.0, 0.0, 1.0]])
    """

    features: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor | None = None

    def __post_init__(self) -> None:
        if self.features.dtype != torch.float32 or self.features.dim() != 2:
            found = f"{self.features.dtype} of shape {tuple(self.features.shape)}"
            raise InputError(f"features are {found}", where="features", expected="torch.float32 of shape [N, F]")
        _check_labels(self.labels, len(self.features) if self.index is None else len(self.index), self.classes, "rows")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int]:
        """(F,), the numbers of a row."""
        return (self.features.shape[1],)

    def digest(self) -> str:
        """SHA-256 of rows and labels: it identifies the samples, whatever the set is called."""
        return _digest_of_rows(self, "table", self.labels)

    def gather(self, samples: Tensor | None = None) -> Tensor:
        """The rows of these samples (int64 [n]; None for all, in order), float32 [n, F]."""
        return _gathered(self.features, self.index, samples)


AnySet: TypeAlias = ImageSet | TextSet | TableSet
"""Samples of one kind."""


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set. No sample is in two of them; ``validation`` may be empty."""

    train: AnySet
    validation: AnySet
    test: AnySet


def kind_of(samples: AnySet) -> Kind:
    """The kind of the samples of a set."""
    return "images" if isinstance(samples, ImageSet) else "text" if isinstance(samples, TextSet) else "table"


def counted(samples: AnySet) -> int:
    """How many answers an accuracy over ``samples`` counts: a sample has one, a window of text T - 1."""
    return len(samples) * (samples.shape[0] - 1) if isinstance(samples, TextSet) else len(samples)


def _check_labels(labels: Tensor, rows: int, classes: tuple[str, ...], noun: str) -> None:
    if labels.dtype != torch.int64 or labels.dim() != 1:
        found = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise InputError(f"labels are {found}", where="labels", expected="torch.int64 of shape [N]")
    if rows != len(labels):
        raise InputError(f"{rows} {noun}, but {len(labels)} labels", where="labels", expected="as many")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        found = f"labels go from {int(labels.min())} to {int(labels.max())}"
        raise InputError(found, where="labels", expected=f"0 to {len(classes) - 1}, one for each class")


def _gathered(inputs: Tensor, index: Tensor | None, samples: Tensor | None) -> Tensor:
    rows = samples if index is None else index if samples is None else index[samples]
    return inputs if rows is None else inputs.index_select(0, rows)


def _digest_of_rows(samples: AnySet, kind: str, labels: Tensor | None = None) -> str:
    content = hashlib.sha256(str((kind, *samples.shape)).encode())
    for part in torch.split(torch.arange(len(samples)), 4096):
        content.update(samples.gather(part).numpy().tobytes())
    if labels is not None:
        content.update(labels.numpy().tobytes())
    return content.hexdigest()
