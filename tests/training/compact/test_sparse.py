"""Which layers become sparse, and that training goes on as with masks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneticket.kernels.sparse import building
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.randomness import seeded
from oneticket.training import (
    Callback,
    Checkpoint,
    EpochRecord,
    OnEpoch,
    Recipe,
    Runtime,
    Start,
    Training,
    compact,
    train,
)
from oneticket.training.compact import CompactModel, sparse
from oneticket.training.compact.layers import SparseConv2d, SparseLinear
from oneticket.training.compact.sparse import sparsify

SHAPE, CLASSES = (3, 8, 8), 4
NETWORKS = {
    "lenet-300-100": {"width": 0.2},
    "conv-2": {"width": 0.125},
    "vgg11": {"width": 0.125},
    "resnet20": {"width": 0.5},
}
RECIPES = {
    "sgd": Recipe.sgd(epochs=2, batch_size=8, lr=0.02, weight_decay=0.01),
    "clipped": Recipe.sgd(epochs=2, batch_size=8, lr=0.02, nesterov=True, clip_norm=0.5, label_smoothing=0.1),
    "adam": Recipe.adam(epochs=2, batch_size=8, lr=1e-3, weight_decay=0.01),
    "adamw": Recipe(optimizer="adamw", epochs=2, batch_size=8, lr=1e-3, weight_decay=0.1, decay_norms=False),
    "rmsprop": Recipe(optimizer="rmsprop", epochs=2, batch_size=8, lr=1e-3, momentum=0.5, weight_decay=0.01),
}


@pytest.fixture(autouse=True)
def csr(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a C compiler: PyTorch's own sparse products."""
    monkeypatch.setattr(building, "available", lambda: False)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever could be sparse is: these networks are too small for it to pay."""
    monkeypatch.setattr(sparse, "WORTH", float("inf"))


@pytest.fixture(params=["kernels in C", "products of CSR"])
def either(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, eager: None) -> None:
    """Sparse layers of one kind and of the other, wherever there can be any."""
    if request.param == "kernels in C":
        monkeypatch.setattr(building, "available", lambda: building.why_not() is None)
        if not building.available():
            pytest.skip("no C compiler")
        monkeypatch.setattr(compact, "sparsify", lambda *given: sparsify(*given[:3], compute="sparse"))


def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    spec = ModelSpec(name=name, options=NETWORKS[name])
    return build(spec, input_shape=SHAPE, classes=CLASSES, seed=1).to(dtype)


def masks_of(network: nn.Module, density: float = 0.3) -> Masks:
    generator = torch.Generator().manual_seed(4)
    layers = {n: m for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    shapes = {f"{name}.weight": layer.weight.shape for name, layer in layers.items()}
    return Masks({name: torch.rand(shape, generator=generator) < density for name, shape in shapes.items()})


def data(dtype: torch.dtype = torch.float64, count: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(count, *SHAPE, generator=generator).to(dtype), torch.arange(count) % CLASSES


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        scale = float(tensor.abs().max()) if tensor.is_floating_point() else 0.0
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=1e-9 * scale, msg=name)


# -- the same training -----------------------------------------------------------------------------------------------
# Adaptive optimisers blow up the gradients of vgg11 that are nothing but rounding: there two layouts of dense kernels
# part as well.
CASES = [(name, recipe) for name in NETWORKS for recipe in RECIPES if name != "vgg11" or recipe in ("sgd", "clipped")]


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_training_is_that_of_the_masked_network(name: str, recipe: str) -> None:
    networks, trainings = [make(name), make(name)], []
    masks = masks_of(networks[0], 0.05 if name == "vgg11" else 0.3)  # at 5 % channels die as well
    factors = {n: 1.0 + i % 2 for i, (n, _) in enumerate(networks[0].named_parameters())}
    for network, asked in zip(networks, (True, False), strict=True):
        trainings.append(
            train(
                network, data(), RECIPES[recipe], masks=masks, seed=2, start=Start(lr_factors=factors),
                runtime=Runtime(compact=asked, layout="channels-last" if name == "vgg11" else "contiguous"),
                snapshots=("3it", "1ep", "2ep"), validation=data(count=16),
            )
        )  # fmt: skip
    dead = "running" if name == "vgg11" else "nothing"  # statistics of channels that nobody reads
    states = [{n: t for n, t in network.state_dict().items() if dead not in n} for network in networks]
    compare(*states)
    mine, reference = trainings
    assert mine.work == reference.work
    assert mine.masks == reference.masks == masks
    for moment, snapshot in reference.snapshots.items():
        compare({n: t for n, t in mine.snapshots[moment].state.items() if dead not in n},
                {n: t for n, t in snapshot.state.items() if dead not in n})  # fmt: skip
        compare(dict(sorted(mine.snapshots[moment].optimizer.items())), dict(sorted(snapshot.optimizer.items())))
    for record, other in zip(mine.history, reference.history, strict=True):
        assert record.train_loss == pytest.approx(other.train_loss, rel=1e-9)
        assert record.val_accuracy == other.val_accuracy
    assert all(bool((networks[0].get_parameter(n)[~mask] == 0).all()) for n, mask in masks.items())
    assert [type(m) for m in networks[0].modules()] == [type(m) for m in networks[1].modules()]


@pytest.mark.usefixtures("either")
def test_it_goes_on_with_what_an_optimiser_remembers() -> None:
    whole = make("conv-2")
    before = train(whole, data(), RECIPES["adam"], seed=2, snapshots=("1ep",)).snapshots["1ep"]
    masks, states = masks_of(whole), []
    for asked in (True, False):
        network = make("conv-2")
        network.load_state_dict(before.state)
        start, runtime = Start(step="1ep", optimizer_state=before.optimizer), Runtime(compact=asked)
        train(network, data(), RECIPES["adam"], masks=masks, seed=2, start=start, runtime=runtime)
        states.append(network.state_dict())
    compare(*states)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("name", ["conv-2", "vgg11"])
def test_a_killed_training_goes_on_with_equal_bits(name: str, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(_: EpochRecord) -> None:
        raise Killed

    masks, recipe = masks_of(make(name), 0.05), RECIPES["sgd"]
    whole, parts = make(name, torch.float32), make(name, torch.float32)
    uninterrupted = train(whole, data(torch.float32), recipe, masks=masks, seed=2, snapshots=("1ep",))
    place = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        train(copy.deepcopy(parts), data(torch.float32), recipe, masks=masks, seed=2, snapshots=("1ep",),
              runtime=Runtime(checkpoint=Checkpoint(place, every=0)), callbacks=[OnEpoch(kill)])  # fmt: skip
    saved = torch.load(place, weights_only=True)
    shapes = {n: t.shape for n, t in parts.state_dict().items()}
    assert {n: t.shape for n, t in saved["model"].items()} == shapes, "kept in the shapes of the whole network"
    resumed = train(parts, data(torch.float32), recipe, masks=masks, seed=2, snapshots=("1ep",),
                    runtime=Runtime(checkpoint=Checkpoint(place)))  # fmt: skip
    assert resumed.resumed_at == 4
    assert resumed.work == uninterrupted.work
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in parts.state_dict().items())
    state, expected = resumed.snapshots["1ep"].state, uninterrupted.snapshots["1ep"].state
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_the_loop_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def watched(compact_model: CompactModel, example: Tensor, precision: str, compute: str) -> CompactModel:
        asked.append((tuple(example.shape), precision))
        return sparsify(compact_model, example, precision, compute)  # type: ignore[arg-type]

    monkeypatch.setattr(compact, "sparsify", watched)

    def trained(**options: Any) -> Training:
        network = make("conv-2", torch.float32)
        return train(network, data(torch.float32), RECIPES["sgd"], **{"masks": masks_of(network)} | options)

    trained()
    trained(callbacks=[Callback()])  # as the laboratory says that a method does nothing while it trains
    assert asked == [((8, *SHAPE), "float32")] * 2
    trained(runtime=Runtime(compact=False))
    trained(masks=None)
    trained(loss=lambda model, inputs, targets: nn.functional.cross_entropy(model(inputs), targets))
    assert len(asked) == 2


@pytest.mark.usefixtures("eager")
def test_a_network_that_can_be_trained_but_not_looked_at_is_trained_all_the_same() -> None:
    class Shy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(192, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            if not self.training:
                raise RuntimeError("not in evaluation mode")
            return self.layer(images.flatten(1))

    network = Shy().double()
    masks = Masks({"layer.weight": torch.rand(CLASSES, 192) < 0.2})
    assert train(network, data(), RECIPES["sgd"], masks=masks).steps == 8


# -- which layers ----------------------------------------------------------------------------------------------------
def chosen(network: nn.Module, density: float = 0.3, example: Tensor | None = None, **options: Any) -> tuple[str, ...]:
    example = torch.zeros(8, *SHAPE) if example is None else example
    return sparsify(CompactModel(network, masks_of(network, density)), example, **options).sparse


@pytest.mark.usefixtures("eager")
def test_layers_of_stride_1_become_sparse_and_others_stay() -> None:
    network = make("resnet20", torch.float32)
    found = sparsify(CompactModel(network, masks_of(network)), torch.zeros(8, *SHAPE))
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            other = found.model.get_submodule(name)
            assert isinstance(other, SparseConv2d) == (module.stride == (1, 1)), name
            assert (name in found.sparse) == (module.stride == (1, 1))
    assert set(found.masks or {}) == {n for n in masks_of(network) if n.removesuffix(".weight") not in found.sparse}
    assert network.get_submodule(found.sparse[0]).weight.dim() == 4, "the network itself is left alone"


def linear(change: Callable[[nn.Sequential], None] = lambda _: None) -> nn.Sequential:
    with seeded(0):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 64))
    change(network)
    return network


CHANGES: dict[str, tuple[Callable[[nn.Sequential], Any], int]] = {
    "none": (lambda _: None, 3),
    "hook": (lambda network: network[3].register_forward_hook(lambda *_: None), 2),
    "shared": (lambda network: setattr(network[4], "weight", network[3].weight), 1),
    "frozen": (lambda network: network[1].weight.requires_grad_(False), 2),
    "another type": (lambda network: setattr(network[1], "__class__", type("Mine", (nn.Linear,), {})), 2),
    "parametrised": (lambda network: nn.utils.parametrizations.weight_norm(network[1]), 2),
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_more_than_a_plain_layer_stays(change: str) -> None:
    network = linear(CHANGES[change][0])
    weights = {n: p for n, p in network.named_parameters() if n.endswith(".weight")}
    masks = Masks({name: torch.rand(weight.shape) < 0.3 for name, weight in weights.items()})
    assert len(sparsify(CompactModel(network, masks), torch.zeros(8, *SHAPE)).sparse) == CHANGES[change][1]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"padding": 0}, {"groups": 2}, {"kernel_size": 2},
                                     {"padding_mode": "circular"}])  # fmt: skip
def test_other_convolutions_stay(options: dict[str, Any]) -> None:
    arguments = {"kernel_size": 3, "padding": 1} | options
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, **arguments), nn.Flatten(), nn.LazyLinear(4))
    network(torch.zeros(1, *SHAPE))
    assert chosen(network) == ("0", "3")


@pytest.mark.usefixtures("eager")
def test_a_network_that_reads_a_weight_by_itself_stays() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(192, 192)

        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.linear(self.layer(images.flatten(1)), self.layer.weight)

    assert chosen(Tied()) == ()


def test_it_pays_where_little_is_left_and_not_where_much_is() -> None:
    layers = nn.Sequential(nn.Conv2d(512, 512, 3, padding=1), nn.Flatten(), nn.Linear(512 * 4, 512))
    example = torch.zeros(64, 512, 2, 2)
    assert chosen(layers, 0.005, example) == ("0", "2")
    assert chosen(layers, 0.005, example, precision="bf16") == ("0", "2")
    assert chosen(layers, 0.5, example) == ()
    assert chosen(make("lenet-300-100", torch.float32), 0.02, torch.zeros(128, *SHAPE)) == ()


def test_bf16_wants_fewer_weights() -> None:
    layer, example = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1)), torch.zeros(64, 256, 4, 4)
    densities = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1]
    counts = [
        sum(bool(chosen(layer, density, example, precision=precision)) for density in densities)
        for precision in ("float32", "bf16")
    ]
    assert 0 < counts[1] < counts[0] < len(densities)


@pytest.mark.usefixtures("eager")
def test_without_sparse_kernels_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(linear()) == ("1", "3", "4")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert chosen(linear()) == ()


@pytest.mark.usefixtures("eager")
def test_widening_undoes_narrowing() -> None:
    network = make("vgg11")
    masks = masks_of(network, 0.2)
    found = sparsify(CompactModel(network, masks), torch.zeros(8, *SHAPE, dtype=torch.float64))
    assert any(isinstance(module, (SparseConv2d, SparseLinear)) for module in found.model.modules())
    state = {n: t * masks[n] if n in masks else t for n, t in network.state_dict().items()}
    narrow = found.to_compact(state)
    assert {n: t.shape for n, t in narrow.items()} == {n: t.shape for n, t in found.model.state_dict().items()}
    back = found.to_full(narrow)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
