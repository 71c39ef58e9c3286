"""What a training costs: samples, dense and mask-aware floating-point operations, seconds."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from oneticket.masks import LayerDensity, Masks
from oneticket.training.evaluation import evaluating


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

    ``example`` is one input with a batch dimension of 1. The operations of a module scale with the density of its
    masked weights taken together, everything else counts whole: exact for modules with one weight, as linear and
    convolutional layers are.
    """
    counter = FlopCounterMode(display=False)
    with evaluating(model), counter, torch.no_grad():
        model(example)
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    dense = by_module.get("Global", 0)
    if not masks:
        return dense, dense
    root = type(model).__name__
    modules: dict[str, list[LayerDensity]] = {}
    for row in Masks(dict(masks)).table():
        modules.setdefault(row.name.rpartition(".")[0], []).append(row)
    saved = 0.0
    for module, rows in modules.items():
        density = sum(row.kept for row in rows) / max(sum(row.total for row in rows), 1)
        saved += by_module.get(f"{root}.{module}" if module else root, 0) * (1 - density)
    return dense, round(dense - saved)
