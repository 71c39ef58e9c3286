"""A profile of a training step: how much of it each family of operators takes."""

from __future__ import annotations

from functools import partial

from torch.profiler import ProfilerActivity, profile

from oneticket.bench.ours import train_ours
from oneticket.bench.outcome import Family
from oneticket.bench.workload import Workload
from oneticket.masks import Masks

# In this order: a name belongs to the first family one of whose words it has.
FAMILIES: dict[str, tuple[str, ...]] = {
    "optimiser and masks": ("_fused_", "_foreach_", "Optimizer"),
    "convolution": ("conv",),
    "normalisation": ("batch_norm", "group_norm"),
    "matrix product": ("addmm", "::mm", "bmm", "matmul", "linear"),
    "loss": ("softmax", "nll_loss", "cross_entropy"),
    "pooling": ("pool", "::mean"),
    "choosing and cropping": ("index", "gather", "pad", "randperm", "rand", "where"),
    "copies and casts": ("copy_", "contiguous", "clone", "_to_copy", "fill_", "zero_", "empty"),
    "elementwise": ("relu", "threshold", "add", "mul", "sub", "div", "sum"),
}
OTHER = "everything else"


def family_of(operator: str) -> str:
    """The family of an operator of torch, by its name.

    >>> family_of("aten::convolution_backward"), family_of("aten::threshold_backward")
    ('convolution', 'elementwise')
    """
    return next((name for name, words in FAMILIES.items() if any(word in operator for word in words)), OTHER)


def families(workload: Workload, masks: Masks | None = None, device: str = "cpu") -> list[Family]:
    """Milliseconds of a step that each family takes itself, the largest first; the data of the step included.

    The mean over the epochs of a training that follows one which is not counted. Summing over threads, so with several
    the shares say more than the milliseconds; profiling slows small operators.
    """
    images, norm, recipe = workload.images(), workload.normalisation(), workload.recipe()
    train = partial(train_ours, images=images, normalisation=norm, recipe=recipe, masks=masks, device=device)
    train(workload.network())
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=activities) as profiler:
        train(workload.network())
    steps = workload.steps * recipe.epochs
    spent: dict[str, float] = {}
    for event in profiler.key_averages():
        own = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        family = family_of(event.key)
        spent[family] = spent.get(family, 0.0) + own / 1e3 / steps
    total = sum(spent.values())
    found = [Family(family=name, ms=ms, share=ms / total) for name, ms in spent.items()]
    return sorted(found, key=lambda entry: -entry.ms)
