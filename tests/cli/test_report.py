"""The report says how its networks were made: versions, data, recipes, file, failures, methods, literature."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest


class Told(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    error: str


Call = Callable[..., Told]


def read(page: Path) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.read_text("utf-8"))).split())


@pytest.mark.slow
def test_a_report_says_how_its_networks_were_made(call: Call, tiny: Callable[..., Path], tmp_path: Path) -> None:
    file = tiny(
        ('arms = ["winning", "random"]', 'arms = ["winning"]  # a <remark>'),
        ("densities = [0.5, 0.25]", "densities = [0.5]"),
    )
    assert call("run", file, "--store", "store", "--workers", "1").code == 0
    assert call("report", "store", "--out", "page").code == 0
    shown = read(tmp_path / "page" / "report.html")
    environment = json.loads(next(tmp_path.glob("store/cells/*/*/cell.json")).read_text("utf-8"))["environment"]
    for name in ("oneticket", "torch", "python"):
        assert f"{name} {environment[name]}" in shown
    assert environment["processor"] in shown
    (recipe,) = re.findall(r"recipes sgd: (.*?) searches", shown)
    assert {"batch_size 32", "epochs 2", "lr 0.1", "optimizer sgd"} <= set(recipe.split(", "))
    assert re.search(r"digits: fingerprint [0-9a-f]{16}", shown)
    assert re.search(r"(\d+) of \1 planned cells are finished, 0 diverged, 0 failed", shown)
    assert "prune 0.5" in shown
    assert "# a <remark>" in shown
    assert "oneticket run tiny.toml --store store" in shown
    assert "pruning 50 % of the remaining weights a round by magnitude" in shown
    assert "frankle2019lottery" in shown
    assert "lee2019snip" not in shown
    assert str(tmp_path) not in (tmp_path / "page" / "report.html").read_text("utf-8")


def test_a_failure_is_named_with_its_reason(call: Call, tiny: Callable[..., Path], tmp_path: Path) -> None:
    file = tiny(('arms = ["winning", "random"]', 'arms = ["random"]'), ("densities = [0.5, 0.25]", "densities = [0.5]"))
    assert call("run", file, "--store", "store", "--workers", "1").code == 0
    gone = next(iter(json.loads((tmp_path / "store/experiments/tiny.json").read_text("utf-8"))["cells"]))
    (folder,) = tmp_path.glob(f"store/cells/*/{gone}")
    folder.rename(tmp_path / "gone")
    (tmp_path / "store" / "failures").mkdir(exist_ok=True)
    (tmp_path / "store" / "failures" / f"{gone}.json").write_text('{"cell": "a", "reason": "no room left"}', "utf-8")
    assert call("report", "store", "--out", "page").code == 0
    shown = read(tmp_path / "page" / "report.html")
    assert f"failed: {gone[:12]}: no room left" in shown
    assert ", 0 diverged, 1 failed" in shown


def test_a_table_in_csv_owns_up_to_what_it_does_not_know(call: Call, tmp_path: Path) -> None:
    line = "e,t,r,winning,0.1,0,0.9,0.3"
    (tmp_path / "t.csv").write_text(
        f"experiment,target,target_recipe,arm,density,seed,test_accuracy,test_loss\n{line}\n", "utf-8"
    )
    assert call("report", "t.csv", "--out", "page").code == 0
    assert "read from t.csv, which does not say where its networks were trained" in read(
        tmp_path / "page" / "report.html"
    )
