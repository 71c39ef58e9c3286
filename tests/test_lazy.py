"""Contexts: a field is an attribute, computed when first asked for, once; one that was not given is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields
from types import MappingProxyType
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lazy import Context, Given
from oneticket.methods import MethodContext, PretrainingTask
from oneticket.pruning import ControlContext, ScoreContext
from oneticket.weights import DrawContext, RescalingContext

LAZY: list[Callable[..., Context]] = [
    ScoreContext,
    ControlContext,
    DrawContext,
    lambda **given: RescalingContext("rewound", **given),
]


@dataclass(frozen=True, eq=False, repr=False)
class Kitchen(Context):
    looker = "cook"
    cooks: int
    bread: Given[str] = Given("the bread")
    soup: Given[dict[str, int]] = Given("the soup", seen_as=MappingProxyType)


def lazy_fields(context: Context) -> list[str]:
    return [field.name for field in fields(context) if isinstance(vars(type(context)).get(field.name), Given)]


def each_field(test: Callable[..., None]) -> Any:
    cases = [(make, name) for make in LAZY for name in lazy_fields(make())]
    ids = [f"{type(make()).__name__}-{name}" for make, name in cases]
    return pytest.mark.parametrize(("make", "field"), cases, ids=ids)(test)


@each_field
def test_a_field_is_computed_when_first_asked_for_and_once(make: Callable[..., Context], field: str) -> None:
    asked: list[str] = []
    context = make(**{field: lambda: asked.append(field) or {"w": 1}})
    repr(context)
    assert context.has(field)
    assert not asked
    assert getattr(context, field) is getattr(context, field)
    assert asked == [field]


@each_field
def test_a_field_that_was_not_given_is_named_with_who_looks_at_it(make: Callable[..., Context], field: str) -> None:
    for context in (make(), make(**{field: None})):
        assert not context.has(field)
        name = type(context).__name__
        with pytest.raises(
            InputError, match=rf"^the {context.looker} looks at .+: not given; expected {name}\({field}="
        ):
            getattr(context, field)


@each_field
def test_a_field_is_an_attribute_and_cannot_be_set(make: Callable[..., Context], field: str) -> None:
    context = make(**{field: lambda: {"w": 1}})
    assert not callable(getattr(context, field))
    with pytest.raises(FrozenInstanceError):
        setattr(context, field, dict)


def test_one_field_does_not_make_another() -> None:
    kitchen = Kitchen(2, bread=lambda: "rye", soup=lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert (kitchen.cooks, kitchen.bread) == (2, "rye")


def test_two_contexts_have_nothing_in_common() -> None:
    assert (Kitchen(1, bread=lambda: "rye").bread, Kitchen(1, bread=lambda: "wheat").bread) == ("rye", "wheat")


def test_a_field_whose_function_fails_is_tried_again() -> None:
    answers = iter([InputError("no flour"), "rye"])

    def bake() -> str:
        answer = next(answers)
        if isinstance(answer, InputError):
            raise answer
        return answer

    kitchen = Kitchen(1, bread=bake)
    with pytest.raises(InputError, match="no flour"):
        _ = kitchen.bread
    assert kitchen.bread == "rye"


def test_what_is_looked_at_may_be_a_view() -> None:
    soup = {"salt": 1}
    seen = Kitchen(1, soup=lambda: soup).soup
    assert seen == soup
    with pytest.raises(TypeError):
        seen["salt"] = 2


def test_what_a_context_does_not_have_cannot_be_given() -> None:
    with pytest.raises(TypeError, match="wine"):
        Kitchen(1, wine=lambda: "red")  # type: ignore[call-arg]


def test_values_of_methods_and_pre_trainings_are_attributes_of_the_same_base() -> None:
    assert issubclass(MethodContext, Context)
    assert issubclass(PretrainingTask, Context)
    context = MethodContext(0.5, "head", "recipe")  # type: ignore[arg-type]
    assert (context.density, context.head, context.recipe) == (0.5, "head", "recipe")
    with pytest.raises(FrozenInstanceError):
        context.density = 1.0  # type: ignore[misc]
