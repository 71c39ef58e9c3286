"""Cost: the cost of each trained network and of the search behind it; shared trainings count once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from oneticket.errors import InputError
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.rows import RowKey
from oneticket.lab.results.lineage import replicate, trials
from oneticket.lab.results.table import best_settings

KNOWN = (*RowKey.__struct_fields__, "round", "seed", "lr", "cell")
MEASURES = ("samples", "train_flops", "masked_flops", "seconds", "bytes")
COLUMNS = (
    *KNOWN,
    *MEASURES,
    *(f"search_{what}" for what in ("trainings", *MEASURES)),
    *(f"shared_{what}" for what in ("trainings", *MEASURES)),
)
"""The columns of the table of costs. ``samples`` … ``bytes`` belong to the network's own training; ``search_…`` to all
other trainings that it needs; ``shared_…`` to the part of the search that other networks of the table need, too."""

OWN = "own"
"""The arm that the others are compared with: one ticket for each target."""

_GRID = ("experiment", "model", "target", "target_recipe", "rescale", "density_asked", "seed")
_WEIGHED = ("masked_flops", "samples", "seconds")


class Bill(msgspec.Struct, frozen=True):
    """The total cost of some trainings.

    Parameters
    ----------
    trainings : their number.
    samples : samples that went through a forward and a backward pass.
    train_flops, masked_flops : floating-point operations of these passes, dense and counting kept weights only.
    seconds : of one worker.
    bytes : needed to store the trained networks.
    """

    trainings: int
    samples: int
    train_flops: int
    masked_flops: int
    seconds: float
    bytes: int


class Totals(msgspec.Struct, frozen=True):
    """The sums of the table of costs. The first three parts are disjoint and add up to ``everything``.

    Parameters
    ----------
    networks : the trainings that fill a row.
    own_searches, shared_searches : the other trainings, which serve one network or several.
    everything : all trainings, each counted once.
    unshared : the cost if every network had its own search and nothing were shared.
    """

    networks: Bill
    own_searches: Bill
    shared_searches: Bill
    everything: Bill
    unshared: Bill


class BreakEven(RowKey, frozen=True):
    """The number of targets from which one shared search is cheaper than one search per target, by three measures.

    ``arm`` and ``own`` are compared on one target, over ``seeds`` replicates. For n targets, ``arm`` costs the parents
    that ``own`` does not share once, plus n times the rest; ``own`` costs n times all of its trainings. None if sharing
    never pays.
    """

    seeds: int
    targets_by_masked_flops: int | None
    targets_by_samples: int | None
    targets_by_seconds: int | None


class CostReport(msgspec.Struct, frozen=True):
    """A row (a dict of :data:`COLUMNS`) for each trained network, in the order of the table; sums; break-even."""

    rows: list[dict[str, Any]]
    totals: Totals
    break_even: list[BreakEven]


def cost_report(store: Store, *, experiment: str | None = None) -> CostReport:
    """The cost of the finished networks in a store.

    Where an arm was tried with several settings, the row belongs to the one chosen by validation; the trainings of its
    replicate with the others belong to its search. Evaluations are not counted, nor the batches that a
    criterion or a control uses before training; operations leave out the heads and decoders that a pre-training
    discards. Seconds add up over resumptions: what was lost with a killed process is
    not in them, what its checkpoint kept is.

    Parameters
    ----------
    store : Store
        The store with the finished cells.
    experiment : str, optional
        The name of an experiment; all experiments when None.

    Returns
    -------
    CostReport
        A row for each network, the sums, and the break-even points.

    Raises
    ------
    InputError
        For an experiment that the store lacks, and for cells that are damaged or missing.
    """
    records = _Records(store)
    networks = list(_networks(store, records, experiment))
    bundles: dict[str, frozenset[str]] = {}
    for network in networks:
        bundles[network.cell] = bundles.get(network.cell, frozenset()) | network.bundle
    uses = Counter(cell for bundle in bundles.values() for cell in bundle)
    rows = [_row(network, uses, records) for network in networks]
    return CostReport(rows, _totals(bundles, uses, records), list(_break_even(networks, records)))


# -- networks and their parents -----------------------------------------------------------------------------------
class _Network(msgspec.Struct, frozen=True):
    """A row: its cell, the trials with other settings, and the ancestors of all of them."""

    known: Mapping[str, Any]
    cell: str
    trials: frozenset[str]
    ancestors: frozenset[str]

    @property
    def search(self) -> frozenset[str]:
        return (self.trials | self.ancestors) - {self.cell}

    @property
    def bundle(self) -> frozenset[str]:
        return self.search | {self.cell}


class _Record(msgspec.Struct, frozen=True):
    """The part of a finished cell that its cost needs: its parents, its cost by measure, and its accuracy."""

    parents: tuple[str, ...]
    costs: dict[str, float]
    val_accuracy: float | None


class _Records:
    """The records of a store's cells, each read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.record: Callable[[str], _Record] = cache(self._read)

    def _read(self, cell: str) -> _Record:
        if not self._store.has(cell):
            raise InputError(
                f"the cell {cell[:12]}… is missing, and other cells build on it",
                where=str(self._store.root),
                expected="a new run of the experiment",
            )
        figures, parents = self._store.account(cell)
        costs = {measure: figures.get(measure) or 0 for measure in MEASURES}
        return _Record(parents, costs, figures.get("val_accuracy"))

    def ancestors(self, cells: Iterable[str]) -> frozenset[str]:
        """The parents of ``cells``, their parents, and so on."""
        found: set[str] = set()
        ahead = list(cells)
        while ahead:
            new = set(self.record(ahead.pop()).parents) - found
            found |= new
            ahead += new
        return frozenset(found)

    def bill(self, cells: Iterable[str]) -> Bill:
        """The total cost of ``cells``."""
        costs = [self.record(cell).costs for cell in cells]
        # An exact sum, so that the order of the trainings does not matter.
        sums: dict[str, Any] = {what: sum(cost[what] for cost in costs) for what in MEASURES}
        return Bill(trainings=len(costs), **sums | {"seconds": math.fsum(cost["seconds"] for cost in costs)})


def _networks(store: Store, records: _Records, experiment: str | None) -> Iterator[_Network]:
    known = [
        dict(zip(content["columns"], values, strict=True))
        for content in store.experiments(experiment)
        for values in content["rows"]
    ]
    finished = store.present({row["cell"]: None for row in known})
    rows = [
        {**row, "val_accuracy": records.record(row["cell"]).val_accuracy} for row in known if row["cell"] in finished
    ]
    tried = trials(rows)
    for known_row in best_settings(rows):
        cells = tried[replicate(known_row)]
        yield _Network(known_row, known_row["cell"], cells - {known_row["cell"]}, records.ancestors(cells))


# -- rows and sums ------------------------------------------------------------------------------------------------
def _row(network: _Network, uses: Mapping[str, int], records: _Records) -> dict[str, Any]:
    parts = {
        "": records.bill([network.cell]),
        "search_": records.bill(network.search),
        "shared_": records.bill(cell for cell in network.search if uses[cell] > 1),
    }
    costs = {
        f"{part}{what}": value for part, bill in parts.items() for what, value in msgspec.to_builtins(bill).items()
    }
    return {column: costs[column] if column in costs else network.known.get(column) for column in COLUMNS}


def _totals(bundles: Mapping[str, frozenset[str]], uses: Mapping[str, int], records: _Records) -> Totals:
    searches = [cell for cell in uses if cell not in bundles]
    each = [records.bill(bundle) for bundle in bundles.values()]
    return Totals(
        networks=records.bill(bundles),
        own_searches=records.bill(cell for cell in searches if uses[cell] == 1),
        shared_searches=records.bill(cell for cell in searches if uses[cell] > 1),
        everything=records.bill(uses),
        unshared=_sum(each),
    )


def _sum(bills: Sequence[Bill]) -> Bill:
    def total(what: str) -> Any:
        return sum(getattr(bill, what) for bill in bills)

    return Bill(*(total(field) for field in Bill.__struct_fields__))


# -- when sharing pays --------------------------------------------------------------------------------------------
def _break_even(networks: Sequence[_Network], records: _Records) -> Iterator[BreakEven]:
    own = {_of(network.known, _GRID): network for network in networks if network.known.get("arm") == OWN}
    pairs: dict[RowKey, list[tuple[Bill, Bill, Bill]]] = {}
    for network in networks:
        rival = own.get(_of(network.known, _GRID))
        shared = network.ancestors - rival.bundle if rival is not None else frozenset()
        if rival is None or not shared:
            continue  # another target could share nothing
        costs = records.bill(shared), records.bill(network.bundle - shared), records.bill(rival.bundle)
        pairs.setdefault(RowKey.of(network.known), []).append(costs)
    for key, replicates in pairs.items():
        bills = [_sum(part) for part in zip(*replicates, strict=True)]  # once, for each target, each for itself
        flops, samples, seconds = (_targets(*(getattr(bill, what) for bill in bills)) for what in _WEIGHED)
        yield BreakEven(
            **msgspec.structs.asdict(key),
            seeds=len(replicates),
            targets_by_masked_flops=flops,
            targets_by_samples=samples,
            targets_by_seconds=seconds,
        )


def _targets(once: float, each: float, alone: float) -> int | None:
    """The smallest n with once + n·each < n·alone."""
    return int(once // (alone - each)) + 1 if alone > each else None


def _of(row: Mapping[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in keys)
