"""Registries: found by name, listed in order, never overwritten; their facts are typed."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from oneticket.data import SOURCES
from oneticket.errors import InputError
from oneticket.lab.execution.engines import ENGINES
from oneticket.methods import METHODS, PRETRAININGS
from oneticket.models import MODELS
from oneticket.pruning import ALLOCATIONS, CONTROLS, CRITERIA
from oneticket.registry import Entry, NoFacts, Registry
from oneticket.weights import DRAWS, NORMS, RESCALINGS

EVERY = (CRITERIA, ALLOCATIONS, CONTROLS, DRAWS, NORMS, RESCALINGS, METHODS, PRETRAININGS, MODELS, SOURCES, ENGINES)


class ShapeFacts(msgspec.Struct, frozen=True):
    corners: int = 0
    edge: Literal["straight", "round"] = "round"


def filled() -> Registry:
    shapes: Registry = Registry("shape", ShapeFacts)

    @shapes.register("square", source="Euclid, book I", corners=4, edge="straight")
    def square() -> int:
        """Four equal sides.

        More about it.
        """
        return 4

    @shapes.register("circle")
    def circle() -> int:
        return 1

    return shapes


def test_what_was_registered_is_found() -> None:
    shapes = filled()
    assert shapes["square"]() == 4
    assert "square" in shapes
    assert "sphere" not in shapes
    assert list(shapes) == ["square", "circle"]
    facts = ShapeFacts(corners=4, edge="straight")
    square = Entry("square", shapes["square"], "Four equal sides.", "Euclid, book I", facts)
    circle = Entry("circle", shapes["circle"], "", "", ShapeFacts())
    assert shapes.entry("square") == square
    assert shapes.entries() == [square, circle]


def test_the_decorated_function_stays_itself() -> None:
    def triangle() -> int:
        return 3

    shapes = filled()
    assert shapes.register("triangle")(triangle) is triangle
    assert shapes["triangle"] is triangle


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown shape 'sqare'; expected one of square, circle \(did you mean 'squa"):
        filled()["sqare"]


def test_a_name_is_taken_once() -> None:
    shapes = filled()
    with pytest.raises(ValueError, match="shape 'circle' is registered twice"):
        shapes.register("circle")(lambda: 0)
    assert shapes["circle"]() == 1


# -- facts -----------------------------------------------------------------------------------------------------------
def test_an_unknown_fact_is_a_type_error_before_anything_is_registered() -> None:
    shapes = filled()
    fault = r"^shape 'typo': unknown fact 'cornes'; expected one of corners, edge \(did you mean 'corners'\?\)$"
    with pytest.raises(TypeError, match=fault):
        shapes.register("typo", cornes=3)
    assert "typo" not in shapes


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"corners": "4"}, r"^shape 'typo': corners = '4': Expected `int`, got `str`$"),
        ({"edge": "bent"}, r"^shape 'typo': unknown edge 'bent'; expected one of"),
    ],
)
def test_a_value_that_a_fact_cannot_have_is_a_type_error(facts: dict[str, str], fault: str) -> None:
    with pytest.raises(TypeError, match=fault):
        filled().register("typo", **facts)


@pytest.mark.parametrize("registry", EVERY, ids=lambda registry: registry.kind)
def test_no_registry_takes_a_fact_that_it_does_not_know(registry: Registry) -> None:
    with pytest.raises(TypeError, match=rf"{registry.kind} 'typo': unknown fact 'neds'"):
        registry.register("typo", neds="density")


@pytest.mark.parametrize("registry", EVERY, ids=lambda registry: registry.kind)
def test_facts_are_frozen_and_numbers_are_numbers(registry: Registry) -> None:
    for entry in registry.entries():
        stated = msgspec.structs.asdict(entry.facts)
        assert not [fact for fact, value in stated.items() if isinstance(value, str) and value.isnumeric()]
        with pytest.raises(AttributeError):
            setattr(entry.facts, next(iter(stated), "needs"), None)


def test_what_states_no_facts_says_so() -> None:
    assert {registry.kind for registry in EVERY if isinstance(registry.entries()[0].facts, NoFacts)} == {
        "norms", "data source", "engine"
    }  # fmt: skip
    assert CRITERIA.entry("synflow").facts.rounds == 100
    assert RESCALINGS.entry("smup").facts.optimizers == ("adam", "adamw")
