"""Bytes counted by hand, and a comparison whose clock is ours."""

from __future__ import annotations

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.binary import binarised
from oneticket.methods.binary_inputs import binarise_inputs
from oneticket.methods.footprint import (
    Contestant,
    binary_weights,
    compare,
    compressed,
    contestants,
    stored_bytes,
    ways,
)
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.randomness import seeded
from oneticket.training import Recipe, evaluate, train


def network() -> nn.Sequential:
    """Weights 4 × 6, 6 × 5, 5 × 3; biases 6, 5, 3; normalisation 4 × 6 and a counter."""
    with seeded(0):
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 3)).eval()


MASK = torch.arange(30).reshape(5, 6) % 3 == 0  # keeps 10 of 30
REST = 4 * (24 + 6 + 24 + 5 + 15 + 3)  # all but the weight in the middle


def test_dense_networks_take_four_bytes_a_number() -> None:
    assert stored_bytes(network()) == REST + 4 * 30


def test_tickets_take_a_bit_for_every_and_four_bytes_for_each_kept_weight() -> None:
    assert stored_bytes(network(), {"3.weight": MASK}) == REST + 4 + 4 * 10
    assert stored_bytes(network(), {"3.weight": torch.ones_like(MASK)}) == REST + 4 * 30
    nothing = {"3.weight": torch.zeros_like(MASK)}
    assert stored_bytes(network(), nothing) == REST + 4


def test_binary_networks_take_a_bit_a_weight_and_a_scale_a_filter() -> None:
    model = network()
    real = model[3].weight.data.clone()
    model[3].weight.data = binarised(real)
    assert stored_bytes(model, binary=["3.weight"]) == REST + 4 + 4 * 5
    model[3].weight.data = binarised(real, MASK)
    assert stored_bytes(model, {"3.weight": MASK}, ["3.weight"]) == REST + 4 + 2 + 4 * 5
    model[3].weight.data = binarised(real, scaled=False)
    assert stored_bytes(model, binary=["3.weight"]) == REST + 4
    model[3].weight.data = binarised(real, MASK, scaled=False)
    assert stored_bytes(model, {"3.weight": MASK}, ["3.weight"]) == REST + 4 + 2


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"no parameter '3.wieght' \(did you mean '3.weight'\?\)"):
        stored_bytes(network(), {"3.wieght": MASK})
    with pytest.raises(InputError, match="no parameter 'x'"):
        stored_bytes(network(), binary=["x"])


def test_binary_weights_are_told_by_their_magnitudes() -> None:
    model = network()
    assert binary_weights(model, "4") == []
    model[3].weight.data = binarised(model[3].weight.data, MASK)
    model[4].weight.data = binarised(model[4].weight.data)
    assert binary_weights(model, "4") == ["3.weight"]
    assert binary_weights(model, "0") == ["3.weight", "4.weight"]
    model[3].weight.data[1, 0] *= 1.5
    assert binary_weights(model, "4") == (["3.weight"] if not MASK[1, 0] else [])
    model[3].weight.data = torch.randn(5, 6) * torch.eye(5, 6)
    assert binary_weights(model, "4") == [], "one weight a filter says nothing"


def test_sparse_matrices_give_what_masked_ones_give() -> None:
    model = network()
    model[3].weight.data *= MASK
    inputs = torch.randn(7, 4)
    found = compressed(model, {"3.weight": MASK})
    torch.testing.assert_close(found(inputs), model(inputs).detach())
    assert "3.weight" not in dict(found.named_parameters())
    assert "3.weight" in dict(model.named_parameters())


class Ticking(nn.Module):
    """Moves the clock by the next of its times whenever it predicts more than one sample."""

    def __init__(self, name: str, times: list[float], log: list[str], clock: list[float]) -> None:
        super().__init__()
        self.name, self.times, self.log, self.clock = name, iter(times), log, clock
        self.answer = 1 if name == "right" else 0

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) == 4 and self.log is not None:
            self.log.append(self.name)
            self.clock[0] += next(self.times)
        return nn.functional.one_hot(torch.full((len(inputs),), self.answer), 2).float()


def test_times_are_medians_a_sample_and_all_take_turns() -> None:
    log: list[str] = []
    clock = [0.0]
    rest = {"right": [9.0, 4.0, 8.0, 100.0], "wrong": [9.0, 2.0, 2.0, 2.0]}
    networks = {name: Contestant(Ticking(name, times, log, clock), 7) for name, times in rest.items()}
    data = torch.zeros(5, 1), torch.tensor([1, 1, 1, 0, 1])  # judged whole, in one batch of five
    right, wrong = compare(networks, data, batch=4, repeats=3, clock=lambda: clock[0])
    assert (right.name, right.accuracy, right.bytes, right.seconds, right.batch) == ("right", 0.8, 7, 2.0, 4)
    assert (wrong.name, wrong.accuracy, wrong.seconds) == ("wrong", pytest.approx(0.2), 0.5)
    assert log == ["right", "wrong", "right", "wrong", "wrong", "right", "right", "wrong"]


def test_fewer_samples_than_a_batch_are_counted_as_what_they_are() -> None:
    data = torch.randn(3, 4), torch.tensor([0, 1, 2])
    (row,) = compare({"one": Contestant(network(), 1)}, data, batch=64, repeats=1, clock=iter([0.0, 3.0]).__next__)
    assert (row.batch, row.seconds) == (3, 1.0)


def test_ways_are_copies_in_evaluation_mode_with_sparse_products_where_something_is_gone() -> None:
    model = network().train()
    model[3].weight.data *= MASK
    inputs = torch.randn(7, 4)
    assert list(ways(model)) == list(ways(model, {"3.weight": torch.ones_like(MASK)})) == ["dense kernels"]
    found = ways(model, {"3.weight": MASK})
    assert list(found) == ["dense kernels", "CSR"]
    assert model.training
    for copied in found.values():
        assert not copied.training
        torch.testing.assert_close(copied(inputs), copy.deepcopy(model).eval()(inputs).detach())


def test_a_ternary_network_that_sees_signs_is_packed_and_not_multiplied_sparsely() -> None:
    model = network()
    model[3].weight.data = binarised(model[3].weight.data, MASK)
    binarise_inputs(model, ["3.weight"])
    found = ways(model, {"3.weight": MASK})
    assert list(found) == ["dense kernels", "packed bits"]
    inputs = torch.randn(7, 4)
    torch.testing.assert_close(found["packed bits"](inputs), model(inputs).detach())


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"repeats": 0}])
def test_nothing_to_measure_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        compare({"one": Contestant(network(), 1)}, (torch.randn(3, 4), torch.arange(3)), **wrong)


@pytest.fixture
def digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.from_numpy(bunch.images / 8 - 1).float()[:300, None], torch.from_numpy(bunch.target).long()[:300]


@pytest.mark.parametrize(("name", "linear"), [("lenet-300-100", True), ("conv-2", False)])
def test_the_three_networks_beside_one_another(name: str, linear: bool, digits: tuple[Tensor, Tensor]) -> None:
    spec, recipe = ModelSpec(name=name, options={"width": 0.2}), Recipe.adam(epochs=2, batch_size=50)

    def trained(method: str, density: float) -> tuple[nn.Module, Masks]:
        model = build(spec, input_shape=(1, 8, 8), classes=10, seed=0)
        masks = Masks({n: torch.rand(w.shape) < density for n, w in Prunable(model).weights()})
        callback = callback_of(method, MethodContext(density, "head", recipe), {})
        train(model, digits, recipe, masks=masks, callbacks=[callback])
        return model, masks

    with seeded(1):
        (dense, _), (sparse, masks), (binary, _) = trained("train", 1.0), trained("train", 0.1), trained("xnor", 1.0)
    found = contestants(dense, sparse, masks, binary, "head")
    rows = {row.name: row for row in compare(found, digits, batch=32, repeats=2)}
    csr = ["sparse, CSR"] if linear else []
    assert list(rows) == ["dense", "sparse, dense kernels", *csr, "binary, dense kernels", "binary, packed bits"]
    assert rows["binary, packed bits"].accuracy == evaluate(binary, digits)[0]
    assert rows["sparse, dense kernels"].accuracy == evaluate(sparse, digits)[0]
    assert all(row.seconds > 0 for row in rows.values())
    names = binary_weights(binary, "head")
    ordinary = sum(p.numel() for n, p in binary.named_parameters() if n not in names)
    filters = sum(len(binary.get_parameter(n)) for n in names)
    bits = sum(-(-binary.get_parameter(n).numel() // 8) for n in names)
    assert rows["binary, packed bits"].bytes == 4 * ordinary + 4 * filters + bits
    assert rows["sparse, dense kernels"].bytes < rows["dense"].bytes / 4


def test_binary_networks_with_real_inputs_have_no_packed_line() -> None:
    model = network()
    model[3].weight.data = binarised(model[3].weight.data)
    found = contestants(network(), network(), {"3.weight": MASK}, model, "4")
    assert "binary, packed bits" not in found
    binarise_inputs(model, ["3.weight"])
    assert "binary, packed bits" in contestants(network(), network(), {"3.weight": MASK}, model, "4")
