"""The design: one more criterion, one more control and one more method are one new file each, and nothing else.

They are those that CONTRIBUTING.md and docs/adding-a-criterion.md work out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import oneticket

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parent
PAGES = [TESTS.parent / "CONTRIBUTING.md", TESTS.parent / "docs" / "adding-a-criterion.md"]
ADDED = [
    ("criterion", "relative-magnitude"),
    ("criterion", "same-sign"),
    ("control", "unit-permuted"),
    ("method", "l2-sp"),
]
EXPERIMENT = """
name  = "additions"
model = { name = "lenet-300-100", options = { width = 0.05 } }
seeds = 1

[data.digits]
builtin = "digits"
per_class = 20

[recipe.sgd]
optimizer = "sgd"
lr = 0.1
epochs = 2
batch_size = 32

[search]
rounds = 2
prune = 0.5
criterion = "same-sign"

[arm.unit-permuted]
mask = "unit-permuted"
weights = "re-drawn"

[arm.anchored]
mask = "ticket"
weights = "trained"
method = "l2-sp"
options = { strength = 0.1 }

[[transfer]]
sources = ["digits@sgd"]
targets = ["digits@sgd"]
arms = ["winning", "unit-permuted", "anchored"]
densities = [0.25]
"""


class House(NamedTuple):
    """A copy of the package with the files of the pages in it, and how all files were before."""

    root: Path
    before: dict[str, str]
    added: list[str]

    def python(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Python where ``oneticket`` is the copy."""
        environment = {**os.environ, "PYTHONPATH": str(self.root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    package = Path(oneticket.__file__).parent
    shutil.copytree(package, root / "src" / "oneticket", ignore=shutil.ignore_patterns("__pycache__"))
    before = files(root / "src")
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    shown = re.findall(r"(?:[Ii]n|as)\s+`src/(oneticket/\S+?\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL)
    for place, text in shown:
        assert not (root / "src" / place).exists()
        (root / "src" / place).write_text(text)
    (root / "additions.toml").write_text(EXPERIMENT)
    return House(root, before, [place for place, _ in shown])


def test_each_is_one_file_beside_its_kind(house: House) -> None:
    """Also a test that the copy is what runs, with all other files as they are."""
    assert [place.split("/")[1] for place in house.added] == ["pruning", "pruning", "pruning", "methods"]
    where = house.python("-c", "import oneticket; print(oneticket.__file__)").stdout.strip()
    assert Path(where).is_relative_to(house.root)
    after = files(house.root / "src")
    assert set(after) - set(house.before) == set(house.added)
    assert {place: after[place] for place in house.before} == house.before


def test_they_are_listed_with_one_line_each(house: House) -> None:
    known = json.loads(house.python("-m", "oneticket", "list", "--json").stdout)
    in_words = house.python("-m", "oneticket", "list").stdout
    for kind, name in ADDED:
        (entry,) = (entry for entry in known[kind] if entry["name"] == name)
        assert entry["summary"].endswith(".")
        assert f"{name}  " in in_words


def test_an_experiment_names_all_three_and_runs(house: House) -> None:
    told = house.python("-m", "oneticket", "run", "additions.toml", "--cache", "cache", "--workers", "1", "--json")
    done = json.loads(told.stdout)
    assert done["complete"]
    assert {row["arm"] for row in done["rows"]} == {"dense", "winning", "unit-permuted", "anchored"}
    assert all(row["density"] == pytest.approx(0.25, abs=1e-3) for row in done["rows"] if row["arm"] != "dense")
    starts = [
        json.loads(path.read_text())["description"]["start"]
        for path in (house.root / "stores" / "additions" / "cells").rglob("cell.json")
    ]
    assert {start["ticket"]["search"]["criterion"] for start in starts if start.get("ticket")} == {"same-sign"}
    assert "unit-permuted" in {start.get("mask") for start in starts}
    assert "l2-sp" in {start.get("method") for start in starts}
    assert len({row["test_loss"] for row in done["rows"]}) == 4, "four networks that differ"
    after = files(house.root / "src")
    assert {place: after[place] for place in house.before} == house.before


def test_the_conformance_tests_take_them_up_unedited(house: House) -> None:
    tests = [TESTS / kind / "test_conformance.py" for kind in ("pruning", "methods")]
    chosen = ("-k", " or ".join(name for _, name in ADDED), "--rootdir", TESTS.parent, "-p", "no:cacheprovider")
    done = house.python("-m", "pytest", *tests, *chosen, "-vv", "--color=no")
    passed = [line for line in done.stdout.splitlines() if " PASSED " in line]
    for _, name in ADDED:
        assert any(name in line for line in passed), f"{name} is tested"
