"""What may be imported, from where, and that it is what was read."""

from __future__ import annotations

import py_compile
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from oneticket.errors import InputError
from oneticket.registry import NoFacts, Registry
from oneticket.trust import importing
from oneticket.trust.importing import (
    check_package,
    digest_of_entry,
    import_named,
    load_code,
    module_digest,
    plugins,
)

NET = "def net(classes):\n    return classes\n"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Forget what a test imported, and how it is found."""
    modules, finders = set(sys.modules), list(sys.meta_path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.meta_path[:] = finders


def named(path: str, folder: Path | None, *packages: str) -> Any:
    return import_named(path, nn.Module, folder, packages)


def refusal(path: str, folder: Path | None, *packages: str) -> str:
    with pytest.raises(InputError) as caught:
        named(path, folder, *packages)
    return str(caught.value)


# -- what a thing must be ---------------------------------------------------------------------------------------------
def test_functions_and_modules_of_torch_that_the_module_defines_are_found(tmp_path: Path) -> None:
    (tmp_path / "own1.py").write_text(NET + "from torch import nn\nclass Net(nn.Linear): ...\n")
    assert named("own1:net", tmp_path)(3) == 3
    assert issubclass(named("own1:Net", tmp_path), nn.Linear)


def test_a_decorated_function_is_where_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "own2.py").write_text("import functools\n@functools.cache\ndef net(classes): ...\n")
    assert "is a _lru_cache_wrapper" in refusal("own2:net", tmp_path)
    (tmp_path / "own3.py").write_text("from wraps3 import wrapped\n@wrapped\ndef net(classes):\n    return classes\n")
    (tmp_path / "wraps3.py").write_text(
        "import functools\ndef wrapped(f):\n    @functools.wraps(f)\n    def g(*a): return f(*a)\n    return g\n"
    )
    assert named("own3:net", tmp_path)(4) == 4


OTHER_THINGS = {
    "from subprocess import getoutput as net": "is defined elsewhere: in subprocess",
    "from subprocess import Popen as net": "is a type",
    "from torch.nn import Linear as net": "is defined elsewhere",
    "from os import system as net": "is a builtin_function_or_method",
    "import functools, os\nnet = functools.partial(os.system, 'x')": "is a partial",
    "from torch import nn\nnet = nn.Linear(1, 1)": "is a Linear",
    "class A:\n    def __call__(self): 1 / 0\nnet = A()": "is an A",
    "class net: ...": "is a type",
    "net = 3": "is an int",
    "def __getattr__(name): 1 / 0": "has no function 'net'",
    "import os as net": "is a module",
    "from subprocess import getoutput as net\nnet.__module__ = 'lied'": "is defined elsewhere",
}


@pytest.mark.parametrize(("text", "said"), OTHER_THINGS.items())
def test_anything_else_is_refused_and_not_called(tmp_path: Path, text: str, said: str) -> None:
    import subprocess as library

    module = library.getoutput.__module__
    (tmp_path / "lied.py").write_text(text)
    assert said in refusal("lied:net", tmp_path)
    library.getoutput.__module__ = module


# -- where it may come from -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path", ["subprocess:getoutput", "os:system", "builtins:eval", "click:echo", "torch.nn:Linear"]
)
def test_without_permission_nothing_is_imported(tmp_path: Path, path: str) -> None:
    assert "is not imported here" in refusal(path, None)
    assert "that may be imported" in refusal(path, tmp_path)


def test_a_package_is_imported_when_it_is_named(tmp_path: Path) -> None:
    assert named("oneticket.models.lenet:lenet_300_100", None, "oneticket").__name__ == "lenet_300_100"
    assert "that may be imported" in refusal("oneticket.models.lenet:lenet_300_100", tmp_path, "click")


def test_what_lies_beside_the_folder_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "away.py").write_text(NET)
    (tmp_path / "home").mkdir()
    assert "no module 'away'" in refusal("away:net", tmp_path / "home")


@pytest.mark.parametrize(("name", "said"), [("subprocess", "Python itself"), ("nowhere", "not installed"), ("a.b", "")])
def test_only_installed_packages_can_be_named(name: str, said: str) -> None:
    with pytest.raises(InputError, match=f"--trust-package: '{name}' .*{said}"):
        check_package(name)
    check_package("click")


def test_packages_name_themselves_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("lamp", "their_pack.scores", importing.GROUP)]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries if group == importing.GROUP else [])
    assert plugins() == {"lamp = their_pack.scores": "their_pack.scores"}


# -- that it is what was read -----------------------------------------------------------------------------------------
def test_bytecode_in_the_folder_is_never_run(tmp_path: Path) -> None:
    file = tmp_path / "own4.py"
    file.write_text("def net(): return 'what nobody saw'\n")
    invalidation = py_compile.PycInvalidationMode.UNCHECKED_HASH  # Python would not look at the text
    py_compile.compile(str(file), doraise=True, invalidation_mode=invalidation)
    file.write_text("def net(): return 'what was seen'\n")
    assert named("own4:net", tmp_path)() == "what was seen"


def test_none_is_written(tmp_path: Path) -> None:
    (tmp_path / "own5.py").write_text("import own6\n" + NET)
    (tmp_path / "own6.py").write_text("")
    named("own5:net", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own5.py", "own6.py"]


def test_a_module_that_changed_since_it_was_imported_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "own7.py").write_text("import own8\n" + NET)
    (tmp_path / "own8.py").write_text("x = 1\n")
    named("own7:net", tmp_path)
    (tmp_path / "own8.py").write_text("x = 2\n")
    assert "module 'own8' has changed since this process imported it" in refusal("own7:net", tmp_path)


def test_an_import_that_the_text_does_not_show_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content would not be part of any name."""
    (tmp_path / "own9.py").write_text("import importlib\nimportlib.import_module('own' + '10')\n" + NET)
    (tmp_path / "own10.py").write_text("")
    said = refusal("own9:net", tmp_path)
    assert "expected a plain import statement for" in said
    assert "own10.py" in said
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "own10.py in a way that its text does not show" in refusal("own9:net", tmp_path)


def test_neighbours_may_be_imported_late(tmp_path: Path) -> None:
    (tmp_path / "own11.py").write_text("def net(classes):\n    from own12 import x\n    return x\n")
    (tmp_path / "own12.py").write_text("x = 5\n")
    assert named("own11:net", tmp_path)(0) == 5


def test_folders_without_init_are_packages(tmp_path: Path) -> None:
    (tmp_path / "own13" / "deep").mkdir(parents=True)
    (tmp_path / "own13" / "deep" / "nets.py").write_text("from .. import other\n" + NET)
    (tmp_path / "own13" / "other.py").write_text("")
    assert named("own13.deep.nets:net", tmp_path)(6) == 6


@pytest.mark.parametrize("text", ["raise SystemExit(0)", "1 / 0", "raise KeyError('x')", "import no_such_thing"])
def test_a_module_that_fails_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "own14.py").write_text(text)
    assert "module 'own14' cannot be imported" in refusal("own14:net", tmp_path)


# -- digests of what registers ----------------------------------------------------------------------------------------
REGISTERS = "from oneticket.pruning import criterion\n@criterion('{0}')\ndef score(model, context): ...\n"


def registered(text: str, folder: Path, module: str, name: str) -> str | None:
    from oneticket.pruning import CRITERIA

    (folder / f"{module}.py").write_text(text)
    code = {module: module_digest(module, folder, ())}
    load_code(code, folder, ())
    digest = digest_of_entry(CRITERIA.entry(name))
    del CRITERIA._entries[name]
    assert digest == code[module]
    return digest


def test_the_code_of_a_registered_name_is_that_of_the_file_that_registers_it(tmp_path: Path) -> None:
    first = registered(REGISTERS.format("own-a"), tmp_path, "own15", "own-a")
    other = registered(REGISTERS.format("own-a") + "x = 1\n", tmp_path, "own16", "own-a")
    assert first != other


def test_a_function_of_a_library_counts_as_the_file_that_registers_it(tmp_path: Path) -> None:
    text = "import math\nfrom oneticket.pruning import criterion\ncriterion('own-b')(math.fsum)\n"
    assert registered(text, tmp_path, "own17", "own-b")


def test_code_that_is_not_what_was_planned_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "own18.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match="the code of 'own18' has changed since the run began"):
        load_code({"own18": "2:0"}, tmp_path, ())


def test_parts_of_oneticket_have_no_digest() -> None:
    from oneticket.models import MODELS
    from oneticket.pruning import CRITERIA

    assert {digest_of_entry(entry) for entry in (*CRITERIA.entries(), *MODELS.entries()) if entry.module} == {None}


def test_what_a_script_registers_has_the_digest_of_the_script(tmp_path: Path) -> None:
    script = (
        "from oneticket.registry import NoFacts, Registry\n"
        "from oneticket.trust.importing import digest_of_entry\n"
        "import beside\n"
        "R = Registry('thing', NoFacts)\n"
        "@R.register('x')\n"
        "def x(): ...\n"
        "print(digest_of_entry(R.entry('x')))\n"
    )

    def told() -> str:
        done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
        return done.stdout

    (tmp_path / "script.py").write_text(script)
    (tmp_path / "beside.py").write_text("x = 1\n")
    first = told()
    (tmp_path / "script.py").write_text("# why\n" + script)
    assert first.startswith("2:")
    assert told() == first
    (tmp_path / "beside.py").write_text("x = 2\n")
    assert told() != first


def test_a_name_of_an_installed_package_has_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("click")
    registry = Registry("thing", NoFacts)
    exec("register('y')(lambda: 0)", {"register": registry.register, "__name__": "click"})
    first = digest_of_entry(registry.entry("y"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    assert digest_of_entry(registry.entry("y")) != first
