"""The audit of a plan: each fault, put in, is found and told in a line; level plans are silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oneticket.cli.lab_commands import QUICKSTART
from oneticket.errors import InputError
from oneticket.lab.planning.audit import is_handed
from oneticket.lab.planning.plan import make_plan
from oneticket.lab.results.table import remember, unlevel
from oneticket.lab.spec.experiment import load_experiment

SGD = {"optimizer": "sgd", "lr": 0.1, "epochs": 4, "batch_size": 32}
STEPS = {"kind": "step", "at": ["2ep", "3ep"]}


GRID = {"targets": ["digits@sgd"], "arms": ["pruned-lr-rewind", "random"], "densities": [0.25]}


def told(lab: Any, kind: str, *arms: str, recipe: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    """What the plan of a grid of ``arms`` says of one kind of fault; at ``budget = "equal-k"`` unless said."""
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": list(arms), "densities": [0.25]}
    grid |= {"budget": changes.pop("budget", "equal-k")}
    plan = lab.plan(lab.raw(seeds=2, recipe__sgd=SGD | (recipe or {}), **{"transfer": [grid]} | changes))
    return [str(finding) for finding in plan.findings if finding.kind == kind]


def test_arms_with_other_steps_of_their_own(lab: Any) -> None:
    (line,) = told(lab, "steps", "winning", "own", "random", "preserved", "erk", budget="recipe")
    assert line == (
        "on digits@sgd networks have other numbers of steps: 60 own; 54 winning; 48 the other arms, "
        'which budget = "equal-k" levels'
    )
    assert told(lab, "steps", "winning", "own", "random") == []
    assert told(lab, "steps", "random", "gmp", "pruned-lr-rewind", budget="recipe") == []


def test_searches_that_are_not_made_up_for(lab: Any) -> None:
    """Of two trainings before own, one begins at epoch 2; other-seed takes two searches."""
    (line,) = told(lab, "steps", "own", "random", budget="equal-search", search__rewind="2ep")
    assert (
        line
        == "on digits@sgd networks have other numbers of steps: 120 own; 144 dense, random, with those of the search"
    )
    assert told(lab, "steps", "own", "random", budget="equal-search", search__rewind=0) == []
    grid = {"sources": ["digits@sgd"], "targets": ["digits@sgd"], "arms": ["own", "other-seed"], "densities": [0.25]}
    changes: dict[str, Any] = {"search__rewind": 0, "transfer": [grid | {"budget": "equal-search"}]}
    (line,) = told(lab, "steps", **changes)
    assert line.endswith("240 other-seed; 144 dense, own, with those of the search")


def test_a_recipe_that_is_run_several_times(lab: Any) -> None:
    """The search of the ticket of 12.5 %, three rounds and the dense training, is 4 trainings."""
    mine = {"mask": "globally-permuted", "weights": "re-drawn", "method": "cyclic", "options": {"cycles": 4}}
    for budget in ("recipe", "equal-k"):
        (line,) = told(lab, "steps", "random", "mine", arm__mine=mine, budget=budget)
        assert line.endswith("192 mine; 48 dense, random")
    (line,) = told(lab, "steps", "random", "mine", arm__mine=mine, budget="equal-search", search__rewind=0)
    assert "144 dense, random" in line
    assert "192 mine" in line


def test_a_rate_that_is_next_to_nothing(lab: Any) -> None:
    """The last of 1440 steps of a cosine: 0.1 · (1 + cos(π · 1439/1440))/2 = 1.2e-7."""
    recipe = {"schedule": {"kind": "cosine"}, "batch_size": 1}
    changes: dict[str, Any] = {"search__rewind": "3ep359it", "transfer": [GRID | {"sources": ["digits@sgd"]}]}
    lines = told(lab, "rate", recipe=recipe, **changes)
    rest = "the learning rate is never above 1.2e-07, where the recipe has 0.1"
    assert lines == [f"search digits@sgd; pruned-lr-rewind on digits@sgd: {rest}"]
    assert told(lab, "rate", recipe=recipe | {"schedule": STEPS}, **changes) == []
    with pytest.raises(InputError, match="fine-tuning would have the learning rate"):  # as the guard would have said
        told(lab, "rate", "pruned-finetune", recipe={"schedule": {"kind": "step", "at": ["2ep"], "factor": 1e-6}})


def test_a_cut_on_a_drop_of_the_rate(lab: Any) -> None:
    def cutting(fraction: float, **schedule: Any) -> list[str]:
        arm = {"mask": "dense", "weights": "initial", "method": "l1", "options": {"cut": fraction}}
        return told(lab, "cut", "mine", "rigl", arm__mine=arm, recipe={"schedule": schedule or STEPS})

    for fraction, rate, drops in ((0.5, "0.1", "24"), (0.75, "0.01", "24, 36"), (0.6, "0.1", "24")):
        (line,) = cutting(fraction)
        assert line.startswith(f"mine on digits@sgd: the cut at step {48 * fraction:.0f} of 48 comes when")
        assert f"has dropped to {rate} of the recipe's (at {drops})" in line
    assert cutting(0.4) == []
    sculpt = {"mask": "dense", "weights": "initial", "method": "sculpt", "options": {"cycles": 3}}
    assert told(lab, "cut", "mine", arm__mine=sculpt, recipe={"schedule": STEPS}) == [], "the last cycle begins anew"
    assert cutting(0.75, kind="constant") == []


@pytest.mark.parametrize(
    ("name", "handed"),
    [("digits", True), ("ylecun/mnist", True), ("../data/gtsrb32", True), ("ufldl-stanford/svhn", True),
     ("../data/fashion_mnist", False), ("cifar10_jpeg", False), ("imagenet", False)],
)  # fmt: skip
def test_images_whose_mirror_image_is_another(name: str, handed: bool) -> None:
    assert is_handed(name) == handed


def test_flips_of_such_images(lab: Any) -> None:
    lines = told(lab, "flip", "winning", recipe={"augment": {"flip": True}})
    assert [line.partition(":")[0] for line in lines] == ["low@sgd mirrors its images", "digits@sgd mirrors its images"]
    assert told(lab, "flip", "winning", recipe={"augment": {"crop": 2}}) == []


def test_results_repeat_what_the_plan_has_found(lab: Any) -> None:
    """All but the steps, which the table has."""
    plan, store = lab.plan(seeds=1, recipe__sgd=SGD | {"augment": {"flip": True}}), lab.store()
    remember(plan, store)
    assert unlevel(store) == [finding.text for finding in plan.findings if finding.kind == "flip"]
    remember(lab.plan(seeds=1, name="other"), store)
    assert [line.partition(": ")[0] for line in unlevel(store)] == ["tiny", "tiny"]
    assert unlevel(store, "other") == []


def test_the_quick_start_has_no_other_fault_than_the_steps_of_k(tmp_path: Path, cache: Path) -> None:
    """21 steps in an epoch of digits and 11 in one of its lower half, 15 epochs, k = 1 epoch."""
    (finding,) = make_plan(load_experiment(QUICKSTART), folder=tmp_path, cache=cache).findings
    assert finding.kind == "steps"
    assert f"{15 * 21 + 21} own; {15 * 21 + 11} winning; {15 * 21} dense, preserved, random" in finding.text
