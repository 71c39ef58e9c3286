"""find_ticket with a loop of the user's: what it is asked for, what comes out, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import oneticket as ot
from oneticket.errors import InputError
from oneticket.fitting import Run

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 1))


def loop(model: nn.Module, run: Run, steps: int = 6, keep: bool = True, seen: list[Any] | None = None) -> float:
    """A regression, which only a loop of one's own can train."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    ticket = run.ticket.kept(optimizer, model=model)
    with ticket:
        pass
    if keep:
        ticket.__enter__()
    loss = torch.zeros(())
    for step in range(run.start, steps):
        batch = X[8 * step : 8 * step + 8]
        optimizer.zero_grad()
        loss = (model(batch).squeeze(1) - batch.sum(1)).square().mean()
        loss.backward()
        optimizer.step()
        if seen is not None:
            seen.append((run.number, {n: t.clone() for n, t in model.state_dict().items()}))
    if keep:
        ticket.__exit__(None, None, None)
    return float(loss.detach())


def test_the_search_is_that_of_its_definition() -> None:
    seen: list[Any] = []
    told: list[Any] = []
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    ticket = ot.find_ticket(
        model, fit=lambda m, r: loop(m, r, seen=seen), density=0.25, rounds=2, rewind="2it", head="2",
        on_round=lambda *facts: told.append(facts),
    )  # fmt: skip
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert [number for number, _ in seen] == [0] * 6 + [1] * 4  # the second begins at step 2
    w_k, first, second = seen[1][1], seen[5][1]["0.weight"], seen[-1][1]["0.weight"]
    # Reference: the 20 largest of 40, and then the 10 largest of those.
    halved = first.abs() >= first.abs().flatten().sort().values[20]
    assert torch.equal(second != 0, halved & (second != 0))
    expected = (second.abs() * halved) >= second.abs().flatten().sort().values[30]
    assert torch.equal(ticket.masks["0.weight"], expected)
    assert torch.equal(ticket.weights["0.weight"], w_k["0.weight"] * expected)
    assert torch.equal(ticket.rest["2.weight"], w_k["2.weight"])
    assert [facts[:2] for facts in told] == [(0, 2), (1, 2)]
    assert all(isinstance(score, float) for *_, score in told)
    assert ticket.provenance.rewind == "2it"


def test_rewinding_to_zero_gives_the_initial_weights() -> None:
    model = network()
    ticket = ot.find_ticket(model, fit=loop, density=0.5, rounds=1, rewind=0, head="2")
    mask = ticket.masks["0.weight"]
    assert torch.equal(ticket.weights["0.weight"][mask], model[0].weight.detach()[mask])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({}, "whose epochs are not known"),
        ({"rewind": "6it"}, "rewind = 6, but fit took 6 steps"),
        ({"rewind": 0, "fit": lambda model, run: None}, "fit took no step"),
        ({"rewind": 0, "rounds": 2, "fit": lambda m, r: loop(m, r, keep=False)}, "did not keep the masks of 0.weight"),
        ({"rewind": 0, "method": "fine-tune"}, "method = 'fine-tune' with fit="),
        ({"rewind": 0, "recipe": ot.Recipe.sgd(epochs=1)}, "fit is given with what it decides"),
        ({"rewind": 0, "criterion": "snip"}, "this criterion looks at data"),
        ({"fit": None}, "no train_set or no recipe"),
    ],
)
def test_what_a_loop_cannot_do_is_refused(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError) as refused:
        ot.find_ticket(network(), **({"fit": loop, "density": 0.25, "rounds": 1, "head": "2"} | arguments))
    assert what in str(refused.value)
