"""The command line, called in this process, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from oneticket.cli import main

TINY = """
name = "tiny"
model = { name = "lenet-300-100", options = { width = 0.05 } }
seeds = 1

[data.digits]
builtin = "digits"
per_class = 40

[data.low]
from = "digits"
classes = [0, 1, 2, 3, 4]

[recipe.sgd]
optimizer = "sgd"
lr = 0.1
epochs = 2
batch_size = 32

[search]
rounds = 2
prune = 0.5

[[transfer]]
sources = ["low@sgd"]
targets = ["digits@sgd"]
arms = ["winning", "random"]
densities = [0.5, 0.25]
"""


class Told(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    error: str


Call = Callable[..., Told]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the decoded data lies."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def call(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``call("run", "tiny.toml")`` is ``oneticket run tiny.toml`` in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cache / tmp_path.name))  # nothing is allowed yet
    monkeypatch.delenv("ONETICKET_TRUST_CODE", raising=False)

    def oneticket(*arguments: str | Path) -> Told:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        code = ended.value.code
        return Told(code if isinstance(code, int) else 0, written.out, written.err)

    return oneticket


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny experiment, with pieces of its text replaced, and gives its name."""

    def write(*changes: tuple[str, str], name: str = "tiny.toml") -> Path:
        text = TINY
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return Path(name)

    return write
