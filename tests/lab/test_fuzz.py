"""Files that are wrong in ways nobody thought of: a plan comes of them, or an InputError, and nothing else."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

import oneticket.cli
from oneticket.errors import InputError
from oneticket.lab.cells.description import Description
from oneticket.lab.planning.plan import Plan, make_plan
from oneticket.lab.spec.experiment import load_experiment, read_experiment

QUICKSTART = Path(oneticket.cli.__file__).with_name("quickstart.toml").read_text(encoding="utf-8")
RICH = tomllib.loads(QUICKSTART) | {
    "seeds": 1,
    "head": "head",
    "model": {"name": "lenet-300-100", "options": {"width": 0.1}},
    "arm": {"mine": {"mask": "ticket", "weights": "initial", "method": "train", "ticket": "source"}},
}
RICH["recipe"]["sgd"] |= {"augment": {"flip": True, "crop": 1}, "warmup": "1ep", "momentum": 0.9, "clip_norm": 1.0}
RICH["search"] |= {"rounds": 4, "criterion": "magnitude", "allocation": "global", "prunable": ["linear1.weight"]}
RICH["transfer"][0] |= {"densities": [0.56, 0.4], "rescale": ["none"]}
RICH["claim"][0] |= {"densities": [0.4], "at_most": 0.5, "across": "split", "targets": ["digits@sgd"]}
RICH["claim"][1] |= {"densities": [0.56, 0.4], "sources": ["digits-low@sgd"], "against_source": "digits-low@sgd"}
RICH["claim"][2] |= {"at_most": 0.5, "rescale": "none", "against_rescale": "none"}
RICH["claims"] = ["paper", "reviews/rates"]
RICH["data"]["digits"] |= {"per_class": 20, "validation": 0.1, "split": 0}

words = st.sampled_from(
    ["sgd", "adam", "digits", "digits-low", "digits@sgd", "winning", "all", "1ep", "0it", "head", "none", "", "é",
     "a@b", "erk", "random", "preserved", "even", "layer", "cosine", "rewound", "lr-rewind", "source", "target",
     "global", "linear1.weight", "conv-2", "builtin", "../x", "\x00", "\x1b[31m", "x" * 300, "os:getcwd", "math:pi"]
)  # fmt: skip
numbers = st.one_of(
    st.integers(-3, 40), st.sampled_from([10**5, 2**31, 2**63, -(2**63), 10**30]),
    st.floats(-2, 2), st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e-300, 1e300, 0.0]),
)  # fmt: skip
values = st.recursive(
    st.one_of(words, numbers, st.booleans(), st.text(max_size=4), st.dates()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of a parsed file, with the keys and indices that lead to it."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*way, key), item
        yield from places(item, (*way, key))


def like(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, so that what only ranges and meanings rule out is reached too."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(-1, 30)
    if isinstance(value, float):
        return st.floats(0, 1.1) | numbers
    if isinstance(value, str):
        return words
    if isinstance(value, list) and value:
        return st.lists(like(value[0]) | st.sampled_from(value), max_size=4)
    return values


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """The file with one to three of its entries replaced, renamed, taken away or added."""
    raw = copy.deepcopy(RICH)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        *way, last = draw(st.sampled_from([way for way, _ in places(raw)]))
        here = raw
        for key in way:
            here = here[key]
        change = draw(st.sampled_from(["alike", "alike", "alike", "replace", "rename", "drop", "add"]))
        if change == "alike":
            here[last] = draw(like(here[last]))
        elif change == "replace" or not isinstance(here, dict):
            here[last] = draw(values)
        elif change == "add":
            here[draw(words)] = draw(values)
        else:
            value = here.pop(last)
            if change == "rename":
                here[draw(words | st.just(f"{last}s"))] = value
        if not raw:
            break
    return raw


def planned(raw: dict[str, Any], folder: Path, cache: Path) -> Plan | None:
    try:
        return make_plan(read_experiment(raw), folder=folder, cache=cache)
    except InputError as error:
        message = str(error)
    assert message
    assert "\x1b" not in message
    return None


def quick(raw: Any) -> bool:
    """Whether planning is small work: valid, but huge, images, networks and searches are left out."""
    sizes = [v for (*_, key), v in places(raw) if key in ("size", "width", "seeds", "rounds", "crop", "per_class")]
    return not any(isinstance(value, int | float) and 40 < value < 2**62 for value in sizes)


def check(raw: dict[str, Any], folder: Path, cache: Path) -> None:
    assume(quick(raw))
    plan = planned(raw, folder, cache)
    event("a plan" if plan is not None else "refused")
    if plan is not None:
        assert plan.cells
        assert all(row.cell in plan.cells for row in plan.rows)
        for identity, cell in plan.cells.items():  # as a worker gets it
            assert msgspec.json.decode(msgspec.json.encode(cell), type=Description).identity == identity


@given(raw=damaged())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_damaged_file_gives_a_plan_or_an_input_error(raw: dict[str, Any], tmp_path: Path, cache: Path) -> None:
    check(raw, tmp_path, cache)


@pytest.mark.slow
@given(raw=damaged())
@settings(max_examples=3000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_many_damaged_files_give_plans_or_input_errors(raw: dict[str, Any], tmp_path: Path, cache: Path) -> None:
    check(raw, tmp_path, cache)


def test_the_file_the_others_are_made_of_gives_a_plan(tmp_path: Path, cache: Path) -> None:
    assert planned(copy.deepcopy(RICH), tmp_path, cache) is not None


@given(at=st.integers(0, len(QUICKSTART)), length=st.integers(0, 20), text=st.text(max_size=6), cut=st.booleans())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_other_letters_in_it_is_read_or_refused(
    tmp_path: Path, at: int, length: int, text: str, cut: bool
) -> None:
    file = tmp_path / "damaged.toml"
    content = QUICKSTART[:at] + text + ("" if cut else QUICKSTART[at + length :])
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    message = ""
    try:
        load_experiment(file)
    except InputError as error:
        message = str(error)
    assert not message or "damaged.toml" in message
