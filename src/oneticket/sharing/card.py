"""The card of a ticket: a README made of what the ticket says of itself, and of what its user adds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from oneticket.errors import InputError
from oneticket.sharing.index import Entry
from oneticket.ticket import Seen, Ticket

_UNKNOWN = "unknown"
_FRANKLE = """@inproceedings{frankle2019lottery,
  title     = {The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks},
  author    = {Jonathan Frankle and Michael Carbin},
  booktitle = {International Conference on Learning Representations},
  year      = {2019}
}"""


class CardFacts(NamedTuple):
    """What a card says beside what the ticket says: its entry, results in Markdown, BibTeX, and where it lies."""

    entry: Entry
    results: str
    citation: str
    place: str


def check_license(name: str) -> str:
    """``name`` if it can be an SPDX identifier, such as ``cc-by-4.0``, or ""; InputError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,99}|", name):
        raise InputError(f"'{name}' is not a valid identifier", where="--license", expected="one such as cc-by-4.0")
    return name


def card(ticket: Ticket, facts: CardFacts) -> str:
    """The README of a shared ticket, in Markdown with the front matter of the Hugging Face hub.

    Words of the ticket's provenance, which can come from anybody, are shown as text: no HTML, no table breaks.
    """
    entry = facts.entry
    front = ["library_name: oneticket", "tags:", "- lottery-ticket", "- pruning", "- sparsity"]
    front += [f"license: {check_license(entry.license).lower()}"] if entry.license else []
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {_text(entry.name)}: a ticket of {_text(ticket.provenance.model) or 'a network'}",
        f"A mask that keeps {entry.kept:,} of {entry.total:,} weights ({100 * entry.density:.3g} %), and the early "
        "values of these weights: a sparse network to train, not a trained one.",
        "## How it was found\n\n" + _found(ticket),
        "## What it has seen\n\n" + _seen(ticket.provenance.seen),
        "## What it reached\n\n" + (facts.results.strip() or "Its pusher gave no results."),
        "## Where its weights are\n\n" + _layers(ticket),
        "## Using it\n\n" + _use(facts),
        "## Licence\n\n" + (f"{entry.license}" if entry.license else "Its pusher stated no licence."),
        "## Citation\n\n```bibtex\n" + (facts.citation.strip().replace("```", "'''") or _FRANKLE) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _found(ticket: Ticket) -> str:
    about = ticket.provenance
    of = f" of {about.rounds}" if about.rounds is not None else ""
    rows = {
        "network": about.model,
        "its options": _pairs(about.model_options),
        "pruning round": f"{about.round}{of}" if about.round is not None else "",
        "rewound to": about.rewind,
        "criterion": about.criterion,
        "allocation": about.allocation,
        "density": f"{ticket.density:.6g}" + (f" (asked {about.density_asked:.6g})" if about.density_asked else ""),
        "seed": str(about.seed) if about.seed is not None else "",
        "inputs": about.inputs,
        "head": ticket.head or "none",
        "versions": _pairs(about.versions),
        "notes": _pairs(about.notes),
    }
    return _table(("", ""), [(key, value or _UNKNOWN) for key, value in rows.items() if value or key != "notes"])


def _seen(seen: Sequence[Seen]) -> str:
    if not seen:
        return "Unknown: the ticket does not say. Test data may be among it."
    header = ("data", "split", "samples", "classes", "one input", "recipe", "fingerprint")
    rows = []
    for each in seen:
        shape = " × ".join(map(str, each.input_shape or ()))
        of = (_number(each.samples), _number(each.classes), shape)
        rows.append((each.name, each.split, *of, _pairs(each.recipe), each.fingerprint[:16]))
    return _table(header, [tuple(cell or _UNKNOWN for cell in row) for row in rows])


def _layers(ticket: Ticket) -> str:
    rows = [(row.name, f"{row.kept:,}", f"{row.total:,}", f"{row.density:.4f}") for row in ticket.masks.table()]
    return _table(("layer", "kept", "of", "density"), rows)


def _use(facts: CardFacts) -> str:
    entry = facts.entry
    file = entry.file.rpartition("/")[2]
    name = f" --name {entry.name}" if "/" in entry.file else ""
    return f"""```bash
oneticket ticket pull {_text(facts.place)}{name} --to {entry.name}.safetensors --sha256 {entry.sha256}
oneticket ticket verify {entry.name}.safetensors    # sha256 {entry.checksum}
```

```python
import oneticket as ot

ticket = ot.Ticket.load("{entry.name}.safetensors")
ticket.put_into(model)              # a network with these layers
with ticket.kept(optimizer):        # masked weights stay 0.0
    ...                             # your training loop
```

Without oneticket: `echo "{entry.sha256}  {file}" | sha256sum -c`; the file is safetensors, and nothing in it is run."""


def _pairs(values: Mapping[str, Any]) -> str:
    shown = {key: value for key, value in values.items() if value not in (None, "", {}, [])}
    return ", ".join(f"{key} = {value if isinstance(value, str) else _json(value)}" for key, value in shown.items())


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_text, row)) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _text(words: str) -> str:
    """``words`` on one line, with what Markdown or HTML would understand escaped."""
    plain = "".join(letter if letter.isprintable() else " " for letter in words)
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*\[\]!])", r"\\\1", plain)
