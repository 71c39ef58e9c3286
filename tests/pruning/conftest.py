"""Two networks in float64 and what they compute, written a second time: a convolutional and a residual one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.pruning import curvature

Normalise = Callable[[Tensor, str], Tensor]
State = dict[str, Tensor]


class Plain(nn.Module):
    """Two convolutions with BatchNorm, the second with a bias, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.norm1(self.conv1(images)))
        maps = F.relu(self.norm2(self.conv2(maps)))
        return self.head(F.relu(self.fc(maps.mean((2, 3)))))


class Residual(nn.Module):
    """A convolution and a block of two with BatchNorm, added to a projection by a 1 × 1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.short, self.norm3 = nn.Conv2d(3, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.norm(self.stem(images)))
        body = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        return self.head(F.relu(body + self.norm3(self.short(maps))).mean((2, 3)))


def plain(p: State, images: Tensor, normalise: Normalise) -> Tensor:
    """What Plain computes."""
    maps = normalise(F.conv2d(images, p["conv1.weight"], padding=1), "norm1").relu()
    maps = normalise(F.conv2d(maps, p["conv2.weight"], p["conv2.bias"]), "norm2").relu()
    units = (maps.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]).relu()
    return units @ p["head.weight"].T + p["head.bias"]


def residual(p: State, images: Tensor, normalise: Normalise) -> Tensor:
    """What Residual computes."""
    maps = normalise(F.conv2d(images, p["stem.weight"], padding=1), "norm").relu()
    body = normalise(F.conv2d(maps, p["conv1.weight"], stride=2, padding=1), "norm1").relu()
    body = normalise(F.conv2d(body, p["conv2.weight"], padding=1), "norm2")
    short = normalise(F.conv2d(maps, p["short.weight"], stride=2), "norm3")
    return (body + short).relu().mean((2, 3)) @ p["head.weight"].T + p["head.bias"]


@dataclass(frozen=True)
class Case:
    """A network, what it computes as a function of its state, and batches for it."""

    model: nn.Module
    formula: Callable[[State, Tensor, Normalise], Tensor]
    batches: list[tuple[Tensor, Tensor]]

    def state(self) -> State:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}


@pytest.fixture(params=["plain", "residual"])
def case(request: pytest.FixtureRequest) -> Case:
    """Gains, biases and running statistics are no neutral ones, so that it is seen what becomes of them."""
    torch.manual_seed(0)
    model, formula = {"plain": (Plain(), plain), "residual": (Residual(), residual)}[request.param]
    model.double()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif tensor.dim() == 1:
                tensor.normal_(1.0, 0.5)
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(9, 2, 5, 5, generator=generator, dtype=torch.float64) for _ in range(5)]
    labels = [torch.randint(3, (9,), generator=generator) for _ in images]
    return Case(model, formula, list(zip(images, labels, strict=True)))


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two random vectors a sample, where their number does not matter."""
    monkeypatch.setattr(curvature, "PROBES", 2)
