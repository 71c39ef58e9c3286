"""Hooks on the parameters and models of others, and the optimisers inside those that libraries hand out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def on_gradient(weight: Tensor, hook: Any) -> Any:
    trained = weight.requires_grad
    weight.requires_grad_()  # a frozen one takes no hook, and may be trained later
    try:
        return weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
    finally:
        weight.requires_grad_(trained)


class Loading:
    """What a model calls when weights were loaded into it; a copy of the model gets one that does nothing."""

    def __init__(self, act: Callable[[], object] | None = None) -> None:
        self._act = act

    def __call__(self, *_: Any) -> None:
        if self._act is not None:
            self._act()

    def __reduce__(self) -> tuple[type[Loading], tuple[()]]:
        return Loading, ()


def inner_optimizer(optimizer: Any) -> Any:
    """The optimiser inside those that Accelerate and Lightning hand out; ``optimizer`` itself if it wraps none."""
    seen: set[int] = set()
    while id(optimizer) not in seen and isinstance(
        inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer
    ):
        seen.add(id(optimizer))
        optimizer = inner
    return optimizer
