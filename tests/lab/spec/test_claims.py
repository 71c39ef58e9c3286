"""Claims of an experiment file: what is understood, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lab.spec.arms import ARMS
from oneticket.lab.spec.claims import Claim
from oneticket.lab.spec.experiment import read_experiment
from oneticket.lab.spec.ready_claims import LISTS, READY, ready_claims
from oneticket.weights import RESCALINGS

RAW: dict[str, Any] = {
    "name": "tiny",
    "model": "lenet-300-100",
    "data": {"digits": {"builtin": "digits"}},
    "recipe": {"sgd": {"optimizer": "sgd", "lr": 0.1, "epochs": 2}},
    "transfer": [{"targets": ["digits@sgd"], "sources": ["digits@sgd"]}],
}
CLAIM: dict[str, Any] = {"says": "It wins.", "arm": "winning", "against": "random", "direction": "better"}


def read(*claims: dict[str, Any], **more: Any) -> Any:
    return read_experiment(copy.deepcopy(RAW) | {"claim": list(claims)} | more)


def test_a_claim_is_read_and_tells_its_sides() -> None:
    (claim,) = read(CLAIM | {"rescale": "smup", "against_source": "digits@sgd"}).claim
    assert claim == Claim(**CLAIM, rescale="smup", against_source="digits@sgd")
    assert claim.comparison == "winning (rescale smup) − random (rescale smup, from digits@sgd)"


def test_an_experiment_without_claims_has_none() -> None:
    assert (read().claim, read().claims) == ((), ())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"direction": "beter"}, "did you mean 'better'"),
        ({"directon": "better"}, "did you mean 'direction'"),
        ({"direction": None}, "neither direction nor equivalent"),
        ({"equivalent": 0.5}, "direction and equivalent"),
        ({"direction": None, "equivalent": 0}, "above 0"),
        ({"direction": None, "equivalent": 100.0}, "below 100"),
        ({"says": "  "}, "the sentence is empty"),
        ({"arm": None}, "arm"),
        ({"against": "winning"}, "compared with itself"),
        ({"against": None}, "compared with itself"),
        ({"at_most": 5}, "a density, above 0 and at most 1"),
        ({"across": "datas"}, "did you mean 'data'"),
        ({"targets": "digits@sgd"}, "list"),
    ],
)
def test_what_cannot_be_a_claim_is_refused(change: dict[str, Any], told: str) -> None:
    claim = {key: value for key, value in (CLAIM | change).items() if value is not None}
    with pytest.raises(InputError) as refused:
        read(CLAIM | {"says": "Another."}, claim)
    assert told in str(refused.value)
    assert "claim[1]" in str(refused.value)


def test_the_same_arm_may_be_compared_from_elsewhere_or_rescaled() -> None:
    same = {key: value for key, value in CLAIM.items() if key != "against"}
    assert read(same | {"against_source": "digits@sgd"}).claim[0].other == "winning"
    assert read(same | {"against_rescale": "smup"}).claim[0].comparison == "winning − winning (rescale smup)"


def test_two_claims_of_one_sentence_are_refused() -> None:
    with pytest.raises(InputError, match=r"claim\[1\].*like another claim"):
        read(CLAIM, CLAIM)


@pytest.mark.parametrize(
    ("words", "told"),
    [(["papre"], "did you mean 'paper'"), (["reviews/beats-snipp"], "beats-snip"), (["paper", "paper"], "twice")],
)
def test_unknown_ready_claims_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(InputError) as refused:
        read(claims=words)
    assert told in str(refused.value)


def test_ready_claims_are_named_by_list_or_one_by_one() -> None:
    assert ready_claims(["paper/within", "paper"])[0] == READY["paper/within"]
    assert len(ready_claims(["paper/winning", "paper"])) == len(ready_claims(["paper"]))
    assert sum(len(ready_claims([name])) for name in LISTS) == len(READY)


@pytest.mark.parametrize("name", READY)
def test_a_ready_claim_is_a_sentence_about_arms_that_there_are(name: str) -> None:
    claim = READY[name].claim
    assert claim.says[0].isupper()
    assert claim.says.endswith(".")
    assert {claim.arm, claim.other} <= set(ARMS)
    assert {claim.rescale, claim.against_rescale or "none"} <= set(RESCALINGS)


def test_no_two_ready_claims_say_the_same() -> None:
    assert len({ready.claim.says for ready in READY.values()}) == len(READY)
