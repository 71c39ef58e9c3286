"""The ceiling of this machine, measured: matrix products and copies of memory; the floor of a step that follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import prod

import msgspec
import torch
from torch import Tensor, nn

from oneticket.bench.workload import Workload
from oneticket.masks import Masks
from oneticket.training import forward_flops

TRIES = 5
_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices: larger ones would not be faster
_COPIED = {"cpu": 2**28, "cuda": 2**32}  # bytes: larger than any cache
_SHRUNK = 8  # by how much both are smaller in a rehearsal


class Ceiling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best of this machine: floating-point operations per second in matrix products, bytes per second in a copy.

    A multiply-add counts as two operations; bytes are those read plus those written.
    """

    float32: float
    bf16: float
    copy: float


class Floor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The least that a training step needs: operations and bytes, and milliseconds of each at the ceiling."""

    flops: int
    bytes: int
    compute_ms: float
    memory_ms: float


def measure_ceiling(device: str = "cpu", *, small: bool = False) -> Ceiling:
    """The best of a few tries each; ``small`` is for a rehearsal, whose figures are too low."""
    side = _SIDE[device] // (_SHRUNK if small else 1)
    count = _COPIED[device] // (_SHRUNK**2 if small else 1)
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Ceiling(
        float32=_product_rate(torch.float32, side, device),
        bf16=_product_rate(torch.bfloat16, side, device),
        copy=2 * count / _best(lambda: target.copy_(source), device),
    )


def floor(workload: Workload, ceiling: Ceiling, masks: Masks | None = None) -> Floor:
    """The floor of one training step of ``workload``.

    Operations are those of three forward passes with the kept weights. Bytes are those that must move even if all
    operations between two convolutions or linear layers were fused into them: the input and output of each, once
    forward and twice backward, in the precision of the recipe; and for each weight its value read twice, its gradient
    and its momentum written and read, its value read and written by the optimiser, in float32. With masks only the
    bytes of kept weights count: how many activations are left depends on what can be removed.
    """
    network = workload.network()
    example = torch.zeros(1, *workload.shape)
    flops = 3 * forward_flops(network, example, masks)[1] * workload.batch_size
    width = 2 if workload.precision == "bf16" else 4
    weights = sum(p.numel() for p in network.parameters())
    if masks is None:
        moved = 3 * width * workload.batch_size * _activations(network, example)
    else:
        moved, weights = 0, weights - masks.total + masks.kept
    moved += weights * 4 * 8
    rate = ceiling.bf16 if workload.precision == "bf16" else ceiling.float32
    return Floor(flops=flops, bytes=moved, compute_ms=1e3 * flops / rate, memory_ms=1e3 * moved / ceiling.copy)


def _activations(network: nn.Module, example: Tensor) -> int:
    """Numbers that go into and come out of the convolutions and linear layers for one image."""
    counted: list[int] = []

    def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counted.extend((prod(inputs[0].shape), prod(output.shape)))

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    network.eval()
    with torch.no_grad():
        network(example)
    for handle in handles:
        handle.remove()
    return sum(counted)


def _product_rate(dtype: torch.dtype, side: int, device: str) -> float:
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    result = torch.empty_like(left)
    return 2 * side**3 / _best(lambda: torch.mm(left, right, out=result), device)


def _best(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of a few tries; a first one does not count."""
    times = []
    for _ in range(TRIES + 1):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])
