"""Own code on the command line: the question, what was allowed, and the names of cells; workers included."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Tiny = Callable[..., Path]
OWN = ('{ name = "lenet-300-100", options = { width = 0.05 } }', '"{}:net"')
NET = """from torch import nn
import {0}


def net(input_shape, classes):
    c, h, w = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 16), {0}.act(), nn.Linear(16, classes))
"""
BLOCKS = "from torch import nn\n\n\ndef act():\n    return nn.ReLU()\n"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    from oneticket.pruning import CRITERIA

    modules, finders, criteria = set(sys.modules), list(sys.meta_path), dict(CRITERIA._entries)
    yield
    for name in {name for name in set(sys.modules) - modules if name.startswith("cli_")}:
        del sys.modules[name]
    sys.meta_path[:], CRITERIA._entries = finders, criteria


@pytest.fixture
def own(tiny: Tiny, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The tiny experiment with a network of the user's own, which imports a helper."""
    number = abs(hash(request.node.name)) % 10**8
    (tmp_path / f"cli_net{number}.py").write_text(NET.format(f"cli_blocks{number}"))
    (tmp_path / f"cli_blocks{number}.py").write_text(BLOCKS)
    return tiny((OWN[0], OWN[1].format(f"cli_net{number}")), ("0.5, 0.25", "0.5"))


def helper(folder: Path) -> Path:
    return next(folder.glob("cli_blocks*.py"))


def forget() -> None:
    """As in a new process."""
    for name in [name for name in sys.modules if name.startswith("cli_")]:
        del sys.modules[name]


def left(told: Any) -> int:
    assert told.code == 0, told.error
    return int(re.search(r"(\d+) not yet done", told.out)[1])  # type: ignore[index]


# -- consent ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["plan", "run"])
def test_nothing_of_the_folder_runs_without_consent(call: Any, own: Path, tmp_path: Path, command: str) -> None:
    helper(tmp_path).write_text("open('touched', 'w')\n")
    told = call(command, own)
    assert told.code == 2
    assert re.search(
        r"tiny.toml: names code .*cli_blocks\d+.py, cli_net\d+.py in .*; expected --trust-code", told.error
    )
    assert not (tmp_path / "touched").exists()
    assert not any(name.startswith("cli_") for name in sys.modules)


def test_consent_is_given_once_for_a_folder_and_a_content(call: Any, own: Path, tmp_path: Path) -> None:
    assert call("plan", own, "--trust-code").code == 0
    forget()
    assert call("plan", own).code == 0
    forget()
    helper(tmp_path).write_text(BLOCKS.replace("ReLU", "Tanh"))
    assert "--trust-code" in call("plan", own).error
    helper(tmp_path).write_text(BLOCKS + "# a comment may hide what the file is\n")
    assert "--trust-code" in call("plan", own).error


def test_the_environment_can_give_it(call: Any, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONETICKET_TRUST_CODE", "1")
    assert call("plan", own).code == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2), ("\n", 2), ("", 130)])
def test_at_a_terminal_it_is_asked_for(
    call: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    import hashlib
    import io

    terminal = io.TextIOWrapper(io.BytesIO(answer.encode()))
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    told = call("plan", own)
    assert told.code == code, told
    assert "which runs as you" in told.error
    for file in tmp_path.glob("*.py"):
        assert f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" in told.error


def test_what_was_allowed_is_listed_and_revoked(call: Any, own: Path, tmp_path: Path) -> None:
    assert call("trust", "list").out == "no code was allowed\n"
    call("plan", own, "--trust-code")
    assert str(tmp_path) in call("trust", "list").out
    (entry,) = json.loads(call("trust", "list", "--json").out)
    assert (entry["folder"], sorted(entry["files"])) == (str(tmp_path), sorted(p.name for p in tmp_path.glob("*.py")))
    assert "no longer allowed" in call("trust", "revoke", ".").out
    forget()
    assert call("plan", own).code == 2
    told = call("trust", "revoke", ".")
    assert (told.code, "nothing was allowed" in told.error) == (2, True)
    call("plan", own, "--trust-code")
    assert call("trust", "revoke").code == 2
    assert call("trust", "revoke", "--all").code == 0
    assert call("trust", "list").out == "no code was allowed\n"


def test_where_it_cannot_be_kept_it_runs_all_the_same(
    call: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    told = call("plan", own, "--trust-code")
    assert (told.code, "could not be kept" in told.error) == (0, True)


def test_code_may_lie_in_another_folder(call: Any, own: Path, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    own.rename(tmp_path / "away" / own.name)
    file = Path("away") / own.name
    assert "there is no module" in call("plan", file, "--trust-code").error
    assert call("plan", file, "--code", ".", "--trust-code").code == 0
    assert call("plan", file, "--code", "nowhere").code == 2


# -- commands that import nothing -------------------------------------------------------------------------------------
def test_what_shows_results_imports_nothing(call: Any, own: Path, tmp_path: Path) -> None:
    assert call("run", own, "--trust-code", "--workers", "1").code == 0
    forget()
    for file in tmp_path.glob("*.py"):
        file.write_text("open('touched', 'w')\n")
    store = tmp_path / "stores" / "tiny"
    for words in (["results", store], ["results", store, "--cost"], ["report", store, "--out", "page"]):
        assert call(*words).code == 0
    told = call("results", store, "--footprint")
    assert (told.code, "is not imported here" in told.error) == (2, True)
    assert not (tmp_path / "touched").exists()


def test_a_store_that_names_code_does_not_run_it(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    """Cells of a stranger's store say what network they are of; looking for suspects builds it."""
    assert call("run", tiny(), "--workers", "1").code == 0
    store = tmp_path / "stores" / "tiny"
    for file in store.rglob("cell.json"):
        record = json.loads(file.read_text())
        record["description"]["network"] |= {"name": "subprocess:getoutput", "options": {"cmd": "touch touched"}}
        record["environment"] = {"threads": 2}
        file.write_text(json.dumps(record))
    for words in (["results", store], ["results", store, "--footprint"], ["report", store, "--out", "page"]):
        assert "Traceback" not in call(*words).error
    assert not (tmp_path / "touched").exists()


def test_python_does_not_take_libraries_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("click", "msgspec", "torch", "json"):
        (tmp_path / f"{name}.py").write_text("open('touched', 'w')\n")
    command = [sys.executable, "-m", "oneticket", "trust", "list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "touched").exists()


# -- names ------------------------------------------------------------------------------------------------------------
def test_a_changed_helper_makes_new_cells_and_a_comment_does_not(call: Any, own: Path, tmp_path: Path) -> None:
    assert call("run", own, "--trust-code", "--workers", "1").code == 0
    file = helper(tmp_path)
    for text, changed in (
        (BLOCKS, False),
        ("# why\n\n" + BLOCKS, False),
        (BLOCKS.replace("ReLU", "Tanh"), True),
        (BLOCKS.replace("\n\n\n", "\n\n\n\n"), False),
    ):
        forget()
        file.write_text(text)
        assert (left(call("plan", own, "--trust-code")) > 0) == changed


CRITERION = """from oneticket.pruning import criterion
import {0}


@criterion("{1}")
def score(model, context):
    return {{name: w.detach().abs() * {0}.SCALE for name, w in model.weights()}}
"""


def test_a_criterion_of_a_users_own_reaches_file_and_workers(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "cli_scale.py").write_text("SCALE = 1\n")
    (tmp_path / "cli_own.py").write_text(CRITERION.format("cli_scale", "own-by-cli"))
    file = tiny(
        ("seeds = 1", 'seeds = 1\ncode = ["cli_own.py"]'), ("prune = 0.5", 'prune = 0.5\ncriterion = "own-by-cli"')
    )
    assert "cli_own.py, cli_scale.py" in call("run", file).error
    told = call("run", file, "--trust-code", "--workers", "1", "--json")
    assert told.code == 0, told.error
    assert json.loads(told.out)["complete"]
    _again()
    assert left(call("plan", file)) == 0
    _again()
    (tmp_path / "cli_scale.py").write_text("SCALE = 2\n")
    missing = left(call("plan", file, "--trust-code"))
    assert 0 < missing < len(json.loads(told.out)["rows"]) + 2, "the dense trainings stay"


def _again() -> None:
    from oneticket.pruning import CRITERIA

    forget()
    del CRITERIA._entries["own-by-cli"]


def test_an_installed_package_can_name_itself(
    call: Any, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an entry point: its names are known without a question, to the workers too."""
    from importlib.metadata import EntryPoint

    (tmp_path / "site" / "cli_plug").mkdir(parents=True)
    (tmp_path / "site" / "cli_plug" / "__init__.py").touch()
    (tmp_path / "site" / "cli_plug" / "scores.py").write_text(
        CRITERION.format("math", "own-by-cli").replace("SCALE", "pi")
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    entries = [EntryPoint("scores", "cli_plug.scores", "oneticket.plugins")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: entries)
    file = tiny(("prune = 0.5", 'prune = 0.5\ncriterion = "own-by-cli"'))
    told = call("run", file, "--workers", "1", "--json")
    assert told.code == 0, told.error
    digests = {
        json.loads(cell.read_text())["description"].get("code", {}).get("criterion own-by-cli")
        for cell in (tmp_path / "stores").rglob("cell.json")
    }
    assert len(digests - {None}) == 1


def test_an_engine_of_a_users_own_is_found(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    from oneticket.lab.execution.engines import ENGINES

    (tmp_path / "cli_engine.py").write_text(
        "from oneticket.lab.execution.engines import LocalEngine, engine\n"
        "class Marked(LocalEngine):\n"
        "    def submit(self, task, on_progress):\n"
        "        open('submitted', 'a').close()\n"
        "        return super().submit(task, on_progress)\n"
        "@engine('own-engine')\n"
        "def marked():\n"
        "    return Marked()\n"
    )
    file = tiny(("seeds = 1", 'seeds = 1\ncode = ["cli_engine.py"]'), ("0.5, 0.25", "0.5"))
    told = call("run", file, "--engine", "own-engine", "--trust-code", "--workers", "1")
    assert told.code == 0, told.error
    assert (tmp_path / "submitted").exists()
    codes = [json.loads(cell.read_text())["description"] for cell in (tmp_path / "stores").rglob("cell.json")]
    assert not any("code" in description for description in codes), "an engine changes no number"
    del ENGINES._entries["own-engine"]


def test_a_module_of_a_package_is_imported_when_its_package_is_named(call: Any, tiny: Tiny) -> None:
    file = tiny((OWN[0], '"oneticket.models.lenet:lenet_300_100"'), ("0.5, 0.25", "0.5"))
    assert "that may be imported" in call("plan", file).error
    assert call("plan", file, "--trust-package", "oneticket").code == 0
    told = call("plan", file, "--trust-package", "subprocess")
    assert (told.code, "belongs to Python itself" in told.error) == (2, True)
