"""Checks of an experiment file as a whole: names, sizes, arms, grids and their settings."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from itertools import product
from typing import TYPE_CHECKING

from oneticket.data.spec import chain
from oneticket.errors import InputError, unknown
from oneticket.lab.spec.arms import ARMS, DENSE, Arm, mask_words
from oneticket.lab.spec.parsing import split_role
from oneticket.lab.spec.ready_claims import ready_claims
from oneticket.lab.spec.tuning import Candidate, check_tune, most_trials
from oneticket.methods import PRETRAININGS
from oneticket.pruning import ALLOCATIONS, CRITERIA
from oneticket.pruning.base import check_pair
from oneticket.search import Search, check_rescaling
from oneticket.weights import DRAWS, RESCALINGS, check_optimizer

if TYPE_CHECKING:
    from oneticket.lab.spec.experiment import Budget, Experiment, Grid

MOST = 10_000
"""Maximum of replicates, and of rounds: larger numbers are surely a slip, and planning them would fill the memory."""

MOST_NETWORKS, MOST_TABLES, MOST_MODELS = 100_000, 1000, 100
"""Maximum of networks that the grids compare, of tables of one kind, and of models, for the same reason."""

_MISSING = frozenset(("na", "n.a", "n.a.", "nan", "nat", "nil", "none", "null", "missing"))
"""Names, in small letters, that programs which read the table of results take for a missing value."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check(experiment: Experiment) -> None:
    """Refuse an experiment that cannot work, as far as that can be known without its data and models."""
    _check_name(experiment.name, "name")
    for kind, table in (("data", experiment.data), ("recipe", experiment.recipe), ("arm", experiment.arm)):
        if len(table) > MOST_TABLES:
            raise InputError(f"{len(table)} tables", where=kind, expected=f"at most {MOST_TABLES}")
        for word in table:
            _check_name(word, kind)
    _check_replicates(experiment)
    if not 1 <= len(experiment.models) <= MOST_MODELS:
        raise InputError(f"{len(experiment.models)} models", where="model", expected=f"1 to {MOST_MODELS}")
    _check_size(experiment)
    for word in experiment.data:
        chain(experiment.data, word)
    for word, arm in experiment.arm.items():
        if word in ARMS:
            raise InputError(f"the arm '{word}' exists already", where=f"arm.{word}", expected="another name")
        if arm.stays_dense and arm.needs == "nothing" and arm.method == "train":
            raise InputError("a dense arm", where=f"arm.{word}.mask", expected="another: 'dense' is in every table")
    searches = {"search": experiment.search}
    searches |= {f"arm.{word}.search": experiment.search_of(word) for word in experiment.arm}
    for place, search in searches.items():
        _check_search(search, place)
    if not experiment.transfer:
        raise InputError("there is nothing to do", where="transfer", expected="at least one [[transfer]]")
    for number, transfer in enumerate(experiment.transfer):
        _check_transfer(experiment, transfer, f"transfer[{number}]")
    _check_budgets(experiment)
    _check_claims(experiment)
    _check_settings(experiment)


def _check_name(word: str, where: str) -> None:
    if not _NAME.fullmatch(word):
        expected = "letters, digits, '.', '_' and '-', at most 100, a letter or digit first"
        raise InputError(f"'{word}' is not a valid name", where=where, expected=expected)
    if word.lower() in _MISSING:
        raise InputError(
            f"'{word}' is not a valid name: programs that read the table of results take it for a missing value",
            where=where,
            expected="another name",
        )


def check_keys_of_arm(content: Collection[str], where: str) -> None:
    """Refuse an arm without its axes, whose words are many, and a key of the grid."""
    if "rescale" in content:
        expected = "rescale under [[transfer]], for all arms, or under [search], for its rounds"
        raise InputError("unknown key 'rescale'", where=where, expected=expected)
    for key, words in (("mask", mask_words()), ("weights", [*DRAWS, *PRETRAININGS])):
        if key not in content and not set(content) - set(Arm.__struct_fields__):  # else a misspelt key is told
            raise InputError(f"the key '{key}' is missing", where=where, expected=f"one of {', '.join(words)}")


def _check_replicates(experiment: Experiment) -> None:
    seeds = experiment.seeds
    count = seeds if isinstance(seeds, int) else len(seeds)
    if not 1 <= count <= MOST:
        raise InputError(f"{count} replicates", where="seeds", expected=f"1 to {MOST}")
    if not isinstance(seeds, int) and (min(seeds) < 0 or len(set(seeds)) != count):
        raise InputError(f"seeds = {list(seeds)}", where="seeds", expected="each seed once, none negative")


def _check_size(experiment: Experiment) -> None:
    """Refuse grids that are too large to be planned: each network takes a line of the table."""
    count = 0
    for grid in experiment.transfer:
        densities = experiment.search.rounds if isinstance(grid.densities, str) else len(grid.densities)
        lists = (grid.targets, grid.sources, grid.arms, grid.rescale, grid.lr)
        count += densities * math.prod(max(len(entries), 1) for entries in lists) * most_trials(grid.tune)
    count *= len(experiment.models) * len(experiment.replicates)
    if count > MOST_NETWORKS:
        raise InputError(f"{count} networks", where="transfer", expected=f"at most {MOST_NETWORKS} in one experiment")


def _check_search(search: Search, where: str) -> None:
    for registry, word in ((CRITERIA, search.criterion), (ALLOCATIONS, search.allocation)):
        _check_known(registry.kind, word, registry, f"{where}.{registry.kind}")
    try:
        check_pair(search.criterion, search.allocation)
    except InputError as error:
        raise error.at(f"{where}.allocation") from None
    _check_known("rescaling", search.rescale, RESCALINGS, f"{where}.rescale")
    if search.rounds > MOST:
        raise InputError(f"rounds = {search.rounds}", where=f"{where}.rounds", expected=f"at most {MOST}")
    if search.prunable is not None and len(set(search.prunable)) != len(search.prunable):
        raise InputError("a parameter is named twice", where=f"{where}.prunable", expected="each once")


def _check_budgets(experiment: Experiment) -> None:
    """Refuse two budgets on one target: its arms would stand in one table without being comparable."""
    first: dict[str, tuple[int, Budget]] = {}
    for number, grid in enumerate(experiment.transfer):
        for target in grid.targets:
            other, budget = first.setdefault(target, (number, grid.budget))
            if budget != grid.budget:
                raise InputError(
                    f"budget = '{grid.budget}' on {target}, where transfer[{other}] has '{budget}'",
                    where=f"transfer[{number}].budget",
                    expected="one budget for each target; another budget in an experiment of another name",
                )


def _check_claims(experiment: Experiment) -> None:
    """Refuse unknown ready claims, and more claims than anybody reads; places are checked when they are planned."""
    if len(experiment.claim) > MOST_TABLES:
        raise InputError(f"{len(experiment.claim)} tables", where="claim", expected=f"at most {MOST_TABLES}")
    said = [claim.says for claim in experiment.claim]
    for number, sentence in enumerate(said):
        if sentence in said[:number]:
            raise InputError(
                f"says '{sentence}', like another claim", where=f"claim[{number}]", expected="its own words"
            )
    ready_claims(experiment.claims)


def _check_settings(experiment: Experiment) -> None:
    """Refuse an arm that two grids tune differently on one target: it would stand twice in one table."""
    first: dict[tuple[str, str], tuple[int, list[Candidate]]] = {}
    for number, grid in enumerate(experiment.transfer):
        for target, name in product(grid.targets, dict.fromkeys((DENSE, *grid.arms))):
            tried = grid.candidates(experiment.arms()[name])
            other, settings = first.setdefault((target, name), (number, tried))
            if settings != tried and (grid.tune or experiment.transfer[other].tune):
                raise InputError(
                    f"'{name}' on {target} is tuned in another way than in transfer[{other}]",
                    where=f"transfer[{number}].tune",
                    expected="the same settings for an arm in all grids with this target",
                )


# -- one [[transfer]], rule by rule -------------------------------------------------------------------------------
def _check_transfer(experiment: Experiment, transfer: Grid, where: str) -> None:
    """Refuse an impossible grid, as far as the file alone shows it; ``where`` is its place in the file."""
    for key in ("targets", "arms", "rescale"):
        if not getattr(transfer, key):
            raise InputError("the list is empty", where=f"{where}.{key}", expected="at least one entry")
    for key, roles in (("sources", transfer.sources), ("targets", transfer.targets)):
        for role in roles:
            _check_role(experiment, role, f"{where}.{key}")
    for name in transfer.arms:
        _check_arm(experiment, transfer, name, where)
    _check_search_rescalings(experiment, transfer)
    for name in transfer.rescale:
        _check_rescaling(experiment, transfer, name, f"{where}.rescale")
    if any(not 0 < lr < float("inf") for lr in transfer.lr) or len(set(transfer.lr)) != len(transfer.lr):
        raise InputError(f"lr = {list(transfer.lr)}", where=f"{where}.lr", expected="numbers above 0, each once")
    if transfer.tune:
        if transfer.lr:
            raise InputError("lr and tune", where=f"{where}.tune", expected="one of the two; tune can hold lr")
        arms = {name: experiment.arms()[name] for name in (DENSE, *transfer.arms)}
        recipes = {role: experiment.recipe[split_role(role)[1]] for role in transfer.targets}
        check_tune(transfer.tune, arms, recipes.values(), f"{where}.tune")
    if not isinstance(transfer.densities, str):
        _check_densities(transfer.densities, f"{where}.densities")


def _check_role(experiment: Experiment, role: str, where: str) -> None:
    """Refuse a source or target whose data set or recipe is not in the file."""
    try:
        data, recipe = split_role(role)
    except InputError as error:
        raise error.at(where) from None
    _check_known("data set", data, experiment.data, where)
    _check_known("recipe", recipe, experiment.recipe, where)


def _check_arm(experiment: Experiment, transfer: Grid, name: str, where: str) -> None:
    """Refuse an unknown arm, and an arm whose source or other seed is missing."""
    arms = experiment.arms()
    _check_known("arm", name, arms, f"{where}.arms")
    if arms[name].looks_at_source and not transfer.sources:
        raise InputError(f"the arm '{name}' needs a source", where=f"{where}.sources", expected="at least one")
    if arms[name].length == "k-more" and transfer.budget != "recipe":
        raise InputError(
            f"the arm '{name}' has k steps more than its recipe, which budget = '{transfer.budget}' does not allow",
            where=f"{where}.arms",
            expected="budget = 'recipe' for this arm, or the same arm with length = 'recipe'",
        )
    if arms[name].mask_from == "other-seed" and len(experiment.replicates) < 2:
        raise InputError(f"the arm '{name}' needs another seed", where="seeds", expected="at least 2")


def _check_search_rescalings(experiment: Experiment, transfer: Grid) -> None:
    """Refuse searches that cannot rescale the weights of their rounds with the optimiser of each role."""
    searches = {"search": experiment.search}
    searches |= {f"arm.{name}.search": experiment.search_of(name) for name in transfer.arms}
    for (place, search), role in product(searches.items(), (*transfer.sources, *transfer.targets)):
        try:
            check_rescaling(search.rescale, experiment.recipe[split_role(role)[1]].optimizer, search.method)
        except InputError as error:
            raise error.at(f"{place}.rescale, for {role}") from None


def _check_rescaling(experiment: Experiment, transfer: Grid, name: str, where: str) -> None:
    """Refuse an unknown rescaling of the arms, and one that was not derived for the optimiser of each target."""
    _check_known("rescaling", name, RESCALINGS, where)
    for role in transfer.targets:
        try:
            check_optimizer(name, experiment.recipe[split_role(role)[1]].optimizer)
        except InputError as error:
            raise error.at(where) from None


def _check_densities(densities: Collection[float], where: str) -> None:
    if not densities:
        raise InputError("the list is empty", where=where, expected='at least one density, or "all"')
    for density in densities:
        if not 0 < density <= 1:
            raise InputError(
                f"density {density}", where=where, expected="a fraction above 0, at most 1, such as 0.05 (not %)"
            )


def _check_known(kind: str, word: str, known: Iterable[str], where: str) -> None:
    words = list(known)
    if word not in words:
        raise unknown(kind, word, words, where=where)
