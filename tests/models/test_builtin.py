"""The built-in networks against the sizes that the literature gives, and their options."""

import math

import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.models import MODELS, ModelSpec, build, complete
from oneticket.models.layers import HalvingPool, normalisation, scaled
from oneticket.models.resnet import resnet20
from oneticket.models.vgg import vgg11
from oneticket.prunable import Prunable

IMAGES = [entry.name for entry in MODELS.entries() if entry.facts.takes != "tokens"]
HE_NORMAL = [entry.name for entry in MODELS.entries() if entry.facts.draws == "he-normal"]
CIFAR, MNIST, IMAGENET = (3, 32, 32), (1, 28, 28), (3, 224, 224)


def make(name, shape=CIFAR, classes=10, seed=0, **options):
    return build(ModelSpec(name=name, options=options), input_shape=shape, classes=classes, seed=seed)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "weights"),
    [
        ("lenet-300-100", MNIST, 784 * 300 + 300 * 100),  # Frankle & Carbin 2019, Fig. 2: 266K with the head
        ("conv-2", CIFAR, 38_592 + 16 * 16 * 64 * 256 + 256 * 256),  # 38K in convolutions, 4.3M in all
        ("conv-4", CIFAR, 259_776 + 8 * 8 * 128 * 256 + 256 * 256),  # 260K, 2.4M
        ("conv-6", CIFAR, 1_144_512 + 4 * 4 * 256 * 256 + 256 * 256),  # 1.1M in convolutions
        ("vgg11", CIFAR, 9_217_728),
        ("vgg16", CIFAR, 14_710_464),
        ("vgg19", CIFAR, 20_018_880),
        ("resnet20", CIFAR, 267_696 + 16 * 32 + 32 * 64),
    ],
)
def test_prunable_weights(name, shape, weights):
    assert Prunable(make(name, shape)).total == weights


@pytest.mark.parametrize(
    ("name", "options", "classes", "total"),
    [
        ("lenet-300-100", {}, 10, 266_610),  # on 28 × 28: LeCun et al. 1998
        ("vgg19", {}, 10, 20_035_018),  # 20.03 M: Morcos et al. 2019
        ("resnet20", {"shortcut": "identity"}, 10, 269_722),  # 0.27, 0.46, 0.85 M: He et al. 2016, Table 6
        ("resnet32", {"shortcut": "identity"}, 10, 464_154),
        ("resnet56", {"shortcut": "identity"}, 10, 853_018),
        ("resnet20", {}, 10, 272_474),
        ("resnet18", {"stem": "imagenet"}, 1000, 11_689_512),  # torchvision's published counts
        ("resnet50", {"stem": "imagenet"}, 1000, 25_557_032),
        ("resnet18", {}, 10, 11_173_962),
        ("resnet50", {}, 10, 23_520_842),
    ],
)
def test_all_parameters(name, options, classes, total):
    shape = MNIST if name.startswith("lenet") else CIFAR
    assert parameters(make(name, shape, classes, **options)) == total


def test_resnet50_has_a_backbone_of_23_5_million():
    network = make("resnet50", stem="imagenet")
    assert parameters(network) - parameters(network.head) == 23_508_032


def modules(network, kind):
    return [m for m in network.modules() if isinstance(m, kind)]


@pytest.mark.parametrize(("name", "convolutions", "pools"), [("vgg11", 8, 4), ("vgg16", 13, 4), ("vgg19", 16, 4)])
def test_vgg_has_the_form_of_the_paper(name, convolutions, pools):
    network = make(name, width=0.05)
    assert len(modules(network, nn.Conv2d)) == len(modules(network, nn.BatchNorm2d)) == convolutions
    assert len(modules(network, HalvingPool)) == pools
    assert len(modules(network, nn.Linear)) == 1
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = network.eval().features(images)
    assert maps.shape[-2:] == (2, 2)
    assert torch.allclose(network(images), network.head(maps.flatten(2).mean(2)), atol=1e-6)


@pytest.mark.parametrize(("name", "depth"), [("resnet20", 20), ("resnet32", 32), ("resnet56", 56), ("resnet18", 18)])
def test_resnets_are_as_deep_as_their_name(name, depth):
    network = make(name, width=0.05, shortcut="identity")
    assert len(modules(network, nn.Conv2d)) + len(modules(network, nn.Linear)) == depth


@pytest.mark.parametrize(
    ("stem", "height", "first", "maps"),
    [
        ("auto", 64, (3, 1), 64),
        ("auto", 65, (7, 2), 17),
        ("cifar", 224, (3, 1), 224),
        ("imagenet", 32, (7, 2), 8),
    ],
)
def test_stem(stem, height, first, maps):
    network = make("resnet18", (3, height, height), stem=stem, width=0.05)
    convolution = network.stem.conv
    assert (convolution.kernel_size[0], convolution.stride[0]) == first
    assert network.stem(torch.zeros(1, 3, height, height)).shape[-1] == maps


def test_bottlenecks_have_their_stride_in_the_3_by_3():
    block = make("resnet50", width=0.05).stages[1][0]
    assert [m.stride[0] for m in modules(block.body, nn.Conv2d)] == [1, 2, 1]
    assert [m.kernel_size[0] for m in modules(block.body, nn.Conv2d)] == [1, 3, 1]


def test_identity_shortcut_subsamples_and_pads_with_zeros():
    shortcut = make("resnet20", shortcut="identity").stages[1][0].shortcut
    maps = torch.randn(2, 16, 7, 7)
    assert not list(shortcut.parameters())
    assert torch.equal(shortcut(maps)[:, :16], maps[:, :, [0, 2, 4, 6]][:, :, :, [0, 2, 4, 6]])
    assert shortcut(maps).shape == (2, 32, 4, 4)
    assert not shortcut(maps)[:, 16:].any()


@pytest.mark.parametrize(("shortcut", "projections"), [("projection", 2), ("identity", 0)])
def test_only_blocks_that_change_the_size_are_projected(shortcut, projections):
    network = make("resnet20", shortcut=shortcut)
    assert len([m for m in modules(network, nn.Conv2d) if m.kernel_size == (1, 1)]) == projections


@pytest.mark.parametrize("name", [n for n in MODELS if "norm" in complete(ModelSpec(name=n)).options])
@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("none", None)])
def test_convolutions_have_a_bias_only_without_normalisation(name, norm, kind):
    network = make(name, (3, 8, 8), width=0.1, norm=norm)
    convolutions = modules(network, nn.Conv2d)
    assert all((c.bias is not None) == (norm == "none") for c in convolutions)
    found = modules(network, nn.BatchNorm2d | nn.GroupNorm)
    assert len(found) == (len(convolutions) if kind else 0)
    assert all(isinstance(m, kind) for m in found)


@pytest.mark.parametrize(("channels", "groups"), [(512, 32), (64, 4), (32, 2), (31, 1), (100, 5), (7, 1), (1, 1)])
def test_groups_have_at_least_16_channels(channels, groups):
    assert normalisation("group", channels).num_groups == groups


@pytest.mark.parametrize(
    ("channels", "width", "result"), [(64, 1.0, 64), (64, 0.25, 16), (64, 0.02, 1), (64, 1e-6, 1), (100, 0.335, 34)]
)
def test_width_rounds_and_leaves_one_channel(channels, width, result):
    assert scaled(channels, width) == result


def test_width_multiplies_every_hidden_layer():
    network = make("lenet-300-100", MNIST, width=0.5)
    assert Prunable(network).total == 784 * 150 + 150 * 50
    assert {m.out_channels for m in modules(make("vgg19", width=0.125), nn.Conv2d)} == {8, 16, 32, 64}
    narrow = make("conv-6", width=0.5)
    assert Prunable(narrow).total == 286_560 + 4 * 4 * 128 * 128 + 128 * 128  # 864 + (1,144,512 − 1,728) / 4
    assert make("resnet50", width=0.125).head.in_features == 256


@pytest.mark.parametrize(("side", "halved"), [(1, 1), (2, 1), (3, 1), (7, 3), (8, 4)])
def test_a_pool_halves_a_side_and_leaves_one_pixel(side, halved):
    maps = torch.arange(float(side * 4)).reshape(1, 1, side, 4)
    pooled = HalvingPool()(maps)
    assert pooled.shape == (1, 1, halved, 2)
    rows = maps[..., 1, :] if side > 1 else maps[..., 0, :]
    assert torch.equal(pooled[0, 0, 0], rows[0, 0, [1, 3]])


@pytest.mark.parametrize("name", [n for n in IMAGES if not n.startswith(("lenet", "conv", "mlp"))])
def test_parameters_do_not_depend_on_the_image_size(name):
    """So a ticket found on 8 × 8 images fits the network for 32 × 32 ones."""
    options = {"width": 8, "heads": 2} if name == "vit" else {"width": 0.05}
    small, large = make(name, (3, 8, 8), **options), make(name, CIFAR, **options)
    assert {k: v.shape for k, v in small.state_dict().items()} == {k: v.shape for k, v in large.state_dict().items()}


@pytest.mark.parametrize("name", HE_NORMAL)
def test_initial_weights_are_kaiming_normal(name):
    """Mean 0, variance 2 / fan-in and a normal's fourth moment, each within 3 standard errors over the network."""
    network = make(name, seed=1, width=0.25)
    scores = []
    for module in modules(network, nn.Conv2d | nn.Linear):
        inputs = math.prod(module.weight.shape[1:])
        scores.append((module.weight.detach().double() * math.sqrt(inputs / 2)).flatten())
    z = torch.cat(scores)
    n = z.numel()
    assert n > 1000
    assert abs(z.mean()) < 3 / math.sqrt(n)
    assert abs((z**2).mean() - 1) < 3 * math.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 3 * math.sqrt(96 / n)  # Var z⁴ = 105 − 9
    widest = max(scores, key=len)
    assert abs((widest**2).mean() - 1) < 3 * math.sqrt(2 / len(widest))
    head = scores[-1]
    assert abs((head**2).mean() - 1) < 3 * math.sqrt(2 / len(head))


@pytest.mark.parametrize("name", HE_NORMAL)
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_biases_are_zero_and_gains_one(name, norm):
    options = {"norm": norm} if "norm" in complete(ModelSpec(name=name)).options else {}
    network = make(name, (1, 8, 8), width=0.05, **options)
    for module in network.modules():
        if getattr(module, "bias", None) is not None:
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            assert (module.weight == 1).all()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("lenet-300-100", ["linear1.weight", "linear2.bias", "head.weight"]),
        ("conv-4", ["features.conv4.weight", "linear1.weight", "linear2.weight", "head.bias"]),
        ("vgg19", ["features.conv16.weight", "features.norm16.running_var", "head.weight"]),
        ("resnet20", ["stem.conv.weight", "stages.2.2.body.conv2.weight", "stages.1.0.shortcut.norm.bias"]),
        ("resnet50", ["stem.norm.weight", "stages.3.2.body.norm3.weight", "stages.0.0.shortcut.conv.weight"]),
    ],
)
def test_parameter_names_are_part_of_the_format(name, keys):
    assert set(keys) <= set(make(name, width=0.05).state_dict())


@pytest.mark.parametrize(("factory", "key"), [(vgg11, "norm"), (resnet20, "norm"), (resnet20, "shortcut")])
def test_factories_called_directly_refuse_unknown_words(factory, key):
    with pytest.raises(InputError, match=f"unknown {key} 'batsch'"):
        factory(CIFAR, 10, **{key: "batsch"})
