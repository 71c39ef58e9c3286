"""Keeping a ticket's masks in any loop, whatever happens to parameters, groups, optimisers and states inside it."""

from __future__ import annotations

import copy
import gc
import importlib
import pickle
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.randomness import seeded
from oneticket.ticket import Ticket

optimizers = importlib.import_module("torch.optim.optimizer")  # `torch.optim.optimizer` alone is not an attribute
X, Y = torch.randn(16, 6, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3


@pytest.fixture(autouse=True)
def no_unexpected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def network(seed: int = 0) -> nn.Sequential:
    with seeded(seed):
        return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def ticket_of(model: nn.Module, density: float = 0.3, seed: int = 3) -> Ticket:
    view, generator = Prunable(model), torch.Generator().manual_seed(seed)
    masks = Masks({n: torch.rand(w.shape, generator=generator) < density for n, w in view.weights()})
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in masks}
    return Ticket(masks, view.values(), rest, view.head)


@pytest.fixture
def ticket() -> Ticket:
    return ticket_of(network())


@pytest.fixture
def model(ticket: Ticket) -> nn.Sequential:
    model = network(1)
    ticket.put_into(model)
    return model


def sgd(model: nn.Module, **options: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1} | options))


def backward(model: nn.Module) -> Tensor:
    loss = F.cross_entropy(model(X), Y)
    loss.backward()
    return loss


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    backward(model)
    optimizer.step()


def back(model: nn.Module, ticket: Ticket) -> int:
    """Masked weights that are not 0.0."""
    parameters = dict(model.named_parameters())
    return sum(int((parameters[name][~mask] != 0).sum()) for name, mask in ticket.masks.items())


def assert_nothing_remembered(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    """The momentum of masked weights is zero."""
    for layer in (model[0], model[2]):
        masked = layer.weight.detach() == 0
        assert masked.any()
        assert not optimizer.state[layer.weight]["momentum_buffer"][masked].any()


# -- what may happen inside --------------------------------------------------------------------------------------------
def a_group(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    other = torch.optim.SGD(model[0].parameters(), lr=0.1, weight_decay=0.1)
    step(model, other)
    other.add_param_group({"params": list(model[2].parameters())})
    step(model, other)


def a_second_optimizer(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    other = torch.optim.Adam(model[2].parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        backward(model)
        other.step()
        optimizer.step()


def a_second_optimizer_with_a_memory(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    other = sgd(model)
    other.load_state_dict(optimizer_of_a_dense_network().state_dict())
    optimizer.zero_grad()
    other.step()
    step(model, other)


def a_loaded_memory(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    step(model, optimizer)
    optimizer.load_state_dict(optimizer_of_a_dense_network().state_dict())
    step(model, optimizer)
    assert_nothing_remembered(model, optimizer)


def another_precision(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model.double()
    optimizer.zero_grad()
    optimizer.state.clear()
    model(X.double()).sum().backward()
    optimizer.step()


def gradual_unfreezing(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[2].requires_grad_(False)
    step(model, optimizer)
    model[2].requires_grad_(True)
    step(model, optimizer)


def unfreezing_what_was_frozen_before(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[2].requires_grad_(True)
    backward(model)
    assert model[2].weight.grad is not None
    assert not model[2].weight.grad[model[2].weight.detach() == 0].any(), "before the step"
    optimizer.step()


def accumulation(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(3):
        backward(model)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    backward(model)
    optimizer.step()


def loss_scaling(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(X), Y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def sharpness_aware(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    """Two steps, the first by hand: up the gradient, and back."""
    for _ in range(2):
        optimizer.zero_grad()
        backward(model)
        ups = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            torch._foreach_add_(list(model.parameters()), ups)
        optimizer.zero_grad()
        backward(model)
        with torch.no_grad():
            torch._foreach_sub_(list(model.parameters()), ups)
        optimizer.step()


def noise(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    backward(model)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad += 1.0
    optimizer.step()
    assert_nothing_remembered(model, optimizer)


def a_closure_with_noise(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = backward(model)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad += 1.0
        return loss

    torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3).step(closure)
    optimizer.step(closure)
    assert_nothing_remembered(model, optimizer)


def steps_in_backward(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    handles = []
    for parameter in model.parameters():
        own = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
        handles.append(parameter.register_post_accumulate_grad_hook(lambda _, own=own: own.step()))
    for _ in range(2):
        backward(model)
    for handle in handles:
        handle.remove()


def a_double_backward(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(X), Y).backward(create_graph=True)
    sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None).backward()
    optimizer.step()
    optimizer.zero_grad()


INSIDE: list[Callable[[nn.Sequential, torch.optim.Optimizer], None]] = [
    a_group, a_second_optimizer, a_second_optimizer_with_a_memory, a_loaded_memory, another_precision,
    gradual_unfreezing, unfreezing_what_was_frozen_before, accumulation, loss_scaling, sharpness_aware, noise,
    a_closure_with_noise, steps_in_backward, a_double_backward,
]  # fmt: skip


def optimizer_of_a_dense_network() -> torch.optim.Optimizer:
    dense = network(5)
    optimizer = sgd(dense)
    step(dense, optimizer)
    return optimizer


@pytest.mark.filterwarnings("ignore:Using backward.* with create_graph")
@pytest.mark.parametrize("happening", INSIDE, ids=lambda f: f.__name__)
def test_masked_weights_are_zero_whatever_happens(
    happening: Callable[..., None], ticket: Ticket, model: nn.Sequential
) -> None:
    before = model[2].weight.detach().clone()
    optimizer = sgd(model)
    model[2].requires_grad_(happening is not unfreezing_what_was_frozen_before)
    with ticket.kept(optimizer):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using backward")
            happening(model, optimizer)
        assert back(model, ticket) == 0
    assert back(model, ticket) == 0
    assert (model[2].weight.to(before.dtype) != before)[ticket.masks["2.weight"]].any(), "it trains"


def assigned(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict(network(5).state_dict(), assign=True)


def loaded(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict(network(5).state_dict())


def renewed(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[0].weight = nn.Parameter(network(5)[0].weight.detach())


def a_layer_put_anew(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[2] = network(5)[2]


@pytest.mark.parametrize("how", [assigned, loaded, renewed, a_layer_put_anew], ids=lambda f: f.__name__)
def test_dense_weights_put_in_are_masked_and_told(
    how: Callable[..., None], ticket: Ticket, model: nn.Sequential
) -> None:
    optimizer = sgd(model)
    with ticket.kept(optimizer):
        step(model, optimizer)
        how(model, optimizer)
        optimizer.param_groups[0]["params"] = list(model.parameters())
        with pytest.warns(UserWarning, match="written outside of an optimiser's step"):
            step(model, optimizer)
        assert back(model, ticket) == 0
        optimizer.zero_grad()
        backward(model)
        assert not any(bool(p.grad[p.detach() == 0].any()) for p in (model[0].weight, model[2].weight)), "hooked, too"
    with pytest.warns(UserWarning, match="written outside"), ticket.kept(optimizer):
        how(model, optimizer)
    assert back(model, ticket) == 0, "also without a step since"


def test_masked_weights_put_in_are_no_news(ticket: Ticket, model: nn.Sequential) -> None:
    """A checkpoint of the same training: zeros where the masks are."""
    optimizer, kept = sgd(model), copy.deepcopy(model.state_dict())
    with ticket.kept(optimizer):
        step(model, optimizer)
        model.load_state_dict(kept)
        step(model, optimizer)
        model.load_state_dict(copy.deepcopy(kept), assign=True)
        optimizer.param_groups[0]["params"] = list(model.parameters())
        step(model, optimizer)
    assert back(model, ticket) == 0


def test_a_parameter_that_goes_away_is_refused(ticket: Ticket, model: nn.Sequential) -> None:
    optimizer = sgd(model)
    keeper = ticket.kept(optimizer)
    keeper.__enter__()
    nn.utils.parametrizations.weight_norm(model[2])
    with pytest.raises(InputError, match=r"no longer has the parameters 2\.weight"):
        step(model, optimizer)
    with pytest.raises(InputError, match=r"no longer has the parameters 2\.weight"):
        keeper.__exit__(None, None, None)
    other = network(1)
    ticket.put_into(other)
    with pytest.raises(InputError, match=r"0\.weight"), ticket.kept(sgd(other)):
        other[0] = nn.Linear(6, 13)
    assert not optimizers._global_optimizer_pre_hooks


# -- what a loop sees --------------------------------------------------------------------------------------------------
def test_a_loop_sees_masked_gradients(ticket: Ticket, model: nn.Sequential) -> None:
    """Between backward and step, so that a clipped norm is that of the smaller network."""
    optimizer = sgd(model)
    backward(model)
    raw = {name: model.get_parameter(name).grad.clone() for name in ticket.masks}
    rest = [p.grad for n, p in model.named_parameters() if n not in ticket.masks]
    expected = torch.stack([g.norm() for g in [*(raw[n] * m for n, m in ticket.masks.items()), *rest]]).norm()
    with ticket.kept(optimizer):
        optimizer.zero_grad()
        backward(model)
        for name, mask in ticket.masks.items():
            assert torch.equal(model.get_parameter(name).grad, raw[name] * mask)
        assert clip_grad_norm_(model.parameters(), 1e-3) == pytest.approx(float(expected), rel=1e-6)
        optimizer.step()


def test_an_infinite_gradient_of_a_masked_weight_does_no_harm(ticket: Ticket, model: nn.Sequential) -> None:
    optimizer = sgd(model)
    with ticket.kept(optimizer):
        backward(model)
        model[0].weight.grad[~ticket.masks["0.weight"]] = float("inf")
        optimizer.step()
    assert model[0].weight.isfinite().all()
    assert back(model, ticket) == 0


def test_sparse_gradients_are_masked() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.fc = nn.Embedding(7, 5, sparse=True), nn.Linear(5, 2)

        def forward(self, words: Tensor) -> Tensor:
            return self.fc(self.words(words).mean(1))

    model = Words()
    mask = torch.arange(35).view(7, 5) % 3 == 0
    Ticket(Masks({"words.weight": mask}), {"words.weight": torch.ones(7, 5)}).put_into(model, model_head="fc")
    ticket = Ticket(Masks({"words.weight": mask}), {"words.weight": torch.ones(7, 5)})
    ticket.put_into(model, model_head="fc")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ticket.kept(optimizer):
        model(torch.tensor([[0, 1], [2, 3]])).sum().backward()
        assert model.words.weight.grad is not None
        assert model.words.weight.grad.is_sparse
        assert not model.words.weight.grad.to_dense()[~mask].any()
        assert model.words.weight.grad.to_dense().any()
        optimizer.step()
    assert not model.words.weight[~mask].any()


def test_nothing_is_left_behind(ticket: Ticket, model: nn.Sequential) -> None:
    optimizer = sgd(model)
    with pytest.raises(RuntimeError, match="of the caller"), ticket.kept(optimizer):
        raise RuntimeError("of the caller")
    step(model, optimizer)
    assert back(model, ticket) > 0
    assert not optimizers._global_optimizer_pre_hooks
    assert not optimizers._global_optimizer_post_hooks
    assert not model[0].weight._post_accumulate_grad_hooks


def test_copies_made_inside_are_plain(ticket: Ticket, model: nn.Sequential) -> None:
    optimizer = sgd(model)
    with ticket.kept(optimizer):
        step(model, optimizer)
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), AveragedModel(model).module]
        for other in copies:
            step(other, sgd(other))
            assert back(other, ticket) > 0, "a copy is trained as it is"
        assert back(model, ticket) == 0
        assert copy.deepcopy(optimizer).state_dict().keys() == optimizer.state_dict().keys()


def test_other_models_are_left_alone(ticket: Ticket, model: nn.Sequential) -> None:
    """Also one made like it, trained beside it by an optimiser of its own."""
    twin = network(1)
    with ticket.kept(sgd(model)):
        optimizer = sgd(twin)
        for _ in range(3):
            step(twin, optimizer)
    assert all(bool(parameter.all()) for parameter in twin.parameters())


def test_compiled_and_parallel_models_are_kept(ticket: Ticket) -> None:
    for wrap in (lambda m: torch.compile(m, backend="eager"), nn.DataParallel):
        inner = network(1)
        model = wrap(inner)
        ticket.put_into(model)
        optimizer = sgd(inner)
        with ticket.kept(optimizer, model=model):
            step(model, optimizer)
        with ticket.kept(optimizer, model=inner):
            step(model, optimizer)
        assert back(inner, ticket) == 0


# -- what can't be kept is told, or refused --------------------------------------------------------------------------
def test_a_keeper_that_was_never_entered_says_so(ticket: Ticket, model: nn.Sequential) -> None:
    with pytest.warns(UserWarning, match="was never entered") as told:
        ticket.kept(sgd(model))
    assert told[0].filename == __file__
    with pytest.raises(InputError):  # and nothing of a keeper that could not be made
        ticket.kept(sgd(network()))
    keeper = ticket.kept(sgd(model))
    with keeper:
        pass
    del keeper
    gc.collect()


def test_a_context_serves_again_but_not_twice_at_once(ticket: Ticket, model: nn.Sequential) -> None:
    optimizer = sgd(model)
    keeper = ticket.kept(optimizer)
    for _ in range(2):
        with keeper:
            step(model, optimizer)
    with pytest.raises(InputError, match="entered twice"), keeper, keeper:
        pass
    step(model, optimizer)
    with pytest.raises(InputError, match=r"masked weights of 0\.weight, 2\.weight are not zero"), keeper:
        pass


def test_a_model_that_has_drifted_is_refused(ticket: Ticket, model: nn.Sequential) -> None:
    optimizer = sgd(model)
    step(model, optimizer)
    for asked in (None, model):
        with pytest.raises(InputError, match="does not carry this ticket"):
            ticket.kept(optimizer, model=asked)


@pytest.mark.parametrize("density", [0.3, 0.1], ids=["another", "a part of the first"])
def test_a_model_with_another_ticket_is_refused(density: float, ticket: Ticket, model: nn.Sequential) -> None:
    """Also where the other keeps only weights that this one keeps, so that all that this one masks is zero."""
    other = ticket_of(network(), density, seed=4 if density == 0.3 else 3)
    other.put_into(model)
    with pytest.raises(InputError, match="another ticket was put into"):
        ticket.kept(sgd(model))
    with pytest.raises(InputError, match=r"another ticket|not zero"):
        ticket.kept(sgd(model), model=model)
    with other.kept(sgd(model)):
        pass
    ticket.put_into(model)
    with ticket.kept(sgd(model)):
        pass


def test_an_equal_ticket_keeps_as_well(ticket: Ticket, model: nn.Sequential) -> None:
    copy.deepcopy(ticket).put_into(model)
    with ticket.kept(sgd(model), model=model):
        pass


def test_what_is_no_optimizer_is_refused(ticket: Ticket, model: nn.Sequential) -> None:
    with pytest.raises(InputError, match="optimizer is a list"):
        ticket.kept(list(model.parameters()))  # type: ignore[arg-type]


class Average:
    """An average as people write them: a copy, and a line after each step."""

    def __init__(self, model: nn.Module) -> None:
        self.copy = copy.deepcopy(model).requires_grad_(False)

    def update(self, model: nn.Module) -> None:
        for mean, parameter in zip(self.copy.parameters(), model.parameters(), strict=True):
            mean.data.mul_(0.9).add_(parameter.data, alpha=0.1)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, update: Callable[[nn.Module], object]) -> None:
    for _ in range(6):
        step(model, optimizer)
        update(model)


def of_torch(model: nn.Module) -> AveragedModel:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    return average


def test_an_average_made_before_the_ticket_is_told(ticket: Ticket) -> None:
    for kind in ("own", "torch"):
        model = network(1)
        own, torchs = Average(model), of_torch(model)
        update = own.update if kind == "own" else torchs.update_parameters
        ticket.put_into(model)
        optimizer = sgd(model)
        with pytest.warns(UserWarning, match="as an average") as told, ticket.kept(optimizer):
            train(model, optimizer, update)
        assert len(told) == 1, "once"


def test_an_average_made_after_the_ticket_is_masked(ticket: Ticket, model: nn.Sequential) -> None:
    own, torchs = Average(model), of_torch(model)
    early = network(1)  # the initial weights, kept
    optimizer = sgd(model)
    with ticket.kept(optimizer):
        train(model, optimizer, own.update)
        train(model, optimizer, torchs.update_parameters)
    assert back(own.copy, ticket) == back(torchs.module, ticket) == 0
    assert back(early, ticket) > 0


SPECIAL = {"LBFGS", "SparseAdam", "Optimizer"}
OPTIMIZERS = sorted(
    name for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in SPECIAL
)  # fmt: skip


@pytest.mark.parametrize("name", [*OPTIMIZERS, "Adam-fused", "SGD-fused", "AdamW-foreach", "SGD-foreach"])
def test_every_optimizer_of_torch_keeps_masks(name: str, ticket: Ticket) -> None:
    """With a memory that a dense training filled, weight decay where it has one, and both ways to call ``step``."""
    kind, _, way = name.partition("-")
    model = network(1)
    options: dict[str, object] = {way: True} if way else {}
    decays = "weight_decay" in getattr(torch.optim, kind).__init__.__annotations__
    parameters = [p for p in model.parameters() if p.dim() == 2]  # what all of them take
    optimizer = getattr(torch.optim, kind)(parameters, lr=0.01, **options, **({"weight_decay": 0.1} if decays else {}))
    for _ in range(2):
        step(model, optimizer)
    ticket.put_into(model)
    with ticket.kept(optimizer):
        for _ in range(3):
            step(model, optimizer)
            assert back(model, ticket) == 0
        optimizer.step(lambda: backward(model))
    assert back(model, ticket) == 0
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
