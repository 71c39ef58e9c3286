"""Training compactly, whatever the network: the same result, nothing fails that worked, and nothing is left behind."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import NonFiniteLoss
from oneticket.kernels.sparse import building
from oneticket.kernels.trial import Layout
from oneticket.masks import Masks
from oneticket.randomness import seeded
from oneticket.training import Checkpoint, EpochRecord, OnEpoch, Recipe, Runtime, Training, state, train
from oneticket.training import compact as compact_package
from oneticket.training.compact import sparse
from oneticket.training.compact.channels import shrink

RECIPE = Recipe.sgd(epochs=2, batch_size=8, lr=0.05, weight_decay=0.01)
NUMBERS, IMAGES = (12,), (3, 8, 8)


@pytest.fixture(autouse=True, params=["kernels in C", "products of CSR"])
def found(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Any]:
    """The compact networks of all trainings, in which all that can be removed is, however little that pays."""
    if request.param == "kernels in C" and not building.available():
        pytest.skip("no C compiler")
    monkeypatch.setattr(building, "available", lambda: request.param == "kernels in C")
    monkeypatch.setattr(compact_package, "sparsify", lambda *given: sparse.sparsify(*given[:3], compute="sparse"))
    compact_models: list[Any] = []
    make = state.compacted

    def noted(*arguments: Any) -> Any:
        compact_models.append(make(*arguments))
        return compact_models[-1]

    monkeypatch.setattr(sparse, "WORTH", float("inf"))
    monkeypatch.setattr(compact_package, "shrink", partial(shrink, worth=0.0))
    monkeypatch.setattr(state, "compacted", noted)
    return compact_models


def data(shape: tuple[int, ...], count: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64), torch.arange(count) % 4


def masks_of(network: nn.Module, *but: str) -> Masks:
    """40 % of each matrix and kernel; hidden channel 1 is read by none."""
    generator, masks = torch.Generator().manual_seed(4), {}
    for name, weight in network.named_parameters():
        if weight.dim() >= 2:
            masks[name] = torch.rand(weight.shape, generator=generator) < 0.4
            if weight.shape[1] == 8 and name not in but:
                masks[name][:, 1] = False
    return Masks(masks)


def tensors(network: nn.Module) -> dict[str, Tensor]:
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def compare(actual: nn.Module, expected: nn.Module) -> None:
    mine, wanted = tensors(actual), tensors(expected)
    assert mine.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-9, msg=name)
    assert [m.training for m in actual.modules()] == [m.training for m in expected.modules()]


def both(
    make: Callable[[], nn.Module], shape: tuple[int, ...] = NUMBERS, *, layout: Layout = "contiguous", **options: Any
) -> list[nn.Module]:
    """The same training, compactly and not, must come to the same."""
    networks = []
    for compact in (True, False):
        with seeded(1):
            network = make().double()
        options = {"masks": masks_of(network)} | options
        train(network, data(shape), RECIPE, seed=2, runtime=Runtime(compact=compact, layout=layout), **options)
        networks.append(network)
    compare(*networks)
    return networks


# -- random numbers --------------------------------------------------------------------------------------------------
def convolutions(channels: int = 3) -> nn.Sequential:
    layers = [nn.Conv2d(channels, 8, 3, padding=1), nn.Dropout(0.2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    layers += [nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(8, 4))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_dropout_drops_the_same_of_images(channels: int, channels_last: bool, found: list[Any]) -> None:
    but = ("3.weight", "10.weight")  # these read what was dropped of: the number of those channels matters
    with seeded(1):
        masks = masks_of(convolutions(channels), *but)
    both(
        partial(convolutions, channels),
        (channels, 8, 8),
        masks=masks,
        layout="channels-last" if channels_last else "contiguous",
    )
    assert len(found[0].sparse) == 4
    assert found[0].removed == 1


def test_dropout_drops_the_same_of_numbers(found: list[Any]) -> None:
    both(lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)))
    assert len(found[0].sparse) == 2


def test_the_random_numbers_of_others_go_on() -> None:
    class Random(Body):
        def forward(self, x: Tensor) -> Tensor:
            factor = random.random() + float(np.random.random()) + float(torch.rand(())) if self.training else 1.0
            return self.c(torch.relu(self.b(torch.relu(self.a(x * factor)))))

    def numbers() -> tuple[float, ...]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    after = []
    for compact in (True, False):
        random.seed(5)
        np.random.seed(5)
        with seeded(5):
            network = Random().double()
            train(network, data(NUMBERS), RECIPE, masks=masks_of(network), runtime=Runtime(compact=compact))
            after.append((numbers(), network))
    assert after[0][0] == after[1][0]
    compare(after[0][1], after[1][1])


# -- networks of all kinds -------------------------------------------------------------------------------------------
class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class Hooked(Body):
    """A hook hands on what a layer says, and the network has been run before."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, Tensor] = {}
        self.b.register_forward_hook(lambda _, __, output: self.said.__setitem__("b", output))

    def double(self) -> Hooked:
        super().double()
        with torch.no_grad():
            self(torch.zeros(2, 12, dtype=torch.float64))
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.b(torch.relu(self.a(x)))
        return self.c(torch.relu(self.said["b"]))


class HookedParameter(Body):
    def double(self) -> HookedParameter:
        super().double()
        self.a.bias.register_hook(lambda gradient: gradient * 0)
        return self


class Closed(Body):
    """A function that was made here speaks of these parameters, and of those of no copy."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.say = lambda x: torch.relu(x) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.say(self.b(self.say(self.a(x)))))


class Listed(Body):
    """Layers are called by way of a list, which is no list of modules; masked weights are zero already."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [self.a, self.b]
        masks = masks_of(self)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                weight.mul_(masks.get(name, torch.tensor(1)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.c(x)


class TwoNames(Body):
    def __init__(self) -> None:
        super().__init__()
        self.d = self.b

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.d(torch.relu(self.b(torch.relu(self.a(x)))))))


class Counting(Body):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return super().forward(x) * (1 + 1 / self.count)


class Remembering(Body):
    """Buffers that evaluation changes as well, one of them in no state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean())
        return super().forward(x + self.mean if self.training else x)


class Growing(Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > 2:
            self.seen = torch.cat([self.seen, x.detach()[:, 0]])
        return super().forward(x)


class Noted(Body):
    """A plain layer with a buffer of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a.register_buffer("importance", torch.ones(3))


class DropConnect(Body):
    """Reads a weight by itself, in training only."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, F.dropout(self.a.weight, 0.2)) if self.training else self.a(x)
        return self.c(torch.relu(self.b(torch.relu(x))))


class FromZero(Body):
    """A number of channels is in the code of what lies before a head that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.c.weight)
        nn.init.zeros_(self.c.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.c(x * (x.shape[1] / 8))


class One(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> One:
        return self


class Single(Body):
    """A part of which there is only one."""

    def __init__(self) -> None:
        super().__init__()
        self.b = One(8, 8)


class Renaming(Body):
    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        state = super().state_dict(*arguments, **options)
        return {name.replace("a.", "first."): tensor for name, tensor in state.items()}


class Judging(Body):
    def train(self, mode: bool = True) -> Judging:
        super().train(mode)
        self.b.eval()
        return self


AS_IT_IS = (Hooked, HookedParameter, Closed, Listed, TwoNames, Counting, DropConnect, Single, Renaming)
REPLACED = (Body, Remembering, Growing, Noted, FromZero, Judging)


@pytest.mark.parametrize("kind", AS_IT_IS)
def test_a_network_for_which_none_can_stand_in_is_trained_as_it_is(kind: type[Body], found: list[Any]) -> None:
    trained = both(kind)
    assert getattr(trained[0], "count", None) == getattr(trained[1], "count", None)
    assert found[0].model is trained[0]


@pytest.mark.parametrize("kind", REPLACED)
def test_another_comes_back_as_it_would_have(kind: type[Body], found: list[Any]) -> None:
    trained = both(kind, snapshots=("1ep",))
    assert found[0].model is not trained[0]
    assert found[0].sparse


def test_the_network_itself_is_never_run_and_its_parameters_stay() -> None:
    runs = []

    class Watched(Body):
        def forward(self, x: Tensor) -> Tensor:
            runs.append(id(self))
            return super().forward(x)

    network = Watched().double()
    before = list(network.parameters())
    train(network, data(NUMBERS), RECIPE, masks=masks_of(network))
    assert id(network) not in runs
    assert all(mine is other for mine, other in zip(network.parameters(), before, strict=True))


def test_data_that_only_trains_is_enough() -> None:
    class Source:
        batch_size, samples, steps_per_epoch = 30, 30, 1

        def epoch(self, order: torch.Generator, _: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            samples = torch.randperm(30, generator=order)
            yield tuple(part[samples] for part in data(NUMBERS))  # type: ignore[misc]

        def ordered(self) -> Iterator[tuple[Tensor, Tensor]]:
            raise NotImplementedError

    network = Body().double()
    assert train(network, Source(), RECIPE, masks=masks_of(network)).steps == 2


# -- what is seen from outside while it trains ---------------------------------------------------------------------
def trained(
    compact: bool,
    network: nn.Module | None = None,
    recipe: Recipe = RECIPE,
    *,
    checkpoint: Checkpoint | None = None,
    **options: Any,
) -> Training:
    network = network or fresh()
    return train(
        network,
        data(NUMBERS),
        recipe,
        masks=masks_of(network),
        seed=2,
        runtime=Runtime(compact=compact, checkpoint=checkpoint),
        **options,
    )


def fresh() -> nn.Module:
    with seeded(1):
        return Body().double().eval()


def test_whoever_is_told_of_an_epoch_sees_the_network_of_that_epoch() -> None:
    seen: dict[bool, list[nn.Module]] = {True: [], False: []}
    for compact, copies in seen.items():
        network = fresh()
        trained(compact, network, callbacks=[OnEpoch(lambda _, n=network, c=copies: c.append(copy.deepcopy(n)))])
    for mine, other in zip(*seen.values(), strict=True):
        compare(mine, other)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, NonFiniteLoss])
def test_a_training_that_ends_early_leaves_the_network_as_far_as_it_got(error: type[BaseException]) -> None:
    def stop(_: EpochRecord) -> None:
        raise error

    networks, recipe = [fresh(), fresh()], RECIPE
    if error is NonFiniteLoss:
        recipe = Recipe.sgd(epochs=2, batch_size=8, lr=1e200)
    for network, compact in zip(networks, (True, False), strict=True):
        with pytest.raises(error):
            trained(compact, network, recipe, callbacks=[OnEpoch(stop)])
    if error is NonFiniteLoss:
        assert not any(bool(network.get_parameter("a.weight").isfinite().all()) for network in networks)
    else:
        compare(*networks)
        assert not torch.equal(tensors(networks[0])["a.weight"], tensors(fresh())["a.weight"])


@pytest.mark.parametrize("first", [True, False])
def test_what_was_begun_one_way_goes_on_the_other_way(first: bool, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(_: EpochRecord) -> None:
        raise Killed

    whole, parts, place = fresh(), fresh(), tmp_path / "checkpoint.pt"
    trained(first, whole)
    with pytest.raises(Killed):
        trained(first, checkpoint=Checkpoint(place, every=0), callbacks=[OnEpoch(kill)])
    assert trained(not first, parts, checkpoint=Checkpoint(place)).resumed_at == 4
    compare(parts, whole)
