"""Claims in a store: said before the first network, kept when changed, and judged when all networks are there."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from oneticket.lab.cells.store import Store
from oneticket.lab.results.table import remember, tidy
from oneticket.lab.results.verdicts import verdicts, withdrawn
from oneticket.verdicts import Verdict

CLAIM: dict[str, Any] = {"says": "Within all bounds.", "arm": "winning", "against": "random", "equivalent": 99}
OTHER: dict[str, Any] = {"says": "It wins.", "arm": "winning", "against": "random", "direction": "better"}


def plan(lab: Any, *claims: dict[str, Any], **changes: Any) -> Any:
    small = {"transfer__0__arms": ["winning", "random"], "transfer__0__densities": [0.5]}
    return lab.plan(copy.deepcopy(lab.raw(**small, claim=list(claims), **changes)))


def judged(store: Store) -> list[Verdict]:
    return verdicts(store, tidy(store))


def content(store: Store) -> dict[str, Any]:
    (found,) = store.experiments("tiny")
    return found


def test_claims_change_no_cell_and_no_table_without_them(lab: Any) -> None:
    without, with_one = plan(lab), plan(lab, CLAIM)
    assert list(without.cells) == list(with_one.cells)
    assert without.rows == with_one.rows
    store = lab.store()
    remember(without, store)
    assert not {"claims", "registered"} & set(content(store))


def test_a_claim_is_registered_before_the_first_network_and_judged_after_the_last(lab: Any) -> None:
    store, planned = lab.store(), plan(lab, CLAIM, OTHER)
    remember(planned, store)
    entries = {entry.pop("says"): entry for entry in content(store)["registered"].values()}
    assert entries == {says: {"there": 0, "networks": 6, "seeds": [0, 1]} for says in (CLAIM["says"], OTHER["says"])}
    before, _ = judged(store)
    assert before.word == "not decided"
    assert before.lacks[0].startswith("4 networks are not there: winning on digits@sgd, 50 %, seed 0")
    lab.run(planned, store)
    first, second = judged(store)
    assert (len(first.tests), first.question.late, "not there" in "".join(first.lacks)) == (1, "", False)
    accuracy = {(row["arm"], row["seed"]): row["test_accuracy"] for row in tidy(store)}
    gains = [accuracy["winning", seed] - accuracy["random", seed] for seed in (0, 1)]
    (test,) = second.tests
    assert test.difference is not None
    assert test.difference.mean == pytest.approx(sum(gains) / 2)
    # One network taken away: nothing is decided any more.
    cell = next(row.cell for row in planned.rows if row.arm == "random" and row.seed == 1)
    store.folder(cell).rename(store.root / "gone")
    assert judged(store)[0].lacks == ("1 network is not there: random on digits@sgd, 50 %, seed 1",)


def test_a_claim_that_comes_later_is_marked_and_one_that_goes_is_told(lab: Any) -> None:
    store, planned = lab.store(), plan(lab, CLAIM)
    remember(planned, store)
    lab.run(planned, store)
    later = plan(lab, CLAIM, OTHER)
    assert list(later.cells) == list(planned.cells), "nothing is computed again"
    remember(later, store)
    assert [verdict.question.late for verdict in judged(store)] == ["", "added after 6 of 6 networks were there"]
    # Another margin is another claim, whatever its sentence.
    remember(plan(lab, CLAIM | {"equivalent": 98}), store)
    assert [verdict.question.late for verdict in judged(store)] == ["added after 6 of 6 networks were there"]
    assert withdrawn(store) == ["It wins."]
    # The first one is still known as having been made in time.
    remember(planned, store)
    assert [verdict.question.late for verdict in judged(store)] == [""]


def test_more_seeds_than_a_claim_was_made_for_are_told(lab: Any) -> None:
    store = lab.store()
    planned = plan(lab, CLAIM)
    remember(planned, store)
    lab.run(planned, store)
    remember(plan(lab, CLAIM, seeds=3), store)
    assert judged(store)[0].question.late == "made for 2 seeds, of which there are 3 now"


def test_a_claim_may_be_changed_freely_while_nothing_is_there(lab: Any) -> None:
    store = lab.store()
    for claims, seeds in (([CLAIM], 2), ([OTHER], 3), ([CLAIM], 4)):
        remember(plan(lab, *claims, seeds=seeds), store)
    assert [verdict.question.late for verdict in judged(store)] == [""]


def test_what_is_written_can_be_read_without_this_package(lab: Any) -> None:
    store = lab.store()
    remember(plan(lab, OTHER), store)
    written = json.loads((store.root / "experiments" / "tiny.json").read_text())
    (claim,) = written["claims"]
    assert {key: claim[key] for key in ("says", "comparison", "direction", "margin")} == {
        "says": "It wins.", "comparison": "winning − random", "direction": "better", "margin": None,
    }  # fmt: skip
    assert set(written["registered"]) == {claim["digest"]}
