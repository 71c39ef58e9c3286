"""Wiring: which weights of a network reach its output, and through which layer last, seen in one forward pass.

Every operation that PyTorch computes is watched. A tensor's mark says which parameters it was computed from and which
layers it left last. An operation that joins a weight (a parameter of two dimensions or more) with data, other than
entry by entry, is that weight's layer at work: a convolution, a matrix product, a table looked up. Everything else,
such as a bias, a normalisation, pooling, ``log_softmax``, ``flatten`` or a sum, hands on the marks of what it joins.

What is computed outside PyTorch (through NumPy, in a Python number) is not seen; nor is a layer that this batch does
not need, such as an expert to which nothing is routed.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oneticket.calling import Inputs, call, described, each, results_of, tensors_of
from oneticket.errors import InputError
from oneticket.randomness import seeded

_HANDING_ON = frozenset(
    {"cat", "stack", "copy_", "index_put", "index_put_", "_index_put_impl_", "scatter", "scatter_", "slice_scatter"}
    | {"select_scatter", "where", "native_layer_norm", "_fused_rms_norm"}
)
"""Operations besides the entrywise ones in which a parameter of two dimensions is not the weight of a layer."""


@dataclass(frozen=True)
class Wiring:
    """What one pass of a batch told of a network; layers and parameters by name, in the network's order.

    ``last`` are the layers whose output is the network's output; ``reaching`` the parameters that the output depends
    on; ``working`` those that were the weight of a layer; ``outputs`` the numbers that each sample gives, None where
    the output is not one tensor of two dimensions.
    """

    last: tuple[str, ...]
    reaching: frozenset[str]
    working: frozenset[str]
    outputs: int | None


class _Mark(NamedTuple):
    """Of a tensor: whether it depends on the input, the layers it left last, and its parameters, as sets of bits."""

    data: bool = False
    last: int = 0
    parameters: int = 0


def watch(model: nn.Module, inputs: Inputs) -> Wiring:
    """Run ``model`` once on ``inputs``, in evaluation mode, and say how its weights reach the output.

    A copy of the model runs: modes, buffers, gradients and random state of the caller do not change.

    Raises
    ------
    InputError
        When the model can't be copied or fails on the inputs.
    """
    name = type(model).__name__
    try:
        prefix, inner = unwrapped(model)
        trial = copy.deepcopy(inner).eval()
    except Exception as error:
        what = f"{name} can't be copied: {type(error).__name__}: {error}"
        raise InputError(what, expected="a network that copy.deepcopy takes, or head = its classifier") from error
    place = next((p.device for p in trial.parameters()), tensors_of(inputs)[0].device)
    mode = _Watching(trial)
    # With gradients, attention and encoder layers compute step by step, not in one fused operation.
    for parameter in trial.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    try:
        with seeded(0), torch.enable_grad(), _uncompiled(), mode.layers_at_work():
            batch = each(lambda part: part.detach().clone().to(place), inputs)
            mode.begin(batch)
            with mode:
                output = results_of(call(trial, batch))
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{name} fails on a batch of {described(inputs, types=False)}: {type(error).__name__}: {error}",
            expected='a network that computes on it, or the name of its head, as head="…"',
        ) from error
    mark = mode.joined(output)
    return Wiring(
        last=tuple(prefix + layer for bit, layer in enumerate(mode.layers) if mark.last >> bit & 1),
        reaching=frozenset(prefix + n for bit, n in enumerate(mode.names) if mark.parameters >> bit & 1),
        working=frozenset(prefix + n for bit, n in enumerate(mode.names) if mode.working >> bit & 1),
        outputs=output[0].shape[1] if len(output) == 1 and output[0].dim() == 2 else None,
    )


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Marks tensors by their storage, which views share; each is held, so that no storage is used twice."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True loads the compiler, which takes a second, to keep it away; here nothing is compiled anyway

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.working = 0
        self.names: list[str] = []
        self.layers: list[str] = []
        self._owners: list[list[int]] = []  # of each parameter: the layers that it is a weight of
        self._marks: dict[int, _Mark] = {}
        self._held: list[Tensor] = []
        self._running: list[int] = []
        known: dict[int, int] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if id(parameter) not in known:
                known[id(parameter)] = len(self.names)
                self.names.append(name)
                self._owners.append([])
            bit = known[id(parameter)]
            if parameter.dim() >= 2:
                self._owners[bit].append(self._layer(name))
            self._put(parameter, _Mark(parameters=1 << bit))

    def _layer(self, name: str) -> int:
        # The weight of a parametrised layer lies in a module of its own, below the layer.
        layer = name.partition(".parametrizations.")[0] if "parametrizations." in name else name.rpartition(".")[0]
        if name.startswith("parametrizations."):
            layer = ""
        if layer not in self.layers:
            self.layers.append(layer)
        return self.layers.index(layer)

    def begin(self, batch: Inputs) -> None:
        for part in tensors_of(batch):
            self._put(part, _Mark(data=True))

    @contextmanager
    def layers_at_work(self) -> Iterator[None]:
        """A context that knows which layer runs, so that a weight that several share is that of the one at work."""
        handles = []
        for layer, name in enumerate(self.layers):
            module = self.model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(self._entered(layer), prepend=True))
            handles.append(module.register_forward_hook(self._left, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entered(self, layer: int) -> Callable[..., None]:
        return lambda *_: self._running.append(layer)

    def _left(self, *_: Any) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        mark = self._mark(func, operands)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._put(leaf, mark)
        return result

    def _mark(self, func: Any, operands: Sequence[Tensor]) -> _Mark:
        joined = self.joined(operands)
        if not joined.data or torch.Tag.pointwise in func.tags or func.overloadpacket.__name__ in _HANDING_ON:
            return joined
        marks = [self._marks.get(_storage(operand), _Mark()) for operand in operands]
        weights = 0
        for mark in marks:
            weights |= 0 if mark.data else mark.parameters
        layers = 0
        for bit, owners in enumerate(self._owners):
            if weights >> bit & 1 and owners:
                self.working |= 1 << bit
                layers |= self._at_work(owners)
        return joined._replace(last=layers or joined.last)

    def _at_work(self, owners: Sequence[int]) -> int:
        for layer in reversed(self._running):
            if layer in owners:
                return 1 << layer
        # Used beside its layers, as a table of words that also gives the classes: then it does not look words up.
        tables = {owner for owner in owners if isinstance(self.model.get_submodule(self.layers[owner]), nn.Embedding)}
        return sum(1 << layer for layer in (set(owners) - tables or tables))

    def joined(self, tensors: Sequence[Tensor]) -> _Mark:
        """The mark of what is computed from ``tensors``."""
        data, last, parameters = False, 0, 0
        for tensor in tensors:
            mark = self._marks.get(_storage(tensor), _Mark())
            data, last, parameters = data or mark.data, last | mark.last, parameters | mark.parameters
        return _Mark(data, last, parameters)

    def _put(self, tensor: Tensor, mark: _Mark) -> None:
        self._held.append(tensor)
        self._marks[_storage(tensor)] = mark


def _storage(tensor: Tensor) -> int:
    with suppress(NotImplementedError, RuntimeError):
        return int(tensor.untyped_storage()._cdata)
    return id(tensor)  # a sparse tensor has no storage


def _uncompiled() -> AbstractContextManager[None]:
    """A context in which compiled parts compute step by step; nothing where nothing was compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def unwrapped(model: nn.Module) -> tuple[str, nn.Module]:
    """The network inside wrappers (DataParallel, ``torch.compile``), and what they put before its names."""
    prefix = ""
    while True:
        parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        name = "module" if parallel else "_orig_mod"
        inner = dict(model.named_children()).get(name)
        if inner is None:
            return prefix, model
        prefix, model = f"{prefix}{name}.", inner
