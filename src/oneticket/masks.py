"""Masks: which weights of a network are kept, as one value with an algebra."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from oneticket.conversion import checked
from oneticket.errors import InputError
from oneticket.showing import layers
from oneticket.words import Within


class LayerDensity(NamedTuple):
    """One row of the per-layer table: kept and all weights of one tensor, and their ratio."""

    name: str
    kept: int
    total: int
    density: float


class Masks(Mapping[str, Tensor]):
    """Parameter name → boolean tensor of that parameter's shape; True where the weight is kept.

    A value: no operation changes it, each returns new masks.

    >>> masks = Masks({"fc": torch.tensor([[True, False], [True, True]])})
    >>> masks.density, masks.kept, masks.total
    (0.75, 3, 4)
    >>> (~masks).kept
    1
    """

    __slots__ = ("_tensors",)

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.dtype != torch.bool:
                raise InputError(f"mask '{name}' has dtype {tensor.dtype}", expected="torch.bool")
        self._tensors = dict(tensors)

    @classmethod
    def full(cls, like: Mapping[str, Tensor]) -> Masks:
        """Masks that keep every entry of the given tensors."""
        return cls({name: torch.ones(t.shape, dtype=torch.bool) for name, t in like.items()})

    @classmethod
    def of(cls, model: nn.Module) -> Masks:
        """Masks of a network that was pruned elsewhere: True where a weight is not exactly zero.

        Of the parameters of two dimensions or more that hold a zero, tables of embeddings left out; and of those under
        ``torch.nn.utils.prune``, whose mask is taken as it is, by the name without ``_orig``.

        Raises
        ------
        InputError
            For a network without any.

        >>> layer = nn.Linear(2, 2)
        >>> layer.weight.data[0, 0] = 0
        >>> Masks.of(layer).kept
        3
        """
        found: dict[str, Tensor] = {}
        for place, module in model.named_modules():
            buffers = dict(module.named_buffers(recurse=False))
            for own, weight in module.named_parameters(recurse=False):
                name = f"{place}.{own}".lstrip(".")
                mask = buffers.get(f"{own.removesuffix('_orig')}_mask") if own.endswith("_orig") else None
                if mask is not None:
                    found[name.removesuffix("_orig")] = mask != 0
                elif weight.dim() > 1 and not isinstance(module, nn.Embedding | nn.EmbeddingBag):
                    kept = weight.detach() != 0
                    found |= {} if bool(kept.all()) else {name: kept}
        if not found:
            what = f"{type(model).__name__} has no weight that is exactly zero"
            raise InputError(what, where="Masks.of", expected="a pruned network")
        return cls({name: mask.cpu() for name, mask in found.items()})

    # -- the mapping ---------------------------------------------------------------------------------------------
    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self.kept} of {self.total} kept, density {self.density:.4g})"

    def _repr_html_(self) -> str:
        title = f"Masks: {self.kept:,} of {self.total:,} weights kept, density {self.density:.4g}"
        return layers(title, [(row.name, row.kept, row.total) for row in self.table()])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self.keys() == other.keys() and all(torch.equal(self[n], other[n]) for n in self)

    __hash__ = None  # type: ignore[assignment]

    # -- counting ------------------------------------------------------------------------------------------------
    @property
    def kept(self) -> int:
        """Number of kept weights, Σ|m_l|."""
        return sum(int(t.sum()) for t in self.values())

    @property
    def total(self) -> int:
        """Number of weights, ΣN_l."""
        return sum(t.numel() for t in self.values())

    @property
    def density(self) -> float:
        """ρ = Σ|m_l| / ΣN_l; 1.0 for masks over nothing."""
        return self.kept / self.total if self.total else 1.0

    def table(self) -> list[LayerDensity]:
        """Kept, total and density ρ_l = |m_l| / N_l of each tensor."""
        rows = ((name, int(t.sum()), t.numel()) for name, t in self.items())
        return [LayerDensity(name, kept, total, kept / total if total else 1.0) for name, kept, total in rows]

    def densities(self) -> dict[str, float]:
        """ρ_l of each tensor."""
        return {row.name: row.density for row in self.table()}

    def collapsed(self) -> list[str]:
        """Names of the tensors without a kept weight (layer collapse)."""
        return [row.name for row in self.table() if row.total and not row.kept]

    # -- algebra -------------------------------------------------------------------------------------------------
    def _matched(self, other: Masks) -> Iterable[tuple[str, Tensor, Tensor]]:
        for name in [*self, *(n for n in other if n not in self)]:
            if name not in self or name not in other:
                raise InputError(f"tensor '{name}' is in only one of the two masks")
            if self[name].shape != other[name].shape:
                shapes = f"{tuple(self[name].shape)} and {tuple(other[name].shape)}"
                raise InputError(f"masks of '{name}' have the shapes {shapes}", expected="equal shapes")
            yield name, self[name], other[name]

    def __and__(self, other: Masks) -> Masks:
        return Masks({name: a & b for name, a, b in self._matched(other)})

    def __or__(self, other: Masks) -> Masks:
        return Masks({name: a | b for name, a, b in self._matched(other)})

    def __sub__(self, other: Masks) -> Masks:
        return Masks({name: a & ~b for name, a, b in self._matched(other)})

    def __invert__(self) -> Masks:
        return Masks({name: ~t for name, t in self.items()})

    def __le__(self, other: Masks) -> bool:
        """Whether every weight kept here is kept there too."""
        return not any(bool((a & ~b).any()) for _, a, b in self._matched(other))

    def overlap(self, other: Masks) -> float:
        """Intersection over union of the kept weights; by chance ρ/(2−ρ) for two random masks of density ρ."""
        union = (self | other).kept
        return (self & other).kept / union if union else 1.0

    # -- permutation ---------------------------------------------------------------------------------------------
    @checked
    def permuted(self, generator: torch.Generator, *, within: Within) -> Masks:
        """Masks with the kept positions shuffled uniformly.

        Parameters
        ----------
        generator : torch.Generator
            A CPU generator; it is advanced.
        within : {"layer", "network"}
            "layer" keeps every layer's density ρ_l, "network" only the overall one.

        Raises
        ------
        InputError
            For another word.
        """
        if within == "layer":
            return Masks({name: _shuffled(t.flatten(), generator).view(t.shape) for name, t in self.items()})
        if not self:
            return Masks({})
        flat = _shuffled(torch.cat([t.flatten() for t in self.values()]), generator)
        pieces = torch.split(flat, [t.numel() for t in self.values()])
        return Masks({name: piece.view(t.shape) for (name, t), piece in zip(self.items(), pieces, strict=True)})

    # -- packing -------------------------------------------------------------------------------------------------
    def packed(self) -> dict[str, Tensor]:
        """Eight entries to a byte, row-major, the first in the highest bit (numpy.packbits): uint8 vectors."""
        return {n: torch.from_numpy(np.packbits(t.contiguous().view(-1).cpu().numpy())) for n, t in self.items()}

    @classmethod
    def unpacked(cls, packed: Mapping[str, Tensor], shapes: Mapping[str, Iterable[int]]) -> Masks:
        """The inverse of :meth:`packed`, given the shape of each tensor."""
        masks = {}
        for name, bits in packed.items():
            shape = tuple(shapes[name])
            count = int(np.prod(shape, dtype=np.int64))
            if bits.dtype != torch.uint8 or bits.numel() != (count + 7) // 8:
                raise InputError(f"packed mask '{name}' has {bits.numel()} bytes", expected=f"{(count + 7) // 8}")
            flat = np.unpackbits(bits.numpy(), count=count).astype(bool)
            masks[name] = torch.from_numpy(flat).view(shape)
        return cls(masks)

    def __getstate__(self) -> dict[str, Tensor]:
        return self._tensors

    def __setstate__(self, state: dict[str, Tensor]) -> None:
        self._tensors = state


def _shuffled(flat: Tensor, generator: torch.Generator) -> Tensor:
    return flat[torch.randperm(flat.numel(), generator=generator)]
