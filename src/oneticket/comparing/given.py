"""What the laboratory asks for by name, as a user of the library gives it: a network's factory, its data, a ticket."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from oneticket.calling import Inputs, each, outputs_on
from oneticket.census import take_census
from oneticket.data import DataRef
from oneticket.errors import InputError
from oneticket.lab.cells.description import Description, Network
from oneticket.lab.cells.parents import ParentCells, state_of, with_head
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.resolve import ResolvedExperiment, Shapes
from oneticket.lab.spec.experiment import Experiment
from oneticket.masks import Masks
from oneticket.metrics.paths import find_paths
from oneticket.models import ModelSpec
from oneticket.pruning.context import Batches
from oneticket.randomness import Streams, seeded
from oneticket.search import Replayed, Search
from oneticket.training import Recipe
from oneticket.training.evaluation import evaluating
from oneticket.training.examination import check_state, examine
from oneticket.training.objectives import Objective
from oneticket.weights import norm_names

Factory = Callable[[], nn.Module]


class Given:
    """A user's network and data, tried and found fit.

    Parameters
    ----------
    make : gives a new network; its weights come from torch's global generator.
    train_set, test_set, validation : as for :func:`oneticket.transfer`.
    recipe, objective, device : how it is trained and judged, and where.
    head, search : the classifier, and what of the network is pruned.

    Attributes
    ----------
    data, test, validation : batches to train on, to test on, to validate on (None without).
    example : one sample, on the CPU.
    view, network : the prunable weights by name and shape, and the network as cells describe it.

    Raises
    ------
    InputError : as :func:`oneticket.find_ticket` does, and for a factory that gives the same weights twice or the same
        network, or other shapes from one call to the next.
    """

    def __init__(
        self,
        make: Factory,
        train_set: Any,
        test_set: Any,
        validation: Any,
        recipe: Recipe,
        *,
        objective: Objective,
        device: str,
        head: str | None,
        search: Search,
    ) -> None:
        self._make, self.objective = make, objective
        if test_set is train_set or (validation is not None and any(validation is s for s in (train_set, test_set))):
            raise InputError("one set is given twice", where="test_set", expected="samples that no training has seen")
        model = self.drawn(0)
        check_state(model)
        others = {"test_set": test_set, "validation": validation}
        examined = examine(model, train_set, recipe, device=device, objective=objective, evaluated=others)
        self.data, self.test = examined.train_set, examined.evaluated["test_set"]
        self.validation = examined.evaluated.get("validation")
        inputs, _ = next(iter(self.data.ordered()))
        inputs = each(lambda part: part.cpu(), inputs)
        self.example: Inputs = each(lambda part: part[:1], inputs)
        census = take_census(model, inputs, head=head, prune_head=search.prune_head, only=search.prunable, spare=True)
        if told := census.told():
            warnings.warn(told, stacklevel=4)
        view = census.view
        self.name = type(model).__name__
        self.shapes: Shapes = {name: tuple(weight.shape) for name, weight in view.weights()}
        self.is_normalised = bool(norm_names(model))
        with evaluating(model), torch.no_grad():
            classes = outputs_on(model, inputs).shape[-1] if objective.name is not None else 1
        self.network = Network(
            name=self.name,
            options={},
            code="given",
            input=cast("Any", tuple(self.example.shape[1:]) if isinstance(self.example, Tensor) else ()),
            classes=classes,
            head=view.head,
            prune_head=search.prune_head,
            prunable=view.names if census.spared else search.prunable,
        )
        self._check_draws(model)
        self.is_followed = self._is_followed(model)

    def drawn(self, seed: int) -> nn.Module:
        """A new network, whose weights are drawn from ``seed``."""
        with seeded(seed), torch.device("cpu"):
            model = self._make()
        if not isinstance(model, nn.Module):
            raise InputError(f"make_model gives a {type(model).__name__}", expected="a function that gives a module")
        return model

    def _check_draws(self, first: nn.Module) -> None:
        """Refuse a factory whose networks are not drawn anew: every seed would be the same replicate."""
        second = self.drawn(1)
        if second is first:
            raise InputError(
                "make_model gives the same network twice", where="make_model", expected="a new network at each call"
            )
        state, other = state_of(first), state_of(second)
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in other.items()}:
            raise InputError("make_model gives networks of different shapes", where="make_model", expected="equal ones")
        if all(torch.equal(state[name], other[name]) for name in self.shapes):
            raise InputError(
                "make_model gives the same weights twice, so that controls could not draw theirs anew",
                where="make_model",
                expected="weights from torch's generator; for trained ones, a ticket that holds them",
            )

    def _is_followed(self, model: nn.Module) -> bool:
        """Whether connections through the network can be followed, for the effective density."""
        if not isinstance(self.example, Tensor) or not self.example.is_floating_point():
            return False
        try:
            find_paths(
                model, Masks.full({name: torch.empty(shape) for name, shape in self.shapes.items()}), self.example
            )
        except Exception:  # the user's code may raise anything
            return False
        return True


class GivenExperiment(ResolvedExperiment):
    """An experiment whose one network and one data set are given."""

    def __init__(self, experiment: Experiment, given: Given) -> None:
        super().__init__(experiment, Path(), Path())
        self._given = given

    def ref(self, name: str) -> DataRef:
        return DataRef(fingerprint=name, validation=0.0)

    def samples(self, name: str) -> int:
        return self._given.data.samples

    def is_normalised(self, spec: ModelSpec, data: str) -> bool:
        return self._given.is_normalised

    def _built(self, spec: ModelSpec, data: str) -> tuple[Network, Shapes]:
        return self._given.network, self._given.shapes

    def _check_leak(self, source: str, target: str, where: str) -> None:
        """Samples are not compared: only the user knows what they are."""


class GivenParents(ParentCells):
    """Finished cells whose networks and data are given."""

    def __init__(self, store: Store, given: Given, cells: Mapping[str, Description]) -> None:
        super().__init__(store, Path(), None)
        self._given, self._cells = given, cells
        objective = given.objective
        self.loss = None if objective.name == "classification" else objective.loss

    def _description(self, cell: str) -> Description:
        return self._cells[cell]

    def build(self, network: Network, seed: int, *, draw_key: str = "") -> nn.Module:
        streams = Streams(seed)
        model = self._given.drawn(streams.seed("init", *([draw_key] if draw_key else [])))
        headed = self._given.drawn(streams.seed("head"))
        model.load_state_dict(with_head(state_of(model), state_of(headed), network.head))
        return model

    def evidence(self, cell: Description) -> Batches:
        return Replayed(self._given.data, Streams(cell.seed))

    def example(self, network: Network) -> Tensor:
        if not isinstance(self._given.example, Tensor):
            raise InputError("the arm follows connections, for which inputs must be one tensor", where="arms")
        return torch.zeros_like(self._given.example)
