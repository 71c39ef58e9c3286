"""The code that an experiment file names, found in its tables before anything is imported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from oneticket.errors import InputError
from oneticket.trust.importing import find_module, load_code, module_digest, of_library, split_path
from oneticket.trust.sources import Sources, read_sources


@dataclass(frozen=True)
class NamedCode:
    """The code that an experiment file names, and where it may come from.

    Parameters
    ----------
    folder : the folder whose Python files may be imported.
    packages : the installed packages that may be imported.
    models : the modules of its networks.
    registering : the modules of the files under ``code``, and the plug-ins of installed packages.
    sources : the files of the folder that all of these need.
    """

    folder: Path
    packages: tuple[str, ...]
    models: tuple[str, ...]
    registering: tuple[str, ...]
    sources: Sources

    def load(self) -> dict[str, str]:
        """Import what registers names; returns these modules, each with the digest of its code."""
        known = {name: module_digest(name, self.folder, self.packages) for name in self.registering}
        load_code(known, self.folder, self.packages)
        return known


def named_code(
    raw: Mapping[str, Any], folder: Path, packages: Collection[str] = (), plugins: Mapping[str, str] | None = None
) -> NamedCode:
    """Find the code that the tables of an experiment file name; nothing is imported.

    ``plugins`` are modules of installed packages that register names, by their entry point; their packages may be
    imported. InputError, placed at its key, for code that is in neither place, or is not Python. What is not text where
    a name should be is left to :func:`read_experiment`.
    """
    entries = dict(plugins or {})
    allowed = tuple(dict.fromkeys([*packages, *(module.partition(".")[0] for module in entries.values())]))
    models, files = [], []
    for where, path in _paths(raw):
        try:
            module, _ = split_path(path)
            find_module(module, folder, allowed)
        except InputError as error:
            raise error.at(where) from None
        models.append(module)
    for number, file in enumerate(_files(raw)):
        files.append(_module_of(file, folder, f"code[{number}]"))
    try:
        sources = read_sources([*models, *files], folder)
    except InputError as error:
        raise error.at("code") from None
    registering = tuple(dict.fromkeys([*entries.values(), *files]))
    return NamedCode(folder, allowed, tuple(models), registering, sources)


def _paths(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The import paths of networks, each with its place in the file."""
    model, arms = raw.get("model"), raw.get("arm")
    for number, one in enumerate(model if isinstance(model, list) else [model]):
        yield from _path(one, f"model[{number}]" if isinstance(model, list) else "model")
    for word, arm in arms.items() if isinstance(arms, dict) else ():
        if isinstance(arm, dict):
            yield from _path(arm.get("model"), f"arm.{word}.model")


def _path(model: Any, where: str) -> Iterator[tuple[str, str]]:
    name = model.get("name") if isinstance(model, dict) else model
    if isinstance(name, str) and ":" in name and not of_library(name):
        yield where, name


def _files(raw: Mapping[str, Any]) -> list[str]:
    files = raw.get("code", [])
    return files if isinstance(files, list) and all(isinstance(file, str) for file in files) else []


def _module_of(file: str, folder: Path, where: str) -> str:
    """``nets/mine.py`` → ``nets.mine``."""
    parts = PurePosixPath(file).parts
    module = ".".join(parts).removesuffix(".py")
    try:
        if not file.endswith(".py") or not all(part.isidentifier() for part in module.split(".")):
            raise InputError(f"'{file}' is not a Python file beside the experiment", expected="a file such as mine.py")
        if find_module(module, folder, ()) is None:
            raise InputError(f"there is no file '{file}'", expected=f"a file in {folder}")
    except InputError as error:
        raise error.at(where) from None
    return module
