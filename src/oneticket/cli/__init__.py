"""The command line: the group of commands, errors and exit codes."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import Any

import click

from oneticket.cli.bench_command import bench
from oneticket.cli.claim_commands import verify
from oneticket.cli.code_options import trust
from oneticket.cli.completion_command import completion
from oneticket.cli.export_commands import export, import_masks
from oneticket.cli.figure_command import figure
from oneticket.cli.lab_commands import demo, plan, run
from oneticket.cli.paper_command import paper
from oneticket.cli.result_commands import report, results
from oneticket.cli.sharing_commands import pull, push, zoo
from oneticket.cli.statistics_commands import power, statistics
from oneticket.cli.store_commands import merge, store
from oneticket.cli.text import harmless, shortened
from oneticket.cli.ticket_commands import find, ticket, transfer
from oneticket.cli.view_commands import doctor, list_everything
from oneticket.cli.watch_command import watch
from oneticket.errors import InputError, OneticketError
from oneticket.version import __version__

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


class _Commands(click.Group):
    """Commands in the order they were added; an unknown one is refused with the nearest name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from oneticket.errors import nearest

        if args and args[0] not in self.commands and not args[0].startswith("-"):
            close = nearest(args[0], self.commands)
            ctx.fail(f"unknown command '{harmless(args[0])}'" + (f" (did you mean '{close}'?)" if close else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="oneticket")
def group() -> None:
    """Find a winning ticket once; use it everywhere; know whether it really won."""


_COMMANDS = (
    demo, plan, run, watch, verify, paper, results, report, figure, power, store, merge, find, transfer, ticket, zoo,
    trust, bench, statistics, list_everything, doctor, completion,
)  # fmt: skip
for _command in _COMMANDS:
    group.add_command(_command)
for _command in (push, pull, export, import_masks):
    ticket.add_command(_command)


def _say_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """A warning as one line for the user of a command, without the place in the code."""
    click.echo(f"Note: {harmless(str(message))}", err=True)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; exit codes: 0 done, 1 some cells failed, 2 bad input, 130 interrupted.

    ``verify`` has others: 1 a claim is contradicted, 3 one is not decided.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            code = group.main(args=arguments, prog_name="oneticket", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. Finished work is kept; run the same command to continue.", err=True)
        sys.exit(INTERRUPTED)
    except OneticketError as error:
        click.echo(f"Error: {shortened(harmless(str(error)))}", err=True)
        sys.exit(BAD_INPUT if isinstance(error, InputError) else FAILED)
    except BrokenPipeError:
        # The reader has closed the pipe: what is still buffered must not be written again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {harmless(f'{place}{error.strerror or error}')}", err=True)
        sys.exit(FAILED if error.errno in (errno.ENOSPC, errno.EDQUOT) else BAD_INPUT)
    sys.exit(code if isinstance(code, int) else 0)
