"""The examples: every experiment file can be planned, the program runs, and the quick start is the packaged one."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import oneticket.cli
from oneticket.cli.paper_command import FIGURES, SCALES
from oneticket.data.spec import chain
from oneticket.lab.planning.plan import Plan, make_plan
from oneticket.lab.spec.arms import ARMS
from oneticket.lab.spec.experiment import load_experiment
from oneticket.lab.spec.parsing import split_role

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MADE = [("text_corpora.py", "corpora", "text"), ("make_table.py", "tumours.csv", "table")]
FILES = sorted([*EXAMPLES.glob("*.toml"), *EXAMPLES.glob("paper/*.toml")])


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def plan(name: str, cache: Path) -> Plan:
    file = EXAMPLES / name
    return make_plan(load_experiment(file), folder=file.parent, cache=cache)


def needs_made_data(file: Path) -> bool:
    """Whether a script beside the file makes its data first."""
    return any(spec.text or spec.table for spec in load_experiment(file).data.values())


def needs_real_data(file: Path) -> bool:
    return any(spec.path is not None for spec in load_experiment(file).data.values())


def test_there_are_examples() -> None:
    assert {file.name for file in FILES} >= {"quickstart.toml", "fashion-mnist.toml", "cifar-small.toml"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_experiment_file_is_read_and_bears_its_own_name(file: Path) -> None:
    experiment = load_experiment(file)
    assert experiment.name == file.stem
    assert len(experiment.replicates) >= 3


@pytest.mark.parametrize(
    "file", [f for f in FILES if not (needs_real_data(f) or needs_made_data(f))], ids=lambda file: file.name
)
def test_every_experiment_that_brings_its_data_can_be_planned(file: Path, cache: Path) -> None:
    found = plan(str(file.relative_to(EXAMPLES)), cache)
    assert found.cells
    assert not found.claims.unanswered, "an example names the claims that it answers"


@pytest.mark.parametrize(("script", "made", "name"), MADE)
def test_every_experiment_on_data_that_a_script_makes_can_be_planned(
    script: str, made: str, name: str, cache: Path, tmp_path: Path
) -> None:
    program = runpy.run_path(str(EXAMPLES / script))
    if name == "text":
        for number in range(30):
            for folder, text in (("python", f"value = {number}\n"), ("english", f"a file of number {number}, ")):
                (tmp_path / "installed" / folder).mkdir(parents=True, exist_ok=True)
                lines = (text.replace(" ", f" {number * place} ") for place in range(500))
                (tmp_path / "installed" / folder / f"{number}.txt").write_text("".join(lines))
        for folder in ("python", "english"):
            files = (tmp_path / "installed" / folder).iterdir()
            assert program["collect"](files, tmp_path / "corpora" / folder, ".txt")[0] == 30
    else:
        assert program["write"](tmp_path / made) == 569
    experiment = load_experiment(EXAMPLES / f"{name}.toml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the ends of files
        assert make_plan(experiment, folder=tmp_path, cache=cache).cells


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    "file", [f for f in FILES if needs_real_data(f) and not f.stem.endswith("-paper")], ids=lambda file: file.name
)
def test_every_experiment_on_real_images_can_be_planned(file: Path, cache: Path, real_data: Path) -> None:
    found = plan(str(file.relative_to(EXAMPLES)), cache)
    assert found.cells
    assert not found.claims.unanswered, "an example names the claims that it answers"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_only_images_whose_mirror_image_is_of_their_class_are_mirrored(file: Path) -> None:
    """Not digits, letters and traffic signs. Data sets are named here once somebody has thought about theirs."""
    safe = {"cifar10_jpeg", "cifar100_jpeg", "tiny_imagenet200_subset", "miniplaces100_64", "fashion_mnist"}
    safe |= {"cifar10", "cifar100", "imagenet", "places365"}
    experiment = load_experiment(file)
    for grid in experiment.transfer:
        for role in (*grid.sources, *grid.targets):
            data, recipe = split_role(role)
            if experiment.recipe[recipe].augment.flip:
                _, base = chain(experiment.data, data)[0]
                assert Path(base.origin[1]).name in safe, role


def test_each_figure_of_the_paper_makes_claims_and_says_what_differs() -> None:
    figures = [file for file in FILES if file.parent.name == "paper"]
    assert {file.stem for file in figures} == {f"{figure}-{scale}" for figure in FIGURES for scale in SCALES}
    for file in figures:
        assert load_experiment(file).claim, file
        assert "# What differs from the original: " in file.read_text("utf-8")


@pytest.mark.parametrize("figure", FIGURES)
def test_the_scales_of_a_figure_ask_the_same(figure: str) -> None:
    """The same arms, from as many sources to as many targets, and the same claims, but for stand-ins of data sets."""
    found = [load_experiment(EXAMPLES / "paper" / f"{figure}-{scale}.toml") for scale in SCALES]
    asked = {
        tuple((grid.arms, len(grid.sources), len(grid.targets)) for grid in experiment.transfer) for experiment in found
    }
    said = {tuple((c.arm, c.against, c.direction, c.equivalent) for c in experiment.claim) for experiment in found}
    assert (len(asked), len(said)) == (1, 1)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_asked_about_beside_the_tickets_and_the_random_ones(name: str) -> None:
    """In an experiment of the reviews, on one target, with six seeds or more."""
    beside = {name, "winning", "own", "random", "preserved"}
    reviews = [load_experiment(file) for file in FILES if file.name.startswith("reviews")]
    asked = [e for e in reviews if any(beside <= set(transfer.arms) and transfer.sources for transfer in e.transfer)]
    assert any(len(set(experiment.replicates)) >= 6 for experiment in asked)


def test_the_quick_start_is_the_packaged_one(cache: Path) -> None:
    packaged = Path(oneticket.cli.__file__).with_name("quickstart.toml")
    assert (EXAMPLES / "quickstart.toml").read_bytes() == packaged.read_bytes()
    arms = {row.arm for row in plan("quickstart.toml", cache).rows}
    assert arms == {"dense", "winning", "own", "preserved", "random"}


@pytest.mark.slow
@pytest.mark.realdata
def test_the_fashion_experiment_is_the_promised_one(cache: Path, real_data: Path) -> None:
    """Six seeds, 17 rounds of 5 epochs rewound to 1, two sources, three targets, four arms, down to 2.25 %."""
    found = plan("fashion-mnist.toml", cache)
    seeds = {cell.seed for cell in found.cells.values()}
    rounds = {row.round for row in found.rows}
    assert (len(seeds), max(rounds)) == (6, 17)
    assert {cell.recipe.epochs for cell in found.cells.values()} == {5}
    assert {row.arm for row in found.rows} == {"dense", "winning", "preserved", "layer-permuted", "random"} <= set(ARMS)
    assert {(row.source, row.source_recipe) for row in found.rows if row.source} == {
        ("fashion", "sgd"),
        ("mnist", "sgd"),
    }
    assert {(row.target, row.target_recipe) for row in found.rows} == {
        ("fashion", "sgd"), ("fashion", "adam"), ("mnist", "sgd"),
    }  # fmt: skip


@pytest.mark.slow
def test_a_network_and_a_loop_of_ones_own(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    program = [sys.executable, str(EXAMPLES / "own_model.py")]
    told = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert told.returncode == 0, told.stderr
    accuracy = re.search(r"test accuracy ([\d.]+) % with (\d+) of (\d+) weights", told.stdout)
    assert accuracy, told.stdout
    assert float(accuracy[1]) > 80, "chance is 10 %"
    assert int(accuracy[2]) <= 0.1 * int(accuracy[3]) + 1


def test_the_arms_that_are_pruned_in_training_have_as_many_trials_as_all_others() -> None:
    experiment = load_experiment(EXAMPLES / "reviews-pruning.toml")
    arms = experiment.arms()
    for grid in experiment.transfer:
        tried = {name: grid.candidates(arms[name]) for name in ("dense", *grid.arms)}
        assert {len(found) for found in tried.values()} == {grid.tune["trials"]}
        assert {c.arm.options["strength"] for c in tried["l1"]} == set(grid.tune["strength"])
