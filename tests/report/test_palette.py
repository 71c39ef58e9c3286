"""The look of arms, sources and rescalings is fixed."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from oneticket.report.palette import ARM_COLOURS, LATER_COLOURS, arm_colour, arm_order, rescale_fill, source_dashes

words = st.text(min_size=1, max_size=12)


def test_the_arms_of_the_first_papers_keep_their_colours() -> None:
    # Reports of different experiments are laid side by side: a change here is a change of meaning.
    assert {arm: arm_colour(arm) for arm in ("winning", "random", "own", "preserved", "layer-permuted", "dense")} == {
        "winning": "#0072b2",
        "random": "#d55e00",
        "own": "#009e73",
        "preserved": "#56b4e9",
        "layer-permuted": "#e69f00",
        "dense": "#7f7f7f",
    }


def test_a_later_arm_has_a_colour_that_outlives_the_process() -> None:
    assert [arm_colour(arm) for arm in ("snip", "rigl")] == ["#117733", "#6a5acd"]


@given(words)
def test_a_later_arm_never_takes_the_colour_of_a_fixed_one(arm: str) -> None:
    colour = arm_colour(arm)
    assert re.fullmatch("#[0-9a-f]{6}", colour)
    assert arm in ARM_COLOURS or colour not in ARM_COLOURS.values()


def test_every_colour_is_its_own_and_legible_on_white() -> None:
    colours = [*ARM_COLOURS.values(), *LATER_COLOURS]
    assert len(set(colours)) == len(colours)
    for colour in colours:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) > 2, colour  # WCAG contrast with white


@given(st.lists(words, unique=True))
def test_the_dash_of_a_source_depends_on_the_set_alone(sources: list[str]) -> None:
    assert source_dashes(sources) == source_dashes(reversed(sources))
    first = list(source_dashes(sources).values())[:8]
    assert len(set(first)) == len(first)


def test_known_arms_come_in_their_order_then_the_others_by_name() -> None:
    arms = ["zeta", "random", "alpha", "winning", "dense"]
    assert sorted(arms, key=arm_order) == ["dense", "winning", "random", "alpha", "zeta"]


def test_what_is_not_rescaled_is_filled_and_what_is_by_layer_hollow() -> None:
    assert (rescale_fill("none"), rescale_fill("layer")) == ("full", "none")
    assert rescale_fill("smup") in ("right", "top")
