"""A context that is entered before a checkpoint is loaded, and the optimisers that libraries wrap around others."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.ticket import Ticket


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def ticket_of(model: nn.Module) -> Ticket:
    view = Prunable(model)
    masks = Masks({n: torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) < 0.4 for n, w in view.weights()})
    return Ticket(masks, view.values(), {}, view.head)


def back(model: nn.Module, ticket: Ticket) -> int:
    return sum(int((model.get_parameter(n)[~m] != 0).sum()) for n, m in ticket.masks.items())


def test_weights_loaded_inside_carry_the_ticket_at_once() -> None:
    ticket, model = ticket_of(network()), network(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(InputError, match="does not carry this ticket"):
        ticket.kept(optimizer, model=model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ticket.kept(optimizer, model=model, loaded_later=True):
            assert back(model, ticket) == 0
            model.load_state_dict(network(2).state_dict())
            assert back(model, ticket) == 0, "before any step"
            model.load_state_dict(network(3).state_dict(), assign=True)
            assert back(model, ticket) == 0
            copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
            for other in copied, pickled:
                other.load_state_dict(network(2).state_dict())
                assert back(other, ticket) > 0, "a copy is a model of its own"
    model.load_state_dict(network(2).state_dict())
    assert back(model, ticket) > 0, "no hook is left behind"


class Handed(torch.optim.Optimizer):
    """An optimiser around another that, as Accelerate's, was never initialised as one."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, object]]:
        return self.optimizer.param_groups

    def step(self, closure: object = None) -> None:
        self.optimizer.step()


class Redirected:
    """One that, as Lightning's, is not an optimiser at all."""

    def __init__(self, optimizer: object) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.step()


@pytest.mark.parametrize("wrap", [Handed, Redirected, lambda o: Redirected(Handed(o))])
def test_wrapped_optimizers_are_unwrapped(wrap: type[Handed]) -> None:
    ticket, model = ticket_of(network()), network(1)
    ticket.put_into(model)
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer = wrap(inner)
    with ticket.kept(optimizer) as keeper:
        assert keeper.optimizer is inner
        for _ in range(2):
            model(torch.randn(8, 4)).square().sum().backward()
            optimizer.step()
    assert back(model, ticket) == 0
    assert bool((inner.state[model[0].weight]["momentum_buffer"][~ticket.masks["0.weight"]] == 0).all())
