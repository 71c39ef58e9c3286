"""``oneticket verify``: what is missing is computed, the verdicts are told, and the exit code follows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WITHIN = '[[claim]]\nsays = "Within all bounds."\narm = "winning"\nagainst = "random"\nequivalent = 99\n'
BETTER = '[[claim]]\nsays = "It wins."\narm = "winning"\nagainst = "random"\ndirection = "better"\n'
Claimed = Callable[..., Path]


@pytest.fixture
def claimed(tiny: Any, tmp_path: Path) -> Claimed:
    """Writes the tiny experiment with two seeds and these claims at its end, and gives its name."""

    def write(*claims: str) -> Path:
        name = tiny(("seeds = 1", "seeds = 2"), ("densities = [0.5, 0.25]", "densities = [0.5]"))
        (tmp_path / name).write_text("\n".join([(tmp_path / name).read_text(), *claims]))
        return Path(name)

    return write


def arrange(tmp_path: Path, gains: dict[int, float]) -> None:
    """Give the ``winning`` networks of the store these gains over the ``random`` ones, by seed."""
    from oneticket.lab.cells.records import sealed
    from oneticket.lab.cells.store import Store

    store = Store.open(tmp_path / "stores" / "tiny")
    (content,) = store.experiments("tiny")
    for values in content["rows"]:
        row = dict(zip(content["columns"], values, strict=True))
        record = store.read(row["cell"])
        record["outcome"]["test_accuracy"] = 0.5 + (gains[row["seed"]] if row["arm"] == "winning" else 0.0)
        (store.folder(row["cell"]) / "cell.json").write_text(sealed(record))


@pytest.mark.slow
def test_verify_runs_and_tells_the_verdicts(call: Any, claimed: Claimed, tmp_path: Path) -> None:
    file = claimed(WITHIN)
    told = call("verify", file, "--no-run")
    assert (told.code, "is not a store" in told.error) == (2, True), "nothing was computed yet"
    told = call("verify", file, "--workers", "1")
    assert told.code == 0, told.error
    assert told.out.startswith("SUPPORTED: Within all bounds.\n  winning within ±99 points of random, 1 place\n")
    assert "n = 2" in told.out
    assert "Supported: the claim shows at all its places" in told.out
    assert "trained" in told.error

    # A claim that is not in the store yet, and the exit codes of the others.
    both = claimed(WITHIN, BETTER)
    refused = call("verify", both, "--no-run")
    assert (refused.code, "'It wins.' is not in the store yet" in refused.error) == (2, True)
    for gains, code, word in (
        ({0: 0.2, 1: 0.201}, 0, "supported"),
        ({0: -0.2, 1: -0.201}, 1, "contradicted"),
        ({0: 0.002, 1: -0.001}, 3, "not decided"),
    ):
        arrange(tmp_path, gains)
        told = call("verify", both, "--json")
        assert told.code == code, told.error
        found = json.loads(told.out)
        assert [verdict["verdict"] for verdict in found] == ["supported", word]
        assert found[1]["places"][0]["difference"] == pytest.approx(sum(gains.values()) / 2)
        assert found[1]["late"] == "added after 6 of 6 networks were there"

    # The others show the verdicts before their tables.
    assert call("results", "stores/tiny").out.startswith("SUPPORTED: Within")
    assert call("results", "stores/tiny", "--format", "markdown").out.startswith("- **Supported:** Within")
    assert not call("results", "stores/tiny", "--format", "csv").out.startswith("SUPPORTED")
    assert "NOT DECIDED: It wins." in call("run", both).out
    call("report", "stores/tiny", "--out", "page")
    assert "What was claimed" in (tmp_path / "page" / "report.html").read_text("utf-8")


def test_an_experiment_without_claims_has_nothing_to_verify(call: Any, claimed: Claimed) -> None:
    told = call("verify", claimed())
    assert told.code == 2
    assert "makes no claim" in told.error


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        (BETTER.replace('says = "It wins."\n', ""), "claim[0]"),
        (BETTER.replace("[[claim]]", "[claim]"), "claim: this is a table"),
        (BETTER.replace("better", "bettr"), "did you mean 'better'"),
    ],
)
def test_a_claim_that_is_none_is_refused_whatever_the_command(
    claim: str, told: str, call: Any, claimed: Claimed
) -> None:
    for command in ("plan", "verify"):
        found = call(command, claimed(claim))
        assert (found.code, told in found.error) == (2, True), found.error


def test_plan_tells_the_claims_and_what_cannot_be_answered(call: Any, claimed: Claimed, tmp_path: Path) -> None:
    file = claimed(BETTER)
    (tmp_path / file).write_text('claims = ["paper"]\n' + (tmp_path / file).read_text())
    told = call("plan", file)
    assert "claim: It wins. (1 place)" in told.out
    assert "not answered here: paper/mask-place: no grid trains the arm 'preserved'" in told.out
    facts = json.loads(call("plan", file, "--json").out)
    assert facts["claims"] == [{"says": "It wins.", "places": 1}]
    assert {"name": "paper/mask-place", "lacks": "no grid trains the arm 'preserved'"} in facts["unanswered"]


def test_a_claim_about_what_is_not_trained_is_refused_by_plan(call: Any, claimed: Claimed) -> None:
    told = call("plan", claimed(BETTER.replace("random", "snip")))
    assert told.code == 2
    assert "claim[0]: against: no grid trains the arm 'snip'" in told.error


def test_ready_claims_are_listed(call: Any) -> None:
    told = call("list", "claim")
    assert "paper/winning" in told.out
    assert "reviews/not-universal" in told.out
