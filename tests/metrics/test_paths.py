"""Paths through whole networks: facts of the built-in ones, gradients, dead units, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.metrics import DeadUnits, UnknownPaths, find_paths
from oneticket.models import MODELS
from oneticket.prunable import Prunable

Built = Callable[..., nn.Module]
FACTORED = [n for n in MODELS if n not in ("vit", "gpt")]  # see test_attention_paths.py


def masks_of(model: nn.Module, density: float = 1.0, seed: int = 0, **options: bool) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    weights = Prunable(model, **options).weights()
    return Masks({name: torch.rand(w.shape, generator=generator) < density for name, w in weights})


# -- facts ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FACTORED)
def test_every_weight_of_a_dense_network_is_on_a_path(built: Built, name: str) -> None:
    model = built(name, (3, 32, 32), width=0.1)
    paths = find_paths(model, masks_of(model), torch.zeros(1, 3, 32, 32))
    assert paths.density == 1.0
    assert paths.dead == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "vgg19"])
def test_at_full_width_nothing_overflows_or_vanishes(built: Built, name: str) -> None:
    model = built(name, (3, 32, 32))
    assert find_paths(model, masks_of(model), torch.zeros(1, 3, 32, 32)).density == 1.0
    thin = masks_of(model, 0.003)
    paths = find_paths(model, thin, torch.zeros(1, 3, 32, 32))
    assert 0 < paths.density < thin.density


@pytest.mark.parametrize("name", FACTORED)
def test_a_layer_that_is_pruned_whole_cuts_off_all_that_has_no_way_round_it(built: Built, name: str) -> None:
    model = built(name, (3, 32, 32), width=0.1)
    masks = masks_of(model)
    first = next(iter(masks))
    cut = Masks({n: m & (n != first) for n, m in masks.items()})
    paths = find_paths(model, cut, torch.zeros(1, 3, 32, 32))
    assert paths.masks.kept == 0, "every network here begins with one layer"
    assert paths.dead == sum(len(m) for m in masks.values())


def test_the_rim_of_a_kernel_on_a_map_of_one_pixel_is_on_no_path(built: Built) -> None:
    """28 × 28 is halved to 14, 7, 3 and 1: in the last group of VGG only the centres see anything but padding."""
    model = built("vgg19", (1, 28, 28), width=0.1)
    paths = find_paths(model, masks_of(model), torch.zeros(1, 1, 28, 28))
    last = [f"features.conv{i}.weight" for i in (13, 14, 15, 16)]
    assert {n for n, d in paths.masks.densities().items() if d < 1} == set(last)
    for name in last:
        centre = torch.zeros(3, 3, dtype=torch.bool)
        centre[1, 1] = True
        assert torch.equal(paths.masks[name], centre.expand_as(paths.masks[name]))
    assert paths.dead == 0


def test_neither_breadth_nor_depth_overflows() -> None:
    """About 58³⁰⁰ paths; float64 ends at 10³⁰⁸, and infinity times a masked weight would be no number."""
    model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(300)])
    masks = masks_of(model, 0.9)
    assert find_paths(model, masks, torch.zeros(1, 64)).masks == masks


def test_means_do_not_vanish() -> None:
    """A mean of one pixel and 80 zeros is 1/81; 200 of them are below the smallest number."""
    layers = [nn.Conv2d(1, 1, 1), *[nn.AvgPool2d(9, 1, 4) for _ in range(200)], nn.Flatten(), nn.Linear(1, 2)]
    model = nn.Sequential(*layers)
    assert find_paths(model, masks_of(model, prune_head=True), torch.zeros(1, 1, 1, 1)).density == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_weights_on_no_path_are_those_without_a_gradient(seed: int) -> None:
    """Without biases, real weights and a real input have exactly zero gradients off the paths and others on them."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.Tanh(), nn.Conv2d(4, 4, 3, bias=False), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(16, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False),
    ).double()  # fmt: skip
    masks = masks_of(model, 0.2, seed, prune_head=True)
    paths = find_paths(model, masks, torch.zeros(1, 2, 8, 8))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).normal_(generator=generator).mul_(mask)
    outputs = model(torch.randn(1, 2, 8, 8, generator=generator, dtype=torch.float64))
    (outputs * torch.randn(1, 3, generator=generator, dtype=torch.float64)).sum().backward()
    assert 0 < paths.masks.kept < masks.kept
    for name, mask in masks.items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert torch.equal(paths.masks[name], mask & (gradient != 0)), name


def test_the_values_of_weights_and_normalisations_do_not_matter(built: Built) -> None:
    model = built("resnet20", (3, 8, 8), width=0.3)
    masks, example = masks_of(model, 0.05), torch.zeros(1, 3, 8, 8)
    expected = find_paths(model, masks, example)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    assert find_paths(model, masks, torch.full_like(example, float("nan"))) == expected


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(built: Built, training: bool) -> None:
    model = built("resnet20", (3, 8, 8), width=0.3).train(training)
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    find_paths(model, masks_of(model, 0.5), torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and p.dtype == torch.float32 and p.grad is None for p in model.parameters())
    assert all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


# -- dead units -------------------------------------------------------------------------------------------------------
def test_dead_units_of_a_network_drawn_by_hand() -> None:
    """Of three hidden units the first has no input, the second no output."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    first = torch.tensor([[False, False], [True, True], [True, False]])
    second = torch.tensor([[True, False, True], [True, False, False]])
    paths = find_paths(model, Masks({"0.weight": first, "2.weight": second}), torch.zeros(1, 2))
    assert paths.masks["0.weight"].tolist() == [[False, False], [False, False], [True, False]]
    assert paths.masks["2.weight"].tolist() == [[False, False, True], [False, False, False]]
    assert paths.units == (DeadUnits("0.weight", 2, 3), DeadUnits("2.weight", 1, 2))
    assert (paths.dead, paths.density) == (3, 2 / 12)


@pytest.mark.parametrize("groups", [1, 2])
def test_units_of_a_transposed_convolution_are_its_outputs(groups: int) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 4, 2, groups=groups), nn.Flatten(), nn.Linear(36, 2))
    mask = torch.ones(2, 4 // groups, 2, 2, dtype=torch.bool)
    mask[0, 1] = False  # with one group the second unit keeps its other input, with two it has no other
    (row,) = find_paths(model, Masks({"0.weight": mask}), torch.zeros(1, 2, 2, 2)).units
    assert row == DeadUnits("0.weight", groups - 1, 4)


# -- ways of writing a network ----------------------------------------------------------------------------------------
class Written(nn.Module):
    """One residual block whose sum is written by ``join``."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.block, self.way = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(self.join(self.block(F.relu(x)), self.way(x)).relu().mean((2, 3)))


def overwriting(a: Tensor, b: Tensor) -> Tensor:
    a.add_(b)
    return a


def assigning(a: Tensor, b: Tensor) -> Tensor:
    kept = a
    a += b
    return kept


def unrecorded(a: Tensor, b: Tensor) -> Tensor:
    with torch.no_grad():
        return a + b


@pytest.mark.parametrize(
    "join",
    [
        overwriting,
        assigning,
        unrecorded,
        torch.add,
        torch.maximum,
        lambda a, b: 1 - a / 2 - b * -3.0,
        lambda a, b: torch.stack([a, b]).amax(0),
        lambda a, b: torch.stack([F.relu(a, inplace=True), b.relu_()], 1).flatten(1, 2).unflatten(1, (2, 4)).sum(1),
        lambda a, b: a.float().double().contiguous() + b.to(memory_format=torch.channels_last),
        lambda a, b: torch.cat([a, torch.ones(1, 1, 3, 3)], 1)[:, :4] + (b + torch.ones(4, 1, 1)),
    ],
)
def test_a_sum_may_be_written_in_any_way(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    example = torch.zeros(1, 1, 5, 5)
    masks = masks_of(Written(join), 0.3, prune_head=True)
    for name in ("stem.weight", "block.weight", "way.weight"):
        masks[name][0] = False  # so that what leads on from it is on no path
    paths = find_paths(Written(join), masks, example)
    assert paths == find_paths(Written(lambda a, b: a + b), masks, example)
    assert 0 < paths.masks.kept < masks.kept


def test_what_overwrites_a_copy_leaves_the_original() -> None:
    """The second way must not be counted for the first output: relu gives a tensor of its own."""

    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            first = self.one(x)
            second = first.relu()
            second += self.two(x)
            return self.head(first)

    with pytest.raises(UnknownPaths, match=r"'two\.weight' take no part"):
        find_paths(Forked(), masks_of(Forked()), torch.zeros(1, 2))


def test_an_output_that_was_overwritten_counts_as_it_is_at_the_end() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            output = self.one(x)
            output.add_(self.two(x))
            return output

    assert find_paths(Late(), masks_of(Late(), prune_head=True), torch.zeros(1, 2)).density == 1.0


def test_weights_masked_by_torch_itself_count_as_masked() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    masks = masks_of(model, 0.4, 1)
    expected = find_paths(model, masks, torch.zeros(1, 4))
    for i in (0, 1):
        prune.custom_from_mask(model[i], "weight", masks[f"{i}.weight"])
    renamed = Masks({f"{i}.weight_orig": torch.ones(4, 4, dtype=torch.bool) for i in (0, 1)})
    found = find_paths(model, renamed, torch.zeros(1, 4))
    for i in (0, 1):
        assert torch.equal(found.masks[f"{i}.weight_orig"] & masks[f"{i}.weight"], expected.masks[f"{i}.weight"])


def test_a_weight_used_twice_is_on_a_path_where_one_of_its_uses_is() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    model[2].weight = model[0].weight
    ring = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.bool)
    assert find_paths(model, Masks({"0.weight": ring}), torch.zeros(1, 3)).masks["0.weight"].equal(ring)


# -- refusals ---------------------------------------------------------------------------------------------------------
class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values * 1

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Odd(nn.Module):
    """A network with one odd step between two linear layers."""

    def __init__(self, step: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.step = nn.Linear(4, 4), nn.Linear(4, 4), step
        self.lstm, self.encoder = nn.LSTM(4, 4), nn.TransformerEncoderLayer(4, 2, 4)
        self.cell, self.head = nn.GRUCell(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(self, self.first(x).relu()))


def view_overwritten(m: Odd, x: Tensor) -> Tensor:
    view = x.view(-1)
    x.add_(m.second(x))
    return view.view(1, 4)


ODD: dict[str, tuple[Callable[[Odd, Tensor], Tensor], str]] = {
    "gate": (lambda m, x: x * m.second(x).sigmoid(), "mul of two activations"),
    "attention": (lambda m, x: (x.T @ m.second(x)) @ x.T, "matmul of two activations"),
    "transformer": (lambda m, x: m.encoder(x[None])[0], "multi_head_attention_forward is not known"),
    "lstm": (lambda m, x: m.lstm(x[None])[0][0], "lstm is not known"),
    "gru": (lambda m, x: m.cell(x), "gru_cell is not known"),
    "chosen by value": (lambda m, x: m.second(x) if x.sum() > 0 else x, "gt is not known"),
    "looked at": (lambda m, x: x * float(x.max()), "max is not known"),
    "data": (lambda m, x: x.data + m.second(x), "data is not known"),
    "detached": (lambda m, x: x.detach() + m.second(x), "detach is not known"),
    "sorted": (lambda m, x: x.sort(1)[0], "sort is not known"),
    "dilated": (lambda m, x: F.max_pool1d(x, 2, 1, 0, 2), "dilation"),
    "standardised weight": (lambda m, x: F.linear(x, m.second.weight - m.second.weight.mean()), "mean is not known"),
    "exponential of a weight": (lambda m, x: F.linear(x, m.second.weight.exp()), "exp is not known"),
    "custom function": (lambda m, x: Straight.apply(x) + m.second(x), "a step not seen here"),
    "custom function on a weight": (lambda m, x: F.linear(x, Straight.apply(m.second.weight)), "a step not seen here"),
    "traced": (
        lambda m, x: x + torch.jit.trace(torch.tanh, torch.zeros(1, 4), check_trace=False)(m.second(x)),
        "a step not seen here",
    ),
    "numpy": (lambda m, x: torch.from_numpy(x.numpy()), "numpy is not known"),
    "written into": (lambda m, x: x.index_fill_(1, torch.tensor([0]), 0.0), "index_fill is not known"),
    "under a view": (view_overwritten, "add_ overwrites a tensor that others look into"),
    "left out": (lambda m, x: x, r"'second\.weight' take no part in the pass"),
    "failing": (lambda m, x: x.view(3, 7), "Odd fails on 0/1 weights in float64: RuntimeError"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
@pytest.mark.parametrize("kind", ODD)
def test_what_cannot_be_followed_is_refused_by_name(kind: str) -> None:
    step, reason = ODD[kind]
    model = Odd(step)
    masks = Masks.full({name: model.get_parameter(name) for name in ("first.weight", "second.weight")})
    with pytest.raises(UnknownPaths, match=reason):
        find_paths(model, masks, torch.zeros(1, 4))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_an_unseen_step_is_noticed_before_the_first_layer_too() -> None:
    class Prepared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(8, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            traced = torch.jit.trace(torch.tanh, torch.zeros(1, 4), check_trace=False)
            return self.head(self.layer(torch.cat([x, traced(x)], 1)))

    with pytest.raises(UnknownPaths, match="cat of a tensor that a step not seen here has made"):
        find_paths(Prepared(), masks_of(Prepared()), torch.zeros(1, 4))


def test_masks_that_do_not_fit_are_bad_input() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"'0\.wieght' fits no parameter .* \(did you mean '0\.weight'\?\)"):
        find_paths(model, Masks({"0.wieght": torch.ones(2, 2, dtype=torch.bool)}), torch.zeros(1, 2))
    with pytest.raises(InputError, match=r"'0\.weight' has the shape \(2, 3\); expected \(2, 2\)"):
        find_paths(model, Masks({"0.weight": torch.ones(2, 3, dtype=torch.bool)}), torch.zeros(1, 2))


def test_no_masks_ask_nothing() -> None:
    paths = find_paths(nn.Linear(2, 2), Masks({}), torch.zeros(1, 2))
    assert (paths.density, paths.units) == (1.0, ())
