"""Which tensors of a network may be pruned, and which layer is its head.

By default the prunable weights are those of convolutions and linear layers (and of recurrent cells and attention
projections) except the classifier head. Normalisation parameters and biases are never pruned, never permuted, never
counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
        Names of the parameters that may be pruned, in any order, instead of the default set.
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
        for name in chosen:
            if name not in parameters:
                raise InputError(
                    f"the model has no parameter '{name}' to prune",
                    expected=f"one of {', '.join(parameters)}",
                    nearest=nearest(name, parameters),
                )
        self.names = tuple(name for name in parameters if name in chosen)
        if not self.names:
            raise InputError(
                "the model has nothing to prune", expected="a convolution or linear layer besides its head"
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
    """The groups of a transposed convolution, whose weight lists its inputs first; None for every other layer."""
    return module.groups if isinstance(module, _TRANSPOSED) else None


def prunable_names(model: nn.Module, head: str, prune_head: bool = False) -> Iterator[str]:
    """The names of the weights that are prunable by default."""
    # A weight shared by two modules has one name among the parameters; one shared with the head belongs to the head.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared = set() if prune_head else {id(p) for p in model.get_submodule(head).parameters()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in spared and _is_weight(module, name, parameter):
                yield names[id(parameter)]


def _is_weight(module: nn.Module, name: str, parameter: Tensor) -> bool:
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
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
    if len(wiring.last) != 1:
        several = f"its output comes from {_listed(wiring.last)} together"
        raise _unfound(model, several if wiring.last else "its output comes from no layer with weights")
    (head,) = wiring.last
    layer = model.get_submodule(head)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        kind = type(layer).__name__
        raise _unfound(model, f"its output comes from '{head}', but {kind} has no parameter 'weight'")
    # Of a layer of a user's own it is not known which dimension counts its outputs.
    outputs = [outputs_of(layer)] if isinstance(layer, (nn.Linear, *_CONVOLUTIONS)) else list(weight.shape[:2])
    if wanted is not None and wanted not in outputs:
        raise _unfound(model, f"its output comes from '{head}', which has {outputs[0]} outputs, not {wanted}")
    return head


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
    return isinstance(getattr(dict(model.named_modules()).get(name), "weight", None), Tensor)


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
