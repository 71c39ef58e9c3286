"""The page: one HTML file with every figure and table, and the same as separate files beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from oneticket.report.baselines import USUAL
from oneticket.report.fairness import fairness
from oneticket.report.figure_by_arm import draw_by_arm, has_one_density
from oneticket.report.figures import FAINT, INK, PAPER, draw, render
from oneticket.report.formatting import Table, cost_table, density, percent, summary_table
from oneticket.report.groups import Section, at
from oneticket.report.palette import arm_colour, arm_order, source_styles
from oneticket.report.tables import COLUMNS, Row, SummaryRow, checked, costs, summary
from oneticket.report.tuning import alike, at_edge, tuning_table
from oneticket.report.writers import results_csv, summary_csv, summary_latex, write
from oneticket.version import __version__

# Colours that the page replaces by its own, so that figures follow a dark screen.
_THEMED = {INK: "var(--ink)", FAINT: "var(--rule)", PAPER: "var(--paper)"}
_TEXT_COLUMNS = frozenset(
    ("experiment", "model", "source", "source_recipe", "target", "target_recipe", "arm", "rescale", "cell", "budget")
)


@dataclass(frozen=True)
class _SectionView:
    """One target as the template shows it."""

    anchor: str
    title: str
    figure: Markup
    name: str
    dense: str | None
    by_arm: bool
    table: Table
    breaks: frozenset[int]


def write_report(
    rows: Iterable[Row],
    out: Path,
    *,
    title: str | None = None,
    against: Sequence[str] = USUAL,
    cautions: Sequence[str] = (),
) -> Path:
    """Write ``report.html``, ``figures/*.svg|pdf`` and ``tables/{results,summary}.csv``, ``tables/summary.tex``.

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
    styles = source_styles(
        at(row.group.source, row.group.source_recipe) for row in short if row.group.arm not in ("dense", "own")
    )
    sections = []
    for section, group in groupby(short, key=lambda row: row.group.section):
        kept = list(group)
        figure, name = draw_by_arm(kept) if has_one_density(kept) else draw(kept, styles), _file_name(section, short)
        svg = render(figure, "svg")
        write(out / "figures" / f"{name}.svg", svg)
        write(out / "figures" / f"{name}.pdf", render(figure, "pdf"))
        sections.append(_view(section, name, kept, svg, short))
    write(out / "tables" / "results.csv", results_csv(table))
    write(out / "tables" / "summary.csv", summary_csv(short))
    write(out / "tables" / "summary.tex", summary_latex(short))
    page = out / "report.html"
    write(page, _page(title or _title(table), table, short, sections, cautions))
    return page


def _page(
    title: str,
    table: Sequence[Row],
    short: Sequence[SummaryRow],
    sections: Sequence[_SectionView],
    cautions: Sequence[str],
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
        cautions=cautions,
        facts=_facts(table, short),
        fairness=[*fairness(table), *at_edge(table), *alike(table)],
        tuning=tuning_table(table),
        untested=sum(row["test_accuracy"] is None for row in table),
        diverged=sum(row.diverged for row in short),
        sections=sections,
        costs=cost_table(costs(table)),
        header=COLUMNS,
        text_columns=_TEXT_COLUMNS,
        lines=[[_field(column, row[column]) for column in COLUMNS] for row in table],
        version=__version__,
    )


def _view(
    section: Section, name: str, rows: Sequence[SummaryRow], svg: bytes, everything: Sequence[SummaryRow]
) -> _SectionView:
    dense = next((row for row in rows if row.group.arm == "dense"), None)
    anchor = f"target-{_digest(section)}"
    return _SectionView(
        anchor=anchor,
        title=_section_title(section, everything),
        figure=_inline(svg, anchor, f"Test accuracy on {at(section.target, section.target_recipe)}"),
        name=name,
        dense=percent(dense.accuracy.mean) if dense else None,
        by_arm=has_one_density(rows),
        table=summary_table(rows),
        breaks=frozenset(place for place in range(1, len(rows)) if _block(rows[place]) != _block(rows[place - 1])),
    )


def _block(row: SummaryRow) -> tuple[Any, ...]:
    """What neighbouring rows of the table share; a rule separates the blocks."""
    return (row.group.source, row.group.source_recipe, row.group.density_asked)


def _inline(svg: bytes, anchor: str, label: str) -> Markup:
    """The drawing as an element of the page: without prolog and name spaces, its ids made unique by ``anchor``."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1, flags=re.DOTALL)
    text = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", text)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{anchor}-", text)
    for colour, variable in _THEMED.items():
        text = text.replace(colour, variable)
    width = float(text.split('"', 2)[1].split()[2])
    opening = Markup('<svg role="img" aria-label="{}" style="max-width: {:.0f}px" ').format(label, width * 4 / 3)
    return opening + Markup(text.removeprefix("<svg ").strip())


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
