"""Binary methods: gradients by hand in float64, the best α by enumeration, and what a training leaves behind."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.binary import binarised, scales, straight_through
from oneticket.methods.binary_inputs import Sign, Window, binarise_inputs, binary_inputs, input_scales
from oneticket.methods.footprint import binary_weights
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable, find_head
from oneticket.randomness import seeded
from oneticket.training import Callback, Recipe, TrainState, evaluate, train

METHODS = ("binary-connect", "bwn", "xnor")
SCALED = ("bwn", "xnor")
ONE_STEP = Recipe.sgd(epochs=1, batch_size=4, lr=0.5, momentum=0.0, weight_decay=0.0)


def callback(name: str, head: str = "head", recipe: Recipe = ONE_STEP) -> Callback:
    return callback_of(name, MethodContext(1.0, head, recipe), {})


def built(network: str, width: float, seed: int = 0, **options: str) -> nn.Module:
    spec = ModelSpec(name=network, options={"width": width, **options})
    return build(spec, input_shape=(1, 8, 8), classes=10, seed=seed)


def full(model: nn.Module) -> Masks:
    return Masks.full(dict(Prunable(model).weights()))


class Small(nn.Module):
    """Three linear layers in float64, defined in another order than they run in."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        with seeded(seed):
            self.second, self.first, self.head = nn.Linear(6, 4), nn.Linear(5, 6), nn.Linear(4, 3)
            self.double()
            with torch.no_grad():
                self.second.weight.normal_(0, scale)  # some beyond 1

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(torch.tanh(self.first(inputs))))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 5, dtype=torch.float64, generator=generator), torch.tensor([0, 2, 1, 1])


@pytest.fixture(scope="module")
def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 8 - 1).float()[:, None]
    labels = torch.from_numpy(bunch.target).long()
    return (images[:1300], labels[:1300]), (images[1300:], labels[1300:])


# --- values -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6))
def test_no_other_signs_and_scale_are_nearer_to_the_filter(values: list[float]) -> None:
    """‖W − αB‖ over all 2ⁿ B, each with its own best α = W·B / n, is least where the method puts it."""
    weight = torch.tensor([values], dtype=torch.float64)
    n = len(values)
    best = min(
        math.dist(values, [sum(w * b for w, b in zip(values, signs, strict=True)) / n * b for b in signs])
        for signs in itertools.product((-1.0, 1.0), repeat=n)
    )
    found = binarised(weight)[0].tolist()
    assert math.dist(values, found) == pytest.approx(best, abs=1e-12)
    slightly = [1.001 * value for value in found]
    assert math.dist(values, slightly) >= math.dist(values, found)


@given(st.integers(0, 10_000), st.sampled_from([(3, 7), (2, 3, 2, 2)]))
def test_values_and_gradients_of_a_masked_filter_by_hand(seed: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, gradient = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    mask = torch.rand(shape, generator=generator) < 0.6
    weight[0].view(-1)[0] = 0.0
    weight, at = weight * mask, np.ndindex(*shape)
    value, slope = binarised(weight, mask), straight_through(gradient, weight, mask)
    unscaled = binarised(weight, mask, scaled=False)
    for index in at:
        kept = [w for w, m in zip(weight[index[0]].flatten().tolist(), mask[index[0]].flatten(), strict=True) if m]
        if not mask[index]:
            assert value[index] == unscaled[index] == 0
            continue
        alpha, w = sum(map(abs, kept)) / len(kept), float(weight[index])
        sign = 1.0 if w >= 0 else -1.0
        assert float(value[index]) == pytest.approx(sign * alpha)
        assert float(unscaled[index]) == sign
        by_hand = float(gradient[index]) * (1 / len(kept) + (alpha if abs(w) <= 1 else 0.0))
        assert float(slope[index]) == pytest.approx(by_hand, rel=1e-12)


def test_a_filter_that_keeps_nothing_is_zero_and_its_gradient_finite() -> None:
    weight, mask = torch.ones(2, 3), torch.tensor([[True] * 3, [False] * 3])
    assert binarised(weight, mask).tolist() == [[1.0] * 3, [0.0] * 3]
    assert scales(weight, mask).flatten().tolist() == [1.0, 0.0]
    assert straight_through(weight, weight, mask).isfinite().all()


def test_the_scale_of_the_authors_code_is_refused_where_it_is_zero() -> None:
    model = nn.Sequential(nn.Linear(5, 1), nn.Linear(1, 6), nn.Linear(6, 3)).double()
    chosen = callback_of("bwn", MethodContext(1.0, "2", ONE_STEP), {"gradient": "authors-code"})
    data = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    with pytest.raises(InputError, match=r"'1.weight' has a single input channel; expected gradient = 'paper'"):
        train(model, data, ONE_STEP, masks=full(model), callbacks=[chosen])


def test_the_sign_of_zero_is_plus_one_and_gradients_pass_up_to_one() -> None:
    x = torch.tensor([-1.5, -1.0, -0.0, 0.0, 0.3, 1.0, 1.01], requires_grad=True)
    y = Sign.apply(x)
    assert y.tolist() == [-1, -1, 1, 1, 1, 1, 1]
    y.backward(torch.arange(1.0, 8.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_scales_of_a_map_are_means_over_each_field(stride: int, dilation: int) -> None:
    maps = torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = nn.Conv2d(3, 4, (3, 2), stride=stride, padding=(1, 0), dilation=dilation)
    found = input_scales(maps, Window.of(layer))
    assert found.shape == (2, 1, *layer(maps.float()).shape[2:])
    for b, _, i, j in np.ndindex(*found.shape):
        total = 0.0
        for di, dj in np.ndindex(3, 2):
            y, x = i * stride + di * dilation - 1, j * stride + dj * dilation
            if 0 <= y < 6:
                total += sum(abs(float(maps[b, c, y, x])) for c in range(3)) / 3
        assert float(found[b, 0, i, j]) == pytest.approx(total / 6)


# --- one step, by hand ------------------------------------------------------------------------------------------------


def by_hand(model: Small, inputs: Tensor, targets: Tensor, name: str, lr: float) -> dict[str, np.ndarray]:
    """The weights after one step of plain gradient descent, forward and backward written out."""
    x, y = inputs.numpy(), np.eye(3)[targets.numpy()]
    W1, b1, W2, b2, W3, b3 = (
        p.detach().numpy().copy()
        for layer in (model.first, model.second, model.head)
        for p in (layer.weight, layer.bias)
    )
    if name == "binary-connect":
        W2 = np.clip(W2, -1, 1)
    sign = np.where(W2 >= 0, 1.0, -1.0)
    alpha = np.abs(W2).mean(1, keepdims=True) if name in SCALED else np.ones((4, 1))
    B = alpha * sign
    h = np.tanh(x @ W1.T + b1)
    centred, deviation = h - h.mean(1, keepdims=True), np.sqrt(h.var(1, keepdims=True) + 1e-5)
    normal = centred / deviation
    seen = np.where(normal >= 0, 1.0, -1.0) if name == "xnor" else h
    K = np.abs(normal).mean(1, keepdims=True) if name == "xnor" else np.ones((4, 1))
    z = K * (seen @ B.T) + b2
    logits = z @ W3.T + b3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    d = (p - y) / 4
    dz = d @ W3
    dB = (K * dz).T @ seen
    dh = (K * dz) @ B
    if name == "xnor":
        dn = dh * (np.abs(normal) <= 1)
        dh = (dn - dn.mean(1, keepdims=True) - normal * (dn * normal).mean(1, keepdims=True)) / deviation
    da = dh * (1 - h**2)
    dW2 = dB * (1 / 6 + alpha * (np.abs(W2) <= 1)) if name in SCALED else dB
    new = W2 - lr * dW2
    return {
        "first.weight": W1 - lr * da.T @ x,
        "first.bias": b1 - lr * da.sum(0),
        "second.weight": np.clip(new, -1, 1) if name == "binary-connect" else new,
        "second.bias": b2 - lr * dz.sum(0),
        "head.weight": W3 - lr * d.T @ z,
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", METHODS)
def test_one_step_is_the_one_worked_out_by_hand(name: str, seed: int, batch: tuple[Tensor, Tensor]) -> None:
    model = Small(seed)
    expected = by_hand(model, *batch, name, 0.5)
    taken = train(model, batch, ONE_STEP, masks=full(model), callbacks=[callback(name)], snapshots=["1it"])
    for key, value in expected.items():
        np.testing.assert_allclose(taken.snapshots["1it"].state[key].numpy(), value, rtol=1e-9, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_only_binary_connect_bounds_its_real_weights(name: str, batch: tuple[Tensor, Tensor]) -> None:
    model, recipe = Small(scale=2.0), Recipe.sgd(epochs=3, batch_size=2, lr=5.0)
    moments = [f"{step}it" for step in range(1, 7)]
    taken = train(model, batch, recipe, masks=full(model), callbacks=[callback(name)], snapshots=moments).snapshots
    largest = [float(taken[moment].state["second.weight"].abs().max()) for moment in moments]
    assert max(largest) == 1.0 if name == "binary-connect" else max(largest) > 1.5
    assert float(model.first.weight.detach().abs().max()) > 1.0, "the real layers are not clipped"


# --- what a training leaves behind ------------------------------------------------------------------------------------


def executed(model: nn.Module, example: Tensor) -> list[str]:
    """Names of the prunable weights in the order their layers run."""
    model, order = copy.deepcopy(model), []
    for name in Prunable(model).names:
        layer = model.get_submodule(name.removesuffix(".weight"))
        layer.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    model(example)
    return order


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("network", ["lenet-300-100", "conv-2", "vgg11", "resnet20"])
def test_all_but_the_first_layer_and_the_head_are_binary(name: str, network: str) -> None:
    with seeded(0):
        model = built(network, 0.25)
        data = torch.randn(8, 1, 8, 8), torch.arange(8)
    order = executed(model, data[0])
    recipe = Recipe.sgd(epochs=2, batch_size=4, lr=0.01)
    train(model, data, recipe, masks=full(model), callbacks=[callback(name, recipe=recipe)])
    assert binary_weights(model, "head") == [key for key in dict(model.named_parameters()) if key in order[1:]]
    assert binary_inputs(model) == ([n.removesuffix(".weight") for n in order[1:]] if name == "xnor" else [])
    for key in order:
        sizes = [row.abs().unique() for row in model.get_parameter(key).detach().flatten(1)]
        assert (max(map(len, sizes)) > 1) == (key == order[0])
        if key != order[0]:
            assert all(size == 1 for size in sizes) == (name == "binary-connect")


def test_the_first_layer_is_the_one_that_runs_first(batch: tuple[Tensor, Tensor]) -> None:
    model = Small()
    assert next(iter(full(model))) == "second.weight"
    train(model, batch, ONE_STEP, masks=full(model), callbacks=[callback("bwn")])
    assert binary_weights(model, "head") == ["second.weight"]


@pytest.mark.parametrize("name", METHODS)
def test_without_masks_or_with_the_head_among_them_the_same_layers_are_binary(
    name: str, batch: tuple[Tensor, Tensor]
) -> None:
    plain, with_head = Small(), Small()
    train(plain, batch, ONE_STEP, callbacks=[callback(name)])
    masks = Masks.full({n: p for n, p in with_head.named_parameters() if n.endswith("weight")})
    train(with_head, batch, ONE_STEP, masks=masks, callbacks=[callback(name)])
    assert binary_weights(plain, "head") == ["second.weight"]
    for key, value in plain.state_dict().items():
        assert torch.equal(with_head.state_dict()[key], value), key


@pytest.mark.parametrize("name", METHODS)
def test_a_masked_network_is_ternary(name: str, digits: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    (images, labels), _ = digits
    with seeded(0):
        model = built("conv-2", 0.1)
        masks = Masks({key: torch.rand(mask.shape) < 0.3 for key, mask in full(model).items()})
    recipe = Recipe.adam(epochs=2, batch_size=50)
    train(model, (images[:200], labels[:200]), recipe, masks=masks, callbacks=[callback(name, recipe=recipe)])
    for key in binary_weights(model, "head"):
        assert torch.equal(model.get_parameter(key) != 0, masks[key])
    assert len(binary_weights(model, "head")) == 3


LEARNERS = [(name, "lenet-300-100", 0.3) for name in METHODS]
LEARNERS += [("binary-connect", "vgg11", 0.1), ("bwn", "conv-2", 0.12), ("xnor", "conv-2", 0.12)]


@pytest.mark.parametrize(("name", "network", "width"), LEARNERS)
def test_binary_networks_learn_digits(
    name: str, network: str, width: float, digits: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> None:
    train_set, test_set = digits
    model = built(network, width, **({} if network == "lenet-300-100" else {"norm": "batch"}))
    # Signs of eight layers still flip at the end of five epochs at 5e-3; what is judged then is a matter of rounding.
    recipe = Recipe.adam(epochs=5, lr=1e-3 if network == "vgg11" else 5e-3, batch_size=50)
    train(model, train_set, recipe, masks=full(model), callbacks=[callback(name, recipe=recipe)])
    assert evaluate(model, test_set)[0] > 0.6


@pytest.mark.parametrize("name", METHODS)
def test_judging_leaves_the_real_weights_as_they_were(name: str, batch: tuple[Tensor, Tensor]) -> None:
    model, inner = Small(), callback(name)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    class Looking(Callback):
        def on_train_start(self, state: TrainState) -> None:
            inner.on_train_start(state)

        def after_backward(self, state: TrainState) -> None:
            inner.after_backward(state)

        def before_forward(self, state: TrainState) -> None:
            inner.before_forward(state)

        def evaluation_weights(self):  # type: ignore[no-untyped-def]
            before = model.second.weight.detach().clone()
            with inner.evaluation_weights():
                inside = model.second.weight.detach().clone()
            seen.append((before, inside, model.second.weight.detach().clone()))
            return Callback().evaluation_weights()

    train(model, batch, ONE_STEP, masks=full(model), callbacks=[Looking()], validation=batch)
    ((before, inside, after),) = seen
    assert torch.equal(before, after)
    assert torch.equal(inside, binarised(before, scaled=name in SCALED))


def test_an_xnor_network_is_its_weights(digits: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """Copied, pickled, or built anew from its stored weights it predicts the same, to the bit."""
    (images, labels), _ = digits
    model, fresh = (built("conv-2", 0.1, seed) for seed in range(2))
    keys = list(model.state_dict())
    train(model, (images[:100], labels[:100]), ONE_STEP, masks=full(model), callbacks=[callback("xnor")])
    assert list(model.state_dict()) == keys
    fresh.load_state_dict(model.state_dict())
    expected = model(images[:20])
    assert not torch.equal(fresh(images[:20]), expected)
    binarise_inputs(fresh, binary_weights(fresh, "head"))
    binarise_inputs(fresh, binary_weights(fresh, "head"))  # once is enough, twice no harm
    for other in (fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images[:20]), expected)


def test_each_sample_is_seen_alone() -> None:
    """No statistics of a batch: what a sample gives does not depend on its neighbours, nor on the mode."""
    with seeded(0):
        model, images = built("lenet-300-100", 0.2), torch.randn(6, 1, 8, 8)
    binarise_inputs(model, ["linear2.weight"])
    one_by_one = torch.cat([model.eval()(image[None]) for image in images])
    torch.testing.assert_close(one_by_one, model.train()(images))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_network_with_nothing_between_first_layer_and_head_is_refused(batch: tuple[Tensor, Tensor]) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)).double()
    with pytest.raises(InputError, match=r"nothing to binarise between the first layer \('0.weight'\)"):
        train(model, batch, ONE_STEP, masks=full(model), callbacks=[callback("bwn", find_head(model))])


def test_inputs_of_other_layers_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.BatchNorm2d(2))
    for name in ("0.weight", "1.weight", "2.weight"):
        with pytest.raises(InputError, match="can't be binary"):
            binarise_inputs(model, [name])
