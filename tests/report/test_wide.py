"""One column for each target: every network of the summary stands in the cell of its arm and target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oneticket.report import summary, wide_tables
from oneticket.report.formatting import difference, spread

Row = dict[str, Any]


def test_each_cell_is_the_row_of_the_summary_with_its_difference(make_table: Callable[..., list[Row]]) -> None:
    short = summary(make_table(densities=[0.055]), ["winning"])
    ((title, table),) = wide_tables(short)
    assert title == "fashion-small · lenet-300-100 · n = 6"
    assert table.header == ("source", "weights %", "arm", "fashion@sgd", "fashion-low@adam", "mnist@sgd")
    assert len(table.lines) == 1 + 1 + 2 * 3  # dense, own, and three arms of two sources
    lines = {(line[0], line[2]): dict(zip(table.header, line, strict=True)) for line in table.lines}
    for row in short:
        group = row.group
        source = {"dense": "—", "own": "the target"}.get(group.arm, f"{group.source}@{group.source_recipe}")
        text = spread(row.accuracy.mean, row.accuracy.deviation)
        (versus,) = row.versus.values()
        if versus is not None:
            text += f" ({'* ' if versus.significant() else ''}{difference(versus.difference)})"
        assert lines[source, group.arm][f"{group.target}@{group.target_recipe}"] == text


def test_arms_are_shown_in_the_order_they_are_named(make_table: Callable[..., list[Row]]) -> None:
    short = summary(make_table(densities=[0.055], sources=["mnist@sgd"]), [])
    ((_, table),) = wide_tables(short, arms=["random", "winning"])
    assert [line[table.header.index("arm")] for line in table.lines] == ["random", "winning"]
    assert "source" not in table.header  # one source says nothing


def test_what_is_missing_or_diverged_is_told(make_table: Callable[..., list[Row]]) -> None:
    rows = make_table(densities=[0.055], sources=["mnist@sgd"], targets=["fashion@sgd", "mnist@sgd"])
    kept = [
        row | ({"test_loss": None} if (row["arm"], row["seed"], row["target"]) == ("winning", 0, "mnist") else {})
        for row in rows
        if (row["arm"], row["target"]) != ("preserved", "mnist")
        and (row["arm"], row["target"], row["seed"]) != ("random", "mnist", 3)
    ]
    ((title, table),) = wide_tables(summary(kept, []))
    cells = {line[table.header.index("arm")]: line[table.header.index("mnist@sgd")] for line in table.lines}
    assert "n =" not in title
    assert cells["preserved"] == "—"
    assert "(n = 5)" in cells["random"]
    assert "(n = 6; 1 diverged)" in cells["winning"]


def test_a_narrow_terminal_gets_less_and_never_half_a_number(make_table: Callable[..., list[Row]]) -> None:
    short = summary(make_table(densities=[0.055]), ["winning"])
    texts = [
        next(line for line in wide_tables(short, width=width)[0][1].lines if line[2] == "random")[-1]
        for width in (300, 100, 40)
    ]
    assert ["±" in text for text in texts] == [True, True, False]
    assert ["[" in text for text in texts] == [True, False, False]


def test_models_and_experiments_have_tables_of_their_own(rows: list[Row]) -> None:
    other = [row | {"model": "vgg11", "cell": row["cell"] + "x"} for row in rows]
    titles = [title for title, _ in wide_tables(summary([*rows, *other], []))]
    assert titles == ["fashion-small · lenet-300-100 · n = 6", "fashion-small · vgg11 · n = 6"]
