"""Reachability in place of numbers: what each operation of a network does to 0 (cut off) and 1 (connected)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from oneticket.errors import OneticketError

Rule = Callable[..., Any]


class UnknownPaths(OneticketError):
    """The paths of this network cannot be found in one pass: it has an operation without fixed connections."""


class Role(NamedTuple):
    """A followed tensor: activations (``flow``) or weights, and the operation that made it."""

    tensor: Tensor
    origin: Any
    flow: bool


class _Call(NamedTuple):
    """One call of an operation of torch."""

    name: str
    func: Rule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def result(self, rule: Rule | None = None) -> Any:
        """What the operation, or ``rule`` in its place, gives."""
        return (rule or self.func)(*self.args, **self.kwargs)

    def changed(self, change: Callable[[Tensor], Tensor]) -> _Call:
        """The same call with every tensor among its arguments changed."""
        return self._replace(args=_each(change, self.args), kwargs=_each(change, self.kwargs))

    def tensors(self) -> Iterator[Tensor]:
        """The tensors among the arguments."""
        return _tensors((self.args, self.kwargs))

    def target(self) -> Any:
        """The tensor that the call overwrites; None for a call that makes a new one."""
        return self.args[0] if self.args and (_in_place(self.name) or self.kwargs.get("inplace")) else None


class Reachability(TorchFunctionMode):
    """A mode in which a network, run on watched ones with 0/1 weights, computes which units the input reaches.

    Values and gradients are set back to 0 or 1 after every sum, so that neither overflows nor vanishes at any depth:
    in float64 a sum of non-negative numbers is zero exactly when each of them is. What acts on each unit by itself
    (activations, normalisations, dropout) passes its input on, maxima become sums, biases are left out. So the gradient
    of a weight is above zero exactly where the weight joins a unit that the input reaches to one that reaches the
    output.

    Raises
    ------
    UnknownPaths
        At the first operation that is not listed here, or whose connections depend on the input: products of two
        activations (gates, recurrent cells, attention that is written out), comparisons, reading values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._roles: dict[int, Role] = {}  # holds the tensors, so that no id is given twice
        self._overwritten: dict[int, Tensor] = {}
        self._targets: list[Tensor] = []  # held for the same reason
        self._viewed: set[int] = set()

    def watch(self, tensor: Tensor, *, flow: bool) -> Tensor:
        """Follow ``tensor`` from now on, as activations (``flow``) or as weights; returns it.

        It must have ``requires_grad``: without it, what an unseen step makes of it would look like a constant.
        """
        self._roles[id(tensor)] = Role(tensor, tensor.grad_fn, flow)
        return tensor

    def follows(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` holds activations that depend on the input."""
        role = self._roles.get(id(tensor))
        return role is not None and role.flow and role.origin is tensor.grad_fn

    def latest(self, tensor: Tensor) -> Tensor:
        """The tensor that holds what ``tensor`` would hold after every overwriting operation so far."""
        while id(tensor) in self._overwritten:
            tensor = self._overwritten[id(tensor)]
        return tensor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = _Call(_name(func), func, args, kwargs or {})
        if call.name in _QUESTIONS:
            return call.result()
        target = call.target()
        call = call.changed(self.latest)
        roles = [self._role(call.name, tensor) for tensor in call.tensors()]
        followed = [role for role in roles if role is not None]
        if not followed:
            return call.result()
        with torch.enable_grad():
            result = self._follow(call, followed)
        for tensor in _tensors(result):
            self.watch(tensor, flow=any(role.flow for role in followed))
        if target is not None:
            self._overwrite(call.name, target, result)
        return result

    def _follow(self, call: _Call, followed: list[Role]) -> Any:
        """The result of an operation on followed tensors, in 0 and 1."""
        flows = [role.tensor for role in followed if role.flow]
        name = call.name.removesuffix("_") if _in_place(call.name) else call.name
        if name in _CASTS or (name in _UNIT_BY_UNIT and flows):
            return self._passed_on(name, flows or [role.tensor for role in followed])
        if name in _MOVES:
            return self._moved(call, followed)
        if name in _SUMS and flows:
            return self._summed(_SUMS[name] or call.func, call)
        if name in _PRODUCTS:
            return self._multiplied(name, _PRODUCTS[name] or call.func, call, flows)
        if name == "scaled_dot_product_attention" and len(flows) == len(followed) == 3:
            return call.result(_attended)
        if name == "embedding" and len(flows) == 1 and not flows[0].is_floating_point():
            return call.result(_looked_up)
        raise UnknownPaths(f"{name} is not known to the search for paths")

    def _passed_on(self, name: str, carried: list[Tensor]) -> Tensor:
        if len(carried) > 1:
            raise UnknownPaths(f"{name} of more than one followed tensor")
        # Another object than the argument, or what overwrites the one would overwrite the other.
        return carried[0].view_as(carried[0])

    def _moved(self, call: _Call, followed: list[Role]) -> Any:
        result = call.result()
        self._viewed.update(id(tensor) for tensor in [*_tensors(result), *(role.tensor for role in followed)])
        return result

    def _summed(self, rule: Rule, call: _Call) -> Tensor:
        def activations_only(tensor: Tensor) -> Tensor:
            return tensor if self.follows(tensor) else torch.zeros_like(tensor, dtype=torch.float64)

        return _saturated(call.changed(activations_only).result(rule))

    def _multiplied(self, name: str, rule: Rule, call: _Call, flows: list[Tensor]) -> Tensor:
        if len(flows) > 1:
            raise UnknownPaths(f"{name} of two activations: which of them passes depends on the other")

        def zeros_and_ones(tensor: Tensor) -> Tensor:
            return tensor if id(tensor) in self._roles else (tensor != 0).double()

        return _saturated(call.changed(zeros_and_ones).result(rule))

    def _role(self, name: str, tensor: Tensor) -> Role | None:
        role = self._roles.get(id(tensor))
        origin = role.origin if role is not None else None
        if tensor.requires_grad and (role is None or tensor.grad_fn is not origin):
            raise UnknownPaths(f"{name} of a tensor that a step not seen here has made (a custom autograd function?)")
        return role

    def _overwrite(self, name: str, target: Tensor, result: Tensor) -> None:
        if id(target) in self._viewed:
            raise UnknownPaths(f"{name} overwrites a tensor that others look into")
        target = self.latest(target)
        self._targets.append(target)
        self._overwritten[id(target)] = result


class _Saturate(torch.autograd.Function):
    """1 where positive, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return (values > 0).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient > 0).to(gradient.dtype)


def _saturated(values: Tensor) -> Tensor:
    return _Saturate.apply(values)  # type: ignore[no-any-return, no-untyped-call]


def _name(func: Any) -> str:
    """The name of an operation; for a property its own name, not that of its getter."""
    name = getattr(func, "__name__", type(func).__name__)
    return str(getattr(func.__self__, "__name__", name)) if name in ("__get__", "__set__") else str(name)


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _each(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with every tensor in it changed, through tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _each(change, part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_each(change, part) for part in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


# -- what the operations become -----------------------------------------------------------------------------------
def _added(first: Any, second: Any, **_: Any) -> Tensor:
    # A number added or a sign changed connects nothing and cuts nothing off.
    operands = [part if isinstance(part, Tensor) else 0.0 for part in (first, second)]
    return torch.add(*operands)


def _multiplied(first: Any, second: Any, **_: Any) -> Tensor:
    operands = [part if isinstance(part, Tensor) else float(part != 0) for part in (first, second)]
    return torch.mul(*operands)


def _max_pooled(
    average: Rule,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    spread = dilation if isinstance(dilation, tuple | list) else [dilation]
    if return_indices or any(step != 1 for step in spread):
        raise UnknownPaths("max-pooling with dilation or indices is not known to the search for paths")
    return average(input, kernel_size, stride or kernel_size, padding, ceil_mode)  # type: ignore[no-any-return]


def _adaptively_pooled(average: Rule, input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    if return_indices:
        raise UnknownPaths("max-pooling with indices is not known to the search for paths")
    return average(input, output_size)  # type: ignore[no-any-return]


def _padded(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    return F.pad(input, pad, mode)


def _layer(operation: Rule, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kw: Any) -> Tensor:
    return operation(input, weight, None, *args, **kw)  # type: ignore[no-any-return]


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """Every value that is seen passes; a score joins a query and a key that are both reached.

    A softmax is never zero, so that values pass whatever the scores. Of a single position it is constant: then there is
    no way through query and key.
    """
    if options.get("enable_gqa"):
        raise UnknownPaths("attention with fewer keys than queries is not known to the search for paths")
    seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.float64)
    if is_causal:
        seen = seen.tril()
    if attn_mask is not None:
        seen = (attn_mask if attn_mask.dtype == torch.bool else attn_mask > -torch.inf).double()
    chosen = seen * (seen.sum(-1, keepdim=True) > 1)
    scores = _saturated(query @ key.transpose(-2, -1)) * chosen
    return _saturated((seen + scores) @ value)


def _looked_up(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    # Any token may stand at any place: a layer over as many inputs as there are tokens, all of them reached.
    tokens = torch.ones(*input.shape, len(weight), dtype=torch.float64, requires_grad=True)
    return _saturated(tokens @ weight.double())


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_QUESTIONS = _words(
    "size dim ndim shape numel nelement stride __len__ dtype device layout element_size get_device requires_grad "
    "is_contiguous is_floating_point is_complex is_nested is_sparse is_quantized is_cuda is_cpu is_mps is_meta"
)
"""These do not look at the values of a tensor."""

_CASTS = _words("to float double cpu cuda abs sign")
"""These leave activations as they are, and weights too: a masked one stays zero."""

_UNIT_BY_UNIT = _words(
    "relu relu6 leaky_relu rrelu prelu elu selu celu gelu silu mish hardswish hardtanh hardsigmoid sigmoid logsigmoid "
    "tanh softplus softsign tanhshrink softshrink hardshrink threshold softmax log_softmax softmin clamp clamp_min "
    "clamp_max neg positive pow __rpow__ square sqrt rsqrt reciprocal exp log log1p erf sin cos dropout dropout1d "
    "dropout2d dropout3d alpha_dropout feature_alpha_dropout batch_norm instance_norm group_norm layer_norm rms_norm "
    "local_response_norm normalize"
)
"""These connect each unit with itself. So do normalisations, whose statistics count as constants."""

_MOVES = _words(
    "view view_as reshape reshape_as flatten ravel unflatten permute transpose t T mT swapaxes swapdims movedim "
    "moveaxis squeeze unsqueeze expand expand_as repeat tile contiguous clone __getitem__ narrow select index_select "
    "chunk split tensor_split unbind flip roll pixel_shuffle pixel_unshuffle channel_shuffle unfold"
)

_SUMS: dict[str, Rule | None] = {
    **dict.fromkeys(_words("add sub subtract rsub __rsub__ maximum minimum"), _added),
    **dict.fromkeys(_words("cat concat concatenate stack hstack vstack mean sum")),
    **dict.fromkeys(["amax", "amin"], torch.sum),
    **dict.fromkeys(f"{kind}avg_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)),
    **{f"max_pool{d}d": partial(_max_pooled, getattr(F, f"avg_pool{d}d")) for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": partial(_adaptively_pooled, getattr(F, f"adaptive_avg_pool{d}d")) for d in (1, 2, 3)},
    "pad": _padded,
}

_PRODUCTS: dict[str, Rule | None] = {
    **dict.fromkeys(_words("mul multiply div divide true_divide __rdiv__ __rtruediv__"), _multiplied),
    **dict.fromkeys(_words("matmul mm bmm mv __matmul__ __rmatmul__")),
    "linear": partial(_layer, F.linear),
    **{name: partial(_layer, getattr(F, name)) for d in (1, 2, 3) for name in (f"conv{d}d", f"conv_transpose{d}d")},
}
"""Layers, and products with a constant: a unit that is multiplied by zero is cut off."""
