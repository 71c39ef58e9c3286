"""Campaigns on networks: heads of random networks, and masks under random events in a loop of one's own."""

from __future__ import annotations

import copy
import random
import string
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable, find_head
from oneticket.ticket import Ticket

pytestmark = pytest.mark.faults
WIDTH, CLASSES = 6, 3


class Graph(nn.Module):
    """Steps in a random order of declaration, under random names, that compute in the order given."""

    def __init__(self, steps: list[tuple[nn.Module | None, Callable[..., Tensor]]], draw: random.Random) -> None:
        super().__init__()
        self.steps: list[tuple[str, Callable[..., Tensor]]] = []
        named = [("".join(draw.sample(string.ascii_letters, 8)), layer, act) for layer, act in steps]
        for name, layer, _ in draw.sample(named, len(named)):
            if layer is not None:
                self.add_module(name, layer)
        self.steps = [(name, act) for name, _, act in named]

    def forward(self, x: Tensor) -> Tensor:
        for name, act in self.steps:
            x = act(self._modules.get(name), x)
        return x


def square() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


def attend(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x[:, None], x[:, None], x[:, None])[0][:, 0]


def recur(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x[:, None])[0][:, 0]


BODY: list[Callable[[], tuple[nn.Module | None, Callable[..., Tensor]]]] = [
    lambda: (square(), lambda m, x: m(x).relu()),
    lambda: (square(), lambda m, x: x + m(x)),
    lambda: (square(), lambda m, x: x * m(x).sigmoid()),
    lambda: (square(), lambda m, x: (m(x), x)[1]),  # for an auxiliary loss that is not there
    lambda: (nn.BatchNorm1d(WIDTH), lambda m, x: m(x)),
    lambda: (nn.MultiheadAttention(WIDTH, 2, batch_first=True), attend),
    lambda: (nn.GRU(WIDTH, WIDTH, batch_first=True), recur),
    lambda: (nn.Sequential(square(), nn.Tanh(), square()), lambda m, x: m(x)),
    lambda: (nn.Conv1d(1, 1, 3, padding=1), lambda m, x: m(x[:, None])[:, 0]),
    lambda: (nn.utils.parametrizations.weight_norm(square()), lambda m, x: m(x)),
    lambda: (None, lambda _, x: x.relu_()),
]
HEADS: list[Callable[[], tuple[nn.Module, Callable[..., Tensor]]]] = [
    lambda: (nn.Linear(WIDTH, CLASSES), lambda m, x: m(x)),
    lambda: (nn.Conv1d(WIDTH, CLASSES, 1), lambda m, x: m(x[:, :, None]).mean(2)),
    lambda: (nn.Linear(WIDTH, CLASSES), lambda m, x: F.linear(x, m.weight)),
    lambda: (nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, CLASSES)), lambda m, x: m(x)),
]
TAILS: list[Callable[..., Tensor]] = [
    lambda _, x: x.log_softmax(1),
    lambda _, x: x * 3 + 1,
    lambda _, x: x[:, :, None].flatten(1),
    lambda _, x: x.clamp(-9, 9),
]


@pytest.mark.parametrize("seed", range(20))
def test_the_head_of_any_network_is_found(seed: int) -> None:
    """Fifty networks for each seed; and two heads are never taken for one."""
    draw = random.Random(seed)
    for _ in range(50):
        torch.manual_seed(draw.randrange(10**6))
        steps = [draw.choice(BODY)() for _ in range(draw.randrange(1, 7))]
        head = draw.choice(HEADS)()
        tails = [(None, tail) for tail in draw.sample(TAILS, draw.randrange(3))]
        model = Graph([*steps, head, *tails], draw)
        assert model.get_submodule(find_head(model, inputs=torch.randn(4, WIDTH))) is head[0]

        one, two = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)
        both = nn.ModuleList([one, two]), lambda m, x: m[0](x) + m[1](x)
        with pytest.raises(InputError, match="together"):
            find_head(Graph([*steps, both, *tails], draw), inputs=torch.randn(4, WIDTH))


X, Y = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(1)), torch.arange(16) % CLASSES


class Loop:
    """A loop of one's own to which things happen."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.model = self.network()
        self.optimizers = [self.optimizer()]

    def network(self) -> nn.Sequential:
        torch.manual_seed(self.draw.randrange(10**6))
        return nn.Sequential(square(), nn.Tanh(), square(), nn.Tanh(), nn.Linear(WIDTH, CLASSES))

    def optimizer(self) -> torch.optim.Optimizer:
        parameters = [p for p in self.model.parameters() if self.draw.random() < 0.8] or list(self.model.parameters())
        kind = self.draw.choice([torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
        momentum = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return kind(parameters, lr=0.05, weight_decay=0.1, **momentum)

    def step(self) -> None:
        optimizer = self.draw.choice(self.optimizers)
        optimizer.zero_grad(set_to_none=self.draw.random() < 0.5)
        F.cross_entropy(self.model(X), Y).backward()
        optimizer.step()

    def another(self) -> None:
        self.optimizers.append(self.optimizer())

    def dense(self) -> None:
        self.model.load_state_dict(self.network().state_dict(), assign=self.draw.random() < 0.5)
        self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)]

    def anew(self) -> None:
        layer = self.draw.choice([0, 2])
        self.model[layer] = square()
        self.optimizers[0].add_param_group({"params": list(self.model[layer].parameters()), "lr": 0.05})

    def freeze(self) -> None:
        for layer in (0, 2):
            self.model[layer].requires_grad_(self.draw.random() < 0.7)

    def memory(self) -> None:
        optimizer = self.draw.choice(self.optimizers)
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def noise(self) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad += torch.randn_like(parameter)

    def written(self) -> None:
        with torch.no_grad():
            self.draw.choice([self.model[0], self.model[2]]).weight.add_(0.1)

    def happens(self) -> None:
        self.draw.choice([self.another, self.dense, self.anew, self.freeze, self.memory, self.noise, self.written])()


@pytest.mark.parametrize("seed", range(20))
def test_masked_weights_are_zero_after_every_step_whatever_happens(seed: int) -> None:
    """Fifty loops for each seed."""
    draw = random.Random(seed)
    for _ in range(50):
        loop = Loop(draw)
        loop.step()
        view = Prunable(loop.model, head="4")
        masks = Masks({n: torch.rand(w.shape) < 0.4 for n, w in view.weights()})
        ticket = Ticket(masks, view.values(), head="4")
        ticket.put_into(loop.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with ticket.kept(loop.optimizers[0]):
                for _ in range(8):
                    loop.happens()
                    loop.step()
                    assert all(not loop.model.get_parameter(n).detach()[~m].any() for n, m in masks.items())
        assert all(not loop.model.get_parameter(n).detach()[~m].any() for n, m in masks.items())
