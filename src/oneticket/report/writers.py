"""The tables as files: CSV with every digit, LaTeX for a paper, and Markdown."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from oneticket.report.comparisons import (
    FIELDS,
    ComparisonRow,
    comparison_fields,
    comparison_table,
    reading_of_comparisons,
)
from oneticket.report.formatting import Table, summary_table
from oneticket.report.groups import Group, at
from oneticket.report.tables import COLUMNS, Comparison, Row, SummaryRow
from oneticket.statistics import TransferEfficiency

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "−": r"$-$",
    "—": "---",
    "–": "--",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def results_csv(rows: Iterable[Row]) -> str:
    """The tidy table: one line for each network, numbers with all their digits, empty where a value is unknown."""
    return _csv(COLUMNS, ([row.get(column) for column in COLUMNS] for row in rows))


def summary_csv(rows: Sequence[SummaryRow]) -> str:
    """The summary with all digits, in fractions of 1.

    ``p`` is that of the single test, ``p_holm`` is corrected over all comparisons of a target with a baseline
    (Holm 1979). ``transfer_efficiency`` is empty where it is undecided.
    """
    header = [
        *Group._fields,
        "density",
        "effective_density",
        "n",
        "diverged",
        "mean",
        "standard_deviation",
        "low_95",
        "high_95",
    ]
    for baseline in rows[0].versus if rows else ():
        header += [f"versus_{baseline.slug}_{field}" for field in ("n", "mean", "low_95", "high_95", "p", "p_holm")]
    header += ["transfer_efficiency", "transfer_efficiency_low_95", "transfer_efficiency_high_95", "matching_density"]
    return _csv(header, map(_summary_line, rows))


def comparisons_csv(rows: Sequence[ComparisonRow]) -> str:
    """The comparisons with all digits, differences in fractions of 1; empty where a value is not known."""
    return _csv([*Group._fields, "against", *FIELDS], map(comparison_fields, rows))


def comparisons_latex(rows: Sequence[ComparisonRow], margin: float) -> str:
    """The comparisons as one booktabs table; needs ``\\usepackage{booktabs}`` and nothing else."""
    caption = escape_latex("Paired differences in points with their 95 % intervals. " + reading_of_comparisons(margin))
    return "% needs \\usepackage{booktabs}\n" + _latex_table(comparison_table(rows), caption)


def summary_latex(rows: Sequence[SummaryRow]) -> str:
    """The summary as one booktabs table for each target; needs ``\\usepackage{booktabs}`` and nothing else."""
    tables = [_latex(list(section)) for _, section in groupby(rows, key=lambda row: row.group.section)]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def markdown(table: Table) -> str:
    """A table of text as Markdown, numbers flush right."""
    rule = ["--:" if number else "---" for number in table.numeric]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in (table.header, *table.lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (escaped[0], rule, *escaped[1:]))


def escape_latex(text: str) -> str:
    """``text`` with every character escaped that LaTeX would read as a command."""
    return "".join(_LATEX.get(character, character) for character in text)


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: beside its place, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def _summary_line(row: SummaryRow) -> list[Any]:
    accuracy = row.accuracy
    interval = [accuracy.interval.low, accuracy.interval.high] if accuracy.interval else [None, None]
    return [
        *row.group,
        row.density,
        row.effective_density,
        accuracy.n,
        row.diverged,
        accuracy.mean,
        accuracy.deviation,
        *interval,
        *(field for value in row.versus.values() for field in _comparison_fields(value)),
        *_efficiency_fields(row.efficiency),
        row.matching_density,
    ]


def _efficiency_fields(found: TransferEfficiency | None) -> list[Any]:
    """The share of the own ticket's gain and its interval; empty where it is undecided."""
    if found is None or found.interval is None:
        return [None] * 3
    return [found.value, found.interval.low, found.interval.high]


def _comparison_fields(value: Comparison | None) -> list[Any]:
    if value is None:
        return [None] * 6
    found = value.difference
    interval = [found.interval.low, found.interval.high] if found.interval else [None, None]
    return [found.n, found.mean, *interval, found.p, value.holm]


def _latex(rows: Sequence[SummaryRow]) -> str:
    table, group = summary_table(rows), rows[0].group
    seeds = sorted({row.accuracy.n for row in rows})
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    caption = (
        f"{escape_latex(group.model)} on {escape_latex(at(group.target, group.target_recipe))} "
        f"({escape_latex(group.experiment)}): test accuracy, mean $\\pm$ sample standard deviation over "
        f"$n = {count}$ seeds, with Student's 95\\,\\% interval of the mean; differences are paired by seed, "
        "in percentage points; a star where Holm's correction over all comparisons of this target with one "
        "baseline leaves $p \\le 0.05$."
    )
    return _latex_table(table, caption)


def _latex_table(table: Table, caption: str) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{@{{}}{''.join('r' if number else 'l' for number in table.numeric)}@{{}}}}",
            r"\toprule",
            _latex_line(table.header),
            r"\midrule",
            *map(_latex_line, table.lines),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"
