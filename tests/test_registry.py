"""Registries: found by name, listed in order, never overwritten."""

from __future__ import annotations

import pytest

from oneticket.errors import InputError
from oneticket.registry import Entry, Registry


def filled() -> Registry:
    shapes: Registry = Registry("shape")

    @shapes("square", source="Euclid, book I", corners="four")
    def square() -> int:
        """Four equal sides.

        More about it.
        """
        return 4

    @shapes("circle")
    def circle() -> int:
        return 1

    return shapes


def test_what_was_registered_is_found() -> None:
    shapes = filled()
    assert shapes["square"]() == 4
    assert "square" in shapes
    assert "sphere" not in shapes
    assert list(shapes) == ["square", "circle"]
    square = Entry("square", shapes["square"], "Four equal sides.", "Euclid, book I", {"corners": "four"})
    circle = Entry("circle", shapes["circle"], "", "", {})
    assert shapes.entry("square") == square
    assert shapes.entries() == [square, circle]


def test_the_decorated_function_stays_itself() -> None:
    def triangle() -> int:
        return 3

    shapes = filled()
    assert shapes("triangle")(triangle) is triangle
    assert shapes["triangle"] is triangle


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown shape 'sqare'; expected one of square, circle \(did you mean 'squa"):
        filled()["sqare"]


def test_a_name_is_taken_once() -> None:
    shapes = filled()
    with pytest.raises(ValueError, match="shape 'circle' is registered twice"):
        shapes("circle")(lambda: 0)
    assert shapes["circle"]() == 1
