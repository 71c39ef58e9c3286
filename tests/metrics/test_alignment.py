"""Alignment: a network and its permuted copy give back the permutation, through pools, norms and residual additions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneticket.coupling import channel_groups, permuted
from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.metrics.alignment import match_channels
from oneticket.prunable import Prunable
from oneticket.pruning import ScoreContext, prune
from oneticket.pruning.correspondence import reindexed
from oneticket.weights.norms import norms_behind

NETWORKS = [
    ("lenet-300-100", {}),
    ("conv-4", {}),
    ("vgg11", {"width": 0.125}),
    ("vgg11", {"width": 0.125, "norm": "none"}),
    ("resnet20", {"width": 0.5}),
]


@pytest.fixture(params=NETWORKS, ids=lambda pair: "-".join([pair[0], *map(str, pair[1].values())]))
def network(request: pytest.FixtureRequest, built: Callable[..., nn.Module]) -> nn.Module:
    """With statistics, gains and biases that tell the channels apart."""
    name, options = request.param
    model = built(name, (3, 32, 32), seed=2, **options)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(32, 3, 32, 32))
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(32, 3, 32, 32, generator=generator), torch.zeros(32).long()) for _ in range(count)]


def test_a_permuted_copy_is_matched_exactly(network: nn.Module) -> None:
    view = Prunable(network)
    masks = prune(view, ScoreContext(), criterion="magnitude", allocation="global", density=0.2)
    groups = channel_groups(network, batches()[0][0])
    assert groups
    orders = [torch.randperm(g.channels, generator=torch.Generator().manual_seed(9)) for g in groups]
    there = copy.deepcopy(network)
    there.load_state_dict(permuted(network.state_dict(), groups, orders))
    moved = Masks(permuted(masks, groups, orders))
    assert moved.overlap(masks) < 0.5
    matching = match_channels(network, there, batches(), names=view.names)
    assert Masks(reindexed(moved, matching)).overlap(masks) == 1.0
    back = reindexed({n: t for n, t in there.state_dict().items() if n in view.names}, matching)
    for name, weight in view.weights():
        assert torch.equal(back[name], weight), name
    # The function is what it was, too.
    inputs = batches(1)[0][0]
    assert torch.allclose(there(inputs), network(inputs), atol=1e-4)


def test_networks_and_their_modes_are_left_as_they_were(network: nn.Module) -> None:
    there = copy.deepcopy(network).train()
    before = {n: t.clone() for n, t in there.state_dict().items()}
    match_channels(network, there, batches(1), names=Prunable(network).names)
    assert there.training
    assert not network.training
    assert all(torch.equal(t, there.state_dict()[n]) for n, t in before.items())
    assert not [m for m in (*network.modules(), *there.modules()) if m._forward_hooks]


@pytest.mark.parametrize(
    ("name", "options"), [("vgg11", {"width": 0.125}), ("resnet20", {"width": 0.5})], ids=["vgg11", "resnet20"]
)
def test_channels_whose_gain_is_negative_are_matched_by_what_they_compute(
    built: Callable[..., nn.Module], name: str, options: dict[str, Any]
) -> None:
    """Half of the rows of each layer, and their running means, change sign, and so does γ: the function is what it was.

    Before their normalisation, those channels correlate by −1 with the right ones.
    """
    network = built(name, (3, 32, 32), seed=2, **options)
    stream = torch.Generator().manual_seed(3)
    with torch.no_grad():
        network.train()(torch.randn(32, 3, 32, 32, generator=stream))
        network.eval()
        for key, tensor in network.named_parameters():
            if tensor.dim() == 1 and key.endswith("bias"):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=stream))
    there = copy.deepcopy(network)
    state = there.state_dict()
    for layer, norm in norms_behind(network, torch.zeros(1, 3, 32, 32)).items():
        turned = torch.rand(len(state[f"{layer}.weight"]), generator=stream) < 0.5
        for key in (f"{layer}.weight", f"{norm}.weight", f"{norm}.running_mean"):
            state[key][turned] *= -1
    groups = channel_groups(network, batches(1)[0][0])
    orders = [torch.randperm(g.channels, generator=stream) for g in groups]
    there.load_state_dict(permuted(state, groups, orders))
    assert torch.allclose(there(batches(1)[0][0]), network(batches(1)[0][0]), atol=1e-4)
    view = Prunable(network)
    masks = prune(view, ScoreContext(), criterion="magnitude", allocation="global", density=0.2)
    matching = match_channels(network, there, batches(2), names=view.names)
    assert Masks(reindexed(permuted(masks, groups, orders), matching)) == masks


def test_correlation_counts_and_not_scale() -> None:
    """Channels of other sizes and offsets are matched all the same; one that never moves gets what is left."""
    first, second = (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)) for _ in range(2))
    with torch.no_grad():
        first[0].weight.copy_(torch.eye(4)[:3])
        second[0].weight.copy_(torch.stack([torch.zeros(4), 100 * torch.eye(4)[0], 0.01 * torch.eye(4)[1]]))
        second[0].bias.copy_(torch.tensor([3.0, -20.0, 7.0]))
    matching = match_channels(first, second, [(torch.randn(64, 4), torch.zeros(64))], names=["0.weight"])
    assert matching["0.weight"][0][1].tolist() == [1, 2, 0]


def test_a_network_that_cannot_be_followed_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(torch.fft.fft(self.fc(inputs)).real)

    with pytest.raises(InputError, match="cannot be followed"):
        match_channels(Odd(), Odd(), [(torch.randn(8, 4), torch.zeros(8))], names=["fc.weight"])
