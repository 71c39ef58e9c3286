"""``oneticket store verify``: what it says, its exit codes, and that the remedy that errors name is one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

FILE = """
name = "short"
model = { name = "lenet-300-100", options = { width = 0.05 } }
seeds = 1
[data.digits]
builtin = "digits"
per_class = 20
[recipe.sgd]
optimizer = "sgd"
lr = 0.1
epochs = 1
[search]
rounds = 1
prune = 0.5
[[transfer]]
sources = ["digits@sgd"]
targets = ["digits@sgd"]
arms = ["winning"]
densities = [0.5]
"""


@pytest.fixture
def store(call: Any, tmp_path: Path) -> Path:
    (tmp_path / "short.toml").write_text(FILE)
    assert call("run", "short.toml", "--store", "store", "--workers", "1").code == 0
    return tmp_path / "store"


def test_damage_is_found_moved_and_computed_again(call: Any, store: Path) -> None:
    sound = call("store", "verify", "store")
    assert sound.code == 0
    assert re.fullmatch(r"store: \d cells and 1 tables are whole\n", sound.out)
    table = call("results", "store", "--format", "csv").out
    for record in store.glob("cells/*/*/cell.json"):
        record.write_bytes(record.read_bytes().replace(b"accuracy", b"accurasy"))
    told = call("results", "store")
    assert told.code == 2
    remedy = re.search(r"cell\.json: is damaged \(.*\); expected a whole cell: `oneticket (.*)` moves", told.error)
    assert remedy is not None
    found = call("store", "verify", "store")
    assert found.code == 1
    assert found.out.count("damaged: ") == len(list(store.glob("cells/*/*")))
    told = json.loads(call("store", "verify", "store", "--json").out)
    assert (told["sound"], len(told["damaged"]), told["cells"]) == (False, found.out.count("damaged: "), 0)
    moved = call(*remedy[1].split())
    assert moved.code == 0, moved.error
    assert moved.out.count("moved to") == found.out.count("damaged: ")
    assert call("run", "short.toml", "--store", "store", "--workers", "1").code == 0
    seconds = re.compile(r"\d+\.\d+(?=,[0-9a-f]{64})")
    assert seconds.sub("", call("results", "store", "--format", "csv").out) == seconds.sub("", table)


def test_a_second_file_of_one_name_is_refused_and_a_copy_of_the_store_goes_on(
    call: Any, store: Path, tmp_path: Path
) -> None:
    before = (store / "experiments" / "short.json").read_bytes()
    (tmp_path / "other.toml").write_text(FILE.replace("lr = 0.1", "lr = 0.2"))
    told = call("run", "other.toml", "--store", "store")
    assert told.code == 2
    assert "another experiment called 'short', that of" in told.error
    assert (store / "experiments" / "short.json").read_bytes() == before
    shutil.copytree(store, tmp_path / "copy")
    assert call("run", "short.toml", "--store", "copy").code == 0


def test_what_is_not_a_store_is_refused(call: Any, tmp_path: Path) -> None:
    told = call("store", "verify", tmp_path)
    assert told.code == 2
    assert "is not a store" in told.error
