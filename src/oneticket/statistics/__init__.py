"""Statistics over seeds: what is measured, how sure it is, and how many seeds would decide."""

from oneticket.statistics.arms import (
    MATCHING_WITHIN,
    TransferEfficiency,
    matching,
    smallest_matching_density,
    transfer_efficiency,
)
from oneticket.statistics.exact import LONGEST, sign_flip
from oneticket.statistics.power import POWER, achieved, seeds_needed, smallest_detectable
from oneticket.statistics.seeds import (
    CONFIDENCE,
    MARGIN,
    Difference,
    Equivalence,
    Interval,
    Sample,
    Seed,
    describe,
    deviation,
    equivalence,
    holm,
    mean,
    paired,
    paired_difference,
    t_interval,
)

__all__ = [
    "CONFIDENCE",
    "LONGEST",
    "MARGIN",
    "MATCHING_WITHIN",
    "POWER",
    "Difference",
    "Equivalence",
    "Interval",
    "Sample",
    "Seed",
    "TransferEfficiency",
    "achieved",
    "describe",
    "deviation",
    "equivalence",
    "holm",
    "matching",
    "mean",
    "paired",
    "paired_difference",
    "seeds_needed",
    "sign_flip",
    "smallest_detectable",
    "smallest_matching_density",
    "t_interval",
    "transfer_efficiency",
]
