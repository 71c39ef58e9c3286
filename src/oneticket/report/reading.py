"""How the statistics of a table are to be read, in sentences: the same below every table."""

from __future__ import annotations

from collections.abc import Sequence

from oneticket.report.tables import SummaryRow

STAR = (
    "A star: p ≤ 0.05 after Holm's correction over all comparisons of the target with that baseline (every arm, "
    "source, rescaling and density). Each interval is for its comparison alone."
)
UNKNOWN_SIZE = (
    "The number of test images is not known: what they resolve is not in the intervals, and values that do not differ "
    "over the seeds have neither interval nor star."
)


def reading(rows: Sequence[SummaryRow]) -> list[str]:
    """What the stars and intervals of a summary mean; nothing where it has neither."""
    compared = any(found is not None and found.difference.n > 1 for row in rows for found in row.versus.values())
    repeated = any(row.accuracy.n > 1 for row in rows)
    unknown = repeated and any(row.images is None for row in rows)
    return [*([STAR] if compared else []), *([UNKNOWN_SIZE] if unknown else [])]
