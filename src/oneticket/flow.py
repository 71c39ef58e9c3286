"""Flow: follows channels through the operations of a network while it computes.

A *place* is one index of one dimension of one parameter or buffer. Each intermediate tensor carries a label: the places
from which its entries along dimension 1 come. Ties say which places are the same channel. An operation without a rule
here makes no ties, and the channels of its inputs must keep their places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from oneticket.calling import call, results_of

Places = NDArray[np.int64]

Key = tuple[int, int]
"""The ``id`` of a parameter or buffer and a dimension of it; a negative number stands for padding channels."""


class Flow(TorchFunctionMode):
    """The channels of ``model`` as seen by running it: the ``places`` of each tensor's dimensions, and of these

    * ``ties``: pairs of equally many places; each pair is the same channel;
    * ``held``: may not change places;
    * ``counted``: their number changes what the network computes;
    * ``loud``: the channel may differ from zero although no weight leads into it;
    * ``reading`` keys: the dimension is the input of a layer.

    ``blind`` is True if something was computed unseen (such as a compiled part): then none of this can be relied on.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names: dict[int, list[str]] = {}  # a shared tensor has several names
        for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
            for name, tensor in named:
                self.names.setdefault(id(tensor), []).append(name)
        self.model = model
        self.blind = False
        self.places: dict[Key, Places] = {}
        self.total = 0
        self.ties: list[tuple[Places, Places]] = []
        self.held: list[Places] = []
        self.counted: list[Places] = []
        self.loud: list[Places] = []
        self.reading: set[Key] = set()
        self.opaque: set[int] = set()  # tensors that an operation without a rule has used
        self._paddings = count(-1, -1)
        self._seen: dict[int, tuple[Tensor, Places | None]] = {}  # keeps the tensors alive, so that ids are not reused

    def run(self, inputs: Tensor) -> None:
        """Run the model once more, in its current mode."""
        self._seen = {id(inputs): (inputs, None)}
        with self:
            outputs = results_of(call(self.model, inputs))
        self.blind |= not outputs
        for output in outputs:
            self.blind |= not self._known(output)
            self._hold(output)
        self._seen = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _DESCRIPTIONS:
            return result
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.blind |= not all(map(self._known, operands))
        rule = _RULES.get(func) if isinstance(result, Tensor) and "out" not in kwargs else None
        label = rule(self, result, *args, **kwargs) if rule else None
        if label is None:
            for operand in operands:
                self._hold(operand)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._seen[id(leaf)] = (leaf, label)
        return result

    def _known(self, tensor: Tensor) -> bool:
        return id(tensor) in self.names or id(tensor) in self._seen

    def _hold(self, tensor: Any) -> None:
        if id(tensor) in self.names:
            self.opaque.add(id(tensor))
        if (label := self.label(tensor)) is not None:
            self.held.append(label)

    def label(self, tensor: Any) -> Places | None:
        """The places from which the entries of ``tensor`` along dimension 1 come; None if unknown."""
        return self._seen.get(id(tensor), (None, None))[1]

    def named(self, *tensors: Tensor | None) -> bool:
        """Whether all tensors, apart from None, are parameters or buffers of the model."""
        return all(tensor is None or id(tensor) in self.names for tensor in tensors)

    def of(self, tensor: Tensor, dim: int) -> Places:
        """The places of a dimension of a parameter or buffer."""
        return self._at((id(tensor), dim), tensor.shape[dim])

    def padding(self, channels: int) -> Places:
        """New places for channels that are zero."""
        return self._at((next(self._paddings), 0), channels)

    def _at(self, key: Key, size: int) -> Places:
        if key not in self.places:
            self.places[key] = np.arange(self.total, self.total + size)
            self.total += size
        return self.places[key]


# -- rules: the label of the result, or None for an unknown form of the operation --------------------------------------
_Rule = Callable[..., Places | None]


def _linear(flow: Flow, _: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Places | None:
    return _weighted(flow, input, weight, bias, 1)


def _convolution(
    flow: Flow, _: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any, **named: Any
) -> Places | None:
    # stride, padding, dilation, groups
    return _weighted(flow, input, weight, bias, geometry[3] if len(geometry) == 4 else named.get("groups", 1))


def _weighted(flow: Flow, input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Places | None:
    if not flow.named(weight, bias) or input.dim() != weight.dim():
        return None
    label, rows = flow.label(input), flow.of(weight, 0)
    if bias is not None:
        flow.ties.append((flow.of(bias, 0), rows))
        flow.loud.append(rows)
    if groups == 1:
        columns = flow.of(weight, 1)
        flow.reading.add((id(weight), 1))
        if label is None:
            flow.held.append(columns)
        else:
            flow.ties.append((columns, label))
        return rows
    if label is None or not groups == len(rows) == len(label):
        return None
    flow.ties.append((rows, label))  # depthwise: each input channel becomes the same output channel
    return label


def _batch_norm(flow: Flow, _: Tensor, input: Tensor, *operands: Any, **named: Any) -> Places | None:
    return _normalised(flow, input, [*operands, *named.values()])


def _group_norm(flow: Flow, _: Tensor, input: Tensor, num_groups: int, *operands: Any, **named: Any) -> Places | None:
    label = flow.label(input)
    if label is None or num_groups not in (1, len(label)):
        return None  # a channel must not leave its group
    if num_groups == 1:
        flow.counted.append(label)
    return _normalised(flow, input, [*operands, *named.values()])


def _normalised(flow: Flow, input: Tensor, operands: Sequence[Any]) -> Places | None:
    label = flow.label(input)
    by_channel = [operand for operand in operands if isinstance(operand, Tensor)]
    if label is None or not flow.named(*by_channel):
        return None
    flow.ties += [(flow.of(tensor, 0), label) for tensor in by_channel]
    flow.loud.append(label)
    return label


def _same(flow: Flow, _: Tensor, input: Tensor, *__: Any, **___: Any) -> Places | None:
    return flow.label(input)


def _sounding(flow: Flow, _: Tensor, input: Tensor, *__: Any, **___: Any) -> Places | None:
    label = flow.label(input)
    flow.loud += [] if label is None else [label]
    return label


def _dropout(flow: Flow, _: Tensor, input: Tensor, *__: Any, **___: Any) -> Places | None:
    label = flow.label(input)
    flow.counted += [] if label is None else [label]  # the random numbers depend on the number of channels
    return label


def _pooling(dims: int) -> _Rule:
    return lambda flow, _, input, *__, **___: flow.label(input) if input.dim() == dims + 2 else None


def _flattened(flow: Flow, result: Tensor, input: Tensor, *_: Any, **__: Any) -> Places | None:
    label = flow.label(input)
    if label is None or result.shape[:1] != input.shape[:1]:
        return None
    if result.shape[:2] == input.shape[:2]:
        return label
    return np.repeat(label, result.shape[1] // len(label)) if result.dim() == 2 else None


def _viewed(flow: Flow, result: Tensor, input: Tensor, *sizes: Any, **named: Any) -> Places | None:
    label, flat = flow.label(input), tree_leaves(sizes)
    if label is not None and (named or len(flat) < 2 or flat[1] != -1):
        flow.counted.append(label)  # the network's code may contain the number
    return _flattened(flow, result, input)


def _reduced(flow: Flow, _: Tensor, input: Tensor, dim: Any = None, *__: Any, **___: Any) -> Places | None:
    dims = [d % input.dim() for d in tree_leaves(dim) if d is not None]
    return flow.label(input) if dims and min(dims) >= 2 else None


def _sliced(flow: Flow, _: Tensor, input: Tensor, index: Any) -> Places | None:
    plain = isinstance(index, tuple) and len(index) >= 2 and all(isinstance(i, slice | int) for i in index)
    return flow.label(input) if plain and index[0] == index[1] == slice(None) else None


def _added(flow: Flow, result: Tensor, input: Any, other: Any, **_: Any) -> Places | None:
    plain = isinstance(other, int | float)
    return _sounding(flow, result, input) if plain else _multiplied(flow, result, input, other)


def _multiplied(flow: Flow, _: Tensor, input: Any, other: Any, **__: Any) -> Places | None:
    left, right = flow.label(input), flow.label(other)
    if isinstance(other, int | float):
        return left
    if left is None or right is None or len(left) != len(right) or input.dim() != other.dim():
        return None
    flow.ties.append((left, right))
    return left


def _concatenated(flow: Flow, result: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Places | None:
    labels = [label for tensor in tensors if (label := flow.label(tensor)) is not None]
    return np.concatenate(labels) if len(labels) == len(tensors) and dim % result.dim() == 1 else None


def _padded(
    flow: Flow, _: Tensor, input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Places | None:
    label, dims = flow.label(input), len(pad) // 2
    channels = dims == input.dim() - 1  # the list ends with the channel dimension
    if label is None or min(pad) < 0 or dims >= input.dim() or (channels and mode != "constant"):
        return None
    if channels:
        label = np.concatenate([flow.padding(pad[-2]), label, flow.padding(pad[-1])])
        flow.counted.append(label)  # the network's code may contain the number of padding channels
    if value:
        flow.loud.append(label)
    return label


def _table(rules: Mapping[str, _Rule]) -> dict[Any, _Rule]:
    """The rule for each function and method of torch with one of the names."""
    named = [(name, rule) for names, rule in rules.items() for name in names.split()]
    owners = (torch, F, Tensor)
    return {getattr(owner, name): rule for name, rule in named for owner in owners if hasattr(owner, name)}


_RULES = _table(
    {
        "linear": _linear,
        "conv1d conv2d conv3d": _convolution,
        "batch_norm": _batch_norm,
        "group_norm": _group_norm,
        "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu celu gelu silu mish tanh hardswish softsign": _same,
        "contiguous clone to float double": _same,
        "sigmoid hardsigmoid softplus exp hardtanh": _sounding,
        "dropout": _dropout,
        "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d": _pooling(1),
        "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d": _pooling(2),
        "max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d": _pooling(3),
        "flatten squeeze": _flattened,
        "view reshape": _viewed,
        "mean sum amax amin": _reduced,
        "__getitem__": _sliced,
        "add add_ sub sub_ __rsub__": _added,
        "mul mul_": _multiplied,
        "cat concat": _concatenated,
        "pad": _padded,
    }
)

_DESCRIPTIONS = {
    *(getattr(Tensor, name) for name in ("size", "dim", "numel", "stride", "is_contiguous", "__len__")),
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad", "is_cuda")),
}
"""Operations that depend on a tensor's form, not on its values."""
