"""Keeping masked weights at their values: which weights may change, whatever happens in the loop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from oneticket.data import as_batches
from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.prunable import Prunable
from oneticket.randomness import Streams, seeded
from oneticket.ticket import Ticket
from oneticket.training import Recipe, Start, train

X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


@pytest.fixture(autouse=True)
def no_unexpected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def network(seed: int = 0) -> nn.Sequential:
    with seeded(seed):
        return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture
def ticket() -> Ticket:
    view, generator = Prunable(network()), torch.Generator().manual_seed(3)
    masks = Masks({n: torch.rand(w.shape, generator=generator) < 0.3 for n, w in view.weights()})
    return Ticket(masks, view.values(), head=view.head)


@pytest.fixture
def model() -> nn.Sequential:
    return network(1)


def step(model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    model.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    for optimizer in optimizers:
        optimizer.step()


def moved(model: nn.Module, before: dict[str, Tensor], ticket: Ticket) -> dict[str, tuple[int, int]]:
    """Masked and kept weights of each tensor that are not, to the bit, what they were."""
    now = model.state_dict()
    changed = {n: (now[n].view(torch.int32) != before[n].view(torch.int32)) for n in ticket.masks}
    return {n: (int(changed[n][~mask].sum()), int(changed[n][mask].sum())) for n, mask in ticket.masks.items()}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_frozen(model: nn.Module, before: dict[str, Tensor], ticket: Ticket) -> None:
    for masked, kept in moved(model, before, ticket).values():
        assert masked == 0
        assert kept > 0


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Muon])
def test_masked_weights_stay_and_the_others_are_trained(
    ticket: Ticket, model: nn.Sequential, kind: type[torch.optim.Optimizer]
) -> None:
    before = state_of(model)
    weights = [model[0].weight, model[2].weight]
    optimizer = kind(weights, lr=0.05, weight_decay=0.1)  # type: ignore[call-arg]
    with ticket.kept(optimizer, model=model, masked="frozen"):
        for _ in range(4):
            step(model, optimizer)
            assert all(bool((w.grad[~ticket.masks[n]] == 0).all()) for n, w in zip(ticket.masks, weights, strict=True))
    assert_frozen(model, before, ticket)


def test_the_numbers_are_those_of_the_method_update(ticket: Ticket, model: nn.Sequential) -> None:
    """The loop of the laboratory with the method of the arm `update-mask`, and a plain one: equal to the bit."""
    recipe = Recipe.sgd(epochs=3, batch_size=8)
    theirs = copy.deepcopy(model)
    context = MethodContext(ticket.density, ticket.head, recipe, masks=lambda: ticket.masks)
    train(theirs, (X, Y), recipe, start=Start(callbacks=(callback_of("update", context, {}),)), seed=5)
    optimizer, data, streams = recipe.make_optimizer(model), as_batches((X, Y), 8), Streams(5)
    with ticket.kept(optimizer, model=model, masked="frozen"):
        for epoch in range(3):
            for inputs, targets in data.epoch(streams.generator("data-order", epoch), torch.Generator()):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
    for name, value in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_second_optimizer_and_new_parameters_are_held(ticket: Ticket, model: nn.Sequential) -> None:
    before = state_of(model)
    first = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    second = torch.optim.Adam(model[2].parameters(), lr=0.1, weight_decay=0.1)
    with ticket.kept(first, model=model, masked="frozen"):
        step(model, first, second)
        model.load_state_dict(state_of(model), assign=True)
        first.param_groups[0]["params"] = list(model.parameters())
        step(model, first)
    assert_frozen(model, before, ticket)


def test_weights_that_were_written_are_put_back_and_told(ticket: Ticket, model: nn.Sequential) -> None:
    before, optimizer = state_of(model), torch.optim.SGD(model.parameters(), lr=0.1)

    def loading() -> None:
        with ticket.kept(optimizer, model=model, masked="frozen"):
            step(model, optimizer)
            model.load_state_dict(network(7).state_dict())
            step(model, optimizer)

    with pytest.warns(UserWarning, match="at the values at which they are frozen again"):
        loading()
    assert_frozen(model, before, ticket)


def test_a_checkpoint_that_is_loaded_later_gives_the_values(ticket: Ticket, model: nn.Sequential) -> None:
    saved, optimizer = state_of(network(7)), torch.optim.SGD(model.parameters(), lr=0.1)
    with ticket.kept(optimizer, model=model, loaded_later=True, masked="frozen"):
        model.load_state_dict(saved)
        step(model, optimizer)
    assert_frozen(model, saved, ticket)


def test_an_average_of_the_model_is_no_news_and_another_one_is_told(ticket: Ticket, model: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    before = state_of(model)
    with ticket.kept(optimizer, model=model, masked="frozen"):
        for _ in range(4):
            step(model, optimizer)
            average.update_parameters(model)
    assert_frozen(average.module, before, ticket)
    other = network(9)

    def averaging() -> None:
        with ticket.kept(optimizer, model=model, masked="frozen"):
            for _ in range(2):
                step(model, optimizer)
                for mean, weight in zip(other.parameters(), model.parameters(), strict=True):
                    mean.data.lerp_(weight.data, 0.1)

    with pytest.warns(UserWarning, match="has other masked weights than those that are frozen"):
        averaging()


def test_what_cant_be_held_is_refused(ticket: Ticket, model: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="'frozen' without a model"):
        ticket.kept(optimizer, masked="frozen")
    with pytest.raises(InputError, match="did you mean 'frozen'"):
        ticket.kept(optimizer, model=model, masked="frosen")  # type: ignore[arg-type]
    other = nn.Sequential(nn.Linear(5, 3))
    with pytest.raises(InputError, match="carries this ticket"):
        ticket.kept(torch.optim.SGD(other.parameters(), lr=0.1), model=other, masked="frozen")
    kept = ticket.kept(optimizer, model=model, masked="frozen")
    step(model, optimizer)
    with pytest.raises(InputError, match=r"have changed since ticket\.kept"):
        kept.__enter__()
