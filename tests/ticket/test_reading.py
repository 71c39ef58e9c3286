"""`Ticket.from_model`: the ticket that a network pruned elsewhere carries."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from oneticket.errors import InputError
from oneticket.randomness import seeded
from oneticket.ticket import Ticket


def network(seed: int = 0) -> nn.Sequential:
    with seeded(seed):
        return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.Linear(8, 3))


def zeroed(model: nn.Sequential) -> nn.Sequential:
    """The first layer with half of its weights at zero, by hand."""
    with torch.no_grad():
        model[0].weight[:, ::2] = 0
    return model


def test_zeros_are_masks_and_all_that_is_prunable_counts() -> None:
    model = zeroed(network())
    ticket = Ticket.from_model(model)
    assert list(ticket.masks) == ["0.weight", "3.weight"]
    assert (ticket.masks.kept, ticket.masks.total) == (36 + 96, 72 + 96)
    assert ticket.head == "4"
    assert ticket.provenance.notes == {"masks": "weights that are exactly zero"}
    other = network(1)
    ticket.put_into(other, head="copied")
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_the_buffers_of_prune_are_masks() -> None:
    model = network()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    before = model[0].weight.detach().clone()
    ticket = Ticket.from_model(model)
    assert torch.equal(ticket.weights["0.weight"], before)
    assert torch.equal(ticket.masks["0.weight"], model[0].weight_mask == 1)
    assert ticket.provenance.notes == {"masks": "torch.nn.utils.prune"}
    assert not any("_orig" in name or "_mask" in name for name in (*ticket.rest, *ticket.weights))
    assert isinstance(model[0].weight_orig, nn.Parameter)  # the model is as it was


def test_both_at_once_are_said_and_a_ticket_survives_its_file(tmp_path: object) -> None:
    model = zeroed(network())
    prune.random_unstructured(model[3], "weight", amount=10)
    ticket = Ticket.from_model(model, head="4")
    assert ticket.provenance.notes == {"masks": "torch.nn.utils.prune, and weights that are exactly zero"}
    assert ticket.masks["3.weight"].sum() == 86
    ticket.save(f"{tmp_path}/ticket.safetensors")
    assert Ticket.load(f"{tmp_path}/ticket.safetensors") == ticket


def test_a_network_of_two_heads_gives_a_ticket_without_one() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = zeroed(network())[0], nn.Linear(12, 3), nn.Linear(12, 3)

    ticket = Ticket.from_model(Two())
    assert (ticket.head, list(ticket.masks)) == ("", ["body.weight"])


def test_a_dense_network_and_a_wrong_head_are_refused() -> None:
    with pytest.raises(InputError, match="no weight that is exactly zero"):
        Ticket.from_model(network())
    with pytest.raises(InputError, match="hed"):
        Ticket.from_model(zeroed(network()), head="hed")
