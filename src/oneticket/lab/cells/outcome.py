"""The outcome of a cell: the record of a training that finished, diverged, or builds on one that diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from msgspec import UNSET, UnsetType
from torch import Tensor, nn

from oneticket.lab.cells.description import ArmStart, Description, Round
from oneticket.lab.cells.store import Store
from oneticket.masks import Masks
from oneticket.methods import METHODS
from oneticket.methods.footprint import binary_weights, stored_bytes
from oneticket.metrics.comparison import distance
from oneticket.metrics.paths import find_paths
from oneticket.metrics.reachability import UnknownPaths
from oneticket.pruning import kept_count
from oneticket.training import Training

CONVERGED_WITHIN = 0.005
"""A training has converged at the first epoch whose validation accuracy is within half a point of its last one."""

_INHERITED = "a training it builds on diverged: "


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``outcome`` in ``cell.json``; a field that is UNSET is not written.

    Parameters
    ----------
    diverged : str, optional
        Why the training could not finish; set only where it diverged.
    val_accuracy, best_val_accuracy : float or None
        Accuracy on the validation split (a fraction) at the end and at the best epoch; None without such a split.
    best_epoch : int or None
        The first epoch with the best validation accuracy, counted from 1.
    steps_to_converge : int or None
        Steps to the first epoch within :data:`CONVERGED_WITHIN` of the last validation accuracy.
    density, kept, prunable : float, int, int
        The fraction of the prunable weights that are kept, and both numbers.
    collapsed : list of str
        Parameters that kept no weight.
    bytes : int or None
        Bytes needed to store the network; None if the cell left none.
    masked_nonzero : int
        Masked weights that are not exactly zero: a fault, unless it is 0.
    effective_density : float or None
        The fraction of the prunable weights that lie on a path; None where connections cannot be followed.
    dead_units : int or None
        Units without a path through them.
    test_accuracy, test_loss : float, float or None
        On the test split, evaluated once; set only for cells that are tested.
    test_images : int
        The size of the test split, of which ``test_accuracy`` is a fraction; set where that is, by versions that count.
        Of text, the number of its tokens that are predicted.
    bits_per_byte : float
        ``test_loss`` / ln 2; set only for text, whose tokens are bytes.
    distance : float
        ‖m ∘ (W_T − W)‖₂ over the prunable weights, W those at the beginning of the training; set only by versions that
        measure it.
    naturally_zero : float
        The fraction of the prunable weights that dense training drove to zero; set only where the masks were corrected
        for them.
    """

    diverged: str | UnsetType = UNSET
    val_accuracy: float | None
    best_epoch: int | None
    best_val_accuracy: float | None
    steps_to_converge: int | None
    density: float
    kept: int
    prunable: int
    collapsed: list[str]
    bytes: int | None
    masked_nonzero: int
    effective_density: float | None
    dead_units: int | None
    test_accuracy: float | UnsetType = UNSET
    test_loss: float | UnsetType | None = UNSET
    distance: float | UnsetType = UNSET
    naturally_zero: float | UnsetType = UNSET
    test_images: int | UnsetType = UNSET
    bits_per_byte: float | UnsetType = UNSET


def trained_outcome(
    cell: Description,
    model: nn.Module,
    training: Training,
    masks: Masks | None,
    kept: Masks,
    *,
    before: Mapping[str, Tensor],
    traced: nn.Module | None,
    tested: tuple[float, float] | None,
    test_images: int,
    untrained: float | None = None,
    naturally_zero: float | None = None,
) -> Outcome:
    """The outcome of a training that finished.

    Parameters
    ----------
    masks, kept : Masks or None, Masks
        The masks of the trained network. For a dense network ``masks`` is None, and ``kept`` has full masks.
    before : Mapping[str, Tensor]
        The state with which the training began.
    traced : nn.Module or None
        The network whose paths are followed, without the input binarisation of a binary method; None to follow none.
    tested : tuple of float, or None
        Accuracy and loss on the test split.
    test_images : int
        The size of that split.
    untrained : float, optional
        Accuracy on the validation split of a network that took no step, whose history is empty.
    naturally_zero : float, or None
        The fraction of the weights that dense training drove to zero, where the masks were corrected for them.
    """
    judged = [(r.val_accuracy, r) for r in training.history if r.val_accuracy is not None]
    best = max(judged, key=lambda pair: pair[0])[1] if judged else None
    last = training.history[-1].val_accuracy if training.history else untrained
    # A rewound training counts its steps from the rewind point.
    begun = training.history[-1].step - training.steps if training.history else 0
    reached = [r.step - begun for accuracy, r in judged if last is not None and accuracy >= last - CONVERGED_WITHIN]
    values: dict[str, Tensor] = dict(model.state_dict())
    effective, dead = (None, None) if traced is None else _paths(traced, kept, cell)
    accuracy, loss = tested if tested is not None else (UNSET, UNSET)
    return Outcome(
        val_accuracy=last,
        best_epoch=best.epoch if best else None,
        best_val_accuracy=best.val_accuracy if best else None,
        steps_to_converge=reached[0] if reached else None,
        density=kept.density,
        kept=kept.kept,
        prunable=kept.total,
        collapsed=kept.collapsed(),
        bytes=stored_bytes(model, masks, binary_weights(model, cell.network.head) if is_binary(cell) else ()),
        masked_nonzero=sum(int((values[name].cpu()[~mask] != 0).sum()) for name, mask in kept.items()),
        effective_density=effective,
        dead_units=dead,
        test_accuracy=accuracy,
        test_loss=loss,
        distance=distance(before, values, kept).norm,
        naturally_zero=UNSET if naturally_zero is None else naturally_zero,
        test_images=UNSET if tested is None else test_images,
        bits_per_byte=tested[1] / math.log(2) if tested is not None and cell.network.tokens else UNSET,
    )


def diverged_outcome(
    cell: Description, prunable: int, reason: str, *, validated: bool, test_images: int = 0
) -> Outcome:
    """The outcome of a cell that diverged; its network has ``prunable`` weights.

    Its accuracy counts as guessing, 1 / classes, so that an arm is not judged by its successful seeds alone. It has no
    loss and leaves no network. Its density is the requested one. ``test_images`` is the size of the test split, 0
    where it is not known.
    """
    guessing = 1 / cell.network.classes
    kept = kept_count(_density(cell), prunable)
    return Outcome(
        diverged=reason,
        val_accuracy=guessing if validated else None,
        best_epoch=None,
        best_val_accuracy=None,
        steps_to_converge=None,
        density=kept / prunable,
        kept=kept,
        prunable=prunable,
        collapsed=[],
        bytes=None,
        masked_nonzero=0,
        effective_density=None,
        dead_units=None,
        test_accuracy=guessing if cell.test else UNSET,
        test_loss=None if cell.test else UNSET,
        test_images=test_images if cell.test and test_images else UNSET,
    )


def inherited_divergence(cell: Description, store: Store) -> str | None:
    """Why ``cell`` can't be trained: a parent diverged and left neither weights nor masks; None if it can."""
    for parent in cell.parents:
        reason = store.figures(parent).get("diverged")
        if reason is not None:
            return _INHERITED + str(reason).removeprefix(_INHERITED)
    return None


def is_inherited(reason: str) -> bool:
    """Whether a cell was never trained because a parent diverged."""
    return reason.startswith(_INHERITED)


def is_binary(cell: Description) -> bool:
    """Whether a method made the weights of the network binary."""
    return isinstance(cell.start, ArmStart) and METHODS.entry(cell.start.method).facts.weights == "binary"


def _paths(model: nn.Module, kept: Masks, cell: Description) -> tuple[float | None, int | None]:
    """Effective density and dead units; None where the connections of a network cannot be followed."""
    try:
        paths = find_paths(model, kept, cell.network.blank())
    except UnknownPaths:
        return None, None
    return paths.density, paths.dead


def _density(cell: Description) -> float:
    if isinstance(cell.start, Round):
        return cell.start.ticket.density
    return cell.start.density if isinstance(cell.start, ArmStart) else 1.0
