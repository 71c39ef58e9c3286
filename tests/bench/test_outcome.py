"""The outcome: its JSON, and when a ratio counts as fallen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from oneticket.bench.ceiling import Ceiling
from oneticket.bench.machine import Machine, cores, this_machine, with_threads
from oneticket.bench.outcome import EXPECTED, Outcome, absent, read_outcome, regressions, result, unmeasured
from oneticket.bench.pairing import Spread
from oneticket.bench.rows import ROWS, STEPS, chosen
from oneticket.bench.table import HEADER, cells, fill, markdown
from oneticket.errors import InputError

MACHINE = Machine(
    processor="A", cores=2, memory_gib=8.0, vectors="AVX2", bf16=[], device="cpu", system="S", versions={"torch": "2"}
)


def outcome(*results: Any, **changes: Any) -> Outcome:
    made = Outcome(
        date="2026-01-01", short=True, device="cpu", threads=2, repeats=5, loader_workers=0, machine=MACHINE,
        ceiling=Ceiling(float32=1e11, bf16=2e11, copy=1e10), results=list(results),
    )  # fmt: skip
    return replace(made, **changes)


def measured(row: str, *values: float) -> Any:
    return result(ROWS[row], Spread.of(values), seconds={"ours": list(values)})


def test_the_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    first = outcome(measured("lenet", 1.5, 2.5, 2.0), absent(ROWS["resnet20-bf16"], "why"))
    (tmp_path / "a.json").write_text(first.as_json(), "utf-8")
    assert read_outcome(tmp_path / "a.json") == first
    content = json.loads(first.as_json())
    assert {"date", "threads", "machine", "ceiling", "results", "short", "device"} < set(content)
    assert content["results"][0]["measured"] == {"median": 2.0, "low": 1.5, "high": 2.5, "values": [1.5, 2.5, 2.0]}
    assert content["results"][1]["measured"] is None


def test_the_json_has_a_schema_that_takes_no_other_keys(tmp_path: Path) -> None:
    schema = msgspec.json.schema(Outcome)["$defs"]
    assert {"Outcome", "Result", "Spread", "Machine", "Ceiling", "Floor", "Family"} == set(schema)
    assert all(schema[name]["additionalProperties"] is False for name in schema)
    content = json.loads(outcome().as_json()) | {"more": 1}
    (tmp_path / "a.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match=r"no outcome of the bench.*more"):
        read_outcome(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_outcome(tmp_path / "b.json")


@given(st.floats(0.01, 100), st.floats(0, 2))
def test_a_ratio_has_fallen_when_it_lost_more_than_a_quarter(before: float, part: float) -> None:
    found = regressions(outcome(measured("lenet", before * part)), outcome(measured("lenet", before)))
    assert bool(found) == (before * part < 0.75 * before)


def test_only_ratios_that_both_measured_are_compared() -> None:
    expected = outcome(
        measured("lenet", 8), measured("resnet20-bf16", 2), measured("lab-plan", 1), measured("chain", 3)
    )
    now = outcome(measured("lenet", 1), absent(ROWS["resnet20-bf16"], "no bf16"), measured("lab-plan", 0.1))
    assert [line.partition(":")[0] for line in regressions(now, expected)] == ["lenet"]
    assert "1.00 ×, expected 8.00 × (at least 6.00 ×)" in regressions(now, expected)[0]
    assert unmeasured(now, expected) == ["resnet20-bf16: no bf16"]


@pytest.mark.parametrize("changes", [{"short": False}, {"device": "cuda"}])
def test_runs_of_two_kinds_are_not_compared(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="two of one kind"):
        regressions(outcome(**changes), outcome())


def test_what_is_expected_covers_every_training_step() -> None:
    expected = read_outcome(EXPECTED)
    assert (expected.short, expected.device) == (True, "cpu")
    assert {entry.row for entry in expected.results if entry.measured is not None} == set(STEPS)
    assert all(len(entry.measured.values) >= 5 for entry in expected.results if entry.measured is not None)


def test_a_target_is_met_on_its_side() -> None:
    assert [ROWS["lenet"].met(value) for value in (7.9, 8, 9)] == [False, True, True]
    assert [ROWS["lab-plan"].met(value) for value in (4.9, 5, 5.1)] == [True, True, False]
    assert (measured("lenet", 9, 9, 1).met, measured("lab-plan", 9, 9, 1).met) == (True, False)


def test_an_unknown_row_gives_the_nearest() -> None:
    with pytest.raises(InputError, match=r"--only: unknown row 'resnet-20'.*did you mean 'resnet20'\?"):
        chosen(["resnet-20"], "cpu", short=False)
    with pytest.raises(InputError, match="not measured on cpu"):
        chosen(["gpu-vgg19"], "cpu", short=False)


def test_the_rows_of_a_device() -> None:
    everything = [row.name for row in chosen([], "cpu", short=False)]
    assert [row.name for row in chosen([], "cpu", short=True)] == list(STEPS)
    assert [row.name for row in chosen(["lab-plan", "lenet"], "cpu", short=True)] == ["lenet", "lab-plan"]
    assert everything + [row.name for row in chosen([], "cuda", short=False)] == list(ROWS)


def test_a_page_is_filled_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = (f"<!-- {word} of oneticket bench on cpu -->" for word in ("begin", "end"))
    page.write_text(f"before\n\n{begin}\nold\n{end}\n\nafter\n", "utf-8")
    now = outcome(measured("lenet", 9.0), absent(ROWS["resnet20-bf16"], "no bf16"))
    fill(page, now)
    once = page.read_text("utf-8")
    assert once.startswith(f"before\n\n{begin}\n\n")
    assert once.endswith(f"\n{end}\n\nafter\n")
    assert "old" not in once
    assert markdown(now) in once
    fill(page, now)
    assert page.read_text("utf-8") == once
    with pytest.raises(InputError, match="no block for the table"):
        fill(page, replace(now, device="cuda"))
    with pytest.raises(InputError, match="cannot be read"):
        fill(tmp_path / "none.md", now)


def test_every_line_of_the_table_fits_its_header() -> None:
    lines = cells(outcome(measured("lenet", 9.0), absent(ROWS["resnet20-bf16"], "no bf16"), measured("lab-plan", 9.0)))
    assert {len(line) for line in lines} == {len(HEADER)}
    assert [line[4] for line in lines] == ["yes", "", "no"]
    assert lines[0][2:4] == ("≥ 8 ×", "9 × (9–9)")
    assert lines[1][3] == "not measured: no bf16"


def test_the_machine_is_told() -> None:
    machine = this_machine()
    assert machine.processor
    assert machine.cores == cores() >= 1
    assert {"oneticket", "torch", "python"} <= set(machine.versions)
    with with_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
