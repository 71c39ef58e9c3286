"""SynFlow: a criterion without data, the flow of the all-ones input through the absolute weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.prunable import Prunable
from oneticket.pruning.base import Scores, criterion, private_copy
from oneticket.pruning.context import ScoreContext

_NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@criterion("synflow", source="Tanaka et al. 2020, Algorithm 1", at="init", rounds=100)
def synflow(model: Prunable, context: ScoreContext) -> Scores:
    """The weight's part of R = 1ᵀ(Π|W_l|)1, (∂R/∂W) ∘ W, in float64.

    R is the sum of the outputs for one all-ones input in eval mode, on a copy of the network that only multiplies:
    every parameter is replaced by its absolute value; biases, and the shift and running mean of BatchNorm, are zero;
    the running variance is unchanged. Of the batches only the shape of one input is used.

    Raises
    ------
    InputError
        For a network whose normalisation keeps no running statistics (GroupNorm, LayerNorm), since R would then not
        depend on the scale of the weights.
    """
    linear = _linearised(model)
    example = context.first_batch[0]
    if not isinstance(example, Tensor) or not example.is_floating_point():
        raise InputError("synflow gives the network ones, and its input is not one tensor of numbers", expected="snip")
    shape = example[:1].shape
    names, weights = zip(*linear.weights(), strict=True)
    with torch.enable_grad():
        ones = torch.ones(shape, dtype=torch.float64, device=weights[0].device)
        slopes = torch.autograd.grad(linear.model(ones).sum(), weights, allow_unused=True, materialize_grads=True)
    return {name: slope * w.detach() for name, slope, w in zip(names, slopes, weights, strict=True)}


@torch.no_grad()
def _linearised(model: Prunable) -> Prunable:
    """A copy in float64 and eval mode, linear in each of its weights for inputs that are not negative."""
    linear = private_copy(model)
    for name, module in linear.model.double().eval().named_modules():
        for parameter, values in module.named_parameters(recurse=False):
            if "bias" in parameter:
                values.zero_()
            else:
                values.abs_()
        if isinstance(module, _NORMALISATIONS):
            _running_mean(name, module).zero_()
    for _, weight in linear.weights():
        weight.requires_grad_()
    return linear


def _running_mean(name: str, module: nn.Module) -> torch.Tensor:
    mean = getattr(module, "running_mean", None)
    if mean is None:
        raise InputError(
            f"'{name}' ({type(module).__name__}) normalises by its own input, so it does not conserve the flow",
            where="criterion 'synflow'",
            expected="a network without normalisation, or with BatchNorm that keeps running statistics",
        )
    return mean  # type: ignore[no-any-return]
