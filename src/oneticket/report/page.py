"""The page: one HTML file with every figure and table, and the same as separate files beside it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from oneticket.report import anchors
from oneticket.report.baselines import USUAL
from oneticket.report.comparisons import comparisons
from oneticket.report.drawings import Drawings, Shown
from oneticket.report.fairness import fairness
from oneticket.report.findings import findings, limits, overall
from oneticket.report.formatting import Table, cost_table, density, summary_table
from oneticket.report.groups import Group, Section, at
from oneticket.report.over_images import Correct
from oneticket.report.palette import arm_colour, arm_order
from oneticket.report.provenance import Provenance
from oneticket.report.reading import reading
from oneticket.report.tables import COLUMNS, Row, SummaryRow, checked, costs, group_of, summary
from oneticket.report.tuning import alike, at_edge, tuning_table
from oneticket.report.verdicts import RULE, claims_tally, told
from oneticket.report.writers import comparisons_csv, results_csv, summary_csv, summary_latex, write
from oneticket.verdicts import Verdict
from oneticket.version import __version__

MOST_NETWORKS = 2_000
"""Networks that the page lists one by one; of a larger table it names the file that has them."""
MOST_COMPUTED = 4
"""Targets whose accuracy is drawn against compute; `oneticket figure` draws the others."""
_TEXT_COLUMNS = frozenset(
    (
        "experiment",
        "model",
        "source",
        "source_recipe",
        "target",
        "target_recipe",
        "arm",
        "rescale",
        "cell",
        "budget",
        "criterion",
        "allocation",
        "k",
    )
)


@dataclass(frozen=True)
class _Line:
    """What a line of a section's table is filtered and found by."""

    anchor: str
    line: str
    group: Group
    cells: str
    breaks: bool


@dataclass(frozen=True)
class _SectionView:
    """One target as the template shows it."""

    anchor: str
    title: str
    figures: Sequence[Shown]
    table: Table
    lines: Sequence[_Line]


def write_report(
    rows: Iterable[Row],
    out: Path,
    *,
    title: str | None = None,
    against: Sequence[str] = USUAL,
    cautions: Sequence[str] = (),
    provenance: Provenance | None = None,
    verdicts: Sequence[Verdict] = (),
    withdrawn: Sequence[str] = (),
    correct: Correct | None = None,
) -> Path:
    """Write ``report.html``, ``figures/*.svg|pdf`` and ``tables/{results,summary,comparisons}.csv``,
    ``tables/summary.tex``.

    The same rows, in any order, give the same bytes.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table: a mapping with the columns ``COLUMNS`` for each trained network.
    out : Path
        The folder to write to; made if it does not exist.
    title : str, optional
        The title of the page; by default the names of the experiments.
    against : Sequence[str], optional
        What the networks are compared with, as :meth:`Baseline.parse` reads it.
    cautions : Sequence[str], optional
        Warnings about these networks, shown at the top of the page and nowhere else.
    provenance : Provenance, optional
        What the table does not hold: versions, machines, data, recipes, commands.
    verdicts : Sequence[Verdict], optional
        The answers to the claims of the experiments, shown before the first figure.
    withdrawn : Sequence[str], optional
        Claims that were made once and are no longer in the file.
    correct : function, optional
        Which test images the network of a cell classifies rightly, for ``comparisons.csv``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        When the table is empty, lacks a column, or holds two networks for one place.
    """
    table = checked(rows)
    short = summary(table, against)
    drawings = Drawings(out / "figures", table, short)
    cells = _cells(table if len(table) <= MOST_NETWORKS else ())
    sections: list[_SectionView] = []
    spent: list[Shown] = []
    for section, group in groupby(short, key=lambda row: row.group.section):
        kept = list(group)
        name, heading = _file_name(section, short), _section_title(section, short)
        shown = drawings.of_section(kept, name, heading)
        if len(spent) < MOST_COMPUTED:
            spent += drawings.of_costs(kept, name, heading)
        sections.append(_view(section, kept, shown, cells, short))
    write(out / "tables" / "results.csv", results_csv(table))
    write(out / "tables" / "summary.csv", summary_csv(short))
    write(out / "tables" / "comparisons.csv", comparisons_csv(comparisons(table, against, correct=correct)))
    write(out / "tables" / "summary.tex", summary_latex(short))
    page = out / "report.html"
    told_first = {
        "verdicts": told(verdicts),
        "withdrawn": withdrawn,
        "rule": RULE,
        "tally": claims_tally(verdicts),
        "cautions": cautions,
    }
    drawn = (drawings.of_everything(), spent)
    write(page, _page(title or _title(table), table, short, sections, drawn, told_first, provenance))
    return page


def _page(
    title: str,
    table: Sequence[Row],
    short: Sequence[SummaryRow],
    sections: Sequence[_SectionView],
    figures: tuple[Sequence[Shown], Sequence[Shown]],
    told_first: Mapping[str, Any],
    provenance: Provenance | None,
) -> str:
    environment = Environment(
        loader=FunctionLoader(lambda name: files(__package__).joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["colour"] = arm_colour
    return environment.get_template("page.html.j2").render(
        title=title,
        facts=_facts(table, short),
        fairness=[*fairness(table), *at_edge(table), *alike(table)],
        reading=reading(short),
        tuning=tuning_table(table),
        untested=sum(row["test_accuracy"] is None for row in table),
        diverged=sum(row.diverged for row in short),
        findings=[(finding, _section_title(finding.section, short)) for finding in findings(short)],
        overall=overall(short),
        first=figures[0],
        spent=figures[1],
        section_anchor=anchors.of_section,
        limits=limits(short),
        sections=sections,
        filters=_filters(short),
        costs=cost_table(costs(table)),
        provenance=provenance,
        header=COLUMNS,
        text_columns=_TEXT_COLUMNS,
        lines=[[_field(column, row.get(column)) for column in COLUMNS] for row in table[:MOST_NETWORKS]],
        all_listed=len(table) <= MOST_NETWORKS,
        version=__version__,
        **told_first,
    )


def _view(
    section: Section,
    rows: Sequence[SummaryRow],
    figures: Sequence[Shown],
    cells: Mapping[Group, Sequence[str]],
    everything: Sequence[SummaryRow],
) -> _SectionView:
    lines = [
        _Line(
            anchors.of_row(row.group),
            anchors.of_line(row.group),
            row.group,
            " ".join(cell[:12] for cell in cells.get(row.group, ())),
            breaks=place > 0 and _block(row) != _block(rows[place - 1]),
        )
        for place, row in enumerate(rows)
    ]
    title = _section_title(section, everything)
    return _SectionView(anchors.of_section(section), title, figures, summary_table(rows), lines)


def _cells(table: Iterable[Row]) -> Mapping[Group, Sequence[str]]:
    found: dict[Group, list[str]] = defaultdict(list)
    for row in table:
        found[group_of(row)].append(str(row["cell"]))
    return found


def _filters(rows: Sequence[SummaryRow]) -> Mapping[str, Sequence[str]]:
    """What the rows can be filtered by: the words of which there are several."""
    words = {
        "target": list(dict.fromkeys(at(row.group.target, row.group.target_recipe) for row in rows)),
        "source": sorted({at(row.group.source, row.group.source_recipe) for row in rows if row.group.source}),
        "arm": sorted({row.group.arm for row in rows}, key=arm_order),
        "rescale": sorted({row.group.rescale for row in rows}),
    }
    return {name: values for name, values in words.items() if len(values) > 1}


def _block(row: SummaryRow) -> tuple[Any, ...]:
    """What neighbouring rows of the table share; a rule separates the blocks."""
    return (row.group.source, row.group.source_recipe, row.group.density_asked)


def _facts(table: Sequence[Row], short: Sequence[SummaryRow]) -> Mapping[str, Any]:
    """What was run, for the first paragraph of the page."""
    tickets = [row for row in table if row["arm"] not in ("dense", "own")]
    densities = {row["density"] for row in table if row["arm"] != "dense"} - {None}
    return {
        "networks": len({row["cell"] for row in table}),
        "experiments": _distinct(table, "experiment"),
        "models": _distinct(table, "model"),
        "targets": sorted({at(row["target"], row["target_recipe"]) for row in table}),
        "sources": sorted({at(row["source"], row["source_recipe"]) for row in tickets}),
        "arms": sorted(_distinct(table, "arm"), key=arm_order),
        "densities": list(dict.fromkeys(map(density, sorted(densities, reverse=True)))),
        "seeds": len({row["seed"] for row in table}),
        "against": [baseline.phrase for baseline in short[0].versus] if short else [],
        "fewest": min((row.accuracy.n for row in short), default=0),
    }


def _distinct(table: Sequence[Row], column: str) -> list[str]:
    return sorted({row[column] for row in table})


def _title(table: Sequence[Row]) -> str:
    return ", ".join(_distinct(table, "experiment"))


def _section_title(section: Section, everything: Sequence[SummaryRow]) -> str:
    """The target, with its model and experiment where there are several."""
    title = at(section.target, section.target_recipe)
    if len({row.group.model for row in everything}) > 1:
        title += f", {section.model}"
    if len({row.group.experiment for row in everything}) > 1:
        title += f" ({section.experiment})"
    return title


def _file_name(section: Section, everything: Sequence[SummaryRow]) -> str:
    """A file name from the section's words, with a digest where two sections would share it or it would be empty."""

    def plain(names: Section) -> str:
        several = len({row.group.experiment for row in everything}) > 1
        words = "-".join(filter(None, names if several else names[1:]))
        return re.sub(r"[^A-Za-z0-9_-]+", "-", words).strip("-")[:80]

    name = plain(section)
    sections = {row.group.section for row in everything}
    meets = sum(plain(other).lower() == name.lower() for other in sections) > 1
    if meets or not name:
        return f"{name}-{_digest(section)}".lstrip("-")
    return name


def _digest(section: Section) -> str:
    return hashlib.sha256(repr(tuple(section)).encode()).hexdigest()[:8]


def _field(column: str, value: Any) -> str:
    """A value of the tidy table as the page shows it; the CSV has every digit."""
    if value is None:
        return ""
    if column == "cell":
        return str(value)[:12]
    return f"{value:.5g}" if isinstance(value, float) else str(value)
