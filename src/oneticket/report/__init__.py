"""The report: figures and tables of one tidy table, in one HTML page that needs no network."""

from __future__ import annotations

from oneticket.report.cells import Table, cost_table, summary_table
from oneticket.report.page import write_report
from oneticket.report.tables import COLUMNS, CostRow, SummaryRow, costs, summary

__all__ = [
    "COLUMNS",
    "CostRow",
    "SummaryRow",
    "Table",
    "cost_table",
    "costs",
    "summary",
    "summary_table",
    "write_report",
]
