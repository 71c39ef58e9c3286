"""Claims by name: those of the paper (Morcos et al. 2019), and the questions that its reviews ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from oneticket.errors import InputError, unknown
from oneticket.lab.spec.claims import Claim

LISTS = ("paper", "reviews")

SPARSE = 0.1
"""What counts as high sparsity: at most this density."""

MARGIN = 0.5
"""Percentage points within which two arms count as equal."""

Only = Literal["", "rates", "equal-search", "more-samples", "more-classes"]


class Ready(msgspec.Struct, frozen=True):
    """A claim by name, and the list it belongs to.

    ``only`` names the networks it is about: those with a learning rate for each arm, those of a grid whose budget has
    the search in it, or pairs of sources of which one has more samples, or more classes among as many samples.
    """

    name: str
    group: str
    claim: Claim
    only: Only = ""


def _ready(group: str, name: str, says: str, arm: str, against: str | None, only: Only = "", **more: Any) -> Ready:
    if "equivalent" not in more:
        more.setdefault("direction", "better")
    if only in ("more-samples", "more-classes"):
        more["against_source"] = "the smaller one"  # each pair of sources puts its own here
    return Ready(name, group, Claim(says=says, arm=arm, against=against, **more), only)


def _beats(name: str, what: str, **more: Any) -> Ready:
    return _ready("reviews", f"beats-{name}", f"A winning ticket is better than {what}.", "winning", name, **more)


_PAPER = (
    _ready(
        "paper", "winning", "At high sparsity, winning tickets are better than random ones.", "winning", "random",
        at_most=SPARSE,
    ),
    _ready(
        "paper", "within", "Tickets transfer within a distribution: they are better than random ones.",
        "winning", "random", at_most=SPARSE, across="split",
    ),
    _ready(
        "paper", "across-data", "Tickets transfer across data sets: they are better than random ones.",
        "winning", "random", at_most=SPARSE, across="data",
    ),
    _ready(
        "paper", "across-optimisers", "Tickets transfer across optimisers: they are better than random ones.",
        "winning", "random", at_most=SPARSE, across="recipe",
    ),
    _ready(
        "paper", "more-samples", "A ticket from more samples of the same classes transfers better.",
        "winning", None, "more-samples", across="data",
    ),
    _ready(
        "paper", "more-classes", "A ticket from more classes transfers better, with as many samples in all.",
        "winning", None, "more-classes", across="data",
    ),
    _ready(
        "paper", "mask-place", "A ticket's mask with new weights is better than one permuted within layers.",
        "preserved", "layer-permuted", at_most=SPARSE,
    ),
    _ready(
        "paper", "layer-densities", "A mask permuted within layers is better than one permuted across the network.",
        "layer-permuted", "random", at_most=SPARSE,
    ),
)  # fmt: skip

_REVIEWS = (
    *(
        _ready(
            "reviews", f"rescaled-{rule}",
            f"Rescaling ({rule}) explains the gap: a random ticket so rescaled is as good as a winning one.",
            "random", "winning", rescale=rule, against_rescale="none", equivalent=MARGIN,
        )
        for rule in ("layer", "fan-in", "matched", "data", "smup")
    ),
    _ready(
        "reviews", "rates",
        "A learning rate for each arm explains the gap: a random ticket with its own is as good as a winning one.",
        "random", "winning", "rates", equivalent=MARGIN,
    ),
    _beats("l1", "an L1 penalty (proximal)"),
    _beats("l0", "an L0 penalty"),
    *(_beats(name, f"pruning at initialisation by {name}")
      for name in ("magnitude-init", "snip", "grasp", "synflow", "hts", "fts")),
    *(_beats(name, f"dynamic sparse training by {name}") for name in ("set", "set-cosine", "rigl")),
    _beats("gmp", "gradual magnitude pruning"),
    _beats("pruned-finetune", "the pruned source, fine-tuned"),
    _beats("dense-pretrained", "a dense network that is pre-trained on the source"),
    _beats("dense-finetune", "a dense network that is fine-tuned from the source"),
    _beats("autoencoder", "unsupervised pre-training as an autoencoder"),
    _beats("denoising", "unsupervised pre-training as a denoising autoencoder"),
    _beats("rotation", "self-supervised pre-training by rotations"),
    _beats("layer-wise", "layer-wise pre-training"),
    _ready(
        "reviews", "worth-its-search",
        "A ticket is worth its search: it is better than a random one that is trained for as long as the search took.",
        "winning", "random", "equal-search",
    ),
    *(_beats(name, f"a network with binary weights ({name})") for name in ("binary-connect", "bwn", "xnor")),
    _ready(
        "reviews", "not-universal", "Tickets are not universal: one from other data is worse than the target's own.",
        "winning", "own", direction="worse", across="data",
    ),
)  # fmt: skip

READY: dict[str, Ready] = {f"{ready.group}/{ready.name}": ready for ready in (*_PAPER, *_REVIEWS)}
"""Every claim by its whole name, such as ``paper/winning``."""


def ready_claims(words: Sequence[str]) -> list[Ready]:
    """The claims that these words name, each once: a list, or one claim such as ``paper/winning``.

    Raises InputError, with the nearest word, for an unknown one.
    """
    found: dict[str, Ready] = {}
    for word in words:
        names: Iterable[str] = [name for name in READY if name == word or name.startswith(f"{word}/")]
        if word not in (*LISTS, *READY):
            raise unknown("claim", word, [*LISTS, *READY], where="claims")
        found |= {name: READY[name] for name in names}
    if len(set(words)) != len(words):
        raise InputError("a claim is named twice", where="claims", expected="each once")
    return list(found.values())
