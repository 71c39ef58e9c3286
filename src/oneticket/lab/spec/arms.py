"""Arms: the ways to get the network that is trained on a target, as points of mask × weights × method."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from oneticket.errors import InputError, unknown
from oneticket.lab.spec.makers import Maker, maker_of, makers
from oneticket.lab.spec.searches import OtherSearch
from oneticket.methods import METHODS, PRETRAININGS, method_options
from oneticket.models import ModelSpec
from oneticket.pruning import ALLOCATIONS, CONTROLS, CRITERIA
from oneticket.pruning.correspondence import Blocks
from oneticket.weights import DRAWS, NORMS

DENSE = "dense"
TICKET = "ticket"
INTERPOLATED = "interpolated"

Owner = Literal["source", "target"]
Needs = Literal["nothing", "density", "ticket", "pretraining"]
Length = Literal["recipe", "k-more"]


class Arm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One arm: which mask, which weights under it, how they are trained, and whose ticket it starts from.

    Parameters
    ----------
    mask : ``dense``, ``ticket``, a registered mask control, a criterion that scores the untrained network on the
        target's data, or a mask that a training of its own gives (:mod:`oneticket.lab.spec.makers`).
    mask_options : the options of the method of that training.
    weights : a registered draw or pre-training.
    method, options : a registered method and its options.
    norms : a registered choice of the normalisation parameters, or ``interpolated``.
    allocation : the allocation for a mask from a criterion, and for ``largest-update``.
    ticket : whether the mask comes from the search of the source or of the target, or from a training on it.
    values : whether the weights under the mask come from the source or the target; None for the same as ``ticket``.
    search : the fields in which the search of the ticket differs from the experiment's.
    model : the network in which an ``elastic`` mask was found.
    blocks : the order in which an ``elastic`` mask repeats or drops residual blocks, ``append`` or ``interleave``.
    length : how long the target is trained: as its recipe says, or for as many steps more as the rewind point k has,
        with every drop of the learning rate counted from the end.
    """

    mask: str
    weights: str
    method: str = "train"
    options: dict[str, Any] = {}
    norms: str = "as-drawn"
    allocation: str = "global"
    ticket: Owner = "source"
    values: Owner | None = None
    search: OtherSearch = OtherSearch()
    model: str | ModelSpec | None = None
    blocks: Blocks = "append"
    length: Length = "recipe"
    mask_options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        choices = {
            "mask": mask_words(),
            "weights": [*DRAWS, *PRETRAININGS],
            "method": list(METHODS),
            "norms": [*NORMS, INTERPOLATED],
            "allocation": list(ALLOCATIONS),
            "blocks": list(get_args(Blocks)),
        }
        for key, words in choices.items():
            _check_word(key, getattr(self, key), words)
        msgspec.structs.force_setattr(self, "options", method_options(self.method, self.options))
        self._check_masks()
        if self.makes_masks and self.mask != DENSE:
            raise InputError(
                f"mask = '{self.mask}' with method = '{self.method}', which makes its own masks",
                expected=f"mask = '{DENSE}'",
            )
        if self.mask == DENSE and self.weights in ("re-drawn", "reshuffled"):
            raise InputError(
                f"weights = '{self.weights}' with a dense mask", expected="weights = 'initial', 'rewound' or 'trained'"
            )
        if self.weights in PRETRAININGS and self.mask != DENSE:
            raise InputError(f"weights = '{self.weights}' under a mask", expected=f"mask = '{DENSE}'")
        if self.weights in PRETRAININGS and self.norms != "as-drawn":
            raise InputError(f"norms = '{self.norms}' with a pre-trained network", expected="norms = 'as-drawn'")
        if self.search != OtherSearch() and self.needs != "ticket":
            raise InputError("a search for an arm that uses no ticket", expected="no search, or mask = 'ticket'")
        if (self.mask == "elastic") != (self.model is not None):
            raise InputError(
                f"mask = '{self.mask}' with model = {self.model!r}",
                expected="mask = 'elastic' together with model, the network in which its ticket is found",
            )
        if self.mask != "elastic" and self.blocks != "append":
            raise InputError(f"blocks = '{self.blocks}' with mask = '{self.mask}'", expected="mask = 'elastic'")
        if self.length == "k-more" and (self.starts_at_rewind or self.takes_no_step or self.cycles > 1):
            does = "takes no step" if self.takes_no_step else "begins at k" if self.starts_at_rewind else "repeats"
            raise InputError(
                f"length = 'k-more' with method = '{self.method}', which {does}", expected="length = 'recipe'"
            )

    def _check_masks(self) -> None:
        """Refuse options for a mask that takes none, and weights to freeze that are zero already."""
        if self.maker is not None:
            made = method_options(self.maker.method, self.mask_options)
            msgspec.structs.force_setattr(self, "mask_options", made)
        elif self.mask_options:
            raise InputError(
                f"mask_options with mask = '{self.mask}'",
                expected=f"none, or mask = {' or '.join(map(repr, makers()))}",
            )
        if self.freezes and self.mask == DENSE:
            raise InputError(
                f"method = '{self.method}' with a dense mask, which freezes nothing", expected="a mask that does"
            )
        if self.freezes and self.needs_rounds and self.weights == "trained":
            raise InputError(
                f"method = '{self.method}' under a ticket with weights = 'trained', of which those outside are zero",
                expected="weights = 'initial' or 'rewound', or a mask without a search, such as 'largest-update'",
            )

    @property
    def maker(self) -> Maker | None:
        """What makes the mask, where a training of its own does."""
        return maker_of(self.mask)

    @property
    def is_allocated(self) -> bool:
        """Whether ``allocation`` divides the mask over the layers."""
        return self.scored_on_target or (self.maker is not None and self.maker.criterion is not None)

    @property
    def freezes(self) -> bool:
        """Whether weights outside the mask stay at their values, so that the network is dense."""
        return METHODS.entry(self.method).facts.masked == "frozen"

    @property
    def needs_rounds(self) -> bool:
        """Whether what it takes of a ticket belongs to the round of its density, and not to the dense training."""
        if self.maker is not None:
            return False
        return not self.freezes or self.mask == TICKET or _looks_at_ticket(self.mask)

    @property
    def found_in(self) -> ModelSpec | None:
        """The network in which the ticket of an ``elastic`` arm is found."""
        return ModelSpec(name=self.model) if isinstance(self.model, str) else self.model

    @property
    def makes_masks(self) -> bool:
        """Whether the method makes its own masks while it trains."""
        return METHODS.entry(self.method).facts.makes == "masks"

    @property
    def mask_from(self) -> str:
        """The ticket that gives the masks: the replicate's ``own``, or a ticket of another seed or depth."""
        return CONTROLS.entry(self.mask).facts.masks_from if self.mask in CONTROLS else "own"

    @property
    def needs(self) -> Needs:
        """What the arm needs from other cells: nothing, the density of a round, a ticket, or a pre-training.

        An arm that needs only the density (a fact of each control), with weights that come from no ticket, is the same
        network for every source and is trained once for all of them.
        """
        if self.weights in PRETRAININGS:
            return "pretraining"
        fresh = self.weights in ("re-drawn", "initial") and self.norms in ("as-drawn", "fresh")
        if not fresh:
            return "ticket"
        if self.mask == DENSE:
            return "density" if self.makes_masks else "nothing"
        if self.mask == TICKET or self.maker is not None or _looks_at_ticket(self.mask):
            return "ticket"
        return "density"

    @property
    def stays_dense(self) -> bool:
        """Whether all weights are kept to the end, so that the requested density does not apply."""
        return self.mask == DENSE and not self.makes_masks

    @property
    def starts_at_rewind(self) -> bool:
        """Whether the training begins at the rewind point of the recipe."""
        return METHODS.entry(self.method).facts.start == "rewind"

    @property
    def cycles(self) -> int:
        """How often the method runs the recipe, one time after the other."""
        return int(self.options["cycles"]) if METHODS.entry(self.method).facts.repeats else 1

    @property
    def takes_no_step(self) -> bool:
        """Whether the network is judged as it is put together."""
        return METHODS.entry(self.method).facts.start == "end"

    @property
    def has_rewound_weights(self) -> bool:
        """Whether the weights are W_k: a network that has k steps of training behind it."""
        return self.weights == "rewound"

    @property
    def looks_at_source(self) -> bool:
        """Whether the arm needs a source; controls that use only the density have one in their rows, but need none."""
        if self.needs == "pretraining":
            return True
        if (self.mask != DENSE and not self.scored_on_target) or self.needs == "ticket":
            return "source" in (self.ticket, self.values or self.ticket)
        return False

    @property
    def scored_on_target(self) -> bool:
        """Whether the mask comes from scores of the untrained network on the target's training data."""
        return self.mask in CRITERIA and self.mask not in (DENSE, TICKET) and self.mask not in CONTROLS


def _looks_at_ticket(mask: str) -> bool:
    """Whether a mask is that of a control that looks at where the ticket's weights are."""
    return mask in CONTROLS and CONTROLS.entry(mask).facts.needs != "density"


def _check_word(key: str, word: str, words: list[str]) -> None:
    if word not in words:
        raise unknown(key, word, words)


def mask_words() -> list[str]:
    """Every valid value of an arm's ``mask``."""
    at_start = [entry.name for entry in CRITERIA.entries() if entry.facts.at == "init"]
    return [DENSE, TICKET, *CONTROLS, *(name for name in at_start if name not in CONTROLS), *makers()]


_LITERATURE: dict[str, tuple[Arm, str]] = {
    "dense": (Arm(mask="dense", weights="initial"), "the target from scratch"),
    "winning": (Arm(mask="ticket", weights="rewound"), "Frankle & Carbin 2019; Morcos et al. 2019"),
    "own": (Arm(mask="ticket", weights="rewound", ticket="target"), "Frankle & Carbin 2019: the ceiling"),
    # Masks, with weights drawn afresh.
    "random": (Arm(mask="globally-permuted", weights="re-drawn"), "Morcos et al. 2019"),
    "random-from-longer": (
        Arm(mask="globally-permuted", weights="re-drawn", length="k-more"),
        "random with the k steps that a ticket has behind it",
    ),
    "preserved": (Arm(mask="ticket", weights="re-drawn"), "Frankle & Carbin 2019; Liu et al. 2019"),
    "layer-permuted": (Arm(mask="layer-permuted", weights="re-drawn"), "Morcos et al. 2019, fig. A1"),
    "even": (Arm(mask="even", weights="re-drawn"), "uniform density in every layer"),
    "erk": (Arm(mask="erk", weights="re-drawn"), "Mocanu et al. 2018; Evci et al. 2020"),
    "smart": (Arm(mask="smart", weights="re-drawn"), "Su et al. 2020"),
    "smart-vgg": (Arm(mask="smart-vgg", weights="re-drawn"), "Su et al. 2020: the densities of its code for VGG"),
    "natural-corrected": (Arm(mask="natural-corrected", weights="re-drawn"), "Caron et al. 2020"),
    # Masks against weights.
    "other-seed": (Arm(mask="other-seed", weights="rewound"), "Adnan et al. 2025"),
    "aligned": (Arm(mask="aligned", weights="rewound"), "Adnan et al. 2025"),
    "source-mask": (Arm(mask="ticket", weights="rewound", values="target"), "the source's mask on the target's W_k"),
    "source-weights": (
        Arm(mask="ticket", weights="rewound", ticket="target", values="source"),
        "the target's mask on the source's W_k",
    ),
    "dense-from-k": (Arm(mask="dense", weights="rewound"), "the k steps of a ticket without its mask"),
    "ticket-initial": (Arm(mask="ticket", weights="initial"), "Frankle & Carbin 2019"),
    "reshuffled": (Arm(mask="ticket", weights="reshuffled"), "Frankle et al. 2021"),
    "sign-constant": (Arm(mask="ticket", weights="sign-constant"), "Zhou et al. 2019"),
    "sign-redrawn": (Arm(mask="ticket", weights="sign-redrawn"), "Zhou et al. 2019: its signs"),
    "sign-interpolated": (
        Arm(mask="ticket", weights="sign-redrawn", norms=INTERPOLATED),
        "after Oh et al. 2025, who interpolate in the source's training",
    ),
    "aws": (
        Arm(
            mask="ticket",
            weights="sign-trained-all",
            norms="fresh",
            search=OtherSearch(method="lr-rewind", norms="interpolated"),
        ),
        "Oh et al. 2025: A Winning Sign",
    ),
    "lrr-signed": (
        Arm(mask="ticket", weights="sign-trained-all", norms="fresh", search=OtherSearch(method="lr-rewind")),
        "the same from a search without interpolation",
    ),
    "untrained": (
        Arm(mask="ticket", weights="initial", method="evaluate"),
        "Zhou et al. 2019: a mask without training",
    ),
    # Trained weights.
    "pruned-finetune": (
        Arm(mask="ticket", weights="trained", method="fine-tune"),
        "Han et al. 2015; Renda et al. 2020",
    ),
    "pruned-lr-rewind": (Arm(mask="ticket", weights="trained", method="lr-rewind"), "Renda et al. 2020"),
    "pruned-probe": (Arm(mask="ticket", weights="trained", method="linear-probe"), "Alain & Bengio 2017"),
    "dense-finetune": (Arm(mask="dense", weights="trained", method="fine-tune"), "Yosinski et al. 2014"),
    "dense-pretrained": (Arm(mask="dense", weights="trained"), "Yosinski et al. 2014, the whole recipe"),
    "autoencoder": (
        Arm(mask="dense", weights="autoencoder"),
        "Hinton & Salakhutdinov 2006; Bengio et al. 2007",
    ),
    "denoising": (Arm(mask="dense", weights="denoising"), "Vincent et al. 2010"),
    "rotation": (Arm(mask="dense", weights="rotation"), "Gidaris et al. 2018"),
    "layer-wise": (Arm(mask="dense", weights="layer-wise"), "Bengio et al. 2007"),
    # Pruned on the target, before training.
    "magnitude-init": (Arm(mask="magnitude-init", weights="initial"), "Frankle et al. 2021"),
    "snip": (Arm(mask="snip", weights="initial"), "Lee et al. 2019"),
    "grasp": (Arm(mask="grasp", weights="initial"), "Wang et al. 2020"),
    "synflow": (Arm(mask="synflow", weights="initial"), "Tanaka et al. 2020"),
    "hts": (Arm(mask="hts", weights="initial"), "Gollini Navarrete et al. 2025"),
    "fts": (Arm(mask="fts", weights="initial"), "Gollini Navarrete et al. 2025"),
    # Pruned on the target, while training.
    "l1": (Arm(mask="dense", weights="initial", method="l1"), "proximal L1"),
    "l0": (Arm(mask="dense", weights="initial", method="l0"), "Louizos et al. 2018"),
    "gmp": (Arm(mask="dense", weights="initial", method="gmp"), "Zhu & Gupta 2017"),
    "gmp-global": (
        Arm(mask="dense", weights="initial", method="gmp", options={"allocation": "global"}),
        "after Zhu & Gupta 2017, with one threshold for the whole network",
    ),
    "set": (Arm(mask="dense", weights="initial", method="set"), "Mocanu et al. 2018"),
    "set-cosine": (Arm(mask="dense", weights="initial", method="set-cosine"), "SET as in Evci et al. 2020"),
    "rigl": (Arm(mask="dense", weights="initial", method="rigl"), "Evci et al. 2020"),
    "edge-popup": (
        Arm(mask="dense", weights="initial", method="edge-popup"),
        "Ramanujan et al. 2020: a mask, no training",
    ),
    "supermask": (
        Arm(mask="dense", weights="initial", method="supermask"),
        "Zhou et al. 2019: a mask, no training",
    ),
    "supermask-constant": (
        Arm(mask="dense", weights="initial", method="supermask", options={"values": "signed-constant"}),
        "Zhou et al. 2019: the same on signed constants",
    ),
    # A mask under trained weights that is searched, or through which they are updated.
    "cts": (Arm(mask="cts", weights="rewound"), "Arora & Teuscher 2025: Concrete Ticket Search"),
    "update-mask": (
        Arm(mask="largest-update", weights="trained", ticket="target", values="source", method="update-fine-tune"),
        "Panda et al. 2024: LoTA",
    ),
    "update-random": (
        Arm(mask="even", weights="trained", method="update-fine-tune"),
        "Xu & Zhang 2024: random masking",
    ),
    # Binary.
    "binary-connect": (Arm(mask="dense", weights="initial", method="binary-connect"), "Courbariaux et al. 2015"),
    "bwn": (Arm(mask="dense", weights="initial", method="bwn"), "Rastegari et al. 2016"),
    "xnor": (Arm(mask="dense", weights="initial", method="xnor"), "Rastegari et al. 2016"),
}

ARMS: dict[str, Arm] = {name: arm for name, (arm, _) in _LITERATURE.items()}
ARM_SOURCES: dict[str, str] = {name: source for name, (_, source) in _LITERATURE.items()}
