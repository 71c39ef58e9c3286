"""Methods that train binary networks: BinaryConnect, Binary-Weight-Networks and XNOR-Net.

Real weights W are kept during training; forward and backward pass see α·sign(W), with sign(0) = +1, and the gradient
reaches W straight through the sign. Among the masked layers, every linear layer and every ungrouped, zero-padded 2-D
convolution is binarised, except the layer that runs first and the head. These two stay real as published for
Binary-Weight-Networks and XNOR-Net. The published code of BinaryConnect binarises all layers; here the two stay real
with BinaryConnect, too, so that the three methods can be compared. A masked weight stays 0.0 and is left out of the
means: such a network is ternary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.methods.base import MethodContext, method
from oneticket.methods.binary_inputs import binarisable, binarise_inputs
from oneticket.prunable import Prunable
from oneticket.training import Callback, TrainState

Gradient = Literal["paper", "authors-code"]
"""The scale of the gradient of ``bwn`` and ``xnor``: that of the paper's §3.1, or that of the authors' code."""


@method("binary-connect", source="Courbariaux, Bengio & David 2015, Algorithm 1, deterministic", weights="binary")
def binary_connect(context: MethodContext) -> Callback:
    """Weights sign(W); the gradient passes as it is, and W is clipped to [−1, 1].

    As published, for networks with normalisation after each layer: nothing else undoes the magnitude of ±1.
    """
    return _Binary(context.head, scaled=False)


@method("bwn", source="Rastegari et al. 2016, §3.1", weights="binary", later=("gradient",))
def bwn(context: MethodContext, *, gradient: Gradient = "paper") -> Callback:
    """Binary-Weight-Networks: weights α·sign(W) with α = mean|W| of each filter.

    The paper's gradient of W is that of W̃ times 1/n + α, about 1/20 in a layer of usual size, while weight decay keeps
    its size: SGD at the rate of a real network hardly moves W. The rate of this method wants a grid of its own, or
    ``gradient`` = ``authors-code``, which multiplies by n(1 − 1/c) besides (:func:`code_scale`).
    """
    return _Binary(context.head, scaled=True, gradient=gradient)


@method("xnor", source="Rastegari et al. 2016, §3.2", weights="binary", inputs="binary", later=("gradient",))
def xnor(context: MethodContext, *, gradient: Gradient = "paper") -> Callback:
    """XNOR-Net: weights as in bwn, and the sign of normalised inputs with their scales.

    ``gradient`` is that of ``bwn``.
    """
    return _Binary(context.head, scaled=True, inputs=True, gradient=gradient)


def scales(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """α = mean|W| over the kept weights of each filter, (outputs, 1, …): the α of least ‖W − αB‖ (§3.1).

    ``mask`` is True where a weight is kept; None keeps all weights. A filter that keeps no weight has α = 0.
    """
    kept = torch.ones_like(weight) if mask is None else mask.to(weight.dtype)
    inner = tuple(range(1, weight.dim()))
    return (weight.abs() * kept).sum(inner, keepdim=True) / kept.sum(inner, keepdim=True).clamp(min=1)


def binarised(weight: Tensor, mask: Tensor | None = None, *, scaled: bool = True) -> Tensor:
    """sign(W), times α if ``scaled``, and 0 where masked; same shape as W, sign(0) = +1."""
    signs = torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)
    signs = signs if mask is None else signs * mask
    return signs * scales(weight, mask) if scaled else signs


def straight_through(gradient: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """∂C/∂W = ∂C/∂W̃ · (1/n + α·1{|W| ≤ 1}) for W̃ = α·sign(W), n kept weights in the filter (§3.1).

    The paper writes the estimator of ∂sign/∂r as r·1{|r| ≤ 1}; its source (Hubara et al. 2016, eq. 4) has 1{|r| ≤ 1},
    as here.
    """
    return gradient * (1 / _filter_sizes(weight, mask) + scales(weight, mask) * (weight.abs() <= 1))


def code_scale(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """n(1 − 1/c), (outputs, 1, …): what the authors' code multiplies the gradient of §3.1 by.

    n is the number of kept weights in the filter, c ≥ 2 that of input channels (``weight.shape[1]``). With it the
    factor is (1 + αn)(1 − 1/c), of the order of √n for weights of the usual initial size. The authors' code also
    centres W over the input channels and clamps it to [−1, 1] before each forward pass; here it does not.
    """
    return _filter_sizes(weight, mask) * (1 - 1 / weight.shape[1])


def _filter_sizes(weight: Tensor, mask: Tensor | None) -> Tensor:
    """n, the number of kept weights in each filter, (outputs, 1, …); 1 for a filter that keeps none."""
    kept = torch.ones_like(weight) if mask is None else mask.to(weight.dtype)
    return kept.sum(tuple(range(1, weight.dim())), keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class _Layer:
    """A weight that can be binary, in the order of the model, and its boolean mask."""

    name: str
    weight: nn.Parameter
    mask: Tensor
    fits: bool


class _Binary(Callback):
    """Binary weights in every forward and backward pass, real ones (the latents) at every optimiser step.

    The first forward pass shows which layer runs first; from then on it is fixed.
    """

    def __init__(self, head: str, *, scaled: bool, inputs: bool = False, gradient: Gradient = "paper") -> None:
        self._head, self._scaled, self._inputs, self._gradient = head, scaled, inputs, gradient
        self._chosen: list[_Layer] = []
        self._first: str | None = None
        self._latents: list[Tensor] = []
        self._watches: list[Any] = []

    def on_train_start(self, state: TrainState) -> None:
        names = state.names or Prunable(state.model, head=self._head).names
        masks = state.masks if state.names else {}
        self._model = state.model
        owners = {f"{name}.weight": module for name, module in state.model.named_modules()}
        parameters = dict(state.model.named_parameters())
        self._layers = []
        for name in names:
            weight, layer = parameters[name], owners.get(name)
            mask = masks[name].to(weight.device) if masks else torch.ones_like(weight, dtype=torch.bool)
            fits = name != f"{self._head}.weight" and binarisable(layer)
            self._layers.append(_Layer(name, weight, mask, fits))
            if layer is not None:
                self._watches.append(layer.register_forward_pre_hook(self._runs(name)))

    def before_forward(self, state: TrainState) -> None:
        if self._first is not None:
            self._binarise()

    def after_backward(self, state: TrainState) -> None:
        if self._first is None:
            raise InputError(
                "none of the masked layers ran in the forward pass", expected="a linear or 2-D convolution"
            )
        self._restore()
        if self._scaled:
            for layer in self._chosen:
                if layer.weight.grad is not None:
                    layer.weight.grad = straight_through(layer.weight.grad, layer.weight.detach(), layer.mask)
                    if self._gradient == "authors-code":
                        layer.weight.grad *= code_scale(layer.weight.detach(), layer.mask)

    def after_step(self, state: TrainState) -> None:
        self._clip()

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        self._binarise()
        try:
            yield
        finally:
            self._restore()

    def on_train_end(self, state: TrainState) -> None:
        """Leave the weights binary, and the hooks of ``xnor`` on their layers, so that inputs stay binary."""
        if self._first is None:  # no step was taken, so no layer ran
            self._choose(self._layers[0].name)
        self._binarise()
        self._latents = []

    def state_dict(self) -> dict[str, Any]:
        return {"first": self._first}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        if saved["first"] is not None:
            self._choose(saved["first"])

    def _runs(self, name: str) -> Callable[[nn.Module, Any], None]:
        def first(module: nn.Module, arguments: Any) -> None:
            # The others have not run yet in this pass: they may still become binary.
            self._choose(name)
            self._binarise()

        return first

    def _choose(self, first: str) -> None:
        for watch in self._watches:
            watch.remove()
        self._first = first
        self._chosen = [layer for layer in self._layers if layer.fits and layer.name != first]
        if not self._chosen:
            raise InputError(
                f"there is nothing to binarise between the first layer ('{first}') and the head ('{self._head}')",
                expected="a network with a linear or ungrouped, zero-padded 2-D convolution between them",
            )
        single = [layer.name for layer in self._chosen if layer.weight.shape[1] == 1]
        if single and self._gradient == "authors-code":
            raise InputError(
                f"gradient = '{self._gradient}' multiplies by 1 − 1/c, and '{single[0]}' has a single input channel",
                expected="gradient = 'paper', or at least two input channels in each binary layer",
            )
        self._clip()
        if self._inputs:
            binarise_inputs(self._model, [layer.name for layer in self._chosen])

    @torch.no_grad()
    def _binarise(self) -> None:
        self._latents = [layer.weight.clone() for layer in self._chosen]
        for layer in self._chosen:
            layer.weight.copy_(binarised(layer.weight, layer.mask, scaled=self._scaled))

    @torch.no_grad()
    def _restore(self) -> None:
        for layer, latent in zip(self._chosen, self._latents, strict=True):
            layer.weight.copy_(latent)

    @torch.no_grad()
    def _clip(self) -> None:
        if not self._scaled:  # scaled weights follow W; only BinaryConnect bounds it
            for layer in self._chosen:
                layer.weight.clamp_(-1, 1)
