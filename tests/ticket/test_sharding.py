"""Two processes: parameters that each holds in part (FSDP2), and wholes that are equal on each (DDP)."""

from __future__ import annotations

import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from oneticket import Recipe, find_ticket
from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.ticket import Ticket

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_gloo_available(), reason="this torch has no gloo"),
]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 3))


def ticket_of(model: nn.Module) -> Ticket:
    view = Prunable(model)
    masks = Masks({n: torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) < 0.4 for n, w in view.weights()})
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in masks}
    return Ticket(masks, view.values(), rest, view.head)


def train(model: nn.Module, ticket: Ticket, rank: int, steps: int = 3) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    with ticket.kept(optimizer):
        for step in range(steps):
            inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(10 * step + rank))
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return optimizer


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def check(model: nn.Module, ticket: Ticket, optimizer: torch.optim.Optimizer) -> None:
    for name, mask in ticket.masks.items():
        weight = next(p for n, p in model.named_parameters() if n.removeprefix("module.") == name)
        values, memory = whole(weight.detach()), whole(optimizer.state[weight]["exp_avg"])
        assert bool((values[~mask] == 0).all())
        assert bool((memory[~mask] == 0).all())
        assert bool((values[mask] != ticket.weights[name][mask]).any()), "nothing was trained"
        mine, theirs = values.clone(), values.clone()
        distributed.broadcast(theirs, 0)
        assert torch.equal(mine, theirs), "the processes differ"


def fsdp(before: bool, rank: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    ticket, model = ticket_of(network()), network(4)
    if before:
        ticket.put_into(model, head="copied")
    mesh = init_device_mesh("cpu", (2,))
    for layer in model[0], model[2]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if not before:
        ticket.put_into(model, head="copied")
        assert torch.equal(whole(model[4].weight.detach()), network()[4].weight)
        ticket.put_into(model, head="fresh", seed=5)
        other = network(8)
        ticket.put_into(other, head="fresh", seed=5)
        assert torch.equal(whole(model[4].weight.detach()), other[4].weight), "the head depends on the processes"
    optimizer = train(model, ticket, rank)
    check(model, ticket, optimizer)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    ticket.apply_masks(model)
    assert torch.equal(whole(model[0].weight.detach()), ticket.masks["0.weight"].float())


def ddp(before: bool, rank: int) -> None:
    ticket, model = ticket_of(network()), network(4)
    if before:
        ticket.put_into(model)
    wrapped = DistributedDataParallel(model)
    if not before:
        ticket.put_into(wrapped)
    check(wrapped, ticket, train(wrapped, ticket, rank))
    with pytest.raises(InputError, match="each would search alone"):
        find_ticket(wrapped, (torch.randn(8, 5), torch.arange(8) % 3), recipe=Recipe.sgd(epochs=2), density=0.5)


def one_of_two(rank: int, what: str, before: bool, meeting: str) -> None:
    warnings.simplefilter("error", UserWarning)
    torch.set_num_threads(1)
    store = distributed.FileStore(meeting, 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        {"fsdp": fsdp, "ddp": ddp}[what](before, rank)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("what", ["fsdp", "ddp"])
@pytest.mark.parametrize("before", [True, False], ids=["put-in-before", "put-in-after"])
def test_two_processes_keep_the_ticket(what: str, before: bool, tmp_path: Path) -> None:
    spawn(one_of_two, (what, before, str(tmp_path / "meeting")), nprocs=2)
