"""The files around the code: they agree with pyproject.toml and with the version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from oneticket.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def promised(requirements: list[str]) -> dict[str, str]:
    """Package → the lowest version, of requirements such as ``numpy>=1.26``."""
    found = [re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement) for requirement in requirements]
    return {match[1]: match[2] for match in found if match}


LOWEST = promised(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["data"]
                  + PROJECT["optional-dependencies"]["hub"])  # fmt: skip


def series(version: str, like: str) -> list[int]:
    """The leading numbers of a version, as many as ``like`` has: 1.26 of 1.26.0."""
    return [int(part) for part in version.split(".")[: like.count(".") + 1]]


def test_every_dependency_has_a_lowest_version() -> None:
    assert set(LOWEST) >= {re.split(r"[<>=]", requirement)[0] for requirement in PROJECT["dependencies"]}


@pytest.mark.parametrize("package", sorted(set(LOWEST) - {"torch"}))
def test_the_lowest_versions_are_those_that_are_tried(package: str) -> None:
    """The first release of the promised series that can be installed: scipy 1.11.0, for one, was withdrawn."""
    (pinned,) = re.findall(rf"^{package}==([\d.]+)$", text("constraints-lowest.txt"), re.MULTILINE)
    assert series(pinned, LOWEST[package]) == [int(part) for part in LOWEST[package].split(".")]


def test_the_lowest_torch_is_the_promised_one() -> None:
    (tried,) = re.findall(r"^LOWEST_TORCH \?= ([\d.]+)$", text("Makefile"), re.MULTILINE)
    hosted = re.findall(r'lowest\) echo "torch==([\d.]+)"', WORKFLOW.read_text("utf-8"))
    assert hosted == [tried]
    assert series(tried, LOWEST["torch"]) == [int(part) for part in LOWEST["torch"].split(".")]


def test_the_hosted_checks_run_on_every_python_that_is_promised() -> None:
    (listed,) = re.findall(r"^ +python: \[(.*)\]$", WORKFLOW.read_text("utf-8"), re.MULTILINE)
    hosted = re.findall(r'"([\d.]+)"', listed)
    named = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r"Python :: 3\.", name)]
    assert hosted == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_every_step_of_the_checks_is_a_target_of_make() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    everything = " ".join(re.findall(r"^step .*; +make (\S+)$", text(".ci/run"), re.MULTILINE))
    assert everything.startswith("test lint")
    hosted = re.findall(r"\.ci/run ([a-z -]+)$", WORKFLOW.read_text("utf-8"), re.MULTILINE)
    assert set(everything.split()) <= targets
    assert set(" ".join(hosted).split()) == set(everything.split())


def test_the_citation_is_of_this_version() -> None:
    assert re.findall(r"^version: (.*)$", text("CITATION.cff"), re.MULTILINE) == [__version__]


def test_the_changelog_has_the_usual_sections() -> None:
    """https://keepachangelog.com: unreleased first, then a heading with a date for each version, newest first."""
    headings = re.findall(r"^## (.*)$", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    dated = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    assert all(dated)
    versions = [tuple(map(int, match.groups())) for match in dated if match]
    assert versions == sorted(versions, reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Identity and formats"}
    assert set(re.findall(r"^### (.*)$", text("CHANGELOG.md"), re.MULTILINE)) <= kinds


def test_the_hooks_of_a_commit_are_the_commands_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", text("Makefile"), re.MULTILINE)
    assert recipe
    linted = {re.sub(r" --check|(?: (?:src|tests|examples|docs))+$", "", line.strip())
              for line in recipe[1].replace("$(BIN)", ".venv/bin").splitlines()}  # fmt: skip
    hooks = re.findall(r"^ +entry: (.*?)(?: --force-exclude)?$", text(".pre-commit-config.yaml"), re.MULTILINE)
    assert set(hooks) == linted
