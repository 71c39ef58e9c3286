"""Search and transfer: the science of iterative magnitude pruning, asserted on tensors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import oneticket.finding
from oneticket.data import ImageBatches, ImageSet, Normalisation, TensorBatches
from oneticket.errors import InputError
from oneticket.finding import find_ticket, transfer
from oneticket.masks import Masks
from oneticket.methods.interpolation import Interpolated
from oneticket.randomness import Streams, seeded
from oneticket.search import Search, masked_state
from oneticket.training import Recipe, Start, StepDecay, Training, train

# Networks of 320 weights lose a layer early; one test looks at the warning.
pytestmark = pytest.mark.filterwarnings("ignore:no weight is left:UserWarning")

State = dict[str, Tensor]
RECIPE = Recipe.sgd(epochs=2, lr=0.05, batch_size=16, schedule=StepDecay(at=("1ep2it",)))
ENDS_AT_NOTHING = Recipe.sgd(epochs=2, lr=0.05, batch_size=16, schedule=StepDecay(at=("1ep",), decay=1e-6))
PER_EPOCH = 4
TOTAL = 6 * 20 + 20 * 10  # prunable weights of `Network`, its head apart


class Network(nn.Module):
    """Two hidden layers, one normalised, and a head."""

    def __init__(self, seed: int = 0, classes: int = 3) -> None:
        super().__init__()
        with seeded(seed):
            self.one, self.norm = nn.Linear(6, 20), nn.BatchNorm1d(20)
            self.two, self.head = nn.Linear(20, 10), nn.Linear(10, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.two(self.norm(self.one(inputs)).relu()).relu())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 6, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


@dataclass
class Call:
    """One training of a search: what the network was before and after, and how it was asked for."""

    before: State
    after: State
    options: dict[str, Any]
    result: Training

    @property
    def masks(self) -> Masks | None:
        return self.options.get("masks")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every training that the search asks for, looked at in passing."""
    seen: list[Call] = []

    def looked_at(model: nn.Module, *args: Any, **options: Any) -> Training:
        before = state_of(model)
        result = train(model, *args, **options)
        seen.append(Call(before, state_of(model), options, result))
        return result

    monkeypatch.setattr(oneticket.finding, "train", looked_at)
    return seen


def state_of(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_equal(one: State, two: State) -> None:
    """Equal to the bit."""
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def at_moment(data: Any, moment: str | int, seed: int = 0) -> State:
    """The dense network at a moment of its training, from a training of its own."""
    run = train(Network(), data, RECIPE, seed=seed, snapshots=[moment])
    return next(iter(run.snapshots.values())).state


def largest(state: State, names: list[str], count: int) -> dict[str, set[int]]:
    """Places of the ``count`` weights of largest magnitude, by sorting a list."""
    entries = [(-abs(v), n, i) for n in names for i, v in enumerate(state[n].flatten().tolist())]
    kept = sorted(entries)[:count]
    return {name: {i for _, n, i in kept if n == name} for name in names}


def places(masks: Masks) -> dict[str, set[int]]:
    return {name: set(mask.flatten().nonzero().flatten().tolist()) for name, mask in masks.items()}


# -- the description ---------------------------------------------------------------------------------------------------
def test_each_round_leaves_the_same_fraction() -> None:
    assert Search(rounds=3, prune=0.2).densities() == pytest.approx([1.0, 0.8, 0.64, 0.512])


@pytest.mark.parametrize(
    "wrong",
    [
        {"prune": 0.0},
        {"prune": 1.0},
        {"rounds": 0},
        {"rewind": "soon"},
        {"method": "finetune"},
        {"optimizer_state": "kept"},
        {"norm_statistics": "trained"},
    ],
)
def test_a_search_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Search(**wrong)


# -- rounds ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("density", "options", "ladder"),
    [
        (0.3, {}, [0.8, 0.64, 0.512, 0.4096, 0.32768, 0.3]),
        (0.512, {}, [0.8, 0.64, 0.512]),
        (0.9, {}, [0.9]),
        (0.25, {"prune": 0.5}, [0.5, 0.25]),
        (0.3, {"rounds": 1}, [0.3]),
        (0.25, {"rounds": 2}, [0.5, 0.25]),
        (0.027, {"rounds": 3}, [0.3, 0.09, 0.027]),
        (0.343, {"rounds": 3, "criterion": "random"}, [0.7, 0.49, 0.343]),
    ],
)
def test_densities_are_met_exactly_and_masks_are_nested(
    density: float, options: dict[str, Any], ladder: list[float], data: Any, calls: list[Call]
) -> None:
    ticket = find_ticket(Network(), data, recipe=RECIPE, density=density, **options)
    rounds = [call.masks for call in calls]
    assert rounds[0] is None
    masks = [m for m in rounds if m is not None] + [ticket.masks]
    assert [m.kept for m in masks] == [round(rung * TOTAL) for rung in ladder]
    assert all(later <= earlier and later != earlier for earlier, later in pairwise(masks))
    assert all(m.total == TOTAL for m in masks)
    assert (ticket.provenance.round, ticket.provenance.rounds) == (len(ladder), len(ladder))


def test_five_percent_takes_fourteen_trainings(data: Any, calls: list[Call]) -> None:
    """0.8¹³ = 0.055 and 0.8¹⁴ = 0.044."""
    heard: list[tuple[int, int, Training]] = []
    recipe = Recipe.sgd(epochs=1, batch_size=60)
    find_ticket(Network(), data, recipe=recipe, density=0.05, rewind=0, on_round=lambda *told: heard.append(told))
    assert len(calls) == 14
    assert [(number, rounds) for number, rounds, _ in heard] == [(n, 14) for n in range(14)]
    assert [run for _, _, run in heard] == [call.result for call in calls]


def test_validation_is_told_by_round_and_decides_nothing(data: Any) -> None:
    heard: list[Training] = []
    asked: dict[str, Any] = {"recipe": RECIPE, "density": 0.5, "rounds": 2}
    told = find_ticket(Network(), data, **asked, validation=data, on_round=lambda *facts: heard.append(facts[2]))
    accuracies = [[record.val_accuracy for record in run.history] for run in heard]
    assert len(accuracies) == 2
    assert all(value is not None and 0 < value <= 1 for run in accuracies for value in run)
    assert told == find_ticket(Network(), data, **asked)
    with pytest.raises(InputError, match="validation"):
        find_ticket(Network(), data, **asked, validation=3)
    with pytest.raises(InputError, match="has no metric"):
        find_ticket(Network(), data, **asked, validation=data, loss=lambda model, x, y: model(x).square().mean())


@pytest.mark.parametrize("rewind", [0, "1ep", "3it", "1ep1it"])
def test_a_round_starts_from_the_masked_weights_it_was_rewound_to(
    rewind: str | int, data: Any, calls: list[Call]
) -> None:
    ticket = find_ticket(Network(), data, recipe=RECIPE, density=0.512, rewind=rewind, seed=5)
    w_k = at_moment(data, rewind, seed=5)
    assert len(calls) == 3
    assert_equal(calls[0].before, state_of(Network()))
    for call in calls[1:]:
        assert call.masks is not None
        assert_equal(call.before, masked_state(w_k, call.masks))
        assert call.options["start"].step == str(ticket.provenance.rewind)
        assert call.options["seed"] == 5
        assert call.options["start"].optimizer_state is None
        assert call.options["start"].lr_schedule == "recipe"
    assert_equal({**ticket.weights, **ticket.rest}, masked_state(w_k, ticket.masks))


@pytest.mark.parametrize(("rewind", "steps"), [(0, 8), ("1ep", 4), ("1ep1it", 3)])
def test_a_round_goes_on_with_the_schedule_of_the_rewind_point(
    rewind: str | int, steps: int, data: Any, calls: list[Call]
) -> None:
    find_ticket(Network(), data, recipe=RECIPE, density=0.64, rewind=rewind)
    dense, again = calls[0].result, calls[1].result
    assert (dense.steps, again.steps) == (8, steps)
    assert again.history[-1].lr == dense.history[-1].lr == pytest.approx(0.005)


def test_rewinding_to_zero_gives_the_initial_weights(data: Any) -> None:
    model = Network(seed=7)
    ticket = find_ticket(model, data, recipe=RECIPE, density=0.4, rewind=0)
    for name, mask in ticket.masks.items():
        assert torch.equal(ticket.weights[name], torch.where(mask, model.state_dict()[name], 0.0))
    assert_equal(ticket.rest, {n: t for n, t in state_of(model).items() if n not in ticket.masks})


def test_rewinding_to_one_epoch_gives_the_weights_after_one_epoch(data: Any) -> None:
    model = Network()
    ticket = find_ticket(model, data, recipe=RECIPE, density=0.4, rewind="1ep", seed=2)
    train(model, data, Recipe.sgd(epochs=1, lr=0.05, batch_size=16), seed=2)
    assert_equal({**ticket.weights, **ticket.rest}, masked_state(state_of(model), ticket.masks))


def test_each_round_keeps_the_largest_of_what_it_trained(data: Any, calls: list[Call]) -> None:
    ticket = find_ticket(Network(), data, recipe=RECIPE, density=0.512)
    names = ["one.weight", "two.weight"]
    after = [call.masks for call in calls[1:]] + [ticket.masks]
    for call, masks in zip(calls, after, strict=True):
        assert masks is not None
        assert places(masks) == largest(call.after, names, masks.kept)


def test_one_shot_prunes_the_trained_network_once(data: Any, calls: list[Call]) -> None:
    ticket = find_ticket(Network(), data, recipe=RECIPE, density=0.1, rounds=1)
    assert len(calls) == 1
    assert places(ticket.masks) == largest(calls[0].after, ["one.weight", "two.weight"], 32)


def test_masked_weights_are_zero_through_every_round(data: Any, calls: list[Call]) -> None:
    find_ticket(Network(), data, recipe=RECIPE, density=0.512)
    for call in calls[1:]:
        assert call.masks is not None
        for name, mask in call.masks.items():
            assert torch.count_nonzero(call.after[name][~mask]) == 0
            assert not torch.equal(call.after[name], call.before[name])


# -- methods -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["fine-tune", "lr-rewind"])
def test_the_other_methods_go_on_from_the_trained_weights(method: Any, data: Any, calls: list[Call]) -> None:
    """Renda et al. 2020: fine-tuning at the last learning rate; learning-rate rewinding on the schedule of step k."""
    ticket = find_ticket(Network(), data, recipe=RECIPE, density=0.512, rewind="1ep", method=method)
    for before, call in pairwise(calls):
        assert call.masks is not None
        assert_equal(call.before, masked_state(before.after, call.masks))
        if method == "fine-tune":
            assert call.options["start"].lr_schedule == "last"
            assert call.result.steps == 8, "the whole recipe again"
            assert [record.lr for record in call.result.history] == pytest.approx([0.005, 0.005])
        else:
            assert call.options["start"].step == "1ep"
            assert call.result.steps == 4
            assert call.options["start"].lr_schedule == "recipe"
    assert_equal({**ticket.weights, **ticket.rest}, masked_state(at_moment(data, "1ep"), ticket.masks))


def test_the_optimisers_memory_can_be_rewound_too(data: Any, calls: list[Call]) -> None:
    find_ticket(Network(), data, recipe=RECIPE, density=0.512, optimizer_state="rewound")
    dense = train(Network(), data, RECIPE, snapshots=["1ep"]).snapshots["1ep"].optimizer
    assert dense
    for call in calls[1:]:
        assert_equal(call.options["start"].optimizer_state, dense)


def test_rewound_memory_changes_what_is_found(data: Any, calls: list[Call]) -> None:
    for memory in ("fresh", "rewound"):
        find_ticket(Network(), data, recipe=RECIPE, density=0.64, optimizer_state=memory)  # type: ignore[arg-type]
    fresh, rewound = calls[1], calls[3]
    assert_equal(fresh.before, rewound.before)
    assert not torch.equal(fresh.after["one.weight"], rewound.after["one.weight"])


def test_fine_tuning_has_no_memory_to_rewind(data: Any, calls: list[Call]) -> None:
    find_ticket(Network(), data, recipe=RECIPE, density=0.512, optimizer_state="rewound", method="fine-tune")
    assert all("optimizer_state" not in call.options for call in calls)


@pytest.mark.parametrize(("kind", "moment"), [("rewound", "1ep"), ("fresh", 0)])
def test_normalisation_statistics_are_never_those_of_the_trained_network(
    kind: Any, moment: str | int, data: Any, calls: list[Call]
) -> None:
    find_ticket(Network(), data, recipe=RECIPE, density=0.512, norm_statistics=kind)
    expected, w_k = at_moment(data, moment), at_moment(data, "1ep")
    statistics = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    for call in calls[1:]:
        assert_equal({n: call.before[n] for n in statistics}, {n: expected[n] for n in statistics})
        assert torch.equal(call.before["norm.weight"], w_k["norm.weight"])
        assert not torch.equal(call.before["norm.running_mean"], calls[0].after["norm.running_mean"])


def test_norms_are_interpolated_to_fresh_ones_in_every_round_but_the_dense_training(
    data: Any, calls: list[Call]
) -> None:
    """Each round is the training with that callback, from the parameters with which the round before has ended."""
    options: dict[str, Any] = {"recipe": RECIPE, "density": 0.512, "method": "lr-rewind"}
    find_ticket(Network(), data, **options, norms="interpolated")
    mixed = list(calls)
    calls.clear()
    find_ticket(Network(), data, **options)
    names = ["norm.weight", "norm.bias"]
    assert_equal(mixed[0].after, calls[0].after)
    assert len(mixed) == len(calls) == 3
    for (before, call), without in zip(pairwise(mixed), calls[1:], strict=True):
        (callback,) = call.options["start"].callbacks
        model = Network()
        model.load_state_dict(call.before)
        trained, fresh = ({name: state[name] for name in names} for state in (before.after, Network().state_dict()))
        plain = {**call.options, "start": Start(step="1ep"), "callbacks": [Interpolated(trained, fresh)]}
        train(model, data, RECIPE, **plain)
        assert isinstance(callback, Interpolated)
        assert_equal(dict(model.state_dict()), call.after)
        assert not torch.equal(call.after["norm.weight"], without.after["norm.weight"])


# -- what may be pruned --------------------------------------------------------------------------------------------
def test_the_head_is_spared_unless_it_is_asked_for(data: Any) -> None:
    options: dict[str, Any] = {"recipe": RECIPE, "density": 0.5, "rounds": 1}
    assert list(find_ticket(Network(), data, **options).masks) == ["one.weight", "two.weight"]
    pruned = find_ticket(Network(), data, **options, prune_head=True)
    assert list(pruned.masks) == ["one.weight", "two.weight", "head.weight"]
    assert pruned.masks.kept == round(0.5 * (TOTAL + 30))
    other = find_ticket(Network(), data, **options, head="two")
    assert list(other.masks) == ["one.weight", "head.weight"]
    assert (other.head, pruned.head) == ("two", "head")
    only = find_ticket(Network(), data, **options, prunable=("two.weight",))
    assert (list(only.masks), only.masks.kept) == (["two.weight"], 100)


def test_the_criterion_and_the_allocation_are_the_ones_asked_for(data: Any, calls: list[Call]) -> None:
    at_init = find_ticket(Network(), data, recipe=RECIPE, density=0.3, rounds=2, criterion="magnitude-init")
    assert places(at_init.masks) == largest(calls[0].before, ["one.weight", "two.weight"], 96)
    layerwise = find_ticket(Network(), data, recipe=RECIPE, density=0.3, rounds=2, allocation="layerwise")
    assert layerwise.masks.densities() == pytest.approx({"one.weight": 0.3, "two.weight": 0.3})


def test_random_pruning_follows_the_seed_and_differs_between_rounds(data: Any, calls: list[Call]) -> None:
    def found(seed: int) -> Masks:
        return find_ticket(Network(), data, recipe=RECIPE, density=0.25, rounds=2, criterion="random", seed=seed).masks

    assert found(0) == found(0)
    assert found(0).overlap(found(1)) < 0.4
    # With one draw for all rounds, the best quarter would be the best half of the best half.
    at_once = find_ticket(Network(), data, recipe=RECIPE, density=0.25, rounds=1, criterion="random", seed=0)
    assert at_once.masks.overlap(found(0)) < 0.7


def test_a_collapsed_layer_is_told(data: Any) -> None:
    model = Network()
    with torch.no_grad():
        model.two.weight.mul_(1e-6)
    recipe = Recipe.sgd(epochs=1, lr=1e-9, batch_size=60)
    with pytest.warns(UserWarning, match=r"no weight is left in two\.weight \(layer collapse\)"):
        ticket = find_ticket(model, data, recipe=recipe, density=0.2, rounds=1)
    assert ticket.masks.collapsed() == ["two.weight"]


def test_a_sound_ticket_is_no_reason_to_warn(data: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_ticket(Network(), data, recipe=RECIPE, density=0.5)


# -- what it leaves alone, and what it says ------------------------------------------------------------------------
def test_the_users_model_is_not_changed(data: Any) -> None:
    model = Network().eval()
    before, random_state = state_of(model), torch.get_rng_state()
    find_ticket(model, data, recipe=RECIPE, density=0.5)
    assert_equal(state_of(model), before)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_same_search_finds_the_same_ticket(data: Any) -> None:
    one = find_ticket(Network(), data, recipe=RECIPE, density=0.4, seed=1)
    assert find_ticket(Network(), data, recipe=RECIPE, density=0.4, seed=1) == one
    assert find_ticket(Network(), data, recipe=RECIPE, density=0.4, seed=2).masks != one.masks


def test_provenance_tells_how_the_ticket_was_found(data: Any) -> None:
    ticket = find_ticket(Network(), data, recipe=RECIPE, density=0.5, rewind="3it", seed=9, name="synthetic")
    told = ticket.provenance
    assert (told.model, told.rewind, told.seed, told.density_asked) == ("Network", "3it", 9, 0.5)
    assert (told.criterion, told.allocation) == ("magnitude", "global")
    assert told.versions.keys() == {"oneticket", "torch", "python"}
    (seen,) = told.seen
    assert (seen.name, seen.split, seen.samples) == ("synthetic", "train", 60)
    assert (seen.recipe["optimizer"], seen.recipe["batch_size"]) == ("sgd", 16)


class Rows(Dataset[tuple[Tensor, int]]):
    """A map-style dataset that remembers which rows were asked for."""

    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.data, self.asked = data, list[int]()

    def __len__(self) -> int:
        return len(self.data[1])

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        self.asked.append(row)
        return self.data[0][row], int(self.data[1][row])


def test_every_kind_of_data_gives_the_same_ticket_and_is_counted(data: Any) -> None:
    kinds: list[Any] = [data, list(data), Rows(data), TensorBatches(*data, 16)]
    tickets = [find_ticket(Network(), kind, recipe=RECIPE, density=0.5, rounds=1) for kind in kinds]
    assert all(ticket == tickets[0] for ticket in tickets)
    assert [ticket.provenance.seen[0].samples for ticket in tickets] == [60] * 4


def images(seed: int, offset: int = 0, samples: int = 40, classes: int = 3) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 120, (samples, 1, 2, 3), dtype=torch.uint8, generator=generator) + offset
    return ImageSet(pixels, torch.arange(samples) % classes, tuple("abcde"[:classes]))


class Flat(Network):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.flatten(1))


def test_of_images_classes_and_shape_are_remembered() -> None:
    seen = find_ticket(Flat(), images(0), recipe=RECIPE, density=0.5, rounds=1).provenance.seen[0]
    assert (seen.samples, seen.classes, seen.input_shape) == (40, 3, (1, 2, 3))


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"density": 0.0}, "density = 0.0"),
        ({"density": 1.0}, "density = 1.0"),
        ({"density": -0.1}, "density = -0.1"),
        ({"density": 5.0}, "density = 5.0"),
        ({"density": float("nan")}, "density = nan"),
        ({"density": 0.001}, "leaves none of the 320 weights"),
        ({"prune": 0.0}, "prune = 0.0"),
        ({"prune": 1.0}, "prune = 1.0"),
        ({"prune": -0.5}, "prune = -0.5"),
        ({"prune": 20.0}, "prune = 20.0"),
        ({"rounds": 0}, "rounds = 0"),
        ({"rewind": "soon"}, "'soon' is not a valid moment"),
        ({"rewind": "3ep"}, "rewind = 3ep leaves no step to train"),
        ({"rewind": "2ep"}, "rewind = 2ep leaves no step to train"),
        ({"method": "fine-tune", "recipe": ENDS_AT_NOTHING}, "fine-tuning would have the learning rate 5e-08"),
        ({"method": "finetune"}, "did you mean 'fine-tune'"),
        ({"optimizer_state": "kept"}, "unknown optimizer_state 'kept'"),
        ({"norm_statistics": "trained"}, "unknown norm_statistics 'trained'"),
        ({"norms": "interpolate"}, "did you mean 'interpolated'"),
        ({"criterion": "magnitud"}, "did you mean 'magnitude'"),
        ({"allocation": "globl"}, "did you mean 'global'"),
        ({"head": "heads"}, "no layer 'heads'"),
        ({"prunable": ("three.weight",)}, r"no parameter 'three\.weight'"),
        ({"rescale": "layer", "method": "fine-tune"}, "'layer' with method = 'fine-tune'.*factors .* would multiply"),
        ({"rescale": "fan-in", "method": "lr-rewind"}, "method = 'rewind', or rescale = 'none' or 'data'"),
        ({"rescale": "smup", "method": "lr-rewind"}, "'smup' with method = 'lr-rewind'"),
    ],
)
def test_what_cannot_be_found_is_refused_before_anything_is_trained(
    wrong: dict[str, Any], fault: str, data: Any, calls: list[Call]
) -> None:
    with pytest.raises(InputError, match=fault):
        find_ticket(Network(), data, **{"recipe": RECIPE, **wrong})
    assert not calls


@pytest.mark.parametrize(
    ("rescale", "method"),
    [("none", "fine-tune"), ("data", "lr-rewind"), ("data", "fine-tune"), ("layer", "rewind"), ("fan-in", "rewind")],
)
def test_a_round_may_be_rescaled_where_no_factors_multiply(rescale: str, method: Any, data: Any) -> None:
    assert find_ticket(Network(), data, recipe=RECIPE, density=0.4, rounds=2, rescale=rescale, method=method).masks.kept


def test_a_network_with_a_doubtful_head_says_how_to_name_it(calls: list[Call]) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(self.body(x).relu()) + self.two(self.body(x).relu())

    batch = torch.randn(8, 4), torch.arange(8) % 3
    with pytest.raises(InputError, match=r"head: the head of Two can't be found.*'one', 'two' together.*head="):
        find_ticket(Two(), batch, recipe=RECIPE)
    assert not calls
    assert list(find_ticket(Two(), batch, recipe=RECIPE, head="two", rounds=1).masks) == ["body.weight", "one.weight"]


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_convolution_that_gives_the_classes_is_the_head() -> None:
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ticket = find_ticket(nn.Sequential(*layers), (torch.randn(8, 1, 5, 5), torch.arange(8) % 3), recipe=RECIPE)
    assert (ticket.head, list(ticket.masks)) == ("2", ["0.weight"])


class Surprising(nn.Module):
    """A classifier declared first, a layer that is never used, a frozen one and one of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.spare = nn.Linear(6, 3), nn.Linear(4, 9)
        self.frozen, self.own = nn.Linear(4, 6), nn.Parameter(torch.eye(6) + 0.1)
        self.frozen.requires_grad_(False)
        self.moves = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.moves((self.frozen(x) @ self.own).relu()).relu())


def test_what_is_counted_but_does_not_compute_is_told_once(recwarn: pytest.WarningsRecorder) -> None:
    batch = torch.randn(8, 4), torch.arange(8) % 3
    ticket = find_ticket(Surprising(), batch, recipe=RECIPE, density=0.5, rounds=1)
    assert ticket.head == "classifier"
    assert list(ticket.masks) == ["spare.weight", "moves.weight"]
    (told,) = recwarn
    assert told.filename == __file__
    text = str(told.message)
    assert "never uses 'spare.weight', which hold 36 of the 72 prunable weights" in text
    assert "'frozen.weight' are frozen or adapters (LoRA) and are not pruned" in text
    assert "'own' are not prunable and stay dense, 36 weights: density 0.5 of what is prunable is 0.667 of all" in text


def test_watching_changes_nothing_of_the_network_or_the_random_state() -> None:
    """A batch runs once more than before, in a copy: the same ticket as with the head named."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 6), nn.Linear(6, 3))

    batch = torch.randn(8, 4), torch.arange(8) % 3
    one, two = network(), network()
    torch.manual_seed(7)
    watched = find_ticket(one, batch, recipe=RECIPE, density=0.4, rounds=2)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    named = find_ticket(two, batch, recipe=RECIPE, density=0.4, rounds=2, head="4")
    assert watched == named
    assert torch.equal(torch.rand(3), drawn)
    assert_equal(state_of(one), state_of(network()))


# -- transfer --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ticket(data: Any) -> Iterator[Any]:
    return find_ticket(Network(), data, recipe=RECIPE, density=0.4, rounds=2)


def test_a_transfer_finds_a_head_of_another_name_by_watching(ticket: Any, data: Any) -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes, self.one, self.norm, self.two = (
                getattr(Network(5), n) for n in ("head", "one", "norm", "two")
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.classes(self.two(self.norm(self.one(x)).relu()).relu())

    model = Renamed()
    with pytest.raises(InputError, match="model_head="):
        ticket.put_into(model)
    fresh = [name for name, _ in transfer(ticket, model, data, recipe=RECIPE).placement.fresh]
    assert fresh == ["classes.weight", "classes.bias"]


def test_a_transfer_trains_the_tickets_weights_under_its_masks(ticket: Any, data: Any, calls: list[Call]) -> None:
    model = Network(seed=11)
    result = transfer(ticket, model, data, recipe=RECIPE, seed=4)
    (call,) = calls
    assert call.masks == ticket.masks == result.placement.masks
    for name, weight in ticket.weights.items():
        assert torch.equal(call.before[name], weight)
        assert torch.equal(model.state_dict()[name] != 0, ticket.masks[name])
    assert torch.equal(call.before["norm.running_mean"], ticket.rest["norm.running_mean"])
    assert call.options["seed"] == 4
    assert (result.test_accuracy, result.test_loss) == (None, None)
    assert result.training.steps == 8


def test_the_head_is_fresh_also_where_source_is_target(ticket: Any, data: Any, calls: list[Call]) -> None:
    source = Network()
    source.load_state_dict({**ticket.weights, **ticket.rest})
    own = source.head.weight.detach().clone()
    transfer(ticket, source, data, recipe=RECIPE, seed=4)
    with seeded(Streams(4).seed("head")):
        drawn = nn.Linear(10, 3)
    assert torch.equal(calls[0].before["head.weight"], drawn.weight)
    assert torch.equal(calls[0].before["head.bias"], drawn.bias)
    assert not torch.equal(calls[0].before["head.weight"], own)


def test_the_head_may_be_kept_or_copied(ticket: Any, data: Any, calls: list[Call]) -> None:
    model = Network(seed=11)
    own = model.head.weight.detach().clone()
    transfer(ticket, copy.deepcopy(model), data, recipe=RECIPE, head="keep")
    transfer(ticket, copy.deepcopy(model), data, recipe=RECIPE, head="copied")
    assert torch.equal(calls[0].before["head.weight"], own)
    assert torch.equal(calls[1].before["head.weight"], ticket.rest["head.weight"])


def test_another_number_of_classes(ticket: Any, data: Any) -> None:
    model = Network(seed=11, classes=5)
    result = transfer(ticket, model, (data[0], data[1] + 2), recipe=RECIPE, test_set=(data[0], data[1] + 2))
    assert model.head.weight.shape == (5, 10)
    assert result.placement.density == pytest.approx(0.4)
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0


def test_the_test_split_is_touched_once_after_the_last_step(ticket: Any, data: Any) -> None:
    test_set = Rows(data)
    model = Network(seed=11)
    touched: list[int] = []
    steps = 0

    def stepped(*_: object) -> None:
        nonlocal steps
        steps += model.training
        touched.append(len(test_set.asked))

    model.register_forward_pre_hook(stepped)
    result = transfer(ticket, model, data, recipe=RECIPE, test_set=test_set, validation=data)
    assert touched[: steps + 2] == [0] * (steps + 2), "neither training nor validation sees it"
    assert steps == 8
    assert test_set.asked == list(range(60))
    with torch.no_grad():
        logits = model.eval()(data[0])
    assert result.test_accuracy == (logits.argmax(1) == data[1]).double().mean().item()
    assert result.test_loss == pytest.approx(F.cross_entropy(logits, data[1]).item(), rel=1e-5)
    assert result.training.history[-1].val_accuracy == result.test_accuracy, "here the same samples"


@pytest.mark.parametrize("batched", [False, True])
def test_test_images_are_normalised_with_the_statistics_of_the_training_images(batched: bool, ticket: Any) -> None:
    """Their own statistics would hide that they are brighter; a source of batches brings those it trains with."""
    train_set, test_set = images(0), images(1, offset=100)
    known = Normalisation.of(train_set)
    given: Any = ImageBatches(train_set, 16, normalisation=known) if batched else train_set
    model = Flat(seed=11)
    result = transfer(ticket, model, given, recipe=RECIPE, test_set=test_set, validation=test_set)
    pixels = (test_set.images.float() / 255 - known.mean[0]) / known.std[0]
    with torch.no_grad():
        expected = F.cross_entropy(model.eval()(pixels), test_set.labels).item()
    assert result.test_loss == pytest.approx(expected, rel=1e-4)
    assert result.training.history[-1].val_loss == pytest.approx(expected, rel=1e-4)
    assert result.test_loss != pytest.approx(
        transfer(ticket, Flat(seed=11), given, recipe=RECIPE, test_set=images(1)).test_loss, rel=1e-2
    )


# -- the claim -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_on_digits_a_ticket_beats_a_random_one() -> None:
    """Frankle & Carbin 2019, on 1,797 images of 8 × 8: at 5 % the ticket's accuracy is clearly the better."""
    from sklearn.datasets import load_digits

    from oneticket.models.lenet import lenet_300_100

    pixels, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    train_set, test_set = (inputs[:1400], targets[:1400]), (inputs[1400:], targets[1400:])
    recipe = Recipe.adam(epochs=6, lr=2e-3, batch_size=64)
    gains = []
    for seed in range(3):
        with seeded(seed):
            model = lenet_300_100((1, 8, 8), 10)
        found = find_ticket(model, train_set, recipe=recipe, density=0.01, rewind=0, seed=seed)
        shuffled = found.masks.permuted(torch.Generator().manual_seed(seed), within="network")
        with seeded(seed + 100):
            redrawn = lenet_300_100((1, 8, 8), 10)
        train(redrawn, train_set, recipe, masks=shuffled, seed=seed)
        won = transfer(found, copy.deepcopy(model), train_set, recipe=recipe, test_set=test_set, seed=seed)
        assert won.test_accuracy is not None
        gains.append(won.test_accuracy - oneticket.finding.evaluate(redrawn, test_set)[0])
    assert min(gains) > 0.1
