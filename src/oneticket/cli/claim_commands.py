"""The command that answers the claims of an experiment: verify."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oneticket.cli import tables
from oneticket.cli.checks import max_pixels
from oneticket.cli.code_options import CodeOptions, code_options
from oneticket.cli.lab_commands import computed, default_store, print_end
from oneticket.cli.result_commands import say_cautions
from oneticket.cli.tables import say_verdicts

if TYPE_CHECKING:
    from oneticket.verdicts import Verdict

CONTRADICTED = 1
NOT_DECIDED = 3


@click.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--no-run", is_flag=True, help="Only read the store: nothing is computed.")
@click.option("--store", type=click.Path(path_type=Path), help="Folder of cells.  [default: stores/NAME]")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of decoded data.  [default: per user]")
@click.option("--workers", type=click.IntRange(1), help="Cells side by side.  [default: as many as fit]")
@code_options
@max_pixels
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def verify(
    experiment: Path, no_run: bool, store: Path | None, cache: Path | None, workers: int | None, code: CodeOptions,
    as_json: bool,
) -> int:  # fmt: skip
    """Compute what EXPERIMENT lacks and judge its claims: 0 all supported, 1 one contradicted, 3 one not decided."""
    from oneticket.errors import InputError
    from oneticket.lab.spec.parsing import read_toml

    raw = read_toml(experiment)
    if not (raw.get("claim") or raw.get("claims")):
        raise InputError("makes no claim", where=str(experiment), expected='[[claim]], or claims = ["paper"]')
    if no_run:
        name = str(raw.get("name", ""))
        root = store or default_store(name)
    else:
        ended = computed(experiment, store, cache, "local", workers, 1, "cpu", code, quiet=as_json)
        name, root = ended.experiment, ended.store.root
        if not as_json:
            print_end(ended.labels, ended.summary, root, err=True)
    return told_verdicts(experiment, root, name, as_json=as_json)


def told_verdicts(experiment: Path, root: Path, name: str, *, as_json: bool) -> int:
    """Tell the verdicts on the claims of an experiment file by what its store has; returns the exit code."""
    from oneticket.lab.spec.parsing import read_toml

    rows = tables.rows_of(root, name)
    found = tables.verdicts(root, rows, name)
    _refuse_unknown(read_toml(experiment), found, str(experiment))
    if as_json:
        click.echo(json.dumps([_facts(verdict) for verdict in found], indent=1))
    else:
        from oneticket.report import as_lines
        from oneticket.report.verdicts import RULE

        say_verdicts(as_lines(found, every=True))
        for says in tables.withdrawn(root, name):
            say_verdicts([f"Claimed once, and taken out of the file: {says}"])
        click.echo(RULE)
    say_cautions(root, name)
    return _code(found)


def _refuse_unknown(raw: Mapping[str, Any], found: Sequence[Verdict], where: str) -> None:
    """Refuse claims of the file that its store does not hold yet."""
    from oneticket.errors import InputError

    known = {verdict.question.says for verdict in found}
    for says in _said(raw):
        if says not in known:
            told = f"the claim '{says}' is not in the store yet"
            raise InputError(told, where=where, expected="`oneticket run` or `oneticket verify` first")
    if not found:
        raise InputError("none of its claims can be answered", where=where, expected="`oneticket plan` says why")


def _said(raw: Mapping[str, Any]) -> list[str]:
    """The sentences of the claims of a parsed file."""
    from oneticket.lab.spec.claims import Claim
    from oneticket.lab.spec.parsing import convert

    return [claim.says for claim in convert(raw.get("claim", []), tuple[Claim, ...], "claim")]


def _code(found: Sequence[Verdict]) -> int:
    words = {verdict.word for verdict in found}
    if "contradicted" in words:
        return CONTRADICTED
    return NOT_DECIDED if "not decided" in words else 0


def _facts(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON; differences are fractions."""
    question = verdict.question
    return {
        "experiment": question.experiment,
        "says": question.says,
        "comparison": question.comparison,
        "direction": question.direction,
        "margin": question.margin,
        "verdict": verdict.word,
        "lacks": list(verdict.lacks),
        "late": question.late,
        "places": [
            {
                "where": test.where,
                "n": test.difference.n if test.difference else 0,
                "difference": test.difference.mean if test.difference else None,
                "low": test.difference.interval.low if test.difference and test.difference.interval else None,
                "high": test.difference.interval.high if test.difference and test.difference.interval else None,
                "holm": test.p,
                "outcome": test.outcome,
                "seeds": test.seeds,
            }
            for test in verdict.tests
        ],
    }
