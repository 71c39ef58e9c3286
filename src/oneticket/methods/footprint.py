"""Footprint: the bytes to store a network and the time to predict with it; dense, sparse and binary side by side."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from oneticket.data import Normalisation, as_batches
from oneticket.errors import InputError, nearest
from oneticket.methods.binary_inputs import binary_inputs
from oneticket.methods.packed import pack
from oneticket.training import evaluate

_FLOAT = 4  # bytes

Name = TypeVar("Name", bound=Hashable)


def stored_bytes(model: nn.Module, masks: Mapping[str, Tensor] | None = None, binary: Collection[str] = ()) -> int:
    """Bytes from which ``model`` can be restored; headers are not counted.

    Parameters
    ----------
    model : the network.
    masks : parameter name → boolean mask: one bit for each weight and 32 for each kept one. A full mask takes nothing.
    binary : names of the parameters that are binary (:func:`binary_weights`): one bit for each kept weight, and 32 for
        the α of each filter unless all are 1, as in BinaryConnect.

    All other numbers, including floating-point buffers such as normalisation statistics, take 32 bits each.

    Raises
    ------
    InputError : a name that is not a parameter of the model.
    """
    masks = masks or {}
    parameters = dict(model.named_parameters())
    for name in (*masks, *binary):
        if name not in parameters:
            raise InputError(
                f"the model has no parameter '{name}'", where="stored_bytes", nearest=nearest(name, parameters)
            )
    total = sum(_FLOAT * buffer.numel() for buffer in model.buffers() if buffer.is_floating_point())
    for name, weight in parameters.items():
        kept = int(masks[name].sum()) if name in masks else weight.numel()
        if kept < weight.numel():
            total += _packed(weight.numel())
        if name not in binary:
            total += _FLOAT * kept
            continue
        scales = weight.detach().flatten(1).abs().amax(1)
        unscaled = bool(((scales == 0) | (scales == 1)).all())
        total += _packed(kept) + (0 if unscaled else _FLOAT * len(scales))
    return total


def binary_weights(model: nn.Module, head: str) -> list[str]:
    """Names of the weights with one magnitude per filter, in linear and 2-D convolution layers except the head.

    For stored networks. If no filter of a layer keeps two weights, real and binary look the same; it counts as real.
    """
    found = []
    for name, module in model.named_modules():
        if name != head and isinstance(module, nn.Linear | nn.Conv2d):
            size = module.weight.detach().flatten(1).abs()
            one = ((size == 0) | (size == size.amax(1, keepdim=True))).all()
            if bool(one) and int((size > 0).sum(1).max()) > 1:
                found.append(f"{name}.weight")
    return found


@dataclass(frozen=True)
class Contestant:
    """A network ready to predict, inputs → logits, and the bytes needed to store it."""

    network: nn.Module
    bytes: int


@dataclass(frozen=True)
class Footprint:
    """One line of a comparison.

    Parameters
    ----------
    accuracy : a fraction, over the whole split.
    bytes : needed to store the network.
    seconds : time per sample: the median time of one batch over the repeats, divided by its samples.
    batch : samples predicted at once.
    """

    name: str
    accuracy: float
    bytes: int
    seconds: float
    batch: int


def ways(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> dict[str, nn.Module]:
    """Copies of ``model``, one for each way to run it, on the CPU in evaluation mode.

    The ways are ``"dense kernels"``; ``"CSR"`` products if masks are not full and every masked layer is linear; and
    ``"packed bits"`` if ``xnor`` trained it.
    """
    masks = masks or {}
    found = {"dense kernels": copy.deepcopy(model).cpu()}
    if binary_inputs(model):
        found["packed bits"] = pack(model)
    else:
        layers = [model.get_submodule(name.rpartition(".")[0]) for name in masks]
        thinned = not all(bool(mask.all()) for mask in masks.values())
        if thinned and all(isinstance(layer, nn.Linear) for layer in layers):
            found["CSR"] = compressed(model, masks)
    return {way: network.eval() for way, network in found.items()}


def contestants(
    dense: nn.Module, sparse: nn.Module, masks: Mapping[str, Tensor], binary: nn.Module, head: str
) -> dict[str, Contestant]:
    """Copies of the three networks, one for each way to run them (:func:`ways`), on the CPU."""
    ternary = {name: dict(binary.named_parameters())[name] != 0 for name in binary_weights(binary, head)}
    small, bits = stored_bytes(sparse, masks), stored_bytes(binary, ternary, list(ternary))
    return {
        "dense": Contestant(ways(dense)["dense kernels"], stored_bytes(dense)),
        **{f"sparse, {way}": Contestant(network, small) for way, network in ways(sparse, masks).items()},
        **{f"binary, {way}": Contestant(network, bits) for way, network in ways(binary).items()},
    }


def compressed(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of ``model``, on the CPU, whose masked linear layers multiply by sparse (CSR) matrices."""
    network = copy.deepcopy(model).cpu()
    for name in masks:
        layer = name.rpartition(".")[0]
        network.set_submodule(layer, _CompressedLinear(network.get_submodule(layer)))  # type: ignore[arg-type]
    return network


def compare(
    networks: Mapping[str, Contestant],
    data: Any,
    *,
    normalisation: Normalisation | None = None,
    batch: int = 128,
    repeats: int = 11,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Footprint]:
    """Accuracy, bytes and measured time per prediction of each network, in the order given; on the CPU.

    ``data`` is any input of :func:`oneticket.data.as_batches`; an ImageSet needs the ``normalisation`` of the training
    split. Times are those of its first ``batch`` samples, measured by :func:`seconds_per_sample`.
    """
    if batch < 1:
        raise InputError(f"batch = {batch}", where="compare", expected="at least 1")
    for contestant in networks.values():
        contestant.network.eval()
    accuracies = {name: evaluate(c.network, data, normalisation=normalisation)[0] for name, c in networks.items()}
    inputs = next(iter(as_batches(data, batch, normalisation=normalisation).ordered()))[0]
    taken = seconds_per_sample(
        {name: contestant.network for name, contestant in networks.items()}, inputs, repeats=repeats, clock=clock
    )
    return [Footprint(n, accuracies[n], c.bytes, taken[n], len(inputs)) for n, c in networks.items()]


def seconds_per_sample(
    networks: Mapping[Name, nn.Module],
    inputs: Tensor,
    *,
    repeats: int = 11,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, float]:
    """Median time in which each network predicts ``inputs`` (batch, …), divided by the number of samples.

    Networks are in evaluation mode, with torch's current threads. Each runs once unmeasured; then follow ``repeats``
    rounds in which all take a turn, each round beginning with another network. Only times from one call can be
    compared.
    """
    if repeats < 1:
        raise InputError(f"repeats = {repeats}", where="seconds_per_sample", expected="at least 1")
    names = list(networks)
    taken: dict[Name, list[float]] = {name: [] for name in names}
    with torch.inference_mode():
        for name in names:
            networks[name](inputs)
        for turn in range(repeats):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                began = clock()
                networks[name](inputs)
                taken[name].append(clock() - began)
    return {name: median(times) / len(inputs) for name, times in taken.items()}


class _CompressedLinear(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that its CSR layout is in beta
            self.weight = layer.weight.detach().to_sparse_csr()
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        # Sparse times dense: the other order is several times slower.
        outputs: Tensor = (self.weight @ inputs.flatten(0, -2).T).T.reshape(*inputs.shape[:-1], -1)
        return outputs if self.bias is None else outputs + self.bias


def _packed(bits: int) -> int:
    return -(-bits // 8)
