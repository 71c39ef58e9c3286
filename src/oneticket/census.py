"""Census: whether the weights that are pruned and counted are those that compute; what is not is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from oneticket.calling import Inputs
from oneticket.errors import InputError
from oneticket.prunable import Prunable, check_head, find_head, named_heads, watched_head
from oneticket.wiring import Wiring, watch

_SHOWN = 6


@dataclass(frozen=True)
class Census:
    """The prunable weights of a network, and what a user may be wrong about; parameters by name.

    ``unused`` are prunable, but the output does not depend on them; ``frozen`` are prunable, but not trained;
    ``spared`` would be prunable, but are frozen or adapters; ``dense`` are weights of a layer that are neither prunable
    nor the head's: of parametrised layers, of layers of a user's own.
    """

    view: Prunable
    unused: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()

    def told(self, density: float | None = None) -> str:
        """What a user should know, in one sentence for each kind; "" if there is nothing.

        ``density`` is the density that was asked for.
        """
        parts = []
        if self.unused:
            share = f"{self._count(self.unused)} of the {self.view.total} prunable weights"
            parts.append(f"the network never uses {_named(self.unused)}, which hold {share}")
        if self.frozen:
            parts.append(f"{_named(self.frozen)} are pruned, but frozen (requires_grad = False)")
        if self.spared:
            parts.append(f"{_named(self.spared)} are frozen or adapters (LoRA) and are not pruned")
        if self.dense:
            met, dense = "", self._count(self.dense)
            if density is not None:
                all_density = (density * self.view.total + dense) / (self.view.total + dense)
                met = f": density {density:g} of what is prunable is {all_density:.3g} of all these weights"
            parts.append(f"{_named(self.dense)} are not prunable and stay dense, {dense} weights{met}")
        return "; ".join(parts) + "; prunable=… and head=… choose others" if parts else ""

    def _count(self, names: Iterable[str]) -> int:
        parameters = dict(self.view.model.named_parameters())
        return sum(parameters[name].numel() for name in names)


def take_census(
    model: nn.Module,
    inputs: Inputs | None,
    *,
    head: str | None = None,
    classes: int | None = None,
    prune_head: bool = False,
    only: Sequence[str] | None = None,
    spare: bool = False,
) -> Census:
    """The prunable weights of ``model``, with its head found by watching it compute on ``inputs``.

    Parameters
    ----------
    model : the network; it is referred to, not changed.
    inputs : a batch; without one the head is presumed, and nothing is known of what is used.
    classes : the number of outputs that the head must have; by default as many as the network has.
    spare : whether frozen weights and those of adapters (LoRA) are left alone, unless ``only`` names them.
    head, prune_head, only : as for :class:`oneticket.prunable.Prunable`.

    Raises
    ------
    InputError : a head that can't be found, layers whose weights old hooks compute, no prunable weight.
    """
    refuse_computed_weights(model)
    try:
        wiring = _watched(model, inputs, known=head is not None)
        if head is None:
            head = find_head(model, classes) if wiring is None else watched_head(model, wiring, classes)
        check_head(model, head)
    except InputError as error:
        raise error.at("head") from error.__cause__
    spared: tuple[str, ...] = ()
    if spare and only is None:
        whole = Prunable(model, head=head, prune_head=prune_head)
        spared = tuple(name for name, weight in whole.weights() if not weight.requires_grad or _is_adapter(name))
        only = [name for name in whole.names if name not in spared] if spared else None
        if spared and not only:
            raise InputError(
                f"the model has nothing to prune: {_named(spared)} are frozen or adapters (LoRA)",
                expected="prunable=[names], or weights that are trained",
            )
    view = Prunable(model, head=head, prune_head=prune_head, only=only)
    frozen = tuple(name for name, weight in view.weights() if not weight.requires_grad)
    unused = () if wiring is None else tuple(name for name in view.names if name not in wiring.reaching)
    counted = wiring is not None and (only is None or spared)
    dense = [name for name in _dense(view, wiring) if name not in spared] if wiring is not None and counted else []
    return Census(view, unused, frozen, tuple(dense), spared)


def _is_adapter(name: str) -> bool:
    return any(part.startswith("lora_") for part in name.split("."))


def _watched(model: nn.Module, inputs: Inputs | None, *, known: bool) -> Wiring | None:
    if inputs is None:
        return None
    try:
        return watch(model, inputs)
    except InputError:
        if known:  # then the pass is a courtesy, and the training says better what is wrong
            return None
        raise


def _dense(view: Prunable, wiring: Wiring) -> tuple[str, ...]:
    """The weights of layers that are neither prunable nor the head's; tables of embeddings compute nothing."""
    heads = {view.head, *named_heads(view.model)}
    spared = {id(parameter) for head in heads for parameter in view.model.get_submodule(head).parameters()}
    for module in view.model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            spared |= {id(parameter) for parameter in module.parameters()}
    return tuple(
        name
        for name, parameter in view.model.named_parameters()
        if name in wiring.working and name not in view.names and id(parameter) not in spared
    )


def refuse_computed_weights(model: nn.Module) -> None:
    """Raise InputError for a weight that a hook computes anew before each pass: it is not a parameter any more."""
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if any(kind.__module__.startswith("torch.nn.utils.") for kind in type(hook).__mro__):
                weight = getattr(hook, "name", None) or getattr(hook, "_tensor_name", "weight")
                raise InputError(
                    f"'{f'{name}.{weight}'.lstrip('.')}' is computed by a hook ({type(hook).__name__})",
                    where="model",
                    expected="a parameter: undo it by torch.nn.utils.remove_weight_norm, remove_spectral_norm or "
                    "prune.remove",
                )


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
