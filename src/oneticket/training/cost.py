"""What a training costs: samples, dense and mask-aware floating-point operations, seconds."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from oneticket.masks import Masks


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The bill of one training.

    Operations count a multiply-add as two; a training step counts three forward passes (forward, and twice as much for
    backward). ``masked_flops`` counts only the kept weights: what a perfect sparse kernel would need.
    """

    steps: int
    samples: int
    train_flops: int
    masked_flops: int
    seconds: float


def forward_flops(model: nn.Module, example: Tensor, masks: Mapping[str, Tensor] | None = None) -> tuple[int, int]:
    """Floating-point operations of the forward pass of one sample: (dense, counting kept weights only).

    ``example`` is one input with a batch dimension of 1. Exact for linear and convolutional layers; the operations of a
    layer scale with the density of its mask, everything else counts whole.
    """
    was_training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(example)
    model.train(was_training)
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    dense = by_module.get("Global", 0)
    if not masks:
        return dense, dense
    root = type(model).__name__
    saved = 0.0
    for name, density in Masks(dict(masks)).densities().items():
        module = name.rpartition(".")[0]
        saved += by_module.get(f"{root}.{module}" if module else root, 0) * (1 - density)
    return dense, round(dense - saved)
