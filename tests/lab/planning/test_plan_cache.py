"""Recall: a finished experiment is known again exactly as long as nothing that its plan was made of has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from oneticket.lab.cells.store import Store
from oneticket.lab.planning.plan import Plan, make_plan
from oneticket.lab.planning.plan_cache import origin, recall
from oneticket.lab.results.table import remember
from oneticket.lab.spec.experiment import load_experiment

TEXT = """
name = "recalled"
model = "lenet-300-100"
seeds = 2
[data.images]
images = "images"
[data.some]
from = "images"
classes = [0, 1]
[recipe.sgd]
optimizer = "sgd"
lr = 0.1
epochs = 2
[search]
rounds = 2
[[transfer]]
sources = ["some@sgd"]
targets = ["some@sgd"]
"""
MODEL = """
from torch import nn
def net(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes))
"""


def finish(plan: Plan, store: Store) -> None:
    for cell in plan.cells:
        store.folder(cell).mkdir(parents=True, exist_ok=True)
        (store.folder(cell) / "cell.json").write_text('{"description": {}, "outcome": {}, "cost": {}}')


def planned(file: Path, cache: Path) -> tuple[Plan, Store]:
    """As a run does it: planned, remembered; and then finished at once."""
    store = Store.open(file.parent / "store", create=True)
    experiment = load_experiment(file)
    made_of = origin(file, experiment)
    plan = make_plan(experiment, folder=file.parent, cache=cache)
    remember(plan, store, made_of)
    finish(plan, store)
    return plan, store


def known(file: Path) -> int | None:
    found = recall(file, lambda name: file.parent / "store")
    if found is None:
        return None
    assert (found.experiment, found.store.root) == ("recalled", file.parent / "store")
    return found.cells


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for part, offset in (("train", 0), ("test", 20)):
        for label in range(3):
            for number in range(10):
                picture(tmp_path / "images" / part / f"class{label}" / f"{number}.png", offset + 50 * label + number)
    picture(tmp_path / "images" / "train" / "class3" / "0.png", 200)
    (tmp_path / "images" / "test" / "class3").mkdir()
    (tmp_path / "experiment.toml").write_text(TEXT)
    return tmp_path / "experiment.toml"


def test_a_finished_experiment_is_known_with_all_its_cells(file: Path, cache: Path) -> None:
    plan, _ = planned(file, cache)
    assert known(file) == len(plan.cells)
    shutil.copytree(file.parent / "store", file.parent / "elsewhere")
    shutil.rmtree(file.parent / "store")
    assert known(file) is None, "no store"
    (file.parent / "elsewhere").rename(file.parent / "store")
    assert known(file) == len(plan.cells)


def test_a_cell_that_is_not_there_any_more_is_missed(file: Path, cache: Path) -> None:
    plan, store = planned(file, cache)
    for cell in plan.cells:
        (store.folder(cell) / "cell.json").unlink()
        assert known(file) is None
        finish(plan, store)
    assert known(file) is not None


def edited(folder: Path) -> None:
    text = (folder / "experiment.toml").read_text()
    (folder / "experiment.toml").write_text(text.replace("lr = 0.1", "lr = 0.2"))


def touched(folder: Path) -> None:
    os.utime(folder / "images" / "train" / "class0" / "3.png", ns=(0, 0))


def changed(folder: Path) -> None:
    path = folder / "images" / "test" / "class2" / "3.png"
    state = path.stat()
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def removed(folder: Path) -> None:
    (folder / "images" / "train" / "class1" / "3.png").unlink()


def added(folder: Path) -> None:
    picture(folder / "images" / "train" / "class1" / "new.png", 9)


def added_where_there_was_none(folder: Path) -> None:
    picture(folder / "images" / "test" / "class3" / "new.png", 9)


def added_class(folder: Path) -> None:
    picture(folder / "images" / "train" / "class4" / "new.png", 9)


def forgotten(folder: Path) -> None:
    (folder / "store" / "experiments" / "recalled.json").unlink()


def written_before_there_was_recall(folder: Path) -> None:
    (folder / "store" / "experiments" / "recalled.json").write_text('{"columns": [], "rows": []}')


def damaged(folder: Path) -> None:
    (folder / "store" / "experiments" / "recalled.json").write_text('{"columns": [], "rows": [], "origin": 7}')


def of_the_future(folder: Path) -> None:
    (folder / "store" / "store.json").write_text('{"store": 99}')


CHANGES = (
    edited, touched, changed, removed, added, added_where_there_was_none, added_class, forgotten,
    written_before_there_was_recall, damaged, of_the_future,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_it_is_planned_anew(file: Path, cache: Path, change: Callable[[Path], None]) -> None:
    planned(file, cache)
    assert known(file) is not None
    change(file.parent)
    assert known(file) is None


def test_another_version_of_this_package_plans_anew(
    file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(file, cache)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    monkeypatch.setattr("oneticket.lab.planning.plan_cache.PACKAGE", tmp_path / "package")
    assert known(file) is None


def test_networks_of_a_users_own_are_always_planned_for_their_code_is_imported(file: Path, cache: Path) -> None:
    (file.parent / "my_recalled.py").write_text(MODEL)
    file.write_text(TEXT.replace('"lenet-300-100"', '"my_recalled:net"'))
    planned(file, cache)
    assert known(file) is None


def test_data_that_cannot_be_used_is_left_to_planning(file: Path) -> None:
    shutil.rmtree(file.parent / "images")
    assert origin(file, load_experiment(file)) is None


@pytest.mark.parametrize("text", ["", "name = 3", "name", "\x00", 'name = "../recalled"'])
def test_a_file_that_is_no_experiment_is_left_to_planning(file: Path, cache: Path, text: str) -> None:
    planned(file, cache)
    file.write_text(text)
    assert known(file) is None
    file.unlink()
    assert known(file) is None
