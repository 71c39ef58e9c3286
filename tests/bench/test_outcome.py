"""The outcome: its JSON, its file, its tables, and several as one."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from oneticket.bench.machine import Machine, cores, this_machine, with_threads
from oneticket.bench.measures.ceiling import Ceiling, Floor
from oneticket.bench.outcome import Family, ModelStep, Outcome, absent, merged, read_outcome, result
from oneticket.bench.pairing import Spread
from oneticket.bench.rows import ROWS, STEPS, chosen
from oneticket.bench.table import HEADER, MODELS_HEADER, fill, lines, markdown, model_lines
from oneticket.errors import InputError
from oneticket.training.precision import bf16_units

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


def model(name: str, ms: float) -> ModelStep:
    floor = Floor(flops=1, bytes=1, compute_ms=3.0, memory_ms=4.0)
    return ModelStep(model=name, precision="float32", batch_size=128, steps=2, ms=ms, floor=floor, families=[])


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
    assert {"Outcome", "Result", "Spread", "Machine", "Ceiling", "Floor", "Family", "ModelStep"} == set(schema)
    assert all(schema[name]["additionalProperties"] is False for name in schema)
    content = json.loads(outcome().as_json()) | {"more": 1}
    (tmp_path / "a.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match=r"not an outcome of the bench.*more"):
        read_outcome(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_outcome(tmp_path / "b.json")


def test_outcomes_are_merged_row_by_row() -> None:
    part, other = Family(family="loss", ms=1.0, share=1.0), Family(family="data", ms=1.0, share=1.0)
    first = outcome(
        measured("lenet", 1), measured("lab-plan", 1), profiles={"lenet": [part]}, models=[model("vgg11", 1)]
    )
    second = outcome(
        measured("resnet20", 2), measured("lenet", 2), date="2026-01-03", repeats=3, profiles={"resnet20": [other]},
        models=[model("conv-2", 2), model("vgg11", 2)], ceiling=Ceiling(float32=1, bf16=2, copy=3),
    )  # fmt: skip
    both = merged(first, second)
    assert [(r.row, r.measured.median) for r in both.results if r.measured] == [
        ("lenet", 2), ("resnet20", 2), ("lab-plan", 1),
    ]  # fmt: skip
    assert both.profiles == {"lenet": [part], "resnet20": [other]}
    assert [(m.model, m.ms) for m in both.models] == [("vgg11", 2), ("conv-2", 2)]
    assert (both.date, both.repeats, both.ceiling.copy) == ("2026-01-01 to 2026-01-03", 3, 3)
    assert merged(both, outcome(date="2026-01-02")).date == both.date
    assert merged(first, outcome()) == first
    assert merged(outcome(), first) == first


@given(st.lists(st.lists(st.sampled_from(list(ROWS)), unique=True), min_size=1, max_size=4))
def test_of_several_outcomes_the_last_that_has_a_row_counts(runs: list[list[str]]) -> None:
    outcomes = [outcome(*(measured(row, 1.0 + number) for row in run)) for number, run in enumerate(runs)]
    found = {r.row: r.measured.median for r in reduce(merged, outcomes).results if r.measured}
    last = {row: 1.0 + number for number, run in enumerate(runs) for row in run}
    assert found == last
    assert len(runs) == 1 or list(found) == [row for row in ROWS if row in last]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"short": False}, "short True and False"),
        ({"device": "cuda"}, "device cpu and cuda"),
        ({"threads": 1}, "threads 2 and 1"),
        ({"loader_workers": 2}, "loader_workers 0 and 2"),
        ({"machine": replace(MACHINE, processor="B")}, "processor A and B"),
        ({"machine": replace(MACHINE, versions={"torch": "3"})}, "versions"),
    ],
)
def test_outcomes_of_two_kinds_are_not_merged(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"--from: the outcomes are of two kinds: {told}"):
        merged(outcome(), outcome(**changes))


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, first, second = tmp_path / "a.json", outcome(measured("lenet", 1)), outcome(measured("lenet", 2))
    first.write(place)

    def full(file: Path, text: str, **_: object) -> None:
        file.write_bytes(text.encode()[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            second.write(place)
    assert read_outcome(place) == first
    second.write(place)
    assert read_outcome(place) == second
    (tmp_path / "link.json").symlink_to(place)
    first.write(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert read_outcome(place) == first


def test_a_row_that_there_is_not_is_refused(tmp_path: Path) -> None:
    text = outcome(measured("lenet", 1)).as_json().replace('"lenet"', '"lennet"')
    (tmp_path / "a.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"unknown row 'lennet'.*did you mean 'lenet'\?"):
        read_outcome(tmp_path / "a.json")


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
    with pytest.raises(InputError, match="no block for the table"):
        fill(page, replace(now, models=[model("vgg11", 1)]))
    assert page.read_text("utf-8") == once
    with pytest.raises(InputError, match="cannot be read"):
        fill(tmp_path / "none.md", now)


def test_every_line_of_the_table_fits_its_header() -> None:
    texts = lines(outcome(measured("lenet", 9.0), absent(ROWS["resnet20-bf16"], "no bf16"), measured("lab-plan", 9.0)))
    assert {len(line) for line in texts} == {len(HEADER)}
    assert [line[4:6] for line in texts] == [("1", "yes"), ("", ""), ("1", "no")]
    assert texts[0][2:4] == ("≥ 8 ×", "9 × (9–9)")
    assert texts[1][3] == "not measured: no bf16"


def test_the_table_of_models_shows_shares_that_are_the_whole_step() -> None:
    parts = [Family(family=name, ms=1.0, share=0.25) for name in ("convolution", "loss", "data", "copies and casts")]
    [line] = model_lines(outcome(models=[replace(model("vgg11", 12.345), families=parts)]))
    assert len(line) == len(MODELS_HEADER)
    told = dict(zip(MODELS_HEADER, line, strict=True))
    assert told["a step"] == "12.3 ms"
    assert (told["floor: compute"], told["floor: memory"]) == ("3 ms", "4 ms")
    assert (told["convolution"], told["data"], told["linear"], told["rest"]) == ("25 %", "25 %", "0 %", "50 %")


def test_the_machine_is_told() -> None:
    machine = this_machine()
    assert machine.processor
    assert machine.cores == cores() >= 1
    assert {"oneticket", "torch", "python"} <= set(machine.versions)
    assert machine.bf16 == list(bf16_units())
    with with_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
