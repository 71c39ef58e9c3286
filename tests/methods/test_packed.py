"""Packed bits give the integers that multiplying signs gives, and whole networks their logits."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods import packed as module
from oneticket.methods.binary import binarised
from oneticket.methods.binary_inputs import Window, binarise_inputs
from oneticket.methods.packed import PackedConv2d, PackedSigns, in_columns, in_units, pack, popcount, popcount_by_table
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.training import Recipe, train

RECIPE = Recipe.sgd(epochs=2, batch_size=8, lr=0.05)


def built(network: str, width: float = 0.25, **options: str) -> nn.Module:
    spec = ModelSpec(name=network, options={"width": width, **options})
    return build(spec, input_shape=(3, 12, 12), classes=5, seed=0)


def trained(model: nn.Module, density: float = 1.0, name: str = "xnor") -> nn.Module:
    """A few steps on noise: binary weights, and normalisation statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 3, 12, 12, generator=generator, dtype=next(model.parameters()).dtype)
    shapes = {key: weight.shape for key, weight in Prunable(model).weights()}
    masks = Masks({key: torch.rand(shape, generator=generator) < density for key, shape in shapes.items()})
    callback = callback_of(name, MethodContext(density, "head", RECIPE), {})
    train(model, (images, torch.arange(16) % 5), RECIPE, masks=masks, callbacks=[callback])
    return model.eval()


def random_signs(seed: int, *shape: int, density: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < density
    return (torch.randint(0, 2, shape, generator=generator) * 2.0 - 1) * kept


# --- bits -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=9))
def test_ones_are_counted_with_and_without_numpys_own(numbers: list[int]) -> None:
    words = np.array(numbers, np.uint64)
    expected = [bin(number).count("1") for number in numbers]
    assert popcount(words).tolist() == popcount_by_table(words).tolist() == expected
    assert popcount_by_table(np.stack([words, ~words], 1)).tolist() == [[n, 64 - n] for n in expected]


@pytest.mark.parametrize(
    ("channels", "size", "units"), [(1, 1, 1), (8, 1, 1), (9, 2, 1), (17, 4, 1), (33, 8, 1), (65, 8, 2)]
)
def test_a_pixel_takes_the_smallest_unit(channels: int, size: int, units: int) -> None:
    found = in_units(np.ones((2, 3, channels), np.bool_))
    assert found.shape == (2, 3, units)
    assert found.itemsize == size
    assert sum(bin(int(unit)).count("1") for unit in found[1, 2]) == channels
    assert popcount(in_columns(found)).sum(0).tolist() == [3 * channels] * 2


@settings(max_examples=60)
@given(
    seed=st.integers(0, 99),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 140), st.integers(0, 6)),
    density=st.sampled_from([1.0, 0.5, 0.0]),
    at_once=st.sampled_from([1, 16, 1 << 18]),
)
def test_products_are_those_of_the_signs(
    seed: int, sizes: tuple[int, int, int, int], density: float, at_once: int
) -> None:
    outputs, positions, channels, rows = sizes
    weight = random_signs(seed, outputs, positions, channels, density=density)
    inputs = random_signs(seed + 1, rows, positions, channels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_COUNTED_AT_ONCE", at_once)
        found = PackedSigns(weight * 0.3).products(in_columns(in_units(inputs.numpy() > 0)))
    assert found.tolist() == (weight.flatten(1) @ inputs.flatten(1).T).int().tolist()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 99),
    channels=st.sampled_from([1, 3, 16, 70]),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.integers(1, 2),
    density=st.sampled_from([1.0, 0.4]),
    at_once=st.sampled_from([1, 1 << 24]),
)
def test_convolutions_give_equal_integers_at_the_border_too(
    seed: int,
    channels: int,
    size: tuple[int, int],
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    density: float,
    at_once: int,
) -> None:
    layer = nn.Conv2d(channels, 4, size, stride=stride, padding=padding, dilation=dilation)
    layer.weight.data = random_signs(seed, *layer.weight.shape, density=density)
    window = Window.of(layer)
    assert window is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_UNFOLDED_AT_ONCE", at_once)
        packed = PackedConv2d(layer, window)
        for height, width in ((7, 6), (6, 7), (6, 7)):  # the border of one size is not that of another
            inputs = random_signs(seed + 1, 3, channels, height, width)
            expected = F.conv2d(inputs, layer.weight.detach(), None, stride, padding, dilation)
            found = packed.products(inputs.permute(0, 2, 3, 1).numpy() > 0)
            assert np.array_equal(found, expected.numpy().astype(np.int32))


# --- networks ---------------------------------------------------------------------------------------------------------

NETWORKS = [
    ("lenet-300-100", {}),
    ("conv-2", {}),
    ("conv-4", {"norm": "batch"}),
    ("vgg11", {}),
    ("vgg11", {"norm": "none"}),
    ("resnet20", {}),
    ("resnet20", {"shortcut": "identity"}),
]


@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize(("network", "options"), NETWORKS)
def test_logits_are_those_of_the_network(network: str, options: dict[str, str], density: float) -> None:
    """In double precision nothing lies within rounding of a threshold, so all logits must agree."""
    model = trained(built(network, **options).double(), density)
    images = torch.randn(9, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(images)
    assert expected.std(0).min() > 0, "the network tells these images apart"
    torch.testing.assert_close(pack(model)(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("network", ["lenet-300-100", "conv-2", "vgg11"])
def test_in_single_precision_to_five_digits(network: str) -> None:
    model = trained(built(network))
    images = torch.randn(9, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(pack(model)(images), model(images), rtol=1e-5, atol=1e-5)


def test_linear_layers_take_any_number_of_leading_dimensions() -> None:
    model = nn.Sequential(nn.Linear(70, 5))
    model[0].weight.data = binarised(model[0].weight.data)
    binarise_inputs(model, ["0.weight"])
    inputs = torch.randn(2, 3, 70)
    torch.testing.assert_close(pack(model)(inputs), model(inputs).detach())


def test_one_image_and_other_sizes_pass() -> None:
    model = trained(built("vgg11").double())
    predict = pack(model)
    for batch, side in ((1, 12), (2, 20), (1, 12)):
        images = torch.randn(batch, 3, side, side, dtype=torch.float64)
        torch.testing.assert_close(predict(images), model(images).detach())


def test_packing_copies_and_predicting_leaves_no_gradients() -> None:
    model = trained(built("conv-2")).train()
    before = copy.deepcopy(model.state_dict())
    predict = pack(model)
    assert model.training
    assert not predict.network.training
    assert not predict(torch.randn(2, 3, 12, 12)).requires_grad
    model.get_parameter("head.weight").data.zero_()
    assert predict.network.get_parameter("head.weight").any()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items() if key != "head.weight")


def test_bytes_are_those_of_words_scales_and_the_rest() -> None:
    model = nn.Sequential(nn.Linear(4, 70), nn.BatchNorm1d(70), nn.Linear(70, 5), nn.Linear(5, 3))
    binarise_inputs(model, ["2.weight"])
    model[2].weight.data = binarised(model[2].weight.data)
    rest = (4 * 70 + 70) * 4 + 4 * 70 * 4 + 5 * 4 + (5 * 3 + 3) * 4  # layers, normalisation, the bias, the head
    assert pack(model).bytes == rest + 5 * 2 * 8 + 5 * 4 + 5 * 4  # two words, a scale and a length for each filter
    model[2].weight.data[0, 0] = 0
    assert pack(model).bytes == rest + 2 * 5 * 2 * 8 + 5 * 4 + 5 * 4


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bwn", "binary-connect", "train"])
def test_networks_with_real_inputs_are_refused(name: str) -> None:
    with pytest.raises(
        InputError, match="no layer of LeNet has binary inputs; expected a network that 'xnor' has trained"
    ):
        pack(trained(built("lenet-300-100"), name=name))


def test_real_weights_are_refused_by_the_name_of_their_layer() -> None:
    model = trained(built("lenet-300-100"))
    model.get_parameter("linear2.weight").data[3, 2] *= 1.01
    with pytest.raises(InputError, match="layer 'linear2': its weights are real"):
        pack(model)
