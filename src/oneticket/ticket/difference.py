"""Two tickets side by side: overlap of their masks, equality of their weights, fields of their provenance."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor

from oneticket.masks import Masks
from oneticket.showing import Bar, table
from oneticket.ticket.format import Contents

_EQUAL = {True: "equal", False: "differ"}


class LayerDifference(msgspec.Struct, frozen=True):
    """One prunable tensor in both tickets.

    ``overlap`` is the intersection over union of the kept weights, None if only one ticket has the tensor or the shapes
    disagree; a density is None if that ticket lacks the tensor.
    """

    name: str
    overlap: float | None
    density: float | None
    other_density: float | None
    weights_equal: bool


class FieldDifference(msgspec.Struct, frozen=True):
    """One field that differs between the tickets."""

    field: str
    here: Any
    there: Any


class Difference(msgspec.Struct, frozen=True):
    """Where two tickets differ: a row for each prunable tensor, other tensors that differ, fields that differ."""

    layers: tuple[LayerDifference, ...]
    rest: tuple[str, ...]
    fields: tuple[FieldDifference, ...]

    @property
    def empty(self) -> bool:
        """Whether the tickets are equal to the bit."""
        same = all(layer.overlap == 1.0 and layer.weights_equal for layer in self.layers)
        return same and not self.rest and not self.fields

    def _repr_html_(self) -> str:
        def shown(value: float | None) -> float | str:
            return "" if value is None else Bar(value)

        rows = [
            (row.name, *map(shown, (row.overlap, row.density, row.other_density)), _EQUAL[row.weights_equal])
            for row in self.layers
        ]
        notes = [
            *(f"{name}: differs" for name in self.rest),
            *(f"{f.field}: {f.here!r} | {f.there!r}" for f in self.fields),
        ]
        title = "Equal tickets" if self.empty else "Where two tickets differ"
        return table(title, ("tensor", "overlap", "density", "other", "weights"), rows, notes)

    def __str__(self) -> str:
        rows = [f"{'tensor':40} {'overlap':>8} {'density':>9} {'other':>9}  weights"]
        for row in self.layers:
            numbers = f"{_number(row.overlap):>8} {_number(row.density):>9} {_number(row.other_density):>9}"
            rows.append(f"{row.name:40} {numbers}  {_EQUAL[row.weights_equal]}")
        rows += [f"{name}: differs" for name in self.rest]
        rows += [f"{f.field}: {f.here!r} | {f.there!r}" for f in self.fields]
        return "\n".join(rows)


def difference(here: Contents, there: Contents) -> Difference:
    """All differences between the contents of two tickets."""
    names = [*here.masks, *(name for name in there.masks if name not in here.masks)]
    rest = sorted({*here.rest, *there.rest})
    fields = [(f, getattr(here.provenance, f), getattr(there.provenance, f)) for f in here.provenance.__struct_fields__]
    fields.insert(0, ("head", here.head, there.head))
    return Difference(
        layers=tuple(_layer(name, here, there) for name in names),
        rest=tuple(name for name in rest if not _same(here.rest.get(name), there.rest.get(name))),
        fields=tuple(FieldDifference(f, a, b) for f, a, b in fields if a != b),
    )


def _layer(name: str, here: Contents, there: Contents) -> LayerDifference:
    a, b = ({name: c.masks[name]} if name in c.masks else {} for c in (here, there))
    comparable = bool(a and b) and a[name].shape == b[name].shape
    return LayerDifference(
        name,
        overlap=Masks(a).overlap(Masks(b)) if comparable else None,
        density=Masks(a).density if a else None,
        other_density=Masks(b).density if b else None,
        weights_equal=_same(here.weights.get(name), there.weights.get(name)),
    )


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal in type, shape and every bit: -0.0 is not 0.0, and a NaN is itself."""
    if a is None or b is None:
        return False
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
