"""The small interface of rescalings: weights, masks and a context → weights of another scale, and learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, TypeAlias

import msgspec
import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.lazy import Context, Given
from oneticket.masks import Masks
from oneticket.registry import Registry
from oneticket.weights.base import DRAWS, State

Masked: TypeAlias = tuple[Mapping[str, Tensor], Masks]
"""Weights of the prunable tensors and the masks that say which of them are kept."""


@dataclass(frozen=True, eq=False, repr=False)
class RescalingContext(Context):
    """What a rescaling may know beyond weights and masks; what it does not ask for is not computed.

    Parameters
    ----------
    weights : str
        The draw that the weights come from, by its registered name.
    generator : Callable[[], torch.Generator], optional
        Gives the generator, on the CPU, of weights that are drawn anew.
    network : Callable[[], nn.Module], optional
        Gives a module that holds the arm's full masked state, to be used up as scratch.
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
        For an unknown draw, and when a field that was not given is asked for.

    Examples
    --------
    >>> RescalingContext("re-drawn").redrawn, RescalingContext("sign-constant").redrawn
    (True, False)
    """

    looker = "rescaling"
    weights: str
    _: KW_ONLY
    generator: Given[torch.Generator] = Given("a random generator")
    network: Given[nn.Module] = Given("the network")
    batch: Given[Tensor] = Given("a batch")
    ticket: Given[Masked] = Given("the ticket")
    random: Given[Masked] = Given("the random ticket")

    def __post_init__(self) -> None:
        DRAWS.entry(self.weights)

    @property
    def redrawn(self) -> bool:
        """Whether the weights are a fresh draw, which may be drawn anew; others may only be multiplied."""
        return DRAWS.entry(self.weights).facts.drawn == "afresh"

    @property
    def at_initial_scale(self) -> bool:
        """Whether their magnitudes are those of the initial distribution, and not a ticket's."""
        return DRAWS.entry(self.weights).facts.scale == "initial"

    def layer(self, name: str) -> nn.Module | None:
        """The layer that the weight ``name`` belongs to, to be looked at; None where no network was given."""
        return self.network.get_submodule(name.rpartition(".")[0]) if self.has("network") else None


@dataclass(frozen=True)
class Rescaled:
    """What a rescaling gives.

    Parameters
    ----------
    weights : dict[str, Tensor]
        The rescaled weights of the prunable tensors: same names, shapes, dtypes, and still masked.
    lr_factors : Mapping[str, float]
        What the learning rates of parameters are multiplied by; those not named keep theirs.
    """

    weights: State
    lr_factors: Mapping[str, float] = field(default_factory=dict)


Rescaling: TypeAlias = Callable[[Mapping[str, Tensor], Masks, RescalingContext], "State | Rescaled"]


class RescalingFacts(msgspec.Struct, frozen=True):
    """What a rescaling states about itself.

    Parameters
    ----------
    needs : str, optional
        ``batch`` where data and the network are looked at, ``ticket`` where a ticket and its random twin are.
    again : str, optional
        ``compounds`` where weights that are rescaled already would be rescaled once more.
    optimizers : tuple[str, ...]
        The only optimisers that its learning rates are derived for; none where it is for any.
    """

    needs: Literal["batch", "ticket"] | None = None
    again: Literal["compounds"] | None = None
    optimizers: tuple[str, ...] = ()


RESCALINGS: Registry[Rescaling, RescalingFacts] = Registry("rescaling", RescalingFacts)
"""Each turns masked weights of the prunable tensors into their rescaled values, alone or as :class:`Rescaled`.

Call them by :func:`rescale`.
"""

rescaling = RESCALINGS.register


def rescale(
    name: str, weights: Mapping[str, Tensor], masks: Masks, context: RescalingContext, *, optimizer: str
) -> Rescaled:
    """Weights and factors of the learning rates by the rescaling ``name``.

    Parameters
    ----------
    name : str
        A registered rescaling.
    weights : Mapping[str, Tensor]
        Of the prunable tensors, by parameter name; what is not kept is zero.
    masks : Masks
        What is kept of them.
    context : RescalingContext
        What the rescaling may look at beyond them.
    optimizer : str
        The optimiser that trains them, by its name in a recipe.

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
    return made if isinstance(made, Rescaled) else Rescaled(made)


def check_optimizer(name: str, optimizer: str) -> None:
    """InputError where the rescaling ``name`` is not derived for the optimiser; also for an unknown rescaling."""
    able = RESCALINGS.entry(name).facts.optimizers
    if able and optimizer not in able:
        raise InputError(
            f"rescale = '{name}' with the optimiser '{optimizer}', for which its learning rates were not derived",
            where="rescale",
            expected=f"{' or '.join(able)}, or rescale = 'layer' for the weights alone",
        )


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """``weight`` with what is not kept at exactly 0.0; a copy."""
    # Not a product: that would leave −0.0 where a negative weight was masked.
    return weight.detach().masked_fill(~mask.to(weight.device), 0.0)
