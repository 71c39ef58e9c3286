"""Sources: the Python files of a folder that a module needs, found in their text without running any of it."""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

from oneticket.errors import InputError
from oneticket.identity import digest

SCHEME = 2
"""The way in which code is digested, written before the digest; 1 was the SHA-256 of a single file as it is."""

MOST_BYTES, MOST_FILES = 2**20, 1000
"""Maximum size of a file, and of the number of files that one module needs."""


@dataclass(frozen=True)
class Source:
    """One Python file: the module that it is, its bytes, and the modules that its import statements name."""

    module: str
    path: Path
    content: bytes
    names: tuple[str, ...]

    @property
    def is_package(self) -> bool:
        """Whether the file is that of a package itself."""
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Sources:
    """Files of ``folder`` by module: some modules, all that these import from the folder, and so on."""

    folder: Path
    files: dict[str, Source]

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the bytes of each file, by its path relative to the folder: what consent is given to."""
        found = {
            str(source.path.relative_to(self.folder)): hashlib.sha256(source.content).hexdigest()
            for source in self.files.values()
        }
        return dict(sorted(found.items()))

    def digest(self, module: str) -> str:
        """The digest of a module and of all that it needs from the folder, comments and blank lines left out."""
        needed = {name: text_digest(self.files[name].content) for name in self._reachable(module)}
        return f"{SCHEME}:{digest([[name, needed[name]] for name in sorted(needed)])}"

    def _reachable(self, module: str) -> set[str]:
        found: set[str] = set()
        left = [name for name in _with_parents(module) if name in self.files]
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += [other for other in self.files[name].names if other in self.files]
        return found


def read_sources(modules: Iterable[str], folder: Path) -> Sources:
    """Read the files of ``modules`` in ``folder``, and those that their import statements name, and so on.

    Names of the standard library, and of oneticket, never mean a file of the folder.

    Raises
    ------
    InputError
        For a file that is not Python, is too large, is a link out of the folder, or has the name of an installed
        package.
    """
    folder = folder.resolve()
    files: dict[str, Source] = {}
    left = [name for module in modules for name in _with_parents(module)]
    while left:
        name = left.pop()
        if name in files or _is_elsewhere(name):
            continue
        path = located(name, folder)
        if path is None:
            continue
        if len(files) == MOST_FILES:
            raise InputError(f"it needs more than {MOST_FILES} files", where=str(folder), expected="a smaller program")
        _refuse_namesake(name, path)
        files[name] = _read(name, path)
        left += files[name].names
    return Sources(folder, files)


def located(module: str, folder: Path) -> Path | None:
    """The file of a module in a folder, or None; InputError for a link that leads out of the folder."""
    place = folder.joinpath(*module.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            if not path.resolve().is_relative_to(folder.resolve()):
                raise InputError("the link leads out of the folder", where=str(path), expected="--code with its folder")
            return path
    return None


@lru_cache(maxsize=1024)
def text_digest(content: bytes) -> str:
    """SHA-256 of the text of a Python file without its comments and blank lines."""
    return hashlib.sha256(without_comments(content).encode()).hexdigest()


def without_comments(content: bytes) -> str:
    """The text of a Python file without comments, blank lines and white space at the ends of lines; strings stay whole.

    >>> without_comments(b"x = 1  # one\\n\\n# two\\ny = '#'\\n")
    "x = 1\\ny = '#'"
    """
    text = _text(content)
    lines = text.split("\n")
    dropped: set[int] = set()
    comment: dict[int, int] = {}
    inside = 0  # f-strings, whose tokens Python has told apart since 3.12
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        (row, column), kind = token.start, tokenize.tok_name[token.type]
        inside += (kind == "FSTRING_START") - (kind == "FSTRING_END")
        if inside:
            continue
        if kind == "COMMENT":
            comment[row] = column
        elif kind in ("NEWLINE", "NL"):
            lines[row - 1] = lines[row - 1][: comment.get(row, column)].rstrip()
            if not lines[row - 1]:
                dropped.add(row)
    return "\n".join(line for row, line in enumerate(lines, start=1) if row not in dropped).rstrip("\n")


def _text(content: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return io.TextIOWrapper(io.BytesIO(content), encoding).read()  # which makes \r\n and \r the same as \n


def _read(module: str, path: Path) -> Source:
    if path.stat().st_size > MOST_BYTES:
        raise InputError("the file is too large", where=str(path), expected=f"at most {MOST_BYTES >> 20} MiB of Python")
    content = path.read_bytes()
    try:
        return Source(module, path, content, _names(content, module, path.name == "__init__.py"))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = getattr(error, "msg", None) or error
        raise InputError(f"is not valid Python ({type(error).__name__}: {reason}{line})", where=str(path)) from None


@lru_cache(maxsize=1024)
def _names(content: bytes, module: str, is_package: bool) -> tuple[str, ...]:
    tree = ast.parse(content)
    text_digest(content)  # what cannot be digested is refused here, too
    return tuple(dict.fromkeys(_imported(tree, module, is_package)))


def _imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Every module that an import statement anywhere in a file may mean, parents first."""
    around = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            up = around[: len(around) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield from _with_parents(base)
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names if alias.name != "*")


def _with_parents(module: str) -> list[str]:
    """``a.b.c`` → ``a``, ``a.b``, ``a.b.c``, in the order in which Python imports them."""
    parts = module.split(".") if module else []
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _is_elsewhere(module: str) -> bool:
    top = module.partition(".")[0]
    return top == "oneticket" or top in sys.stdlib_module_names


def _refuse_namesake(module: str, path: Path) -> None:
    """Raise InputError if another file has the name: which of the two is imported would depend on who asks first."""
    if "." in module:
        return
    loaded = getattr(sys.modules.get(module), "__file__", None)
    installed = None if loaded else PathFinder.find_spec(module)
    found = loaded or (installed.origin if installed else None)
    if found and Path(found).resolve() != path.resolve():
        raise InputError(
            f"'{module}' is {path}, but {found} is {'already imported' if loaded else 'installed'} under that name",
            expected="a module name that is not in use",
        )
