"""Words that are choices, so that an editor completes them and a type checker refuses "magnitud".

Choices that are closed are plain literals. Where additions may register more words, a signature takes a literal or an
:data:`Own`: the type checker still refuses a slip, and an addition is named as ``Own("relative-magnitude")``. At run
time every word is a ``str``, and any registered one is valid. A test compares these literals with the registries.
"""

from __future__ import annotations

from typing import Literal, NewType, TypeAlias

Own = NewType("Own", str)
"""A word that code of a user's own has registered."""

CriterionName: TypeAlias = Literal[
    "magnitude", "magnitude-init", "normalised-magnitude", "movement", "magnitude-increase", "random", "snip", "grasp",
    "hutch-diag", "hutch-pruning", "hts", "fisher-pruner", "fts", "synflow",
]  # fmt: skip
AllocationName: TypeAlias = Literal["global", "layerwise", "uniform+", "erk", "lamp", "smart", "smart-vgg"]
RescalingName: TypeAlias = Literal["none", "layer", "fan-in", "matched", "smup", "data"]
ArmName: TypeAlias = Literal[
    "dense", "winning", "own", "random", "random-from-longer", "preserved", "layer-permuted", "even", "erk", "smart",
    "smart-vgg", "natural-corrected", "other-seed", "aligned", "source-mask", "source-weights", "dense-from-k",
    "ticket-initial", "reshuffled", "sign-constant", "sign-redrawn", "sign-interpolated", "aws", "lrr-signed",
    "untrained", "pruned-finetune", "pruned-lr-rewind", "pruned-probe", "dense-finetune", "dense-pretrained",
    "autoencoder", "denoising", "rotation", "layer-wise", "magnitude-init", "snip", "grasp", "synflow", "hts", "fts",
    "l1", "l0", "gmp", "gmp-global", "set", "set-cosine", "rigl", "edge-popup", "supermask", "supermask-constant",
    "cts", "update-mask", "update-random", "binary-connect", "bwn", "xnor",
]  # fmt: skip

Head: TypeAlias = Literal["fresh", "keep", "copied"]
"""What happens to the classifier of a model into which a ticket is put."""

Stem: TypeAlias = Literal["adapt", "fresh", "strict"]
"""What happens to a first convolution of other channels."""

Within: TypeAlias = Literal["layer", "network"]
"""What of masks a permutation keeps: the density of each layer, or only the overall one."""

Masked: TypeAlias = Literal["zero", "frozen"]
"""What masked weights are held at: 0.0, or the value that they had when keeping began."""
