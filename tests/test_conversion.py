"""Conversion: arguments of Python are taken as strictly as those of a file, and refused in the same words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from oneticket.conversion import Seed, check_keywords, checked, conform, fit
from oneticket.errors import InputError


class Oven(msgspec.Struct, frozen=True, kw_only=True):
    degrees: float = 200
    minutes: int = 30
    fan: bool = False
    heat: Literal["top", "bottom"] = "top"
    shelves: tuple[int, ...] = ()
    note: str | None = None

    def __post_init__(self) -> None:
        conform(self)


@checked
def bake(oven: Oven, names: Sequence[str] = (), *, seed: Seed = 0, then: Callable[[], None] | None = None) -> Any:
    """What came in."""
    return oven, names, seed, then


class Untyped:
    pass


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("degrees", True, "degrees = True; expected a number"),
        ("degrees", "hot", "degrees = 'hot'; expected a number"),
        ("degrees", None, "degrees = None; expected a number"),
        ("degrees", Untyped(), "degrees = a Untyped; expected a number"),
        ("minutes", 2.0, "minutes = 2.0; expected a whole number"),
        ("minutes", True, "minutes = True; expected a whole number"),
        ("fan", 1, "fan = 1; expected True or False"),
        ("fan", "False", "fan = 'False'; expected True or False"),
        ("heat", "botom", "unknown heat 'botom'; expected one of top, bottom (did you mean 'bottom'?)"),
        ("shelves", 1, "shelves = 1; expected a list of whole numbers, such as [1]"),
        ("shelves", ("1",), "shelves = ('1',); expected a list of whole numbers"),
        ("note", 3, "note = 3; expected text or None"),
    ],
)
def test_a_field_of_another_type_is_refused_with_its_value(field: str, value: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        Oven(**{field: value})
    assert str(caught.value) == told


def test_values_of_equal_meaning_get_the_declared_type() -> None:
    oven = Oven(degrees=180, minutes=np.int64(20), shelves=[1, np.int32(2)])  # type: ignore[arg-type]
    assert [type(v) for v in (oven.degrees, oven.minutes, oven.shelves[1])] == [float, int, int]
    assert oven == Oven(degrees=180.0, minutes=20, shelves=(1, 2))
    assert type(Oven(degrees=np.float32(0.5)).degrees) is float  # type: ignore[arg-type]


def test_arguments_of_a_function_are_checked_before_it_works() -> None:
    oven = Oven()
    assert bake(oven, ["a"], seed=np.int64(3)) == (oven, ["a"], 3, None)  # type: ignore[arg-type]
    for arguments, told in [
        ({"oven": {"degrees": "1"}}, "oven = {'degrees': '1'}; expected Oven"),
        ({"names": "a"}, "names = 'a'; expected a list of texts, such as ['a']"),
        ({"seed": -1}, "seed = -1; expected a whole number of at least 0"),
        ({"seed": True}, "seed = True; expected a whole number of at least 0"),
        ({"then": 3}, "then = 3; expected a function or None"),
        ({"sed": 3}, "bake: unknown argument 'sed'; expected one of oven, names, seed, then (did you mean 'seed'?)"),
    ]:
        with pytest.raises(InputError) as caught:
            bake(**{"oven": oven, **arguments})  # type: ignore[arg-type]
        assert str(caught.value) == told


def test_a_keyword_that_is_not_a_field_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"Oven: unknown field 'minuts'.*did you mean 'minutes'"):
        check_keywords({"minuts": 3}, Oven)


def test_long_values_are_cut_and_objects_are_named_by_their_class() -> None:
    with pytest.raises(InputError) as caught:
        fit("text", "x" * 5000, int)
    assert len(str(caught.value)) < 120
    with pytest.raises(InputError, match="a dict; expected a number"):
        fit("value", dict.fromkeys(range(100)), float)
    assert fit("any", Untyped, Any) is Untyped
    assert fit("map", {"a": 1}, Mapping[str, int]) == {"a": 1}
