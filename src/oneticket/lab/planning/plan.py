"""Plan: an experiment expanded into a graph of cells, each named once, and the rows of the table they will fill."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from oneticket.lab.cells.definitions import corrected
from oneticket.lab.cells.description import (
    ArmStart,
    CellNamer,
    CellStart,
    Description,
    Initial,
    PretrainingStart,
    Round,
    TicketRef,
)
from oneticket.lab.cells.own_code import OwnCode
from oneticket.lab.cells.rates import rates_of
from oneticket.lab.planning.audit import Finding, audit
from oneticket.lab.planning.budget import Budgets, Course, Trainings
from oneticket.lab.planning.claims import Claims, ask
from oneticket.lab.planning.kinds import WrittenRecipes, check_kinds
from oneticket.lab.planning.ladder import NOTABLE, Rung, distance
from oneticket.lab.planning.leaks import Leak
from oneticket.lab.planning.order import by_data
from oneticket.lab.planning.resolve import ResolvedExperiment
from oneticket.lab.planning.rows import Role, Row
from oneticket.lab.spec.arms import ARMS, DENSE, Arm
from oneticket.lab.spec.experiment import Experiment, Grid
from oneticket.lab.spec.makers import Maker
from oneticket.lab.spec.parsing import split_role
from oneticket.lab.spec.tuning import Candidate
from oneticket.models import ModelSpec
from oneticket.search import Search
from oneticket.training import Recipe
from oneticket.weights import RESCALINGS


class Plan(msgspec.Struct, frozen=True):
    """The cells by identity, parents before children; the rows of the table; and a short human name for each cell.

    ``leaks`` lists the sources that have seen test images of a target, few enough to be tolerated. ``densities`` maps
    each density that was asked for, and that no round meets closely, to those of the rounds that stand for it.
    ``findings`` are what makes comparisons unlevel, ``claims`` what the file expects, and where that is tested.
    """

    experiment: str
    cells: dict[str, Description]
    rows: list[Row]
    labels: dict[str, str] = {}
    leaks: tuple[Leak, ...] = ()
    densities: dict[float, tuple[float, ...]] = {}
    findings: tuple[Finding, ...] = ()
    claims: Claims = Claims()


class _Basis(NamedTuple):
    """The cells that an arm builds on, as its start names them, and what they cost."""

    before: Trainings
    ticket: TicketRef | None = None
    values: TicketRef | None = None
    pretrained: str | None = None
    maker: str | None = None


class _Planner:
    def __init__(self, experiment: Experiment, resolved: ResolvedExperiment) -> None:
        self.experiment, self.resolved = experiment, resolved
        self.namer, self.own = CellNamer(), OwnCode()
        self.budgets = Budgets(experiment, resolved)
        self.cells: dict[str, Description] = {}
        self.replicate: dict[str, Description] = {}
        self.labels: dict[str, str] = {}
        self.rows: dict[tuple[object, ...], Row] = {}
        self.met: dict[float, set[float]] = {}
        self.recipes = WrittenRecipes(resolved)
        self._tickets: dict[tuple[str, Role, int, Search], list[TicketRef]] = {}

    def plan(self) -> Plan:
        for spec in self.experiment.models:
            for number, transfer in enumerate(self.experiment.transfer):
                self.resolved.check(spec, transfer, f"transfer[{number}]")
        # One replicate after the other, so that whole comparisons are finished early.
        for spec in self.experiment.models:
            for seed in self.experiment.replicates:
                self.replicate = {}
                for transfer in self.experiment.transfer:
                    self._add_transfer(spec, transfer, seed)
                self.cells |= by_data(self.replicate)
        leaks = tuple(self.resolved.leaks)
        met = {asked: tuple(sorted(found)) for asked, found in sorted(self.met.items(), reverse=True)}
        rows = list(self.rows.values())
        findings = audit(self.experiment, self.cells, rows, self.labels, self.resolved)
        claims = ask(self.experiment, rows, self.resolved.extent)
        return Plan(self.experiment.name, self.cells, rows, self.labels, leaks, met, findings, claims)

    def _cell(
        self, spec: ModelSpec, role: Role, seed: int, start: CellStart, what: str, *, recipe: Recipe | None = None,
        **rest: Any,
    ) -> str:  # fmt: skip
        """The name of a cell on ``role``, by its recipe or another; ``rest`` are other fields of its description."""
        description = Description(
            network=self.resolved.network(spec, role.data_name),
            data=self.resolved.ref(role.data_name),
            recipe=self.recipes.of(recipe or self.experiment.recipe[role.recipe_name], role.data_name),
            seed=seed,
            start=start,
            **rest,
        )
        return self._add(description, what, normalised=self.resolved.is_normalised(spec, role.data_name))

    def _add(self, description: Description, what: str, *, normalised: bool) -> str:
        code, rates = self.own.of(description.start), rates_of(description.start, description.recipe)
        definitions = corrected(description, normalised=normalised)
        if code or rates or definitions:
            description = msgspec.structs.replace(
                description, code=code or msgspec.UNSET, rates=rates, definitions=definitions or msgspec.UNSET
            )
        identity = self.namer.identity(description)
        if identity not in self.cells:  # it is there already if the model is listed twice
            self.replicate.setdefault(identity, description)
        self.labels.setdefault(identity, f"{what} · {description.network.name} · seed {description.seed}")
        return identity

    def _dense(self, spec: ModelSpec, role: Role, seed: int, rewind: str | int, recipe: Recipe | None = None) -> str:
        """The dense training: round 0 of a search and the dense arm of a target are one cell."""
        snapshots = (str(rewind),)
        return self._cell(spec, role, seed, Initial(), f"dense {role}", recipe=recipe, snapshots=snapshots)

    def _ticket(self, spec: ModelSpec, role: Role, seed: int, number: int, search: Search) -> TicketRef:
        """The ticket of a round, with the cells of the rounds before it."""
        found = self._tickets.setdefault((str(spec), role, seed, search), [])
        while len(found) <= number:
            found.append(self._next_ticket(spec, role, seed, found, search))
        return found[number]

    def _next_ticket(self, spec: ModelSpec, role: Role, seed: int, found: list[TicketRef], search: Search) -> TicketRef:
        """The ticket after those found so far; from the third on, it is pruned from a cell of its own."""
        number = len(found)
        dense = previous = self._dense(spec, role, seed, search.rewind)
        if number > 1:
            what = f"search {role}{self._told(search)}, round {number - 1}"
            previous = self._cell(spec, role, seed, Round(ticket=found[-1]), what, test=False)
        # The total number of rounds does not change the identity of an earlier round.
        asked = msgspec.structs.replace(search, rounds=max(number, 1))
        density = self.resolved.ladder(search).rungs[number].density
        return TicketRef(dense=dense, previous=previous, round=number, density=density, search=asked)

    def _told(self, search: Search) -> str:
        """The fields in which a search differs from the experiment's, as a suffix of a label."""
        usual = self.experiment.search
        changed = [f for f in search.__struct_fields__ if getattr(search, f) != getattr(usual, f)]
        return f" ({', '.join(f'{field} = {getattr(search, field)}' for field in changed)})" if changed else ""

    def _add_transfer(self, spec: ModelSpec, transfer: Grid, seed: int) -> None:
        arms = self.experiment.arms()
        for target in transfer.targets:
            to = Role(*split_role(target))
            search = self.experiment.search
            nothing = Trainings(0, 0, self.resolved.ladder(search).rungs[0], search, spec, to)
            for trial in transfer.candidates(ARMS[DENSE]):
                course = self.budgets.course(spec, transfer, ARMS[DENSE], to, nothing, 1.0, trial.lr)
                cell = self._dense(spec, to, seed, search.rewind, course.recipe)
                self._add_row(spec, None, to, DENSE, "none", 1.0, 0, seed, 0, trial, cell, transfer, course)
            for source in transfer.sources or (target,):
                origin = Role(*split_role(source))
                for name in transfer.arms:
                    if name == DENSE:
                        continue
                    tried = transfer.candidates(arms[name])
                    for density in self._densities(arms[name], transfer):
                        for rescale in self._rescalings(arms[name], transfer):
                            for trial in tried:
                                self._add_arm(spec, transfer, origin, to, name, rescale, density, seed, trial)

    def _densities(self, arm: Arm, transfer: Grid) -> list[float]:
        """The densities at which an arm is trained; only 1 for an arm that stays dense."""
        return [1.0] if arm.stays_dense else self.resolved.densities(transfer)

    def _rescalings(self, arm: Arm, transfer: Grid) -> tuple[str, ...]:
        """The rescalings that change an arm; only "none" for a dense mask, and where weights outside it stay."""
        return ("none",) if arm.mask == DENSE or arm.freezes else transfer.rescale

    def _add_arm(
        self, spec: ModelSpec, transfer: Grid, origin: Role, to: Role, name: str, rescale: str, density: float,
        seed: int, trial: Candidate,
    ) -> None:  # fmt: skip
        arm = trial.arm
        owners = {"source": origin, "target": to}
        search = self.resolved.search_of(name)
        giver, rung = owners[arm.ticket], self.resolved.ladder(search).nearest(density)
        if not arm.stays_dense and distance(density, rung) > NOTABLE:
            self.met.setdefault(density, set()).add(rung.density)
        basis = self._basis(spec, arm, owners, rescale, search, rung, seed)
        course = self.budgets.course(spec, transfer, arm, to, basis.before, density, trial.lr)
        start = ArmStart(
            mask=arm.mask,
            allocation=arm.allocation if arm.is_allocated else "",
            weights=arm.weights,
            norms=arm.norms,
            rescale=rescale,
            method=arm.method,
            options=arm.options,
            density=rung.density,
            ticket=basis.ticket,
            values=basis.values,
            pretrained=basis.pretrained,
            rewind=course.start,
            blocks=arm.blocks if arm.blocks != "append" else msgspec.UNSET,
            maker=basis.maker or msgspec.UNSET,
        )
        what = f"{name} {to}, {100 * rung.density:.3g} % of the weights, {trial.text}".removesuffix(", ")
        cell = self._cell(spec, to, seed, start, what, recipe=course.recipe)
        # If mask and weights have different owners, the row counts as the source's, beside its other arms.
        giver = origin if arm.values is not None else giver
        cost = basis.before.count
        self._add_row(spec, giver, to, name, rescale, density, rung.number, seed, cost, trial, cell, transfer, course)

    def _basis(
        self, spec: ModelSpec, arm: Arm, owners: Mapping[str, Role], rescale: str, search: Search, rung: Rung, seed: int
    ) -> _Basis:
        """What an arm builds on, at the density of ``rung``; plans the cells that are missing."""
        giver, owner, found_in = owners[arm.ticket], owners[arm.values or arm.ticket], arm.found_in or spec
        if arm.maker is not None:
            ticket = self._ticket(spec, owner, seed, 0, search)
            maker = self._made(spec, arm, arm.maker, giver, seed, rung, ticket)
            return _Basis(Trainings(2, 0, rung, search, spec, owner), ticket, maker=maker)
        if arm.needs == "ticket" or (arm.mask != DENSE and RESCALINGS.entry(rescale).facts.needs == "ticket"):
            number = rung.number if arm.needs_rounds else 0
            from_seed = self._other(seed) if arm.mask_from == "other-seed" else seed
            ticket, values = self._ticket(found_in, giver, from_seed, number, search), None
            # Even a ticket of round 0, all weights at W_k, costs the dense training.
            cost = max(number, 1)
            if from_seed != seed or owner != giver:
                values = self._ticket(spec, owner, seed, number, search)
                cost *= 2
            searches = 1 + (values is not None) if arm.needs_rounds else 0
            return _Basis(Trainings(cost, searches, rung, search, found_in, owner), ticket, values)
        if arm.needs == "pretraining":
            pretrained = self._pretraining(spec, owners["source"], seed, arm.weights)
            return _Basis(Trainings(1, 0, rung, search, found_in, giver), pretrained=pretrained)
        return _Basis(Trainings(0, 0, rung, search, found_in, giver))

    def _made(
        self, spec: ModelSpec, arm: Arm, maker: Maker, role: Role, seed: int, rung: Rung, ticket: TicketRef
    ) -> str:
        """The training that gives the masks of an arm: all weights, those of ``ticket``, on ``role``."""
        searches = maker.criterion is None
        start = ArmStart(
            mask=DENSE,
            allocation="",
            weights=maker.weights,
            norms="as-drawn",
            rescale="none",
            method=maker.method,
            options=arm.mask_options,
            density=rung.density if searches else 1.0,
            ticket=ticket,
            values=None,
            pretrained=None,
            rewind="",
        )
        share = f", {100 * rung.density:.3g} % of the weights" if searches else ""
        # Without a search it is the cell of an arm, such as `dense-finetune`, which is tested.
        return self._cell(spec, role, seed, start, f"{maker.method} for {arm.mask} {role}{share}", test=not searches)

    def _other(self, seed: int) -> int:
        """The replicate after this one, the first after the last."""
        seeds = self.experiment.replicates
        return seeds[(seeds.index(seed) + 1) % len(seeds)]

    def _pretraining(self, spec: ModelSpec, role: Role, seed: int, task: str) -> str:
        return self._cell(spec, role, seed, PretrainingStart(task=task), f"{task} {role}", test=False)

    def _add_row(
        self, spec: ModelSpec, giver: Role | None, to: Role, arm: str, rescale: str, density: float, number: int,
        seed: int, search_trainings: int, trial: Candidate, cell: str, transfer: Grid, course: Course,
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
            lr=trial.lr,
            cell=cell,
            budget=transfer.budget,
            own_steps=course.own_steps,
            tuned=trial.text,
            trials=trial.count if transfer.is_tuned else None,
            trials_at_edge=", ".join(trial.edges),
        )
        self.rows.setdefault(msgspec.structs.astuple(row), row)


def make_plan(
    experiment: Experiment, *, folder: Path, cache: Path, code: Path | None = None, packages: Collection[str] = ()
) -> Plan:
    """Expand an experiment into its plan.

    Parameters
    ----------
    experiment : Experiment
        What to compute.
    folder : Path
        The folder to which paths in the experiment are relative.
    cache : Path
        The folder into which data is decoded on first use.
    code : Path, optional
        The folder whose Python files may be imported; ``folder`` when None.
    packages : collection of str
        The installed packages that may be imported.

    Returns
    -------
    Plan
        All cells, and the rows that they fill.

    Raises
    ------
    InputError
        For everything that would not work: data that is missing or damaged, classes that a data set lacks, a model
        without a head, tickets that do not fit a target, densities below the last round's, claims no grid tests.
    """
    resolved = ResolvedExperiment(experiment, folder, cache, code=code, packages=packages)
    check_kinds(experiment, resolved)
    return plan_of(resolved)


def plan_of(resolved: ResolvedExperiment) -> Plan:
    """The plan of an experiment whose names are resolved; raises as :func:`make_plan` does."""
    return _Planner(resolved.experiment, resolved).plan()


def _model_label(spec: ModelSpec) -> str:
    options = ",".join(f"{key}={value}" for key, value in sorted(spec.options.items()))
    return f"{spec.name}({options})" if options else spec.name
