"""Results: the tidy table says what the cells say, in every format."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from oneticket.errors import InputError
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.plan import Plan
from oneticket.lab.results.table import COLUMNS, as_csv, as_json, as_parquet, from_csv, remember, tidy
from oneticket.report import summary


@pytest.fixture(scope="module")
def done(shared_lab: Any) -> tuple[Plan, Store]:
    plan = shared_lab.plan(seeds=1, name="done")
    store = shared_lab.store("done")
    remember(plan, store)
    assert shared_lab.run(plan, store).complete
    return plan, store


def test_a_row_for_every_network_with_the_figures_of_its_cell(done: tuple[Plan, Store]) -> None:
    plan, store = done
    table = tidy(store)
    assert [row["cell"] for row in table] == [row.cell for row in plan.rows]
    for row, known in zip(table, plan.rows, strict=True):
        assert tuple(row) == COLUMNS
        record = store.read(row["cell"])
        for column in ("test_accuracy", "val_accuracy", "test_loss", "best_epoch", "steps_to_converge", "density"):
            assert row[column] == record["outcome"][column]
        for column in ("train_flops", "masked_flops", "seconds"):
            assert row[column] == record["cost"][column]
        assert row["test_images"] == record["outcome"]["test_images"] > 0
        search = (record["description"]["start"].get("ticket") or {}).get("search")
        expected = (
            ("", "", "", None)
            if search is None
            else [search[k] for k in ("criterion", "allocation", "rewind", "prune")]
        )
        assert [row[column] for column in ("criterion", "allocation", "k", "prune")] == list(expected)
        for column in ("arm", "source", "target", "seed", "round", "density_asked", "search_trainings"):
            assert row[column] == getattr(known, column)


def test_csv_json_and_parquet_say_the_same(done: tuple[Plan, Store]) -> None:
    table = tidy(done[1])
    assert json.loads(as_json(table)) == table
    assert pyarrow.parquet.read_table(io.BytesIO(as_parquet(table))).to_pylist() == table
    read = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert len(read) == len(table)
    for text, row in zip(read, table, strict=True):
        assert text == {column: "" if row[column] is None else str(row[column]) for column in COLUMNS}
        assert float(text["test_accuracy"]) == row["test_accuracy"], "written in full"


def test_unfinished_cells_have_no_row(lab: Any, done: tuple[Plan, Store]) -> None:
    plan, store = done
    longer = lab.plan(seeds=2, name="longer")
    remember(longer, store)
    assert [row["seed"] for row in tidy(store, experiment="longer")] == [0] * len(plan.rows)
    assert {row["experiment"] for row in tidy(store, experiment="longer")} == {"longer"}


def test_an_empty_table_has_its_header_in_every_format(lab: Any) -> None:
    store = lab.store()
    assert tidy(store) == []
    assert as_csv([]) == ",".join(COLUMNS) + "\n"
    assert json.loads(as_json([])) == []
    assert pyarrow.parquet.read_table(io.BytesIO(as_parquet([]))).column_names == list(COLUMNS)


def test_an_unknown_experiment_is_refused_with_the_nearest(done: tuple[Plan, Store]) -> None:
    with pytest.raises(InputError, match=r"unknown experiment 'dne'.*did you mean 'done'"):
        tidy(done[1], experiment="dne")


def test_a_damaged_cell_is_told(lab: Any) -> None:
    plan, store = lab.plan(seeds=1), lab.store()
    remember(plan, store)
    lab.run(plan, store)
    (store.folder(plan.rows[0].cell) / "cell.json").write_text('{"description": {}')
    with pytest.raises(InputError, match=r"store verify .* --repair"):
        tidy(store)


def test_a_table_in_csv_comes_back_as_it_was(done: tuple[Plan, Store], tmp_path: Path) -> None:
    table = tidy(done[1], experiment="done")
    table[0] |= {"test_loss": None, "lr": 0.025}
    (tmp_path / "table.csv").write_text(as_csv(table), "utf-8")
    assert from_csv(tmp_path / "table.csv") == table
    (tmp_path / "spreadsheet.csv").write_text(as_csv(table), "utf-8-sig")
    assert from_csv(tmp_path / "spreadsheet.csv") == table
    assert from_csv(tmp_path / "table.csv", experiment="done") == table
    with pytest.raises(InputError, match="did you mean 'done'"):
        from_csv(tmp_path / "table.csv", experiment="dne")


def test_a_table_with_fewer_columns_is_read_and_two_networks_for_one_place_are_told_apart(
    done: tuple[Plan, Store], tmp_path: Path
) -> None:
    (tmp_path / "few.csv").write_text(
        "experiment,target,target_recipe,arm,density,seed,test_accuracy,test_loss\ne,t,r,dense,1.0,0,0.5,\ne,t,r,dense,1.0,0,0.5,1.5\n"
    )
    rows = from_csv(tmp_path / "few.csv")
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["rescale"], rows[0]["source"], rows[0]["seconds"]) == ("none", "", None)
    with pytest.raises(InputError, match="line 2 and line 3"):
        summary(rows)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1,2\n", "has no column 'experiment'"),
        (b"\xff\xfe\x00", "can't be read"),
        (b"", "has no column"),
        (
            b"experiment,target,target_recipe,arm,density,seed,test_accuracy,test_loss\ne,t,r,dense,1.0,0,good,1.0\n",
            "line 2, test_accuracy: 'good' is not a number; expected a number or an empty field",
        ),
        (
            b"experiment,target,target_recipe,arm,density,seed,test_accuracy,test_loss\ne,t,r,dense,1.0,0,nan,1.0\n",
            "line 2, test_accuracy: 'nan' is not a number",
        ),
        (
            b"experiment,target,target_recipe,arm,density,seed,test_accuracy,test_loss\ne,t,r,,1.0,0,0.5,1.0\n",
            "line 2, arm: is empty",
        ),
        (
            b"experiment,target,target_recipe,arm,density,seed,test_accuracy,test_loss\ne,t,r,dense,1.0,0.5,0.5,1.0\n",
            "line 2, seed: '0.5' is not a whole number; expected a whole number or an empty field",
        ),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "no.csv").write_bytes(content)
    with pytest.raises(InputError, match=told):
        from_csv(tmp_path / "no.csv")


# -- two files with one name --------------------------------------------------------------------------------------
def test_another_file_with_the_same_name_is_refused_and_the_same_file_edited_is_not(lab: Any) -> None:
    store = lab.store()
    first, second = lab.folder / "first.toml", lab.folder / "second.toml"
    for file in (first, second):
        file.write_text('name = "tiny"\n')
    one, two = lab.plan(seeds=1), lab.plan(seeds=2)
    remember(one, store, file=first)
    before = store.table("tiny")
    with pytest.raises(InputError, match=r"second\.toml: .*experiment called 'tiny'.*first\.toml.* name"):
        remember(two, store, file=second)
    assert store.table("tiny") == before, "it is not overwritten"
    remember(two, store, file=first)  # edited
    assert len(store.table("tiny")["rows"]) > len(before["rows"])
    remember(two, store, file=second)  # a copy with the same rows
    remember(one, store, file=second)  # … which then is edited


def test_a_file_that_was_moved_linked_or_renamed_goes_on(lab: Any) -> None:
    store = lab.store()
    first, second = lab.folder / "first.toml", lab.folder / "second.toml"
    first.write_text('name = "tiny"\n')
    remember(lab.plan(seeds=1), store, file=first)
    (lab.folder / "link.toml").symlink_to(first)
    remember(lab.plan(seeds=2), store, file=lab.folder / "link.toml")
    first.rename(second)
    remember(lab.plan(seeds=1), store, file=second)
    second.write_text('name = "other"\n')  # it does not claim the name any longer
    first.write_text('name = "tiny"\n')
    remember(lab.plan(seeds=2), store, file=first)


def test_a_damaged_table_is_written_anew_with_one_line(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    store, plan = lab.store(), lab.plan(seeds=1)
    remember(plan, store)
    path = store.root / "experiments" / "tiny.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"tiny\.json: is damaged .*run the experiment again"):
        tidy(store)
    remember(plan, store)
    assert [record.getMessage().count("is damaged") for record in caplog.records] == [1]
    assert path.read_bytes() == whole


def test_the_table_of_another_experiment_under_this_name_is_damage(lab: Any) -> None:
    store = lab.store()
    remember(lab.plan(seeds=1), store)
    remember(lab.plan(seeds=1, name="other"), store)
    folder = store.root / "experiments"
    (folder / "other.json").replace(folder / "tiny.json")
    with pytest.raises(InputError, match="it is the table of 'other'"):
        tidy(store)


def test_a_cell_that_lost_its_record_is_not_left_out_of_the_table(lab: Any) -> None:
    plan, store = lab.plan(seeds=1), lab.store()
    remember(plan, store)
    lab.run(plan, store)
    (store.folder(plan.rows[0].cell) / "cell.json").unlink()
    with pytest.raises(InputError, match=r"cell\.json: is damaged"):
        tidy(store)
    lab.run(plan, store)
    assert len(tidy(store)) == len(plan.rows)


def test_an_old_record_that_lacks_a_figure_is_named(done: tuple[Plan, Store], tmp_path: Path) -> None:
    shutil.copytree(done[1].root, tmp_path / "old")
    (tmp_path / "old" / "store.json").write_text('{"store":1}')
    path = Store(tmp_path / "old").folder(done[0].rows[0].cell) / "cell.json"
    record = json.loads(path.read_text())
    del record["sha256"], record["cost"]["samples"]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="it lacks 'samples'"):
        tidy(Store.open(tmp_path / "old"))
