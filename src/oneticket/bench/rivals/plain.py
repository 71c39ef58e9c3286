"""Plain PyTorch with masks: ``torch.nn.utils.prune`` over tensors that lie in memory, normalised once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4


def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """``model``, changed in place, its masked weights computed as weight · mask before each forward pass."""
    for name, mask in masks.items():
        module, _, parameter = name.rpartition(".")
        prune.custom_from_mask(model.get_submodule(module), parameter, mask)  # type: ignore[no-untyped-call]
    return model


def train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    epochs: int,
    *,
    lr: float,
    batch_size: int,
    device: str = "cpu",
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train ``model`` in place on float32 [N, C, H, W] and int64 [N], shuffled in each epoch, unaugmented."""
    model.to(device).train()
    inputs, labels = inputs.to(device), labels.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    for epoch in range(1, epochs + 1):
        for samples in torch.split(torch.randperm(len(labels), device=device), batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[samples]), labels[samples]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize(device)
        if after_epoch is not None:
            after_epoch(epoch)
