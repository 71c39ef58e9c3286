"""`compare`: who won, on anybody's network and data: the table of the laboratory in one call."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Unpack

import msgspec
import torch
from torch import nn

from oneticket.comparing.cells import OnTraining, run_all
from oneticket.comparing.given import Given, GivenExperiment
from oneticket.conversion import checked
from oneticket.data import DataSpec
from oneticket.errors import InputError, unknown
from oneticket.kernels.machine import this_machine
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.ladder import Ladder
from oneticket.lab.planning.plan import plan_of
from oneticket.lab.results.table import TidyRow, as_csv, remember, tidy, unlevel
from oneticket.lab.spec.arms import Arm
from oneticket.lab.spec.checks import check, check_keys_of_arm
from oneticket.lab.spec.experiment import Experiment, Grid
from oneticket.lab.spec.parsing import convert
from oneticket.pruning import CRITERIA
from oneticket.report import ComparisonRow, Provenance, comparisons, summary, summary_table, write_report
from oneticket.report.baselines import USUAL, parse
from oneticket.report.groups import Group
from oneticket.report.sentences import verdict
from oneticket.report.writers import markdown
from oneticket.search import Search, SearchOptions, check_criterion
from oneticket.showing import table
from oneticket.ticket import versions
from oneticket.training import Recipe, Runtime
from oneticket.training.objectives import Judge, Loss, LossName, MetricName, Objective

_RECIPE = "recipe"
_PLACES = ("transfer[0].", "search.")


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`: a row for each trained network, and what the rows show.

    ``table`` has the columns of ``oneticket results``. ``comparisons`` are all arms against each baseline, paired by
    seed, with intervals and p values after Holm's correction. ``cautions`` are what makes comparisons unlevel.
    """

    table: list[TidyRow]
    cautions: list[str] = field(default_factory=list)
    provenance: Provenance = field(default_factory=Provenance)
    against: tuple[str, ...] = USUAL

    @property
    def comparisons(self) -> list[ComparisonRow]:
        """Every arm at every density against each baseline."""
        return comparisons(self.table, self.against)

    @property
    def verdict(self) -> str:
        """Who won, in a sentence for each density: the first arm against the control of the same size.

        The first arm is ``winning`` if it is there; the control the last of ``against``, by default ``random``.
        """
        return verdict(self.comparisons)

    def report(self, out: str | Path) -> Path:
        """Write ``report.html``, its figures and tables to the folder ``out``, and return the path of the page."""
        return write_report(
            self.table, Path(out), against=self.against, cautions=self.cautions, provenance=self.provenance
        )

    def save(self, path: str | Path) -> None:
        """Write the table as CSV, which ``oneticket results``, ``report`` and ``figure`` read."""
        Path(path).write_text(as_csv(self.table), encoding="utf-8")

    def __str__(self) -> str:
        return markdown(summary_table(summary(self.table, self.against)))

    def _repr_html_(self) -> str:
        shown = summary_table(summary(self.table, self.against))
        return table(f"{len(self.table)} networks", shown.header, shown.lines, self.verdict.splitlines())

    def __repr__(self) -> str:
        return f"Comparison({len(self.table)} networks)\n{self.verdict}"


@checked
def compare(
    make_model: Callable[[], nn.Module],
    train_set: Any,
    test_set: Any,
    *,
    recipe: Recipe,
    arms: Sequence[str] = ("winning", "random"),
    densities: Sequence[float] = (0.2, 0.05),
    seeds: int | Sequence[int] = 6,
    own_arms: Mapping[str, Any] = {},
    against: Sequence[str] = USUAL,
    budget: Literal["recipe", "equal-k"] = "equal-k",
    validation: Any = None,
    head: str | None = None,
    name: str = "data",
    device: str | torch.device = "cpu",
    runtime: Runtime | None = None,
    loss: LossName | Loss | None = None,
    metric: MetricName | Judge | None = None,
    on_training: OnTraining | None = None,
    **search: Unpack[SearchOptions],
) -> Comparison:
    """Find tickets, train them and their controls with several seeds, and say with statistics who won.

    In each replicate a ticket is found, and every arm is trained at every density. All arms of a seed share data order,
    augmentation and head; arms are compared in pairs of the same seed. The dense network is always there. The test set
    is evaluated once for each network, after its last step, and chooses nothing.

    Parameters
    ----------
    make_model : gives a new network at each call; its weights come from torch's generator, which is seeded before.
    train_set, test_set, validation : as for :func:`oneticket.transfer`.
    recipe : how every network trains.
    arms : arms by name, as ``oneticket list arm`` has them.
    densities : fractions of the prunable weights to keep; each is met at the round of the search that is nearest, the
        least of them exactly.
    seeds : how many replicates, or their numbers.
    own_arms : name → keys of an arm of your own, as an experiment file has them under ``[arm.NAME]``.
    against : the baselines of the comparisons.
    budget : ``"equal-k"`` gives every network the steps of the recipe, those before W_k counted; with ``"recipe"``
        networks that begin at W_k are trained for the whole recipe after their k steps.
    head : as for :func:`oneticket.find_ticket`.
    name : name of the data in the table.
    device, runtime : where, or how, networks are trained.
    loss, metric : as for :func:`oneticket.transfer`. Of the metric more must be better; the table has it as accuracy,
        and 0.01 of it is a point.
    on_training : called after each training with how many are done, how many there are, and what it was.
    search : the fields of :class:`oneticket.search.Search`, as for :func:`oneticket.find_ticket`.

    Returns
    -------
    Comparison : the table, the verdict, the report.

    Raises
    ------
    InputError : before the first training, for all that can't work.
    NonFiniteLoss : a training diverged, and the loss has no classes that could be guessed.

    Examples
    --------
    >>> import torch
    >>> import oneticket as ot
    >>> def network():
    ...     return torch.nn.Sequential(torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))
    >>> train_set, test_set = ((torch.randn(40, 4), torch.arange(40) % 2) for _ in range(2))
    >>> recipe = ot.Recipe.sgd(epochs=2, batch_size=10)
    >>> result = ot.compare(network, train_set, test_set, recipe=recipe, densities=[0.25], seeds=2, rounds=1)
    >>> [row["arm"] for row in result.table]
    ['dense', 'winning', 'random', 'dense', 'winning', 'random']
    """
    for word in search:
        if word not in SearchOptions.__annotations__:
            raise unknown("option", word, SearchOptions.__annotations__)
    objective = Objective.of(train_set, recipe, loss, metric)
    if runtime is None:
        runtime = Runtime(device=str(device))
    _refuse_unjudged(objective, runtime)
    with _places():
        experiment = _experiment(
            name, recipe, tuple(arms), tuple(densities), seeds, own_arms, budget, _search(densities, search)
        )
        _check_arms(experiment, objective)
        given = Given(
            make_model, train_set, test_set, validation, recipe, objective=objective, device=runtime.device,
            head=head, search=experiment.search,
        )  # fmt: skip
        experiment = msgspec.structs.replace(experiment, model=given.name)
        plan = plan_of(GivenExperiment(experiment, given))
        parse(against, [Group(*(getattr(row, axis) for axis in Group._fields)) for row in plan.rows])
    for asked, met in plan.densities.items():
        shown = ", ".join(f"{density:.3g}" for density in met)
        warnings.warn(f"density {asked:g} is met by the round of density {shown}", stacklevel=3)
    with tempfile.TemporaryDirectory(prefix="oneticket-") as folder:
        store = Store.open(Path(folder), create=True)
        remember(plan, store)
        run_all(plan, given, store, runtime, on_training)
        return Comparison(tidy(store), unlevel(store), _provenance(given, experiment, runtime), tuple(against))


def _search(densities: Sequence[float], options: SearchOptions) -> Search:
    """The search whose last round has the least of the densities."""
    for density in densities:
        if not 0 < density < 1:
            raise InputError(
                f"density {density}", where="densities", expected="fractions above 0 and below 1, such as 0.05"
            )
    if not densities:
        raise InputError("the list is empty", where="densities", expected="at least one density")
    least, given = min(densities), dict(options)
    if given.get("rounds") is None and given.get("prune") is None:
        given["rounds"] = max(1, math.ceil(round(math.log(least) / math.log(0.8), 9)))
    search = Search.for_density(least, **given)  # type: ignore[arg-type]
    ladder = Ladder(search)
    met: dict[int, float] = {}
    for density in densities:
        rung = ladder.nearest(density)
        if rung.number in met:
            raise InputError(
                f"{met[rung.number]:g} and {density:g} are nearest to the same round, of density {rung.density:.3g}",
                where="densities",
                expected="each density once, or a search of more rounds",
            )
        met[rung.number] = density
    return search


def _experiment(
    name: str, recipe: Recipe, arms: tuple[str, ...], densities: tuple[float, ...], seeds: int | Sequence[int],
    own_arms: Mapping[str, Any], budget: Literal["recipe", "equal-k"], search: Search,
) -> Experiment:  # fmt: skip
    """What is compared, in the words of an experiment file, and checked as one."""
    own: dict[str, Arm] = {}
    for word, content in own_arms.items():
        if isinstance(content, Arm):
            own[word] = content
            continue
        check_keys_of_arm(content, f"arm.{word}")
        own[word] = convert(content, Arm, f"arm.{word}")
    role = f"{name}@{_RECIPE}"
    grid = Grid(sources=(role,), targets=(role,), arms=(*arms, *own), densities=densities, budget=budget)
    experiment = Experiment(
        name="comparison",
        model="given",
        data={name: DataSpec(path=name)},
        recipe={_RECIPE: recipe},
        transfer=(grid,),
        seeds=seeds if isinstance(seeds, int) else tuple(seeds),
        search=search,
        arm=own,
    )
    check(experiment)
    return experiment


def _check_arms(experiment: Experiment, objective: Objective) -> None:
    """Refuse arms that need an experiment file, and scores that look at classes which are not there."""
    check_criterion(experiment.search.criterion, objective.name)
    for name in experiment.transfer[0].arms:
        arm = experiment.arms()[name]
        if arm.needs == "pretraining" or arm.mask == "elastic":
            what = "is pre-trained" if arm.needs == "pretraining" else "has its ticket from another network"
            raise InputError(f"the arm '{name}' {what}", where="arms", expected="an experiment file for this arm")
        if arm.mask in CRITERIA and arm.scored_on_target:
            check_criterion(arm.mask, objective.name)


def _refuse_unjudged(objective: Objective, runtime: Runtime) -> None:
    if objective.metric == "mean-absolute-error":
        raise InputError("metric = 'mean-absolute-error': the less the better", expected="'r2', or its negative")
    if objective.metric is None:
        raise InputError("a loss of your own has no metric to compare", expected="metric=…, of which more is better")
    if runtime.checkpoint is not None:
        raise InputError("runtime has a checkpoint", expected="none: a comparison is many trainings")


@contextmanager
def _places() -> Iterator[None]:
    """A context in which a place in an experiment file is told as the argument that gave it."""
    try:
        yield
    except InputError as error:
        where = error.where or ""
        for prefix in _PLACES:
            where = where.removeprefix(prefix)
        if where == (error.where or ""):
            raise
        raise InputError(error.what, where=where, expected=error.expected, nearest=error.nearest) from None


def _provenance(given: Given, experiment: Experiment, runtime: Runtime) -> Provenance:
    """What the page says of where the networks come from."""
    machine, prunable = this_machine(), sum(map(math.prod, given.shapes.values()))
    facts = [
        ("versions", [", ".join(f"{name} {version}" for name, version in versions().items())]),
        ("machine", [f"{machine.processor}, {runtime.device}"]),
        ("network", [f"{given.name}, {prunable} prunable weights, head '{given.network.head}'"]),
        ("data", [f"{given.data.samples} samples to train on, {given.test.samples} to test on"]),
        ("recipe", [repr(experiment.recipe[_RECIPE])]),
        ("search", [repr(experiment.search)]),
    ]
    return Provenance(facts=facts)
