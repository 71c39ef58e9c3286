"""Derivation steps as properties: disjoint, covering, balanced, nested, and independent of anything else."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneticket.data.derivations import (
    Channels,
    Classes,
    Fraction,
    Half,
    PerClass,
    Selection,
    ShuffledLabels,
    Size,
    View,
    held_out,
)
from oneticket.errors import InputError

NAMES = ("cat", "dog", "eel", "T-shirt/top")
counts = st.lists(st.integers(2, 30), min_size=1, max_size=4)
splits = st.integers(0, 5)


def view_of(counts: list[int], seed: int = 0) -> View:
    """Training data with so many images of each class in a random order, and one test image of each class."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    test = torch.arange(len(counts))
    train = Selection(torch.arange(len(labels)), labels)
    return View(NAMES[: len(counts)], train, Selection(test, test), (1, 6, 6))


def rows(view: View) -> set[int]:
    return set(view.train.rows.tolist())


def histogram(view: View) -> list[int]:
    return torch.bincount(view.train.labels, minlength=len(view.classes)).tolist()


@given(counts, splits, st.integers(0, 3))
def test_halves_are_disjoint_cover_the_train_split_and_are_balanced(counts: list[int], split: int, seed: int) -> None:
    view = view_of(counts, seed)
    a, b = (Half(which, split).apply(view) for which in ("a", "b"))
    assert not rows(a) & rows(b)
    assert rows(a) | rows(b) == rows(view)
    for n, in_a, in_b in zip(counts, histogram(a), histogram(b), strict=True):
        assert in_a + in_b == n
        assert abs(in_a - in_b) <= 1
    for half in (a, b):
        assert torch.equal(half.train.labels, view.train.labels[half.train.rows])
        assert half.test.equals(view.test)


def test_another_split_gives_other_halves_and_the_same_split_the_same() -> None:
    view = view_of([30, 30])
    assert rows(Half("a", 0).apply(view)) == rows(Half("a", 0).apply(view))
    assert rows(Half("a", 0).apply(view)) != rows(Half("a", 1).apply(view))


def test_a_half_is_drawn_at_random_from_each_class() -> None:
    """Not the first images, not every other one; and a pair of classes does not share its draw."""
    view = view_of([30, 30])
    positions = [(view.train.labels == label).nonzero().flatten() for label in (0, 1)]
    half = rows(Half("a", 0).apply(view))
    taken = [[int(p) in half for p in of_class] for of_class in positions]
    assert taken[0] != taken[1]
    for one in taken:
        assert one not in ([True] * 15 + [False] * 15, [True, False] * 15, [False, True] * 15)


@given(counts, splits, st.permutations(range(4)))
def test_a_half_does_not_depend_on_which_classes_are_there(counts: list[int], split: int, order: list[int]) -> None:
    view = view_of(counts)
    keep = Classes(tuple(NAMES[c] for c in order if c < len(counts))[:2])
    one, other = Half("a", split).apply(keep.apply(view)), keep.apply(Half("a", split).apply(view))
    assert one.equals(other)


@given(counts, splits)
def test_classes_are_renumbered_in_the_given_order_in_train_and_test(counts: list[int], split: int) -> None:
    view = view_of(counts)
    order = tuple(reversed(view.classes))
    kept = Classes(order).apply(view)
    assert kept.classes == order
    assert torch.equal(kept.train.labels, len(counts) - 1 - view.train.labels)
    assert torch.equal(kept.test.labels, len(counts) - 1 - view.test.labels)
    only = Classes(order[:1]).apply(view)
    assert only.train.labels.unique().tolist() == only.test.labels.tolist() == [0]
    assert torch.equal(only.train.rows, (view.train.labels == len(counts) - 1).nonzero().flatten())


@given(counts, splits, st.floats(0.3, 1), st.floats(0.3, 1))
def test_fractions_are_exact_in_each_class_and_nested(counts: list[int], split: int, one: float, two: float) -> None:
    view = view_of(counts)
    small, large = sorted((one, two))
    little, much = (Fraction(value, split).apply(view) for value in (small, large))
    assert histogram(little) == [math.floor(small * n + 0.5) for n in counts]
    assert rows(little) <= rows(much) <= rows(view)


@given(counts, splits, st.integers(1, 2))
def test_per_class_takes_exactly_so_many_and_is_nested(counts: list[int], split: int, count: int) -> None:
    view = view_of(counts)
    part = PerClass(count, split).apply(view)
    assert histogram(part) == [count] * len(counts)
    assert rows(part) <= rows(PerClass(2, split).apply(view))


@given(counts, splits)
def test_shuffled_labels_keep_the_histogram_and_the_images(counts: list[int], split: int) -> None:
    view = view_of(counts)
    shuffled = ShuffledLabels(split).apply(view)
    assert histogram(shuffled) == histogram(view)
    assert torch.equal(shuffled.train.rows, view.train.rows)
    assert shuffled.test.equals(view.test)


def test_shuffled_labels_agree_with_the_true_ones_as_often_as_chance() -> None:
    view = view_of([1000] * 4)
    agreement = (ShuffledLabels(0).apply(view).train.labels == view.train.labels).double().mean()
    assert abs(agreement - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5


@given(st.lists(st.integers(5, 30), min_size=1, max_size=4), splits, st.floats(0.1, 0.85))
def test_validation_is_a_balanced_part_and_leaves_the_rest(counts: list[int], split: int, fraction: float) -> None:
    view = view_of(counts)
    train, validation = held_out(view, split, fraction)
    inside = set(validation.rows.tolist())
    assert not inside & set(train.rows.tolist())
    assert inside | set(train.rows.tolist()) == rows(view)
    held = torch.bincount(validation.labels, minlength=len(counts)).tolist()
    assert held == [math.floor(fraction * n + 0.5) for n in counts]


def test_validation_of_zero_is_empty_and_changes_nothing() -> None:
    view = view_of([3, 4])
    train, validation = held_out(view, 0, 0.0)
    assert train.equals(view.train)
    assert len(validation.rows) == len(validation.labels) == 0


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda v: PerClass(5, 0).apply(v), "per_class: 5 images of each class are too many: class 'dog' has 4"),
        (lambda v: Fraction(0.1, 0).apply(v), "fraction: fraction = 0.1 leaves no training image of class 'dog'"),
        (lambda v: Half("b", 0).apply(Classes(("eel",)).apply(v)), "half: .* leaves no training image of class 'eel'"),
        (lambda v: held_out(v, 0, 0.1), "validation: validation = 0.1 of 12 images in 3 classes leaves none"),
        (lambda v: held_out(v, 0, 0.9), "validation: validation = 0.9 leaves no training image of class 'dog'"),
        (lambda v: Size(5, "pad").apply(v), "size: images of 6×6 cannot be padded to 5×5"),
    ],
)
def test_what_the_data_does_not_allow_is_refused(act: object, message: str) -> None:
    view = view_of([8, 4, 1]) if "0.1 of" not in message else view_of([4, 4, 4])
    with pytest.raises(InputError, match=message):
        act(view)  # type: ignore[operator]


def test_steps_on_pixels_change_the_shape_only() -> None:
    view = view_of([3, 3])
    changed = Channels(3).apply(Size(9, "resize").apply(view))
    assert changed.shape == (3, 9, 9)
    assert changed.train is view.train
    assert changed.test is view.test
