"""Arms: the ways to get the network that is trained on a target, as points of mask × weights × method."""

from __future__ import annotations

from typing import Literal

import msgspec

from oneticket.errors import InputError, unknown
from oneticket.pruning import control
from oneticket.weights import draw

Method = Literal["train", "fine-tune", "lr-rewind"]

DENSE = "dense"
TICKET = "ticket"


class Arm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One arm: which mask, which weights under it, how they are trained, and whose ticket it starts from.

    ``mask`` is ``dense``, ``ticket`` or a registered mask control; ``weights`` a registered draw; ``ticket`` tells
    whether the mask and the weights come from the source's search or from the target's own.
    """

    mask: str
    weights: str
    method: Method = "train"
    ticket: Literal["source", "target"] = "source"

    def __post_init__(self) -> None:
        masks = [DENSE, TICKET, *control]
        if self.mask not in masks:
            raise unknown("mask", self.mask, masks)
        if self.weights not in draw:
            raise unknown("weights", self.weights, list(draw))
        if self.mask == DENSE and self.weights != "initial":
            raise InputError(f"weights = '{self.weights}' with a dense mask", expected="weights = 'initial'")

    @property
    def needs(self) -> Literal["nothing", "density", "ticket"]:
        """What the arm must know of a search: nothing, the density of a round, or its masks and weights.

        A control that looks at the density only (its register says so) with weights that are no ticket's is the same
        network whatever the source, and is trained once for all of them.
        """
        if self.mask == DENSE:
            return "nothing"
        if self.mask != TICKET and self.weights in ("re-drawn", "initial") and self.method == "train":
            return "density" if control.entry(self.mask).facts.get("needs") == "density" else "ticket"
        return "ticket"


ARMS: dict[str, Arm] = {
    "dense": Arm(mask="dense", weights="initial"),
    "winning": Arm(mask="ticket", weights="rewound"),
    "own": Arm(mask="ticket", weights="rewound", ticket="target"),
    "random": Arm(mask="globally-permuted", weights="re-drawn"),
    "preserved": Arm(mask="ticket", weights="re-drawn"),
    "layer-permuted": Arm(mask="layer-permuted", weights="re-drawn"),
    "even": Arm(mask="even", weights="re-drawn"),
    "erk": Arm(mask="erk", weights="re-drawn"),
    "pruned-finetune": Arm(mask="ticket", weights="trained", method="fine-tune"),
}

ARM_SOURCES: dict[str, str] = {
    "dense": "the target from scratch",
    "winning": "Frankle & Carbin 2019; Morcos et al. 2019",
    "own": "Frankle & Carbin 2019: the ceiling",
    "random": "Morcos et al. 2019",
    "preserved": "Frankle & Carbin 2019; Liu et al. 2019",
    "layer-permuted": "Morcos et al. 2019, fig. A1",
    "even": "uniform density in every layer",
    "erk": "Mocanu et al. 2018; Evci et al. 2020",
    "pruned-finetune": "Han et al. 2015; Renda et al. 2020",
}
