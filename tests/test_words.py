"""Words that are choices: the literals are the registries, and a type checker refuses what they lack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from oneticket.lab.spec.arms import ARMS
from oneticket.pruning import ALLOCATIONS, CRITERIA
from oneticket.ticket.placement import HEADS, STEMS
from oneticket.weights import RESCALINGS
from oneticket.words import AllocationName, ArmName, CriterionName, RescalingName

PLACES = {"oneticket"}


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (CriterionName, [entry.name for entry in CRITERIA.entries()]),
        (AllocationName, [entry.name for entry in ALLOCATIONS.entries()]),
        (RescalingName, [entry.name for entry in RESCALINGS.entries()]),
        (ArmName, list(ARMS)),
    ],
    ids=["criteria", "allocations", "rescalings", "arms"],
)
def test_literals_are_the_words_of_the_registries(choice: Any, words: list[str]) -> None:
    """Words that other tests register are not a part of oneticket; a new criterion takes a word in `words.py`."""
    known = set(get_args(choice))
    assert known <= set(words)
    assert {word for word in words if _is_ours(word, choice)} == known
    assert (HEADS, STEMS) == (("fresh", "keep", "copied"), ("adapt", "fresh", "strict"))


def _is_ours(word: str, choice: Any) -> bool:
    registry: Any = {CriterionName: CRITERIA, AllocationName: ALLOCATIONS, RescalingName: RESCALINGS}.get(choice)
    return registry is None or registry[word].__module__.split(".")[0] in PLACES


RIGHT = """
import oneticket as ot
from torch import nn
from oneticket.words import Own
def search(model: nn.Module, ticket: ot.Ticket) -> None:
    ot.find_ticket(model, None, criterion="magnitude", allocation="erk", rewind="1ep")
    ot.find_ticket(model, None, criterion=Own("relative-magnitude"), rescale="layer")
    ticket.put_into(model, head="fresh", stem="adapt")
"""
WRONG = {
    'head="fresh"': 'head="frsh"', 'stem="adapt"': 'stem="adopt"', 'criterion="magnitude"': 'criterion="magnitud"',
    'allocation="erk"': 'allocation="ERK"', 'rescale="layer"': 'rescale="layers"',
}  # fmt: skip


@pytest.mark.slow
def test_a_type_checker_takes_the_words_and_refuses_slips(tmp_path: Path) -> None:
    wrong = RIGHT
    for word, slip in WRONG.items():
        assert word in wrong
        wrong = wrong.replace(word, slip)
    for name, text in (("right.py", RIGHT), ("wrong.py", wrong)):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "right.py", "wrong.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = run.stdout.splitlines()
    assert not [line for line in told if line.startswith("right.py")], run.stdout
    for slip in WRONG.values():
        place, _, _ = slip.partition("=")
        assert any(f'"{place}"' in line for line in told), (slip, run.stdout)
