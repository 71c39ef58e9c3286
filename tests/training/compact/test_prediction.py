"""A pruned network for prediction gives the outputs of the network as it is, with less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oneticket as ot
from oneticket.errors import InputError
from oneticket.kernels.sparse import building
from oneticket.models import ModelSpec, build
from oneticket.training.compact import prediction
from oneticket.training.compact.planes import PlanesLayer

needs_compiler = pytest.mark.skipif(not building.available(), reason="no C compiler")


def pruned(name: str, density: float = 0.1, **options: Any) -> nn.Module:
    network = build(ModelSpec(name=name, options=options), input_shape=(3, 8, 8), classes=4, seed=1)
    generator = torch.Generator().manual_seed(2)
    network.train()(torch.randn(16, 3, 8, 8, generator=generator))  # running statistics of its own
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data *= torch.rand(parameter.shape, generator=generator) < density
    return network


def images(count: int = 24) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@needs_compiler
@pytest.mark.parametrize("name", ["lenet-300-100", "conv-2", "vgg11", "resnet20"])
def test_all_layers_sparse_give_the_outputs_of_the_network(name: str) -> None:
    network = pruned(name, **({"width": 0.5} if name == "resnet20" else {"width": 0.125}))
    before = {n: t.clone() for n, t in network.state_dict().items()}
    found = ot.compact(network, images(), compute="sparse")
    assert len(found.sparse) > 2
    assert all(isinstance(found.network.get_submodule(layer), PlanesLayer) for layer in found.sparse)
    expected = network.eval()(images()).detach()
    for count in (24, 1, 17):  # other batches than that of the example
        torch.testing.assert_close(found(images()[:count]), expected[:count], rtol=0, atol=1e-5)
    assert not found(images()).requires_grad
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items()), "the network is left alone"


def test_it_stays_in_evaluation_mode() -> None:
    found = ot.compact(pruned("vgg11", width=0.125), images(), compute="dense")
    assert not found.train().training
    assert torch.equal(found(images()), found(images()))
    assert found.sparse == ()


def dead() -> nn.Sequential:
    """Half of the hidden channels have neither inputs nor a bias."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    network[0].weight.data[4:] = 0
    return network


def test_dead_channels_are_removed_with_all_that_training_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    network, example = dead(), images()
    monkeypatch.setattr(prediction, "_in_turns", lambda networks, _: dict(zip(networks, [9.0, 1.0], strict=True)))
    found = ot.compact(network, example, compute="dense")
    assert found.removed == 4
    assert found.seconds == {"as it is": 9.0, "without dead channels": 1.0}
    assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in network.parameters()) / 2 + 2
    torch.testing.assert_close(found(example), network(example))
    assert found.bytes == 4 * sum(p.numel() for p in found.parameters())


@needs_compiler
@pytest.mark.parametrize("faster", ["as it is", "sparse"])
def test_the_fastest_is_taken(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(networks: dict[str, nn.Module], _: Tensor) -> dict[str, float]:
        return {name: 1.0 if ("sparse" in name) == (faster == "sparse") else 1.01 for name in networks}

    monkeypatch.setattr(prediction, "_in_turns", measured)
    network = pruned("vgg11", width=0.125)
    assert ot.compact(network, images()).sparse == (), "one hundredth is not worth it"
    monkeypatch.setattr(prediction, "WORTH", 0.999)
    assert bool(ot.compact(network, images()).sparse) == (faster == "sparse")


@needs_compiler
def test_it_holds_less_where_little_is_left() -> None:
    network = pruned("vgg11", 0.02, width=0.5)
    found = ot.compact(network, images(), compute="sparse")
    found(images())
    assert found.bytes < sum(p.nbytes for p in network.parameters())


def test_a_network_that_differs_is_not_given_out() -> None:
    class Counting(nn.Module):
        """Reads a weight by itself: a sparse layer has another shape."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(192, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs.flatten(1)) * self.layer.weight.shape[0]

    network = Counting()
    network.layer.weight.data[:, 50:] = 0
    found = ot.compact(network, images())
    assert found.sparse == ()
    assert torch.equal(found(images()), network(images()))


def test_what_cannot_be_done_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no weight that is exactly zero"):
        ot.compact(nn.Linear(3, 3), torch.ones(1, 3))
    with pytest.raises(InputError, match="example"):
        ot.compact(dead(), [images()])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sprase"):
        ot.compact(dead(), images(), compute="sprase")  # type: ignore[arg-type]
    monkeypatch.setattr(building, "why_not", lambda: "no C compiler is installed")
    with pytest.raises(InputError, match="no C compiler is installed"):
        ot.compact(dead(), images(), compute="sparse")
    assert ot.compact(dead(), images()).sparse == ()
