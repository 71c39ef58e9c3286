"""Traps that public code fell into, one test each, on the code that people run. Nothing here stands in for it."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oneticket as ot
from oneticket.data import ImageSet, Normalisation, TensorBatches
from oneticket.data.derivations import Selection, ShuffledLabels, View
from oneticket.errors import InputError
from oneticket.lab.cells.description import ArmStart
from oneticket.lab.cells.run import Workplace, run_cell
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks, load_state
from oneticket.lab.planning.plan import make_plan
from oneticket.lab.spec.experiment import load_experiment, read_experiment
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.pruning import ScoreContext, prune
from oneticket.randomness import Streams, seeded
from oneticket.training import Checkpoint, MaskKeeper, evaluate

State = dict[str, Tensor]
Data = tuple[Tensor, Tensor]


class Network(nn.Module):
    """A convolution, a normalisation, a hidden layer and a head."""

    def __init__(self, seed: int = 0, classes: int = 4) -> None:
        super().__init__()
        with seeded(seed):
            self.conv, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
            self.hidden, self.head = nn.Linear(54, 12), nn.Linear(12, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images)).relu().flatten(1)
        return self.head(self.hidden(maps).relu())  # type: ignore[no-any-return]


TOTAL = 6 * 9 + 54 * 12
RECIPE = ot.Recipe.sgd(epochs=2, lr=0.05, batch_size=8, weight_decay=0.01)


@pytest.fixture(scope="module")
def data() -> Data:
    """29 images in 4 classes: batches of 8, the last one of 5."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(29, 1, 5, 5, generator=generator), torch.arange(29) % 4


def by_magnitude(model: nn.Module, density: float) -> Masks:
    return prune(Prunable(model), ScoreContext(), criterion="magnitude", allocation="global", density=density)


def a_ticket(model: nn.Module, density: float = 0.3) -> ot.Ticket:
    masks = by_magnitude(model, density)
    state = model.state_dict()
    rest = {name: value for name, value in state.items() if name not in masks}
    return ot.Ticket(masks, {name: state[name] for name in masks}, rest, head="head")


def state_of(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


# -- counting ------------------------------------------------------------------------------------------------------
def test_trap_one_weight_too_many_is_pruned() -> None:
    model = nn.Sequential(nn.Linear(10, 1, bias=False), nn.Linear(1, 2))
    model[0].weight.data = torch.tensor([[5.0, 1, 8, 3, 10, 2, 7, 4, 9, 6]])
    assert by_magnitude(model, 0.7)["0.weight"].tolist() == [
        [True, False, True, False, True, False, True, True, True, True]
    ]


def test_trap_all_weights_are_pruned_when_magnitudes_tie() -> None:
    model = Network()
    for _, weight in Prunable(model).weights():
        nn.init.constant_(weight, -0.25)
    assert by_magnitude(model, 0.5).kept == TOTAL // 2


@pytest.mark.parametrize("density", [0.9, 0.3333, 0.1, 0.0123])
def test_trap_achieved_density_is_not_the_one_asked_for(density: float, data: Data) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a layer may be gone at the lowest
        ticket = ot.find_ticket(Network(), data, recipe=RECIPE, density=density, rounds=2)
    assert abs(ticket.masks.kept - density * TOTAL) <= 0.5
    model = Network(seed=1)
    ot.transfer(ticket, model, data, recipe=RECIPE)
    kept = sum(int(torch.count_nonzero(weight)) for _, weight in Prunable(model).weights())
    assert kept == ticket.masks.kept


def test_trap_densities_of_erk_are_wrong_where_layers_saturate() -> None:
    """Layers that would be denser than 1 are dense, and the others share what is left in their proportions."""
    shapes = {"0.weight": (4, 3, 3, 3), "1.weight": (8, 4, 3, 3), "2.weight": (60, 50), "3.weight": (80, 60)}
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Linear(50, 60), nn.Linear(60, 80), nn.Linear(80, 2)
    )
    sizes = {name: weight.numel() for name, weight in model.named_parameters() if name in shapes}
    assert {name: tuple(dict(model.named_parameters())[name].shape) for name in shapes} == shapes
    budget, dense = Fraction(round(0.4 * sum(sizes.values()))), set[str]()
    while True:  # Evci et al. 2020, §3, solved in fractions
        free = [name for name in shapes if name not in dense]
        scale = (budget - sum(sizes[name] for name in dense)) / sum(sum(shapes[name]) for name in free)
        over = {name for name in free if scale * sum(shapes[name]) > sizes[name]}
        if not over:
            break
        dense |= over
    expected = {name: 1.0 if name in dense else float(scale * sum(shapes[name]) / sizes[name]) for name in shapes}
    assert dense == {"0.weight"}, "one layer saturates, so that the others are scaled anew"
    masks = prune(Prunable(model), ScoreContext(), criterion="magnitude", allocation="erk", density=0.4)
    for name, density in masks.densities().items():
        assert abs(density - expected[name]) <= 1 / sizes[name], name


# -- masks while training ------------------------------------------------------------------------------------------
OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "decay": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.5),
}


def assert_masked_stay_zero(optimizer_name: str, data: Data) -> None:
    """A dense training fills the optimiser's memory; then its masks come, and any user's loop goes on."""
    model = Network()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()

    for _ in range(3):
        step()
    masks = by_magnitude(model, 0.3)
    pairs = [(weight, masks[name]) for name, weight in Prunable(model).weights()]
    assert all(bool((weight[~mask] != 0).any()) for weight, mask in pairs)
    with MaskKeeper(optimizer, pairs):
        for _ in range(5):
            before = model.hidden.weight.detach().clone()
            step()
            assert all(torch.count_nonzero(weight.detach()[~mask]) == 0 for weight, mask in pairs)
            assert not torch.equal(model.hidden.weight, before)


def test_trap_weights_come_back_through_momentum(data: Data) -> None:
    assert_masked_stay_zero("momentum", data)


def test_trap_weights_come_back_through_adam(data: Data) -> None:
    assert_masked_stay_zero("adam", data)


def test_trap_weights_come_back_through_weight_decay(data: Data) -> None:
    """Masked gradients alone let a weight fade away under its decay, without ever being zero."""
    assert_masked_stay_zero("decay", data)


def test_trap_negative_weights_are_frozen_by_a_missing_abs(data: Data) -> None:
    """They are neither the first to be pruned nor, once kept, left out of training."""
    model = Network()
    with torch.no_grad():
        model.hidden.weight += model.hidden.weight.sign()
    masks = by_magnitude(model, 0.95)
    assert bool(masks["hidden.weight"].all()), "the largest magnitudes, half of them negative"
    before = model.hidden.weight.detach().clone()
    ot.train(model, data, ot.Recipe.sgd(epochs=2, lr=0.05, weight_decay=0.0), masks=masks)
    moved = model.hidden.weight != before
    assert moved[before < 0].double().mean() > 0.9
    assert moved[before > 0].double().mean() > 0.9


def test_trap_deepcopy_or_pickle_of_a_pruned_model_fails(data: Data) -> None:
    ticket, model = a_ticket(Network()), Network(seed=1)
    ticket.put_into(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    copies: list[nn.Module] = []
    with ticket.kept(optimizer):
        F.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
        copies += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    ot.train(model, data, RECIPE, masks=ticket.masks)
    copies += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for other in copies:
        assert list(other.state_dict()) == list(Network().state_dict()), "the keys of an ordinary network"
        assert all(torch.count_nonzero(other.get_parameter(n)[~mask]) == 0 for n, mask in ticket.masks.items())
        ot.train(other, data, RECIPE, masks=ticket.masks)
    assert pickle.loads(pickle.dumps(ticket)) == copy.deepcopy(ticket) == ticket


# -- rewinding -----------------------------------------------------------------------------------------------------
@dataclass
class Rounds:
    """A search as its network saw it: the state at the first forward pass of each training, W_0, W_k and W_T."""

    starts: list[State]
    initial: State
    rewound: State
    trained: State
    ticket: ot.Ticket


@pytest.fixture(scope="module")
def rounds(data: Data) -> Rounds:
    model, twin, starts = Network(), Network(), list[State]()
    begins = [True]

    def look(module: nn.Module, _: Any) -> None:
        if begins:
            begins.clear()
            starts.append(state_of(module))

    model.register_forward_pre_hook(look)  # a copy of the network has it too
    ticket = ot.find_ticket(
        model, data, recipe=RECIPE, density=0.2, rounds=3, rewind="1ep", on_round=lambda *_: begins.append(True)
    )
    run = ot.train(twin, data, RECIPE, snapshots=["1ep"])
    assert len(starts) == 3
    return Rounds(starts, state_of(Network()), run.snapshots["1ep"].state, state_of(twin), ticket)


def test_trap_a_reset_does_not_happen(rounds: Rounds) -> None:
    for name in rounds.ticket.masks:
        assert torch.equal(rounds.starts[0][name], rounds.initial[name])
        for start in rounds.starts[1:]:
            kept = start[name] != 0
            assert 0 < int(kept.sum()) < kept.numel()
            assert torch.equal(start[name][kept], rounds.rewound[name][kept])
            assert bool((start[name][kept] != rounds.trained[name][kept]).all())
    for name in ("conv.bias", "norm.weight", "norm.bias", "hidden.bias", "head.weight", "head.bias"):
        for start in rounds.starts[1:]:
            assert torch.equal(start[name], rounds.rewound[name]), name
            assert not torch.equal(start[name], rounds.trained[name]), name


def test_trap_normalisation_statistics_of_the_trained_network_are_left_over(rounds: Rounds) -> None:
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        for state in (*rounds.starts[1:], rounds.ticket.rest):
            assert torch.equal(state[name], rounds.rewound[name]), name
            assert not torch.equal(state[name], rounds.trained[name]), name


def test_trap_a_collapsed_layer_is_not_reported(data: Data) -> None:
    model = Network()
    with torch.no_grad():
        model.hidden.weight.mul_(1e-9)
    recipe = ot.Recipe.sgd(epochs=1, lr=1e-12)
    with pytest.warns(UserWarning, match=r"no weight is left in hidden\.weight"):
        ticket = ot.find_ticket(model, data, recipe=recipe, density=0.05, rounds=1)
    assert ticket.masks.collapsed() == ["hidden.weight"]


def test_trap_shortcuts_are_pruned_away_without_a_word(data: Data) -> None:
    model = build(ModelSpec(name="resnet20", options={"width": 0.25}), input_shape=(1, 5, 5), classes=4, seed=0)
    shortcuts = [name for name, weight in Prunable(model).weights() if weight.shape[2:] == (1, 1)]
    assert len(shortcuts) == 2, "pruned like every other convolution"
    with torch.no_grad():
        model.get_parameter(shortcuts[1]).mul_(1e-9)
    recipe = ot.Recipe.sgd(epochs=1, lr=1e-12, batch_size=29)
    with pytest.warns(UserWarning, match="no weight is left in " + shortcuts[1].replace(".", r"\.")):
        ot.find_ticket(model, data, recipe=recipe, density=0.5, rounds=1)


# -- arms ----------------------------------------------------------------------------------------------------------
SMALL = """
name = "traps"
model = { name = "conv-2", options = { width = 0.06, norm = "batch" } }
seeds = 1
[data.digits]
builtin = "digits"
per_class = 12
[recipe.sgd]
optimizer = "sgd"
lr = 0.05
epochs = 2
batch_size = 32
[search]
rounds = 2
prune = 0.5
rewind = "1ep"
[[transfer]]
sources = ["digits@sgd"]
targets = ["digits@sgd"]
arms = ["winning", "random", "preserved", "layer-permuted"]
densities = [0.25]
"""


@dataclass
class Arms:
    """What each arm of a small experiment started from, by arm; masks; and the dense training they all stem from."""

    starts: dict[str, State]
    masks: dict[str, Masks]
    initial: State
    rewound: State


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Arms:
    """Every cell of the plan computed as a worker does; the arms keep a snapshot of their first moment."""
    folder = tmp_path_factory.mktemp("traps")
    (folder / "experiment.toml").write_text(SMALL)
    store = Store.open(folder / "store", create=True)
    workplace = Workplace(store=str(store.root), cache=str(folder / "cache"), folder=str(folder))
    plan = make_plan(load_experiment(folder / "experiment.toml"), folder=folder, cache=folder / "cache")
    names = {row.cell: row.arm for row in plan.rows}
    found = Arms({}, {}, {}, {})
    for identity, cell in plan.cells.items():
        working = store.root / "working" / identity
        working.mkdir()
        if isinstance(cell.start, ArmStart):
            run_cell(msgspec.structs.replace(cell, snapshots=("0it",)), workplace, working)
            found.starts[names[identity]] = load_state(working / "weights-0it.safetensors")
            found.masks[names[identity]] = load_masks(working / "masks.safetensors")
            continue
        store.commit(identity, working, run_cell(cell, workplace, working))
        if names.get(identity) == "dense":
            found.rewound = load_state(store.folder(identity) / "weights-1ep.safetensors")
            first = run_cell(msgspec.structs.replace(cell, snapshots=("0it",)), workplace, folder)
            assert first["outcome"]["density"] == 1.0
            found.initial = load_state(folder / "weights-0it.safetensors")
    assert found.starts.keys() == {"winning", "random", "preserved", "layer-permuted"}
    return found


def test_trap_the_random_arms_weights_are_never_redrawn(arms: Arms) -> None:
    for arm in ("random", "preserved", "layer-permuted"):
        for name, mask in arms.masks[arm].items():
            kept = arms.starts[arm][name][mask]
            assert len(kept) > 3
            assert bool((kept != 0).all())
            for other in (arms.initial, arms.rewound):
                assert bool((kept != other[name][mask]).all()), f"{arm}: {name}"
    for name, mask in arms.masks["winning"].items():
        assert torch.equal(arms.starts["winning"][name][mask], arms.rewound[name][mask])


def test_trap_normalisation_is_pruned_or_permuted(arms: Arms) -> None:
    """A public reproduction of the paper masked the gains: its random tickets fell to chance for that alone."""
    gains = [name for name in arms.initial if name.startswith("features.norm") and name.endswith("weight")]
    assert len(gains) == 2
    for arm, start in arms.starts.items():
        assert not [name for name in arms.masks[arm] if "norm" in name or "bias" in name or "head" in name]
        for name in gains:
            expected = arms.rewound[name] if arm == "winning" else torch.ones_like(start[name])
            assert torch.equal(start[name], expected), f"{arm}: {name}"
        assert torch.equal(start["head.weight"], arms.initial["head.weight"]), "nor the head"


def test_trap_a_shuffle_shuffles_nothing(arms: Arms, data: Data) -> None:
    # the masks of the arms
    ticket = arms.masks["winning"]
    assert arms.masks["preserved"] == ticket
    for arm in ("random", "layer-permuted"):
        assert arms.masks[arm].kept == ticket.kept
        assert all(not torch.equal(arms.masks[arm][name], mask) for name, mask in ticket.items()), arm
    assert arms.masks["random"].densities() != ticket.densities()
    assert arms.masks["layer-permuted"].densities() == ticket.densities()
    # the order of the samples
    source, streams = TensorBatches(data[0], torch.arange(29), 8), Streams(0)
    generators = ((streams.generator("data-order", e), streams.generator("augmentation", e)) for e in range(2))
    one, two = (torch.cat([targets for _, targets in source.epoch(*pair)]).tolist() for pair in generators)
    assert sorted(one) == sorted(two) == list(range(29))
    assert one != two
    assert list(range(29)) not in (one, two)
    # the labels of the control that has only noise to learn
    part = Selection(torch.arange(29), data[1])
    view = View(("a", "b", "c", "d"), part, part, (1, 5, 5))
    shuffled = ShuffledLabels(0).apply(view).train.labels
    assert not torch.equal(shuffled, data[1])
    assert torch.equal(shuffled.sort().values, data[1].sort().values)


def test_trap_seeds_are_set_after_the_weights_were_drawn() -> None:
    def drawn(seed: int, caller: int) -> State:
        torch.manual_seed(caller)
        options = {"width": 0.1, "norm": "batch"}
        return state_of(build(ModelSpec(name="conv-2", options=options), input_shape=(1, 8, 8), classes=4, seed=seed))

    one, again, other = drawn(0, 1), drawn(0, 2), drawn(1, 1)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert all(not torch.equal(one[name], other[name]) for name in one if name.endswith("conv1.weight"))
    assert not torch.equal(one["linear1.weight"], other["linear1.weight"])


# -- transfer ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("classes", [2, 7])
def test_trap_another_number_of_classes_is_not_noticed(classes: int, data: Data) -> None:
    """Not even where copying the head is asked for: it is drawn for the target's classes, and that is said."""
    ticket = a_ticket(Network(classes=4))
    model = Network(seed=1, classes=classes)
    placement = ticket.put_into(model, head="copied")
    told = {outcome.name: outcome.reason for outcome in placement.fresh}
    assert told.keys() == {"head.weight", "head.bias"}
    assert model.head.weight.shape == (classes, 12)
    assert all(part in told["head.weight"] for part in ("(4, 12)", "does not fit", f"({classes}, 12)"))
    with pytest.raises(InputError, match="its output for a batch of 2 is"):
        build(
            ModelSpec(name="torch.nn.modules.linear:LazyLinear", options={"out_features": 4}),
            input_shape=(1, 2, 2),
            classes=classes,
            seed=0,
            packages=("torch",),
        )


# -- reading, resuming, judging --------------------------------------------------------------------------------------
def test_trap_booleans_are_parsed_from_words() -> None:
    """bool("False") is True."""
    for word in ("False", "false", "no", "0"):
        raw: dict[str, Any] = {
            "name": "b", "model": "lenet-300-100", "data": {"d": {"builtin": "digits"}},
            "recipe": {"r": {"optimizer": "sgd", "lr": 0.1, "epochs": 1}},
            "transfer": [{"targets": ["d@r"], "arms": ["own"]}],
        }  # fmt: skip
        assert read_experiment(raw).recipe["r"].nesterov is False
        raw["recipe"]["r"]["nesterov"] = word
        with pytest.raises(InputError, match=r"^recipe\.r\.nesterov: "):
            read_experiment(raw)
        with pytest.raises(InputError, match="expected True or False"):
            ot.Recipe.sgd(epochs=1, nesterov=word)


def test_trap_a_resume_loads_nothing_under_weights_only(data: Data, tmp_path: Path) -> None:
    recipe = ot.Recipe.adam(epochs=3, lr=0.01, batch_size=8)
    whole, dying, resumed = Network(), Network(), Network(seed=9)
    masks = by_magnitude(Network(), 0.5)
    history = ot.train(whole, data, recipe, masks=masks, validation=data).history

    class Killed(Exception):
        pass

    def kill(record: Any) -> None:
        if record.epoch == 2:
            raise Killed

    checkpoint = Checkpoint(tmp_path / "training.pt", every=0)
    with pytest.raises(Killed):
        ot.train(
            dying,
            data,
            recipe,
            masks=masks,
            validation=data,
            runtime=ot.training.Runtime(checkpoint=checkpoint),
            callbacks=[ot.training.OnEpoch(kill)],
        )
    run = ot.train(
        resumed, data, recipe, masks=masks, validation=data, runtime=ot.training.Runtime(checkpoint=checkpoint)
    )
    assert run.resumed_at == 8, "two epochs of four steps are not computed again"
    assert run.history == history
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_trap_the_last_batch_is_dropped_in_evaluation() -> None:
    logits = torch.tensor([[1.0, 0.0]]).repeat(513, 1)
    logits[512] = torch.tensor([0.0, 1.0])
    ones = torch.ones(513, dtype=torch.int64)
    assert evaluate(nn.Identity(), (logits, ones))[0] == 1 / 513
    pixels = torch.zeros(513, 1, 1, 2, dtype=torch.uint8)
    pixels[:, 0, 0, 0], pixels[512, 0, 0, 1] = 100, 200
    images = ImageSet(pixels, ones, ("a", "b"))
    known = Normalisation((0.0,), (1.0,))
    assert evaluate(nn.Flatten(), images, normalisation=known)[0] == 1 / 513
    rows = list(zip(logits, ones.tolist(), strict=True))
    assert evaluate(nn.Identity(), rows)[0] == 1 / 513
