"""The experiment file, read into frozen structs with every default filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from oneticket.data import DataSpec
from oneticket.errors import InputError
from oneticket.lab.spec.arms import ARMS, Arm
from oneticket.lab.spec.checks import check, check_keys_of_arm
from oneticket.lab.spec.claims import Claim
from oneticket.lab.spec.parsing import convert, read_toml, refuse_unwritable
from oneticket.lab.spec.tuning import RATE, TRIALS, Candidate, axes_of, candidates, tuned_twice
from oneticket.models import ModelSpec
from oneticket.search import Search
from oneticket.training import Recipe

Budget = Literal["recipe", "equal-k", "equal-search", "equal-flops"]


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One grid: all combinations of its sources, targets, arms, rescalings and densities.

    ``lr`` lists learning rates to try for every arm on the target, instead of its recipe's; ``tune`` lists values of
    ``lr`` and of options of methods, each for the arms that have it, and ``trials``, how many settings an arm has. The
    table shows the setting with the best validation accuracy over the seeds. ``budget`` says how long each arm is
    trained there: :mod:`oneticket.lab.planning.budget` has the definitions.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...] = ()
    arms: tuple[str, ...] = ("winning", "own", "random")
    rescale: tuple[str, ...] = ("none",)
    densities: tuple[float, ...] | Literal["all"] = "all"
    lr: tuple[float, ...] = ()
    budget: Budget = "recipe"
    tune: dict[str, Any] = {}

    @property
    def is_tuned(self) -> bool:
        """Whether several settings are tried for its arms."""
        return bool(self.lr or self.tune)

    def candidates(self, arm: Arm) -> list[Candidate]:
        """The settings to try for one of its arms, at least one."""
        axes = {RATE: self.lr} if self.lr else axes_of(self.tune, arm)
        return candidates(arm, axes, self.tune.get(TRIALS))


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole experiment. ``seeds`` is a number of replicates (0, 1, …) or a list of them.

    ``model`` is one model or a list of them, each a name or a table of name and options; ``head`` names the classifier
    if it can't be found in the model. ``code`` lists Python files, relative to the file, that register what it names.
    ``claim`` says what is expected, and ``claims`` names ready claims. Neither changes a cell.
    """

    name: str
    model: str | ModelSpec | tuple[str | ModelSpec, ...]
    data: dict[str, DataSpec]
    recipe: dict[str, Recipe]
    transfer: tuple[Grid, ...]
    seeds: int | tuple[int, ...] = 6
    search: Search = Search()
    arm: dict[str, Arm] = {}
    head: str | None = None
    code: tuple[str, ...] = ()
    claim: tuple[Claim, ...] = ()
    claims: tuple[str, ...] = ()

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
        """Every arm by name: those from the literature and those of the file."""
        return {**ARMS, **self.arm}

    def search_of(self, name: str) -> Search:
        """How the tickets of an arm are searched for; InputError if its changes are not a valid search."""
        try:
            arms = self.arms()
            return arms[name].search.on(self.search) if name in arms else self.search
        except InputError as error:
            raise error.at(f"arm.{name}.search") from None


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file; an InputError names the file, the key, the expected value and the nearest valid word."""
    raw = read_toml(path)
    try:
        return read_experiment(raw)
    except InputError as error:
        raise error.at(str(path)) from None


def read_experiment(raw: dict[str, Any]) -> Experiment:
    """The experiment of a parsed file, checked as far as possible without its data and models."""
    refuse_unwritable(raw)
    # First each table by itself, so that an error names the table.
    for table, kind in (("data", DataSpec), ("recipe", Recipe), ("arm", Arm)):
        named = raw.get(table)
        for word, content in named.items() if isinstance(named, dict) else ():
            if table == "arm" and isinstance(content, dict):
                check_keys_of_arm(content, f"arm.{word}")
            convert(content, kind, f"{table}.{word}")
    claims = raw.get("claim")
    for number, content in enumerate(claims if isinstance(claims, list) else ()):
        convert(content, Claim, f"claim[{number}]")
    experiment = convert(raw, Experiment)
    check(experiment)
    tunes = ((f"transfer[{number}]", grid.tune, grid.arms) for number, grid in enumerate(experiment.transfer))
    for error in tuned_twice(tunes, raw.get("arm", {})):
        raise error
    return experiment
