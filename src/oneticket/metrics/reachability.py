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
    """The paths of this network cannot be told from one pass: it does something that has no fixed connections."""


class Role(NamedTuple):
    """A tensor that is followed: activations (``flow``) or weights, and the operation that made it."""

    tensor: Tensor
    origin: Any
    flow: bool


class Reachability(TorchFunctionMode):
    """Inside, a network run on watched ones with 0/1 weights computes which of its units the input reaches.

    Values and gradients are set back to 0 or 1 after every sum, so that neither overflows nor vanishes at any depth:
    in float64 a sum of non-negative numbers is zero exactly when each of them is. What acts on each unit by itself
    (activations, normalisations, dropout) passes its input on, maxima become sums, biases are left out. So the gradient
    of a weight is above zero exactly where the weight joins a unit that the input reaches to one that reaches the
    output.

    Raises UnknownPaths at the first operation that is not known here, or whose connections depend on the input:
    products of two activations (attention, gates, recurrent cells), comparisons, looking at values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._roles: dict[int, Role] = {}  # holds the tensors, so that no id is given twice
        self._overwritten: dict[int, Tensor] = {}
        self._targets: list[Tensor] = []  # held for the same reason
        self._viewed: set[int] = set()

    def watch(self, tensor: Tensor, *, flow: bool) -> Tensor:
        """``tensor`` is followed from now on, as activations or as weights.

        Give it ``requires_grad``, or what an unseen step makes of it looks like a constant.
        """
        self._roles[id(tensor)] = Role(tensor, tensor.grad_fn, flow)
        return tensor

    def follows(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` holds activations that depend on the input."""
        role = self._roles.get(id(tensor))
        return role is not None and role.flow and role.origin is tensor.grad_fn

    def latest(self, tensor: Tensor) -> Tensor:
        """What stands for ``tensor`` after all that has overwritten it."""
        while id(tensor) in self._overwritten:
            tensor = self._overwritten[id(tensor)]
        return tensor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name in _QUESTIONS:
            return func(*args, **kwargs)
        target = args[0] if args and (_in_place(name) or kwargs.get("inplace")) else None
        args, kwargs = _each(self.latest, args), _each(self.latest, kwargs)
        roles = [self._role(name, tensor) for tensor in _tensors((args, kwargs))]
        followed = [role for role in roles if role is not None]
        if not followed:
            return func(*args, **kwargs)
        with torch.enable_grad():
            result = self._follow(name, func, args, kwargs, followed)
        for tensor in _tensors(result):
            self.watch(tensor, flow=any(role.flow for role in followed))
        if target is not None:
            self._overwrite(name, target, result)
        return result

    def _follow(
        self, name: str, func: Rule, args: tuple[Any, ...], kwargs: dict[str, Any], followed: list[Role]
    ) -> Any:
        flows = [role.tensor for role in followed if role.flow]
        name = name.removesuffix("_") if _in_place(name) else name
        if name in _CASTS or (name in _UNIT_BY_UNIT and flows):
            carried = flows or [role.tensor for role in followed]
            if len(carried) > 1:
                raise UnknownPaths(f"{name} of more than one followed tensor")
            # Another object than the argument, or what overwrites the one would overwrite the other.
            return carried[0].view_as(carried[0])
        if name in _MOVES:
            result = func(*args, **kwargs)
            self._viewed.update(id(tensor) for tensor in [*_tensors(result), *(role.tensor for role in followed)])
            return result
        if name in _SUMS and flows:
            rule = _SUMS[name] or func
            zeroed = partial(_each, lambda t: t if self.follows(t) else torch.zeros_like(t, dtype=torch.float64))
            return _saturated(rule(*zeroed(args), **zeroed(kwargs)))
        if name in _PRODUCTS:
            if len(flows) > 1:
                raise UnknownPaths(f"{name} of two activations: which of them passes depends on the other")
            rule = _PRODUCTS[name] or func
            pattern = partial(_each, lambda t: t if id(t) in self._roles else (t != 0).double())
            return _saturated(rule(*pattern(args), **pattern(kwargs)))
        raise UnknownPaths(f"{name} is not known to the search for paths")

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
    """What an operation is called; of a property its own name, not that of its getter."""
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


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_QUESTIONS = _words(
    "size dim ndim shape numel nelement stride __len__ dtype device layout element_size get_device requires_grad "
    "is_contiguous is_floating_point is_complex is_nested is_sparse is_quantized is_cuda is_cpu is_mps is_meta"
)
"""Asked of a tensor without looking at its values."""

_CASTS = _words("to float double cpu cuda abs sign")
"""Leave activations as they are, and weights too: a masked one stays zero."""

_UNIT_BY_UNIT = _words(
    "relu relu6 leaky_relu rrelu prelu elu selu celu gelu silu mish hardswish hardtanh hardsigmoid sigmoid logsigmoid "
    "tanh softplus softsign tanhshrink softshrink hardshrink threshold softmax log_softmax softmin clamp clamp_min "
    "clamp_max neg positive pow __rpow__ square sqrt rsqrt reciprocal exp log log1p erf sin cos dropout dropout1d "
    "dropout2d dropout3d alpha_dropout feature_alpha_dropout batch_norm instance_norm group_norm layer_norm rms_norm "
    "local_response_norm normalize"
)
"""Connect each unit with itself. So do normalisations, whose statistics are taken for constants."""

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
"""Layers, and products with a constant: what is multiplied by zero is cut off."""
