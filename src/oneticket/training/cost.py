"""The cost of a training: samples, dense and mask-aware floating-point operations, seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from oneticket.calling import Inputs, call
from oneticket.masks import LayerDensity, Masks
from oneticket.training.evaluation import evaluating

_COPIES = (torch.ops.aten.clone, torch.ops.aten._to_copy)  # the same weight elsewhere in memory


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of one training.

    A multiply-add counts as two operations, and a training step as three forward passes (one for forward, two for
    backward). ``masked_flops`` counts only the kept weights: the operations of a perfect sparse kernel.
    """

    steps: int
    samples: int
    train_flops: int
    masked_flops: int
    seconds: float


def forward_flops(model: nn.Module, example: Tensor, masks: Mapping[str, Tensor] | None = None) -> tuple[int, int]:
    """Floating-point operations of the forward pass of one sample: (dense, counting kept weights only).

    ``example`` is one input with a batch dimension of 1. Matrix products, convolutions and attention are counted,
    wherever they occur; recurrent layers and attention are computed step by step for this. An operation with a masked
    weight scales with the density of that weight, in every module that shares it; all others count in full. Other kinds
    of operations (bilinear forms, custom kernels) count as zero, dense and masked alike.
    """
    table = Masks(dict(masks or {})).table()
    dense, by_weight = _operations(model, example, [row.name for row in table])
    return dense, _kept_part(dense, by_weight, table, [row.kept for row in table])


def training_flops(
    model: nn.Module,
    example: Inputs,
    samples: int,
    masks: Mapping[str, Tensor] | None = None,
    work: Mapping[tuple[int, ...], int] | None = None,
) -> tuple[int, int]:
    """Floating-point operations of a training with ``samples`` samples: (dense, counting kept weights only).

    Each sample counts three forward passes. ``work``, as in :class:`oneticket.training.Training`, gives the number of
    samples for each tuple of numbers of kept weights of the tensors of ``masks``; without it, ``masks`` applies to all
    samples.

    Only training with the masks of each step is counted, not the computations by which methods choose other masks: the
    dense gradients that RigL needs in one of many steps, and the gates of L0, whose closed weights count as kept until
    they are cut.
    """
    table = Masks(dict(masks or {})).table()
    dense, by_weight = _operations(model, example, [row.name for row in table])
    met = work or {tuple(row.kept for row in table): samples}
    masked = sum(count * _kept_part(dense, by_weight, table, kept) for kept, count in met.items())
    return 3 * samples * dense, 3 * masked


def _operations(model: nn.Module, example: Inputs, names: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Operations of one forward pass: all, and by name those that use a weight or a copy of it."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    homes = [(name, parameters[name].detach()) for name in names if name in parameters]
    by_weight = dict.fromkeys(names, 0)

    def owner(arguments: Sequence[Any]) -> str | None:
        # By memory, since layers use their weights transposed, in pieces, or without calling the module that owns them.
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
            homes.append((name, out_val))  # kept alive, so that its memory is not reused
        return 0

    formulas = {operation: counted(formula) for operation, formula in flop_registry.items()}
    formulas |= dict.fromkeys(_COPIES, _raw(copied))
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with evaluating(model), _step_by_step(), counter, torch.no_grad():
        call(model, example)
    return counter.get_total_flops(), by_weight


def _raw(formula: Callable[..., int]) -> Callable[..., int]:
    """``formula``, marked to get tensors instead of their shapes."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


@contextmanager
def _step_by_step() -> Iterator[None]:
    """A context without fused kernels for whole recurrent layers or attention, whose operations can't be counted."""
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
    """Operations of one forward pass with ``kept`` weights in the masked tensors, which ``table`` names."""
    saved = 0.0
    for row, count in zip(table, kept, strict=True):
        saved += by_weight[row.name] * (1 - count / max(row.total, 1))
    return round(dense - saved)
