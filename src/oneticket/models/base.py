"""How a network is named, described, built from a seed and given its initial weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import torch
from torch import Tensor, nn

from oneticket.errors import InputError, unknown
from oneticket.identity import canonical_json
from oneticket.models.importing import file_digest, import_function, on_path
from oneticket.randomness import seeded
from oneticket.registry import NoFacts, Registry

Shape = tuple[int, int, int]
Factory = Callable[..., nn.Module]

MODELS: Registry[Factory, NoFacts] = Registry("model", NoFacts)
"""Factories by name: ``factory(input_shape, classes, **options)``, input_shape being channels, height, width."""

model = MODELS.register

_GIVEN = ("input_shape", "classes")


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network as a value: a registered name or an import path ``package.module:function``, and its options."""

    name: str
    options: dict[str, Any] = {}


def build(spec: ModelSpec, *, input_shape: Shape, classes: int, seed: int, folder: Path | None = None) -> nn.Module:
    """The network ``spec`` describes, for images of ``input_shape`` (channels, height, width) in ``classes`` classes.

    Its weights are drawn on the CPU from ``seed`` alone; the caller's random state is neither read nor moved. In eval
    mode it has been seen to take a batch of two images and to give a tensor of shape (2, classes). ``folder`` is where
    the file lies that the import path is relative to; it is searched before the current directory.

    Raises InputError when there is no such network, when it refuses its options, or when its output has another shape.
    """
    with _findable(spec, folder), _located(spec):
        factory = find_factory(spec.name, folder)
        arguments = complete(spec, folder=folder).options | _given(factory, input_shape, classes)
        # the check is inside too: modules that wait for their first batch (nn.LazyLinear) draw their weights there
        with seeded(seed), torch.device("cpu"):
            network = _call(factory, arguments)
            _check_output(network, input_shape, classes)
    return network


def find_factory(name: str, folder: Path | None = None) -> Factory:
    """The factory registered as ``name``, or the function that the import path ``package.module:function`` leads to.

    Modules are looked for in ``folder``, in the current directory, and among what is installed. Raises InputError with
    the nearest valid word when there is nothing of that name.
    """
    if ":" in name:
        return import_function(name, folder)
    if name not in MODELS:
        error = unknown("model", name, MODELS)
        expected = f"{error.expected}, or an import path package.module:function"
        raise InputError(error.what, expected=expected, nearest=error.nearest)
    return MODELS[name]


def _findable(spec: ModelSpec, folder: Path | None) -> AbstractContextManager[None]:
    # A registered model is found already; to look at the import path anew takes milliseconds.
    return on_path(folder) if ":" in spec.name else nullcontext()


def code_digest(spec: ModelSpec, *, folder: Path | None = None) -> str | None:
    """What tells two versions of a user's model apart: the digest of the file it is in; None for a registered model."""
    with _located(spec):
        return file_digest(spec.name, folder) if ":" in spec.name else None


def complete(spec: ModelSpec, *, folder: Path | None = None) -> ModelSpec:
    """``spec`` with every option of its factory spelled out and of the type that the factory's signature states.

    Two specs that build the same network, as one that writes ``width = 1`` and one that leaves it out, become equal.
    Defaults that no file could hold (a class, a function) stay with the factory.

    Raises InputError for an option that the factory doesn't take, for one it needs and lacks, and for a wrong type.
    """
    with _findable(spec, folder), _located(spec):
        parameters = _parameters(find_factory(spec.name, folder))
        named = {key: p for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        own = {key: p for key, p in named.items() if key not in _GIVEN}
        for key in spec.options:
            if key in _GIVEN or (key not in own and not _takes_any(parameters)):
                raise unknown("option", key, own) if own else InputError(f"unknown option '{key}'", expected="none")
        for key, parameter in own.items():
            if parameter.default is parameter.empty and key not in spec.options:
                raise InputError(f"option '{key}' is missing", expected=f"a value for each of {', '.join(own)}")
        defaults = {key: _default(key, p) for key, p in own.items() if _can_be_written(p.default)}
        checked = {
            key: _checked(key, value, own[key].annotation) if key in own else value
            for key, value in spec.options.items()
        }
    return ModelSpec(name=spec.name, options=defaults | checked)


def initialise(network: nn.Module) -> nn.Module:
    """``network``, its initial weights drawn in place from torch's global generator in the order of its modules.

    Weights of convolutions and linear layers, the head's too: N(0, 2 / fan-in) (He et al. 2015, §2.2). Biases 0,
    normalisation gains 1.
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
        # `build` calls `complete`: one that is located already stays as it is
        raise error if error.where == where else error.at(where) from error.__cause__


def _parameters(factory: Factory) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory, eval_str=True).parameters
    except NameError:  # annotations that exist for the type checker only
        return inspect.signature(factory).parameters
    except ValueError as error:
        raise InputError("its parameters cannot be read", expected="a function written in Python") from error


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _given(factory: Factory, input_shape: Shape, classes: int) -> dict[str, Any]:
    """What every factory gets, as far as its signature takes it."""
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
    """``value`` in the type that the signature annotates; as it is where the annotation is no type for a file."""
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
    with suppress(InputError):  # `size: int = None` is common, and is what its author meant
        return _checked(key, parameter.default, parameter.annotation)
    return parameter.default


def _call(factory: Factory, arguments: dict[str, Any]) -> nn.Module:
    try:
        network = factory(**arguments)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise InputError(f"cannot be built with {shown}: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"its factory returned a {type(network).__name__}", expected="a torch.nn.Module")
    return network


def _check_output(network: nn.Module, input_shape: Shape, classes: int) -> None:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            output = network(torch.zeros(2, *input_shape))
    except MemoryError:
        raise
    except Exception as error:
        shape = (2, *input_shape)
        raise InputError(f"fails on a batch of shape {shape}: {type(error).__name__}: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    got = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    if got != (2, classes):
        raise InputError(
            f"its output for a batch of 2 is {got}", expected=f"shape (2, {classes}): one number for each class"
        )
