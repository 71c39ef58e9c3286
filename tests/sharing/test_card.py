"""What the card of a shared ticket says, and that a stranger's words cannot make it say something else."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.sharing import place_of, push
from oneticket.sharing.card import check_license
from oneticket.ticket import Seen, Ticket

Make = Callable[..., Ticket]


def card_of(ticket: Ticket, folder: Path, **given: Any) -> str:
    ticket.save(folder / "small.safetensors")
    push(folder / "small.safetensors", place_of(str(folder / "shared")), **given)
    return (folder / "shared" / "README.md").read_text("utf-8")


def test_a_card_says_what_the_ticket_knows_and_what_it_does_not(make: Make, tmp_path: Path) -> None:
    ticket = make(round=3, rounds=7, criterion="magnitude")
    card = card_of(ticket, tmp_path, license="MIT")
    assert card.startswith("---\nlibrary_name: oneticket\n")
    assert "\nlicense: mit\n---\n" in card
    for row in (
        "| pruning round | 3 of 7 |", "| rewound to | 1ep |", "| criterion | magnitude |", "| allocation | unknown |",
        f"| fc.weight | {ticket.masks.kept} | 24 | {ticket.density:.4f} |",
        "| digits | unknown | 12 | unknown | unknown | lr = 0.1 | unknown |",
    ):  # fmt: skip
        assert row in card
    assert "Its pusher gave no results." in card
    assert "Frankle" in card


def test_a_card_without_a_licence_and_without_data_says_so(make: Make, tmp_path: Path) -> None:
    card = card_of(make(seen=()), tmp_path)
    assert "Its pusher stated no licence." in card
    assert "Unknown: the ticket does not say. Test data may be among it." in card
    assert "license:" not in card


def test_the_verification_line_of_a_card_holds(make: Make, tmp_path: Path) -> None:
    card = card_of(make(), tmp_path)
    (line,) = re.findall(r"`(echo [^`]*sha256sum -c)`", card)
    subprocess.run(["sh", "-c", line], cwd=tmp_path / "shared", check=True, capture_output=True)
    assert Ticket.verify(tmp_path / "shared" / "ticket.safetensors").checksum in card


def test_words_of_a_stranger_stay_text(make: Make, tmp_path: Path) -> None:
    evil = "<script>x</script>|`a`\n# Heading\n[link](javascript:x) ![i](x)\x1b[31m"
    ticket = make(
        model=evil, notes={evil: evil}, model_options={"k": evil}, seen=(Seen(name=evil, recipe={"k": evil}),)
    )
    card = card_of(ticket, tmp_path, citation="@misc{x}\n```\n# Heading")
    assert "<script" not in card
    assert "\n# Heading" not in card.partition("## Citation")[0]
    assert not re.search(r"(?<!\\)\[link", card)
    assert "\x1b" not in card
    assert card.count("```") == 6, "what is cited does not end its block"
    for line in card.splitlines():
        if line.startswith("| network"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3


@pytest.mark.parametrize("name", ["mit\nevil: 1", "a b", "-x", ": x", "x" * 101])
def test_a_licence_that_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"expected one such as cc-by-4\.0"):
        check_license(name)
