"""Plan: an experiment expanded into a graph of cells, each named once, and the rows of the table they will fill."""

from __future__ import annotations

from pathlib import Path

import msgspec

from oneticket.data import DataRef, Splits, open_data, resolve
from oneticket.errors import InputError
from oneticket.lab.arms import DENSE, Arm
from oneticket.lab.description import ArmStart, Description, Initial, Network, Round, TicketRef
from oneticket.lab.experiment import Experiment, Transfer, split_role
from oneticket.models import ModelSpec, build, code_digest, complete
from oneticket.prunable import Prunable, find_head
from oneticket.pruning import kept_count
from oneticket.training import Step


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What a row of the tidy table knows before its cell has run."""

    experiment: str
    model: str
    source: str
    source_recipe: str
    target: str
    target_recipe: str
    arm: str
    rescale: str
    density_asked: float
    round: int
    seed: int
    search_trainings: int
    cell: str


class Plan(msgspec.Struct, frozen=True):
    """The cells by identity, parents before children, and the rows of the table."""

    experiment: str
    cells: dict[str, Description]
    rows: list[Row]

    def labels(self) -> dict[str, str]:
        """A short human name for every cell."""
        used = {row.cell: f"{row.arm} {row.target}@{row.target_recipe}" for row in reversed(self.rows)}
        names = {}
        for identity, cell in self.cells.items():
            what = used.get(identity)
            if isinstance(cell.start, Round):
                what = f"search round {cell.start.ticket.round}"
            elif what is None:
                what = "search round 0"
            names[identity] = f"{what} · {cell.network.name} · seed {cell.seed}"
        return names


class _Role(msgspec.Struct, frozen=True):
    """A data set with a recipe, as sources and targets are."""

    data_name: str
    recipe_name: str


class _Planner:
    def __init__(self, experiment: Experiment, folder: Path, cache: Path) -> None:
        self.experiment, self.folder, self.cache = experiment, folder, cache
        self.cells: dict[str, Description] = {}
        self.rows: dict[tuple[object, ...], Row] = {}
        self._refs: dict[str, DataRef] = {}
        self._splits: dict[str, Splits] = {}
        self._networks: dict[tuple[str, str], tuple[Network, dict[str, tuple[int, ...]]]] = {}
        self._tickets: dict[tuple[str, _Role, int, int], TicketRef] = {}

    def plan(self) -> Plan:
        for spec in self.experiment.models:
            for number, transfer in enumerate(self.experiment.transfer):
                try:
                    self._check_grid(spec, transfer)
                except InputError as error:
                    raise error.at(f"transfer[{number}]") from None
        # One replicate after the other, so that whole comparisons are finished early.
        for spec in self.experiment.models:
            for seed in self.experiment.replicates:
                for transfer in self.experiment.transfer:
                    self._add_transfer(spec, transfer, seed)
        return Plan(self.experiment.name, self.cells, list(self.rows.values()))

    # -- what is there -------------------------------------------------------------------------------------------
    def _ref(self, name: str) -> DataRef:
        if name not in self._refs:
            self._refs[name] = resolve(self.experiment.data, name, folder=self.folder, cache=self.cache)
        return self._refs[name]

    def _split(self, name: str) -> Splits:
        if name not in self._splits:
            self._splits[name] = open_data(self._ref(name), cache=self.cache)
        return self._splits[name]

    def _network(self, spec: ModelSpec, data: str) -> tuple[Network, dict[str, tuple[int, ...]]]:
        """The network for a data set, and the shapes of its prunable weights."""
        key = (str(spec), data)
        if key not in self._networks:
            train = self._split(data).train
            classes = len(train.classes)
            model = build(spec, input_shape=train.shape, classes=classes, seed=0, folder=self.folder)
            head = self.experiment.head or find_head(model, classes)
            search = self.experiment.search
            view = Prunable(model, head=head, prune_head=search.prune_head, only=search.prunable)
            network = Network(
                name=spec.name,
                options=complete(spec, folder=self.folder).options,
                code=code_digest(spec, folder=self.folder),
                input=train.shape,
                classes=classes,
                head=head,
                prune_head=search.prune_head,
                prunable=search.prunable,
            )
            self._networks[key] = (network, {name: tuple(w.shape) for name, w in view.weights()})
        return self._networks[key]

    def _check_grid(self, spec: ModelSpec, transfer: Transfer) -> None:
        """Refuse what cannot work before anything runs."""
        search = self.experiment.search
        for role in (*transfer.sources, *transfer.targets):
            data, recipe = split_role(role)
            _, shapes = self._network(spec, data)
            total = sum(_size(shape) for shape in shapes.values())
            deepest = max((self._round(d) for d in self._densities(transfer)), default=0)
            if kept_count(search.densities()[deepest], total) < 1:
                raise InputError(
                    f"round {deepest} (density {search.densities()[deepest]:.3g}) leaves no weight at all of {total}",
                    where="densities",
                    expected=f"a density of at least {1 / total:.2g}",
                )
            epochs = self.experiment.recipe[recipe].epochs
            if Step.parse(search.rewind).epochs > epochs:
                raise InputError(
                    f"rewind = {search.rewind} lies behind the end of {role}",
                    where="search.rewind",
                    expected=f"at most {epochs}ep",
                )
        for source in transfer.sources:
            for target in transfer.targets:
                self._check_shapes(spec, split_role(source)[0], split_role(target)[0])

    def _check_shapes(self, spec: ModelSpec, source: str, target: str) -> None:
        (net_a, shapes_a), (net_b, shapes_b) = self._network(spec, source), self._network(spec, target)
        if shapes_a == shapes_b:
            return
        name = next(n for n in {**shapes_a, **shapes_b} if shapes_a.get(n) != shapes_b.get(n))
        raise InputError(
            f"a ticket of {source} {_times(net_a.input)}, {net_a.classes} classes does not fit {spec.name} on {target} "
            f"{_times(net_b.input)}, {net_b.classes} classes: '{name}' has the shapes "
            f"{shapes_a.get(name)} and {shapes_b.get(name)}",
            where="sources",
            expected="the same input; set size and channels under [data]",
        )

    def _densities(self, transfer: Transfer) -> list[float]:
        everything = self.experiment.search.densities()
        return everything[1:] if isinstance(transfer.densities, str) else list(transfer.densities)

    def _round(self, density: float) -> int:
        """The round whose density is nearest on the logarithmic scale that rounds live on; InputError when far off."""
        ladder = self.experiment.search.densities()
        ratios = [max(density / rung, rung / density) for rung in ladder]
        number = ratios.index(min(ratios))
        # Half a step of the ladder is as far as the nearest round can be; what is further lies behind its end.
        if ratios[number] > (1 - self.experiment.search.prune) ** -0.5 * (1 + 1e-9):
            raise InputError(
                f"density {density:g} is behind the last round (round {len(ladder) - 1} has {ladder[-1]:.3g})",
                where="densities",
                expected="a larger density, or more rounds under [search]",
            )
        return number

    # -- adding cells --------------------------------------------------------------------------------------------
    def _add(self, description: Description) -> str:
        identity = description.identity
        self.cells.setdefault(identity, description)
        return identity

    def _dense(self, spec: ModelSpec, role: _Role, seed: int) -> str:
        """The dense training: round 0 of a search and the dense arm of a target are one cell."""
        return self._add(
            Description(
                network=self._network(spec, role.data_name)[0],
                data=self._ref(role.data_name),
                recipe=self.experiment.recipe[role.recipe_name],
                seed=seed,
                start=Initial(),
                snapshots=(str(self.experiment.search.rewind),),
            )
        )

    def _ticket(self, spec: ModelSpec, role: _Role, seed: int, number: int) -> TicketRef:
        """The ticket of a round, with the cells of the rounds before it."""
        key = (str(spec), role, seed, number)
        if key in self._tickets:
            return self._tickets[key]
        dense = self._dense(spec, role, seed)
        previous = dense
        if number > 1:
            ref = self._ticket(spec, role, seed, number - 1)
            previous = self._add(
                Description(
                    network=self._network(spec, role.data_name)[0],
                    data=self._ref(role.data_name),
                    recipe=self.experiment.recipe[role.recipe_name],
                    seed=seed,
                    start=Round(ticket=ref),
                    test=False,
                )
            )
        search = self.experiment.search
        # How many rounds were asked for altogether does not change what an earlier round is.
        alike = msgspec.structs.replace(search, rounds=max(number, 1))
        density = search.densities()[number]
        ref = TicketRef(dense=dense, previous=previous, round=number, density=density, search=alike)
        self._tickets[key] = ref
        return ref

    def _add_transfer(self, spec: ModelSpec, transfer: Transfer, seed: int) -> None:
        arms = self.experiment.arms()
        for target in transfer.targets:
            to = _Role(*split_role(target))
            self._add_row(spec, None, to, DENSE, "none", 1.0, 0, seed, 0, self._dense(spec, to, seed))
            for source in transfer.sources or (target,):
                origin = _Role(*split_role(source))
                for name in transfer.arms:
                    arm = arms[name]
                    if arm.mask == DENSE:
                        continue
                    giver = to if arm.ticket == "target" else origin
                    for density in self._densities(transfer):
                        for rescale in transfer.rescale:
                            self._add_arm(spec, giver, to, name, arm, rescale, density, seed)

    def _add_arm(
        self, spec: ModelSpec, giver: _Role, to: _Role, name: str, arm: Arm, rescale: str, density: float, seed: int
    ) -> None:
        search = self.experiment.search
        number = self._round(density)
        ticket = self._ticket(spec, giver, seed, number) if arm.needs == "ticket" else None
        description = Description(
            network=self._network(spec, to.data_name)[0],
            data=self._ref(to.data_name),
            recipe=self.experiment.recipe[to.recipe_name],
            seed=seed,
            start=ArmStart(
                mask=arm.mask,
                weights=arm.weights,
                rescale=rescale,
                method=arm.method,
                density=search.densities()[number],
                ticket=ticket,
                rewind=str(search.rewind) if arm.method == "lr-rewind" else "",
            ),
        )
        cost = number if ticket is not None else 0
        self._add_row(spec, giver, to, name, rescale, density, number, seed, cost, self._add(description))

    def _add_row(
        self, spec: ModelSpec, giver: _Role | None, to: _Role, arm: str, rescale: str, density: float, number: int,
        seed: int, search_trainings: int, cell: str,
    ) -> None:  # fmt: skip
        row = Row(
            experiment=self.experiment.name,
            model=_model_label(spec),
            source=giver.data_name if giver else "",
            source_recipe=giver.recipe_name if giver else "",
            target=to.data_name,
            target_recipe=to.recipe_name,
            arm=arm,
            rescale=rescale,
            density_asked=density,
            round=number,
            seed=seed,
            search_trainings=search_trainings,
            cell=cell,
        )
        self.rows.setdefault(msgspec.structs.astuple(row), row)


def make_plan(experiment: Experiment, *, folder: Path, cache: Path) -> Plan:
    """Expand ``experiment``; paths in it are relative to ``folder``. Data is decoded into ``cache`` on first sight.

    Raises InputError for everything that would not work: data that is missing or damaged, classes a data set lacks, a
    model without a head, tickets that do not fit a target, densities behind the last round.
    """
    return _Planner(experiment, folder, cache).plan()


def _model_label(spec: ModelSpec) -> str:
    options = ",".join(f"{key}={value}" for key, value in sorted(spec.options.items()))
    return f"{spec.name}({options})" if options else spec.name


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _times(shape: tuple[int, int, int]) -> str:
    return "×".join(map(str, shape))
