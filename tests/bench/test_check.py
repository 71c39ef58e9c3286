"""When oneticket counts as slower: made-up measurements, disturbed in every way but the one that matters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from oneticket.bench.check import fallen, incomparable, ratios, read_ratios, regressions, unmeasured, write_ratios
from oneticket.bench.machine import Machine
from oneticket.bench.measures.ceiling import Ceiling
from oneticket.bench.outcome import Outcome, absent, result
from oneticket.bench.pairing import ratio
from oneticket.bench.rows import ROWS, STEPS
from oneticket.errors import InputError

MACHINE = Machine(
    processor="A", cores=2, memory_gib=8.0, vectors="AVX2", bf16=[], device="cpu", system="S", versions={"torch": "2"}
)
UNDISTURBED = {"ours": 1.0, "reference": 4.0, "plain": 1.5}
EXPECTED = {"lenet": {"reference": 4.0, "plain": 1.5}}
TURNS = 5

slowdown = st.floats(1, 50)
disturbances = st.fixed_dictionaries(
    {
        name: st.tuples(st.lists(slowdown, min_size=TURNS, max_size=TURNS), st.integers(0, TURNS - 1))
        for name in UNDISTURBED
    }
)


def outcome(*results: Any, **changes: Any) -> Outcome:
    made = Outcome(
        date="2026-01-01", short=True, device="cpu", threads=1, repeats=TURNS, loader_workers=0, machine=MACHINE,
        ceiling=Ceiling(float32=1e11, bf16=2e11, copy=1e10), results=list(results),
    )  # fmt: skip
    return replace(made, **changes)


def measured(row: str = "lenet", **seconds: list[float]) -> Any:
    return result(ROWS[row], ratio(seconds["reference"], seconds["ours"]), seconds=seconds)


def disturbed(disturbance: dict[str, tuple[list[float], int]], **speeds: float) -> Outcome:
    """Turns that something slowed, all but one of each alternative; ``ours=2`` is oneticket at half its speed."""
    seconds = {}
    for name, (factors, calm) in disturbance.items():
        factors = [1.0 if turn == calm else factor for turn, factor in enumerate(factors)]
        seconds[name] = [UNDISTURBED[name] * speeds.get(name, 1.0) * factor for factor in factors]
    return outcome(measured(**seconds))


# -- what is decided ----------------------------------------------------------------------------------------------
@given(disturbances, st.floats(0.1, 10).filter(lambda slower: abs(slower - 4 / 3) > 1e-3))
def test_one_calm_turn_of_each_is_enough_to_tell(disturbance: Any, slower: float) -> None:
    """However much everything else was disturbed: no false alarm, and nothing missed."""
    found = ratios(disturbed(disturbance, ours=slower))
    assert found["lenet"] == pytest.approx({"reference": 4 / slower, "plain": 1.5 / slower})
    assert fallen(found, EXPECTED) == (["lenet"] if slower > 4 / 3 else [])


def test_bf16_is_not_compared_where_it_is_not_faster() -> None:
    """Some processors have the instructions and multiply bf16 slower than float32: the rivals are in float32."""
    seconds = {"ours": [4.0] * TURNS, "reference": [4.0] * TURNS, "plain": [1.5] * TURNS}
    expected = EXPECTED | {"lenet-bf16": EXPECTED["lenet"]}
    both = outcome(measured("lenet", **seconds), measured("lenet-bf16", **seconds))
    assert [line.partition(":")[0] for line in regressions(both, expected)] == ["lenet", "lenet-bf16"]
    assert incomparable(both, expected) == []
    slow = replace(both, ceiling=Ceiling(float32=1.15e11, bf16=6.6e10, copy=1e10))
    assert [line.partition(":")[0] for line in regressions(slow, expected)] == ["lenet"]
    assert incomparable(slow, expected) == ["lenet-bf16: bf16 is not faster here (66 GFLOP/s, 115 in float32)"]


def test_medians_would_have_raised_a_false_alarm() -> None:
    disturbance = {"ours": ([1, 9, 9, 9, 1.0], 0), "reference": ([1.0] * 5, 0), "plain": ([1.0] * 5, 0)}
    now = disturbed(disturbance)  # type: ignore[arg-type]
    assert now.results[0].measured.median < 0.75 * 4  # type: ignore[union-attr]
    assert regressions(now, EXPECTED) == []


@given(disturbances, st.sampled_from(["reference", "plain"]), st.floats(0.01, 1))
def test_a_machine_on_which_one_alternative_is_faster_raises_no_alarm(
    disturbance: Any, name: str, factor: float
) -> None:
    assert regressions(disturbed(disturbance, **{name: factor}), EXPECTED) == []


@given(disturbances, disturbances, st.floats(1.5, 10), st.floats(1.5, 10))
def test_a_row_falls_when_it_was_slow_twice(first: Any, second: Any, once: float, twice: float) -> None:
    asked: list[list[str]] = []

    def again(slower: float) -> Any:
        def measure(rows: Sequence[str]) -> Outcome:
            asked.append(list(rows))
            return disturbed(second, ours=slower)

        return measure

    now = disturbed(first, ours=once)
    assert regressions(now, EXPECTED, again(1.0)) == []
    assert [line.partition(":")[0] for line in regressions(now, EXPECTED, again(twice))] == ["lenet"]
    assert asked == [["lenet"]] * 2
    assert regressions(disturbed(first), EXPECTED, again(twice)) == []
    assert len(asked) == 2, "what is as fast as expected is not measured again"


def test_only_the_rows_that_fell_are_measured_again() -> None:
    fine, slow = {"ours": [1.0], "reference": [4.0]}, {"ours": [2.0], "reference": [4.0]}
    expected = {row: {"reference": 4.0} for row in ("lenet", "resnet20", "vgg19-bf16")}
    now = outcome(measured("lenet", **fine), measured("resnet20", **slow), measured("vgg19-bf16", **slow))
    asked: list[list[str]] = []

    def again(rows: Sequence[str]) -> Outcome:
        asked.append(list(rows))
        return outcome(measured("resnet20", **fine), measured("vgg19-bf16", **slow))

    told = regressions(now, expected, again)
    assert told == ["vgg19-bf16: 2.00 × reference, expected 4.00 × reference"]
    assert asked == [["resnet20", "vgg19-bf16"]]


def test_what_is_measured_of_oneticket_itself_is_no_yardstick() -> None:
    seconds = {"ours": [1.0], "reference": [8.0], "plain": [4.0], "dense": [2.0]}
    assert ratios(outcome(measured("vgg19-sparse", **seconds))) == {"vgg19-sparse": {"reference": 8.0, "plain": 4.0}}


def test_rows_and_alternatives_that_one_side_lacks_are_not_compared() -> None:
    slow = {"reference": 0.1}
    assert fallen({"lenet": slow, "chain": slow}, {"lenet": {"plain": 9.0}, "resnet20": {"reference": 9.0}}) == []
    assert fallen({"lenet": slow | {"plain": 9.0}}, {"lenet": {"reference": 9.0}}) == ["lenet"]


def test_where_there_is_no_bf16_those_rows_are_left_out_and_named() -> None:
    now = outcome(absent(ROWS["resnet20-bf16"], "no bf16"), absent(ROWS["lab-plan"], "why"))
    expected = {**EXPECTED, "resnet20-bf16": {"reference": 2.0}}
    assert regressions(now, expected) == []
    assert unmeasured(now, expected) == ["resnet20-bf16: no bf16"]


@pytest.mark.parametrize("changes", [{"short": False}, {"device": "cuda"}, {"threads": 2}])
def test_runs_of_another_kind_are_not_compared(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--check: this run is of another kind"):
        regressions(outcome(**changes), EXPECTED)
    with pytest.raises(InputError, match="--ratios: this run is of another kind"):
        write_ratios(tmp_path / "r.json", outcome(**changes))


# -- what is expected ---------------------------------------------------------------------------------------------
def test_ratios_are_read_as_they_were_written(tmp_path: Path) -> None:
    now = outcome(
        measured(ours=[2.0, 3.0], reference=[9.87654, 12.0], plain=[3.0, 2.5]), absent(ROWS["resnet20-bf16"], "why")
    )
    write_ratios(tmp_path / "r.json", now)
    assert read_ratios(tmp_path / "r.json") == {"lenet": {"reference": 4.94, "plain": 1.25}}
    assert regressions(now, read_ratios(tmp_path / "r.json")) == []


def test_what_is_expected_covers_every_training_step() -> None:
    expected = read_ratios()
    assert set(expected) == set(STEPS)
    for row, found in expected.items():
        assert set(found) == {"reference", "plain"}, row
        assert min(found.values()) > 0.5, row
