"""The size of the house: files and functions that a reader can hold in mind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "oneticket"
FILE, FUNCTION = 350, 60
"""Lines at most; of a function without its docstring, which is as long as its arguments are many."""


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The dotted name and the length of each function and method, nested ones too."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from functions(child, prefix)
            continue
        if not isinstance(child, ast.ClassDef):
            yield f"{prefix}{child.name}", length(child)
        yield from functions(child, f"{prefix}{child.name}.")


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the last one, its docstring left out."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is None:
        return lines
    return lines - ((first.end_lineno or 0) - first.lineno + 1)


def test_no_file_and_no_function_is_too_long() -> None:
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        place, text = file.relative_to(SOURCE.parent), file.read_text("utf-8")
        if (lines := len(text.splitlines())) > FILE:
            found.append(f"{place}: {lines} lines, at most {FILE}")
        found += [
            f"{place}: {name}() has {lines} lines, at most {FUNCTION}"
            for name, lines in functions(ast.parse(text))
            if lines > FUNCTION
        ]
    assert not found, "\n".join(["too long; split it by what it does:", *found])


def test_the_length_of_a_function_is_that_of_its_code() -> None:
    code = '''
class House:
    """A docstring."""

    def room(self):
        """Two lines

        and one between."""
        def inner():
            return 1
        if True:
            return inner()

def attic(): return 0
'''
    assert dict(functions(ast.parse(code))) == {"House.room": 5, "House.room.inner": 2, "attic": 1}
