"""Claims → places: every place that the grids have, none twice, and a refusal of what they do not train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lab.planning.claims import Claims, Pair, ask
from oneticket.lab.planning.rows import Row
from oneticket.lab.spec.experiment import Experiment, read_experiment

RAW: dict[str, Any] = {
    "name": "tiny",
    "model": "lenet-300-100",
    "data": {
        "digits": {"builtin": "digits"},
        "low": {"from": "digits", "classes": [0, 1, 2, 3, 4]},
        "few": {"from": "digits", "fraction": 0.5},
        "other": {"path": "elsewhere"},
    },
    "recipe": {
        "sgd": {"optimizer": "sgd", "lr": 0.1, "epochs": 2},
        "adam": {"optimizer": "adam", "lr": 0.1, "epochs": 2},
    },
    "transfer": [{"targets": ["digits@sgd"], "sources": ["digits@sgd"]}],
}
CLAIM: dict[str, Any] = {"says": "It wins.", "arm": "winning", "against": "random", "direction": "better"}
SIZES = {
    "digits": (100, frozenset("abcd")),
    "low": (100, frozenset("ab")),
    "few": (50, frozenset("abcd")),
    "other": (90, frozenset("xy")),
}


def row(arm: str, source: str, target: str, density: float, seed: int = 0, **known: Any) -> Row:
    """A planned row; a random arm is one network for all sources, ``own`` is one for each target."""
    whose = "" if arm == "random" else source
    values: dict[str, Any] = {
        "experiment": "tiny", "model": "lenet", "rescale": "none", "round": 1, "search_trainings": 1, "lr": None,
        "budget": "recipe", "own_steps": 10,
    } | known  # fmt: skip
    data, _, recipe = source.partition("@")
    to, _, to_recipe = target.partition("@")
    cell = f"{arm} {whose} {target} {density} {seed} {values['rescale']} {values['lr']} {values['model']}"
    return Row(
        **values, source=data, source_recipe=recipe, target=to, target_recipe=to_recipe, arm=arm, density_asked=density,
        seed=seed, cell=cell,
    )  # fmt: skip


def grid(sources: Sequence[str] = ("low@sgd", "digits@sgd"), targets: Sequence[str] = ("digits@sgd",)) -> list[Row]:
    rows = []
    for target in targets:
        for seed in (0, 1):
            rows.append(row("dense", "", target, 1.0, seed))
            for density in (0.5, 0.05):
                rows.append(row("own", target, target, density, seed))
                rows += [row(arm, s, target, density, seed) for s in sources for arm in ("winning", "random")]
    return rows


def experiment(*claims: dict[str, Any], ready: Sequence[str] = ()) -> Experiment:
    return read_experiment({**RAW, "claim": list(claims), "claims": list(ready)})


def asked(rows: Sequence[Row], ready: Sequence[str] = (), *claims: dict[str, Any]) -> Claims:
    return ask(experiment(*claims, ready=ready), rows, SIZES.__getitem__)


def places(rows: Sequence[Row], **change: Any) -> list[str]:
    """The places of one claim in words: source of each side, target, density."""
    claim = {key: value for key, value in (CLAIM | change).items() if value is not None}
    (found,) = asked(rows, (), claim).asked
    return [words(pair) for pair in found.places]


def words(pair: Pair) -> str:
    first, second = pair
    return f"{first.source}|{second.source}>{first.target}@{first.target_recipe} {first.density_asked:g}"


def test_a_claim_is_about_all_that_the_grids_train() -> None:
    assert places(grid()) == [f"{s}|{s}>digits@sgd {d}" for d in ("0.5", "0.05") for s in ("low", "digits")]


def test_filters_keep_the_places_they_name() -> None:
    rows = grid(targets=("digits@sgd", "other@sgd"))
    assert places(rows, sources=["low@sgd"], targets=["other@sgd"], densities=[0.05]) == ["low|low>other@sgd 0.05"]
    assert len(places(rows, at_most=0.05)) == 4
    assert places(rows, densities=[0.0501], sources=["low@sgd"]) == places(rows, at_most=0.1, sources=["low@sgd"])


def test_the_dense_network_and_the_own_ticket_stand_beside_every_source() -> None:
    assert places(grid(), against="dense", at_most=0.1) == ["low|>digits@sgd 0.05", "digits|>digits@sgd 0.05"]
    assert places(grid(), against="own", at_most=0.1) == [
        "low|digits>digits@sgd 0.05",
        "digits|digits>digits@sgd 0.05",
    ]


def test_networks_that_are_the_same_for_every_source_make_one_place() -> None:
    assert places(grid(), arm="own", at_most=0.1) == ["digits|digits>digits@sgd 0.05"]
    rows = [*grid(("low@sgd", "few@sgd")), *(row("own", "digits@sgd", "digits@sgd", 0.05, seed) for seed in (0, 1))]
    assert places(rows, arm="own", against="random", at_most=0.1) == ["digits|low>digits@sgd 0.05"]
    assert places(rows, arm="random", against="dense", at_most=0.1) == ["low|>digits@sgd 0.05"]


def test_a_source_against_another() -> None:
    found = places(grid(), against=None, sources=["digits@sgd"], against_source="low@sgd", at_most=0.1)
    assert found == ["digits|low>digits@sgd 0.05"]


def test_rescaled_networks_against_plain_ones() -> None:
    rows = [*grid(), *(row("random", "low@sgd", "digits@sgd", 0.05, seed, rescale="smup") for seed in (0, 1))]
    found = places(rows, arm="random", against="winning", rescale="smup", against_rescale="none")
    assert found == ["low|low>digits@sgd 0.05"]
    with pytest.raises(InputError, match="unknown rescaling of the arm 'winning'"):
        places(rows, rescale="smup")


@pytest.mark.parametrize(
    ("across", "expected"),
    [("split", ["low>digits"]), ("recipe", ["digits>digits@adam"]), ("data", ["low>other", "digits>other"])],
)
def test_transfers_are_told_apart(across: str, expected: list[str]) -> None:
    rows = grid(targets=("digits@sgd", "digits@adam", "other@sgd"))
    found = places(rows, across=across, at_most=0.1)
    assert [text.split("|")[0] + ">" + text.split(">")[1].split("@sgd")[0].split(" ")[0] for text in found] == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"arm": "winnin"}, "no grid trains the arm 'winnin'; .*winning.*did you mean 'winning'"),
        ({"against": "snip"}, "against: no grid trains the arm 'snip'"),
        ({"targets": ["digit@sgd"]}, "unknown target of the arm 'winning' 'digit@sgd'.*did you mean 'digits@sgd'"),
        ({"sources": ["few@sgd"]}, "unknown source of the arm 'winning' 'few@sgd'"),
        ({"densities": [0.2]}, "no grid trains 'winning' at density 0.2; expected one of 0.5, 0.05"),
        ({"at_most": 0.01}, "at a density of at most 0.01"),
        ({"rescale": "smup"}, "unknown rescaling of the arm 'winning' 'smup'"),
        ({"against_source": "few@sgd"}, "unknown source of the arm 'random' 'few@sgd'"),
        ({"across": "data"}, "no grid moves the arm 'winning' to other data"),
    ],
)
def test_what_no_grid_trains_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=r"claim\[0\].*" + told):
        places(grid(), **change)


def test_a_filter_that_drops_out_is_refused() -> None:
    rows = [*grid(), row("winning", "low@sgd", "other@sgd", 0.05)]
    assert len(places(rows)) == 4
    with pytest.raises(InputError, match="'other@sgd' has no place with both sides of winning − random"):
        places(rows, targets=["other@sgd", "digits@sgd"])


def test_ready_claims_are_made_where_they_can_be() -> None:
    found = asked(grid(targets=("digits@sgd", "other@sgd")), ["paper"])
    made = {claim.claim.says: [words(pair) for pair in claim.places] for claim in found.asked}
    assert made["Tickets transfer across data sets: they are better than random ones."] == [
        "low|low>other@sgd 0.05",
        "digits|digits>other@sgd 0.05",
    ]
    assert made["A ticket from more classes transfers better, with as many samples in all."] == [
        "digits|low>other@sgd 0.5",
        "digits|low>other@sgd 0.05",
    ]
    samples = "no two sources differ in the number of samples of the same classes, judged on other data"
    assert {left.name: left.lacks for left in found.unanswered} == {
        "paper/across-optimisers": "no grid moves the arm 'winning' to another recipe on the same data",
        "paper/more-samples": samples,
        "paper/mask-place": "no grid trains the arm 'preserved'",
        "paper/layer-densities": "no grid trains the arm 'layer-permuted'",
    }


def test_more_samples_are_those_of_the_same_classes() -> None:
    found = asked(grid(("digits@sgd", "few@sgd", "low@sgd"), ("other@sgd",)), ["paper/more-samples"])
    assert [words(pair) for pair in found.asked[0].places] == ["digits|few>other@sgd 0.5", "digits|few>other@sgd 0.05"]


def test_rates_and_searches_are_looked_for_in_their_grids() -> None:
    names = ["reviews/rates", "reviews/worth-its-search"]
    assert [left.name for left in asked(grid(), names).unanswered] == names
    rows = [row(arm, "low@sgd", "digits@sgd", 0.05, 0, lr=lr) for arm in ("winning", "random") for lr in (0.1, 0.2)]
    levelled = [row(arm, "low@sgd", "other@sgd", 0.05, 0, budget="equal-search") for arm in ("winning", "random")]
    found = asked([*grid(), *rows, *levelled], names).asked
    assert [[words(pair) for pair in claim.places] for claim in found] == [
        ["low|low>digits@sgd 0.05"],
        ["low|low>other@sgd 0.05"],
    ]


def test_a_claim_has_a_name_that_its_places_change() -> None:
    (one,), (same,) = (asked(grid(), (), CLAIM).asked for _ in range(2))
    (more,) = asked(grid(targets=("digits@sgd", "other@sgd")), (), CLAIM).asked
    (other,) = asked(grid(), (), CLAIM | {"direction": "worse"}).asked
    assert one.digest == same.digest
    assert len({one.digest, more.digest, other.digest}) == 3
