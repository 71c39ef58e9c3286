"""Compact training: a masked network is trained without its dead channels and its masked weights, where that is faster.

:func:`compacted` does it; the training differs from that of the whole network only by rounding. :func:`compact` makes
such a network for prediction.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import nn

from oneticket.data import BatchSource
from oneticket.errors import InputError
from oneticket.kernels.sparse import building
from oneticket.kernels.sparse.building import Compute
from oneticket.masks import Masks
from oneticket.training.compact.channels import shrink
from oneticket.training.compact.model import CompactModel
from oneticket.training.compact.prediction import CompactNetwork, compact
from oneticket.training.compact.sparse import sparsify
from oneticket.training.compact.verification import independent_copy, trains_alike, unnoticed
from oneticket.training.recipe import Precision

__all__ = ["CompactModel", "CompactNetwork", "compact", "compacted"]


def compacted(
    model: nn.Module,
    masks: Masks,
    batches: BatchSource,
    precision: Precision,
    layout: torch.memory_format,
    compute: Compute = "measured",
) -> CompactModel:
    """The network to train in place of ``model``; ``model`` itself if no smaller network is faster and equal.

    Parameters
    ----------
    model : the full network, which does not change.
    masks : parameter name → boolean mask of its shape.
    batches : the training data; shapes come from the first batch.
    precision : of the forward pass.
    layout : the memory format for training.
    compute : which layers compute with kept weights only.

    Raises
    ------
    InputError : sparse layers are demanded, and there are no kernels for them.
    """
    if compute == "sparse" and (reason := building.why_not()) is not None:
        raise InputError(f"compute = 'sparse': {reason}", where="runtime", expected="'measured' or 'dense'")
    # A network that can't be copied or tried is trained as it is.
    with suppress(Exception), unnoticed():
        example, _ = next(iter(batches.ordered()))
        if example.dim() == 4:
            example = example.contiguous(memory_format=layout)
        copied = independent_copy(model)
        without_channels = shrink(copied, masks, example)
        without_channels.model.to(memory_format=layout)  # type: ignore[call-overload]
        found = sparsify(without_channels, example, precision, compute)
        whole = CompactModel(copied, masks)
        if found.model is not copied and trains_alike(whole, found, example, precision):
            found.fill_from(model)
            return found
    return CompactModel(model, masks)
