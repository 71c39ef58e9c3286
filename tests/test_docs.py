"""The documentation: its examples run, its links lead somewhere, and its tables say what the code says."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin
from unittest import mock

import click
import msgspec
import pytest

import oneticket
from oneticket.cli import group
from oneticket.data import SOURCES, Augmentation, DataSpec
from oneticket.lab.execution.engines import ENGINES
from oneticket.lab.planning.plan import make_plan
from oneticket.lab.results.table import COLUMNS
from oneticket.lab.spec.arms import ARMS, Arm
from oneticket.lab.spec.claims import Claim
from oneticket.lab.spec.experiment import Experiment, Grid, load_experiment, read_experiment
from oneticket.lab.spec.ready_claims import READY
from oneticket.methods import METHODS, PRETRAININGS
from oneticket.models import MODELS, ModelSpec
from oneticket.pruning import ALLOCATIONS, CONTROLS, CRITERIA
from oneticket.randomness import STREAMS
from oneticket.report import summary, summary_table
from oneticket.search import Search
from oneticket.training import Recipe
from oneticket.training.schedule import Cosine, StepDecay
from oneticket.weights import DRAWS, NORMS, RESCALINGS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts),
]
REGISTRIES = (
    CRITERIA,
    ALLOCATIONS,
    CONTROLS,
    DRAWS,
    NORMS,
    RESCALINGS,
    METHODS,
    PRETRAININGS,
    MODELS,
    SOURCES,
    ENGINES,
)
NEEDS_A_STORE = {"quickstart.md", "results-table.md", "store.md"}
USES_ITS_CODE = {"CONTRIBUTING.md"}
"""Pages whose experiments name what their Python blocks register."""


class Block(NamedTuple):
    """A fenced block: its language, its text and the line of the page on which the text starts."""

    language: str
    text: str
    line: int


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages. Every ``python`` block is executed: skipping has no word."""
    found = re.finditer(r"^```(\S+)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    cut = [Block(m[1], m[2], page.read_text("utf-8")[: m.start(2)].count("\n") + 1) for m in found]
    return [block for block in cut if block.language in languages]


def with_blocks(*languages: str) -> Any:
    """The test for each page that has such blocks."""
    pages = [page for page in PAGES if blocks(page, *languages)]
    return pytest.mark.parametrize("page", pages, ids=[str(page.relative_to(ROOT)) for page in pages])


# -- examples ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quick start has been run with one seed, two rounds and two epochs."""
    folder = tmp_path_factory.mktemp("documents")
    text = (ROOT / "examples" / "quickstart.toml").read_text("utf-8")
    for old, new in {"seeds = 3": "seeds = 1", "epochs = 15": "epochs = 2", "rounds = 16": "rounds = 2"}.items():
        assert old in text
        text = text.replace(old, new)
    text = text[: text.index("[[claim]]")]  # they are about densities that two rounds do not reach
    text = re.sub(r"densities = .*", "densities = [0.75, 0.56]", text)
    (folder / "quickstart.toml").write_text(text, "utf-8")
    command = [sys.executable, "-m", "oneticket", "run", "quickstart.toml", "--cache", "cache", "--workers", "1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@contextlib.contextmanager
def registries_restored() -> Iterator[None]:
    """What an example registers is gone afterwards."""
    with contextlib.ExitStack() as stack:
        for registry in REGISTRIES:
            stack.enter_context(mock.patch.dict(registry._entries))
        yield


@with_blocks("python")
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if page.name in NEEDS_A_STORE:
        (tmp_path / "stores").symlink_to(request.getfixturevalue("small_store") / "stores")
    if page.name == "ticket-format.md":
        masks = oneticket.Masks({"fc.weight": torch_mask()})
        oneticket.Ticket(masks, {"fc.weight": masks["fc.weight"] * 1.5}).save(tmp_path / "fashion.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: dict[str, Any] = {"__name__": "__page__"}
    with registries_restored():
        for block in blocks(page, "python"):
            if block.text.lstrip().startswith(">>>"):
                run_session(block, page, names)
            else:
                # As many lines before it as on the page, so that a traceback names the page's line.
                exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)


def torch_mask() -> Any:
    import torch

    return torch.tensor([[True, False, True], [False, False, True]])


def run_session(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Run a block written as a session, comparing what is printed; what it defines goes into ``names``."""
    test = doctest.DocTestParser().get_doctest(block.text, names, page.name, str(page), block.line - 1)
    told: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append, clear_globs=False)
    names.update(test.globs)
    assert not result.failed, "".join(told)


@pytest.mark.parametrize(
    "name",
    [
        found.name
        for found in pkgutil.walk_packages(oneticket.__path__, "oneticket.")
        if not found.name.endswith("__main__")
    ]
    + ["oneticket"],
)
def test_the_examples_of_a_module_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not result.failed


@with_blocks("toml")
def test_the_experiments_of_a_page_are_valid(page: Path, tmp_path: Path) -> None:
    with registries_restored():
        for block in blocks(page, "python") if page.name in USES_ITS_CODE else []:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), {"__name__": "__page__"})
        for block in blocks(page, "toml"):
            raw = tomllib.loads(block.text)
            if "name" not in raw:
                fragment(raw)
                continue
            experiment = read_experiment(raw)
            if all(spec.builtin or spec.from_ for spec in experiment.data.values()):
                assert make_plan(experiment, folder=tmp_path, cache=tmp_path).rows


def fragment(raw: dict[str, Any]) -> None:
    """Check a part of an experiment file as far as it goes."""
    tables = {"data": dict[str, DataSpec], "recipe": dict[str, Recipe], "arm": dict[str, Arm], "search": Search}
    kinds = {f.name: f.type for f in msgspec.structs.fields(Experiment)} | tables
    for key, value in raw.items():
        assert key in kinds, f"an experiment has no key '{key}'"
        msgspec.convert(value, kinds[key])


@pytest.mark.parametrize("file", sorted((ROOT / "examples").rglob("*.toml")), ids=lambda file: file.name)
def test_the_example_files_are_valid(file: Path) -> None:
    load_experiment(file)


@with_blocks("bash")
def test_the_commands_of_a_page_are_understood(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert words[1] in targets
            if words[:1] == ["oneticket"]:
                understood(words[1:])


def understood(words: list[str]) -> None:
    """Let click parse a command line; it raises for a command or an option that is not there."""
    command: click.Command = group
    while isinstance(command, click.Group) and words != ["--help"]:
        command, words = command.commands[words[0]], words[1:]
    if words != ["--help"]:
        command.make_context(command.name, words)


# -- links ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


def anchors(page: Path) -> list[str]:
    """What headings of a page are called in links."""
    included = re.findall(r"^```\{include\} (\S+)$", page.read_text("utf-8"), re.MULTILINE)
    text = "\n".join(file.read_text("utf-8") for file in (page, *(page.parent / name for name in included)))
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


# -- the README -------------------------------------------------------------------------------------------------------
def test_the_readme_begins_with_the_two_commands() -> None:
    first = (ROOT / "README.md").read_text("utf-8").splitlines()[:40]
    commands = [line.split("#")[0].strip() for line in first]
    assert "make demo" in commands
    assert "make test" in commands


def test_the_table_of_the_demo_has_the_rows_that_it_prints(tmp_path: Path) -> None:
    """All but what only training tells: the columns, and which arm stands where with how many seeds."""
    file = ROOT / "examples" / "quickstart.toml"
    assert file.read_text("utf-8") == (ROOT / "src/oneticket/cli/quickstart.toml").read_text("utf-8")
    rows = []
    for row in make_plan(load_experiment(file), folder=tmp_path, cache=tmp_path).rows:
        known = {field: getattr(row, field) for field in row.__struct_fields__}
        density = round(0.75**row.round, 6)
        found = {"test_accuracy": 0.5 + row.round / 100 + row.seed / 1000, "test_loss": 1.0}
        rows.append(dict.fromkeys(COLUMNS) | known | {"density": density, "effective_density": density} | found)
    expected = summary_table(summary(rows))
    shown = [re.split(r" {2,}", line) for line in blocks(ROOT / "README.md", "text")[0].text.splitlines()]
    assert tuple(shown[0]) == expected.header
    planned = [expected.header.index(name) for name in ("source", "weights %", "arm", "n")]
    assert [[line[i] for i in planned] for line in shown[1:]] == [
        [cells[i] for i in planned] for cells in expected.lines
    ]


# -- tables -----------------------------------------------------------------------------------------------------------
def table(page: Path, first: str) -> list[list[str]]:
    """The rows of the tables of a page whose header begins with the cell ``first``."""
    found: list[list[str]] = []
    inside = False
    for line in page.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        inside = bool(cells) and (inside or cells[0] == first)
        if inside and cells[0] != first and not set(line) <= set("|- "):
            found.append(cells)
    return found


def section(page: Path, title: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"{page.name} has no section '{title}'"
    return found[1]


KEYS: dict[str, type[msgspec.Struct]] = {
    "The file": Experiment,
    "Models": ModelSpec,
    "Data": DataSpec,
    "Recipes": Recipe,
    "Augmentation": Augmentation,
    "Search": Search,
    "Transfers": Grid,
    "Arms": Arm,
    "Claims": Claim,
}


@pytest.mark.parametrize("title", KEYS)
def test_the_keys_of_an_experiment_are_those_of_the_structs(title: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", section(DOCS / "experiments.md", title), re.MULTILINE)
    assert rows == [(f.encode_name, kind(f.type), default(f)) for f in msgspec.structs.fields(KEYS[title])]


def test_the_keys_of_a_schedule_are_those_of_the_structs() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|.*?\| (\S+) \|$", section(DOCS / "experiments.md", "Schedules"), re.M)
    fields = [(s, f) for s in (StepDecay, Cosine) for f in msgspec.structs.fields(s)]
    assert rows == [(s.__struct_config__.tag, f.encode_name, default(f)) for s, f in fields]


def kind(type_: Any) -> str:
    """How the documentation names the type of a key."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    if type_ in names:
        return names[type_]
    if get_origin(type_) is Literal:
        return " or ".join(f"`{toml(value)}`" for value in get_args(type_))
    if get_origin(type_) in (Union, types.UnionType):
        kinds = [kind(member) for member in get_args(type_) if member not in (type(None), msgspec.UnsetType)]
        return " or ".join(dict.fromkeys(kinds))
    if get_origin(type_) is tuple:
        members = get_args(type_)
        return f"list of {kind(members[0])}" if members[-1] is ... else f"list of {len(members)} {kind(members[0])}s"
    if get_origin(type_) is dict:
        return "tables by name" if kind(get_args(type_)[1]) == "table" else "table"
    return "table" if isinstance(type_, type) and issubclass(type_, msgspec.Struct) else "anything"


def default(field: msgspec.structs.FieldInfo) -> str:
    """How the documentation writes a default."""
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{toml(field.default_factory())}`"
    if field.default is msgspec.NODEFAULT:
        return "required"
    return "—" if field.default in (None, msgspec.UNSET) else f"`{toml(field.default)}`"


def toml(value: Any) -> str:
    """A value as TOML; a table shows its tag only, its other keys being defaults."""
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        return f'{{ kind = "{tag}" }}' if tag else "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_the_columns_of_the_table_of_results() -> None:
    rows = table(DOCS / "results-table.md", "column")
    assert [cells[0].strip("`") for cells in rows] == list(COLUMNS)


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "arms-and-controls.md"], ids=lambda page: page.name)
def test_the_arms_are_those_of_the_code(page: Path) -> None:
    shown = {cells[0].strip("`"): cells[1:4] for cells in table(page, "arm")}
    owners = {"source": "the source's ticket", "target": "the target's own ticket"}
    masks = {n: owners[a.ticket] if a.mask == "ticket" else a.mask for n, a in ARMS.items()}
    assert {name: [cell.strip("`") for cell in cells] for name, cells in shown.items()} == {
        name: [masks[name], arm.weights, arm.method] for name, arm in ARMS.items()
    }


HOMES = {
    "criterion": "criteria-and-allocations.md",
    "allocation": "criteria-and-allocations.md",
    "control": "mask-controls.md",
    "draw": "weights-and-rescaling.md",
    "norms": "weights-and-rescaling.md",
    "rescaling": "weights-and-rescaling.md",
    "method": "methods.md",
    "pre-training": "pre-training.md",
    "model": "experiments.md",
    "data source": "data.md",
    "engine": "command-line.md",
}
"""The page on which everything of a kind is described."""


def test_the_ready_claims_are_described() -> None:
    shown = [name for cells in table(DOCS / "claims.md", "claim") for name in re.findall(r"`(\w+/[\w-]+)`", cells[0])]
    assert sorted(shown) == sorted(READY)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_everything_that_has_a_name_is_described(registry: Any) -> None:
    text = (DOCS / HOMES[registry.kind]).read_text("utf-8")
    assert [name for name in registry if f"`{name}`" not in text] == []


SOURCED = [registry for registry in REGISTRIES if registry not in (MODELS, SOURCES, ENGINES)]


@pytest.mark.parametrize("registry", SOURCED, ids=lambda registry: registry.kind)
def test_everything_that_was_published_is_told_with_its_source(registry: Any) -> None:
    """In the line of a table that begins with its name: the first author and the year."""
    text = "\n".join((DOCS / page).read_text("utf-8") for page in (HOMES[registry.kind], "binary-networks.md"))
    for entry in registry.entries():
        lines = "\n".join(re.findall(rf"^\| [^|]*`{re.escape(entry.name)}`.*", text, re.MULTILINE))
        for name, year in re.findall(r"([A-Z]\w+)(?: et al\.|(?:, [A-Z]\w+)* & [A-Z]\w+)? (\d{4})", entry.source):
            assert re.search(rf"{name}[^|;]* {year}", lines), (entry.name, entry.source)


def test_the_options_of_the_methods_are_those_of_the_code() -> None:
    rows = [(cells[0], cells[1], cells[2]) for cells in table(DOCS / "methods.md", "method") if len(cells) == 4]
    shown = [tuple(cell.strip("`") for cell in row) for row in rows if re.fullmatch(r'`"?[\w.-]+"?`', row[2])]
    options = {name: inspect.signature(METHODS[name]).parameters.values() for name in METHODS}
    code = {(name, p.name, toml(p.default)) for name in METHODS for p in options[name] if p.kind is p.KEYWORD_ONLY}
    assert len(shown) == len(code)
    assert set(shown) == code


def test_the_random_streams_are_those_of_the_code() -> None:
    assert {cells[0].strip("`") for cells in table(DOCS / "reproducibility.md", "stream")} == set(STREAMS)


def test_every_command_has_a_section() -> None:
    page = DOCS / "command-line.md"
    named = re.findall(r"^```\{command-help\} (.*)$", page.read_text("utf-8"), re.MULTILINE)
    assert named == list(commands(group))
    for name in named:
        assert f"command-help}} {name}\n" in section(page, name)


def commands(parent: click.Group, prefix: str = "") -> Iterator[str]:
    for name, command in parent.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def test_every_file_of_a_store_is_described(small_store: Path) -> None:
    text = (DOCS / "store.md").read_text("utf-8")
    store = small_store / "stores" / "quickstart"
    names = {file.name for file in store.rglob("*") if file.is_file()} - {f"{'x' * 64}.json"}
    assert {"cell.json", "masks.safetensors", "quickstart.json"} <= names
    assert sorted(name for name in names if name.replace("quickstart", "NAME") not in text) == []


def test_the_map_names_every_file_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    home = ROOT / "src" / "oneticket"
    kinds = (".py", ".toml", ".css", ".js", ".j2", ".c", ".h")
    files = {str(file.relative_to(home)) for file in home.rglob("*") if file.suffix in kinds}
    trivial = {name for name in files if name.endswith(("__main__.py", "__init__.py"))} - {"cli/__init__.py"}
    shown = {name for row in table(ROOT / "ARCHITECTURE.md", "file") for name in re.findall(r"`([^`]+)`", row[0])}
    assert shown == files - trivial
    for name in re.findall(r"`((?:src|tests)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_map_names_functions_that_exist() -> None:
    code = "\n".join(file.read_text("utf-8") for file in (ROOT / "src").rglob("*.py"))
    for name in set(re.findall(r"`(\w+)\(\)`", (ROOT / "ARCHITECTURE.md").read_text("utf-8"))):
        assert re.search(rf"^\s*(def|class) {name}\b", code, re.MULTILINE), name
