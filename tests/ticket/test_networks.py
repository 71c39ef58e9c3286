"""Tickets in networks written with plain PyTorch: masked weights stay exactly zero under any optimiser."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.ticket import Ticket


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2)
        self.norm2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        return self.fc(self.norm2(self.conv2(x)).relu().mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12, num_layers=2, batch_first=True)
        self.classifier = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.lstm(x.view(len(x), -1, 8))[0][:, -1])


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.view(len(x), -1, 8))).mean(1))


NETWORKS = {"convolutional": Convolutional, "recurrent": Recurrent, "transformer": Transformer}
OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, weight_decay=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, weight_decay=1e-2),
}


def random_ticket(model: nn.Module, density: float = 0.3) -> Ticket:
    prunable = Prunable(model)
    generator = torch.Generator().manual_seed(3)
    weights = prunable.values()
    masks = Masks({name: torch.rand(w.shape, generator=generator) < density for name, w in weights.items()})
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in masks}
    return Ticket(masks, weights, rest, prunable.head)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    x = torch.randn(8, 1, 8, 8, generator=generator)
    y = torch.randint(4, (8,), generator=generator)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def leaks(model: nn.Module, ticket: Ticket) -> list[str]:
    """Names of tensors in which a masked weight is anything but 0.0."""
    parameters = dict(model.named_parameters())
    return [name for name, mask in ticket.masks.items() if bool((parameters[name][~mask] != 0.0).any())]


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_masked_weights_stay_exactly_zero(network: str, optimizer_name: str) -> None:
    torch.manual_seed(0)
    ticket = random_ticket(NETWORKS[network]())
    model = NETWORKS[network]()
    keys = list(model.state_dict())
    placement = ticket.put_into(model, seed=1)
    assert set(placement.masks) == set(ticket.masks)
    assert placement.density == ticket.density
    assert not placement.refused
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for name, weight in ticket.weights.items():
        assert torch.equal(start[name], weight)

    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    generator = torch.Generator().manual_seed(1)
    with ticket.kept(optimizer):
        for count in range(1, 201):
            step(model, optimizer, generator)
            if count % 20 == 0:
                assert leaks(model, ticket) == []

    assert list(model.state_dict()) == keys
    for name, mask in ticket.masks.items():
        moved = (dict(model.named_parameters())[name] != start[name])[mask]
        assert moved.float().mean() > 0.99, f"kept weights of {name} did not train"


@pytest.mark.parametrize("network", NETWORKS)
def test_copies_of_a_model_with_a_ticket_work(network: str) -> None:
    ticket = random_ticket(NETWORKS[network]())
    model = NETWORKS[network]()
    ticket.put_into(model)
    assert copy.deepcopy(ticket) == pickle.loads(pickle.dumps(ticket)) == ticket
    x = torch.randn(4, 1, 8, 8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.eval()(x), model.eval()(x))
        other.train()
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        with ticket.kept(optimizer, model=other):
            for _ in range(3):
                step(other, optimizer, torch.Generator().manual_seed(0))
        assert leaks(other, ticket) == []
        assert not torch.equal(other.eval()(x), model.eval()(x))


def test_without_the_context_masked_weights_come_back() -> None:
    # The check above would be empty if training left masked weights alone by itself.
    model = Convolutional()
    ticket = random_ticket(model)
    ticket.put_into(model)
    step(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.Generator().manual_seed(0))
    assert leaks(model, ticket) == list(ticket.masks)


def test_momentum_gathered_before_the_ticket_does_not_leak() -> None:
    model = Convolutional()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        step(model, optimizer, generator)
    ticket = random_ticket(model)
    ticket.put_into(model, head="keep")
    with ticket.kept(optimizer):
        for _ in range(5):
            step(model, optimizer, generator)
            assert leaks(model, ticket) == []


# -- which model is meant --------------------------------------------------------------------------------------------
def test_kept_before_put_into_says_what_to_do() -> None:
    model = Convolutional()
    ticket = random_ticket(Convolutional())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match=r"put_into\(model\)"):
        ticket.kept(optimizer)


def test_kept_refuses_an_optimizer_over_another_model() -> None:
    model = Convolutional()
    ticket = random_ticket(model)
    ticket.put_into(model)
    with pytest.raises(InputError, match="none of the optimiser's parameters"):
        ticket.kept(torch.optim.SGD(Convolutional().parameters(), lr=0.1), model=model)


def test_kept_refuses_a_copy_that_was_trained_without_masks() -> None:
    model = Convolutional()
    ticket = random_ticket(model)
    ticket.put_into(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv2.weight.add_(1.0)
    with pytest.raises(InputError, match=r"conv2\.weight are not zero"):
        ticket.kept(torch.optim.SGD(other.parameters(), lr=0.1), model=other)


def test_the_last_placement_counts() -> None:
    ticket, model = random_ticket(Convolutional()), Convolutional()
    model.conv1 = nn.Conv2d(3, 6, 3)
    ticket.put_into(model, stem="adapt")
    ticket.put_into(model, stem="fresh")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ticket.kept(optimizer):
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    assert model.conv1.weight.all(), "the first layer is masked although it was left fresh"
    assert not model.conv2.weight.all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("network", NETWORKS)
def test_a_ticket_goes_into_a_model_on_a_gpu(network: str) -> None:
    ticket = random_ticket(NETWORKS[network]())
    on_cpu, on_gpu = NETWORKS[network](), NETWORKS[network]().cuda()
    ticket.put_into(on_cpu, seed=3)
    ticket.put_into(on_gpu, seed=3)
    for name, tensor in on_cpu.state_dict().items():
        assert torch.equal(on_gpu.state_dict()[name].cpu(), tensor), name
    other = copy.deepcopy(on_gpu)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    with ticket.kept(optimizer, model=other):
        nn.functional.cross_entropy(other(torch.randn(8, 1, 8, 8).cuda()), torch.zeros(8).long().cuda()).backward()
        optimizer.step()
    assert leaks(other.cpu(), ticket) == []


def test_an_optimizer_over_a_part_of_the_model_keeps_that_part() -> None:
    model = Convolutional()
    ticket = random_ticket(model)
    ticket.put_into(model)
    optimizer = torch.optim.SGD(model.conv2.parameters(), lr=0.1, weight_decay=0.1)
    with ticket.kept(optimizer):
        step(model, optimizer, torch.Generator().manual_seed(0))
    assert leaks(model, ticket) == []


def test_one_ticket_in_two_models_keeps_both() -> None:
    first, second = Convolutional(), Convolutional()
    ticket = random_ticket(first)
    ticket.put_into(first)
    ticket.put_into(second)
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
    with ticket.kept(optimizer):
        step(first, optimizer, torch.Generator().manual_seed(0))
        step(second, optimizer, torch.Generator().manual_seed(0))
    assert leaks(first, ticket) == leaks(second, ticket) == []


def test_a_ticket_does_not_keep_models_alive() -> None:
    class Witness(nn.Sequential):
        alive = 1

        def __del__(self) -> None:
            Witness.alive = 0

    model = Witness(nn.Linear(4, 3), nn.Linear(3, 2))
    ticket = random_ticket(model)
    ticket.put_into(model)
    del model
    gc.collect()
    assert Witness.alive == 0


def test_kept_refuses_a_model_whose_parameters_were_renamed() -> None:
    model = Convolutional()
    ticket = random_ticket(model)
    ticket.put_into(model)
    nn.utils.parametrizations.weight_norm(model.conv2)
    with pytest.raises(InputError, match=r"no longer has the parameters conv2\.weight"):
        ticket.kept(torch.optim.SGD(model.parameters(), lr=0.1))


# -- wrappers --------------------------------------------------------------------------------------------------------
class Wrapped(nn.Module):
    """Names as DistributedDataParallel and torch.compile give them, without either."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, inner)
        self.inner_name = name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.inner_name)(x)


@pytest.mark.parametrize("names", [("module",), ("_orig_mod",), ("_orig_mod", "module")])
@pytest.mark.parametrize("side", ["model", "ticket"])
def test_wrappers_prefixes_are_seen_through(names: tuple[str, ...], side: str) -> None:
    wrapped: nn.Module = Convolutional()
    for name in names:
        wrapped = Wrapped(wrapped, name)
    source, model = (Convolutional(), wrapped) if side == "model" else (wrapped, Convolutional())
    ticket = random_ticket(source)
    placement = ticket.put_into(model)
    assert placement.density == ticket.density
    assert not placement.refused
    assert set(placement.masks) <= set(dict(model.named_parameters()))
    assert [name for name, _ in placement.fresh] == [n for n, _ in model.named_parameters() if "fc" in n]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ticket.kept(optimizer):
        step(model, optimizer, torch.Generator().manual_seed(0))
    values = dict(model.named_parameters())
    assert not any(bool(values[name][~mask].any()) for name, mask in placement.masks.items())


def test_compiled_models_are_seen_through() -> None:
    inner = Convolutional()
    ticket = random_ticket(inner)
    compiled = torch.compile(inner, backend="eager")
    assert ticket.put_into(compiled).density == ticket.density
    assert leaks(inner, ticket) == []
