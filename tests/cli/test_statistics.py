"""The commands about statistics, and comparisons as a user sees them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from oneticket.statistics import seeds_needed, smallest_detectable

TABLE = Path(__file__).resolve().parents[2] / "docs" / "results" / "fashion-mnist.csv"


def test_power_says_how_many_seeds_a_difference_needs(call: Any) -> None:
    told = call("power", "--difference", "0.5", "--spread", "0.4").out
    assert told.startswith("8 seeds show a difference of 0.5 points")
    assert " 6 seeds show 0.57 points or more" in told
    assert call("power", "--difference", "0.001", "--spread", "4").out.startswith("more than 100,000 seeds")
    facts = json.loads(call("power", "--difference", "0.5", "--spread", "0.4", "--tests", "10", "--json").out)
    assert facts["seeds"] == seeds_needed(0.5, 0.4, confidence=0.995)
    assert facts["smallest_detectable"]["6"] == smallest_detectable(6, 0.4, confidence=0.995)


def test_power_reads_spreads_from_a_table(call: Any) -> None:
    told = call("power", str(TABLE), "--difference", "0.5", "--against", "random").out
    assert [line.split()[0] for line in told.splitlines()] == ["arm", "winning", "preserved", "layer-permuted"]
    facts = json.loads(call("power", str(TABLE), "--difference", "0.5", "--against", "random", "--json").out)
    assert {row["against"] for row in facts} == {"random"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--difference", "0.5"], "--spread, or a STORE"),
        ([str(TABLE), "--difference", "0.5", "--spread", "1"], "--spread, or a STORE"),
        (["--difference", "0", "--spread", "1"], "0"),
        (["--difference", "1", "--spread", "1", "--against", "random"], "need a STORE"),
    ],
)
def test_power_refuses_what_it_cannot_answer(call: Any, words: list[str], told: str) -> None:
    found = call("power", *words)
    assert found.code == 2
    assert told in found.error


@pytest.mark.slow
def test_statistics_simulates_and_draws(call: Any, tmp_path: Path) -> None:
    figure = tmp_path / "statistics.svg"
    told = call("statistics", "--tables", "100", "--format", "markdown", "--figure", str(figure)).out
    assert told.count("| test split |") == 3
    assert told.count("\n| own |") == told.count("\n| shared |") == 3 * 12
    assert figure.read_bytes().startswith(b"<?xml")
    assert call("statistics", "--images", "--tables", "100", "--format", "markdown").out.count("\n| ") == 2 + 6
    assert len(json.loads(call("statistics", "--images", "--tables", "100", "--format", "json").out)) == 30


def test_a_figure_of_what_is_not_drawn_is_refused(call: Any) -> None:
    assert call("statistics", "--images", "--figure", "x.svg").code == 2


def test_comparisons_have_four_forms(call: Any) -> None:
    words = ("results", str(TABLE), "--comparisons", "--against", "random", "--arm", "winning")
    shown, lines = call(*words).out, list(csv.DictReader(io.StringIO(call(*words, "--format", "csv").out)))
    assert {line["verdict"] for line in lines} == {"better", "worse", "not decided"}
    assert f"{len(lines)} comparisons: " in shown
    assert "within ±0.20 points" in shown
    assert "within ±5.00 points" in call(*words, "--margin", "5").out
    assert call(*words, "--format", "markdown").out.count("\n| ") == len(lines) + 1 + 2 + 3, "and one over the targets"
    assert r"\begin{tabular}" in call(*words, "--format", "latex").out


@pytest.mark.parametrize(
    "words",
    [
        ["--comparisons", "--cost"],
        ["--comparisons", "--wide"],
        ["--margin", "1"],
        ["--format", "latex"],
        ["--comparisons", "--format", "parquet"],
        ["--comparisons", "--margin", "0"],
    ],
)
def test_what_does_not_go_with_comparisons_is_refused(call: Any, words: list[str]) -> None:
    assert call("results", str(TABLE), *words).code == 2


@pytest.mark.parametrize(("seeds", "told"), [("seeds = 1", "with one there is neither"), ("seeds = 2", "two show a")])
def test_plan_says_when_seeds_are_too_few(call: Any, tiny: Any, seeds: str, told: str) -> None:
    assert f"too few seeds: {told}" in call("plan", tiny(("seeds = 1", seeds))).out


def test_plan_says_nothing_of_three_seeds(call: Any, tiny: Any) -> None:
    assert json.loads(call("plan", tiny(("seeds = 1", "seeds = 3")), "--json").out)["too_few_seeds"] is None
