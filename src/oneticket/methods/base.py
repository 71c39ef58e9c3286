"""The small interfaces of methods (how a network is trained from given masks and weights) and of pre-training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from torch import nn

from oneticket.data import BatchSource
from oneticket.errors import InputError, unknown
from oneticket.registry import Registry
from oneticket.training import Callback, Checkpoint, EpochRecord, Recipe, Runtime, Training


@dataclass(frozen=True)
class Situation:
    """What a method knows of the training it is for.

    density : ρ, that the network is to have at the end. head : name of the classifier layer. recipe : of the training.
    """

    density: float
    head: str
    recipe: Recipe


Method = Callable[..., Callback]

method: Registry[Method] = Registry("method")
"""``factory(situation, *, option=default, …)`` gives the callback of one training.

Facts: ``lr="last"`` trains at the recipe's last learning rate, ``start="rewind"`` with the schedule of the rewind
point; ``makes="masks"`` begins with all weights and ends at ``situation.density`` with masks of its own;
``weights="binary"`` ends with one magnitude a filter, ``inputs="binary"`` with layers that see signs.
"""


@dataclass(frozen=True)
class Lesson:
    """What a pre-training learns from.

    model : the network at W_0, which it trains in place. head : its classifier, which no pre-training without labels
    touches. train_set : the source's training data, augmented as the recipe says. recipe, seed, runtime :
    as for :func:`oneticket.training.train`. checkpoint : makes the checkpoint of a part of the training.
    """

    model: nn.Module
    head: str
    train_set: BatchSource
    recipe: Recipe
    seed: int
    runtime: Runtime = Runtime()
    checkpoint: Callable[[str], Checkpoint] | None = None
    on_epoch: Callable[[EpochRecord], None] | None = None


Pretraining = Callable[[Lesson], Training]

pretraining: Registry[Pretraining] = Registry("pre-training")
"""Trains ``lesson.model`` in place on the source, without the target; the bill is in what it returns."""


def method_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the method ``name``, defaults spelled out, each of the type that the signature states.

    Raises InputError for a method or an option that does not exist, and for a wrong type.
    """
    parameters = inspect.signature(method[name], eval_str=True).parameters
    known = {key: p for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    for key in options:
        if key not in known:
            raise unknown("option", key, known) if known else InputError(f"'{name}' has no option '{key}'")
    complete = {}
    for key, parameter in known.items():
        value = options.get(key, parameter.default)
        try:
            complete[key] = msgspec.convert(value, parameter.annotation)
        except msgspec.ValidationError as error:
            text = f"{error}".removeprefix("Expected ")
            raise InputError(f"{key} = {value!r}", where=f"method '{name}'", expected=text) from None
    return complete


def callback_of(name: str, situation: Situation, options: Mapping[str, Any]) -> Callback:
    """The callback of one training by the method ``name``."""
    return method[name](situation, **method_options(name, options))
