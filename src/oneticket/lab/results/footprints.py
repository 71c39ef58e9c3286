"""Footprints: accuracy, bytes and prediction time of the networks of a store; times are measured now."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.lab.cells.description import ArmStart, Description, Network
from oneticket.lab.cells.parents import ParentCells
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks
from oneticket.lab.results.table import TidyRow, tidy
from oneticket.methods import METHODS
from oneticket.methods.base import MethodFacts
from oneticket.methods.binary_inputs import binarise_inputs
from oneticket.methods.footprint import binary_weights, seconds_per_sample, ways
from oneticket.statistics import describe

ARMS = ("dense", "winning")
"""The arms that binary networks are compared with."""

BATCHES = {1: 101, 128: 11}
"""Batch sizes of the predictions, and the number of timed turns for each."""

_PLACE = ("experiment", "model", "target", "target_recipe")
_NETWORK = (*_PLACE, "source", "source_recipe", "arm", "rescale", "density_asked")
COLUMNS = (
    *_NETWORK, "density", "n", "test_accuracy", "test_accuracy_deviation", "bytes", "way",
    *(f"seconds_{size}" for size in BATCHES),
)  # fmt: skip
"""The columns. ``density``, ``test_accuracy`` and ``bytes`` are means over ``n`` seeds, ``test_accuracy_deviation`` is
the sample standard deviation; ``way`` is a key of :func:`oneticket.methods.footprint.ways`, ``seconds_128`` the time
per image if 128 are predicted at once."""


def footprints(
    store: Store,
    *,
    experiment: str | None = None,
    folder: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """A row for each way to run the dense, the ``winning`` and the binary networks of ``store``, target by target.

    Accuracies and bytes come from the cells. Times are those of the first seed with a network, which predicts noise
    with one thread of this machine: the median over turns in which all networks of one target alternate. Trainings that
    diverged left no network; they count in the accuracy, as guessing.

    Parameters
    ----------
    store : Store
        The store with the finished cells.
    experiment : str, optional
        The name of an experiment; all experiments when None.
    folder : Path, optional
        The folder whose Python files may be imported, for the user's own models; none when None.
    clock : Callable[[], float]
        Returns the time in seconds.

    Returns
    -------
    list of dict
        Rows of :data:`COLUMNS`.

    Raises
    ------
    InputError
        For an experiment that the store lacks, and if there is no such network.
    """
    cells = ParentCells(store, Path(), folder)  # no images are looked at
    places: dict[tuple[Any, ...], dict[tuple[Any, ...], list[TidyRow]]] = {}
    for row in tidy(store, experiment=experiment):
        networks = places.setdefault(_of(row, _PLACE), {})
        networks.setdefault(_of(row, _NETWORK), []).append(row)
    with _one_thread():
        found = [line for networks in places.values() for line in _beside(list(networks.values()), cells, clock)]
    if not found:
        raise InputError(
            "there is no finished network to measure",
            where=str(store.root),
            expected=f"one of the arms {', '.join(ARMS)}, or one with a binary method",
        )
    return found


def as_csv(lines: Sequence[dict[str, Any]]) -> str:
    """Comma-separated values with a header; an absent value is empty, numbers are written in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_json(lines: Sequence[dict[str, Any]]) -> str:
    """A JSON list of objects."""
    return json.dumps(list(lines), indent=1, allow_nan=False)


def stored_network(cell: str, cells: ParentCells) -> nn.Module:
    """The final network of a finished cell, ready to predict, with input binarisation if its method uses it."""
    description = cells.description(cell)
    network = cells.build(description.network, description.seed)
    network.load_state_dict(cells.end(cell))
    if _facts(description).inputs == "binary":
        binarise_inputs(network, binary_weights(network, description.network.head))
    return network.eval()


def _beside(
    networks: Sequence[list[TidyRow]], cells: ParentCells, clock: Callable[[], float]
) -> Iterator[dict[str, Any]]:
    """The rows of one target: one for each of its networks and each way to run it."""
    measured: dict[tuple[int, str], nn.Module] = {}
    form: Network | None = None
    for number, seeds in enumerate(networks):
        cell = next((row["cell"] for row in seeds if row["test_loss"] is not None), None)
        if cell is None:
            continue
        description = _description(cell, cells)
        if seeds[0]["arm"] in ARMS or _facts(description).weights == "binary":
            masks = load_masks(cells.store.file(cell, "masks.safetensors"))
            form = description.network
            measured |= {(number, way): net for way, net in ways(stored_network(cell, cells), masks).items()}
    if not measured or form is None:
        return
    taken = {}
    for size, turns in BATCHES.items():
        inputs = form.blank(size)
        if not form.tokens:
            inputs = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
        taken[f"seconds_{size}"] = seconds_per_sample(measured, inputs, repeats=turns, clock=clock)
    for number, way in measured:
        seconds = {column: times[number, way] for column, times in taken.items()}
        line = {**_over_seeds(networks[number], cells.store), "way": way, **seconds}
        yield {column: line[column] for column in COLUMNS}


def _description(cell: str, cells: ParentCells) -> Description:
    try:
        return cells.description(cell)
    except msgspec.ValidationError as error:
        raise InputError(
            f"the cell {cell[:12]}… was written by another version ({error})", expected="a new run of the experiment"
        ) from None


def _over_seeds(rows: Sequence[TidyRow], store: Store) -> dict[str, Any]:
    accuracy = describe(row["test_accuracy"] for row in rows)
    sizes = [store.figures(row["cell"])["bytes"] for row in rows if row["test_loss"] is not None]
    return {
        **{column: rows[0][column] for column in _NETWORK},
        "density": describe(row["density"] for row in rows).mean,
        "n": accuracy.n,
        "test_accuracy": accuracy.mean,
        "test_accuracy_deviation": accuracy.deviation,
        "bytes": describe(sizes).mean,
    }


def _facts(cell: Description) -> MethodFacts:
    """The registered facts of the method that trained ``cell``."""
    return METHODS.entry(cell.start.method).facts if isinstance(cell.start, ArmStart) else MethodFacts()


def _of(row: TidyRow, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[key] for key in keys)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
