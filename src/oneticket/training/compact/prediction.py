"""`compact`: a pruned network that predicts with its kept weights alone, where that is measured to be faster."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oneticket.conversion import checked
from oneticket.errors import InputError
from oneticket.kernels.sparse import building
from oneticket.kernels.sparse.building import Compute
from oneticket.masks import Masks
from oneticket.training.compact.channels import shrink
from oneticket.training.compact.model import CompactModel
from oneticket.training.compact.planes import PlanesLayer
from oneticket.training.compact.sparse import LIMITS, alternatives
from oneticket.training.compact.verification import masked_outputs, same_outputs, unnoticed

TURNS, SECONDS = 5, 5.0
"""Alternated predictions of each network, of which the fastest counts; no further turn begins after so many seconds."""

WORTH = 0.98
"""The fraction of the time of the network as it is below which another one is taken."""


class CompactNetwork(nn.Module):
    """A copy of a network that only predicts, on the CPU: a batch → what the network returns, without gradients.

    Parameters
    ----------
    network : what computes.
    sparse : names of the layers that compute with their kept weights alone.
    removed : the number of channels that were dead, and are gone.
    seconds : measured for a prediction of the example: of the network ``"as it is"`` and of the other ones that were
        tried, by what they are; empty where nothing was measured.
    """

    def __init__(
        self, network: nn.Module, sparse: tuple[str, ...] = (), removed: int = 0, seconds: Mapping[str, float] = {}
    ) -> None:
        super().__init__()
        self.network, self.sparse, self.removed, self.seconds = network, sparse, removed, dict(seconds)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, …) → the network's outputs."""
        return self.network(inputs)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> CompactNetwork:
        """It stays in evaluation mode."""
        return super().train(False)

    @property
    def bytes(self) -> int:
        """Bytes held: weights, buffers, and the places of the kept weights for each size of images seen so far."""
        tensors = [*self.parameters(), *self.buffers()]
        return sum(t.nbytes for t in tensors) + sum(m.bytes for m in self.modules() if isinstance(m, PlanesLayer))

    def extra_repr(self) -> str:
        return f"{len(self.sparse)} sparse layers, {self.removed} channels removed"


@checked
def compact(model: nn.Module, example: Tensor, *, compute: Compute = "measured") -> CompactNetwork:
    """A copy of a pruned network for prediction, without its dead channels and its zero weights where that is faster.

    Measured on ``example``: the network as it is, without its dead channels, with sparse layers where at most 30 % of
    the weights are left, and with all layers sparse. The fastest is returned, the network as it is unless another takes
    less than 98 % of its time. Outputs are compared on ``example`` before, and differ by rounding only. Without a C
    compiler no layer is sparse, which the log ``oneticket.kernels`` says.

    Parameters
    ----------
    model : a network with weights that are exactly zero, for instance after ``ticket.put_into(model)``. It is left as
        it is.
    example : a batch of inputs, of the size that will be predicted.
    compute : ``"sparse"`` makes all layers sparse that can be, ``"dense"`` none; channels are removed either way.

    Returns
    -------
    CompactNetwork : a module in evaluation mode, without gradients.

    Raises
    ------
    InputError : no weight is exactly zero; the network can't be copied; sparse layers are demanded, and no layer
        can be sparse.

    Examples
    --------
    >>> import oneticket as ot
    >>> layer = torch.nn.Linear(4, 3)
    >>> layer.weight.data[:, :3] = 0
    >>> ot.compact(layer, torch.ones(2, 4)).sparse
    ()
    """
    if compute == "sparse" and (reason := building.why_not()) is not None:
        raise InputError(f"compute = 'sparse': {reason}", where="compact", expected="'measured' or 'dense'")
    masks = Masks.of(model)
    try:
        copied = copy.deepcopy(model).cpu().requires_grad_(True).eval()
    except Exception as error:
        what = f"{type(model).__name__} can't be copied: {error}"
        raise InputError(what, where="compact", expected="a network that copy.deepcopy copies") from None
    example, found = example.detach().cpu(), {"as it is": CompactModel(copied, masks)}
    with unnoticed(), torch.no_grad():
        expected = masked_outputs(copied, None, example)
        for name, other in _tried(copied, masks, example, compute).items():
            if same_outputs(expected, masked_outputs(other.model, None, example)):
                found[name] = other
        if compute == "sparse":
            sparse = [other for other in found.values() if other.sparse]
            if not sparse:
                what = f"no layer of {type(model).__name__} can be sparse with equal outputs"
                raise InputError(what, where="compact", expected="compute = 'measured' or 'dense'")
            return _for_prediction(sparse[-1], {})
        seconds = _in_turns({name: other.model for name, other in found.items()}, example) if len(found) > 1 else {}
    best = min(seconds, key=seconds.__getitem__, default="as it is")
    if best != "as it is" and seconds[best] >= WORTH * seconds["as it is"]:
        best = "as it is"
    return _for_prediction(found[best], seconds)


def _tried(copied: nn.Module, masks: Masks, example: Tensor, compute: Compute) -> dict[str, CompactModel]:
    """Networks that predict the same, by what they are."""
    small, found = shrink(copied, masks, example), {}
    if small.removed:
        found["without dead channels"] = small
    if compute != "dense" and building.available():
        limits = (1.0,) if compute == "sparse" else LIMITS["float32"]
        for names, other in alternatives(small, example, limits).items():
            found[f"{len(names)} sparse layers"] = other
    return found


def _in_turns(networks: Mapping[str, nn.Module], example: Tensor) -> dict[str, float]:
    best, begun = dict.fromkeys(networks, float("inf")), time.perf_counter()
    for turn in range(1 + TURNS):  # the first one sets things up
        if turn > 1 and time.perf_counter() - begun > SECONDS:
            break
        for name, network in networks.items():
            began = time.perf_counter()
            network(example)
            seconds = time.perf_counter() - began
            best[name] = min(best[name], seconds) if turn else best[name]
    return best


def _for_prediction(found: CompactModel, seconds: Mapping[str, float]) -> CompactNetwork:
    """Without what only training needs: weights that were detached with their channels."""
    for part in found.slices.values():
        owner, _, leaf = part.detached_name.rpartition(".")
        module = found.model.get_submodule(owner)
        if leaf in module._parameters:
            delattr(module, leaf)
    return CompactNetwork(found.model, found.sparse, found.removed, seconds)
