"""What is known of kernels: tried once, kept for the machine, and lost without harm."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from oneticket.kernels import verdicts
from oneticket.kernels.isolation import Verdict
from oneticket.kernels.machine import Machine, this_machine
from oneticket.kernels.trial import Blank, Trial
from oneticket.kernels.verdicts import faults, known_faults

RIGHT, WRONG, UNSURE = (
    Trial(op="aten.relu", arguments=(Blank((3, width), "float32", True),), layout="contiguous") for width in (1, 2, 3)
)


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """A cache of its own, and the trials that were judged, of which one is wrong and one wrong by chance."""
    asked: list[Trial] = []

    def judge(trials: list[Trial], threads: int) -> list[Verdict]:
        asked.extend(trials)
        found = {RIGHT: Verdict(), WRONG: Verdict("it crashes (SIGSEGV)"), UNSURE: Verdict("it hangs", sure=False)}
        return [found[trial] for trial in trials]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(verdicts, "judge", judge)
    verdicts._known.cache_clear()
    return asked


def as_another_process() -> None:
    verdicts._known.cache_clear()


def kept(tmp_path: Path) -> list[str]:
    (file,) = (tmp_path / "oneticket" / "kernels").glob("*.jsonl")
    return file.read_text().splitlines()


def test_each_is_tried_once_and_kept_where_it_is_sure(judged: list[Trial], tmp_path: Path) -> None:
    expected = {WRONG: "it crashes (SIGSEGV)", UNSURE: "it hangs"}
    assert faults([RIGHT, WRONG, UNSURE]) == expected
    assert faults([RIGHT, WRONG, UNSURE]) == expected
    assert judged == [RIGHT, WRONG, UNSURE]
    head, *lines = kept(tmp_path)
    assert msgspec.json.decode(head, type=Machine) == this_machine()
    assert len(lines) == 2
    as_another_process()
    assert faults([UNSURE, WRONG]) == expected
    assert judged[3:] == [UNSURE]
    count, (line,) = known_faults()
    assert (count, line.fault, line.about) == (2, "it crashes (SIGSEGV)", WRONG.about)


def test_another_number_of_threads_is_tried_anew(judged: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    faults([RIGHT])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    faults([RIGHT])
    assert judged == [RIGHT, RIGHT]


def test_other_instructions_are_another_machine(judged: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    faults([RIGHT])
    other = msgspec.structs.replace(this_machine(), restricted={"ONEDNN_MAX_CPU_ISA": "AVX2"})
    monkeypatch.setattr(verdicts, "this_machine", lambda: other)
    faults([RIGHT])
    assert judged == [RIGHT, RIGHT]


def test_a_file_that_was_cut_off_or_spoilt_costs_a_repetition(judged: list[Trial], tmp_path: Path) -> None:
    faults([RIGHT, WRONG])
    (file,) = (tmp_path / "oneticket" / "kernels").glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-20] + b"\n\xff\xfe{]\n")
    as_another_process()
    assert faults([RIGHT, WRONG]) == {WRONG: "it crashes (SIGSEGV)"}
    assert judged == [RIGHT, WRONG, WRONG]


def test_a_place_that_cannot_be_written_is_in_nobodys_way(judged: list[Trial], tmp_path: Path) -> None:
    (tmp_path / "oneticket").write_text("a file where a folder should be")
    assert faults([RIGHT, WRONG]) == {WRONG: "it crashes (SIGSEGV)"}
    assert faults([RIGHT, WRONG]) == {WRONG: "it crashes (SIGSEGV)"}
    assert judged == [RIGHT, WRONG]
    assert known_faults() == (0, [])


def test_this_machine_is_named() -> None:
    machine = this_machine()
    assert machine.processor
    assert machine.torch == str(torch.__version__)
    assert machine.processor in str(machine)
