"""Anchors: the names by which a page finds the section, the row and the line that belong together."""

from __future__ import annotations

import hashlib
from typing import Any

from oneticket.report.groups import Group, Section


def of_section(section: Section) -> str:
    """The anchor of the section of a target."""
    return f"target-{_digest(section)}"


def of_row(group: Group) -> str:
    """The anchor of the row of a group."""
    return f"row-{_digest(group)}"


def of_line(group: Group) -> str:
    """What the points of one line share: everything but the density."""
    return f"line-{_digest(group._replace(density_asked=None))}"


def of_cell(cell: str) -> str:
    """The anchor of a network in the tidy table."""
    return f"cell-{cell[:16]}"


def _digest(value: tuple[Any, ...]) -> str:
    return hashlib.sha256(repr(tuple(value)).encode()).hexdigest()[:8]
