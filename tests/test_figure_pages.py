"""The figures of the documentation: each is what the command above it draws."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from oneticket.cli import group

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / "figures.md", *sorted((ROOT / "docs" / "results").glob("*.md"))]
COMMAND = re.compile(r"^oneticket (figure docs/.* --out (docs/\S+\.svg))$", re.MULTILINE)
COMMANDS = dict.fromkeys(found.groups() for page in PAGES for found in COMMAND.finditer(page.read_text("utf-8")))


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>(.*?)</text>", svg)


def marks(svg: str) -> int:
    return svg.count("<use ") + svg.count("<path ")


@pytest.mark.parametrize(("command", "file"), COMMANDS, ids=[Path(file).stem for _, file in COMMANDS])
def test_a_figure_is_what_its_command_draws(
    command: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its words, numbers among them, and its marks: coordinates differ between versions of matplotlib."""
    monkeypatch.chdir(ROOT)
    drawn = tmp_path / "figure.svg"
    given = shlex.split(command)
    group.main([str(drawn) if word == file else word for word in given], standalone_mode=False)
    kept = (ROOT / file).read_text("utf-8")
    assert words(drawn.read_text("utf-8")) == words(kept)
    assert marks(drawn.read_text("utf-8")) == marks(kept)


def test_the_figure_of_the_readme_is_among_them() -> None:
    (shown,) = re.findall(r"^!\[.*\]\((docs/.*\.svg)\)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert shown in [file for _, file in COMMANDS]
