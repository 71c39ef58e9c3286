"""Natural zeros: an arm that corrects next to nothing is told, with how much it corrects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oneticket.cli.tables import cautions
from oneticket.lab.results.natural import correction, correction_of_rows
from oneticket.lab.results.surroundings import Facts, facts_of
from oneticket.lab.results.table import as_csv, remember, tidy


def facts(*measured: str, mask: str = "natural-corrected") -> list[Facts]:
    return [Facts(str(number), "1", "cpu", "float32", True, mask, value) for number, value in enumerate(measured)]


def test_a_fraction_below_one_in_a_hundred_is_told() -> None:
    (told,) = correction(facts("0.00079", "0.0012", "0.3"))
    assert "next to nothing in 2 of 3 networks" in told
    assert "0.079 % to 0.12 % of the weights" in told
    assert "Read the arm as 'random'" in told
    assert "drove 0 % of" in correction(facts("0.0"))[0]


def test_nothing_is_told_where_much_is_corrected_or_nothing_is_to_be() -> None:
    assert correction(facts("0.01", "0.845")) == []
    assert correction(facts("0.0", "", mask="ticket")) == []
    assert correction([]) == correction_of_rows([{"naturally_zero": None}, {}]) == []


def test_cells_of_earlier_versions_do_not_say() -> None:
    (told,) = correction(facts("0.5", "", ""))
    assert "not recorded in 2 of 3 networks" in told


@pytest.fixture(scope="module")
def computed(shared_lab: Any) -> Any:
    raw = shared_lab.raw(
        seeds=1,
        data__digits={"builtin": "digits", "per_class": 10},
        recipe__sgd__epochs=1,
        transfer=[
            {
                "sources": ["low@sgd"], "targets": ["digits@sgd"], "densities": [0.5],
                "arms": ["natural-corrected", "random"],
            }
        ],
    )  # fmt: skip
    plan, store = shared_lab.plan(raw), shared_lab.store("natural")
    remember(plan, store)
    assert shared_lab.run(plan, store).complete
    return store


def test_the_figure_is_a_column_and_the_caution_stands_below_the_table(computed: Any, tmp_path: Path) -> None:
    rows = {row["arm"]: row for row in tidy(computed)}
    fraction = rows["natural-corrected"]["naturally_zero"]
    assert 0 < fraction < 0.01
    assert rows["random"]["naturally_zero"] is None
    measured = [fact.naturally_zero for fact in facts_of(computed) if fact.mask == "natural-corrected"]
    assert [float(value) for value in measured] == [fraction]
    table = tmp_path / "table.csv"
    table.write_text(as_csv(list(rows.values())), encoding="utf-8")
    for place in (computed.root, table):
        (told,) = [text for text in cautions(place, None) if "natural-corrected" in text]
        assert f"{100 * fraction:.2g} %" in told
