"""The loop: the arithmetic of an independent one, the same bits each time, and exact moments."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oneticket.data import Augmentation, ImageSet, Normalisation, TensorBatches
from oneticket.errors import InputError, NonFiniteLoss
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.randomness import Streams
from oneticket.training import Cosine, OnEpoch, Recipe, Runtime, Schedule, Start, StepDecay, Training, train

Data = tuple[Tensor, Tensor]
State = dict[str, Tensor]
MakeNetwork = Callable[..., nn.Sequential]

RECIPES = {
    "sgd": Recipe.sgd(epochs=3, batch_size=5, lr=0.05, weight_decay=0.01),
    "nesterov": Recipe.sgd(
        epochs=3, batch_size=5, nesterov=True, decay_norms=False, schedule=StepDecay(at=("1ep2it",))
    ),
    "smoothed": Recipe.sgd(epochs=3, batch_size=5, momentum=0.0, label_smoothing=0.2, clip_norm=0.3, warmup="1ep"),
    "adam": Recipe.adam(epochs=3, batch_size=5, lr=0.01, weight_decay=0.05),
    "adamw": Recipe(optimizer="adamw", lr=0.01, epochs=3, batch_size=5, weight_decay=0.3, schedule=Cosine(final=0.1)),
    "rmsprop": Recipe(optimizer="rmsprop", lr=0.003, epochs=3, batch_size=5, momentum=0.8, decay_norms=False),
}
TOTAL, PER_EPOCH = 15, 5


def state_of(model: nn.Module) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(one: State, two: State) -> None:
    """Equal to the bit."""
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


# -- against a loop written from the definitions -----------------------------------------------------------------------
def factor(schedule: Schedule, step: int) -> float:
    if isinstance(schedule, StepDecay):
        return 0.1 if step >= PER_EPOCH + 2 else 1.0  # at 1ep2it
    if isinstance(schedule, Cosine):
        return 0.1 + 0.9 * (1 + math.cos(math.pi * step / TOTAL)) / 2
    return 1.0


def reference(
    model: nn.Module, data: Data, recipe: Recipe, masks: Masks | None, seed: int
) -> tuple[State, list[float]]:
    """State and mean loss of each epoch after training a copy of ``model`` in plain arithmetic."""
    model = copy.deepcopy(model).train()
    inputs, targets = data
    memory: dict[str, dict[str, Tensor]] = {name: {} for name, _ in model.named_parameters()}
    masked = masks or Masks({})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in masked:
                weight.mul_(masked[name])
    losses, step = [], 0
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(targets), generator=Streams(seed).generator("data-order", epoch))
        total = 0.0
        for batch in order.split(recipe.batch_size):
            log_p = model(inputs[batch]).log_softmax(1)
            smooth = recipe.label_smoothing
            right = log_p.gather(1, targets[batch][:, None]).squeeze(1)
            loss = -((1 - smooth) * right + smooth * log_p.mean(1)).mean()
            model.zero_grad()
            loss.backward()
            total += loss.item() * len(batch)
            update(model, recipe, masked, memory, step)
            step += 1
        losses.append(total / len(targets))
    return state_of(model), losses


@torch.no_grad()
def update(model: nn.Module, recipe: Recipe, masks: Masks, memory: dict[str, dict[str, Tensor]], step: int) -> None:
    lr = recipe.lr * factor(recipe.schedule, step)
    if recipe.warmup == "1ep":
        lr *= min(1.0, (step + 1) / PER_EPOCH)
    gradients = {
        n: w.grad * masks[n] if n in masks else w.grad for n, w in model.named_parameters() if w.grad is not None
    }
    if recipe.clip_norm is not None:
        norm = torch.stack([(g * g).sum() for g in gradients.values()]).sum().sqrt()
        shrink = min(1.0, recipe.clip_norm / (float(norm) + 1e-6))
        gradients = {name: g * shrink for name, g in gradients.items()}
    for name, weight in model.named_parameters():
        spared = not recipe.decay_norms and (name.startswith("1.") or name.endswith("bias"))
        decay = 0.0 if spared else recipe.weight_decay
        m, g, t = memory[name], gradients[name], step + 1
        if recipe.optimizer == "adamw":
            weight.mul_(1 - lr * decay)
        else:
            g = g + decay * weight
        if recipe.optimizer == "sgd":
            mu = recipe.momentum or 0.0
            m["v"] = mu * m["v"] + g if "v" in m else g
            direction = g + mu * m["v"] if recipe.nesterov else m["v"]
        elif recipe.optimizer == "rmsprop":
            m["s"] = 0.99 * m.get("s", 0 * g) + 0.01 * g * g
            m["v"] = (recipe.momentum or 0.0) * m.get("v", 0 * g) + g / (m["s"].sqrt() + 1e-8)
            direction = m["v"]
        else:
            m["m"] = 0.9 * m.get("m", 0 * g) + 0.1 * g
            m["s"] = 0.999 * m.get("s", 0 * g) + 0.001 * g * g
            direction = (m["m"] / (1 - 0.9**t)) / ((m["s"] / (1 - 0.999**t)).sqrt() + 1e-8)
        weight.sub_(lr * direction)
        if name in masks:
            weight.mul_(masks[name])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_training_is_the_plain_arithmetic(
    name: str, masked: bool, dtype: torch.dtype, tolerance: float, network: MakeNetwork, data: Data, masks: Masks
) -> None:
    model = network(dtype=dtype)
    samples = (data[0].to(dtype), data[1])
    kept = masks if masked else None
    expected, losses = reference(model, samples, RECIPES[name], kept, seed=4)
    start = state_of(model)
    result = train(model, samples, RECIPES[name], masks=kept, seed=4)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=tolerance, atol=tolerance)
    assert [record.train_loss for record in result.history] == pytest.approx(losses, rel=tolerance)
    moved = [key for key, value in model.state_dict().items() if not torch.equal(value, start[key])]
    assert len(moved) == len(start), "every tensor was trained, so the comparison says something"


def test_a_network_learns(data: Data, network: MakeNetwork) -> None:
    history = train(network(), data, Recipe.sgd(epochs=30, batch_size=5), validation=data).history
    assert history[0].val_accuracy < 0.8 < 0.9 < history[-1].val_accuracy  # type: ignore[operator]
    assert history[-1].val_loss < history[0].val_loss / 2  # type: ignore[operator]


def test_a_network_handed_over_in_evaluation_mode_is_trained_all_the_same(data: Data, network: MakeNetwork) -> None:
    """As after a search, or loaded from a file: its normalisation must learn its statistics."""
    awake, asleep = network(dropout=0.3), network(dropout=0.3).eval()
    for model in (awake, asleep):
        train(model, data, RECIPES["sgd"])
    assert_equal(state_of(awake), state_of(asleep))


# -- what comes back -----------------------------------------------------------------------------------------------
def test_the_history_has_a_line_for_each_epoch(data: Data, network: MakeNetwork) -> None:
    heard: list[Any] = []
    recipe = Recipe.sgd(epochs=3, batch_size=5, schedule=StepDecay(at=("2ep",)))
    result = train(network(), data, recipe, validation=data, callbacks=[OnEpoch(heard.append)])
    assert heard == result.history
    assert [(r.epoch, r.step) for r in result.history] == [(1, 5), (2, 10), (3, 15)]
    assert [r.lr for r in result.history] == pytest.approx([0.1, 0.1, 0.01])
    assert all(r.val_accuracy is not None and r.val_loss is not None for r in result.history)
    assert (result.steps, result.samples, result.resumed_at) == (15, 66, 0)
    assert result.seconds > 0
    without = train(network(), data, recipe)
    assert all(r.val_accuracy is None and r.val_loss is None for r in without.history)


def test_judging_changes_nothing(data: Data, network: MakeNetwork) -> None:
    """Validation must not leak into the network, not even through normalisation statistics or random numbers."""
    judged, unjudged = network(dropout=0.3), network(dropout=0.3)
    train(judged, data, RECIPES["adam"], validation=(data[0] * 5, data[1]))
    train(unjudged, data, RECIPES["adam"])
    assert_equal(state_of(judged), state_of(unjudged))


@pytest.mark.parametrize(
    ("start", "steps", "samples"), [("0it", 15, 66), ("1ep", 10, 44), ("1ep2it", 8, 34), ("3ep", 0, 0)]
)
@pytest.mark.parametrize("batched", [False, True])
def test_steps_and_samples_are_counted_from_the_start(
    start: str, steps: int, samples: int, batched: bool, data: Data, network: MakeNetwork
) -> None:
    """A source of batches brings its own batch size, whatever the recipe says."""
    recipe = Recipe.sgd(epochs=3, batch_size=64 if batched else 5)
    result = train(network(), TensorBatches(*data, 5) if batched else data, recipe, start=Start(step=start))
    assert (result.steps, result.samples) == (steps, samples)


# -- randomness ----------------------------------------------------------------------------------------------------
class Watched(nn.Module):
    """Remembers the inputs of every training batch."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.batches = inner, list[Tensor]()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.batches.append(inputs.clone())
        return self.inner(inputs)


@pytest.mark.parametrize("name", RECIPES)
def test_twice_the_same_bits(name: str, network: MakeNetwork, data: Data, masks: Masks) -> None:
    results: list[tuple[State, Training]] = []
    for caller in (1, 2):
        torch.manual_seed(caller)
        model = network(dropout=0.4)
        run = train(model, data, RECIPES[name], masks=masks, seed=3, validation=data)
        results.append((state_of(model), run))
    (one, first), (two, second) = results
    assert_equal(one, two)
    assert first.history == second.history


def test_dropout_and_order_follow_the_seed(network: MakeNetwork, data: Data) -> None:
    ends = []
    for seed in (0, 1):
        model = network(dropout=0.4)
        train(model, data, RECIPES["sgd"], seed=seed)
        ends.append(model[0].weight.detach().clone())
    assert not torch.equal(*ends)


def test_the_callers_random_state_is_left_alone(network: MakeNetwork, data: Data) -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    train(network(dropout=0.4), data, RECIPES["sgd"], validation=data)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # type: ignore[index]


def test_the_order_belongs_to_the_seed_and_not_to_the_weights(network: MakeNetwork, data: Data) -> None:
    """Another draw of the weights sees the same batches; another replicate sees others (methods, pitfall 10)."""

    def batches(weights: int, seed: int) -> Tensor:
        model = Watched(network(weights))
        train(model, data, RECIPES["adam"], seed=seed)
        return torch.cat(model.batches)

    assert torch.equal(batches(0, 0), batches(1, 0))
    assert not torch.equal(batches(0, 0), batches(0, 1))


def test_every_epoch_shows_each_sample_once_in_a_new_order(network: MakeNetwork, data: Data) -> None:
    model = Watched(network())
    train(model, data, RECIPES["sgd"])
    epochs = torch.cat(model.batches).split(22)
    assert len(epochs) == 3
    for epoch in epochs:
        assert sorted(epoch.tolist()) == sorted(data[0].tolist())
    assert not torch.equal(epochs[0], data[0])
    assert not torch.equal(epochs[0], epochs[1])


def test_augmentation_is_drawn_anew_in_each_epoch() -> None:
    pixels = torch.randint(0, 256, (1, 1, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet(pixels.expand(8, -1, -1, -1).contiguous(), torch.zeros(8, dtype=torch.int64), ("only",))
    model = Watched(nn.Sequential(nn.Flatten(), nn.Linear(25, 2)))
    train(model, images, Recipe.sgd(epochs=2, batch_size=8, augment=Augmentation(crop=2)))
    first, second = model.batches
    assert not torch.equal(first.flatten(1).sort(0).values, second.flatten(1).sort(0).values)


# -- moments -------------------------------------------------------------------------------------------------------
MOMENTS = {"0it": 0, "1ep": 5, "3it": 3, "1ep2it": 7, "3ep": 15}


@pytest.mark.parametrize("masked", [False, True])
def test_a_snapshot_is_the_network_at_that_moment(
    masked: bool, network: MakeNetwork, data: Data, masks: Masks, recorder: Any
) -> None:
    model = recorder.watch(network())
    kept = masks if masked else None
    before = {n: t * kept[n] if kept and n in kept else t for n, t in state_of(model).items()}
    run = train(model, data, RECIPES["adam"], masks=kept, snapshots=["3ep", "1ep2it", 0, "3it", "1ep"])
    states = [before, *recorder.states]
    assert run.snapshots.keys() == MOMENTS.keys()
    for moment, step in MOMENTS.items():
        assert_equal(run.snapshots[moment].state, states[step])
    assert run.snapshots["0it"].optimizer == {}
    assert run.snapshots["1ep2it"].optimizer["4.weight/step"] == 7
    assert {key.rpartition("/")[2] for key in run.snapshots["3it"].optimizer} == {"step", "exp_avg", "exp_avg_sq"}


def test_a_snapshot_is_where_a_shorter_training_ends(network: MakeNetwork, data: Data) -> None:
    long, short = network(), network()
    run = train(long, data, Recipe.sgd(epochs=3, batch_size=5), snapshots=["1ep"])
    train(short, data, Recipe.sgd(epochs=1, batch_size=5))
    assert_equal(run.snapshots["1ep"].state, state_of(short))


def test_taking_snapshots_changes_nothing(network: MakeNetwork, data: Data) -> None:
    with_them, without = network(), network()
    train(with_them, data, RECIPES["nesterov"], snapshots=[0, 1, 2, 3, "1ep", "3ep"])
    train(without, data, RECIPES["nesterov"])
    assert_equal(state_of(with_them), state_of(without))


def test_two_names_of_one_moment_both_get_their_snapshot(network: MakeNetwork, data: Data) -> None:
    run = train(network(), data, RECIPES["sgd"], snapshots=["1ep", "5it", 5])
    assert run.snapshots.keys() == {"1ep", "5it"}
    assert_equal(run.snapshots["1ep"].state, run.snapshots["5it"].state)


@pytest.mark.parametrize("moment", ["0it", "3it", "1ep", "1ep2it", "2ep4it"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_training_goes_on_exactly_from_a_snapshot(
    name: str, moment: str, network: MakeNetwork, data: Data, masks: Masks
) -> None:
    whole = network()
    run = train(whole, data, RECIPES[name], masks=masks, snapshots=[moment], validation=data)
    rest = network(seed=9)
    rest.load_state_dict(run.snapshots[moment].state)
    memory = run.snapshots[moment].optimizer
    after = train(
        rest, data, RECIPES[name], masks=masks, start=Start(step=moment, optimizer_state=memory), validation=data
    )
    assert_equal(state_of(rest), state_of(whole))
    finished = 3 - MOMENTS.get(moment, 14) // 5
    assert [r.step for r in after.history] == [r.step for r in run.history[-finished:]]
    assert after.history[-1].val_loss == run.history[-1].val_loss
    if "ep" in moment and "it" not in moment:
        assert after.history == run.history[1:]


def test_with_dropout_a_training_goes_on_exactly_from_an_epoch(network: MakeNetwork, data: Data) -> None:
    whole, rest = network(dropout=0.4), network(seed=9, dropout=0.4)
    snapshot = train(whole, data, RECIPES["adam"], snapshots=["1ep"]).snapshots["1ep"]
    rest.load_state_dict(snapshot.state)
    train(rest, data, RECIPES["adam"], start=Start(step="1ep", optimizer_state=snapshot.optimizer))
    assert_equal(state_of(rest), state_of(whole))


def test_without_the_optimisers_memory_it_is_another_training(network: MakeNetwork, data: Data) -> None:
    whole, rest = network(), network()
    snapshot = train(whole, data, RECIPES["sgd"], snapshots=["1ep"]).snapshots["1ep"]
    rest.load_state_dict(snapshot.state)
    train(rest, data, RECIPES["sgd"], start=Start(step="1ep"))
    assert not torch.equal(rest[0].weight, whole[0].weight)


def test_memory_of_masked_weights_is_not_restored(
    network: MakeNetwork, data: Data, masks: Masks, recorder: Any
) -> None:
    """Rewound momentum belongs to a dense network; what it says of masked weights must not bring them back."""
    snapshot = train(network(), data, RECIPES["sgd"], snapshots=["1ep"]).snapshots["1ep"]
    assert torch.count_nonzero(snapshot.optimizer["0.weight/momentum_buffer"]) == 48
    model = recorder.watch(network())
    train(model, data, RECIPES["sgd"], masks=masks, start=Start(step="1ep", optimizer_state=snapshot.optimizer))
    assert len(recorder.states) == 10
    for state in recorder.states:
        for name, mask in masks.items():
            assert torch.count_nonzero(state[name][~mask]) == 0


def test_memory_of_another_network_is_refused(network: MakeNetwork, data: Data) -> None:
    with pytest.raises(InputError, match=r"has an entry for 'conv\.weight'"):
        train(
            network(),
            data,
            RECIPES["sgd"],
            start=Start(optimizer_state={"conv.weight/momentum_buffer": torch.zeros(1)}),
        )


def test_what_is_outside_the_training_is_refused_before_it(network: MakeNetwork, data: Data) -> None:
    model = network()
    before = state_of(model)
    refused: list[dict[str, Any]] = [
        {"snapshots": ["4ep"]},
        {"snapshots": [16]},
        {"snapshots": ["2it"], "start": Start(step="1ep")},
        {"start": Start(step="3ep1it")},
        {"masks": Masks({"0.bias2": torch.ones(8, dtype=torch.bool)})},
        {"masks": Masks({"0.weight": torch.ones(6, 8, dtype=torch.bool)})},
    ]
    for options in refused:
        with pytest.raises(InputError):
            train(model, data, RECIPES["sgd"], **options)
    with pytest.raises(InputError, match="the training set is empty"):
        train(model, (data[0][:0], data[1][:0]), RECIPES["sgd"])
    for wrong in ({"step": "later"}, {"lr_schedule": "lst"}):
        with pytest.raises(InputError):
            Start(**wrong)  # type: ignore[arg-type]
    assert_equal(state_of(model), before)


# -- learning rates --------------------------------------------------------------------------------------------------
def test_every_step_is_taken_at_its_rate(network: MakeNetwork, data: Data, recorder: Any) -> None:
    recipe = Recipe.sgd(epochs=3, batch_size=5, warmup="2it", schedule=StepDecay(at=("1ep", "2ep1it")))
    train(network(), data, recipe)
    assert recorder.rates == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1] + [0.01] * 6 + [0.001] * 4)


def test_a_training_that_starts_later_has_the_rates_of_its_moment(
    network: MakeNetwork, data: Data, recorder: Any
) -> None:
    recipe = Recipe.sgd(epochs=3, batch_size=5, schedule=StepDecay(at=("1ep", "2ep1it")))
    train(network(), data, recipe, start=Start(step="1ep3it"))
    assert recorder.rates == pytest.approx([0.01] * 3 + [0.001] * 4)


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        (StepDecay(at=("1ep", "2ep")), 0.001),
        (Cosine(), 0.1 * (2 + math.cos(math.pi * 13 / 15) + math.cos(math.pi * 14 / 15)) / 4),
    ],
)
def test_fine_tuning_is_at_one_rate_throughout(
    schedule: Schedule, last: float, network: MakeNetwork, data: Data, recorder: Any
) -> None:
    result = train(
        network(),
        data,
        Recipe.sgd(epochs=3, batch_size=5, schedule=schedule, warmup="1ep"),
        start=Start(lr_schedule="last"),
    )
    assert recorder.rates == pytest.approx([last] * 15)
    assert [record.lr for record in result.history] == pytest.approx([last] * 3)


def test_a_recipe_that_ends_at_nothing_trains_but_cannot_fine_tune(
    network: MakeNetwork, data: Data, recorder: Any
) -> None:
    recipe = Recipe.sgd(epochs=2, batch_size=5, schedule=StepDecay(at=("1ep",), decay=1e-6))
    model = network()
    with pytest.raises(InputError, match="fine-tuning would have the learning rate 1e-07"):
        train(model, data, recipe, start=Start(lr_schedule="last"))
    assert not recorder.rates
    train(model, data, recipe)
    assert recorder.rates == pytest.approx([0.1] * 5 + [1e-7] * 5)


# -- the loss ------------------------------------------------------------------------------------------------------
def test_the_clipped_norm_is_that_of_the_kept_weights() -> None:
    """A masked weight with an enormous gradient must not shrink the steps of the others."""
    torch.manual_seed(0)
    model = nn.Linear(2, 2, bias=False)
    inputs, targets = torch.tensor([[1.0, 1e6]]), torch.tensor([0])
    masks = Masks({"weight": torch.tensor([[True, False], [True, False]])})
    before = model.weight.detach().clone()
    train(model, (inputs, targets), Recipe.sgd(epochs=1, lr=1.0, weight_decay=0.0, clip_norm=0.01), masks=masks)
    assert (model.weight.detach() - before)[:, 0].norm() == pytest.approx(0.01, rel=1e-3)


def test_a_small_gradient_is_not_clipped(network: MakeNetwork, data: Data) -> None:
    bounded, free = network(), network()
    train(bounded, data, Recipe.sgd(epochs=1, batch_size=5, clip_norm=1e6))
    train(free, data, Recipe.sgd(epochs=1, batch_size=5))
    assert_equal(state_of(bounded), state_of(free))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_told_with_step_and_rate(value: float, network: MakeNetwork, data: Data) -> None:
    inputs = data[0].clone()
    inputs[11, 2] = value
    at = (torch.randperm(22, generator=Streams(6).generator("data-order", 0)) == 11).nonzero().item() // 5
    recipe = Recipe.sgd(epochs=3, batch_size=5, warmup="5it")
    with pytest.raises(NonFiniteLoss, match=rf"the loss is nan at step {at} \(learning rate {0.02 * (at + 1):g}\)"):
        train(network(), list(zip(inputs, data[1], strict=True)), recipe, seed=6)


def test_a_divergence_is_noticed_within_a_hundred_steps(network: MakeNetwork) -> None:
    """Not only at the end of an epoch, which may be hours away."""
    inputs, targets = torch.randn(400, 6), torch.randint(3, (400,))
    inputs[:] = float("nan")
    counted = Watched(network())
    with pytest.raises(NonFiniteLoss, match="step 0 "):
        train(counted, list(zip(inputs, targets, strict=True)), Recipe.sgd(epochs=1, batch_size=2))
    assert len(counted.batches) == 100


def test_label_smoothing_is_for_training_only(network: MakeNetwork, data: Data) -> None:
    """Smoothed by ε = ½ in 3 classes no prediction has a loss below the entropy of (⅔, ⅙, ⅙); judged, it has."""
    floor = -(2 / 3 * math.log(2 / 3) + 2 * 1 / 6 * math.log(1 / 6))
    recipe = Recipe.sgd(epochs=40, batch_size=5, label_smoothing=0.5)
    result = train(network(), data, recipe, validation=data)
    last = result.history[-1]
    assert last.train_loss > floor
    assert last.val_loss is not None
    assert last.val_loss < floor


# -- precision, validation -------------------------------------------------------------------------------------------
def test_bf16_is_close_to_float32_and_not_the_same(network: MakeNetwork, data: Data) -> None:
    full, half = network(), network()
    recipe = {"epochs": 3, "batch_size": 5, "lr": 0.02}
    train(full, data, Recipe.sgd(**recipe))
    losses = train(half, data, Recipe.sgd(**recipe, precision="bf16"))
    for ours, theirs in zip(full.parameters(), half.parameters(), strict=True):
        assert theirs.dtype == torch.float32
        assert 0 < (ours - theirs).abs().max() < 0.05
    assert math.isfinite(losses.history[-1].train_loss)


def test_validation_images_are_normalised_as_the_training_images() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 2
    dark = torch.randint(0, 100, (20, 1, 2, 2), dtype=torch.uint8, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    train_set, validation = ImageSet(dark, labels, ("a", "b")), ImageSet(dark + 100, labels, ("a", "b"))
    record = train(model, train_set, Recipe.sgd(epochs=1), validation=validation).history[-1]
    known = Normalisation.of(train_set)
    pixels = (validation.images.double() / 255 - known.mean[0]) / known.std[0]
    loss = nn.functional.cross_entropy(model.double()(pixels), labels)
    assert record.val_loss == pytest.approx(loss.item(), rel=1e-5)


def test_training_leaves_no_hook_behind(network: MakeNetwork, data: Data, masks: Masks) -> None:
    model = network()
    train(model, data, RECIPES["sgd"], masks=masks)
    assert not any(hooks for module in model.modules() for hooks in hooks_of(module))
    copy.deepcopy(model)


def hooks_of(module: nn.Module) -> Iterator[Any]:
    yield from (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)


class _Views(nn.Module):
    """A network as users write them: it relies on the layout of what the convolution gives."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3 * 6 * 6, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.convolution(images).view(-1, 3 * 6 * 6))


def test_a_network_that_views_its_feature_maps_can_be_trained() -> None:
    pictures = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    train(_Views(), (pictures, torch.arange(12) % 2), Recipe.sgd(epochs=1, batch_size=5))


def test_channels_last_changes_rounding_only() -> None:
    """In float64, so that nothing but a real difference is large enough to see."""
    chance = torch.Generator().manual_seed(0)
    pictures, labels = torch.randn(24, 3, 8, 8, generator=chance, dtype=torch.float64), torch.arange(24) % 4
    spec = ModelSpec(name="vgg11", options={"width": 0.125})
    plain, fast = (build(spec, input_shape=(3, 8, 8), classes=4, seed=0).double() for _ in range(2))
    masks = Masks({n: torch.rand(w.shape, generator=chance) < 0.5 for n, w in Prunable(plain).weights()})
    recipe = Recipe.sgd(epochs=2, lr=0.01, batch_size=8)
    train(plain, (pictures, labels), recipe, masks=masks)
    train(fast, (pictures, labels), recipe, masks=masks, runtime=Runtime(layout="channels-last"))
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(tensor, fast.state_dict()[name], rtol=1e-9, atol=1e-9), name
        assert fast.state_dict()[name].is_contiguous(), name


def test_a_last_step_that_diverges_is_told() -> None:
    """Its loss was computed before it: the weights tell, or the validation loss."""
    inputs, labels = torch.ones(4, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(NonFiniteLoss, match=r"weights are no longer finite after step 0 \(learning rate 1e\+38\)"):
        train(nn.Linear(2, 2), (1e3 * inputs, labels), Recipe.sgd(lr=1e38, epochs=1, batch_size=4, momentum=0.0))
