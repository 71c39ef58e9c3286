"""The commands of the laboratory, from a file to its table and report."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

import oneticket
import oneticket.kernels.sparse.building
import oneticket.kernels.sweep
import oneticket.lab.execution.capacity
import oneticket.lab.execution.scheduler
from oneticket.kernels.sweep import Wrong
from oneticket.lab.cells.records import sealed
from oneticket.lab.cells.run import Workplace
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.capacity import Workers
from oneticket.lab.execution.engines import Engine
from oneticket.lab.execution.events import PlainPath
from oneticket.lab.execution.scheduler import Summary
from oneticket.lab.planning.plan import Plan
from oneticket.lab.results.table import COLUMNS

Tiny = Callable[..., Path]

COMMANDS = [
    "demo",
    "plan",
    "run",
    "watch",
    "verify",
    "paper",
    "results",
    "report",
    "figure",
    "power",
    "store",
    "merge",
    "find",
    "transfer",
    "ticket",
    "zoo",
    "trust",
    "bench",
    "statistics",
    "list",
    "doctor",
    "completion",
]


def facts(told: Any) -> dict[str, Any]:
    assert told.code == 0, told.error
    content: dict[str, Any] = json.loads(told.out)
    return content


# -- help ---------------------------------------------------------------------------------------------------------
def test_help_lists_the_commands_of_the_contract_in_order(call: Any) -> None:
    for flag in ("--help", "-h"):
        told = call(flag)
        assert told.code == 0
        listed = [line.split()[0] for line in told.out.partition("Commands:")[2].splitlines() if line.strip()]
        assert listed == COMMANDS


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("demo", ["--out", "--workers"]),
        ("plan", ["EXPERIMENT", "--json", "--store"]),
        (
            "run",
            [
                "EXPERIMENT",
                "--store",
                "--engine",
                "--workers",
                "--threads",
                "--device",
                "--layout",
                "--compute",
                "--json",
            ],
        ),
        ("results", ["STORE", "--format", "table|markdown|csv|json|parquet"]),
        ("results", ["--comparisons", "--margin"]),
        ("report", ["STORE", "--out"]),
        ("power", ["STORE", "--difference", "--spread", "--tests"]),
        ("statistics", ["--tables", "--figure"]),
        ("find", ["--model", "--data", "--density", "--rewind", "--out"]),
        ("transfer", ["TICKET_FILE", "--data", "--json"]),
        ("ticket", ["show", "verify", "diff"]),
        ("trust", ["list", "revoke"]),
        ("list", ["KIND", "--json"]),
        ("doctor", ["--json"]),
    ],
)
def test_every_command_explains_itself(call: Any, command: str, words: list[str]) -> None:
    told = call(command, "--help")
    assert told.code == 0
    assert all(word in told.out for word in words)
    summary = told.out.splitlines()[2].strip()
    assert summary.endswith((".", ":", ",")) or len(summary) > 20


def test_the_version_is_told(call: Any) -> None:
    assert call("--version").out == f"oneticket, version {oneticket.__version__}\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 0), (["run", "--help"], 0), (["run", "nowhere.toml"], 2), (["plan", "nowhere.toml"], 2)],
)
def test_help_and_a_wrong_name_need_no_torch(words: list[str], code: int) -> None:
    look = (
        "import sys\n"
        "from oneticket.cli import main\n"
        "try:\n"
        f"    main({words})\n"
        "finally:\n"
        "    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert ended.stderr.splitlines()[-1] == "False"


def test_the_package_is_a_command_too() -> None:
    for module in ("oneticket", "oneticket.cli"):
        told = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
        assert oneticket.__version__ in told.stdout


# -- plan ---------------------------------------------------------------------------------------------------------
def test_plan_tells_cells_and_shared_work_and_trains_nothing(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    plan = facts(call("plan", tiny(), "--json", "--workers", "2"))
    # Dense low and dense digits, one round on low, two arms at two densities; the random arm needs no ticket.
    assert (plan["trainings"], plan["missing"], plan["search"], plan["networks"]) == (7, 7, 1, 5)
    assert plan["unshared"] == 1 + (1 + 1) + (1 + 2) + 1 + 1
    assert (plan["workers"], plan["workers_because"]) == (2, "as asked for")
    assert plan["estimated_seconds"] > 0
    assert len(plan["cells"]) == 7
    assert [finding["kind"] for finding in plan["findings"]] == ["steps"]
    seen: set[str] = set()
    for cell in plan["cells"]:
        assert set(cell["parents"]) <= seen
        seen.add(cell["cell"])
    text = call("plan", tiny())
    assert "tiny: 5 networks to compare, from 7 trainings" in text.out
    assert "7 not yet done in stores/tiny" in text.out
    assert f"  not level (steps): {plan['findings'][0]['text']}\n" in text.out
    assert "workers (one per core; " in text.out
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.toml"]


# -- run ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny experiment has been run once for the tests below."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def done(call: Any, tiny: Tiny, place: Path) -> dict[str, Any]:
    """The tiny experiment, run; what the first run of all told."""
    told = place / "told.json"
    if not told.exists():
        run = call("run", tiny(), "--store", place / "store", "--workers", "2", "--json")
        assert run.code == 0, run.error
        told.write_text(run.out)
    first: dict[str, Any] = json.loads(told.read_text())
    return first


def test_a_run_computes_everything_and_tells_its_rows(done: dict[str, Any], place: Path) -> None:
    assert (done["cells"], done["trained"], done["cached"], done["complete"]) == (7, 7, 0, True)
    assert done["failed"] == done["left_out"] == {}
    assert len(done["rows"]) == 5
    assert all(tuple(row) == COLUMNS for row in done["rows"])


def test_a_finished_run_trains_nothing(call: Any, tiny: Tiny, done: dict[str, Any], place: Path) -> None:
    again = facts(call("run", tiny(), "--store", place / "store", "--json"))
    assert (again["trained"], again["cached"], again["complete"]) == (0, 7, True)
    assert again["rows"] == done["rows"]
    text = call("run", tiny(), "--store", place / "store")
    assert "0 trained, 7 already there, 0 failed, 0 left out" in text.out
    assert text.error == ""
    assert "0 not yet done" in call("plan", tiny(), "--store", place / "store").out


@pytest.mark.parametrize("command", [["run", "tiny.toml", "--json", "--store"], ["results", "--format", "csv"]])
def test_what_is_finished_is_told_without_torch(
    tiny: Tiny, done: dict[str, Any], place: Path, tmp_path: Path, command: list[str]
) -> None:
    tiny()
    code = (
        "import sys\n"
        "from oneticket.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, *command, str(place / "store")],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stderr.strip() == "False"
    assert done["rows"][0]["cell"] in told.stdout


def test_that_everything_is_finished_lets_no_wrong_word_pass(
    call: Any, tiny: Tiny, done: dict[str, Any], place: Path
) -> None:
    told = call("run", tiny(), "--store", place / "store", "--engine", "locl")
    assert told.code == 2
    assert "did you mean 'local'?" in told.error


@pytest.mark.parametrize(
    ("change", "new"),
    [
        (("seeds = 1", "seeds = 2"), 7),
        (('"winning", "random"', '"winning", "random", "preserved"'), 2),
        (("0.5, 0.25", "0.5, 0.25, 1.0"), 2),
        (('name = "tiny"', 'name = "other"'), 0),
    ],
)
def test_what_is_added_is_all_that_is_missing(
    call: Any, tiny: Tiny, done: dict[str, Any], place: Path, change: tuple[str, str], new: int
) -> None:
    plan = facts(call("plan", tiny(change), "--store", place / "store", "--json"))
    assert plan["missing"] == new
    assert plan["trainings"] == 7 + new


@pytest.mark.parametrize(
    ("words", "layout", "compute"),
    [
        ([], "channels-last", "measured"),
        (["--layout", "contiguous"], "contiguous", "measured"),
        (["--compute", "dense"], "channels-last", "dense"),
    ],
)
def test_layout_and_layers_are_handed_to_those_who_compute(
    call: Any, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], layout: str, compute: str
) -> None:
    asked: list[Workplace] = []

    def nothing(plan: Plan, store: Store, engine: Engine, workplace: Workplace, **_: Any) -> Summary:
        asked.append(workplace)
        return Summary(cells=len(plan.cells))

    monkeypatch.setattr(oneticket.lab.execution.scheduler, "run_plan", nothing)
    assert call("run", tiny(), "--store", tmp_path / "store", *words).code == 0
    assert [(workplace.runtime.layout, workplace.runtime.compute) for workplace in asked] == [(layout, compute)]


def test_sparse_layers_need_a_compiler(call: Any, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oneticket.kernels.sparse.building, "why_not", lambda: "no C compiler is installed")
    told = call("run", tiny(), "--store", tmp_path / "store", "--compute", "sparse")
    assert told.code == 2
    assert "--compute sparse: no C compiler is installed" in told.error
    assert "measured or dense" in told.error


@pytest.mark.parametrize(
    ("words", "side_by_side"),
    [([], 6), (["--threads", "2"], 3), (["--threads", "9"], 1), (["--threads", "2", "--workers", "5"], 5)],
)
def test_threads_take_the_cores_of_workers(
    call: Any, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], side_by_side: int
) -> None:
    asked: list[int] = []

    def nothing(plan: Plan, *_: Any, workers: int, **__: Any) -> Summary:
        asked.append(workers)
        return Summary(cells=len(plan.cells))

    monkeypatch.setattr(oneticket.lab.execution.scheduler, "run_plan", nothing)
    monkeypatch.setattr(oneticket.lab.execution.capacity, "default_workers", lambda: Workers(6, "six cores"))
    assert call("run", tiny(), "--store", tmp_path / "store", *words).code == 0
    assert asked == [side_by_side]


def test_layers_that_took_the_plain_path_are_named(
    call: Any, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = PlainPath("resnet20", "conv\x1b[31m", "convolution 8×4: wrong", 12)

    def nothing(plan: Plan, *_: Any, **__: Any) -> Summary:
        return Summary(cells=len(plan.cells), plain=[path])

    monkeypatch.setattr(oneticket.lab.execution.scheduler, "run_plan", nothing)
    told = call("run", tiny(), "--store", tmp_path / "store")
    line = "  plain path: layer 'conv\\x1b[31m' of resnet20: convolution 8×4: wrong  [12 cells]\n"
    assert (told.code, told.error) == (0, line)
    assert facts(call("run", tiny(), "--store", tmp_path / "store", "--json"))["plain"] == [
        {"network": "resnet20", "layer": "conv\x1b[31m", "reason": "convolution 8×4: wrong", "cells": 12}
    ]


@pytest.mark.slow
def test_what_an_earlier_version_trained_with_wrong_gradients_is_pointed_out(
    call: Any, tiny: Tiny, tmp_path: Path
) -> None:
    model = ('"lenet-300-100", options = { width = 0.05 }', '"resnet20", options = { width = 0.125 }')
    grid = ('sources = ["low@sgd"]\n', ""), ('"winning", "random"', '"dense"'), ("densities = [0.5, 0.25]\n", "")
    file = tiny(model, *grid, ("per_class = 40", "per_class = 8"))
    first = call("run", file, "--store", "store")
    assert (first.code, first.error.count("Caution")) == (0, 0)
    rows = call("results", "store", "--format", "csv")
    assert rows.error == ""
    (record,) = (tmp_path / "store" / "cells").glob("*/*/cell.json")
    content = json.loads(record.read_text())
    del content["environment"]["processor"], content["sha256"]
    record.write_text(sealed(content))
    sentence = "1 training of resnet20 (searches counted too) was finished by an earlier version of oneticket"
    told = call("results", "store", "--format", "csv")
    assert told.out == rows.out, "the table is what it was"
    assert told.error.startswith(f"\nCaution: {sentence}")
    for command in (["results", "store"], ["results", "store", "--footprint"], ["run", file, "--store", "store"]):
        assert sentence in call(*command).error
    assert call("results", "store", "--cost").error == "", "of which wrong gradients change nothing"
    assert call("report", "store", "--out", "page").code == 0
    assert sentence in (tmp_path / "page" / "report.html").read_text("utf-8")
    (tmp_path / "table.csv").write_text(rows.out)
    assert call("results", "table.csv").error == "", "a table can't tell"


def test_what_is_finished_is_known_whatever_the_layout(
    call: Any, tiny: Tiny, done: dict[str, Any], place: Path
) -> None:
    again = facts(call("run", tiny(), "--store", place / "store", "--json", "--layout", "contiguous"))
    assert (again["trained"], again["cached"]) == (0, 7)
    assert again["rows"] == done["rows"]
    told = call("run", tiny(), "--store", place / "store", "--layout", "contigous")
    assert told.code == 2
    assert "contiguous" in told.error


def test_the_formats_of_results_agree(call: Any, tmp_path: Path, done: dict[str, Any], place: Path) -> None:
    store = place / "store"
    as_json = json.loads(call("results", store, "--format", "json").out)
    assert as_json == done["rows"]
    as_csv = list(csv.DictReader(io.StringIO(call("results", store, "--format", "csv").out)))
    assert as_csv == [{c: "" if row[c] is None else str(row[c]) for c in COLUMNS} for row in as_json]
    for kind in ("csv", "json", "parquet"):
        assert call("results", store, "--format", kind, "--out", f"table.{kind}").code == 0
    assert pyarrow.parquet.read_table(tmp_path / "table.parquet").to_pylist() == as_json
    assert json.loads((tmp_path / "table.json").read_text()) == as_json
    assert list(csv.DictReader((tmp_path / "table.csv").open(newline=""))) == as_csv


def test_the_table_for_people_has_a_line_for_every_arm_and_density(
    call: Any, done: dict[str, Any], place: Path
) -> None:
    told = call("results", place / "store")
    assert told.code == 0
    arms = [arm for line in told.out.splitlines() for arm in ("winning", "random", "dense") if arm in line.split()[:6]]
    assert sorted(arms) == ["dense", "random", "random", "winning", "winning"]


def test_an_unknown_experiment_is_refused(call: Any, done: dict[str, Any], place: Path) -> None:
    told = call("results", place / "store", "--experiment", "tny")
    assert told.code == 2
    assert "did you mean 'tiny'?" in told.error


def test_a_report_is_one_file_that_needs_no_network(
    call: Any, tmp_path: Path, done: dict[str, Any], place: Path
) -> None:
    told = call("report", place / "store", "--out", "page")
    assert told.code == 0
    assert told.out.strip() == "page/report.html"
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "winning" in page
    assert "<script src" not in page
    assert "<link" not in page
    assert sorted(entry.name for entry in (tmp_path / "page").iterdir()) == ["figures", "report.html", "tables"]
    told = call("results", place / "store", "--comparisons", "--format", "csv").out
    assert (tmp_path / "page" / "tables" / "comparisons.csv").read_text(encoding="utf-8") == told
    lines = list(csv.DictReader(io.StringIO(told)))
    assert all(line["p_mcnemar"] and line["noise_floor"] and line["lost"] for line in lines), "a store knows the images"
    call("results", place / "store", "--format", "csv", "--out", "rows.csv")
    shown = {where: call("results", where, "--comparisons").out for where in (place / "store", "rows.csv")}
    assert "p (McNemar)" in shown[place / "store"]
    assert "no single seed can say" in shown[place / "store"]
    assert "p (McNemar)" not in shown["rows.csv"], "a table does not"


def test_a_diverging_recipe_is_an_outcome_of_its_cells_and_of_no_others(call: Any, tiny: Tiny) -> None:
    recipe = '[recipe.wild]\noptimizer = "sgd"\nlr = 1e6\nepochs = 2\nbatch_size = 32\n\n[search]'
    file = tiny(("[search]", recipe), ('["digits@sgd"]', '["digits@wild", "digits@sgd"]'))
    told = call("run", file, "--workers", "2")
    assert told.code == 0
    lines = [line for line in told.error.splitlines() if line.startswith("  diverged: ")]
    assert lines
    assert all("digits@wild" in line for line in lines)
    assert all("the loss is " in line and "at step " in line and "learning rate 1e+06" in line for line in lines)
    assert "Traceback" not in told.error
    assert "diverged), 0 already there, 0 failed, 0 left out" in told.out
    assert len([line for line in told.out.splitlines() if "1 (1 diverged)" in line]) == 5, "said in the table"
    again = call("run", file, "--json")
    assert again.code == 0
    run = json.loads(again.out)
    assert run["complete"]
    assert run["trained"] == 0, "it is not tried again"
    wild = [row for row in run["rows"] if row["target_recipe"] == "wild"]
    assert len(run["rows"]) == 2 * len(wild) == 10
    assert {(row["test_accuracy"], row["test_loss"]) for row in wild} == {(0.1, None)}, "guessing one of ten"
    assert all(row["test_loss"] is not None for row in run["rows"] if row not in wild)
    page = call("report", file.parent / "stores" / "tiny", "--out", "diverged")
    assert page.code == 0
    assert "5 networks diverged in training" in Path("diverged/report.html").read_text(encoding="utf-8")


# -- what there is ------------------------------------------------------------------------------------------------
def test_list_shows_everything_that_can_be_named(call: Any) -> None:
    kinds = facts(call("list", "--json"))
    assert list(kinds) == [
        "arm", "claim", "reference", "criterion", "allocation", "control", "draw", "norms", "rescaling", "method",
        "pre-training", "model", "data source", "engine",
    ]  # fmt: skip
    assert {entry["name"] for entry in kinds["arm"]} >= {"dense", "winning", "own", "random", "preserved", "erk"}
    assert {entry["name"] for entry in kinds["engine"]} >= {"local"}
    assert all(entry["summary"] for entries in kinds.values() for entry in entries)
    for key, kind in {"mask": "control", "weights": "draw", "rescale": "rescaling"}.items():
        assert facts(call("list", key, "--json")) == {kind: kinds[kind]}  # the key of an experiment file
    told = call("list", "criterion")
    assert "magnitude" in told.out
    assert "winning" not in told.out
    assert call("list", "rescale").out == call("list", "rescaling").out
    everything = call("list").out
    assert all(entry["name"] in everything for entries in kinds.values() for entry in entries)


def test_doctor_tells_what_this_machine_has(call: Any, cache: Path) -> None:
    import torch

    found = facts(call("doctor", "--json"))
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["oneticket"] == oneticket.__version__
    assert found["processor"]["cores"] >= 1
    assert found["places"]["decoded data"] == str(cache / "oneticket")
    text = call("doctor")
    assert text.code == 0
    assert all(title in text.out for title in found)


@pytest.mark.parametrize("right", [True, False])
def test_doctor_lists_the_kernels_that_are_wrong(right: bool, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all kinds the operations of torch; of those that are wrong the layers of networks, which must not be."""
    tried: list[tuple[int, bool]] = []

    def sweep(chosen: Any, *, layers: bool) -> Any:
        tried.append((len(chosen), layers))
        for kind in chosen:
            narrow = (kind.kernel, kind.stride, kind.threads, kind.grouped, kind.transposed) == (1, 2, 2, False, False)
            wrong = narrow and kind.layout == "channels-last" and not (layers and right)
            yield kind, Wrong(kind, (2, 3, 4, 9), "it crashes (SIGSEGV)") if wrong else None

    monkeypatch.setattr(oneticket.kernels.sweep, "sweep", sweep)
    told = call("doctor", "--kernels")
    assert told.code == (0 if right else 1)
    assert tried == [(128, False), (2, True)]
    assert "1 × 1, stride 2, channels-last, bf16, 2 threads; 2-4, 9 channels: it crashes (SIGSEGV)" in told.out
    assert ("wrong in networks here as well: nothing" in told.out) == right
    found = json.loads(call("doctor", "--kernels", "--json").out)
    assert (len(found["wrong"]), len(found["layers"])) == (2, 0 if right else 2)


@pytest.mark.parametrize(("units", "has", "fastest"), [((), "no: ", "float32: "), (("amx_bf16",), "yes", "bf16: amx")])
def test_doctor_believes_the_processor_about_bfloat16(
    call: Any, monkeypatch: pytest.MonkeyPatch, units: tuple[str, ...], has: str, fastest: str
) -> None:
    monkeypatch.setattr("oneticket.training.precision.bf16_units", lambda *_: units)
    told = facts(call("doctor", "--json"))["processor"]
    assert told["bfloat16 in hardware"].startswith(has)
    assert told["fastest precision"].startswith(fastest)


@pytest.mark.parametrize("units", [(), ("avx512_bf16",)])
def test_plan_tells_what_the_precisions_of_its_recipes_mean_here(
    call: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, units: tuple[str, ...]
) -> None:
    monkeypatch.setattr("oneticket.training.precision.bf16_units", lambda *_: units)
    half = ("[search]", tiny().read_text().partition("[recipe.sgd]")[2].partition("[search]")[0])
    recipe = f'[recipe.half]\nprecision = "bf16"{half[1]}[search]'
    both = tiny(("[search]", recipe), ('["digits@sgd"]', '["digits@sgd", "digits@half"]'))
    told = facts(call("plan", both, "--json"))["precision"]
    assert {precision: found["fastest"] for precision, found in told.items()} == {
        "bf16": bool(units), "float32": not units,
    }  # fmt: skip
    text = call("plan", both).out
    assert all(f"  in {precision}: {found['reason']}\n" in text for precision, found in told.items())
    assert list(facts(call("plan", tiny(), "--json"))["precision"]) == ["float32"]


# -- what goes wrong outside --------------------------------------------------------------------------------------
def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m oneticket list | true; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr


def test_a_full_disk_is_one_line_and_resumable(call: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "experiments/tiny.json")

    monkeypatch.setattr("oneticket.lab.results.table.remember", full)
    told = call("run", tiny())
    assert told.code == 1
    assert told.error == "Error: experiments/tiny.json: No space left on device\n"


@pytest.mark.slow
def test_the_demo_ends_with_a_report(call: Any, tmp_path: Path) -> None:
    told = call("demo", "--out", "there")
    assert told.code == 0, told.error
    for arm in ("winning", "own", "preserved", "random", "dense"):
        assert arm in told.out
    assert (tmp_path / "there" / "report" / "report.html").stat().st_size > 10_000


def test_the_ledger_is_told_in_three_formats(call: Any, tmp_path: Path, done: dict[str, Any], place: Path) -> None:
    store = done["store"]
    book = json.loads(call("results", store, "--cost", "--format", "json").out)
    networks = len(json.loads(call("results", store, "--format", "json").out))
    assert len(book["rows"]) == networks
    file = tmp_path / "cost.csv"
    assert call("results", store, "--cost", "--format", "csv", "--out", file).code == 0
    assert len(file.read_text().splitlines()) == networks + 1
    assert "mask-aware" in call("results", store, "--cost").out
    assert call("results", store, "--cost", "--format", "parquet").code == 2


def test_footprints_are_told_in_four_formats(call: Any, tmp_path: Path, done: dict[str, Any]) -> None:
    store = done["store"]
    rows = facts(call("results", store, "--footprint", "--format", "json"))
    ways = ["dense kernels", "CSR"]
    assert [(row["arm"], row["way"]) for row in rows if row["arm"] != "dense"] == [("winning", w) for w in ways * 2]
    for kind, more in (("csv", 1), ("markdown", 2)):
        file = tmp_path / kind
        assert call("results", store, "--footprint", "--format", kind, "--out", file).code == 0
        assert len(file.read_text().splitlines()) == len(rows) + more
    shown = call("results", store, "--footprint").out.splitlines()
    assert len(shown) == len(rows) + 1
    assert shown[0].endswith("ms, one image  ms an image, of 128")
    assert call("results", store, "--footprint", "--format", "parquet").code == 2
    assert call("results", store, "--footprint", "--cost").code == 2


def test_the_summary_as_markdown(call: Any, done: dict[str, Any]) -> None:
    shown, written = (call("results", done["store"], *more).out for more in ((), ("--format", "markdown")))
    lines = written.splitlines()
    assert len(lines) == len(shown.splitlines()) + 1
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == re.split("  +", shown.splitlines()[1].strip())


def test_results_are_compared_with_what_is_named_in_a_column_for_each_target(
    call: Any, tmp_path: Path, done: dict[str, Any]
) -> None:
    store = done["store"]
    options = ["--wide", "--against", "winning", "--arm", "random", "--arm", "winning"]
    told = call("results", store, *options)
    assert told.code == 0
    table, _, fairness = told.out.partition("\n\n")
    header, *lines = table.splitlines()
    assert fairness.startswith("On digits@sgd networks had other numbers of steps of their own: ")
    assert header.split() == ["weights", "%", "arm", "digits@sgd"]
    assert [line.split()[1] for line in lines] == ["random", "random", "winning", "winning"]
    assert "vs winning" in call("results", store, "--against", "winning").out
    # The same from a table in a file.
    assert call("results", store, "--format", "csv", "--out", "table.csv").code == 0
    assert call("results", "table.csv", *options).out == told.out
    assert call("report", "table.csv", "--against", "winning").out.strip() == "table-report/report.html"
    assert "vs winning" in (tmp_path / "table-report" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--against", "wining"], "did you mean 'winning'"),
        (["--arm", "wining"], "did you mean 'winning'"),
        (["--wide", "--cost"], "--against, --arm and --wide"),
        (["--against", "random", "--format", "csv"], "--against, --arm and --wide"),
        (["--wide", "--against", "random", "--against", "dense"], "room for one"),
    ],
)
def test_comparisons_that_cannot_be_are_refused(
    call: Any, done: dict[str, Any], options: list[str], expected: str
) -> None:
    told = call("results", done["store"], *options)
    assert told.code == 2
    assert expected in told.error


def test_names_are_neither_markup_nor_codes_for_the_terminal(call: Any, tmp_path: Path) -> None:
    header = "experiment,target,target_recipe,arm,density,seed,test_accuracy,test_loss\n"
    lines = "".join(f"e,t,r,{arm},0.5,0,0.5,1.0\n" for arm in ("[bold]w", "w[/x]", "\x1b[31mred"))
    (tmp_path / "odd.csv").write_text(header + lines)
    told = call("results", "odd.csv")
    assert told.code == 0
    assert "[bold]w" in told.out
    assert "w[/x]" in told.out
    assert "\x1b" not in told.out
