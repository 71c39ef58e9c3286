"""Experiment files from a stranger: exit code 2, one clear message, and nothing happens.

No process is started, no file is written but in the cache and the store, and none takes 5 s or 1 GB. Each is given to
`plan` and to `run` in a process forked from this one, in which Python reports every process, connection and file.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

import oneticket.lab.execution.engines.worker  # what the commands load, once for all of them
import oneticket.lab.execution.scheduler
import oneticket.lab.spec.experiment  # noqa: F401
from oneticket.cli import main

pytestmark = pytest.mark.faults

EXPERIMENT = """
name = "hostile"
model = {model}
seeds = {seeds}
{top}
[data.digits]
builtin = "digits"
per_class = 40
{data}
[recipe.sgd]
optimizer = "sgd"
lr = 0.1
epochs = 2
[search]
rounds = 2
prune = 0.5
{search}
[arm.own-arm]
mask = "ticket"
weights = "initial"
{arm}
[[transfer]]
sources = ["digits@sgd"]
targets = ["digits@sgd"]
arms = ["winning"]
densities = {densities}
"""
TOUCH = "import pathlib; pathlib.Path(__file__).with_name('touched').touch()\n"
NET = "def net(classes):\n    from torch import nn\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))\n"
TRUST = ("--trust-code",)


def text(model: str = '"lenet-300-100"', seeds: str = "1", densities: str = "[0.5]", **places: str) -> str:
    """An experiment with something else at some of its places."""
    return EXPERIMENT.format(
        model=model, seeds=seeds, densities=densities,
        **{place: places.get(place, "") for place in ("top", "data", "search", "arm")},
    )  # fmt: skip


class Hostile(NamedTuple):
    """The text of the file, what its refusal must say, other files beside it, and options."""

    text: str
    said: str
    beside: Mapping[str, str] = MappingProxyType({})
    options: tuple[str, ...] = ()
    prepare: Callable[[Path], object] = lambda folder: None


def link(target: str, name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(target)


def bytecode(folder: Path) -> None:
    (folder / "mine.pyc").write_bytes(b"\x00" * 64)
    (folder / "mine.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF" + b"\x00" * 64)


HUGE_MODEL = '{ name = "vgg19", options = { width = 1e%d } }'
ALLOWED = "that may be imported"
CODE: dict[str, Hostile] = {
    "a command": Hostile(
        text('{ name = "subprocess:getoutput", options = { cmd = "touch touched" } }'), f"'subprocess' {ALLOWED}"
    ),
    "a command of the system": Hostile(text('{ name = "os:system", options = { command = "touch touched" } }'), "'os'"),
    "code as text": Hostile(text('{ name = "builtins:exec", options = { source = "1" } }'), f"'builtins' {ALLOWED}"),
    "a second model": Hostile(text('["lenet-300-100", "shutil:rmtree"]'), "model[1]: there is no module 'shutil'"),
    "the model of an arm": Hostile(text(arm='model = "os:popen"'), "arm.own-arm.model: there is no module 'os'"),
    "a part of oneticket": Hostile(text('"oneticket.cli:main"'), f"'oneticket.cli' {ALLOWED}"),
    "a library": Hostile(text('"torch.utils.cpp_extension:load"'), f"'torch.utils.cpp_extension' {ALLOWED}"),
    "a library, named": Hostile(text('"click:echo"'), "is defined elsewhere", options=("--trust-package", "click")),
    "the standard library, named": Hostile(
        text('"subprocess:getoutput"'), "belongs to Python itself", options=("--trust-package", "subprocess")
    ),
    "a package that is not there": Hostile(
        text('"nowhere:net"'), "is not installed", options=("--trust-package", "nowhere")
    ),
    "a path upwards": Hostile(text('"..mine:net"'), "not an import path", {"mine.py": TOUCH + NET}),
    "a path with a slash": Hostile(text('"/tmp/mine:net"'), "not an import path"),
    "a file beside it": Hostile(text('"mine:net"'), "--trust-code", {"mine.py": TOUCH + NET}),
    "a package beside it": Hostile(text('"a.b:net"'), "a/__init__.py, a/b.py", {"a/__init__.py": TOUCH, "a/b.py": NET}),
    "code that registers": Hostile(text(top='code = ["mine.py"]'), "--trust-code", {"mine.py": TOUCH}),
    "code elsewhere": Hostile(text(top='code = ["/etc/passwd"]'), "code[0]: '/etc/passwd' is not"),
    "code above": Hostile(text(top='code = ["../mine.py"]'), "code[0]: '../mine.py' is not"),
    "code that is missing": Hostile(text(top='code = ["mine.py"]'), "code[0]: there is no module 'mine'"),
    "code of another type": Hostile(text(top="code = [1]"), "a whole number; expected text"),
    "a class that starts processes": Hostile(
        text('{ name = "mine:Popen", options = { args = "touch touched" } }'),
        "is a type",
        {"mine.py": "from subprocess import Popen\n"},
        TRUST,
    ),
    "a function from elsewhere": Hostile(
        text('{ name = "mine:getoutput", options = { cmd = "touch touched" } }'),
        "is defined elsewhere: in subprocess",
        {"mine.py": "from subprocess import getoutput\n"},
        TRUST,
    ),
    "a module of torch from elsewhere": Hostile(
        text('"mine:Linear"'), "is defined elsewhere", {"mine.py": "from torch.nn import Linear\n"}, TRUST
    ),
    "a thing that can be called": Hostile(
        text('"mine:net"'),
        "is a partial",
        {"mine.py": "import functools, os\nnet = functools.partial(os.system, 'touch touched')\n"},
        TRUST,
    ),
    "a module that answers to every name": Hostile(
        text('"mine:net"'),
        "has no function 'net'",
        {"mine.py": "import os\ndef __getattr__(name): return lambda **_: os.system('touch touched')\n"},
        TRUST,
    ),
    "a module that ends Python": Hostile(
        text('"mine:net"'), "cannot be imported: SystemExit", {"mine.py": "raise SystemExit(0)\n"}, TRUST
    ),
    "a link out of the folder": Hostile(
        text('"mine:net"'), "leads out of the folder", options=TRUST, prepare=link(os.__file__, "mine.py")
    ),
    "bytecode and a library without a source": Hostile(
        text('"mine:net"'), f"'mine' {ALLOWED}", options=TRUST, prepare=bytecode
    ),
    "a pipe instead of a file": Hostile(
        text('"mine:net"'), f"'mine' {ALLOWED}", options=TRUST, prepare=lambda folder: os.mkfifo(folder / "mine.py")
    ),
    "a device instead of a file": Hostile(
        text('"mine:net"'), f"'mine' {ALLOWED}", options=TRUST, prepare=link("/dev/zero", "mine.py")
    ),
    "a namesake of a library": Hostile(
        text('"torch:load"'), "under that name; expected a module name", {"torch.py": TOUCH + NET}, TRUST
    ),
    "code that is not Python": Hostile(text('"mine:net"'), "not valid Python", {"mine.py": "\x00"}, TRUST),
    "code of 2 MiB": Hostile(text('"mine:net"'), "too large", {"mine.py": "#" * 2**21}, TRUST),
    "code nested deeply": Hostile(text('"mine:net"'), "not valid Python", {"mine.py": "(" * 10**6}, TRUST),
    "code with many signs": Hostile(text('"mine:net"'), "not valid Python", {"mine.py": "x = " + "-" * 10**6}, TRUST),
    "an engine": Hostile(text(), "unknown engine 'os:system'", options=("--engine", "os:system")),
}
FILES: dict[str, Hostile] = {
    "lists in lists": Hostile(f"x = {'[' * 10**5}", "is nested too deeply"),
    "lists in lists, closed": Hostile(f"x = {'[' * 60}{']' * 60}", "is nested too deeply"),
    "tables in tables": Hostile("x = {{{}}}".format("a={" * 5000), "is nested too deeply"),
    "a key with dots": Hostile(f"{'.'.join('a' * 10**5)} = 1", "too many dots"),
    "a quoted key with dots": Hostile(".".join(['"\\""'] * 10**5) + " = 1", "too many dots"),
    "a header with dots": Hostile(f"[{'.'.join('a' * 10**5)}]", "too many dots"),
    "a number of many digits": Hostile(f"seeds = {'9' * 10**5}", "is not valid TOML"),
    "a file of 2 MiB": Hostile("#" * 2**21, "at most 1048576"),
    "no text": Hostile("\x00", "is not valid TOML"),
    "a name upwards": Hostile(text().replace('"hostile"', '"../hostile"'), "is not a valid name"),
    "a name for missing": Hostile(text().replace('"hostile"', '"NA"'), "a missing value"),
    "a name with a colour": Hostile(text().replace('"hostile"', '"\\u001b[31m"'), "control character U+001B"),
    "a word of a megabyte": Hostile(text(f'"{"x" * 10**6}"'), "xxx … xxx"),
    "many models": Hostile(text("[" + '"lenet-300-100",' * 10**4 + "]"), "expected 1 to 100"),
    "many networks": Hostile(text(seeds="10000", densities=str([0.5 + i / 100 for i in range(11)])), "at most 100000"),
    "many densities": Hostile(
        text(densities=str([1 - i / 10**6 for i in range(5 * 10**4)]), seeds="3"), "at most 100000"
    ),
    "many data sets": Hostile(
        text(top="\n".join(f'[data.a{i}]\nfrom = "a{i + 1}"' for i in range(2 * 10**4))), "at most 1000"
    ),
    "data from itself": Hostile(text(top='[data.a]\nfrom = "b"\n[data.b]\nfrom = "a"'), "derived from itself"),
    "a network of terabytes": Hostile(text(HUGE_MODEL % 3), "parameters; expected at most 1e+09"),
    "a network of infinite size": Hostile(text(HUGE_MODEL % 300), "cannot be built with"),
    "many seeds": Hostile(text(seeds=str(10**18)), "1 to 10000"),
    "many rounds": Hostile(text(search="").replace("rounds = 2", f"rounds = {10**9}"), "at most 10000"),
    "options that are attributes": Hostile(
        text('{ name = "lenet-300-100", options = { __class__ = 1 } }'), "unknown option '__class__'"
    ),
    "a head that is an attribute": Hostile(text(top='head = "__class__"'), "head"),
    "a moment that is a command": Hostile(text(search='rewind = "1ep; touch touched"'), "not a valid moment"),
    "data from a command": Hostile(
        text().replace('builtin = "digits"', 'path = "|touch touched"').replace("per_class = 40", ""), "data.digits"
    ),
    "data from a device": Hostile(
        text().replace('builtin = "digits"', 'path = "/dev/zero"').replace("per_class = 40", ""), "data.digits"
    ),
    "pictures of the whole system": Hostile(
        text().replace('builtin = "digits"', 'images = "/proc"').replace("per_class = 40", ""), "data.digits"
    ),
}  # fmt: skip
HOSTILE = CODE | FILES


class Ended(NamedTuple):
    """How a command ended, what it said, what it did besides, and what it took (s, bytes)."""

    code: int
    error: str
    did: list[str]
    seconds: float
    memory: int


def attempted(folder: Path, *words: str) -> Ended:
    """Run a command in a process forked from this one, which notes what Python's audit events tell."""
    notes, error = folder.parent / "notes", folder.parent / "error"
    child = os.fork()
    if not child:
        _attempt(folder, notes, error, words)
    _, status, used = os.wait4(child, 0)
    did = json.loads(notes.read_text()) if notes.exists() else ["ended early"]
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, error.read_text(), did, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def _attempt(folder: Path, notes: Path, error: Path, words: tuple[str, ...]) -> None:
    """In the forked process: run the command, write the notes, end."""
    code, did = 99, []
    os.chdir(folder)
    for stream, place in ((1, "/dev/null"), (2, str(error)), (0, "/dev/null")):
        os.dup2(os.open(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC), stream)
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    own = (os.environ["XDG_CACHE_HOME"], os.environ["XDG_CONFIG_HOME"])
    starts = ("subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "pty.", "socket.connect")

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(starts):
            did.append(f"{event} {arguments}")
        if event == "open":
            place, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not isinstance(place, int) and not os.fsdecode(place).startswith(own):
                did.append(f"wrote {place}")

    sys.stdout, sys.stderr, sys.stdin = (os.fdopen(n, m, buffering=-1) for n, m in ((1, "w"), (2, "w"), (0, "r")))
    sys.addaudithook(note)
    try:
        main(list(words))
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stderr.flush()
        seen = list(did)
        notes.write_text(json.dumps(seen))
        os._exit(code)


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "hostile-cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("ONETICKET_TRUST_CODE", raising=False)
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (name, command)
        for name, hostile in HOSTILE.items()
        for command in ("plan", "run")
        if command == "run" or "--engine" not in hostile.options  # which `plan` does not have
    ],
)
def test_a_hostile_experiment_is_refused_and_does_nothing(home: Path, name: str, command: str) -> None:
    hostile = HOSTILE[name]
    (home / "e.toml").write_text(hostile.text)
    for path, content in hostile.beside.items():
        (home / path).parent.mkdir(exist_ok=True)
        (home / path).write_text(content)
    hostile.prepare(home)
    before = sorted(str(path) for path in home.rglob("*"))
    ended = attempted(home, command, "e.toml", *hostile.options)
    assert ended.code == 2, ended
    assert hostile.said in ended.error, ended
    assert ended.error.startswith(("Error: ", "Usage: "))
    assert ended.error.count("\n") <= 2, "one message"
    assert len(ended.error) < 5000
    assert "Traceback" not in ended.error
    assert ended.did == []
    assert sorted(str(path) for path in home.rglob("*")) == before
    assert ended.seconds < 5
    assert ended.memory < 10**9


@pytest.mark.parametrize("place", ["/dev/zero", "pipe", "."])
def test_an_experiment_that_is_no_file_is_refused(home: Path, place: str) -> None:
    os.mkfifo(home / "pipe")
    ended = attempted(home, "plan", place)
    assert (ended.code, ended.did) == (2, [])
    assert "cannot be read" in ended.error


def test_the_hook_sees_what_it_must(home: Path) -> None:
    """The same audit lets nothing pass that allowed code does."""
    (home / "e.toml").write_text(text('"mine:net"'))
    (home / "mine.py").write_text(TOUCH + "import subprocess\nsubprocess.run(['true'])\nraise ValueError\n")
    ended = attempted(home, "plan", "e.toml", "--trust-code")
    assert any("subprocess.Popen" in event for event in ended.did)
    assert (home / "touched").exists()


def test_there_are_enough() -> None:
    assert len(HOSTILE) >= 40
