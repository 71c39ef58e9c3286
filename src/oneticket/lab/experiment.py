"""The experiment file: what a user writes, read into frozen structs with every default spelled out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from oneticket.data import DataSpec
from oneticket.errors import InputError, nearest, unknown
from oneticket.lab.arms import ARMS, DENSE, Arm
from oneticket.models import ModelSpec
from oneticket.pruning import allocation, criterion
from oneticket.search import Search
from oneticket.training import Recipe
from oneticket.weights import rescaling


class Transfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One grid: every source, target, arm, rescaling and density of the lists, combined."""

    targets: tuple[str, ...]
    sources: tuple[str, ...] = ()
    arms: tuple[str, ...] = ("winning", "own", "random")
    rescale: tuple[str, ...] = ("none",)
    densities: tuple[float, ...] | Literal["all"] = "all"


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole experiment. ``seeds`` is a number of replicates (0, 1, …) or a list of them.

    ``model`` is one model or a list of them, each a name or a table of name and options; ``head`` names the classifier
    of a model of the user's own when it can't be found.
    """

    name: str
    model: str | ModelSpec | tuple[str | ModelSpec, ...]
    data: dict[str, DataSpec]
    recipe: dict[str, Recipe]
    transfer: tuple[Transfer, ...]
    seeds: int | tuple[int, ...] = 6
    search: Search = Search()
    arm: dict[str, Arm] = {}
    head: str | None = None

    @property
    def models(self) -> list[ModelSpec]:
        """The models, each as a spec."""
        several = self.model if isinstance(self.model, tuple) else (self.model,)
        return [ModelSpec(name=m) if isinstance(m, str) else m for m in several]

    @property
    def replicates(self) -> tuple[int, ...]:
        """The seeds of the replicates."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def arms(self) -> dict[str, Arm]:
        """Every arm that can be named: the literature's and the file's own."""
        return {**ARMS, **self.arm}


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file; InputError names file, key, what was expected and the nearest valid word."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [str(p.name) for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise InputError(
            "no such file", where=str(path), expected="an experiment file", nearest=nearest(path.name, beside)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=str(path), expected="an experiment file") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not valid TOML: {error}", where=str(path)) from None
    try:
        return read_experiment(raw)
    except InputError as error:
        raise error.at(str(path)) from None


def read_experiment(raw: dict[str, Any]) -> Experiment:
    """The experiment of a parsed file, checked as far as that goes without looking at data or models."""
    try:
        experiment = msgspec.convert(raw, Experiment)
        # Once around, so that every default has the type that its field declares: 160 and 160.0 must not differ.
        experiment = msgspec.convert(msgspec.to_builtins(experiment), Experiment)
    except msgspec.ValidationError as error:
        raise _explained(error) from None
    _check(experiment)
    return experiment


def split_role(text: str) -> tuple[str, str]:
    """``fashion@sgd`` → (``fashion``, ``sgd``)."""
    data, at, recipe = text.partition("@")
    if not (data and at and recipe):
        raise InputError(f"'{text}' is no source or target", expected="data@recipe, such as fashion@sgd")
    return data, recipe


def _check(experiment: Experiment) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", experiment.name):
        raise InputError(f"'{experiment.name}' is no name", where="name", expected="letters, digits, '.', '_' and '-'")
    replicates = experiment.replicates
    if not replicates or min(replicates) < 0 or len(set(replicates)) != len(replicates):
        raise InputError(
            f"seeds = {experiment.seeds}", where="seeds", expected="at least 1, each seed once, none negative"
        )
    if not experiment.models:
        raise InputError("no model", where="model", expected="at least one")
    if not experiment.transfer:
        raise InputError("nothing to do", where="transfer", expected="at least one [[transfer]]")
    for kind, table in (("data", experiment.data), ("recipe", experiment.recipe), ("arm", experiment.arm)):
        for word in table:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", word):
                raise InputError(f"'{word}' is no name", where=kind, expected="letters, digits, '.', '_' and '-'")
    for word in experiment.arm:
        if word in ARMS:
            raise InputError(f"the arm '{word}' exists already", where=f"arm.{word}", expected="another name")
    for registry, word in ((criterion, experiment.search.criterion), (allocation, experiment.search.allocation)):
        if word not in registry:
            raise unknown(registry.kind, word, list(registry), where=f"search.{registry.kind}")
    for number, transfer in enumerate(experiment.transfer):
        _check_transfer(experiment, transfer, f"transfer[{number}]")


def _check_transfer(experiment: Experiment, transfer: Transfer, where: str) -> None:
    arms = experiment.arms()
    for key in ("targets", "arms", "rescale"):
        if not getattr(transfer, key):
            raise InputError("an empty list", where=f"{where}.{key}", expected="at least one")
    for key, roles in (("sources", transfer.sources), ("targets", transfer.targets)):
        for role in roles:
            try:
                data, recipe = split_role(role)
            except InputError as error:
                raise error.at(f"{where}.{key}") from None
            if data not in experiment.data:
                raise unknown("data set", data, experiment.data, where=f"{where}.{key}")
            if recipe not in experiment.recipe:
                raise unknown("recipe", recipe, experiment.recipe, where=f"{where}.{key}")
    for name in transfer.arms:
        if name not in arms:
            raise unknown("arm", name, arms, where=f"{where}.arms")
        if arms[name].ticket == "source" and arms[name].mask != DENSE and not transfer.sources:
            raise InputError(f"the arm '{name}' needs a source", where=f"{where}.sources", expected="at least one")
    for name in transfer.rescale:
        if name not in rescaling:
            raise unknown("rescaling", name, list(rescaling), where=f"{where}.rescale")
    if not isinstance(transfer.densities, str):
        if not transfer.densities:
            raise InputError("an empty list", where=f"{where}.densities", expected='at least one, or "all"')
        for density in transfer.densities:
            if not 0 < density <= 1:
                raise InputError(
                    f"density {density}", where=f"{where}.densities", expected="above 0, at most 1 (a fraction, not %)"
                )


_AT = re.compile(r"^(?P<what>.*?) - at `\$(?P<path>.*?)`$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<word>.*)`")


def _explained(error: msgspec.ValidationError) -> InputError:
    """A msgspec error in the house's words: which key, what was expected, the nearest valid word."""
    if isinstance(error.__cause__, InputError):
        found = _AT.match(str(error))
        return error.__cause__.at(found["path"].lstrip(".")) if found else error.__cause__
    found = _AT.match(str(error))
    what, path = (found["what"], found["path"].lstrip(".")) if found else (str(error), "")
    field = _UNKNOWN_FIELD.match(what)
    if field:
        valid = _fields_at(path)
        return InputError(
            f"unknown key '{field['word']}'",
            where=path or None,
            expected="one of " + ", ".join(valid),
            nearest=nearest(field["word"], valid),
        )
    return InputError(what[0].lower() + what[1:], where=path or None)


def _fields_at(path: str) -> list[str]:
    """The keys that the table at ``path`` may have."""
    structs: dict[str, type[msgspec.Struct]] = {
        "": Experiment, "data": DataSpec, "recipe": Recipe, "search": Search, "transfer": Transfer, "arm": Arm,
        "model": ModelSpec,
    }  # fmt: skip
    parts = re.sub(r"\[.*?\]", ".item", path).split(".")
    kind: Any = structs.get(parts[0], Experiment)
    for part in parts[1:]:
        fields = {f.encode_name: f.type for f in msgspec.structs.fields(kind)}
        if part in fields:
            kind = next((t for t in _struct_types(fields[part])), kind)
    return [f.encode_name for f in msgspec.structs.fields(kind)]


def _struct_types(kind: Any) -> list[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [found for argument in getattr(kind, "__args__", ()) for found in _struct_types(argument)]
