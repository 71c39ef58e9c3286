"""Networks by name: described, built from a seed, and given their initial weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import torch
from torch import Tensor, nn

from oneticket.calling import outputs_on
from oneticket.errors import InputError, unknown
from oneticket.identity import canonical_json
from oneticket.models.libraries import library_digest, library_factory
from oneticket.randomness import seeded
from oneticket.registry import Registry
from oneticket.trust.importing import digest_of_entry, import_named, module_digest, of_library, split_path

Shape = tuple[int, ...]
"""One sample without the batch: (channels, height, width) of an image, (T,) of tokens, (F,) of features."""

Factory = Callable[..., nn.Module]


class ModelFacts(msgspec.Struct, frozen=True):
    """What a registered network takes and begins with.

    ``takes``: images, sequences of token numbers, or numbers in any shape. ``draws``: ``he-normal`` if the weights of
    its layers are drawn by :func:`initialise`, N(0, 2 / fan-in); ``own`` if it has another distribution.
    """

    takes: Literal["images", "tokens", "numbers"] = "images"
    draws: Literal["he-normal", "own"] = "he-normal"


MODELS: Registry[Factory, ModelFacts] = Registry("model", ModelFacts)
"""Factories by name: ``factory(input_shape, classes, **options)``, input_shape being a :data:`Shape`."""

model = MODELS.register

MOST_PARAMETERS, USUAL = 10**9, 4
"""Maximum of parameters of a built-in network, and the width up to which none of them comes near it."""

_GIVEN = ("input_shape", "classes")


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network as a value: a registered name, ``library:name`` or ``package.module:function``, and its options."""

    name: str
    options: dict[str, Any] = {}


def build(
    spec: ModelSpec,
    *,
    input_shape: Shape,
    classes: int,
    seed: int,
    tokens: bool = False,
    folder: Path | None = None,
    packages: Collection[str] = (),
) -> nn.Module:
    """Build the network that ``spec`` describes.

    Its weights are drawn on the CPU from ``seed`` alone; the caller's random state is neither read nor changed. It has
    been tried on a batch of two samples in evaluation mode.

    Parameters
    ----------
    spec : ModelSpec
        The name of the network and its options.
    input_shape : tuple of int
        One sample without the batch: channels, height and width of an image; (T,) for tokens or features.
    classes : int
        Number of outputs; of tokens, the size of the vocabulary.
    seed : int
        For the weights.
    tokens : bool, default False
        Whether the samples are sequences of T token numbers, int64, each below ``classes``. The network then gives
        logits for each position, (N, T, classes).
    folder : Path, optional
        The folder whose Python files an import path may name; none when None.
    packages : collection of str
        The installed packages that an import path may name.

    Returns
    -------
    nn.Module

    Raises
    ------
    InputError
        When the network does not exist, when it takes another kind of input, when it refuses its options, or when its
        output for two samples does not have the shape (2, classes), of tokens (2, T, classes).
    """
    with _located(spec):
        _check_kind(spec, input_shape, tokens)
        factory = find_factory(spec.name, folder, packages)
        arguments = _completed(spec, factory).options | _given(factory, input_shape, classes)
        # the check is inside too: modules that wait for their first batch (nn.LazyLinear) draw their weights there
        with seeded(seed), torch.device("cpu"):
            network = _call(factory, arguments)
            _check_output(network, blank(input_shape, 2, tokens=tokens), classes)
    return network


def blank(input_shape: Shape, samples: int = 1, *, tokens: bool = False) -> Tensor:
    """A batch of zeros: float32, (samples, *input_shape); int64 where the samples are tokens."""
    return torch.zeros(samples, *input_shape, dtype=torch.int64 if tokens else torch.float32)


def _check_kind(spec: ModelSpec, input_shape: Shape, tokens: bool) -> None:
    """Raise InputError for a registered network that takes another kind of input than the data hold."""
    if spec.name not in MODELS:
        return
    takes = MODELS.entry(spec.name).facts.takes
    given = "tokens" if tokens else "images" if len(input_shape) == 3 else "numbers"
    if takes == given or (takes == "numbers" and given == "images"):
        return
    suitable = ("tokens",) if tokens else (given, "numbers")
    fitting = [entry.name for entry in MODELS.entries() if entry.facts.takes in suitable]
    raise InputError(
        f"it takes {takes}, and a sample of the data is {_described(input_shape, given)}",
        expected=f"a model for {given}: {', '.join(fitting)}, or one of your own",
    )


def _described(input_shape: Shape, kind: str) -> str:
    if kind == "tokens":
        return f"a sequence of {input_shape[0]} tokens"
    sizes = " × ".join(map(str, input_shape))
    return f"an image of {sizes}" if kind == "images" else f"{sizes} numbers"


def find_factory(name: str, folder: Path | None = None, packages: Collection[str] = ()) -> Factory:
    """The factory registered as ``name``, of another library, or at the import path ``package.module:function``.

    Modules are searched for in ``folder`` and among ``packages``, and nowhere else. Raises InputError, with the nearest
    valid word, if there is no such factory.
    """
    if of_library(name):
        return library_factory(name, folder)
    if ":" in name:
        return import_named(name, nn.Module, folder, packages)
    if name not in MODELS:
        error = unknown("model", name, MODELS)
        expected = f"{error.expected}, or timm:…, transformers:…, torchvision:…, or a path package.module:function"
        raise InputError(error.what, expected=expected, nearest=error.nearest)
    return MODELS[name]


def code_digest(spec: ModelSpec, *, folder: Path | None = None, packages: Collection[str] = ()) -> str | None:
    """The digest of the code of a user's model, which differs between its versions; None for a built-in model.

    Of a model of another library: a digest of the version of the library, and of the configuration that it reads.
    """
    with _located(spec):
        if of_library(spec.name):
            return library_digest(spec.name, folder)
        if ":" in spec.name:
            return module_digest(split_path(spec.name)[0], folder, packages)
        return digest_of_entry(MODELS.entry(spec.name))


def complete(spec: ModelSpec, *, folder: Path | None = None, packages: Collection[str] = ()) -> ModelSpec:
    """``spec`` with every option of its factory written out, in the type that the factory's signature states.

    Specs of the same network become equal, such as one with ``width = 1`` and one that leaves it out. Defaults that a
    file cannot hold (a class, a function) stay with the factory.

    Parameters
    ----------
    spec : ModelSpec
        The network.
    folder : Path, optional
        The folder whose Python files an import path may name; none when None.
    packages : collection of str
        The installed packages that an import path may name.

    Returns
    -------
    ModelSpec

    Raises
    ------
    InputError
        For an option that the factory does not take, for a missing one, and for a value of a wrong type.
    """
    with _located(spec):
        return _completed(spec, find_factory(spec.name, folder, packages))


def _completed(spec: ModelSpec, factory: Factory) -> ModelSpec:
    parameters = _parameters(factory)
    named = {key: p for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    own = {key: p for key, p in named.items() if key not in _GIVEN}
    _check_keys(spec.options, own, any_key=_takes_any(parameters))
    options = {key: _default(key, p) for key, p in own.items() if _can_be_written(p.default)}
    for key, value in spec.options.items():
        options[key] = _checked(key, value, own[key].annotation) if key in own else value
    return ModelSpec(name=spec.name, options=options)


def check_size(spec: ModelSpec, *, input_shape: Shape, classes: int, tokens: bool = False) -> None:
    """Raise InputError for a built-in network of more than :data:`MOST_PARAMETERS`, before memory is taken for it."""
    # A factory of a user's own need not work on the device that has no memory, and torch loads for seconds to have one.
    usual = all(not isinstance(value, int | float) or value <= USUAL for value in spec.options.values())
    if usual or spec.name not in MODELS or not MODELS.entry(spec.name).module.startswith("oneticket."):
        return
    with _located(spec), torch.device("meta"), seeded(0):
        _check_kind(spec, input_shape, tokens)
        factory = find_factory(spec.name)
        network = _call(factory, _completed(spec, factory).options | _given(factory, input_shape, classes))
        count = sum(parameter.numel() for parameter in network.parameters())
        if count > MOST_PARAMETERS:
            raise InputError(f"it has {count:.2g} parameters", expected=f"at most {MOST_PARAMETERS:.2g}")


def _check_keys(options: Mapping[str, Any], own: Mapping[str, inspect.Parameter], *, any_key: bool) -> None:
    """Raise InputError for an option that the factory does not take, and for one that is missing."""
    for key in options:
        if key in _GIVEN or (key not in own and not any_key):
            raise unknown("option", key, own) if own else InputError(f"unknown option '{key}'", expected="none")
    for key, parameter in own.items():
        if parameter.default is parameter.empty and key not in options:
            raise InputError(f"option '{key}' is missing", expected=f"a value for each of {', '.join(own)}")


def initialise(network: nn.Module) -> nn.Module:
    """Draw the initial weights of ``network`` in place, from torch's global generator, in the order of its modules.

    Weights of convolutions and linear layers, the head included: N(0, 2 / fan-in) (He et al. 2015, §2.2). Biases are 0,
    normalisation gains 1. Returns ``network``.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return network


@contextmanager
def _located(spec: ModelSpec) -> Iterator[None]:
    where = f"model '{spec.name}'"
    try:
        yield
    except InputError as error:
        raise error.at(where) from error.__cause__


def _parameters(factory: Factory) -> Mapping[str, inspect.Parameter]:
    with suppress(Exception):  # annotations that only the type checker can resolve
        return inspect.signature(factory, eval_str=True).parameters
    try:
        return inspect.signature(factory).parameters
    except (ValueError, TypeError) as error:
        raise InputError("its parameters cannot be read", expected="a function written in Python") from error


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _given(factory: Factory, input_shape: Shape, classes: int) -> dict[str, Any]:
    """The arguments that every factory gets, if its signature takes them."""
    parameters = _parameters(factory)
    given = {"input_shape": input_shape, "classes": classes}
    return {key: value for key, value in given.items() if key in parameters or _takes_any(parameters)}


def _can_be_written(value: object) -> bool:
    try:
        canonical_json(value)
    except (TypeError, ValueError):
        return False
    return True


def _checked(key: str, value: Any, annotation: Any) -> Any:
    """``value`` in the type that the signature annotates; unchanged if a file cannot hold values of that type."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return value
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        if get_origin(annotation) is Literal:
            raise unknown(key, str(value), map(str, get_args(annotation))) from None
        raise InputError(f"option '{key}' cannot be {value!r}", expected=f"{error}".removeprefix("Expected ")) from None
    except TypeError:
        return value


def _default(key: str, parameter: inspect.Parameter) -> Any:
    with suppress(InputError):  # `size: int = None` is common, and None is what its author meant
        return _checked(key, parameter.default, parameter.annotation)
    return parameter.default


def _call(factory: Factory, arguments: dict[str, Any]) -> nn.Module:
    try:
        network = factory(**arguments)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        reason = str(error).partition("\n")[0]  # torch adds its C++ stack
        raise InputError(f"cannot be built with {shown}: {type(error).__name__}: {reason}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"its factory returned a {type(network).__name__}", expected="a torch.nn.Module")
    return network


def _check_output(network: nn.Module, batch: Tensor, classes: int) -> None:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            output = outputs_on(network, batch)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        shape = tuple(batch.shape)
        raise InputError(f"fails on a batch of shape {shape}: {type(error).__name__}: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    tokens = not batch.is_floating_point()
    wanted = (*batch.shape, classes) if tokens else (len(batch), classes)
    if output.shape != wanted:
        one = "one number for each token of the vocabulary, at each position" if tokens else "one number for each class"
        raise InputError(
            f"its output for a batch of {len(batch)} is {tuple(output.shape)}", expected=f"shape {wanted}: {one}"
        )
