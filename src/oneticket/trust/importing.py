"""Importing: own files as they were read, from their folder or from packages that the user names, and no others."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from oneticket.errors import InputError, nearest
from oneticket.identity import digest
from oneticket.registry import Entry
from oneticket.trust.sources import SCHEME, Sources, located, read_sources, text_digest

GROUP = "oneticket.plugins"
"""The entry points with which an installed package says that `plan` and `run` may import it."""

LIBRARIES = ("timm", "transformers", "torchvision")
"""Libraries whose networks are named ``library:name``; to name one is the permission to import it."""


def of_library(path: str) -> bool:
    """Whether ``path`` names a network of one of :data:`LIBRARIES`, and not an own module."""
    return path.partition(":")[0] in LIBRARIES and ":" in path


def import_named(path: str, kind: type, folder: Path | None, packages: Collection[str]) -> Callable[..., Any]:
    """The function, or subclass of ``kind``, that ``package.module:name`` names, and that this module defines.

    Parameters
    ----------
    path : str
        The import path.
    kind : type
        What a class must be a subclass of.
    folder : Path, optional
        The folder whose files may be imported; none when None.
    packages : collection of str
        Installed packages that may be imported.

    Raises
    ------
    InputError
        When the path has another form, when the module is neither in the folder nor in one of the packages or cannot be
        imported, and when the thing is of another kind or defined elsewhere. The thing itself is not called.
    """
    module_name, name = split_path(path)
    module = import_module(module_name, folder, packages)
    found = vars(module).get(name)
    if found is None:
        known = [key for key, value in vars(module).items() if _fits(value, kind) and not key.startswith("_")]
        raise InputError(
            f"module '{module_name}' has no function '{name}'",
            expected=f"one of {', '.join(known)}" if known else "a function that returns a network",
            nearest=nearest(name, known),
        )
    if not _fits(found, kind):
        raise InputError(
            f"'{path}' is {_article(type(found).__name__)}",
            expected=f"a function written in Python, or a subclass of {kind.__module__}.{kind.__name__}",
        )
    home = _home(found)
    if found.__module__ != module_name or home is None or not _same(home, module.__file__):
        raise InputError(
            f"'{path}' is defined elsewhere: in {found.__module__}, {home or 'which has no source file'}",
            expected=f"a function or a class that {module_name} defines itself",
        )
    return found  # type: ignore[no-any-return]


def split_path(path: str) -> tuple[str, str]:
    """``package.module:name`` → (``package.module``, ``name``); InputError for another form."""
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise InputError(f"'{path}' is not an import path", expected="package.module:function")
    return module, name


def import_module(name: str, folder: Path | None, packages: Collection[str]) -> ModuleType:
    """The module ``name``: a file in ``folder``, or one of the installed ``packages``."""
    sources = find_module(name, folder, packages)
    if sources is None:
        return _imported(name, None)
    for module, source in sources.files.items():
        loader = _own_loader(module)
        if loader is not None and loader.sources.files[module].content != source.content:
            raise InputError(
                f"module '{module}' has changed since this process imported it", expected="a new Python process"
            )
    finder = _Finder(sources)
    # It stays there, because functions may import their neighbours when they are called.
    sys.meta_path[:] = [finder, *(other for other in sys.meta_path if other != finder)]
    return _imported(name, sources)


def find_module(name: str, folder: Path | None, packages: Collection[str]) -> Sources | None:
    """The files of a module in ``folder``; None if it belongs to one of ``packages``. Nothing is imported.

    Raises InputError when it is in neither.
    """
    if folder is not None:
        sources = read_sources([name], folder)
        if name in sources.files:
            return sources
    top = name.partition(".")[0]
    if top in packages and importlib.util.find_spec(top) is not None:
        return None
    if folder is None and not packages:
        raise InputError(
            f"'{name}' is not a part of oneticket, and is not imported here",
            expected="a network by its registered name; only plan, run and find import other code",
        )
    places = [f"a file in {folder.resolve()} (or in the folder that --code names)"] if folder is not None else []
    raise InputError(
        f"there is no module '{name}' that may be imported",
        expected=" or ".join([*places, "an installed package that --trust-package names"]),
    )


def module_digest(name: str, folder: Path | None, packages: Collection[str]) -> str:
    """The digest of a module's code, comments and blank lines left out, without importing it.

    For a file of ``folder`` it covers all that it imports from there; for an installed package, the file and the
    version of the package.
    """
    sources = find_module(name, folder, packages)
    if sources is not None:
        return sources.digest(name)
    spec = importlib.util.find_spec(name)  # imports the packages around it, which are trusted
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise InputError(f"'{name}' has no source file", expected="a module written in Python")
    return _digest_of_file(Path(spec.origin), name.partition(".")[0])


def digest_of_entry(entry: Entry[Any, Any]) -> str | None:
    """The digest of the code that registered ``entry``; None for a part of oneticket."""
    top = entry.module.partition(".")[0]
    if top == "oneticket":
        return None
    loader = _own_loader(entry.module)
    if loader is not None:
        return loader.sources.digest(entry.module)
    file = getattr(sys.modules.get(entry.module), "__file__", None)
    if file is not None and Path(file).is_file():
        return _digest_of_file(Path(file), top)
    with suppress(OSError, TypeError):  # a notebook has no file, but Python keeps the text of its cells
        text = textwrap.dedent(inspect.getsource(inspect.unwrap(entry.function)))
        return f"{SCHEME}:{text_digest(text.encode())}"
    raise InputError(f"the code of '{entry.name}' cannot be read", expected="a function written in a file")


def load_code(modules: Mapping[str, str], folder: Path | None, packages: Collection[str]) -> None:
    """Import ``modules``, so that what they register has a name; each with the digest that its code must have."""
    for name, expected in modules.items():
        if module_digest(name, folder, packages) != expected:
            raise InputError(f"the code of '{name}' has changed since the run began", expected="a new run")
        import_module(name, folder, packages)


def plugins() -> dict[str, str]:
    """The modules that installed packages name under the entry points ``oneticket.plugins``, by their entry."""
    return {f"{entry.name} = {entry.value}": entry.module for entry in importlib.metadata.entry_points(group=GROUP)}


def check_package(name: str) -> None:
    """Raise InputError unless ``name`` is an installed package, which the standard library is not."""
    if name in sys.stdlib_module_names or not name.isidentifier() or importlib.util.find_spec(name) is None:
        what = "belongs to Python itself" if name in sys.stdlib_module_names else "is not installed"
        raise InputError(f"'{name}' {what}", where="--trust-package", expected="the name of an installed package")


@dataclass(frozen=True, eq=False)
class _Loader(SourceLoader):
    """Loads the bytes that were read before, and no cached bytecode, which a folder could bring along."""

    sources: Sources

    def get_filename(self, fullname: str) -> str:
        return str(self.sources.files[fullname].path)

    def get_data(self, path: str) -> bytes:
        return next(file.content for file in self.sources.files.values() if str(file.path) == str(path))

    def source_to_code(self, data: Any, path: Any) -> CodeType:  # type: ignore[override]
        code: CodeType = compile(data, path, "exec", dont_inherit=True)
        return code


@dataclass(frozen=True)
class _Finder(MetaPathFinder):
    """Finds the modules of some sources, before any other place is searched."""

    sources: Sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        source = self.sources.files.get(fullname)
        if source is not None:
            inside = [str(source.path.parent)] if source.is_package else None
            loader = _Loader(self.sources)
            return importlib.util.spec_from_file_location(
                fullname, source.path, loader=loader, submodule_search_locations=inside
            )
        if any(name.startswith(f"{fullname}.") for name in self.sources.files):  # a folder without __init__.py
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(self.sources.folder.joinpath(*fullname.split(".")))]
            return spec
        return None


def _own_loader(module: str) -> _Loader | None:
    loader = getattr(getattr(sys.modules.get(module), "__spec__", None), "loader", None)
    return loader if isinstance(loader, _Loader) else None


def _imported(name: str, sources: Sources | None) -> ModuleType:
    before = set(sys.modules)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            hidden = sources is not None and error.name and located(error.name, sources.folder)
            raise InputError(
                f"module '{name}' cannot be imported: {error}",
                expected=f"a plain import statement for {hidden}, or its name under code" if hidden else None,
            ) from error
        raise InputError(f"there is no module '{name}'", expected="an installed module") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"module '{name}' cannot be imported: {type(error).__name__}: {error}") from error
    if sources is not None:
        _refuse_unseen(name, sources, set(sys.modules) - before)
    return module


def _refuse_unseen(name: str, sources: Sources, new: set[str]) -> None:
    """Raise InputError for a file of the folder that was imported although no import statement names it."""
    for other in new - set(sources.files):
        file = getattr(sys.modules.get(other), "__file__", None)
        if file and Path(file).resolve().is_relative_to(sources.folder):
            raise InputError(
                f"module '{name}' imports {file} in a way that its text does not show",
                expected="a plain import statement, or its name under code",
            )


def _fits(value: object, kind: type) -> bool:
    return isinstance(value, FunctionType) or (isinstance(value, type) and issubclass(value, kind))


def _home(found: Any) -> str | None:
    """The file that defines a function, which decorators may have wrapped, or a class."""
    with suppress(TypeError, ValueError):
        return inspect.getsourcefile(inspect.unwrap(found))
    return None


def _same(here: str, there: str | None) -> bool:
    return there is not None and Path(here).resolve() == Path(there).resolve()


def _article(word: str) -> str:
    return f"an {word}" if word[0].lower() in "aeiou" else f"a {word}"


def _digest_of_file(file: Path, top: str) -> str:
    """The digest of a file outside oneticket: with its package's version if installed, else with its neighbours."""
    file = file.resolve()
    if any(file.is_relative_to(Path(sysconfig.get_path(place)).resolve()) for place in ("purelib", "platlib")):
        with suppress(importlib.metadata.PackageNotFoundError):
            names = importlib.metadata.packages_distributions().get(top, [top])
            versions = sorted(f"{name} {importlib.metadata.version(name)}" for name in names)
            return f"{SCHEME}:{digest([versions, text_digest(file.read_bytes())])}"
    folder, module = file.parent, file.stem
    while (folder / "__init__.py").is_file():
        folder, module = folder.parent, f"{folder.name}.{module}"
    module = module.removesuffix(".__init__")
    sources = read_sources([module], folder)
    if module in sources.files:
        return sources.digest(module)
    return f"{SCHEME}:{hashlib.sha256(file.read_bytes()).hexdigest()}"
