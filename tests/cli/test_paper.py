"""``oneticket paper``: its files are shipped, their paths can be replaced, and a figure is run, judged and drawn."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from oneticket.cli import paper_command, tables
from oneticket.cli.paper_command import FIGURES, FILES, SCALES, _drawings, about, draw_all, experiment_file
from oneticket.errors import InputError
from oneticket.lab.results.table import from_csv

ROOT = Path(__file__).resolve().parents[2]
CLAIM = '[[claim]]\nsays = "Within all bounds."\narm = "winning"\nagainst = "random"\nequivalent = 99\n'


def test_a_wheel_has_the_files_of_the_checkout() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {"examples/paper": "oneticket/cli/paper"}
    assert {file.stem for file in FILES.glob("*.toml")} == {f"{name}-{scale}" for name in FIGURES for scale in SCALES}
    assert sum(file.stat().st_size for file in FILES.glob("*.toml")) < 100_000


def test_what_differs_is_told_without_marks() -> None:
    told = about(FILES / "fig3-small.toml")
    assert told.startswith("Figure 3 of Morcos et al. 2019: ")
    assert "What differs from the original: " in told
    assert told.endswith("three seeds instead of six.")
    assert "#" not in told


def test_other_images_are_written_into_a_file_of_ones_own(tmp_path: Path) -> None:
    for name in ("cifar10_jpeg", 'a "quoted" place'):
        (tmp_path / name).mkdir()
    ours = experiment_file("fig2-small", tmp_path, tmp_path / "out")
    assert ours == tmp_path / "out" / "fig2-small.toml"
    here, there = (tomllib.loads(file.read_text("utf-8")) for file in (ours, FILES / ours.name))
    assert {data["path"] for data in here["data"].values()} == {str(tmp_path / "cifar10_jpeg")}
    assert {**here, "data": 0} == {**there, "data": 0}


def test_images_that_are_missing_are_named_before_anything_starts(call: Any, tmp_path: Path) -> None:
    told = call("paper", "fig3", "--data", tmp_path)
    assert told.code == 2
    assert f"--data: '{tmp_path}' has no folder 'cifar10_jpeg'" in told.error
    assert "tiny_imagenet200_subset, miniplaces100_64" in told.error
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "fashion_mnist").mkdir()
    with pytest.raises(InputError, match="has no folder 'svhn'"):
        experiment_file("fig4-paper", tmp_path, tmp_path)


def test_each_target_and_each_network_has_its_drawing() -> None:
    def row(model: str, target: str) -> dict[str, str]:
        return {"model": model, "target": target, "target_recipe": "sgd"}

    two = [row("vgg19(width=0.125)", "cifar10-b"), row("resnet50(width=0.0625)", "cifar10-b")]
    assert [(d.name, d.kind) for d in _drawings("fig2", two)] == [
        ("fig2-vgg19", "accuracy"),
        ("fig2-resnet50", "accuracy"),
    ]
    six = [row("vgg19", "fashion"), row("vgg19", "cifar10")]
    assert [d.name for d in _drawings("fig3", six)] == ["fig3-heat-map", "fig3-fashion-sgd", "fig3-cifar10-sgd"]
    assert [(d.name, d.kind) for d in _drawings("fig1b", six[:1])] == [
        ("fig1b", "layers"),
        ("fig1b-accuracy", "accuracy"),
    ]


def test_a_figure_that_lacks_its_networks_is_said_and_the_others_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row | {"model": "m"} for row in from_csv(ROOT / "docs" / "results" / "quickstart.csv")]
    monkeypatch.setattr(tables, "rows_of", lambda *_: rows)
    told = {path.name: caption for path, caption in draw_all(tmp_path, "fig3-small", tmp_path)}
    assert told.pop("fig3-heat-map.svg").startswith("not drawn: a map needs an arm with two sources")
    assert told
    assert {file.name for file in tmp_path.iterdir()} == set(told)


@pytest.mark.slow
def test_a_figure_is_run_judged_and_drawn(
    call: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (tmp_path / tiny(("seeds = 1", "seeds = 2"))).read_text()
    text = (
        text.replace('"winning", "random"', '"winning", "own", "random"')
        .replace('name = "tiny"', 'name = "fig1b-small"')
        .replace('name  = "tiny"', 'name  = "fig1b-small"')
    )
    (tmp_path / "fig1b-small.toml").write_text(f"# Figure 1b, tiny.\n{text}\n{CLAIM}")
    monkeypatch.setattr(paper_command, "FILES", tmp_path)
    planned = call("paper", "fig1b", "--plan")
    assert planned.code == 0, planned.error
    assert "networks to compare" in planned.out
    told = call("paper", "fig1b", "--workers", "1", "--out", "drawn")
    assert told.code == 0, told.error
    assert told.out.startswith("Figure 1b, tiny.")
    assert "SUPPORTED: Within all bounds." in told.out
    assert {file.name for file in (tmp_path / "drawn").iterdir()} >= {"fig1b-accuracy.svg"}
    assert "n = 2" in told.out
