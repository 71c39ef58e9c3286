"""Own code on the command line: where it may come from, the question before it runs, and what was allowed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oneticket.cli.text import harmless

if TYPE_CHECKING:
    from oneticket.lab.spec.code import NamedCode
    from oneticket.trust.consent import Allowed

_OPTIONS = [
    click.option(
        "--code", "code_folder", type=click.Path(path_type=Path), metavar="DIR",
        help="Folder of the Python files that the experiment names.  [default: that of EXPERIMENT]",
    ),
    click.option(
        "--trust-package", "packages", multiple=True, metavar="NAME",
        help="Installed package that EXPERIMENT may import from; may be repeated.",
    ),
    click.option(
        "--trust-code", is_flag=True, envvar="ONETICKET_TRUST_CODE", show_envvar=True,
        help="Run the Python files that EXPERIMENT names, without a question.",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class CodeOptions:
    """Where the code of an experiment may come from, and whether it is allowed to run without a question."""

    folder: Path | None = None
    packages: tuple[str, ...] = ()
    trusted: bool = False


def code_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options about own code, as the one argument ``code``."""

    @wraps(command)
    def with_code(
        *arguments: Any, code_folder: Path | None, packages: tuple[str, ...], trust_code: bool, **others: Any
    ) -> Any:
        return command(*arguments, code=CodeOptions(code_folder, packages, trust_code), **others)

    made: Callable[..., Any] = with_code
    for option in reversed(_OPTIONS):
        made = option(made)
    return made


def allowed_code(file: Path, raw: Mapping[str, Any], options: CodeOptions) -> NamedCode:
    """The code that the tables of ``file`` name, once it may run; nothing is imported.

    Raises InputError for code that is in no place where it may be, and for code that is not allowed.
    """
    from oneticket.errors import InputError
    from oneticket.lab.spec.code import named_code
    from oneticket.trust.consent import Allowed, is_allowed
    from oneticket.trust.importing import check_package, plugins

    for package in options.packages:
        check_package(package)
    folder = file.parent if options.folder is None else options.folder
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder", where="--code", expected="a folder of Python files")
    try:
        code = named_code(raw, folder, options.packages, plugins())
    except InputError as error:
        raise error.at(str(file)) from None
    asked = Allowed(str(code.sources.folder), code.sources.checksums())
    if asked.files and not (options.trusted or is_allowed(asked)):
        _ask(file, asked)
    if asked.files:
        _keep(asked)
    return code


def registered_code(file: Path, code: NamedCode) -> dict[str, str]:
    """Import what registers names, of allowed code; returns the modules with the digests of their code."""
    from oneticket.errors import InputError

    try:
        return code.load()
    except InputError as error:
        raise error.at(str(file)) from None


def _ask(file: Path, asked: Allowed) -> None:
    """Ask at a terminal whether these files may run; raise InputError for a no, and where nobody can answer."""
    from oneticket.errors import InputError

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(
            f"names code that was not allowed to run: {', '.join(asked.files)} in {asked.folder}",
            where=str(file),
            expected="--trust-code, once you have read it, or an answer at a terminal",
        )
    click.echo(f"{harmless(str(file))} names code in {harmless(asked.folder)}, which runs as you:", err=True)
    for path, checksum in asked.files.items():
        click.echo(f"  {checksum}  {harmless(path)}", err=True)
    if not click.confirm("Run it, now and whenever it is unchanged?", default=False, err=True):
        raise InputError("its code may not run", where=str(file), expected="code that you have read")


def _keep(asked: Allowed) -> None:
    from oneticket.trust.consent import allow, is_allowed

    try:
        if not is_allowed(asked):
            allow(asked)
    except OSError as error:
        click.echo(f"What was allowed could not be kept ({error}): it will be asked again.", err=True)


@click.group()
def trust() -> None:
    """What own code was allowed to run: list, revoke."""


@trust.command("list")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def list_allowed_code(as_json: bool) -> None:
    """Show the folders whose files may run, with the SHA-256 of each file."""
    import json

    import msgspec

    from oneticket.trust.consent import list_allowed

    known = list_allowed()
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(known), indent=1))
        return
    for entry in known:
        click.echo(f"{harmless(entry.folder)}  (since {harmless(entry.when)})")
        for path, checksum in entry.files.items():
            click.echo(f"  {harmless(checksum)}  {harmless(path)}")
    if not known:
        click.echo("no code was allowed")


@trust.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Every folder.")
def revoke(folders: tuple[Path, ...], everything: bool) -> None:
    """Ask again before code in these FOLDERS runs."""
    from oneticket.errors import InputError
    from oneticket.trust.consent import list_allowed, revoke

    if bool(folders) == everything:
        raise click.UsageError("give one or more folders, or --all")
    named = [str(folder.resolve()) for folder in folders]
    known = {entry.folder for entry in list_allowed()}
    for folder in named:
        if folder not in known:
            raise InputError(f"nothing was allowed in '{folder}'", where="FOLDERS", expected="one of `trust list`")
    for entry in revoke(None if everything else named):
        click.echo(f"no longer allowed: {harmless(entry.folder)}: {harmless(', '.join(entry.files))}")
