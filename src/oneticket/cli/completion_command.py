"""The command that prints the completion of a shell, and the words that options complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from oneticket.words import AllocationName, ArmName, CriterionName

_Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _words(choice: Any) -> _Complete:
    """Completion of the words of a literal: it loads no torch."""
    known: tuple[str, ...] = get_args(choice)

    def complete(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in known if word.startswith(begun)]

    return complete


ARMS, CRITERIA, ALLOCATIONS = _words(ArmName), _words(CriterionName), _words(AllocationName)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of commands, options, arms and files for SHELL, to be read by its start file."""
    kind = get_completion_class(shell)
    assert kind is not None  # one of the choices
    made = kind(click.get_current_context().find_root().command, {}, "oneticket", "_ONETICKET_COMPLETE")
    click.echo(ShellComplete.source(made))  # not that of the kind, which asks a bash for its version
