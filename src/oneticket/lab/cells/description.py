"""Descriptions: everything that identifies the computation of a cell, and nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import msgspec
from torch import Tensor

from oneticket.data import DataRef
from oneticket.identity import canonical_json, digest, digest_of_text
from oneticket.models import blank
from oneticket.pruning.context import BatchLoss
from oneticket.pruning.correspondence import Blocks
from oneticket.search import Search
from oneticket.training import Recipe
from oneticket.training.objectives import LossName, Objective

SCHEMA = 4  # raised whenever the bits of a cell change: cells of older versions then have other identities


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it is built: factory, options, digest of the code if it is the user's, shape of an input, classes.

    ``tokens`` is written where inputs are sequences of tokens; ``classes`` is then the vocabulary.
    """

    name: str
    options: dict[str, Any]
    code: str | None
    input: tuple[int, ...]
    classes: int
    head: str
    prune_head: bool
    prunable: tuple[str, ...] | None
    tokens: Literal[True] | msgspec.UnsetType = msgspec.UNSET

    def blank(self, samples: int = 1) -> Tensor:
        """A batch of zeros of the form of its inputs."""
        return blank(self.input, samples, tokens=bool(self.tokens))


class TicketRef(msgspec.Struct, frozen=True, kw_only=True):
    """The ticket of round ``round``: pruned from cell ``previous``, rewound to the snapshot of cell ``dense``."""

    dense: str
    previous: str
    round: int
    density: float
    search: Search


class Initial(msgspec.Struct, frozen=True, tag_field="kind", tag="initial"):
    """Dense, from W_0."""


class Round(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="round"):
    """A round of a search: the ticket, trained by the search's method."""

    ticket: TicketRef


class ArmStart(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="arm"):
    """An arm: mask, weights and normalisation parameters under it, rescaling, method with its options.

    ``ticket`` is set only where the arm uses one, ``values`` only where the weights come from another ticket;
    ``pretrained`` names the cell whose network gives the weights; ``blocks`` is written where it is not ``append``.
    ``maker`` names the cell whose training gives the masks, where one does.
    ``rewind`` is the moment of the recipe at which the training begins; it is empty for its first step.
    """

    mask: str
    allocation: str
    weights: str
    norms: str
    rescale: str
    method: str
    options: dict[str, Any]
    density: float
    ticket: TicketRef | None
    values: TicketRef | None
    pretrained: str | None
    rewind: str
    blocks: Blocks | msgspec.UnsetType = msgspec.UNSET
    maker: str | msgspec.UnsetType = msgspec.UNSET


class PretrainingStart(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="pre-training"):
    """A pre-training of the network from W_0, without the classes."""

    task: str


CellStart = Initial | Round | ArmStart | PretrainingStart

Rates = Literal["last-tenth", "each-part"]


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """The complete description of one training of one network; its digest is the name of the cell.

    ``code`` has the digest of the code of each criterion, control, draw, … that is not a part of oneticket; where all
    are, it is not written. ``definitions`` has the numbers of the definitions that the cell follows and that were put
    right after the schema was last raised (:mod:`oneticket.lab.cells.definitions`); without any, it is not written.
    ``rates`` is written only where learning rates are not those that the recipe had before
    schedules were scaled to what they are used for; :mod:`oneticket.lab.cells.rates` says what its words mean.
    """

    schema: int = SCHEMA
    network: Network
    data: DataRef
    recipe: Recipe
    seed: int
    start: CellStart
    snapshots: tuple[str, ...] = ()
    test: bool = True
    code: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    definitions: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    rates: Rates | msgspec.UnsetType = msgspec.UNSET

    @property
    def objective(self) -> Objective:
        """Loss and metric: those that the recipe names, else those of the data."""
        usual: LossName | None = "next-token" if self.network.tokens else None
        recipe = self.recipe
        return Objective(recipe.loss or usual, recipe.metric or None, label_smoothing=recipe.label_smoothing)

    @property
    def own_loss(self) -> BatchLoss | None:
        """The mean loss of a batch for criteria; None where it is the cross-entropy of classes."""
        return None if self.objective.name == "classification" else self.objective.loss

    @property
    def identity(self) -> str:
        """SHA-256 of the canonical JSON of the description."""
        return digest(msgspec.to_builtins(self))

    @property
    def parents(self) -> tuple[str, ...]:
        """The cells whose files this cell reads."""
        if isinstance(self.start, Initial | PretrainingStart):
            return ()
        tickets = [self.start.ticket]
        others: list[str | None] = []
        if isinstance(self.start, ArmStart):
            tickets.append(self.start.values)
            others += [self.start.pretrained, self.start.maker or None]
        found = [cell for ticket in tickets if ticket is not None for cell in (ticket.dense, ticket.previous)]
        return tuple(dict.fromkeys([*found, *(cell for cell in others if cell is not None)]))


class CellNamer:
    """Names many cells like :attr:`Description.identity`, but serialises the parts that they share only once.

    Descriptions and their starts differ from cell to cell; networks, data, recipes, tickets, words and densities are
    the same objects in many of them.
    """

    def __init__(self) -> None:
        # Each part is kept beside its text, so that its id cannot be reused.
        self._written: dict[int, tuple[object, str]] = {}

    def identity(self, cell: Description) -> str:
        """The identity of ``cell``."""
        return digest_of_text(self._joined(cell))

    def _joined(self, value: Description | CellStart) -> str:
        """The canonical JSON of a struct, from those of its fields."""
        pieces = []
        for lead, field in _outline(type(value)):
            content = getattr(value, field) if field else ""
            if content is not msgspec.UNSET:
                pieces.append(lead + self._text(content) if field else lead)
        return f"{{{','.join(pieces)}}}"

    def _text(self, value: Any) -> str:
        known = self._written.get(id(value))
        if known is not None:
            return known[1]
        if isinstance(value, Round | ArmStart):
            return self._joined(value)
        text = canonical_json(msgspec.to_builtins(value))
        self._written[id(value)] = value, text
        return text


@cache
def _outline(kind: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """The text before the value of each field in the canonical JSON of a struct; a tag includes its value."""
    about = kind.__struct_config__
    keys = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    leads = {key: (f"{canonical_json(key)}:", field) for key, field in keys.items()}
    if about.tag_field is not None:
        leads[about.tag_field] = (f"{canonical_json(about.tag_field)}:{canonical_json(about.tag)}", "")
    return [leads[key] for key in sorted(leads)]
