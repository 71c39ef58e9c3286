"""Channels in another order and blocks repeated or dropped: functions unchanged, rules met, misfits refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.pruning import CONTROLS, ControlContext
from oneticket.pruning.correspondence import reindexed, stretched


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)
    )
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.1 if tensor.dim() == 1 else torch.randn(tensor.shape))
    return net.eval()


def matching(six: torch.Tensor, five: torch.Tensor) -> dict[str, list[tuple[int, torch.Tensor]]]:
    """The six channels after the first convolution and the five after the second in another order, consistently."""
    pixels = (five[:, None] * 16 + torch.arange(16)).flatten()
    norm = {f"1.{name}": [(0, six)] for name in ("weight", "bias", "running_mean", "running_var")}
    return {
        **norm,
        "0.weight": [(0, six)],
        "0.bias": [(0, six)],
        "3.weight": [(0, five), (1, six)],
        "3.bias": [(0, five)],
        "6.weight": [(1, pixels)],
    }


@given(st.permutations(range(6)), st.permutations(range(5)))
def test_a_consistent_order_leaves_the_function_and_its_masked_function_unchanged(
    six: list[int], five: list[int]
) -> None:
    net, orders = network(), matching(torch.tensor(six), torch.tensor(five))
    state = net.state_dict()
    masks = Masks({n: torch.rand(state[n].shape) < 0.4 for n in ("0.weight", "3.weight")})
    turned = CONTROLS["aligned"](masks, ControlContext(matching=lambda: orders))
    images = torch.randn(3, 3, 8, 8)
    outputs = []
    for given_state, kept in ((state, masks), (reindexed(state, orders), turned)):
        other = network()
        other.load_state_dict({n: t * kept[n] if n in kept else t for n, t in given_state.items()})
        outputs.append(other(images).detach())
    torch.testing.assert_close(outputs[0], outputs[1])
    assert turned.table() == masks.table()
    assert turned["3.weight"][2, 4].equal(masks["3.weight"][five[2], six[4]])
    back = {n: [(dim, order.argsort()) for dim, order in steps] for n, steps in orders.items()}
    assert Masks(reindexed(turned, back)) == masks


@pytest.mark.parametrize(
    ("dim", "order", "said"),
    [
        (2, [0, 1], "no dimension 2 in 'fc' of the shape"),
        (-1, [0, 1, 2], "no dimension -1 in 'fc'"),
        (0, [0, 0], "not a permutation of dimension 0 of 'fc'"),
        (1, [0, 1], "each of the 3 indices once"),
    ],
)
def test_orders_that_are_none_are_refused(dim: int, order: list[int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        reindexed({"fc": torch.zeros(2, 3)}, {"fc": [(dim, torch.tensor(order))]})


# -- depth -------------------------------------------------------------------------------------------------------
def resnet(name: str) -> nn.Module:
    return build(ModelSpec(name=name, options={"width": 0.25}), input_shape=(3, 8, 8), classes=3, seed=1)


def family(depths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A made-up family: one tensor a block, holding the block's number."""
    blocks = {
        f"stages.{s}.{b}.conv.weight": torch.tensor([float(b)]) for s, depth in enumerate(depths) for b in range(depth)
    }
    return {"stem.weight": torch.tensor([-1.0]), **blocks}


@pytest.mark.parametrize(
    ("there", "here", "blocks"),
    [
        (3, 3, [0, 1, 2]),
        (3, 4, [0, 1, 2, 2]),
        (3, 5, [0, 1, 2, 1, 2]),
        (3, 6, [0, 1, 2, 2, 1, 2]),
        (5, 9, [0, 1, 2, 3, 4, 1, 2, 3, 4]),
        (5, 7, [0, 1, 2, 3, 4, 3, 4]),
        (5, 3, [0, 1, 2]),
        (2, 1, [0]),
        (1, 1, [0]),
    ],
)
def test_blocks_repeat_from_the_end_and_drop_from_the_end(there: int, here: int, blocks: list[int]) -> None:
    carried = stretched(family((there, 2)), {n: t.shape for n, t in family((here, 2)).items()})
    assert [int(carried[f"stages.0.{b}.conv.weight"]) for b in range(here)] == blocks
    assert list(carried) == list(family((here, 2)))
    assert carried["stem.weight"] == -1


@pytest.mark.parametrize(
    ("there", "here", "blocks"),
    [
        (5, 9, [0, 1, 1, 2, 2, 3, 3, 4, 4]),  # the example of the authors' code
        (3, 5, [0, 1, 1, 2, 2]),
        (3, 4, [0, 1, 1, 2]),
        (5, 7, [0, 1, 1, 2, 3, 3, 4]),
        (5, 3, [0, 1, 3]),
        (3, 3, [0, 1, 2]),
        (2, 1, [0]),
        (1, 1, [0]),
    ],
)
def test_interleaved_copies_stand_beside_their_originals(there: int, here: int, blocks: list[int]) -> None:
    shapes = {n: t.shape for n, t in family((here, 2)).items()}
    carried = stretched(family((there, 2)), shapes, "interleave")
    assert [int(carried[f"stages.0.{b}.conv.weight"]) for b in range(here)] == blocks
    assert CONTROLS["elastic"](
        Masks({n: t > 1 for n, t in family((there, 2)).items()}),
        ControlContext(shapes=lambda: shapes, blocks="interleave"),
    ) == Masks({n: t > 1 for n, t in carried.items()})


@given(st.integers(2, 7), st.integers(2, 9))
def test_interleaving_keeps_the_order_and_spreads_the_copies_evenly(there: int, here: int) -> None:
    shapes = {n: t.shape for n, t in family((here,)).items()}
    carried = stretched(family((there,)), shapes, "interleave")
    found = [int(carried[f"stages.0.{b}.conv.weight"]) for b in range(1, here)]
    assert found == sorted(found)
    times = [found.count(block) for block in range(1, there)]
    assert max(times) - min(times) <= 1


@pytest.mark.parametrize(("source", "target"), [("resnet20", "resnet32"), ("resnet32", "resnet20")])
def test_a_whole_ticket_is_carried_between_residual_networks(source: str, target: str) -> None:
    one, other = resnet(source), resnet(target)
    stream = torch.Generator().manual_seed(0)
    masks = Masks({n: torch.rand(w.shape, generator=stream) < 0.3 for n, w in Prunable(one).weights()})
    shapes = {n: w.shape for n, w in Prunable(other).weights()}
    after = CONTROLS["elastic"](masks, ControlContext(shapes=lambda: shapes))
    assert {n: t.shape for n, t in after.items()} == shapes
    state = stretched(one.state_dict(), {n: t.shape for n, t in other.state_dict().items()})
    other.load_state_dict(state)
    assert other(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    for name in after:
        giver = next(n for n in masks if torch.equal(one.state_dict()[n], state[name]))
        assert torch.equal(after[name], masks[giver]), "masks and weights come from the same block"
    densities = masks.densities().values()
    assert all(row.density in densities for row in after.table())


def test_down_and_up_again_gives_the_shallow_ticket_back() -> None:
    tensors = family((3, 3, 3))
    deep = stretched(tensors, {n: t.shape for n, t in family((5, 9, 4)).items()})
    again = stretched(deep, {n: t.shape for n, t in tensors.items()})
    assert all(torch.equal(again[n], tensors[n]) for n in tensors)


def test_what_does_not_fit_is_refused() -> None:
    shapes = {n: t.shape for n, t in family((3, 3)).items()}
    with pytest.raises(InputError, match=r"'stages.1' has no block to repeat for 'stages.1.1"):
        stretched(family((3, 1)), shapes)
    with pytest.raises(InputError, match=r"'stages\.1\.0.*' has no counterpart|'stages\.1' has no block"):
        stretched(family((3,)), shapes)
    with pytest.raises(InputError, match=r"'head\.weight' has no counterpart"):
        stretched(family((3, 3)), {**shapes, "head.weight": (1,)})
    with pytest.raises(InputError, match=r"'stem\.weight' has the shape \(1,\), 'stem\.weight' the shape \(2,\)"):
        stretched(family((3, 3)), {**shapes, "stem.weight": (2,)})
