"""Functions found by import path, also in files that are not installed as a package."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from oneticket.errors import InputError, nearest


@contextmanager
def on_path(folder: Path | None) -> Iterator[None]:
    """Put ``folder`` and the current directory first on the import path inside the context."""
    added = _folders(folder)
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for entry in added:
            with suppress(ValueError):
                sys.path.remove(entry)


def import_function(path: str, folder: Path | None = None) -> Callable[..., Any]:
    """The function that ``package.module:function`` names; the module may be a file in ``folder`` or here.

    Raises InputError when the path has another form, when the module cannot be imported, and, with the nearest name,
    when it has no such function.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise InputError(f"'{path}' is not an import path", expected="package.module:function")
    with on_path(folder):
        module = _import(module_name, folder)
    function = getattr(module, name, None)
    if not callable(function):
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(
            f"module '{module_name}' has no function '{name}'",
            expected=f"one of {', '.join(callables)}" if callables else "a function that returns a network",
            nearest=nearest(name, callables),
        )
    return function  # type: ignore[no-any-return]


def file_digest(path: str, folder: Path | None = None) -> str:
    """SHA-256 of the file in which the function of an import path is defined."""
    function = import_function(path, folder)
    file = inspect.getsourcefile(function)
    if file is None:
        raise InputError(f"'{path}' has no source file", expected="a function written in Python")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _folders(folder: Path | None) -> list[str]:
    return [str(place.resolve()) for place in (folder, Path.cwd()) if place is not None]


def _import(name: str, folder: Path | None) -> ModuleType:
    _refuse_namesake(name.partition(".")[0], folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InputError(f"module '{name}' cannot be imported: {error}") from error
        places = " or ".join(_folders(folder))
        raise InputError(
            f"there is no module '{name}'", expected=f"a file in {places}, or an installed module"
        ) from None
    except Exception as error:
        raise InputError(f"module '{name}' cannot be imported: {type(error).__name__}: {error}") from error


def _refuse_namesake(package: str, folder: Path | None) -> None:
    """Raise InputError if another file of that name was imported before: Python would silently use that one."""
    found = PathFinder.find_spec(package, _folders(folder))
    loaded = getattr(sys.modules.get(package), "__file__", None)
    if found and found.origin and loaded and Path(found.origin).resolve() != Path(loaded).resolve():
        raise InputError(
            f"'{package}' is {found.origin}, but {loaded} is already imported under that name",
            expected="a module name that is not in use",
        )
