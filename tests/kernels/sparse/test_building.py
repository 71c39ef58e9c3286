"""The kernels are compiled where they run, or it is said why not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oneticket.errors import InputError
from oneticket.kernels.machine import Machine
from oneticket.kernels.sparse import building
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.places import cache_home
from oneticket.training import Recipe, Runtime, train

HERE = Machine(processor="a processor", instructions="avx2", torch="2", restricted={})

needs_compiler = pytest.mark.skipif(not building.available(), reason="no C compiler")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, quick compilation, and nothing remembered."""
    cached: tuple[Any, ...] = (building.library, building.why_not, building._version)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ONETICKET_CFLAGS", "-O0")
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the compiler a shell script."""

    def make(script: str) -> None:
        file = tmp_path / "my-cc"
        file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        file.chmod(0o755)
        monkeypatch.setenv("CC", str(file))

    return make


def libraries() -> list[Path]:
    return sorted((cache_home() / "kernels" / "sparse").iterdir())


def test_without_a_compiler_it_is_said_what_is_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING, "oneticket.kernels"):
        assert not building.available()
        assert not building.available()
    assert [record.getMessage() for record in caplog.records] == [
        "no C compiler is installed (cc, gcc or clang; CC names another one): " + building.LOST
    ]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'cannot find -lgcc' >&2; exit 1", "fails: cannot find -lgcc"),
        ("exit 0", "fails: it says nothing"),  # as if it had worked, but without a file
    ],
)
def test_a_broken_compiler_is_quoted(script: str, said: str, compiler: Callable[[str], None]) -> None:
    compiler(script)
    assert str(building.why_not()).endswith(said)
    assert libraries() == []


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert "/nowhere/cc does not run" in str(building.why_not())


def test_sparse_layers_that_are_demanded_are_refused_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    network = build(ModelSpec(name="lenet-300-100", options={"width": 0.1}), input_shape=(1, 8, 8), classes=10, seed=0)
    masks = Masks({"linear1.weight": network.get_parameter("linear1.weight") > 0})
    import torch

    data = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    with pytest.raises(InputError, match=r"compute = 'sparse': .*'measured' or 'dense'"):
        train(network, data, Recipe.sgd(epochs=1, lr=0.1), masks=masks, runtime=Runtime(compute="sparse"))


@needs_compiler
def test_it_is_compiled_once(compiler: Callable[[str], None], tmp_path: Path) -> None:
    compiler(f'case "$*" in *-o*) echo >> {tmp_path}/calls;; esac; exec cc "$@"')
    building.library()
    building.library.cache_clear()
    building.library()
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert [file.suffix for file in libraries()] == [".so"], "nothing is left of the compilation"


@needs_compiler
def test_another_processor_and_a_damaged_file_have_theirs_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "this_machine", lambda: HERE)
    building.library()
    (first,) = libraries()
    monkeypatch.setattr(building, "this_machine", lambda: msgspec.structs.replace(HERE, processor="another"))
    building.library.cache_clear()
    building.library()
    assert len(libraries()) == 2
    other = next(file for file in libraries() if file != first)
    replaced = other.with_suffix(".bad")
    replaced.write_bytes(b"not a library")
    os.replace(replaced, other)  # a new file: the loaded one stays mapped
    building.library.cache_clear()
    assert building.library().gather


@needs_compiler
def test_a_cache_that_cannot_be_written_costs_a_compilation(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert building.library().gather


@pytest.mark.parametrize(
    ("restricted", "flag"),
    [
        ({}, "-march=native"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "-march=x86-64-v3"),
        ({"ATEN_CPU_CAPABILITY": "default"}, "-march=x86-64"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "-march=native"),
    ],
)
def test_forbidden_instructions_are_not_used(
    restricted: dict[str, str], flag: str, monkeypatch: pytest.MonkeyPatch, compiler: Callable[[str], None]
) -> None:
    compiler("exit 0")
    for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):  # those of the pass that runs this test
        monkeypatch.delenv(name, raising=False)
    for name, value in restricted.items():
        monkeypatch.setenv(name, value)
    machine = msgspec.structs.replace(HERE, restricted=restricted)
    monkeypatch.setattr(building, "this_machine", lambda: machine)
    assert flag in building.command()


@needs_compiler
@pytest.mark.slow
def test_two_processes_at_once() -> None:
    code = "from oneticket.kernels.sparse import building; building.library().gather"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert [file.suffix for file in libraries()] == [".so"]
