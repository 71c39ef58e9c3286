"""Resolves the names in an experiment to data, networks and rounds, and checks that its grid can work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TypedDict

import msgspec
import torch

from oneticket.census import take_census
from oneticket.data import DataRef, Splits, TextSet, open_data, resolve
from oneticket.errors import InputError
from oneticket.lab.cells.description import Network
from oneticket.lab.planning.ladder import Ladder, Rung, distance
from oneticket.lab.planning.leaks import TOLERATED, Leak, find_leak
from oneticket.lab.planning.rows import Role
from oneticket.lab.spec.arms import Arm
from oneticket.lab.spec.experiment import Experiment, Grid
from oneticket.lab.spec.parsing import split_role
from oneticket.masks import Masks
from oneticket.methods import METHODS
from oneticket.models import ModelSpec, blank, build, check_size, code_digest, complete
from oneticket.pruning import ALLOCATIONS, kept_count
from oneticket.pruning.base import allocate
from oneticket.pruning.correspondence import stretched
from oneticket.search import Search
from oneticket.training import Step
from oneticket.training.cost import forward_flops
from oneticket.weights import norm_names

Shapes = dict[str, tuple[int, ...]]


class _Places(TypedDict):
    """Where code may be imported from."""

    folder: Path
    packages: Collection[str]


class ResolvedExperiment:
    """The data, networks and rounds that the names in an experiment refer to.

    All methods raise InputError, placed at its key, for names and values that cannot be used.

    Parameters
    ----------
    experiment : the experiment.
    folder : the folder to which paths in it are relative.
    cache : the folder into which data is decoded on first use.
    code : the folder whose Python files may be imported; ``folder`` when None.
    packages : the installed packages that may be imported.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        cache: Path,
        *,
        code: Path | None = None,
        packages: Collection[str] = (),
    ) -> None:
        self.experiment, self.folder, self.cache = experiment, folder, cache
        self._code = _Places(folder=code or folder, packages=packages)
        self._searches: dict[str, Search] = {}
        self._ladders: dict[Search, Ladder] = {}
        self._refs: dict[str, DataRef] = {}
        self._splits: dict[str, Splits] = {}
        self._networks: dict[tuple[str, str], tuple[Network, Shapes]] = {}
        self._normalised: dict[tuple[str, str], bool] = {}
        self._leaks: dict[tuple[str, str], Leak] = {}
        self._flops: dict[tuple[str, str], tuple[int, int]] = {}

    def ref(self, name: str) -> DataRef:
        """The identity of a data set."""
        if name not in self._refs:
            try:
                self._refs[name] = resolve(self.experiment.data, name, folder=self.folder, cache=self.cache)
            except OSError as error:
                raise InputError(f"the data cannot be read ({error})", where=f"data.{name}") from None
        return self._refs[name]

    def splits(self, name: str) -> Splits:
        """The samples of a data set."""
        if name not in self._splits:
            self._splits[name] = open_data(self.ref(name), cache=self.cache)
        return self._splits[name]

    def extent(self, name: str) -> tuple[int, frozenset[str]]:
        """The number of training samples of a data set, and its classes."""
        train = self.splits(name).train
        return len(train), frozenset(train.classes)

    def per_epoch(self, role: Role) -> int:
        """The optimiser steps of an epoch."""
        return math.ceil(self.samples(role.data_name) / self.experiment.recipe[role.recipe_name].batch_size)

    def samples(self, name: str) -> int:
        """The number of training samples of a data set."""
        return len(self.splits(name).train)

    def forward_flops(self, spec: ModelSpec, data: str) -> tuple[int, int]:
        """FLOPs of the forward pass of one sample: of all operations, and of those without a prunable weight."""
        key = (str(spec), data)
        if key not in self._flops:
            network, shapes = self._built(spec, data)
            tokens = bool(network.tokens)
            model = build(spec, input_shape=network.input, classes=network.classes, tokens=tokens, seed=0, **self._code)
            none = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
            self._flops[key] = forward_flops(model, network.blank(), none)
        return self._flops[key]

    @property
    def leaks(self) -> list[Leak]:
        """The leaks of the checked sources: test images of their targets that they have seen, few enough."""
        return [leak for leak in self._leaks.values() if leak.images]

    def network(self, spec: ModelSpec, data: str) -> Network:
        """The network for a data set."""
        return self._built(spec, data)[0]

    def shapes(self, spec: ModelSpec, data: str) -> Shapes:
        """The shapes of the prunable weights of the network for a data set."""
        return self._built(spec, data)[1]

    def is_normalised(self, spec: ModelSpec, data: str) -> bool:
        """Whether the network for a data set has normalisation layers."""
        self._built(spec, data)
        return self._normalised[str(spec), data]

    def _built(self, spec: ModelSpec, data: str) -> tuple[Network, Shapes]:
        """The network for a data set, and the shapes of its prunable weights."""
        key = (str(spec), data)
        if key not in self._networks:
            train = self.splits(data).train
            classes = len(train.classes)
            search = self.experiment.search
            try:
                tokens = isinstance(train, TextSet)
                check_size(spec, input_shape=train.shape, classes=classes, tokens=tokens)
                model = build(spec, input_shape=train.shape, classes=classes, tokens=tokens, seed=0, **self._code)
            except InputError as error:
                raise error if (error.where or "").startswith("model") else error.at("model") from None
            try:
                census = take_census(
                    model, blank(train.shape, 2, tokens=tokens), head=self.experiment.head, classes=classes,
                    prune_head=search.prune_head, only=search.prunable,
                )  # fmt: skip
            except InputError as error:
                raise error if error.where in ("head", "model") else error.at("search.prunable") from None
            view = census.view
            if told := census.told():
                warnings.warn(f"model '{spec.name}': {told}", stacklevel=2)
            network = Network(
                name=spec.name,
                options=complete(spec, **self._code).options,
                code=code_digest(spec, **self._code),
                input=train.shape,
                classes=classes,
                head=view.head,
                prune_head=search.prune_head,
                prunable=search.prunable,
                tokens=tokens or msgspec.UNSET,
            )
            self._normalised[key] = bool(norm_names(model))
            self._networks[key] = (network, {name: tuple(w.shape) for name, w in view.weights()})
        return self._networks[key]

    # -- rounds --------------------------------------------------------------------------------------------------
    def search_of(self, arm: str) -> Search:
        """How the tickets of an arm are searched for."""
        if arm not in self._searches:
            self._searches[arm] = self.experiment.search_of(arm)
        return self._searches[arm]

    def ladder(self, search: Search) -> Ladder:
        """The rounds of a search by their densities."""
        if search not in self._ladders:
            self._ladders[search] = Ladder(search)
        return self._ladders[search]

    def densities(self, transfer: Grid) -> list[float]:
        """The densities of a grid; ``"all"`` means those of every round but the dense one."""
        if not isinstance(transfer.densities, str):
            return list(transfer.densities)
        return [rung.density for rung in self.ladder(self.experiment.search).rungs[1:]]

    # -- whether it fits -----------------------------------------------------------------------------------------
    def check(self, spec: ModelSpec, transfer: Grid, where: str) -> None:
        """Refuse a grid that cannot work, before anything runs; ``where`` is its place in the file."""
        for search, place in self._searches_in(transfer).items():
            self._check_rounds(spec, transfer, search, place, where)
        self._check_rates(transfer, where)
        arms = [self.experiment.arms()[name] for name in transfer.arms]
        for data in {split_role(role)[0] for role in (*transfer.sources, *transfer.targets)}:
            self._check_allocations(*self._built(spec, data), transfer)
        for source in transfer.sources:
            for target in transfer.targets:
                self._check_shapes(spec, split_role(source)[0], split_role(target)[0], where)
                self._check_leak(split_role(source)[0], split_role(target)[0], f"{where}.sources")
                for arm in arms:
                    if arm.found_in is not None:
                        self._check_depth(arm, spec, split_role(source)[0], split_role(target)[0])
        for target in transfer.targets:
            # Networks trained on the target itself, such as its own ticket, must be tested on unseen images, too.
            self._check_leak(split_role(target)[0], split_role(target)[0], f"{where}.targets")

    def _check_rates(self, transfer: Grid, where: str) -> None:
        """Refuse learning rates to choose from without validation, and fine-tuning at which nothing is learned."""
        for name in transfer.arms:
            if METHODS.entry(self.experiment.arms()[name].method).facts.lr == "last":
                for role in transfer.targets:
                    self._check_fine_tuning(*split_role(role), f"{where}.arms: {name}")
        for role in transfer.targets if transfer.is_tuned else ():
            data, _ = split_role(role)
            if not len(self.splits(data).validation):
                raise InputError(
                    f"{'learning rates' if transfer.lr else 'settings'} are chosen by validation accuracy, "
                    f"and {data} keeps no images for it",
                    where=f"{where}.{'lr' if transfer.lr else 'tune'}",
                    expected=f"validation above 0 in data.{data}",
                )

    def _searches_in(self, transfer: Grid) -> dict[Search, str]:
        """The searches of a grid, each with the table of the file that defines it."""
        places = {self.experiment.search: "search"}
        for arm in transfer.arms:
            places.setdefault(self.search_of(arm), f"arm.{arm}.search")
        return places

    def _check_rounds(self, spec: ModelSpec, transfer: Grid, search: Search, place: str, where: str) -> None:
        """Refuse densities that a search does not reach or that leave no weight, and a rewind point out of range."""
        try:
            deepest = self._deepest(transfer, search)
        except InputError as error:
            raise error.at(f"{where}.densities" if place == "search" else place) from None
        self._check_ladder(transfer, search, place)
        for role in (*transfer.sources, *transfer.targets):
            data, recipe = split_role(role)
            total = sum(math.prod(shape) for shape in self._built(spec, data)[1].values())
            if kept_count(deepest.density, total) < 1:
                raise InputError(
                    f"round {deepest.number} (density {deepest.density:.3g}) leaves none of the {total} weights",
                    where=f"{where}.densities",
                    expected=f"a density of at least {1 / total:.2g}",
                )
            self._check_rewind(data, recipe, deepest.number, search, place)

    def _check_ladder(self, transfer: Grid, search: Search, place: str) -> None:
        """Refuse a search of a single arm whose rounds miss the densities of the other arms."""
        reach = self.ladder(self.experiment.search).reach
        for density in self.densities(transfer):
            rung = self.ladder(search).nearest(density)
            if distance(density, rung) > reach:
                raise InputError(
                    f"no round is near density {density:g}: round {rung.number} has {rung.density:.3g}",
                    where=place,
                    expected="a value of prune whose rounds meet the densities of the grid",
                )

    def _deepest(self, transfer: Grid, search: Search) -> Rung:
        """The last round of a search that a grid uses."""
        ladder = self.ladder(search)
        asked = [ladder.nearest(density) for density in self.densities(transfer)]
        return max(asked, key=lambda rung: rung.number, default=ladder.rungs[0])

    def _check_allocations(self, network: Network, shapes: Shapes, transfer: Grid) -> None:
        """Refuse a density below the weights that an allocation always keeps."""
        used = {}
        head = f"{network.head}.weight"
        for name in transfer.arms:
            arm, search = self.experiment.arms()[name], self.search_of(name)
            density = self._deepest(transfer, search).density
            if arm.needs == "ticket":
                place = self._searches_in(transfer)[search]
                used[search.allocation, density] = f"{place}.allocation"
            elif arm.scored_on_target:
                used[arm.allocation, density] = f"arm.{name}.allocation"
        for (name, density), where in used.items():
            if ALLOCATIONS.entry(name).facts.least is not None:
                scores = {weight: torch.zeros(shape) for weight, shape in shapes.items()}
                try:
                    allocate(name, scores, density, Masks.full(scores), head if head in shapes else None)
                except InputError as error:
                    raise error.at(where) from None

    def _check_depth(self, arm: Arm, spec: ModelSpec, source: str, target: str) -> None:
        """Refuse an elastic ticket whose network is of another family."""
        found_in = arm.found_in or spec
        there, here = (self._built(model, data)[1] for model, data in ((found_in, source), (spec, target)))
        stretched({name: torch.empty(shape, device="meta") for name, shape in there.items()}, here, arm.blocks)

    def _check_rewind(self, data: str, recipe: str, deepest: int, search: Search, place: str) -> None:
        rewind, chosen = Step.parse(search.rewind), self.experiment.recipe[recipe]
        per_epoch = self.per_epoch(Role(data, recipe))
        if rewind.iterations(per_epoch) > chosen.epochs * per_epoch:
            raise InputError(
                f"rewind = {rewind} is after the end of {data}@{recipe}",
                where=f"{place}.rewind",
                expected=f"at most {chosen.epochs}ep, which is {chosen.epochs * per_epoch}it",
            )
        if deepest > 1 and search.method == "fine-tune":
            self._check_fine_tuning(data, recipe, f"{place}.method")
        rewinds = deepest > 1 and search.method != "fine-tune"
        if rewinds and rewind.iterations(per_epoch) == chosen.epochs * per_epoch:
            raise InputError(
                f"rewind = {rewind} leaves no step of {data}@{recipe} to train in a round",
                where=f"{place}.rewind",
                expected=f"less than {chosen.epochs}ep",
            )

    def _check_fine_tuning(self, data: str, recipe: str, place: str) -> None:
        """Refuse to fine-tune by a recipe whose schedule leaves no rate to learn at."""
        try:
            self.experiment.recipe[recipe].fine_tuning_rate(self.per_epoch(Role(data, recipe)))
        except InputError as error:
            raise InputError(error.what, where=place, expected=f"{error.expected}, in recipe.{recipe}") from None

    def _check_leak(self, source: str, target: str, where: str) -> None:
        """Refuse a source that has seen the test images of a target."""
        if (source, target) not in self._leaks:
            data = {name: (self.ref(name), self.splits(name)) for name in (source, target)}
            self._leaks[source, target] = find_leak(source, target, data, cache=self.cache)
        leak = self._leaks[source, target]
        if leak.refused:
            raise InputError(
                f"{leak}: its tickets would be tested on {leak.noun} that they were found with",
                where=where,
                expected=f"data that has seen at most {100 * TOLERATED:g} % of them",
            )

    def _check_shapes(self, spec: ModelSpec, source: str, target: str, where: str) -> None:
        (net_a, shapes_a), (net_b, shapes_b) = self._built(spec, source), self._built(spec, target)
        if shapes_a == shapes_b:
            return
        name = next(n for n in {**shapes_a, **shapes_b} if shapes_a.get(n) != shapes_b.get(n))
        raise InputError(
            f"a ticket of {source} {_times(net_a.input)}, {net_a.classes} classes does not fit {spec.name} on {target} "
            f"{_times(net_b.input)}, {net_b.classes} classes: '{name}' has the shapes "
            f"{shapes_a.get(name)} and {shapes_b.get(name)}",
            where=f"{where}.sources",
            expected="equal shapes: set size and channels under [data]; prune_head needs equal classes too",
        )


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
