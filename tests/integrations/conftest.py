"""What the tests of all libraries share: a small network, its ticket, and whether masked weights are zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.ticket import Ticket


class Network(nn.Module):
    """A classifier that gives its loss, as models of transformers do."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.fc = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.fc(self.b(self.a(x).tanh()).tanh())
        given = {} if labels is None else {"loss": nn.functional.cross_entropy(logits.float(), labels)}
        return given | {"logits": logits}


def ticket_of(model: nn.Module, head: str = "fc", seed: int = 1) -> Ticket:
    view = Prunable(model, head=head)
    generator = torch.Generator().manual_seed(seed)
    masks = Masks({n: torch.rand(w.shape, generator=generator) < 0.3 for n, w in view.weights()})
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in masks}
    return Ticket(masks, view.values(), rest, view.head)


def masked_and_not_zero(tensors: dict[str, Tensor], ticket: Ticket, prefix: str = "") -> int:
    assert any((tensors[prefix + n] != w)[ticket.masks[n]].any() for n, w in ticket.weights.items()), "untrained"
    return sum(int((tensors[prefix + n][~m] != 0).sum()) for n, m in ticket.masks.items())


@pytest.fixture
def back() -> Callable[..., int]:
    """How many masked weights are not 0.0; fails where no kept weight has changed."""
    return masked_and_not_zero


@pytest.fixture
def network() -> type[Network]:
    return Network


@pytest.fixture
def ticket() -> Ticket:
    return ticket_of(Network())


@pytest.fixture
def other_ticket() -> Ticket:
    return ticket_of(Network(), seed=2)
