"""The interface of rescalings: weights, masks and a context → weights of another scale, and learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, TypeAlias

import msgspec
import torch
from torch import Tensor, nn

from oneticket.conversion import checked
from oneticket.errors import InputError
from oneticket.lazy import Context, Given
from oneticket.masks import Masks
from oneticket.registry import Registry
from oneticket.weights.base import DRAWS, State

Masked: TypeAlias = tuple[Mapping[str, Tensor], Masks]
"""Weights of the prunable tensors and the masks that say which of them are kept."""


@dataclass(frozen=True, eq=False, repr=False)
class RescalingContext(Context):
    """What a rescaling may use besides weights and masks; each field is computed only when it is read.

    Parameters
    ----------
    weights : str
        The registered name of the draw that gave the weights.
    he_normal : bool, default False
        Whether a fresh draw is N(0, 2/f_l) in every layer, f_l being its inputs a unit, as that of a built-in model is.
    generator : Callable[[], torch.Generator], optional
        Gives the generator, on the CPU, for weights that are drawn anew.
    network : Callable[[], nn.Module], optional
        Gives a module with the arm's full masked state, which the rescaling may change.
    batch : Callable[[], Tensor], optional
        Gives inputs of the target's training split, as the network takes them.
    ticket : Callable[[], tuple[Mapping[str, Tensor], Masks]], optional
        Gives W_k and the masks of the ticket.
    random : Callable[[], tuple[Mapping[str, Tensor], Masks]], optional
        Gives the weights and the masks of the paper's random ticket: a fresh draw on the ticket's masks permuted over
        the whole network.

    Raises
    ------
    InputError
        For an unknown draw, and when a field that was not given is read.

    Examples
    --------
    >>> RescalingContext("re-drawn").redrawn, RescalingContext("sign-constant").redrawn
    (True, False)
    """

    looker = "rescaling"
    weights: str
    _: KW_ONLY
    he_normal: bool = False
    generator: Given[torch.Generator] = Given("a random generator")
    network: Given[nn.Module] = Given("the network")
    batch: Given[Tensor] = Given("a batch")
    ticket: Given[Masked] = Given("the ticket")
    random: Given[Masked] = Given("the random ticket")

    def __post_init__(self) -> None:
        DRAWS.entry(self.weights)

    @property
    def redrawn(self) -> bool:
        """Whether the weights are a fresh draw and may be drawn anew; other weights may only be multiplied."""
        return DRAWS.entry(self.weights).facts.drawn == "afresh"

    @property
    def at_initial_scale(self) -> bool:
        """Whether their magnitudes are those of the initial distribution, and not a ticket's."""
        return DRAWS.entry(self.weights).facts.scale == "initial"

    def layer(self, name: str) -> nn.Module | None:
        """The layer of the weight ``name``, to be inspected only; None if no network was given."""
        return self.network.get_submodule(name.rpartition(".")[0]) if self.has("network") else None


@dataclass(frozen=True)
class Rescaled:
    """The result of a rescaling.

    Parameters
    ----------
    weights : dict[str, Tensor]
        The rescaled weights of the prunable tensors: same names, shapes, dtypes, and still masked.
    lr_factors : Mapping[str, float]
        Factors on the learning rates of parameters; 1 for parameters that are not named.
    """

    weights: State
    lr_factors: Mapping[str, float] = field(default_factory=dict)


Rescaling: TypeAlias = Callable[[Mapping[str, Tensor], Masks, RescalingContext], "State | Rescaled"]


class RescalingFacts(msgspec.Struct, frozen=True):
    """The registered facts of a rescaling.

    Parameters
    ----------
    needs : str, optional
        ``batch`` if it uses data and the network, ``ticket`` if it uses a ticket and its random counterpart.
    again : str, optional
        ``compounds`` if applying it to rescaled weights would rescale them once more.
    optimizers : tuple[str, ...]
        The only optimisers for which its learning rates are derived; empty if it suits all.
    """

    needs: Literal["batch", "ticket"] | None = None
    again: Literal["compounds"] | None = None
    optimizers: tuple[str, ...] = ()


RESCALINGS: Registry[Rescaling, RescalingFacts] = Registry("rescaling", RescalingFacts)
"""Each turns masked weights of the prunable tensors into their rescaled values, alone or as :class:`Rescaled`.

Call them by :func:`rescale`.
"""

rescaling = RESCALINGS.register


@checked
def rescale(
    name: str, weights: Mapping[str, Tensor], masks: Masks, context: RescalingContext, *, optimizer: str
) -> Rescaled:
    """Weights and factors of the learning rates by the rescaling ``name``.

    Parameters
    ----------
    name : str
        A registered rescaling.
    weights : Mapping[str, Tensor]
        The prunable tensors, by parameter name; masked weights are zero.
    masks : Masks
        The masks of these tensors.
    context : RescalingContext
        What the rescaling may use besides weights and masks.
    optimizer : str
        The name, as in a recipe, of the optimiser that trains them.

    Returns
    -------
    Rescaled
        Weights of the same names, shapes and dtypes, and factors of the learning rates.

    Raises
    ------
    InputError
        For an unknown name, and for an optimiser that :func:`check_optimizer` refuses.

    Examples
    --------
    >>> masks = Masks({"fc.weight": torch.tensor([True, False, False, False])})
    >>> weights = {"fc.weight": torch.tensor([1.0, 0.0, 0.0, 0.0])}
    >>> rescale("smup", weights, masks, RescalingContext("rewound"), optimizer="adam")
    Rescaled(weights={'fc.weight': tensor([2., 0., 0., 0.])}, lr_factors={'fc.weight': 4.0})
    """
    check_optimizer(name, optimizer)
    made = RESCALINGS[name](weights, masks, context)
    if not isinstance(made, Rescaled | Mapping):
        what = "nothing: does it lack a `return`?" if made is None else f"a {type(made).__name__}"
        raise InputError(f"rescaling '{name}' gave {what}", expected="weights by parameter name, or Rescaled")
    return made if isinstance(made, Rescaled) else Rescaled(made)


def check_optimizer(name: str, optimizer: str) -> None:
    """Raise InputError if the rescaling ``name`` is unknown or was not derived for the optimiser."""
    able = RESCALINGS.entry(name).facts.optimizers
    if able and optimizer not in able:
        raise InputError(
            f"rescale = '{name}' with the optimiser '{optimizer}', for which its learning rates were not derived",
            where="rescale",
            expected=f"{' or '.join(able)}, or rescale = 'layer' for the weights alone",
        )


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """A copy of ``weight`` in which masked entries are exactly 0.0."""
    # Not a product: that would leave −0.0 where a negative weight was masked.
    return weight.detach().masked_fill(~mask.to(weight.device), 0.0)
