"""The barrier between two solutions, against curves known in closed form and statistics worked out by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oneticket.data import ImageSet, Normalisation, TensorBatches
from oneticket.errors import InputError
from oneticket.metrics import Barrier, error_barrier
from oneticket.metrics.barrier import estimate_statistics, interpolated
from oneticket.training import evaluate

State = dict[str, Tensor]


def samples(n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 3, generator=generator)
    return inputs, (inputs[:, 0] > 0).long()


def line(weight: float) -> State:
    """Of a linear classifier of two classes that says 1 where ``weight · x₀ > 0``."""
    return {"weight": torch.tensor([[0.0, 0.0, 0.0], [weight, 0.0, 0.0]])}


def normalised(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 4), nn.BatchNorm1d(4)]
    return nn.Sequential(*layers, nn.Linear(4, 2))


# -- the line ---------------------------------------------------------------------------------------------------------
def test_the_height_is_the_maximum_less_the_mean_of_the_ends() -> None:
    barrier = Barrier((0.0, 0.5, 1.0), (0.1, 0.4, 0.2))
    assert barrier.height == pytest.approx(0.25)
    assert not barrier.stable


@pytest.mark.parametrize(("top", "stable"), [(0.1199, True), (0.1201, False)])
def test_stable_is_below_two_points(top: float, stable: bool) -> None:
    assert Barrier((0.0, 0.5, 1.0), (0.1, top, 0.1)).stable is stable


def test_a_line_whose_errors_are_known() -> None:
    """(1 − α) · 2 − α · 1 is positive up to α = 2/3: all right before it, all wrong after it."""
    data = samples()
    barrier = error_barrier(nn.Linear(3, 2, bias=False), line(2.0), line(-1.0), data, data)
    assert len(barrier.alphas) == 30
    assert barrier.alphas == pytest.approx([i / 29 for i in range(30)], abs=1e-15)
    assert barrier.errors == tuple(0.0 if i / 29 < 2 / 3 else 1.0 for i in range(30))
    assert barrier.height == 0.5


def test_a_network_has_no_barrier_to_itself() -> None:
    model, data = normalised(0), samples()
    barrier = error_barrier(model, model.state_dict(), model.state_dict(), data, data, points=5)
    assert len(set(barrier.errors)) == 1
    assert (barrier.height, barrier.stable) == (0.0, True)


def test_the_two_ends_may_change_places() -> None:
    first, second, data = normalised(0).state_dict(), normalised(1).state_dict(), samples()
    there = error_barrier(normalised(2), first, second, data, data, points=7)
    back = error_barrier(normalised(2), second, first, data, data, points=7)
    assert there.errors == pytest.approx(back.errors[::-1], abs=0.04), "two of 60 samples, for rounding"
    assert there.height > 0, "two random networks, or the test shows nothing"


def test_interpolation_is_exact_at_the_ends_and_keeps_zeros() -> None:
    first, second = normalised(0).state_dict(), normalised(1).state_dict()
    first["1.num_batches_tracked"] += 7
    for state in (first, second):
        state["0.weight"][1:3] = 0.0
    assert all(torch.equal(t, first[n]) for n, t in interpolated(first, second, 0.0).items())
    counters = {n for n in first if n.endswith("tracked")}
    assert all(torch.equal(t, second[n]) for n, t in interpolated(first, second, 1.0).items() if n not in counters)
    third = interpolated(first, second, 0.3)
    assert int(third["1.num_batches_tracked"]) == 7
    assert not third["0.weight"][1:3].any()
    expected = 0.7 * first["4.weight"].double().numpy() + 0.3 * second["4.weight"].double().numpy()
    np.testing.assert_allclose(third["4.weight"].numpy(), expected, rtol=1e-5, atol=1e-7)


# -- normalisation ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch_size", [7, 20, 59, 60, 512])
def test_statistics_are_averages_over_the_batches_by_their_samples(batch_size: int) -> None:
    """In float64 by hand; 59 leaves a last batch of one sample, which has no variance and is left out."""
    model, (inputs, targets) = normalised(0).double(), samples()
    inputs = inputs.double()
    estimate_statistics(model, TensorBatches(inputs, targets, batch_size))
    parts = [part.numpy() for part in inputs.split(batch_size) if len(part) > 1]
    seen = sum(map(len, parts))
    weights = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    mean, var = np.zeros(4), np.zeros(4)
    for part in parts:
        hidden = part @ weights["0.weight"].T + weights["0.bias"]
        hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
        hidden = np.maximum(hidden * weights["1.weight"] + weights["1.bias"], 0)
        later = hidden @ weights["4.weight"].T + weights["4.bias"]
        mean, var = mean + later.mean(0) * len(part) / seen, var + later.var(0, ddof=1) * len(part) / seen
    np.testing.assert_allclose(model[5].running_mean.numpy(), mean, rtol=1e-10)
    np.testing.assert_allclose(model[5].running_var.numpy(), var, rtol=1e-10)
    assert [model[1].momentum, model[5].momentum] == [0.1, 0.1]


def test_statistics_of_the_states_are_not_looked_at() -> None:
    first, second, data = normalised(0).state_dict(), normalised(1).state_dict(), samples()
    expected = error_barrier(normalised(2), first, second, data, data, points=4)
    for state in (first, second):
        state["1.running_mean"] += 100
        state["5.running_var"] *= 1e4
    assert error_barrier(normalised(2), first, second, data, data, points=4) == expected


class Residual(nn.Module):
    """Two convolutions with BatchNorm, the second added to what goes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv, self.norm1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 2, h, w) → (batch, 2)."""
        maps = torch.relu(self.norm(self.stem(images)))
        return self.head(torch.relu(maps + self.norm1(self.conv(maps))).mean((2, 3)))  # type: ignore[no-any-return]


def test_statistics_of_maps_are_over_samples_and_pixels() -> None:
    """The same on a residual network: float64 convolutions as sums of shifted maps, nothing of torch's."""
    torch.manual_seed(4)
    model, images = Residual().double(), torch.randn(10, 2, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2)
        model.norm.bias.normal_()
    estimate_statistics(model, TensorBatches(images, torch.zeros(10).long(), 4))
    weights = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}

    def convolved(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        height, width = maps.shape[2:]
        padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
        shifted = (
            np.einsum("bchw,oc->bohw", padded[:, :, i : i + height, j : j + width], kernel[:, :, i, j])
            for i, j in np.ndindex(3, 3)
        )
        return sum(shifted)  # type: ignore[return-value]

    expected = {name: np.zeros((2, 3)) for name in ("norm", "norm1")}
    for part in np.split(images.numpy(), [4, 8]):
        maps = convolved(part, weights["stem.weight"]) + weights["stem.bias"][:, None, None]
        mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3))
        expected["norm"] += np.stack([mean, maps.var((0, 2, 3), ddof=1)]) * len(part) / 10
        gain, shift = weights["norm.weight"], weights["norm.bias"]
        scaled = (maps - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None] * gain[:, None, None]
        later = convolved(np.maximum(scaled + shift[:, None, None], 0), weights["conv.weight"])
        expected["norm1"] += np.stack([later.mean((0, 2, 3)), later.var((0, 2, 3), ddof=1)]) * len(part) / 10
    for name, (mean, var) in expected.items():
        norm = model.get_submodule(name)
        np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-10)
        np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-10)


def test_each_point_has_its_own_statistics() -> None:
    """Each error is that of a network put there by hand, estimated anew and evaluated."""
    first, second, data, test = normalised(0).state_dict(), normalised(1).state_dict(), samples(), samples(200, 1)
    barrier = error_barrier(normalised(2), first, second, data, test, points=6, batch_size=16)
    for alpha, error in zip(barrier.alphas, barrier.errors, strict=True):
        model = normalised(3)
        model.load_state_dict(interpolated(first, second, alpha))
        estimate_statistics(model, TensorBatches(*data, 16))
        assert error == pytest.approx(1 - evaluate(model, test)[0], abs=1e-12)


def test_without_normalisation_no_training_batch_is_looked_at() -> None:
    class Unseen(TensorBatches):
        def ordered(self):  # type: ignore[no-untyped-def]
            raise AssertionError("looked at")

    data = samples()
    error_barrier(nn.Linear(3, 2, bias=False), line(1.0), line(2.0), Unseen(*data, 8), data, points=2)


def test_images_are_judged_with_the_normalisation_of_the_training_split() -> None:
    """Of brighter images of the same kind the test split alone would see other pixels."""
    dark = torch.tensor([0, 50, 100, 150], dtype=torch.uint8).view(4, 1, 1, 1)
    train = ImageSet(dark, torch.tensor([0, 0, 1, 1]), ("dark", "bright"))
    test = ImageSet(dark + 100, torch.tensor([1, 1, 1, 1]), ("dark", "bright"))
    state = {"1.weight": torch.tensor([[-1.0], [1.0]])}
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    assert error_barrier(model, state, state, train, test, points=2).errors == (0.0, 0.0)
    model.load_state_dict(state)
    assert evaluate(model, test, normalisation=Normalisation.of(test))[0] == 0.5


# -- what is left, and what is refused --------------------------------------------------------------------------------
def test_network_and_states_are_left_as_they_were() -> None:
    model = normalised(2).train()
    first, second, data = normalised(0).state_dict(), normalised(1).state_dict(), samples()
    states = [model.state_dict(), first, second]
    before = copy.deepcopy(states)
    error_barrier(model, first, second, data, data, points=3)
    for state, old in zip(states, before, strict=True):
        assert all(torch.equal(tensor, old[name]) for name, tensor in state.items())
    assert model.training


def test_states_of_another_network_are_refused() -> None:
    data, good = samples(), line(1.0)
    model = nn.Linear(3, 2, bias=False)
    with pytest.raises(InputError, match=r"second: 'weight' has the shape \(3, 2\); expected \(2, 3\)"):
        error_barrier(model, good, {"weight": torch.zeros(3, 2)}, data, data)
    with pytest.raises(InputError, match="first: there is no 'weight'"):
        error_barrier(model, {}, good, data, data)
    with pytest.raises(InputError, match="second: 'bias' has the shape"):
        error_barrier(model, good, {**good, "bias": torch.zeros(2)}, data, data)
    with pytest.raises(InputError, match="points: a line needs two points, not 1"):
        error_barrier(model, good, good, data, data, points=1)
    empty = TensorBatches(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 8)
    with pytest.raises(InputError, match="training set is empty"):
        error_barrier(normalised(0), normalised(0).state_dict(), normalised(1).state_dict(), empty, data)
