"""Tickets of a store: the masks and early weights that its winning arms began with, as artefacts to share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oneticket.finding import make_ticket, seen
from oneticket.lab.cells.description import ArmStart
from oneticket.lab.cells.parents import ParentCells
from oneticket.lab.cells.store import Store
from oneticket.ticket import Provenance, Ticket


class StoredTicket(NamedTuple):
    """A ticket, its experiment, its source as ``DATA@RECIPE``, and the density that was asked for."""

    ticket: Ticket
    experiment: str
    source: str
    density_asked: float


def stored_tickets(
    store: Store, rows: Collection[Mapping[str, Any]], cache: Path, folder: Path | None = None
) -> Iterator[StoredTicket]:
    """The tickets behind the ``winning`` rows of a store, each once: of each source and density that of the first seed.

    Parameters
    ----------
    store : Store
        The store.
    rows : collection of mappings
        Its tidy table.
    cache : Path
        The folder of decoded data, which pruning by data needs.
    folder : Path, optional
        The folder whose Python files may be imported; none by default: networks of one's own are then refused.

    Raises
    ------
    InputError
        For a cell that is damaged, and for code that may not be imported.
    """
    parents = ParentCells(store, cache, folder)
    found: set[tuple[str, str, str, float]] = set()
    for row in sorted(rows, key=lambda row: row["seed"]):
        source = f"{row['source']}@{row['source_recipe']}"
        key = (row["experiment"], row["model"], source, row["density_asked"])
        if row["arm"] != "winning" or key in found:
            continue
        found.add(key)
        yield StoredTicket(_ticket(parents, row), row["experiment"], source, row["density_asked"])


def _ticket(parents: ParentCells, row: Mapping[str, Any]) -> Ticket:
    start = parents.description(row["cell"]).start
    assert isinstance(start, ArmStart), "winning is an arm"
    assert start.ticket is not None, "winning has the mask of a ticket"
    of = start.ticket
    dense = parents.description(of.dense)
    environment = parents.store.environment(of.dense)
    images = parents.splits(dense).train
    provenance = Provenance(
        model=dense.network.name,
        model_options=dense.network.options,
        seen=(seen(images, row["source"], dense.recipe, len(images)),),
        round=of.round,
        rounds=of.search.rounds,
        rewind=str(of.search.rewind),
        seed=dense.seed,
        criterion=of.search.criterion,
        allocation=of.search.allocation,
        density_asked=of.density,
        versions={name: environment[name] for name in ("oneticket", "torch", "python") if name in environment},
        notes={"experiment": row["experiment"], "cell": of.previous},
    )
    return make_ticket(parents.masks(of), parents.rewound(of), dense.network.head, provenance)
