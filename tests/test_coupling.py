"""Coupled channels: permuting a group changes nothing but places; what is not known is free nowhere."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.coupling import ChannelGroup, channel_groups, orders, permuted
from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.models import MODELS, ModelSpec
from oneticket.randomness import seeded

SHAPE = (3, 12, 12)
Built = Callable[..., nn.Module]
FACTORED = [name for name in MODELS if name not in ("vit", "gpt")]


def variants() -> list[ModelSpec]:
    """Every registered network in each of its norms, and with shortcuts that are padded with zeros."""
    found = []
    for name in FACTORED:
        default: dict[str, object] = {"width": 0.1}
        chosen = [{}] if name in ("lenet-300-100", "mlp") else [{"norm": norm} for norm in ("batch", "group", "none")]
        if name.startswith("resnet"):
            chosen.append({"norm": "batch", "shortcut": "identity"})
        found += [ModelSpec(name=name, options=default | options) for options in chosen]
    return found


def unsettled(network: nn.Module) -> nn.Module:
    """The same network in float64, no two channels alike, nothing at its initial value."""
    generator = torch.Generator().manual_seed(3)
    network = network.double().eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.add_(noise if "running_var" in name else noise * 0.4 - 0.2)
    return network


def shuffles(groups: tuple[ChannelGroup, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randperm(group.channels, generator=generator) for group in groups]


def outputs(network: nn.Module, state: dict[str, Tensor] | None = None, shape: tuple[int, ...] = SHAPE) -> Tensor:
    inputs = torch.randn(5, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    other = copy.deepcopy(network)
    if state is not None:
        other.load_state_dict(state)
    with torch.no_grad():
        return other(inputs)


def members(groups: tuple[ChannelGroup, ...]) -> list[set[tuple[str, int]]]:
    return [{(member.name, member.dim) for member in group.members} for group in groups]


def dimensions(groups: tuple[ChannelGroup, ...]) -> set[tuple[str, int]]:
    return set().union(*members(groups)) if groups else set()


# -- permuting -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", variants(), ids=lambda spec: "-".join(map(str, [spec.name, *spec.options.values()])))
def test_permuted_channels_leave_the_function_of_every_registered_network(built: Built, spec: ModelSpec) -> None:
    network = unsettled(built(spec.name, SHAPE, **spec.options))
    before = copy.deepcopy(network.state_dict())
    groups = channel_groups(network, torch.zeros(1, *SHAPE, dtype=torch.float64))
    state = permuted(network.state_dict(), groups, shuffles(groups))
    assert groups
    assert any(not torch.equal(state[name], before[name]) for name in state)
    torch.testing.assert_close(outputs(network, state), outputs(network), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", [name for name in FACTORED if name != "lenet-300-100"])
def test_of_a_network_with_batch_normalisation_all_but_inputs_and_outputs_is_free(built: Built, name: str) -> None:
    network = built(name, SHAPE, width=0.1)
    names = dict(network.named_parameters())
    found = dimensions(channel_groups(network, torch.zeros(2, *SHAPE)))
    weights = [name for name, tensor in names.items() if tensor.dim() >= 2]
    expected = {(name, dim) for name in weights for dim in (0, 1)} | {(n, 0) for n, t in names.items() if t.dim() == 1}
    expected -= {(weights[0], 1), ("head.weight", 0), ("head.bias", 0)}
    assert {pair for pair in found if pair[0] in names} == expected
    buffers = {name for name, tensor in network.named_buffers() if tensor.dim()}
    assert {name for name, _ in found} - names.keys() == buffers


def test_masks_are_permuted_as_the_weights_are(built: Built) -> None:
    network = unsettled(built("conv-2", SHAPE, width=0.1))
    groups = channel_groups(network, torch.zeros(1, *SHAPE, dtype=torch.float64))
    state = network.state_dict()
    masks = Masks({name: tensor > 0.05 for name, tensor in state.items() if tensor.dim() > 1})
    together = permuted(state, groups, shuffles(groups))
    apart = permuted(masks, groups, shuffles(groups))
    assert apart.keys() == masks.keys()
    assert all(torch.equal(apart[name], together[name] > 0.05) for name in masks)
    assert Masks(apart) != masks


def test_a_permutation_and_its_inverse_cancel(built: Built) -> None:
    network = unsettled(built("resnet20", SHAPE, width=0.25))
    state = network.state_dict()
    groups = channel_groups(network, torch.zeros(1, *SHAPE, dtype=torch.float64))
    there = shuffles(groups)
    back = permuted(permuted(state, groups, there), groups, [order.argsort() for order in there])
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_channel_c_is_the_former_channel_p_of_c() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    groups = channel_groups(network, torch.zeros(1, 2))
    state = permuted(network.state_dict(), groups, [torch.tensor([2, 0, 1])])
    assert torch.equal(state["0.weight"], network[0].weight[[2, 0, 1]])
    assert torch.equal(state["0.bias"], network[0].bias[[2, 0, 1]])
    assert torch.equal(state["2.weight"], network[2].weight[:, [2, 0, 1]])
    assert orders(groups, [torch.tensor([2, 0, 1])], {"2.weight": (2, 3)})["2.weight"][0][1].tolist() == [2, 0, 1]


@pytest.mark.parametrize("wrong", [[0, 1], [0, 1, 1], [0, 1, 3]])
def test_what_is_no_permutation_is_refused(wrong: list[int]) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(InputError, match="not a permutation"):
        permuted(network.state_dict(), channel_groups(network, torch.zeros(1, 2)), [torch.tensor(wrong)])


# -- what belongs together -------------------------------------------------------------------------------------------
def test_flattened_maps_have_a_column_for_each_pixel() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 9, 4))
    (group,) = channel_groups(network, torch.zeros(1, 1, 3, 3))
    columns = {member.name: member for member in group.members}["3.weight"]
    assert columns.reads
    assert columns.dim == 1
    assert columns.entries.tolist() == np.arange(18).reshape(2, 9).tolist()


def test_padded_shortcuts_tie_the_first_channels_of_a_stage_to_the_stage_before(built: Built) -> None:
    spec = ModelSpec(name="resnet20", options={"width": 0.25, "shortcut": "identity"})
    network = built(spec.name, SHAPE, **spec.options)
    streams = [g for g in channel_groups(network, torch.zeros(1, *SHAPE)) if len(g.members) > 8]
    assert [group.channels for group in streams] == [4, 4, 8]
    assert not any(group.removable for group in streams), "how many channels are padded is a number in the code"
    rows = [m.entries.flatten().tolist() for g in streams for m in g.members if m.name == "head.weight"]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], list(range(8, 16))]


class Watched(nn.Module):
    """Convolution ``a`` → ``between`` → convolution ``b`` → ``head``; ``between`` is what a test is about."""

    def __init__(self, between: Callable[[Tensor], Tensor], inner: int = 6, *, bias: bool = False) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.between = between
        self.b = nn.Conv2d(inner, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.b(self.between(self.a(images)))).mean((2, 3)))


class Signs(torch.autograd.Function):
    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        return gradient


def foreign(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy().copy())


def escaped(x: Tensor) -> Tensor:
    x.tolist()
    return x


CONSTANT = torch.ones(1)
KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "in place": lambda x: F.relu(x, inplace=True).add_(x),
    "pooled": lambda x: F.max_pool2d(F.avg_pool2d(x, 2), 2),
    "sliced": lambda x: x[:, :, 1:, ::2],
    "viewed": lambda x: x.view(x.size(0), x.size(1), -1).view(x.size(0), -1, 12, 12),
    "gated": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "scaled": lambda x: 2 * x - 1,
    "padded": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "dropout": lambda x: F.dropout(x, 0.5),
}
UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax over channels": lambda x: x.softmax(1),
    "mean of channels": lambda x: x + x.mean(1, keepdim=True),
    "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "rolled": lambda x: x.roll(1, 1),
    "channels in part": lambda x: torch.cat([x[:, 3:], x[:, :3]], 1),
    "written into": lambda x: torch.zeros(x.shape, dtype=x.dtype).copy_(x),
    "regrouped": lambda x: x.view(-1, 3, 12, 12).view(-1, 6, 12, 12),
    "pooled over channels": lambda x: F.max_pool2d(x.flatten(2), 3, stride=1, padding=1).view(-1, 6, 12, 12),
    "group normalised": lambda x: F.group_norm(x, 2),
    "straight through": Signs.apply,
    "looked at": escaped,
    "through numpy": foreign,
    "constant": lambda x: x * CONSTANT,
}


@pytest.mark.parametrize("name", KNOWN)
def test_channels_pass_what_is_known(name: str) -> None:
    network = unsettled(Watched(KNOWN[name]))
    groups = channel_groups(network, torch.zeros(1, *SHAPE, dtype=torch.float64))
    assert {("a.weight", 0), ("b.weight", 1)} in members(groups)
    if name != "dropout":
        state = permuted(network.state_dict(), groups, shuffles(groups))
        torch.testing.assert_close(outputs(network, state), outputs(network), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", UNKNOWN)
def test_channels_are_held_by_what_is_not_known(name: str) -> None:
    groups = channel_groups(Watched(UNKNOWN[name]), torch.zeros(1, *SHAPE))
    assert not dimensions(groups) & {("a.weight", 0), ("b.weight", 1)}


def test_concatenated_maps_are_groups_of_their_own() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Linear(6, 3)

        def forward(self, images: Tensor) -> Tensor:
            a = torch.relu(self.a(images))
            return self.c(torch.cat([torch.tanh(self.b(a)), a], 1).mean((2, 3)))

    network = unsettled(Dense())
    groups = channel_groups(network, torch.zeros(1, *SHAPE, dtype=torch.float64))
    reads = [m.entries.flatten().tolist() for group in groups for m in group.members if m.name == "c.weight"]
    assert reads == [[2, 3, 4, 5], [0, 1]]
    state = permuted(network.state_dict(), groups, shuffles(groups))
    torch.testing.assert_close(outputs(network, state), outputs(network), rtol=1e-9, atol=1e-9)


def test_a_layer_used_twice_has_one_order_for_inputs_and_outputs() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.alias = self.b

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.alias(torch.relu(self.b(torch.relu(self.a(x)))))))

    network = unsettled(Repeated())
    groups = channel_groups(network, torch.zeros(1, 3, dtype=torch.float64))
    (group,) = members(groups)
    assert {("b.weight", 0), ("b.weight", 1), ("alias.weight", 0), ("alias.weight", 1), ("c.weight", 1)} < group
    state = permuted(network.state_dict(), groups, shuffles(groups))
    torch.testing.assert_close(outputs(network, state, (3,)), outputs(network, None, (3,)))


def test_depthwise_convolutions_carry_their_channels_and_grouped_ones_hold_them() -> None:
    def network(groups: int) -> nn.Module:
        layers = [nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=groups, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
        return unsettled(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)))

    depthwise = network(6)
    groups = channel_groups(depthwise, torch.zeros(1, *SHAPE, dtype=torch.float64))
    assert sorted({("1.weight", 0), ("6.weight", 1)} & members(groups)[0]) == [("1.weight", 0), ("6.weight", 1)]
    state = permuted(depthwise.state_dict(), groups, shuffles(groups))
    torch.testing.assert_close(outputs(depthwise, state), outputs(depthwise))
    assert not {("0.weight", 0), ("1.weight", 1)} & dimensions(
        channel_groups(network(2), torch.zeros(1, *SHAPE).double())
    )


def test_what_a_network_does_only_while_training_counts() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.a(x))
            return self.b(hidden) + (hidden[:, :2] if self.training else 0)

    assert channel_groups(Auxiliary(), torch.zeros(1, 3)) == ()


def test_a_part_that_computes_unseen_hides_everything() -> None:
    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():  # as compiled code does
                return torch.relu(x)

    network = nn.Sequential(nn.Linear(3, 6), Hidden(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    assert channel_groups(network, torch.zeros(1, 3)) == ()


def test_weights_that_are_looked_at_are_held() -> None:
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))) * self.a.weight[0, 0]

    assert channel_groups(Sharing(), torch.zeros(1, 3)) == ()


def test_weights_that_are_results_are_left_alone() -> None:
    network = nn.Sequential(OrderedDict(a=nn.Linear(3, 6), relu=nn.ReLU(), b=nn.Linear(6, 2)))
    torch.nn.utils.parametrizations.orthogonal(network.a)
    assert channel_groups(network, torch.zeros(1, 3)) == ()


# -- properties ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("between", "bias", "removable", "silent"),
    [
        (nn.ReLU(), False, True, True),
        (nn.ReLU(), True, True, False),
        (nn.Sigmoid(), False, True, False),
        (nn.BatchNorm2d(6), False, True, False),
        (nn.GroupNorm(6, 6), False, True, False),
        (nn.GroupNorm(1, 6), False, False, False),
        (nn.Dropout(), False, False, True),
        (lambda x: x + 1, False, True, False),
        (lambda x: x.view(-1, 6, 12, 12), False, False, True),
        (lambda x: F.pad(x, (0, 0, 0, 0, 0, 0)), False, False, True),
    ],
)
def test_which_channels_may_be_removed_and_which_are_zero_without_weights(
    between: Callable[[Tensor], Tensor], bias: bool, removable: bool, silent: bool
) -> None:
    network = Watched(between, bias=bias)
    group = next(g for g in channel_groups(network, torch.zeros(1, *SHAPE)) if ("a.weight", 0) in members((g,))[0])
    assert (group.removable, group.silent) == (removable, silent)


def test_model_and_random_state_stay_as_they_were() -> None:
    with seeded(0):
        network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(576, 2))
    network[2].eval()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    channel_groups(network, torch.ones(1, *SHAPE))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in network] == [True, True, False, True, True]
