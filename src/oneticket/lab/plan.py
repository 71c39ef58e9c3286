"""Plan: an experiment expanded into a graph of cells, each named once, and the rows of the table they will fill."""

from __future__ import annotations

from pathlib import Path

import msgspec

from oneticket.lab.arms import DENSE, Arm
from oneticket.lab.description import ArmStart, Description, Initial, Round, TicketRef
from oneticket.lab.experiment import Experiment, Transfer, split_role
from oneticket.lab.inventory import Inventory
from oneticket.models import ModelSpec


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
    """The cells by identity, parents before children; the rows of the table; and a short human name for each cell."""

    experiment: str
    cells: dict[str, Description]
    rows: list[Row]
    labels: dict[str, str] = {}


class _Role(msgspec.Struct, frozen=True):
    """A data set with a recipe, as sources and targets are."""

    data_name: str
    recipe_name: str

    def __str__(self) -> str:
        return f"{self.data_name}@{self.recipe_name}"


class _Planner:
    def __init__(self, experiment: Experiment, inventory: Inventory) -> None:
        self.experiment, self.inventory = experiment, inventory
        self.cells: dict[str, Description] = {}
        self.labels: dict[str, str] = {}
        self.rows: dict[tuple[object, ...], Row] = {}
        self._tickets: dict[tuple[str, _Role, int], list[TicketRef]] = {}

    def plan(self) -> Plan:
        for spec in self.experiment.models:
            for number, transfer in enumerate(self.experiment.transfer):
                self.inventory.check(spec, transfer, f"transfer[{number}]")
        # One replicate after the other, so that whole comparisons are finished early.
        for spec in self.experiment.models:
            for seed in self.experiment.replicates:
                for transfer in self.experiment.transfer:
                    self._add_transfer(spec, transfer, seed)
        return Plan(self.experiment.name, self.cells, list(self.rows.values()), self.labels)

    def _add(self, description: Description, what: str) -> str:
        identity = description.identity
        self.cells.setdefault(identity, description)
        self.labels.setdefault(identity, f"{what} · {description.network.name} · seed {description.seed}")
        return identity

    def _dense(self, spec: ModelSpec, role: _Role, seed: int) -> str:
        """The dense training: round 0 of a search and the dense arm of a target are one cell."""
        return self._add(
            Description(
                network=self.inventory.network(spec, role.data_name),
                data=self.inventory.ref(role.data_name),
                recipe=self.experiment.recipe[role.recipe_name],
                seed=seed,
                start=Initial(),
                snapshots=(str(self.experiment.search.rewind),),
            ),
            f"dense {role}",
        )

    def _ticket(self, spec: ModelSpec, role: _Role, seed: int, number: int) -> TicketRef:
        """The ticket of a round, with the cells of the rounds before it."""
        key = (str(spec), role, seed)
        found = self._tickets.setdefault(key, [])
        while len(found) <= number:
            found.append(self._next_ticket(spec, role, seed, found))
        return found[number]

    def _next_ticket(self, spec: ModelSpec, role: _Role, seed: int, found: list[TicketRef]) -> TicketRef:
        """The ticket that follows those found so far; from the third on, pruned from a cell of its own."""
        number = len(found)
        dense = previous = self._dense(spec, role, seed)
        if number > 1:
            previous = self._add(
                Description(
                    network=self.inventory.network(spec, role.data_name),
                    data=self.inventory.ref(role.data_name),
                    recipe=self.experiment.recipe[role.recipe_name],
                    seed=seed,
                    start=Round(ticket=found[-1]),
                    test=False,
                ),
                f"search {role}, round {number - 1}",
            )
        # How many rounds were asked for altogether does not change what an earlier round is.
        search = msgspec.structs.replace(self.experiment.search, rounds=max(number, 1))
        density = self.inventory.ladder[number]
        return TicketRef(dense=dense, previous=previous, round=number, density=density, search=search)

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
                    for density in self.inventory.densities(transfer):
                        for rescale in transfer.rescale:
                            self._add_arm(spec, giver, to, name, arm, rescale, density, seed)

    def _add_arm(
        self, spec: ModelSpec, giver: _Role, to: _Role, name: str, arm: Arm, rescale: str, density: float, seed: int
    ) -> None:
        number = self.inventory.round(density)
        ticket = self._ticket(spec, giver, seed, number) if arm.needs == "ticket" else None
        description = Description(
            network=self.inventory.network(spec, to.data_name),
            data=self.inventory.ref(to.data_name),
            recipe=self.experiment.recipe[to.recipe_name],
            seed=seed,
            start=ArmStart(
                mask=arm.mask,
                weights=arm.weights,
                rescale=rescale,
                method=arm.method,
                density=self.inventory.ladder[number],
                ticket=ticket,
                rewind=str(self.experiment.search.rewind) if arm.method == "lr-rewind" else "",
            ),
        )
        # A ticket of round 0, all weights at W_k, has taken the dense training too.
        cost = max(number, 1) if ticket is not None else 0
        what = f"{name} {to}, {100 * self.inventory.ladder[number]:.3g} % of the weights"
        self._add_row(spec, giver, to, name, rescale, density, number, seed, cost, self._add(description, what))

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
    return _Planner(experiment, Inventory(experiment, folder, cache)).plan()


def _model_label(spec: ModelSpec) -> str:
    options = ",".join(f"{key}={value}" for key, value in sorted(spec.options.items()))
    return f"{spec.name}({options})" if options else spec.name
