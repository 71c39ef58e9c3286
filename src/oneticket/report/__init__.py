"""The report: figures and tables of one tidy table, in one HTML page that needs no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneticket.report.across import across_tables
from oneticket.report.cells import Table, cost_table, summary_table
from oneticket.report.footprints import footprint_table
from oneticket.report.tables import COLUMNS, CostRow, SummaryRow, costs, summary

if TYPE_CHECKING:
    from oneticket.report.page import write_report

__all__ = [
    "COLUMNS",
    "CostRow",
    "SummaryRow",
    "Table",
    "across_tables",
    "cost_table",
    "costs",
    "footprint_table",
    "summary",
    "summary_table",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: tables on a terminal need none of matplotlib, which takes a second to import.
    if name != "write_report":
        raise AttributeError(f"module 'oneticket.report' has no attribute '{name}'")
    from oneticket.report.page import write_report

    return write_report
