"""The report: figures and tables of one tidy table, in one HTML page that works offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneticket.report.comparisons import (
    ComparisonRow,
    comparison_table,
    comparisons,
    reading_of_comparisons,
    tally,
)
from oneticket.report.fairness import fairness
from oneticket.report.footprint_columns import footprint_table
from oneticket.report.formatting import Table, cost_table, summary_table
from oneticket.report.over_images import OverImages, reading_of_images
from oneticket.report.over_targets import READING_OF_TARGETS, OverTargets, over_targets, over_targets_table
from oneticket.report.provenance import Provenance
from oneticket.report.reading import reading
from oneticket.report.spreads import Spread, spread_table, spreads
from oneticket.report.tables import COLUMNS, CostRow, SummaryRow, costs, summary
from oneticket.report.tuning import alike, at_edge, tuning_table
from oneticket.report.verdicts import as_lines, as_markdown
from oneticket.report.wide import wide_tables

if TYPE_CHECKING:
    from oneticket.report.page import write_report

__all__ = [
    "COLUMNS",
    "READING_OF_TARGETS",
    "ComparisonRow",
    "CostRow",
    "OverImages",
    "OverTargets",
    "Provenance",
    "Spread",
    "SummaryRow",
    "Table",
    "alike",
    "as_lines",
    "as_markdown",
    "at_edge",
    "comparison_table",
    "comparisons",
    "cost_table",
    "costs",
    "fairness",
    "footprint_table",
    "over_targets",
    "over_targets_table",
    "reading",
    "reading_of_comparisons",
    "reading_of_images",
    "spread_table",
    "spreads",
    "summary",
    "summary_table",
    "tally",
    "tuning_table",
    "wide_tables",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Loaded at first use: tables on a terminal do not need matplotlib, which takes a second to import.
    if name != "write_report":
        raise AttributeError(f"module 'oneticket.report' has no attribute '{name}'")
    from oneticket.report.page import write_report

    return write_report


def __dir__() -> list[str]:
    return __all__
