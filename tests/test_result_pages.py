"""The pages of results: each table is what the command above it prints."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from oneticket.cli import group

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "results").glob("*.md"))
COMMAND = re.compile(r"^```bash\n(oneticket results docs/results/.*--format markdown)\n```\n", re.MULTILINE)
SHOWN = [
    pytest.param(command[1], page.read_text("utf-8")[command.end() :], id=f"{page.stem}-{number}")
    for page in PAGES
    for number, command in enumerate(COMMAND.finditer(page.read_text("utf-8")))
]


@pytest.mark.parametrize(("command", "below"), SHOWN)
def test_a_table_is_what_its_command_prints(command: str, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        group.main(shlex.split(command)[1:], standalone_mode=False)
    told = printed.getvalue().strip("\n")
    assert told.startswith(("|", "reviews-"))
    assert below.lstrip("\n").startswith(told + "\n")
    # The table ends where the command's does.
    assert not below.lstrip("\n")[len(told) :].lstrip("\n").startswith("|")


def test_the_pages_of_the_reviews_have_such_tables() -> None:
    told = [command.values[0] for command in SHOWN]
    for experiment in ("masks", "rescaling", "rescaling-rounds", "pruning", "pretraining", "binary", "searches"):
        for name in (f"reviews-{experiment} ", f"reviews-{experiment}-vgg "):
            assert any(f"--experiment {name}" in str(command) for command in told), name
