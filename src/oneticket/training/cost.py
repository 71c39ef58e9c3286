"""What a training costs: samples, dense and mask-aware floating-point operations, seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from oneticket.masks import LayerDensity, Masks
from oneticket.training.evaluation import evaluating

_ROOT = ""  # the name of the network itself among its modules


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
    by_module = _operations(model, example)
    table = Masks(dict(masks or {})).table()
    return by_module[_ROOT], _kept_part(by_module, table, [row.kept for row in table])


def training_flops(
    model: nn.Module,
    example: Tensor,
    samples: int,
    masks: Mapping[str, Tensor] | None = None,
    work: Mapping[tuple[int, ...], int] | None = None,
) -> tuple[int, int]:
    """Floating-point operations of a training with ``samples`` samples: (dense, counting kept weights only).

    Three forward passes for each sample. ``work``, as :class:`oneticket.training.Training` has it, says how many of
    the samples met which numbers of kept weights of the tensors of ``masks``; without it, all met those of ``masks``.

    Counted is what training with the masks of each step takes. What methods compute to choose other masks is not: the
    dense gradients that RigL looks at in one of many steps, and the gates of L0, whose closed weights count as kept
    until they are cut.
    """
    by_module = _operations(model, example)
    table = Masks(dict(masks or {})).table()
    met = work or {tuple(row.kept for row in table): samples}
    masked = sum(count * _kept_part(by_module, table, kept) for kept, count in met.items())
    return 3 * samples * by_module[_ROOT], 3 * masked


def _operations(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Operations of one forward pass by name of the module, those of its parts included; the network itself is ""."""
    counter = FlopCounterMode(display=False)
    with evaluating(model), counter, torch.no_grad():
        model(example)
    counted = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    root = type(model).__name__
    inner = {name.removeprefix(f"{root}."): count for name, count in counted.items() if name.startswith(f"{root}.")}
    return {**inner, _ROOT: counted.get("Global", 0)}


def _kept_part(by_module: Mapping[str, int], table: Sequence[LayerDensity], kept: Sequence[int]) -> int:
    """Operations of one forward pass with so many ``kept`` weights of the masked tensors, which ``table`` names."""
    modules: dict[str, list[tuple[int, int]]] = {}
    for row, count in zip(table, kept, strict=True):
        modules.setdefault(row.name.rpartition(".")[0], []).append((count, row.total))
    saved = 0.0
    for module, pairs in modules.items():
        density = sum(count for count, _ in pairs) / max(sum(total for _, total in pairs), 1)
        saved += by_module.get(module, 0) * (1 - density)
    return round(by_module[_ROOT] - saved)
