"""The keeper: masked weights are exactly 0.0 after every step of any optimiser, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.masks import Masks
from oneticket.training import MaskKeeper

Data = tuple[Tensor, Tensor]
MakeNetwork = Callable[..., nn.Sequential]

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd-foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1, amsgrad=True),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, weight_decay=0.1, initial_accumulator_value=0.1),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.3, max_iter=3, history_size=3),
}


class Run:
    """A network under an optimiser, stepped by hand."""

    def __init__(self, model: nn.Sequential, optimizer: torch.optim.Optimizer, data: Data, masks: Masks) -> None:
        self.model, (self.inputs, self.targets) = model, data
        self.optimizer = optimizer
        parameters = dict(model.named_parameters())
        self.pairs = [(parameters[name], mask) for name, mask in masks.items()]

    def loss(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.inputs), self.targets)
        loss.backward()
        return loss

    def step(self, closure: bool = True) -> None:
        if closure:
            self.optimizer.step(self.loss)
        else:
            self.loss()
            self.optimizer.step()

    def masked(self) -> Tensor:
        return torch.cat([weight.detach()[~mask] for weight, mask in self.pairs])


@pytest.fixture
def make_run(network: MakeNetwork, data: Data, masks: Masks) -> Callable[[str], Run]:
    def make(optimizer: str) -> Run:
        model = network()
        return Run(model, OPTIMIZERS[optimizer](list(model.parameters())), data, masks)

    return make


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masked_weights_are_exactly_zero_after_each_step(optimizer: str, make_run: Callable[[str], Run]) -> None:
    run = make_run(optimizer)
    for _ in range(2):  # momentum gathered by a dense training
        run.step()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    assert run.masked().abs().min() > 0
    with MaskKeeper(run.optimizer, run.pairs):
        assert torch.count_nonzero(run.masked()) == 0, "before the first step"
        for step in range(4):
            run.step()
            assert torch.count_nonzero(run.masked()) == 0, f"after step {step}"
    for name, parameter in run.model.named_parameters():
        assert parameter.isfinite().all()
        assert (parameter.detach() != before[name]).any(), f"{name} is trained"


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS.keys() - {"lbfgs"}))
def test_what_the_optimiser_remembers_of_masked_weights_is_zero(
    optimizer: str, closure: bool, make_run: Callable[[str], Run]
) -> None:
    """Also where the gradients come from a closure, which the optimiser calls inside its step."""
    run = make_run(optimizer)
    for _ in range(2):
        run.step()
    with MaskKeeper(run.optimizer, run.pairs):
        for _ in range(3):
            for weight, mask in run.pairs:
                memory = [v for v in run.optimizer.state[weight].values() if v is not None and v.shape == mask.shape]
                assert memory, "the optimiser remembers something of each weight"
                assert all(torch.count_nonzero(value[~mask]) == 0 for value in memory)
                assert any(torch.count_nonzero(value[mask]) for value in memory)
            run.step(closure)


def test_without_the_keeper_they_come_back(make_run: Callable[[str], Run]) -> None:
    """What the other tests assert is not so by itself."""
    run = make_run("sgd")
    with torch.no_grad():
        for weight, mask in run.pairs:
            weight.mul_(mask)
    run.step()
    assert torch.count_nonzero(run.masked()) == run.masked().numel()


def test_gradients_of_kept_weights_are_untouched(make_run: Callable[[str], Run], masks: Masks) -> None:
    run = make_run("sgd")
    seen: dict[str, Tensor] = {}
    with MaskKeeper(run.optimizer, run.pairs):
        run.loss()
        raw = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}

        def look(*_: object) -> None:
            seen.update({name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None})

        handle = run.optimizer.register_step_pre_hook(look)  # runs after the keeper's
        run.optimizer.step()
        handle.remove()
    assert raw.keys() == seen.keys()
    for name, gradient in raw.items():
        kept = masks.get(name, torch.ones_like(gradient, dtype=torch.bool))
        assert torch.equal(seen[name][kept], gradient[kept])
        assert torch.count_nonzero(seen[name][~kept]) == 0
    assert torch.count_nonzero(raw["0.weight"][~masks["0.weight"]]), "there was something to mask"


def test_kept_weights_move_as_in_a_network_without_the_masked_ones(make_run: Callable[[str], Run]) -> None:
    """A masked network is the smaller network: the same steps as with masks multiplied in before every forward pass."""
    kept, multiplied = make_run("sgd"), make_run("sgd")
    with MaskKeeper(kept.optimizer, kept.pairs):
        for _ in range(4):
            kept.step()
    for _ in range(4):
        with torch.no_grad():
            for weight, mask in multiplied.pairs:
                weight.mul_(mask)
        multiplied.step()
    for (weight, mask), (other, _) in zip(kept.pairs, multiplied.pairs, strict=True):
        torch.testing.assert_close(weight[mask], other[mask], rtol=0, atol=0)


def test_hooks_are_gone_afterwards_also_after_an_error(make_run: Callable[[str], Run]) -> None:
    run = make_run("sgd")
    with pytest.raises(RuntimeError, match="of the caller"), MaskKeeper(run.optimizer, run.pairs):
        raise RuntimeError("of the caller")
    assert not run.optimizer._optimizer_step_pre_hooks
    assert not run.optimizer._optimizer_step_post_hooks
    run.step()
    assert torch.count_nonzero(run.masked()), "free again"


def test_parameters_without_a_gradient_do_no_harm(network: MakeNetwork, masks: Masks) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with MaskKeeper(optimizer, [(model[0].weight, masks["0.weight"])]):
        optimizer.step()
    assert torch.count_nonzero(model[0].weight.detach()[~masks["0.weight"]]) == 0


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_still_gives_its_loss(by_name: bool, make_run: Callable[[str], Run]) -> None:
    run = make_run("lbfgs")
    with MaskKeeper(run.optimizer, run.pairs):
        expected = F.cross_entropy(run.model(run.inputs), run.targets).item()
        loss = run.optimizer.step(closure=run.loss) if by_name else run.optimizer.step(run.loss)
    assert loss.item() == pytest.approx(expected)


def test_lbfgs_never_leaves_the_masked_space(make_run: Callable[[str], Run]) -> None:
    """It evaluates several points inside one step; at each of them masked weights are zero."""
    run = make_run("lbfgs")
    inside: list[int] = []

    def closure() -> Tensor:
        inside.append(int(torch.count_nonzero(run.masked())))
        return run.loss()

    with MaskKeeper(run.optimizer, run.pairs):
        run.optimizer.step(closure)
    assert len(inside) >= 3
    assert set(inside) == {0}


def test_nothing_masked_is_nothing_done(make_run: Callable[[str], Run]) -> None:
    free, kept = make_run("adam"), make_run("adam")
    free.step()
    with MaskKeeper(kept.optimizer, []):
        kept.step()
    for ours, theirs in zip(free.model.parameters(), kept.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# -- undisturbed ----------------------------------------------------------------------------------------------------
LEAVING: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1, fused=True),
    "sgd-dampened": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.1, foreach=True),
    "sgd-single": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1, fused=True),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1, amsgrad=True, foreach=True),
    "adam-single": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1, foreach=True),
    "rmsprop-centered": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, weight_decay=0.1, foreach=False),
}


def bits(tensor: Tensor) -> Tensor:
    """Tells −0.0 from 0.0, which compare equal."""
    return tensor.detach().view(torch.int32)


@pytest.mark.parametrize("optimizer", LEAVING)
def test_undisturbed_they_stay_zero_for_200_steps_and_all_bits_are_those_of_masking_again(
    optimizer: str, network: MakeNetwork, data: Data, masks: Masks
) -> None:
    """With momentum, weight decay and a memory that a dense training filled."""
    runs = []
    for undisturbed in (True, False):
        model = network()
        run = Run(model, LEAVING[optimizer](list(model.parameters())), data, masks)
        for _ in range(3):
            run.step(False)
        assert run.masked().abs().min() > 0
        nonzero = torch.zeros(())
        with MaskKeeper(run.optimizer, run.pairs, undisturbed=undisturbed):
            for _ in range(200):
                run.step(False)
                nonzero += torch.count_nonzero(run.masked())
        assert nonzero == 0
        runs.append(run)
    one, two = runs
    assert torch.signbit(one.masked()).any(), "a masked weight that was negative is −0.0"
    for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(bits(ours), bits(theirs))
        for quantity, value in one.optimizer.state[ours].items():
            other = two.optimizer.state[theirs][quantity]
            assert value is other is None or torch.equal(bits(value), bits(other)), quantity


class OwnSGD(torch.optim.SGD):
    """Nothing is known of what a subclass does."""


@pytest.mark.parametrize(
    ("undisturbed", "kind", "masked_again"),
    [
        (False, torch.optim.SGD, True),
        (True, torch.optim.SGD, False),
        (True, OwnSGD, True),
        (True, torch.optim.Adagrad, True),
    ],
)
def test_weights_are_masked_again_unless_nobody_else_writes_them(
    undisturbed: bool, kind: type[torch.optim.Optimizer], masked_again: bool, network: MakeNetwork, masks: Masks
) -> None:
    """Seen by a weight that is written between two steps, which is what the keeper was told not to expect."""
    model = network()
    optimizer = kind(model.parameters(), lr=0.1)  # type: ignore[call-arg]
    weight, mask = model[0].weight, masks["0.weight"]
    with MaskKeeper(optimizer, [(weight, mask)], undisturbed=undisturbed):
        with torch.no_grad():
            weight.fill_(1.0)
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        assert bool((weight.detach()[~mask] == 0).all()) is masked_again
