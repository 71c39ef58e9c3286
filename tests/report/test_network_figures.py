"""Figures by layer, of overlaps, histories and rescalings: what they draw, in which colours, the same each time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.report.drawing import render
from oneticket.report.figure_kinds import OF_NETWORKS, make_figure
from oneticket.report.palette import arm_colour
from oneticket.statistics import describe

Row = dict[str, Any]
ARMS = ("winning", "preserved", "random")
LAYERS = ("conv1.weight", "conv2.weight", "fc.weight")


def network(arm: str, density: float, seed: int) -> Row:
    """The columns of one network."""
    source = {} if arm == "dense" else {"source": "mnist", "source_recipe": "sgd"}
    return {
        "experiment": "e", "model": "m", "source": "", "source_recipe": "", "target": "fashion", "target_recipe": "sgd",
        "arm": arm, "rescale": "none", "density_asked": density, "seed": seed, "cell": f"{arm}-{density}-{seed}",
    } | source  # fmt: skip


def networks(arms: Sequence[str] = ARMS) -> list[Row]:
    return [network("dense", 1.0, seed) for seed in range(3)] + [
        network(arm, density, seed) for arm in arms for density in (0.1, 0.02) for seed in range(3)
    ]


def of_layers(arms: Sequence[str] = ARMS) -> list[Row]:
    """A table of layers: only dense and winning networks began at W_k."""
    return [
        row
        | {"layer": name, "place": place, "weights": 1000, "kept": round(1000 * row["density_asked"] / (place + 1))}
        | (
            {"flipped": place + row["seed"], "distance": 1.0 + place + row["seed"], "norm": 4.0}
            if row["arm"] in ("dense", "winning")
            else dict.fromkeys(("flipped", "distance", "norm"))
        )
        for row in networks(arms)
        for place, name in enumerate(LAYERS)
    ]


def of_pairs() -> list[Row]:
    rows = [row for row in networks() if row["arm"] != "dense"]
    return [
        one
        | {f"other_{column}": other[column] for column in ("arm", "source", "source_recipe", "cell")}
        | {"overlap": 1.0 if other["arm"] == "preserved" else 0.03, "chance": 0.01, "layer_chance": 0.02}
        for one, other in combinations(rows, 2)
        if (one["density_asked"], one["seed"]) == (other["density_asked"], other["seed"])
    ]


def of_epochs() -> list[Row]:
    return [
        row
        | {"epoch": epoch, "step": 10 * epoch, "lr": 0.1, "train_loss": 1 / epoch + row["seed"] / 100}
        | {"val_accuracy": 1 - 0.5 / epoch - row["seed"] / 100, "val_loss": 1 / epoch}
        for row in networks()
        for epoch in range(1, 5)
    ]


TABLES: dict[str, Callable[[], list[Row]]] = {
    "layers": of_layers, "movement": of_layers, "overlap": of_pairs, "learning": of_epochs,
}  # fmt: skip


def test_every_kind_is_tested() -> None:
    assert set(TABLES) == set(OF_NETWORKS)


@pytest.mark.parametrize("kind", TABLES)
def test_arms_have_their_colours_and_the_bytes_are_equal(kind: str) -> None:
    drawn = [render(make_figure(TABLES[kind](), kind).figure, "svg") for _ in range(2)]
    assert drawn[0] == drawn[1]
    shown = {"movement": {"dense", "winning"}, "learning": {"dense", *ARMS}}.get(kind, set(ARMS))
    for arm in (*ARMS, "dense"):
        assert (arm_colour(arm) in drawn[0].decode()) == (arm in shown), arm


@pytest.mark.parametrize("kind", TABLES)
def test_captions_say_density_and_seeds(kind: str) -> None:
    told = make_figure(TABLES[kind](), kind, columns=1).caption
    assert "2.00 % of the weights" in told
    assert "n = 3" in told


def test_points_are_means_and_bars_their_intervals() -> None:
    """Of the distance from W_k of the ``winning`` networks; those at the other density are not in it."""
    figure = make_figure(of_layers(), "movement").figure
    expected = [describe(100 * (1.0 + place + seed) / 4.0 for seed in range(3)) for place in range(3)]
    (container,) = [c for c in figure.axes[1].containers if c.lines[0].get_color() == arm_colour("winning")]
    assert list(container.lines[0].get_ydata()) == pytest.approx([sample.mean for sample in expected])
    bars = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
    assert [bar[1] for bar in bars] == pytest.approx([s.interval.high for s in expected if s.interval])
    assert [bar[0] for bar in bars] == pytest.approx([max(s.interval.low, 0.0) for s in expected if s.interval])


def test_one_arm_shows_all_its_densities() -> None:
    found = make_figure(of_layers(), "layers", arms=["winning"])
    assert [text.get_text() for text in found.figure.axes[0].texts] == ["6.10 %", "1.23 %"]
    assert "at 10.0 and 2.00 % of the weights" in found.caption


def test_a_layer_without_a_weight_is_an_arrow() -> None:
    rows = [row | ({"kept": 0} if row["place"] == 2 else {}) for row in of_layers(["winning"])]
    axis = make_figure(rows, "layers").figure.axes[0]
    assert [list(line.get_xdata()) for line in axis.lines if line.get_marker() == "v"] == [[1.97], [2.03]]


def test_who_did_not_begin_at_w_k_is_named_and_alone_refused() -> None:
    assert make_figure(of_layers(), "movement").caption.endswith("did not begin at W_k: preserved, random.")
    with pytest.raises(InputError, match="no network of the table began at W_k"):
        make_figure([row for row in of_layers() if row["arm"] == "random"], "movement")


def test_overlaps_stand_in_both_halves_with_their_chance() -> None:
    words = [text.get_text() for text in make_figure(of_pairs(), "overlap").figure.axes[0].texts]
    assert sorted(words) == sorted(2 * ["100.0 [2.0]", "3.0 [2.0]", "3.0 [2.0]"])


def test_words_that_the_table_does_not_hold_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'fashion@sgd'"):
        make_figure(of_epochs(), "learning", target="fasion@sgd")
    with pytest.raises(InputError, match="did you mean 'winning'"):
        make_figure(of_epochs(), "learning", arms=["wining"])
    two = [*of_epochs(), *(row | {"target": "mnist"} for row in of_epochs())]
    with pytest.raises(InputError, match="shows one target"):
        make_figure(two, "learning")
    with pytest.raises(InputError, match="no two networks"):
        make_figure([], "overlap")


def test_rescalings_are_columns_and_colours_are_gains(make_table: Callable[..., list[Row]]) -> None:
    rows = make_table(
        sources=["mnist@sgd"], targets=["mnist@sgd"], arms=["winning", "random"], rescales=["none", "layer"]
    )
    rows = [
        row
        | (
            {"test_accuracy": row["test_accuracy"] - 0.05}
            if (row["arm"], row["rescale"]) == ("winning", "layer")
            else {}
        )
        for row in rows
    ]
    found = make_figure(rows, "rescale")
    axis = found.figure.axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["none", "layer"]
    assert [(tick.get_text(), tick.get_color()) for tick in axis.get_yticklabels()] == [
        (arm, arm_colour(arm)) for arm in ("winning", "random")
    ]
    colours = {(int(p.get_x() + 0.5), int(p.get_y() + 0.5)): p.get_facecolor() for p in axis.patches}
    red, _, blue, _ = colours[1, 0]
    assert red > blue, "a loss is orange"
    assert all(re.fullmatch(r"[\d.]+\n\[[\d.]+, [\d.]+\]", text.get_text()) for text in axis.texts)
    assert "1.80 % of the weights" in found.caption
    with pytest.raises(InputError, match="two rescalings"):
        make_figure([row for row in rows if row["rescale"] == "none"], "rescale")
