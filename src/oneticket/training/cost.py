"""What a training costs: samples, dense and mask-aware floating-point operations, seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from oneticket.masks import LayerDensity, Masks
from oneticket.training.evaluation import evaluating

_COPIES = (torch.ops.aten.clone, torch.ops.aten._to_copy)  # the same weight elsewhere in memory


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

    ``example`` is one input with a batch dimension of 1. Counted are matrix products, convolutions and attention,
    wherever they stand: recurrent layers and attention are computed step by step for it. Each that a masked weight
    takes part in scales with the density of that weight, in every module that shares it; everything else counts whole.
    What other operations do (bilinear forms, kernels of one's own) counts as nothing, dense and masked alike.
    """
    table = Masks(dict(masks or {})).table()
    dense, by_weight = _operations(model, example, [row.name for row in table])
    return dense, _kept_part(dense, by_weight, table, [row.kept for row in table])


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
    table = Masks(dict(masks or {})).table()
    dense, by_weight = _operations(model, example, [row.name for row in table])
    met = work or {tuple(row.kept for row in table): samples}
    masked = sum(count * _kept_part(dense, by_weight, table, kept) for kept, count in met.items())
    return 3 * samples * dense, 3 * masked


def _operations(model: nn.Module, example: Tensor, names: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Operations of one forward pass: all, and by name those that a weight, or a copy of it, takes part in."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    homes = [(name, parameters[name].detach()) for name in names if name in parameters]
    by_weight = dict.fromkeys(names, 0)

    def owner(arguments: Sequence[Any]) -> str | None:
        # By memory, since layers take their weights transposed, in pieces, or without asking the module that owns them.
        places = [argument.data_ptr() for argument in arguments if isinstance(argument, Tensor)]
        for name, home in homes:
            if any(home.data_ptr() <= place < home.data_ptr() + home.nbytes for place in places):
                return name
        return None

    def counted(formula: Callable[..., int]) -> Callable[..., int]:
        def count(*arguments: Any, out_val: Any = None, **options: Any) -> int:
            operations = formula(*arguments, out_val=out_val, **options)
            name = owner(arguments)
            if name is not None:
                by_weight[name] += operations
            return operations

        return _raw(count)

    def copied(*arguments: Any, out_val: Any = None, **_: Any) -> int:
        name = owner(arguments)
        if name is not None:
            homes.append((name, out_val))  # held, so that nothing else comes to lie there
        return 0

    formulas = {operation: counted(formula) for operation, formula in flop_registry.items()}
    formulas |= dict.fromkeys(_COPIES, _raw(copied))
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with evaluating(model), _step_by_step(), counter, torch.no_grad():
        model(example)
    return counter.get_total_flops(), by_weight


def _raw(formula: Callable[..., int]) -> Callable[..., int]:
    """``formula``, marked as one that is given tensors and not their shapes."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


@contextmanager
def _step_by_step() -> Iterator[None]:
    """Inside, no kernel computes a whole recurrent layer or attention at once: there would be nothing to count."""
    recurrent: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    before = [backend.enabled for backend in recurrent]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        for backend in recurrent:
            backend.enabled = False
        torch.backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for backend, enabled in zip(recurrent, before, strict=True):
            backend.enabled = enabled
        torch.backends.mha.set_fastpath_enabled(fast)


def _kept_part(dense: int, by_weight: Mapping[str, int], table: Sequence[LayerDensity], kept: Sequence[int]) -> int:
    """Operations of one forward pass with so many ``kept`` weights of the masked tensors, which ``table`` names."""
    saved = 0.0
    for row, count in zip(table, kept, strict=True):
        saved += by_weight[row.name] * (1 - count / max(row.total, 1))
    return round(dense - saved)
