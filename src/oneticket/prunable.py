"""Which tensors of a network may be pruned, and which layer is its head.

By default the prunable weights are those of convolutions and linear layers (and of recurrent cells, attention
projections and the ``Conv1D`` of transformers) except the classifier head. Normalisation parameters and biases never
are; they are not permuted and not counted either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from oneticket.calling import Inputs
from oneticket.errors import InputError, nearest
from oneticket.wiring import Wiring, watch

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


class Prunable:
    """A network seen as the weights that pruning may touch.

    Parameters
    ----------
    model : nn.Module
        The network; it is referred to, not copied.
    head : str, optional
        Name of the classifier layer; by default found by :func:`find_head`.
    prune_head : bool, default False
        Whether the head's weight is prunable too.
    only : Sequence[str], optional
        Names of the parameters that may be pruned, in any order, instead of the default set. In a pattern ``*`` stands
        for any text; it chooses among the parameters of two dimensions or more.
    inputs : Inputs, optional
        A batch by which the head is found, if it is not named.

    Raises
    ------
    InputError
        For an unknown head or parameter, and for a network without a prunable weight.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        head: str | None = None,
        prune_head: bool = False,
        only: Sequence[str] | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.model = model
        self.head = head if head is not None else find_head(model, inputs=inputs)
        check_head(model, self.head)
        if isinstance(only, str):
            raise InputError(f"only = '{only}'", expected=f"a list of names, such as ['{only}']")
        chosen = dict.fromkeys(only if only is not None else prunable_names(model, self.head, prune_head))
        parameters = dict(model.named_parameters())
        names = {name for pattern in chosen for name in _matching(pattern, parameters)}
        self.names = tuple(name for name in parameters if name in names)
        if not self.names:
            raise InputError(
                f"the model has nothing to prune{_unknown_layers(model, self.head)}",
                expected="a convolution or linear layer besides its head, or prunable=[names or 'blocks.*.weight']",
            )

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and parameter of each prunable weight, in the model's order."""
        parameters = dict(self.model.named_parameters())
        return ((name, parameters[name]) for name in self.names)

    def values(self) -> dict[str, Tensor]:
        """A detached copy of each prunable weight."""
        return {name: weight.detach().clone() for name, weight in self.weights()}

    @property
    def head_weight(self) -> str | None:
        """Name of the head's weight if it is prunable, else None."""
        weight = self.model.get_submodule(self.head).weight
        return next((name for name, own in self.weights() if own is weight), None)

    @property
    def total(self) -> int:
        """ΣN_l, the number of prunable weights."""
        return sum(weight.numel() for _, weight in self.weights())


def _matching(pattern: str, parameters: Mapping[str, Tensor]) -> list[str]:
    """The parameters that ``pattern`` names: one by its name, or all matrices that it fits."""
    if pattern in parameters:
        return [pattern]
    fitting = [n for n, p in parameters.items() if p.dim() > 1 and fnmatchcase(n, pattern)] if "*" in pattern else []
    if fitting:
        return fitting
    raise InputError(
        f"the model has no parameter '{pattern}' to prune",
        expected=f"one of {', '.join(parameters)}",
        nearest=nearest(pattern, parameters),
    )


def _unknown_layers(model: nn.Module, head: str) -> str:
    kinds = Counter(
        type(module).__name__
        for name, module in model.named_modules()
        if name != head and not isinstance(module, nn.Embedding)
        if any(p.dim() > 1 for p in module.parameters(recurse=False))
    )
    seen = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    return f": it has {seen} besides its head" if seen else ""


def by_unit(weight: Tensor, transposed: int | None = None) -> Tensor:
    """``weight`` as groups × inputs × output units × the rest: the weights that enter a unit are [g, :, u, :].

    Output units lie along the first dimension; in a transposed convolution, of ``transposed`` groups, they lie along
    the second, anew for each group.

    >>> by_unit(torch.empty(8, 4, 3, 3)).shape, by_unit(torch.empty(8, 4, 3, 3), transposed=2).shape
    (torch.Size([1, 1, 8, 36]), torch.Size([2, 4, 4, 9]))
    """
    if transposed is None:
        return weight.reshape(1, 1, len(weight), -1)
    return weight.reshape(transposed, len(weight) // transposed, weight.shape[1], -1)


def transposed_groups(module: nn.Module) -> int | None:
    """The groups of a layer whose weight lists its inputs first; None for every other layer.

    Those are transposed convolutions, and the ``Conv1D`` of transformers, a linear layer of one group.
    """
    if is_transposed_linear(module):
        return 1
    return module.groups if isinstance(module, _TRANSPOSED) else None


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether ``module`` is a ``Conv1D`` of transformers: a linear layer whose weight is inputs × outputs."""
    weight, outputs = getattr(module, "weight", None), getattr(module, "nf", None)
    return type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.shape[1:] == (outputs,)


def prunable_names(model: nn.Module, head: str, prune_head: bool = False) -> Iterator[str]:
    """The names of the weights that are prunable by default."""
    # A weight shared by two modules has one name among the parameters; one shared with the head belongs to the head.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    heads = [head, *(heads if head in (heads := named_heads(model)) else ())]
    spared = set() if prune_head else {id(p) for name in heads for p in model.get_submodule(name).parameters()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in spared and _is_weight(module, name, parameter):
                yield names[id(parameter)]


def _is_weight(module: nn.Module, name: str, parameter: Tensor) -> bool:
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)) or is_transposed_linear(module):
        return name == "weight"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return name.startswith("weight")
    if isinstance(module, nn.MultiheadAttention):
        return name.endswith("proj_weight") and parameter.dim() == 2
    return False


def find_head(model: nn.Module, classes: int | None = None, *, inputs: Inputs | None = None) -> str:
    """Name of the classifier: the layer whose output is the network's output.

    Parameters
    ----------
    model : nn.Module
        The network.
    classes : int, optional
        The number of outputs that the classifier must have; by default as many as the network has.
    inputs : Inputs, optional
        A batch on which the network is watched once (:func:`oneticket.wiring.watch`); where its layers are declared and
        what they are called is then of no account. Without a batch nothing can be watched, and the last linear layer is
        presumed; with ``classes``, the last that has so many outputs, or else such a convolution.

    Raises
    ------
    InputError
        When there is no such layer, or more than one; the message says how to name the head.
    """
    return _presumed(model, classes) if inputs is None else watched_head(model, watch(model, inputs), classes)


def watched_head(model: nn.Module, wiring: Wiring, classes: int | None = None) -> str:
    """The one layer through which the output left the network; see :func:`find_head`."""
    wanted = classes if classes is not None else wiring.outputs
    named = named_heads(model)
    last = named[:1] if len(wiring.last) > 1 and set(named) == set(wiring.last) else wiring.last
    if len(last) != 1:
        several = f"its output comes from {_listed(wiring.last)} together"
        raise _unfound(model, several if wiring.last else "its output comes from no layer with weights")
    (head,) = last
    layer = model.get_submodule(head)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        kind = type(layer).__name__
        raise _unfound(model, f"its output comes from '{head}', but {kind} has no parameter 'weight'")
    # Of a layer of a user's own it is not known which dimension counts its outputs.
    outputs = [outputs_of(layer)] if isinstance(layer, (nn.Linear, *_CONVOLUTIONS)) else list(weight.shape[:2])
    if is_transposed_linear(layer):
        outputs = [outputs_of(layer)]
    if wanted is not None and wanted not in outputs:
        raise _unfound(model, f"its output comes from '{head}', which has {outputs[0]} outputs, not {wanted}")
    return head


def named_heads(model: nn.Module) -> tuple[str, ...]:
    """The classifiers that the model itself names, as those of timm do by ``get_classifier``; of none, nothing."""
    try:
        found = model.get_classifier()  # type: ignore[operator]
    except Exception:  # no such method, or one of another kind
        return ()
    found = found.values() if isinstance(found, nn.ModuleDict) else found
    layers = found if isinstance(found, tuple | list | nn.ModuleList) else (found,)
    names = {id(module): name for name, module in model.named_modules()}
    return tuple(names[id(layer)] for layer in layers if id(layer) in names and has_weight(layer))


def sole_head(model: nn.Module) -> str:
    """The head of a model that cannot be watched: its only linear layer, or the one that ends an ``nn.Sequential``.

    Raises InputError where that leaves a doubt.
    """
    linear: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if len(linear) == 1:
        return linear[0]
    last, name = model, ""
    while isinstance(last, nn.Sequential):  # its order of declaration is that of computation
        weighted = [(n, child) for n, child in last.named_children() if any(p.dim() > 1 for p in child.parameters())]
        if not weighted:
            break
        step, last = weighted[-1]
        name = f"{name}.{step}" if name else step
    if isinstance(last, nn.Linear):
        return name
    raise _unfound(model, "more than one layer could be it" if linear else "no linear layer")


def _presumed(model: nn.Module, classes: int | None) -> str:
    linear: list[tuple[str, nn.Linear]] = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    fitting: list[str] = [name for name, m in linear if classes is None or m.out_features == classes]
    if classes is not None and not fitting:
        fitting = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.out_channels == classes]
    if fitting:
        return fitting[-1]
    raise _unfound(model, f"no linear layer{f' with {classes} outputs' if classes is not None else ''}")


def _unfound(model: nn.Module, reason: str) -> InputError:
    layers = [(n, m) for n, m in model.named_modules() if n and isinstance(m, nn.Linear | nn.Conv2d)]
    choices = ", ".join(f"'{n}' ({outputs_of(m)} outputs)" for n, m in layers) or "no such layer"
    return InputError(
        f"the head of {type(model).__name__} can't be found: {reason}",
        expected=f'the name of the layer that gives the classes, as head="…"; the model has {choices}',
    )


def outputs_of(layer: nn.Module) -> int:
    """The number of outputs (features, channels) of a layer with a weight."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    groups = transposed_groups(layer)
    return weight.shape[0] if groups is None else weight.shape[1] * groups


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def has_layer(model: nn.Module, name: str) -> bool:
    """Whether ``model`` has a layer of this name that has a weight."""
    return has_weight(dict(model.named_modules()).get(name))


def has_weight(layer: object) -> bool:
    """Whether ``layer`` has a tensor as its weight."""
    return isinstance(getattr(layer, "weight", None), Tensor)


def check_head(model: nn.Module, head: str) -> None:
    """Raise InputError unless ``head`` names a layer of ``model`` that has a weight."""
    modules = dict(model.named_modules())
    if not has_layer(model, head):
        weighted = [n for n, m in modules.items() if isinstance(getattr(m, "weight", None), torch.Tensor)]
        raise InputError(
            f"the model has no layer '{head}' that could be its head",
            expected=f"one of {', '.join(weighted)}",
            nearest=nearest(head, weighted),
        )
