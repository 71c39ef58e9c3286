"""Showing values in a notebook: small tables in HTML, with bars; everything escaped, no script, no colour of text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

MOST_ROWS = 40
"""Rows of a table that are shown; of more, how many there are is said."""

_BAR = "#3a8fc8"  # seen on white and on black; text and lines have the colour of the page
_CELL = "padding:0.1em 0.6em;border:none;white-space:nowrap;"
_TABLE = "border-collapse:collapse;color:inherit;font-size:inherit"  # old pages do not pass these on to tables


class Bar(float):
    """A fraction from 0 to 1 that is shown as a bar beside its number."""


Cell = str | int | float


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Cell]], notes: Sequence[str] = ()) -> str:
    """A table with a title above and notes below it.

    Parameters
    ----------
    title : str
        One line.
    header : Sequence[str]
        The names of the columns.
    rows : Sequence of sequences
        Texts, aligned left, and numbers, aligned right; a :class:`Bar` is both a number in % and a bar.
    notes : Sequence[str]
        Lines below the table.

    Returns
    -------
    str
        An HTML element, in which all texts are escaped.
    """
    numeric = [any(not isinstance(row[place], str) for row in rows) for place in range(len(header))]
    head = "".join(_cell("th", name, right) for name, right in zip(header, numeric, strict=True))
    body = "".join(
        f"<tr>{''.join(_cell('td', value, right) for value, right in zip(row, numeric, strict=True))}</tr>"
        for row in rows[:MOST_ROWS]
    )
    left = [f"… and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else []
    below = "".join(f"<div>{escape(note)}</div>" for note in (*left, *notes))
    return (
        f'<div style="overflow-x:auto"><div><b>{escape(title)}</b></div><table style="{_TABLE}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"
    )


def layers(title: str, rows: Sequence[tuple[str, int, int]], notes: Sequence[str] = ()) -> str:
    """The table of name, kept and all weights of each layer, with a bar of its density."""
    shown = [(name, kept, total, Bar(kept / total if total else 1.0)) for name, kept, total in rows]
    return table(title, ("tensor", "kept", "weights", "density"), shown, notes)


def _cell(kind: str, value: Cell, right: bool) -> str:
    style = f"{_CELL}text-align:{'right' if right else 'left'}"
    return f'<{kind} style="{style}">{_text(value)}</{kind}>'


def _text(value: Cell) -> str:
    if isinstance(value, Bar):
        width = 100 * min(max(value, 0.0), 1.0)
        frame = "display:inline-block;width:8em;height:0.7em;border:1px solid currentColor"
        return (
            f'<span aria-hidden="true" style="{frame}">'
            f'<span style="display:block;width:{width:.1f}%;height:100%;background:{_BAR}"></span></span> '
            f'<span style="display:inline-block;width:4.5em">{100 * value:.3g} %</span>'
        )
    return escape(f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else f"{value:.4g}")
