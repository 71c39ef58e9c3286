"""Methods on a convolutional and on a residual network: exact densities, and steps against ones written out anew."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.masks import Masks
from oneticket.methods import METHODS, MethodContext, callback_of
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.pruning import ALLOCATIONS
from oneticket.randomness import seeded
from oneticket.training import Recipe, train

State = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
MAKERS = [entry.name for entry in METHODS.entries() if entry.facts.makes == "masks"]
BINARY = [entry.name for entry in METHODS.entries() if entry.facts.weights == "binary"]
RATE = 0.5


# -- densities -----------------------------------------------------------------------------------------------------
def built(name: str) -> nn.Module:
    spec = ModelSpec(name=name, options={"width": 0.125, "norm": "batch"})
    return build(spec, input_shape=(3, 8, 8), classes=3, seed=0)


@pytest.mark.parametrize("density", [0.6, 0.03])
@pytest.mark.parametrize("name", ["vgg11", "resnet20"])
@pytest.mark.parametrize("chosen", MAKERS)
def test_a_network_ends_at_its_density_exactly(chosen: str, name: str, density: float) -> None:
    model = built(name)
    view = Prunable(model)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(12, 3, 8, 8, generator=generator), torch.arange(12) % 3
    recipe = Recipe.sgd(epochs=3, batch_size=4, lr=0.05)
    full = Masks.full(dict(view.weights()))
    callback = callback_of(chosen, MethodContext(density, "head", recipe), {})
    masks = train(model, data, recipe, masks=full, callbacks=[callback]).masks
    assert masks is not None
    assert masks.kept == math.floor(density * view.total + 0.5)
    for layer, weight in view.weights():
        assert not weight[~masks[layer]].any()
    if chosen in ("set", "set-cosine", "rigl"):
        scores = {layer: torch.rand(mask.shape) for layer, mask in full.items()}
        erk = ALLOCATIONS["erk"](scores, density, full)
        assert [row.kept for row in masks.table()] == [row.kept for row in erk.table()]


# -- straight through ----------------------------------------------------------------------------------------------
class Plain(nn.Module):
    """Convolutions with BatchNorm, then linear layers; float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5)
        self.fc, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.norm1(self.conv1(images)))
        maps = F.relu(self.norm2(self.conv2(maps)))
        return self.head(torch.tanh(self.fc(maps.mean((2, 3)))))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A block of two convolutions with BatchNorm, added to a projection; float64."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.norm1 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.short, self.norm3 = nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.norm(self.stem(images)))
        body = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        return self.head(F.relu(body + self.norm3(self.short(maps))).mean((2, 3)))  # type: ignore[no-any-return]


def seen(inputs: Tensor, chosen: str) -> tuple[Tensor, Tensor]:
    """What a binary layer sees of its inputs, with the straight-through gradient; the sizes that K is made of."""
    if chosen != "xnor":
        return inputs, torch.ones_like(inputs)
    inner = tuple(range(1, inputs.dim()))
    centred = inputs - inputs.mean(inner, keepdim=True)
    normal = centred / (centred.square().mean(inner, keepdim=True) + 1e-5).sqrt()
    inside = normal * (normal.abs() <= 1)  # its derivative is the one that passes
    return inside + (torch.where(normal >= 0, 1.0, -1.0) - inside).detach(), normal.detach().abs()


class Layers:
    """The layers of a network by the formulas: real ones as they are, binary ones on W̃ with their inputs' signs."""

    def __init__(self, state: State, chosen: str) -> None:
        self.state, self.chosen = state, chosen

    def conv(self, name: str, maps: Tensor, stride: int = 1, padding: int = 1, *, binary: bool = True) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        if not binary:
            return F.conv2d(maps, weight, bias, stride, padding)
        signs, sizes = seen(maps, self.chosen)
        found = F.conv2d(signs, weight, None, stride, padding)
        if self.chosen == "xnor":
            side = weight.shape[2]
            box = torch.full((1, 1, side, side), 1 / side**2, dtype=torch.float64)
            found = found * F.conv2d(sizes.mean(1, keepdim=True), box, None, stride, padding)
        return found if bias is None else found + bias[:, None, None]

    def linear(self, name: str, rows: Tensor, *, binary: bool) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        signs, sizes = seen(rows, self.chosen) if binary else (rows, rows)
        found = signs @ weight.T
        return (found * sizes.mean(1, keepdim=True) if binary and self.chosen == "xnor" else found) + bias

    def norm(self, name: str, maps: Tensor) -> Tensor:
        mean, var = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
        gain, shift = (self.state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return (maps - mean) / (var + 1e-5).sqrt() * gain + shift


def plain(layers: Layers, images: Tensor) -> Tensor:
    maps = layers.norm("norm1", layers.conv("conv1", images, binary=False)).relu()
    maps = layers.norm("norm2", layers.conv("conv2", maps, 2)).relu()
    return layers.linear("head", layers.linear("fc", maps.mean((2, 3)), binary=True).tanh(), binary=False)


def residual(layers: Layers, images: Tensor) -> Tensor:
    maps = layers.norm("norm", layers.conv("stem", images, binary=False)).relu()
    body = layers.norm("norm1", layers.conv("conv1", maps, 2)).relu()
    body = layers.norm("norm2", layers.conv("conv2", body))
    maps = (body + layers.norm("norm3", layers.conv("short", maps, 2, 0))).relu()
    return layers.linear("head", maps.mean((2, 3)), binary=False)


Formula = Callable[[Layers, Tensor], Tensor]
CASES: dict[str, tuple[type[nn.Module], Formula, tuple[str, ...]]] = {
    "plain": (Plain, plain, ("conv2.weight", "fc.weight")),
    "residual": (Residual, residual, ("conv1.weight", "conv2.weight", "short.weight")),
}


def after_one_step(
    chosen: str, formula: Formula, binary: tuple[str, ...], state: State, masks: Masks, batch: Batch, gradient: str
) -> State:
    """W − η ∂C/∂W̃ · (1/n + α 1{│W│ ≤ 1}) for W̃ = α sign(W), n kept weights in the filter, and W − η ∂C/∂W elsewhere.

    As the authors' code has it, that factor times n(1 − 1/c), c input channels. BinaryConnect has α = 1 and no
    factor, and clips W to [−1, 1] before and after.
    """
    clips = chosen == "binary-connect"
    state = {n: t * masks[n] if n in masks else t for n, t in state.items()}
    state |= {n: state[n].clamp(-1, 1) for n in binary if clips}
    seen_by_the_loss, factor = dict(state), {}
    for n in binary:
        weight, inner = state[n], tuple(range(1, state[n].dim()))
        count = masks[n].double().sum(inner, keepdim=True).clamp(min=1)
        alpha = torch.ones_like(count) if clips else weight.abs().sum(inner, keepdim=True) / count
        seen_by_the_loss[n] = alpha * torch.where(weight >= 0, 1.0, -1.0) * masks[n]
        factor[n] = 1.0 if clips else 1 / count + alpha * (weight.abs() <= 1)
        if gradient == "authors-code":
            factor[n] = factor[n] * count * (1 - 1 / weight.shape[1])
    leaves = {n: t.clone().requires_grad_() for n, t in seen_by_the_loss.items()}
    F.cross_entropy(formula(Layers(leaves, chosen), batch[0]), batch[1]).backward()
    slopes = {n: leaf.grad * factor.get(n, 1.0) for n, leaf in leaves.items()}
    after = {n: t - RATE * (slopes[n] * masks[n] if n in masks else slopes[n]) for n, t in state.items()}
    return after | {n: after[n].clamp(-1, 1) for n in binary if clips}


@pytest.mark.parametrize("density", [1.0, 0.5])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("chosen", "gradient"),
    [*((chosen, "paper") for chosen in BINARY), ("bwn", "authors-code"), ("xnor", "authors-code")],
)
def test_one_step_of_a_binary_network(chosen: str, gradient: str, name: str, density: float) -> None:
    kind, formula, binary = CASES[name]
    with seeded(3):
        model = kind().double()
        batch = torch.randn(6, 2, 6, 6, dtype=torch.float64), torch.arange(6) % 3
        with torch.no_grad():
            for weight in (model.get_parameter(n) for n in binary):
                weight.normal_(0, 0.8)  # some beyond 1
        masks = Masks({n: torch.rand(w.shape) < density for n, w in Prunable(model).weights()})
    before = {n: t.detach().clone() for n, t in model.named_parameters()}
    expected = after_one_step(chosen, formula, binary, before, masks, batch, gradient)
    recipe = Recipe.sgd(epochs=1, batch_size=6, lr=RATE, momentum=0.0, weight_decay=0.0)
    options = {} if gradient == "paper" else {"gradient": gradient}
    callback = callback_of(chosen, MethodContext(density, "head", recipe), options)
    found = train(model, batch, recipe, masks=masks, callbacks=[callback], snapshots=["1it"]).snapshots["1it"].state
    for n, value in expected.items():
        torch.testing.assert_close(found[n], value, rtol=1e-8, atol=1e-10, msg=n)
        assert n not in masks or not torch.equal(value, before[n]), n
