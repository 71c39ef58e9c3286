"""What a tracker is given of a cell, and the trackers by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from oneticket.errors import InputError, unknown
from oneticket.lab.cells.store import Store

TRACKERS = {
    "tensorboard": ("tensorboard", "oneticket.tracking.tensorboard", "TensorBoard"),
    "mlflow": ("mlflow", "oneticket.tracking.mlflow", "MLflow"),
    "wandb": ("wandb", "oneticket.tracking.wandb", "WandB"),
    "trackio": ("trackio", "oneticket.tracking.trackio", "Trackio"),
}
"""Name → the library that must be there, the module that imports it, and the class in it."""

_CURVES = {"train_loss": "train/loss", "val_accuracy": "validation/accuracy", "val_loss": "validation/loss", "lr": "lr"}
_RESULTS = {
    "test_accuracy": "test/accuracy", "test_loss": "test/loss", "density": "density",
    "effective_density": "effective_density", "dead_units": "dead_units",
    "best_val_accuracy": "validation/best_accuracy",
}  # fmt: skip


class TrackedCell(msgspec.Struct, frozen=True, kw_only=True):
    """A finished cell: its name, a label for people, what it is, its curves (name → step, value), and its results.

    Accuracies and densities are fractions, losses nats; ``step`` is the last one. ``diverged`` says why its training
    could not finish, or is "".
    """

    cell: str
    label: str
    about: dict[str, str | int | float]
    curves: dict[str, list[tuple[int, float]]]
    results: dict[str, float]
    step: int
    diverged: str = ""


class Tracker(Protocol):
    """Writes cells of one experiment for another program; each method may raise anything."""

    def begin(self, experiment: str) -> None:
        """An experiment begins; called once, before the others and in the same thread."""
        ...

    def has(self, cell: str) -> bool:
        """Whether the cell was written completely, by this or an earlier run."""
        ...

    def write(self, cell: TrackedCell) -> None:
        """Write a cell; what an interrupted run has written of it is replaced."""
        ...

    def close(self) -> None:
        """Nothing more will be written."""
        ...


def open_trackers(names: Sequence[str], place: str | None = None) -> list[Tracker]:
    """The trackers of these names; their libraries are looked for, and imported when they are first used.

    Parameters
    ----------
    names : Sequence[str]
        ``tensorboard``, ``mlflow``, ``wandb``, ``trackio``.
    place : str, optional
        The folder or address to write to, instead of the tracker's own.

    Raises
    ------
    InputError
        For an unknown name, a library that is missing, and one place for several trackers.
    """
    if place is not None and len(names) != 1:
        raise InputError(f"--track-to is one place for {len(names)} trackers", expected="one --track beside it")
    opened: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS, where="--track")
        library, module, kind = TRACKERS[name]
        if importlib.util.find_spec(library) is None:
            raise InputError(
                f"{library} is not installed", where=f"--track {name}", expected=f"pip install 'oneticket[{name}]'"
            )
        opened.append(getattr(importlib.import_module(module), kind)(place))
    return opened


def read_cell(store: Store, identity: str, label: str) -> TrackedCell:
    """What trackers get of a finished cell of a store; InputError where it is damaged."""
    record = store.read(identity)
    outcome, description = record["outcome"], record["description"]
    lines = store.file(identity, "history.jsonl").read_bytes().splitlines()
    history: list[dict[str, Any]] = [msgspec.json.decode(line) for line in lines]
    curves = {
        shown: [(line["step"], line[key]) for line in history if line.get(key) is not None]
        for key, shown in _CURVES.items()
    }
    results = {shown: float(outcome[key]) for key, shown in _RESULTS.items() if outcome.get(key) is not None}
    return TrackedCell(
        cell=identity, label=label, about=_about(description), results=results,
        curves={name: points for name, points in curves.items() if points},
        step=history[-1]["step"] if history else 0, diverged=outcome.get("diverged", ""),
    )  # fmt: skip


def _about(description: Mapping[str, Any]) -> dict[str, str | int | float]:
    """The network, the seed, and the plain values of the recipe."""
    recipe = {f"recipe.{k}": v for k, v in description["recipe"].items() if isinstance(v, str | int | float)}
    return {"model": description["network"]["name"], "seed": description["seed"], **recipe}
