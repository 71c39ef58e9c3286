"""Names behind wrappers: what rename and prefix mean, and the one wrapper that is found alone."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.ticket import Ticket


class Wrapper(nn.Module):
    """A network under the dotted name ``path``, beside a layer of the wrapper's own."""

    def __init__(self, path: str, inner: nn.Module) -> None:
        super().__init__()
        self.own = nn.Linear(2, 2)
        first, _, rest = path.partition(".")
        self.add_module(first, Wrapper(rest, inner) if rest else inner)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(a=nn.Linear(4, 6), act=nn.Tanh(), b=nn.Linear(6, 5), act2=nn.Tanh(), fc=nn.Linear(5, 3))
    )


def ticket_of(model: nn.Module, head: str) -> Ticket:
    view = Prunable(
        model,
        head=head,
        only=[n for n, p in model.named_parameters() if p.dim() > 1 and "own" not in n and head not in n],
    )
    masks = Masks({n: torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) < 0.5 for n, w in view.weights()})
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in masks}
    return Ticket(masks, view.values(), rest, head)


@settings(deadline=None, max_examples=6)
@given(path=st.lists(st.sampled_from(["m", "vit", "base", "x_1"]), min_size=1, max_size=3).map(".".join))
def test_a_wrapper_of_any_name_is_found_on_either_side(path: str) -> None:
    plain = network(0)
    inside = ticket_of(plain, "fc")
    wrapped = Wrapper(path, network(1))
    placement = inside.put_into(wrapped, head="copied", model_head=f"{path}.fc")
    assert placement.renamed == {"": f"{path}."}
    assert f"'…' of the ticket is '{path}.…' in the model" in str(placement)
    inner = wrapped.get_submodule(path)
    assert torch.equal(inner.a.weight, inside.weights["a.weight"])
    assert torch.equal(inner.fc.weight, plain.fc.weight)
    outside = ticket_of(wrapped, f"{path}.fc")
    bare = network(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        placement = outside.put_into(bare, head="copied")
    assert placement.renamed == {f"{path}.": ""}
    assert torch.equal(bare.b.weight, outside.weights[f"{path}.b.weight"])
    assert torch.equal(bare.fc.bias, inner.fc.bias)


def test_names_that_fit_are_left_alone() -> None:
    placement = ticket_of(network(), "fc").put_into(network(1))
    assert placement.renamed == {}
    assert "of the ticket is" not in str(placement)


def test_two_places_that_fit_are_not_guessed() -> None:
    both = nn.ModuleDict({"one": network(1), "two": network(2)})
    ticket = ticket_of(network(), "fc")
    with pytest.raises(InputError, match="rename="):
        ticket.put_into(both, model_head="one.fc")
    placement = ticket.put_into(both, prefix="two.", model_head="two.fc")
    assert list(placement.masks) == ["two.a.weight", "two.b.weight"]


def test_rename_takes_the_longest_beginning() -> None:
    source = Wrapper("m", network(0))
    target = nn.ModuleDict(
        {"first": nn.ModuleDict({"a": nn.Linear(4, 6)}), "b": nn.Linear(6, 5), "fc": nn.Linear(5, 3)}
    )
    ticket = ticket_of(source, "m.fc")
    placement = ticket.put_into(target, rename={"m.": "", "m.a.": "first.a."}, model_head="fc")
    assert set(placement.masks) == {"first.a.weight", "b.weight"}
    assert torch.equal(target["first"]["a"].weight, ticket.weights["m.a.weight"])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"rename": {"q.": ""}}, "no tensor of the ticket is called 'q.…'"),
        ({"rename": {"a.": "b."}}, "two tensors of the ticket get one name"),
        ({"rename": "m."}, "rename = 'm.'"),
        ({"rename": {}, "prefix": "m."}, "prefix and rename are given"),
    ],
)
def test_bad_names_are_refused_before_anything_changes(arguments: dict[str, object], what: str) -> None:
    model = network(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError) as refused:
        ticket_of(network(), "fc").put_into(model, **arguments)
    assert what in str(refused.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_renamed_ticket_is_kept_and_applied() -> None:
    ticket, model = ticket_of(Wrapper("m", network()), "m.fc"), network(1)
    ticket.put_into(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with ticket.kept(optimizer):
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
    masked = ~ticket.masks["m.a.weight"]
    assert bool((model.a.weight[masked] == 0).all())
    assert bool((model.a.weight != 0).any())
    with torch.no_grad():
        model.a.weight.fill_(2.0)
    assert ticket.apply_masks(model) == int(masked.sum())
    assert torch.equal(model.a.weight, torch.where(masked, 0.0, 2.0))
    dense = network(3).state_dict()
    assert ticket.apply_masks(dense) == sum(int((~mask).sum()) for mask in ticket.masks.values())
    assert bool((dense["a.weight"][masked] == 0).all())
    assert ticket.apply_masks(dense) == 0
    with pytest.raises(InputError, match="no masked tensor of the ticket is in the model"):
        ticket.apply_masks({"other": torch.ones(3)})
