"""Findings: the sentences say what the stars of the table say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oneticket.report import summary
from oneticket.report.findings import findings, limits, main_arm

Row = dict[str, Any]
Make = Callable[..., list[Row]]


def shifted(table: list[Row], arm: str, densities: dict[float, float]) -> list[Row]:
    """The table with the accuracies of ``arm`` those of the dense network of the seed, less what ``densities`` says."""
    dense = {row["seed"]: row["test_accuracy"] for row in table if row["arm"] == "dense"}
    noise = (0.0003, -0.0002, 0.0001, -0.0003, 0.0002, -0.0001)
    return [
        row
        | {"test_accuracy": dense[row["seed"]] + densities[row["density_asked"]] + noise[(row["seed"] + len(arm)) % 6]}
        if row["arm"] == arm and row["density_asked"] in densities
        else row
        for row in table
    ]


def test_a_ticket_that_is_better_everywhere_is_said_to_be(make_table: Make) -> None:
    table = make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], arms=["winning", "random"])
    levels = {0.21: -0.001, 0.055: -0.002, 0.018: -0.003}
    table = shifted(shifted(table, "winning", levels), "random", dict.fromkeys(levels, -0.05))
    (finding,) = findings(summary(table))
    assert [answer.verdict for answer in finding.answers] == [
        "winning is better than random at all 3 densities",
        "winning is worse than dense at all 3 densities",
    ]
    assert finding.answers[0].details.startswith("At 1.80 % of the weights: +4.70 [")
    assert finding.answers[0].details.endswith("points (n = 6, shown).")
    assert finding.order.startswith("At 1.80 % the highest mean is that of winning, ")
    assert "the lowest that of random" in finding.order


def test_what_is_not_decided_is_said_to_be_so(make_table: Make) -> None:
    table = make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], arms=["winning", "random"])
    dense = {row["seed"]: row["test_accuracy"] for row in table if row["arm"] == "dense"}
    for row in table:  # the same mean, and differences of either sign
        if row["arm"] != "dense":
            row["test_accuracy"] = dense[row["seed"]] + (
                0.002 if (row["seed"] % 2) == (row["arm"] == "random") else 0.0
            )
    (finding,) = findings(summary(table, ["random"]))
    assert finding.answers[0].verdict == "whether winning is better than random is not decided at any of 3 densities"
    assert finding.answers[0].details.endswith("points (n = 6, not decided).")


def test_several_sources_are_places_and_the_range_is_told(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], densities=[0.018]))
    (finding,) = findings(rows)
    assert "sources" in finding.answers[0].verdict
    assert "points over 2 places (n = 6)" in finding.answers[0].details


def test_without_tickets_the_first_compared_arm_is_asked_about(make_table: Make) -> None:
    assert main_arm(summary(make_table(targets=["a@b"], arms=["preserved", "random"]))) == "preserved"
    assert main_arm(summary(make_table(targets=["a@b"], arms=[]))) is None
    assert findings([]) == []


def test_few_seeds_and_divergence_are_owned_up_to(make_table: Make) -> None:
    table = make_table(targets=["fashion@sgd"], arms=["winning"], densities=[0.018], seeds=3)
    assert limits(summary(table))[0].startswith("With 3 seeds intervals are wide")
    assert not any("diverged" in sentence for sentence in limits(summary(table)))
    table[1]["test_loss"] = None
    assert any("diverged" in sentence for sentence in limits(summary(table)))
