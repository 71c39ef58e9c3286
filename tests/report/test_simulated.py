"""The tables and the figure of the simulation show every setting."""

from __future__ import annotations

from oneticket.report.drawing import render
from oneticket.report.simulated import KINDS, draw_simulated, simulated_images, simulated_tables
from oneticket.statistics.simulation import ImageRates, simulate


def test_every_setting_has_a_field_and_the_figure_the_same_bytes() -> None:
    rates = simulate(tables=100, seeds=(2, 3), accuracies=(0.5, 0.99), images=(300,))
    tables = simulated_tables(rates)
    assert [title for title, _ in tables] == [kind.title for kind in KINDS]
    _, stars = tables[-1]
    assert stars.header == ("test split", "images", "accuracy %", "n = 2", "n = 3")
    assert [line[:3] for line in stars.lines] == [
        (split, "300", accuracy) for split in ("own", "shared") for accuracy in ("50", "99")
    ]
    first = next(rate for rate in rates if rate.n == 2)
    assert stars.lines[0][3] == f"{100 * first.raw_family:.1f} → {100 * first.family:.1f}"
    assert render(draw_simulated(rates), "svg") == render(draw_simulated(rates), "svg")


def test_intervals_over_images_have_a_table_of_their_own() -> None:
    rates = [ImageRates(n, 0.9, 1000, 100, 0.951, 0.8 + n / 100) for n in (2, 3)]
    title, table = simulated_images(rates)
    assert "other seeds and images" in title
    assert table.header == ("images", "accuracy %", "n = 2", "n = 3")
    assert table.lines == (("1,000", "90", "82.0 → 95.1", "83.0 → 95.1"),)
