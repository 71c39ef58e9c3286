"""Networks of other libraries by name: ``timm:NAME``, ``torchvision:NAME``, ``transformers:FOLDER_OR_ID``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from oneticket.errors import InputError, nearest
from oneticket.identity import digest

_TRAINED = ("pretrained", "weights", "weights_backbone", "checkpoint_path", "pretrained_cfg")
"""Options that would load weights: a network begins at weights that its seed draws."""

_SHOWN = 5


def library_factory(path: str, folder: Path | None) -> Callable[..., nn.Module]:
    """The factory of ``library:name``, which takes ``input_shape``, ``classes`` and the options of the library.

    Parameters
    ----------
    path : str
        The library and the name of the network there; for transformers a folder with a ``config.json``, or the name of
        one at the Hugging Face hub.
    folder : Path, optional
        What the path of such a folder is relative to.

    Raises
    ------
    InputError
        For a library that is missing or cannot be imported, and for a name that it does not have.
    """
    library, _, name = path.partition(":")
    imported = _imported(library)
    if library == "timm":
        _check_name(name, imported.list_models(), imported.is_model(name))
        return _timm(imported, name)
    if library == "torchvision":
        known = imported.models.list_models()
        _check_name(name, known, name in known)
        return _torchvision(imported, name)
    return _transformers(imported, _place(name, folder))


def library_digest(path: str, folder: Path | None) -> str:
    """A digest that differs between versions of the library; of transformers also between configurations."""
    library, _, name = path.partition(":")
    facts: dict[str, Any] = {"library": library, "version": _imported(library).__version__}
    if library == "transformers":
        config = _config(_imported(library), _place(name, folder), {}).to_dict()
        # The first says which version wrote the file, the second where it lay.
        facts["config"] = {
            key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")
        }
    return digest(facts)


def _imported(library: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        missing = (error.name or library).partition(".")[0]
        needed = "" if missing == library else f", which {library} needs"
        raise InputError(
            f"{missing} is not installed{needed}", expected=f"pip install 'oneticket[{library}]'"
        ) from error
    except Exception as error:  # a build of torchvision for another torch fails while it is imported
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(
            f"{library} cannot be imported: {reason}",
            expected=f"builds of {library} and torchvision that are made for torch {torch.__version__}",
        ) from error


def _check_name(name: str, known: Iterable[str], valid: bool) -> None:
    if valid:
        return
    words = list(known)
    close = difflib.get_close_matches(name, words, n=_SHOWN, cutoff=0.3)
    among = f"; the nearest are {', '.join(close)}" if close else ""
    raise InputError(
        f"unknown name '{name}'", expected=f"one of its {len(words)} names{among}", nearest=nearest(name, words)
    )


def _check_options(options: dict[str, Any]) -> None:
    for key in options:
        if key in _TRAINED:
            raise InputError(
                f"option '{key}' would load weights", expected="none: every network begins at weights of its seed"
            )


def _timm(timm: ModuleType, name: str) -> Callable[..., nn.Module]:
    def make(input_shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
        _check_options(options)
        given = {"in_chans": input_shape[0]} | options
        return timm.create_model(name, num_classes=classes, **given)  # type: ignore[no-any-return]

    return make


def _torchvision(torchvision: ModuleType, name: str) -> Callable[..., nn.Module]:
    def make(classes: int, **options: Any) -> nn.Module:
        _check_options(options)
        options.pop("input_shape", None)  # its networks take three channels
        return torchvision.models.get_model(name, weights=None, num_classes=classes, **options)  # type: ignore[no-any-return]

    return make


def _transformers(transformers: ModuleType, place: str) -> Callable[..., nn.Module]:
    def make(input_shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
        _check_options(options)
        config = _config(transformers, place, options)
        if len(input_shape) == 1:
            config.vocab_size = classes
            return transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-any-return]
        config.num_labels = classes
        for key, value in (("num_channels", input_shape[0]), ("image_size", input_shape[1])):
            if hasattr(config, key) and key not in options:
                setattr(config, key, value)
        return transformers.AutoModelForImageClassification.from_config(config)  # type: ignore[no-any-return]

    return make


def _place(name: str, folder: Path | None) -> str:
    near = (folder or Path()) / name
    return str(near) if (near / "config.json").is_file() else name


def _config(transformers: ModuleType, place: str, options: dict[str, Any]) -> Any:
    try:
        config, unused = transformers.AutoConfig.from_pretrained(place, return_unused_kwargs=True, **options)
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(
            f"'{place}' is not a folder with a config.json, and the hub does not give one: {reason}",
            expected="a folder with a config.json, which needs no network, or the id of a model at a hub in reach",
        ) from error
    if unused:
        raise InputError(f"unknown option '{next(iter(unused))}'", expected=f"one of {', '.join(config.to_dict())}")
    return config
