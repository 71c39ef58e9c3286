"""Replaces layers with few kept weights, during training, by layers that compute only with these.

Where the kernels in C can be compiled, it is measured which layers become sparse. Without a compiler, PyTorch's CSR
products are used, where an estimate says that they pay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import prod
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from oneticket.kernels.sparse import as_planes, building
from oneticket.kernels.sparse.building import Compute
from oneticket.kernels.sparse.layout import from_planes
from oneticket.masks import Masks
from oneticket.training.compact.choice import fastest, gain, key_of, known, settle
from oneticket.training.compact.layers import Room, SparseConv2d, SparseLinear
from oneticket.training.compact.model import CompactModel, Slice
from oneticket.training.compact.planes import PlanesLayer, between, is_able
from oneticket.training.compact.verification import masked_outputs, probe_like, same_outputs
from oneticket.training.recipe import Precision

Layer = nn.Conv2d | nn.Linear


class Sight(NamedTuple):
    """The size of a layer's input images, () for linear layers, the memory format and the size of its outputs.

    ``takes`` is the shape of its inputs for a batch of two.
    """

    area: tuple[int, ...] = ()
    layout: torch.memory_format = torch.contiguous_format
    gives: tuple[int, ...] = ()
    takes: tuple[int, ...] = ()


# Nanoseconds on one core of a Zen 4, forward and backward: for a multiplication in a dense kernel, and its other work
# per weight (casts, layouts); for a multiplication in a sparse kernel; for moving one entry of a layer's inputs and
# outputs, once and for each position of its kernel. Only their ratios matter. They are constants, not measured at run
# time, so that a training gives the same bits every time.
_DENSE, _WEIGHT = {"float32": 0.057, "bf16": 0.024}, 8.0
_SPARSE_CONV, _MOVED, _MOVED_EACH = 0.36, 5.5, 0.9
_SPARSE_LINEAR, _MOVED_LINEAR, _CALLS = 0.31, 3.0, 120_000.0

WORTH = 0.7
"""The fraction of a dense layer's time below which a sparse layer pays."""


def sparsify(
    compact: CompactModel, example: Tensor, precision: Precision = "float32", compute: Compute = "measured"
) -> CompactModel:
    """``compact`` with sparse layers where those are faster.

    Candidates are linear layers and convolutions, on the CPU, of exactly these types, which share their weight with no
    other layer and have neither hooks nor buffers. Training differs from masked training only by rounding: a masked
    weight has neither a gradient nor optimiser memory. Nothing is replaced if the network's outputs would change.
    ``example`` is a batch of inputs of the size used in training. ``compute`` ``"sparse"`` replaces all candidates,
    ``"dense"`` none.
    """
    if compact.masks is None or example.device.type != "cpu" or compute == "dense":
        return compact
    if building.available():
        return _with_kernels(compact, example, precision, compute)
    return _with_csr(compact, example, precision)


# -- the kernels in C ------------------------------------------------------------------------------------------------
LIMITS: dict[Precision, tuple[float, ...]] = {"float32": (0.3, 1.0), "bf16": (0.12, 1.0)}
"""Densities up to which layers are sparse in the networks that are measured beside the dense one."""

SMALL = 3e7
"""Multiplications of a dense forward pass below which nothing is measured, and nothing is sparse."""


def _with_kernels(compact: CompactModel, example: Tensor, precision: Precision, compute: Compute) -> CompactModel:
    masks = compact.masks or Masks({})
    with _watched(compact.model, masks, kernels=True) as sights:
        before = masked_outputs(compact.model, masks, probe_like(example))
    innermost = not _draws_numbers(compact.model, probe_like(example))
    if not sights or (compute == "measured" and _work(masks, sights, len(example)) < SMALL):
        return compact
    if compute == "sparse":
        return _equal(compact, tuple(sights), sights, before, example, innermost=innermost) or compact
    layout = next(iter(sights.values())).layout
    key = key_of(compact.model, masks, example, precision, layout)
    choice = known(key)
    if choice is None:
        sets = [*_below(masks, sights, LIMITS[precision]), _faster(compact, sights, len(example), precision)]
        others = _alternatives(compact, sights, before, example, sets, innermost=innermost)
        networks: dict[tuple[str, ...], CompactModel] = {(): compact, **others}
        if not others:
            return compact
        choice = settle(fastest(key, {names: found.model for names, found in networks.items()}, example, precision))
        if choice.names in networks:
            return networks[choice.names]
    if not choice.names:
        return compact
    return _equal(compact, choice.names, sights, before, example, innermost=innermost) or compact


def alternatives(
    compact: CompactModel, example: Tensor, limits: Sequence[float] = LIMITS["float32"]
) -> dict[tuple[str, ...], CompactModel]:
    """``compact`` for prediction with sparse layers, those of at most each of the densities ``limits``, by their names.

    Networks whose outputs differ are left out.
    """
    masks = compact.masks or Masks({})
    with _watched(compact.model, masks, kernels=True) as sights:
        before = masked_outputs(compact.model, masks, probe_like(example))
    return _alternatives(compact, sights, before, example, _below(masks, sights, limits), innermost=True)


def _alternatives(
    compact: CompactModel, sights: Mapping[str, Sight], before: Tensor, example: Tensor,
    sets: Sequence[tuple[str, ...]], *, innermost: bool,
) -> dict[tuple[str, ...], CompactModel]:  # fmt: skip
    """Networks in which the layers of one of ``sets`` are sparse, without those whose outputs differ."""
    networks = {}
    for names in dict.fromkeys(sets):
        found = _equal(compact, names, sights, before, example, innermost=innermost) if names else None
        if found is not None:
            networks[names] = found
    return networks


def _below(masks: Masks, sights: Mapping[str, Sight], limits: Sequence[float]) -> list[tuple[str, ...]]:
    """The layers of at most each density."""
    return [tuple(name for name in sights if _density(masks[f"{name}.weight"]) <= limit) for limit in limits]


def _faster(compact: CompactModel, sights: Mapping[str, Sight], batch: int, precision: Precision) -> tuple[str, ...]:
    """The layers that are faster with their kept weights alone, each by itself and in its own layout."""
    masks, names = compact.masks or Masks({}), []
    for name, sight in sights.items():
        layer = copy.deepcopy(cast("Layer", compact.model.get_submodule(name))).train()
        sparse = PlanesLayer(layer, masks[f"{name}.weight"], None)
        inputs = torch.zeros(sight.takes[0] * batch // 2, *sight.takes[1:], dtype=layer.weight.dtype)
        images = inputs if inputs.dim() != 4 else inputs.contiguous(memory_format=sight.layout)
        planes = inputs if inputs.dim() != 4 else from_planes(as_planes(inputs))
        if gain((layer, sparse), (images, planes), precision) > 1:
            names.append(name)
    return tuple(names)


def _equal(
    compact: CompactModel, names: tuple[str, ...], sights: Mapping[str, Sight], before: Tensor, example: Tensor, *,
    innermost: bool,
) -> CompactModel | None:  # fmt: skip
    """``compact`` with sparse layers ``names``, images innermost if they can be; None if its outputs differ."""
    layouts = {name: sights[name].layout for name in names}
    for between_layers in (True, False) if innermost else (False,):
        result = _replaced(compact, layouts, kernels=True, innermost=between_layers)
        with suppress(Exception):  # the user's code may raise anything when a weight has another shape or stride
            if same_outputs(before, masked_outputs(result.model, result.masks, probe_like(example))):
                return result
    return None


def _draws_numbers(model: nn.Module, inputs: Tensor) -> bool:
    """Whether a forward pass in training draws random numbers, whose order may be that of memory."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        copy.deepcopy(model).train()(inputs)
        return not torch.equal(before, torch.get_rng_state())


def _density(mask: Tensor) -> float:
    return int(mask.sum()) / max(1, mask.numel())


def _work(masks: Masks, sights: Mapping[str, Sight], batch: int) -> float:
    return sum(batch * masks[f"{name}.weight"].numel() * prod(sight.gives) for name, sight in sights.items())


# -- PyTorch's CSR products ------------------------------------------------------------------------------------------
def _with_csr(compact: CompactModel, example: Tensor, precision: Precision) -> CompactModel:
    model, masks = compact.model, compact.masks
    able = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if masks is None or not able:
        return compact
    probe = probe_like(example)
    with _watched(model, masks, kernels=False) as sights:
        before = masked_outputs(model, masks, probe)
    chosen = {
        name: sight.layout
        for name, sight in sights.items()
        if _pays(model.get_submodule(name), masks[f"{name}.weight"], len(example), sight.area, precision)
    }
    if not chosen:
        return compact
    result = _replaced(compact, chosen)
    try:
        after = masked_outputs(result.model, result.masks, probe)
    except Exception:  # the user's code may raise anything when a weight has another shape
        return compact
    return result if same_outputs(before, after) else compact


def _candidates(model: nn.Module, masks: Masks, *, kernels: bool) -> Iterator[tuple[str, Layer]]:
    owners = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    for name, module in model.named_modules():
        if f"{name}.weight" not in masks or type(module) not in (nn.Conv2d, nn.Linear):
            continue
        weight = module.weight
        more = any(getattr(module, kind) for kind in vars(module) if kind.endswith(("_hooks", "_buffers", "_modules")))
        if more or not weight.requires_grad or owners.count(id(weight)) > 1 or weight.device.type != "cpu":
            continue
        if not (is_able(module) if kernels else isinstance(module, nn.Linear) or _keeps_size(module)):
            continue
        yield name, module


def _keeps_size(layer: nn.Conv2d) -> bool:
    plain = (layer.groups, layer.stride, layer.dilation, layer.padding_mode) == (1, (1, 1), (1, 1), "zeros")
    odd = all(side % 2 for side in layer.kernel_size)
    return plain and odd and layer.padding in ("same", tuple(side // 2 for side in layer.kernel_size))


@contextmanager
def _watched(model: nn.Module, masks: Masks, *, kernels: bool) -> Iterator[dict[str, Sight]]:
    """A context that records the input size and the output layout of each candidate, by name."""
    sights: dict[str, Sight] = {}
    handles = []
    for name, module in _candidates(model, masks, kernels=kernels):

        def look(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor, *, name: str = name) -> None:
            sights[name] = Sight(takes=tuple(inputs[0].shape))
            if isinstance(layer, nn.Conv2d):
                # By strides: if a dimension is 1 both layouts apply, and later operations use the strides, too.
                last = outputs.stride() == torch.empty_like(outputs, memory_format=torch.channels_last).stride()
                layout = torch.channels_last if last else torch.contiguous_format
                sights[name] = Sight(
                    tuple(inputs[0].shape[2:]), layout, tuple(outputs.shape[2:]), tuple(inputs[0].shape)
                )

        handles.append(module.register_forward_hook(look))
    try:
        yield sights
    finally:
        for handle in handles:
            handle.remove()


def _pays(layer: nn.Module, mask: Tensor, batch: int, area: tuple[int, ...], precision: Precision) -> bool:
    kept, ends = int(mask.sum()), mask.shape[0] + mask.shape[1]
    dense = mask.numel() * batch * prod(area) * _DENSE[precision]
    if isinstance(layer, nn.Conv2d):
        dense += mask.numel() * _WEIGHT
        (height, width), (down, right) = area, (side // 2 for side in layer.kernel_size)
        line = batch * (width + right)
        lines = sum(max(0, height - abs(shift)) for shift in range(-down, down + 1)) / (2 * down + 1)
        each = _MOVED_EACH * prod(layer.kernel_size)
        sparse = line * (lines * (kept * _SPARSE_CONV + ends * each) + height * ends * _MOVED)
    else:
        sparse = batch * (kept * _SPARSE_LINEAR + ends * _MOVED_LINEAR) + _CALLS
    return sparse < WORTH * dense


def _replaced(
    compact: CompactModel, layouts: Mapping[str, torch.memory_format], *, kernels: bool = False, innermost: bool = False
) -> CompactModel:
    """``compact`` with sparse layers; ``innermost`` leaves images in the layout of the kernels between them."""
    model, room, slices = copy.deepcopy(compact.model), Room(), dict(compact.slices)
    masks = dict(compact.masks or {})
    for name, layout in layouts.items():
        layer, key = model.get_submodule(name), f"{name}.weight"
        mask = masks.pop(key).cpu()
        sparse: PlanesLayer | SparseConv2d | SparseLinear
        if kernels:
            sparse = PlanesLayer(cast("Layer", layer), mask, None if innermost else layout)
        elif isinstance(layer, nn.Conv2d):
            sparse = SparseConv2d(layer, mask, room, layout)
        else:
            sparse = SparseLinear(cast("nn.Linear", layer), mask)
        for other, parameter in layer.named_parameters(recurse=False):
            if other not in ("weight", "bias"):  # weights that were detached when its channels were removed
                sparse.register_parameter(other, parameter)
        model.set_submodule(name, sparse)
        part, inside = slices.get(key), sparse.positions
        if part is None:
            nothing = torch.zeros(0, dtype=torch.int64)
            slices[key] = Slice(mask.shape, inside, nothing, f"{name}.removed_weight", None)
        else:
            slices[key] = Slice(part.shape, part.inside.flatten()[inside], part.detached, part.detached_name, None)
    if innermost:
        between(model)
    left = Masks(masks) if masks else None
    return CompactModel(model, left, slices, saved=compact.saved, removed=compact.removed, sparse=tuple(layouts))
