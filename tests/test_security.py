"""What the page on security promises: how the code reads what others wrote, and that each promise has its test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from oneticket.data import DataSpec, open_data, resolve
from oneticket.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "oneticket"
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
RUNNING = {"eval", "exec", "compile", "__import__"}
SHELLS = {("os", "system"), ("os", "popen"), ("torch", "hub"), ("subprocess", "getoutput")}


def trees() -> Iterator[tuple[str, ast.AST]]:
    for file in sorted(SOURCE.rglob("*.py")):
        yield str(file.relative_to(SOURCE)), ast.parse(file.read_text("utf-8"))


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What reads a file in a way that can run what is in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import {name}" for name in names if name.partition(".")[0] in PICKLING)
        if isinstance(node, ast.Attribute) and (getattr(node.value, "id", ""), node.attr) in SHELLS:
            yield ast.unparse(node)
        if isinstance(node, ast.Call):
            yield from _unsafe_call(node)


def _unsafe_call(call: ast.Call) -> Iterator[str]:
    given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
    owner = call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if owner == "torch" and name == "load" and given.get("weights_only") is not True:
        yield "torch.load without weights_only=True"
    if given.get("allow_pickle") or given.get("trust_remote_code") or given.get("shell"):
        yield f"{name} with {sorted(word for word in given if word)}"
    if isinstance(call.func, ast.Name) and name in RUNNING:
        yield f"{name}()"


def test_pickles_are_only_read_as_weights() -> None:
    found = [f"{file}: {what}" for file, tree in trees() for what in unsafe(tree)]
    assert found == ["trust/importing.py: compile()"], "only allowed code is compiled"


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(p)", "torch.load(p, weights_only=False)", "torch.load(p, weights_only=x)", "import pickle",
        "from dill import load", "np.load(p, allow_pickle=True)", "eval(x)", "os.system(x)", "run(x, shell=True)",
        "load_dataset(x, trust_remote_code=True)", "torch.hub.load(x)", "import yaml", "def f():\n  import marshal",
    ],
)  # fmt: skip
def test_what_is_looked_for_is_found(text: str) -> None:
    assert list(unsafe(ast.parse(text)))


@pytest.mark.parametrize("text", ["torch.load(p, weights_only=True)", "np.load(p)", "model.eval()", "re.compile(x)"])
def test_what_is_harmless_is_not(text: str) -> None:
    assert not list(unsafe(ast.parse(text)))


def test_a_data_folder_runs_nothing(tmp_path: Path) -> None:
    """Refused or read: what is in it besides pictures is not run."""
    home = tmp_path / "pictures"
    touch = f"open({str(tmp_path / 'touched')!r}, 'w')\n"
    for part in ("train", "test"):
        for label in "ab":
            (home / part / label).mkdir(parents=True)
            for number in range(12):
                Image.new("L", (8, 8), number).save(home / part / label / f"{number}.png")
            (home / part / label / "__init__.py").write_text(touch)
    for name in ("pictures.py", "conftest.py", "setup.py", "sitecustomize.py", "PIL.py"):
        (home / name).write_text(touch)
    (home / "data.pkl").write_bytes(b"cbuiltins\nopen\n(V" + str(tmp_path / "touched").encode() + b"\nVw\ntR.")
    try:
        ref = resolve({"d": DataSpec(images="pictures")}, "d", folder=tmp_path, cache=tmp_path / "cache")
        open_data(ref, cache=tmp_path / "cache")
    except InputError:
        pass
    assert not (tmp_path / "touched").exists()


def test_every_promise_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 12
    for file, test in named:
        text = (ROOT / file).read_text("utf-8")
        assert not test or f"\ndef {test}(" in text, (file, test)
