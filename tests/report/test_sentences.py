"""Sentences: what a comparison says, with the numbers that it rests on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oneticket.report.baselines import Baseline
from oneticket.report.comparisons import ComparisonRow
from oneticket.report.groups import Group
from oneticket.report.sentences import sentence, verdict

ROW = ComparisonRow(
    group=Group("e", "m", "data", "sgd", "data", "sgd", "winning", "none", 0.05), baseline=Baseline("arm", "random"),
    n=6, estimate=0.021, low=0.013, high=0.029, p=0.001, p_adjusted=0.002, p_sign_flip=0.03, p_equivalent=1.0,
    p_equivalent_adjusted=1.0, smallest_detectable=0.01, seeds_needed=4, verdict="better", density=0.05,
)  # fmt: skip


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROW, "At 5.00 % of the weights winning beats random by 2.10 points [1.30, 2.90], "
         "p (Holm) = 0.002 (n = 6 pairs)."),
        (
            replace(ROW, estimate=-0.021, low=-0.029, high=-0.013, p_adjusted=0.0001, verdict="worse"),
            "At 5.00 % of the weights winning loses to random by 2.10 points [1.30, 2.90], p (Holm) <0.001 "
            "(n = 6 pairs).",
        ),
        (
            replace(ROW, verdict="equivalent", p_equivalent_adjusted=0.04),
            "At 5.00 % of the weights winning and random are equivalent, within ±0.20 points, p (Holm) = 0.040 "
            "(n = 6 pairs).",
        ),
        (
            replace(
                ROW, verdict="not decided", estimate=-0.002, low=-0.01, high=0.006, p_adjusted=0.6, seeds_needed=90
            ),
            "At 5.00 % of the weights it is not decided whether winning is better than random: −0.20 points "
            "[−1.00, 0.60], p (Holm) = 0.60 (n = 6 pairs); about 90 seeds would show so much.",
        ),
        (
            replace(ROW, verdict="not decided", n=1, low=None, high=None, p_adjusted=None, seeds_needed=None),
            "At 5.00 % of the weights it is not decided whether winning is better than random: one pair of networks, "
            "2.10 points apart, says nothing of chance.",
        ),
    ],
)  # fmt: skip
def test_a_sentence_says_how_a_comparison_ended(row: ComparisonRow, said: str) -> None:
    assert sentence(row) == said


def test_the_verdict_is_of_the_main_arm_against_the_control_at_every_density() -> None:
    group = ROW.group
    rows = [
        replace(ROW, baseline=Baseline("arm", "dense"), density=0.2),
        replace(ROW, density=0.2),
        replace(ROW, group=group._replace(arm="own")),
        replace(ROW, group=group._replace(arm="dense")),
        ROW,
    ]
    assert verdict(rows).splitlines() == [sentence(rows[1]), sentence(ROW)]
    assert verdict([replace(ROW, group=group._replace(arm="snip"))]).count("snip beats random") == 1
    assert verdict([]) == "Nothing is compared."
