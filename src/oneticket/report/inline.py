"""A figure as an element of a page: its colours are those of the page, its marks are known by their rows."""

from __future__ import annotations

import re

from markupsafe import Markup

from oneticket.report.drawing import FAINT, INK, PAPER, SOFT

# Colours that the page replaces by its own, so that figures follow a dark screen.
_THEMED = {INK: "var(--ink)", FAINT: "var(--rule)", PAPER: "var(--paper)", SOFT: "var(--soft)"}


def inline(svg: bytes, anchor: str, label: str, kind: str) -> Markup:
    """The drawing as an ``svg`` element of the class ``kind``; its ids are made unique by ``anchor``.

    Groups of one line get ``data-line``, marks over points ``data-row``, with the anchors of :mod:`.anchors`.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1, flags=re.DOTALL)
    text = _without_links(text, 'data-row="{}"')
    text = re.sub(r' id="(line-[0-9a-f]+)_\d+"', r' data-line="\1"', text)
    text = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", text)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{anchor}-", text)
    text = re.sub(r"(\.\d\d)\d+", r"\1", text)  # a hundredth of a point is finer than any screen
    text = text.replace("font-family: 'DejaVu Sans', sans-serif; ", "").replace("stroke-linejoin: round; ", "")
    text = re.sub(r">\s+<", "><", re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL))
    for colour, variable in _THEMED.items():
        text = text.replace(colour, variable)
    width = float(text.split('"', 2)[1].split()[2])
    opening = Markup('<svg class="{}" role="img" aria-label="{}" style="max-width: {:.0f}px" ').format(
        kind, label, width * (4 / 3) * 1.25
    )
    return opening + Markup(text.removeprefix("<svg ").strip())


def standalone(svg: bytes) -> bytes:
    """The drawing as a file of its own: its points lead nowhere."""
    return _without_links(svg.decode(), "").encode()


def _without_links(text: str, attribute: str) -> str:
    """Links as plain groups, with this attribute for the row they lead to."""
    opening = f"<g {attribute}>" if attribute else "<g>"
    text = re.sub(r'<a xlink:href="#(row-[0-9a-f]+)"[^>]*>', lambda found: opening.format(found[1]), text)
    return text.replace("</a>", "</g>")
