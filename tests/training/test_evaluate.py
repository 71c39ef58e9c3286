"""Evaluation: every sample counts once, and the network is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneticket.data import ImageSet, Normalisation, TensorBatches
from oneticket.errors import InputError
from oneticket.training import evaluate

MakeNetwork = Callable[..., nn.Sequential]


class Echo(nn.Module):
    """Its inputs are its logits."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits


@pytest.mark.parametrize("samples", [1, 511, 512, 513, 1030])
def test_every_sample_counts_once(samples: int) -> None:
    """Also those of a last batch that is not full."""
    generator = torch.Generator().manual_seed(samples)
    logits = torch.randn(samples, 4, generator=generator)
    targets = torch.randint(4, (samples,), generator=generator)
    right = sum(row.index(max(row)) == target for row, target in zip(logits.tolist(), targets.tolist(), strict=True))
    losses = -logits.double().log_softmax(1)[torch.arange(samples), targets]
    accuracy, loss = evaluate(Echo(), (logits, targets))
    assert accuracy == right / samples
    assert loss == pytest.approx(float(losses.mean()), rel=1e-5)


def test_only_the_last_sample_is_right() -> None:
    """One of 513: an evaluation that drops the last batch says 0."""
    logits = torch.zeros(513, 2)
    logits[:, 0], logits[-1, 1] = 1.0, 2.0
    assert evaluate(Echo(), (logits, torch.ones(513, dtype=torch.int64)))[0] == 1 / 513


@pytest.mark.parametrize("batch_size", [1, 7, 22, 100])
def test_the_batch_size_does_not_matter(batch_size: int, network: MakeNetwork, data: Any) -> None:
    expected = evaluate(network(), data)
    accuracy, loss = evaluate(network(), data, batch_size=batch_size)
    assert accuracy == expected[0]
    assert loss == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training: bool, network: MakeNetwork, data: Any) -> None:
    model = network(dropout=0.5).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    first, second = evaluate(model, data), evaluate(model, data)
    assert first == second, "no dropout"
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_it_is_in_evaluation_mode(network: MakeNetwork, data: Any) -> None:
    """Batch statistics would give other logits than the running ones of a network that has hardly run."""
    model = network().eval()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(data[0]), data[1]).item()
    assert evaluate(model.train(), data)[1] == pytest.approx(loss, rel=1e-5)


def test_images_need_the_normalisation_of_what_was_trained_on() -> None:
    images = ImageSet(torch.full((4, 1, 1, 1), 51, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    nn.init.constant_(model[1].weight[:1].data, 1.0)
    nn.init.zeros_(model[1].weight[1:].data)
    with pytest.raises(InputError, match="an ImageSet without a normalisation"):
        evaluate(model, images)
    _, loss = evaluate(model, images, normalisation=Normalisation((0.1,), (0.5,)))
    logits = torch.tensor([[(51 / 255 - 0.1) / 0.5, 0.0]]).expand(4, -1)
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, images.labels).item(), rel=1e-5)


def test_nothing_to_evaluate_on_is_refused() -> None:
    empty = TensorBatches(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 8)
    with pytest.raises(InputError, match="the split is empty"):
        evaluate(Echo(), empty)


def test_a_frozen_part_stays_frozen() -> None:
    """A submodule in evaluation mode inside a network in training mode, also when the network fails."""
    network = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    network[0].eval()
    evaluate(network, (torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)))
    assert [module.training for module in network.modules()] == [True, False, True, True]
    with pytest.raises(RuntimeError):
        evaluate(network, (torch.randn(8, 5), torch.zeros(8, dtype=torch.int64)))
    assert [module.training for module in network.modules()] == [True, False, True, True]


def test_a_network_that_writes_into_its_inputs_does_not_reach_the_data() -> None:
    inputs, targets = torch.randn(12, 4), torch.arange(12) % 4
    before = inputs.clone()
    evaluate(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), (inputs, targets), batch_size=5)
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("index", [None, torch.tensor([5, 5, 0, 11, 3, 7, 2])])
def test_images_come_in_order_whether_they_are_taken_as_they_lie_or_by_index(index: torch.Tensor | None) -> None:
    pixels = torch.randint(0, 256, (12, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shown = pixels if index is None else pixels[index]
    labels = torch.arange(len(shown)) % 2
    seen: list[Tensor] = []

    class Watch(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.clone())
            return images.mean((2, 3))[:, :2]

    norm = Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    evaluate(Watch(), ImageSet(pixels, labels, ("a", "b"), index), normalisation=norm, batch_size=5)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (norm.mean, norm.std))
    torch.testing.assert_close(torch.cat(seen), (shown / 255 - mean) / std)


def test_channels_last_changes_rounding_only() -> None:
    images = torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4)).double()
    laid_out: list[bool] = []
    network[0].register_forward_pre_hook(
        lambda _, given: laid_out.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    data = (images, torch.arange(9) % 4)
    plain, fast = (evaluate(network, data, batch_size=4, channels_last=last) for last in (False, True))
    assert laid_out == [False] * 3 + [True] * 3
    assert fast[0] == plain[0]
    assert fast[1] == pytest.approx(plain[1], rel=1e-5)
    flat = (torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), data[1])
    assert evaluate(Echo(), flat, channels_last=True) == evaluate(Echo(), flat)
