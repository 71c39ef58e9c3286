"""Suspects: trainings that an earlier version finished with a kernel whose gradients are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from oneticket.errors import InputError
from oneticket.identity import canonical_json
from oneticket.lab.cells.store import Store
from oneticket.lab.results.surroundings import Facts, facts_of

if TYPE_CHECKING:  # a store without cells of an earlier version is looked through without torch
    from torch import nn


MASKS = "masks.safetensors"


class Suspects(msgspec.Struct, frozen=True):
    """Finished cells whose training may have had wrong gradients, and their models.

    ``threaded`` of them were trained with several threads: their gradients are wrong on every processor. Those of the
    others are wrong only on processors without AVX-512; earlier versions did not record the processor.
    """

    cells: tuple[str, ...]
    models: tuple[str, ...]
    threaded: int

    def __str__(self) -> str:
        one = len(self.cells) == 1
        threads = f"; {self.threaded} of them had several" if self.threaded else ""
        return (
            f"{len(self.cells)} training{'' if one else 's'} of {' and '.join(self.models)} (searches counted too) "
            f"{'was' if one else 'were'} finished by an earlier version of oneticket, in which strided 1 × 1 "
            "convolutions of fewer than 16 input channels could learn from wrong gradients: with one thread on "
            f"processors without AVX-512, with several threads on every processor{threads}. "
            "Run the experiment again in a new store."
        )


def suspects(store: Store, *, experiment: str | None = None, facts: Sequence[Facts] | None = None) -> Suspects | None:
    """Find the suspects among the finished cells of all experiments, or of one.

    All cells of a plan are checked, including those of its searches: an arm that this version trained may build on
    rounds that an earlier version trained. Each cell is judged by its own network, which is nearly always that of its
    parents as well; otherwise the parents are in the plan, too, and are judged by theirs.

    Parameters
    ----------
    store : the store with the finished cells.
    experiment : the name of an experiment; all experiments when None.
    facts : those of the experiment, if they are known already.

    Returns
    -------
    Suspects, or None if there are none.

    Raises
    ------
    InputError : an experiment that the store lacks.
    """
    found: dict[str, str] = {}
    threaded = 0
    networks: dict[str, nn.Module | None] = {}
    for cell, environment in _earlier(store, facts_of(store, experiment) if facts is None else facts):
        record = store.read(cell)
        description = record["description"]
        network = description.get("network") or {}
        if not network or network.get("code") is not None or len(network["input"]) != 3:
            continue  # the user's own networks were always trained in plain layout
        key = canonical_json(network)
        if key not in networks:
            networks[key] = _built(network)
        model = networks[key]
        masks = partial(store.file, cell, MASKS) if _has_masks(store.folder(cell), record) else None
        if model is not None and _met_fault(model, description, masks):
            found[cell] = network["name"]
            threaded += environment.get("threads", 1) > 1
    if not found:
        return None
    return Suspects(tuple(found), tuple(sorted(set(found.values()))), threaded)


def _earlier(store: Store, facts: Sequence[Facts]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The finished cells that were trained on a CPU by a version that did not yet record its processor."""
    for cell in (fact.cell for fact in facts if not fact.knows_processor):
        with suppress(InputError):  # damaged cells are reported where their figures are read
            environment = store.environment(cell)
            if str(environment.get("device", "")).startswith("cpu") and "processor" not in environment:
                yield cell, environment


def _has_masks(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether a cell was finished with masks: a training that diverged leaves none."""
    files = record.get("files")
    return (folder / MASKS).exists() if files is None else MASKS in files


def _built(network: Mapping[str, Any]) -> nn.Module | None:
    """The network of a description; None if this version no longer has the model."""
    from oneticket.models import ModelSpec, build

    spec = ModelSpec(name=network["name"], options=network["options"])
    try:
        return build(spec, input_shape=tuple(network["input"]), classes=network["classes"], seed=0)
    except InputError:
        return None


def _met_fault(model: nn.Module, description: Mapping[str, Any], masks_file: Callable[[], Path] | None) -> bool:
    """Whether the network, as it was trained, had a layer computed by the faulty kernel.

    A masked network was trained without its dead channels, so with fewer channels than its description says.
    """
    from oneticket.kernels.pointwise import meets_fault

    if any(meets_fault(layer) for layer in model.modules()):
        return True
    strided = dict(_strided(model))
    if not strided or masks_file is None or _has_companion(description["start"]):
        return False

    import torch

    from oneticket.kernels.pointwise import NARROW
    from oneticket.lab.cells.tensors import load_masks
    from oneticket.training.compact.channels import shrink

    masks = load_masks(masks_file())
    read = [int(masks[name].any(0).sum()) if name in masks else width for name, width in strided.items()]
    if min(read) >= NARROW and _is_normalised(model):
        return False  # after normalisation, a channel is dead only if no layer reads it, which is slow to find out
    with suppress(Exception):  # a network that can't be compacted was trained as it is
        smaller = shrink(model, masks, torch.zeros(2, *description["network"]["input"])).model
        return any(meets_fault(layer) for layer in smaller.modules())
    return False


def _strided(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The weights of strided 1 × 1 convolutions, and the number of channels that they read."""
    from torch import nn

    from oneticket.kernels.pointwise import is_faulty

    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
            continue
        if is_faulty(1, layer.kernel_size, layer.stride, layer.padding, layer.groups):  # as if it had one channel
            yield f"{name}.weight", layer.in_channels


def _is_normalised(model: nn.Module) -> bool:
    from torch import nn

    return any(isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) for layer in model.modules())


def _has_companion(start: Mapping[str, Any]) -> bool:
    """Whether a callback modified the training of a cell, so that its network was not compacted."""
    from oneticket.methods import METHODS

    name = str(start.get("method"))
    if name not in METHODS:
        return False
    facts = METHODS.entry(name).facts
    return facts.makes == "masks" or facts.weights == "binary"
