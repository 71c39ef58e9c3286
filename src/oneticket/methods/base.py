"""The interfaces of methods (how a network is trained from given masks and weights) and of pre-training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import msgspec
from torch import nn

from oneticket.data import BatchSource
from oneticket.errors import InputError, unknown
from oneticket.lazy import Context, Given
from oneticket.masks import Masks
from oneticket.registry import Registry
from oneticket.training import Callback, Checkpoint, EpochRecord, Recipe, Runtime, Training


@dataclass(frozen=True, eq=False, repr=False)
class MethodContext(Context):
    """The facts about a training that its method may use.

    Parameters
    ----------
    density : float
        ρ, the density of the network at the end.
    head : str
        Name of the classifier layer.
    recipe : Recipe
        The recipe of the training.
    masks : Callable[[], Masks], optional
        Gives the arm's masks, for a method that does not keep masked weights at zero.
    """

    looker = "method"
    density: float
    head: str
    recipe: Recipe
    masks: Given[Masks] = Given("the arm's masks")


Method = Callable[..., Callback]


class MethodFacts(msgspec.Struct, frozen=True):
    """The registered facts of a method.

    Parameters
    ----------
    lr : str
        ``last`` if the method trains at one learning rate throughout, that of :meth:`Recipe.fine_tuning_rate`.
    start : str
        ``rewind`` if it begins with the schedule of the rewind point; ``end`` if it takes no step.
    repeats : bool
        Whether its option ``cycles`` says how often the recipe is run, one time after the other.
    makes : str, optional
        ``masks`` if it begins with all weights and ends at ``context.density`` with masks of its own.
    trains : str
        ``scores`` if no weight changes: the masks are what is trained, to the last step.
    weights : str
        ``binary`` if it ends with one magnitude per filter.
    inputs : str
        ``binary`` if it ends with layers that see the signs of their inputs.
    masked : str
        ``frozen`` if weights outside the arm's masks stay at their values, so that the network is dense.
    searches : str, optional
        ``rewound`` if it makes its masks under W_k and trains no weight, so that another arm may take them: its name
        is then a word of an arm's ``mask``.
    later : tuple[str, ...]
        Options that the method got after cells had been computed with it. At their defaults they are not part of what
        identifies a cell, so that those cells keep their names.
    """

    lr: Literal["recipe", "last"] = "recipe"
    start: Literal["first", "rewind", "end"] = "first"
    repeats: bool = False
    makes: Literal["masks"] | None = None
    trains: Literal["weights", "scores"] = "weights"
    weights: Literal["real", "binary"] = "real"
    inputs: Literal["real", "binary"] = "real"
    masked: Literal["zero", "frozen"] = "zero"
    searches: Literal["rewound"] | None = None
    later: tuple[str, ...] = ()


METHODS: Registry[Method, MethodFacts] = Registry("method", MethodFacts)
"""``factory(context, *, option=default, …)`` gives the callback of one training."""

method = METHODS.register


@dataclass(frozen=True, eq=False, repr=False)
class PretrainingTask(Context):
    """The network, the data and the settings of a pre-training.

    Parameters
    ----------
    model : nn.Module
        The network at W_0, which the pre-training trains in place.
    head : str
        Name of its classifier, which a pre-training without labels leaves unchanged.
    train_set : BatchSource
        The source's training data, augmented as the recipe says.
    recipe, seed, runtime, on_epoch
        As for :func:`oneticket.training.train`.
    checkpoint : Callable[[str], Checkpoint], optional
        Makes the checkpoint of a part of the training, by the name of the part.
    """

    looker = "pre-training"
    model: nn.Module
    head: str
    train_set: BatchSource
    recipe: Recipe
    seed: int
    runtime: Runtime = Runtime()
    checkpoint: Callable[[str], Checkpoint] | None = None
    on_epoch: Callable[[EpochRecord], None] | None = None


Pretraining = Callable[[PretrainingTask], Training]


class PretrainingFacts(msgspec.Struct, frozen=True):
    """The registered facts of a pre-training.

    Parameters
    ----------
    parts : bool
        Whether it trains one part of the network after the other, each by :meth:`Recipe.scaled` to its own length.
    takes : "images" or "numbers"
        What it can be trained on: images alone, or rows of numbers too. None takes tokens.
    """

    parts: bool = False
    takes: Literal["images", "numbers"] = "numbers"


PRETRAININGS: Registry[Pretraining, PretrainingFacts] = Registry("pre-training", PretrainingFacts)
"""Each trains ``task.model`` in place on the source, without the target, and returns the training with its cost."""

pretraining = PRETRAININGS.register


def method_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a method, with defaults filled in, each of the type in the method's signature.

    Those that it got later (the fact ``later``) are left out at their defaults.

    Parameters
    ----------
    name : str
        The registered method.
    options : Mapping[str, Any]
        The options that were given.

    Returns
    -------
    dict[str, Any]
        All options of the method.

    Raises
    ------
    InputError
        For an unknown method or option, and for a value of the wrong type.
    """
    parameters = inspect.signature(METHODS[name], eval_str=True).parameters
    known = {key: p for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    for key in options:
        if key not in known:
            raise (
                unknown("option", key, known, where=f"method '{name}'")
                if known
                else InputError(f"unknown option '{key}'", where=f"method '{name}'", expected="none: it has no options")
            )
    complete, later = {}, METHODS.entry(name).facts.later
    for key, parameter in known.items():
        value = _converted(name, key, options.get(key, parameter.default), parameter.annotation)
        if key not in later or value != parameter.default:
            complete[key] = value
    return complete


def numeric_options(name: str) -> list[str]:
    """The options of a method that are numbers, by its signature.

    >>> numeric_options("l1")
    ['strength', 'cut']
    """
    parameters = inspect.signature(METHODS[name], eval_str=True).parameters
    return [key for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY and p.annotation in (int, float)]


def _converted(name: str, key: str, value: Any, kind: Any) -> Any:
    words = get_args(kind) if get_origin(kind) is Literal else ()
    if words and value not in words:
        raise unknown(key, str(value), words, where=f"method '{name}'")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = f"{error}".removeprefix("Expected ")
        raise InputError(f"{key} = {value!r}", where=f"method '{name}'", expected=text) from None


def callback_of(name: str, context: MethodContext, options: Mapping[str, Any]) -> Callback:
    """The callback of one training by the method ``name``."""
    return METHODS[name](context, **method_options(name, options))
