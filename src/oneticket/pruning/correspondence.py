"""Correspondence of two networks: channels in another order, residual blocks repeated or dropped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from oneticket.errors import InputError

Matching: TypeAlias = Mapping[str, Sequence[tuple[int, Tensor]]]
"""Parameter name → pairs of a dimension and a permutation p of its indices: entry i is taken from entry p[i]."""

Shapes: TypeAlias = Mapping[str, Sequence[int]]
"""Parameter name → shape."""

Blocks: TypeAlias = Literal["append", "interleave"]
"""The order of repeated residual blocks: the last ones once more behind the stage, or each beside its original."""

_BLOCK = re.compile(r"(?P<stage>(?:.*\.)?(?:stages\.\d+|blocks))\.(?P<block>\d+)\.(?P<rest>.+)")


def reindexed(tensors: Mapping[str, Tensor], matching: Matching) -> dict[str, Tensor]:
    """``tensors`` with the entries along the matched dimensions in the order that ``matching`` gives.

    Tensors that ``matching`` does not name are unchanged, and names without a tensor are skipped: one matching serves
    masks and whole states. Raises InputError for a dimension that a tensor lacks, and for an order that is not a
    permutation of the dimension's indices.

    >>> reindexed({"fc": torch.tensor([[1, 2, 3]])}, {"fc": [(1, torch.tensor([2, 0, 1]))]})
    {'fc': tensor([[3, 1, 2]])}
    """
    return {name: _reindexed(name, tensor, matching.get(name, ())) for name, tensor in tensors.items()}


def _reindexed(name: str, tensor: Tensor, orders: Sequence[tuple[int, Tensor]]) -> Tensor:
    for dim, order in orders:
        if not 0 <= dim < tensor.dim():
            raise InputError(
                f"there is no dimension {dim} in '{name}' of the shape {tuple(tensor.shape)}",
                where="matching",
                expected=f"0 to {tensor.dim() - 1}" if tensor.dim() else "no dimension at all",
            )
        size = tensor.shape[dim]
        if not torch.equal(order.sort().values, torch.arange(size, device=order.device)):
            raise InputError(
                f"the order is not a permutation of dimension {dim} of '{name}'",
                where="matching",
                expected=f"each of the {size} indices once",
            )
        tensor = tensor.index_select(dim, order.to(tensor.device))
    return tensor


def stretched(tensors: Mapping[str, Tensor], shapes: Shapes, blocks: Blocks = "append") -> dict[str, Tensor]:
    """Tensors of a residual network, adapted to a network of another depth in its family (Chen et al. 2021).

    Blocks are named ``stages.STAGE.BLOCK.…``, those of a transformer, which has one stage, ``blocks.BLOCK.…``; masks,
    weights and normalisation buffers are treated alike. The first block of a stage, which changes the size or sees the
    input, is never repeated and never dropped. Everything outside the stages is copied unchanged.

    With ``append``, a stage that is longer in the second network is extended by copies of its last blocks in their
    order, starting over when they are used up, so that the stage ends with the same block: three blocks become five as
    0, 1, 2, 1, 2, and four as 0, 1, 2, 2. A stage that is shorter drops its last blocks.

    With ``interleave``, copies stand beside their originals: block b ≥ 1 of a stage that has R blocks after its first,
    and r in the first network, is a copy of block 1 + ⌊(b − 1) r / R⌋. Three blocks become five as 0, 1, 1, 2, 2, and
    five become three as 0, 1, 3.

    Parameters
    ----------
    tensors : name → tensor of the first network.
    shapes : name → shape in the second network; the result has exactly these names.
    blocks : the order of the blocks.

    Returns
    -------
    Name → tensor of the second network.

    Raises
    ------
    InputError : a name without a counterpart in the first network, a stage that has only its first block but must grow,
        or another shape (a network of another width).
    """
    here, there = _depths(shapes), _depths(tensors)
    carried = {}
    for name, shape in shapes.items():
        giver = _giver(name, here, there, blocks)
        if giver not in tensors:
            raise InputError(
                f"'{name}' has no counterpart",
                where="elastic",
                expected="networks of one family with equally many stages",
            )
        if tuple(tensors[giver].shape) != tuple(shape):
            raise InputError(
                f"'{giver}' has the shape {tuple(tensors[giver].shape)}, '{name}' the shape {tuple(shape)}",
                where="elastic",
                expected="networks that differ in depth only",
            )
        carried[name] = tensors[giver].clone()
    return carried


def _depths(names: Mapping[str, object]) -> dict[str, int]:
    """Stage → number of its blocks."""
    depths: dict[str, int] = {}
    for found in filter(None, map(_BLOCK.fullmatch, names)):
        depths[found["stage"]] = max(depths.get(found["stage"], 0), int(found["block"]) + 1)
    return depths


def _giver(name: str, here: Mapping[str, int], there: Mapping[str, int], blocks: Blocks) -> str:
    """The name of the original of ``name`` in a network whose stages have ``there`` blocks."""
    found = _BLOCK.fullmatch(name)
    if found is None or found["block"] == "0":
        return name
    stage, number = found["stage"], int(found["block"])
    repeated = there.get(stage, 0) - 1
    if number <= repeated and blocks == "append":
        return name
    if repeated < 1:
        raise InputError(
            f"'{stage}' has no block to repeat for '{name}'",
            where="elastic",
            expected="a block after the first of each stage that grows",
        )
    if blocks == "append":
        # Counted back from the stage's end, so that the last block is a copy of the last original.
        block = 1 + (number - here[stage]) % repeated
    else:
        block = 1 + (number - 1) * repeated // (here[stage] - 1)
    return f"{stage}.{block}.{found['rest']}"
