"""The methods that need nothing of their own: two that are plain training, and the linear probe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.masks import Masks
from oneticket.methods import METHODS, MethodContext, callback_of
from oneticket.methods.base import MethodFacts
from oneticket.prunable import Prunable
from oneticket.training import Callback, Recipe, train

Small = Callable[..., nn.Sequential]
RECIPE = Recipe.sgd(epochs=3, batch_size=4, weight_decay=0.1)


def callback(name: str) -> Callback:
    return callback_of(name, MethodContext(0.5, "5", RECIPE), {})


@pytest.mark.parametrize("name", ["train", "fine-tune", "lr-rewind"])
def test_is_the_loop_and_nothing_else(name: str, small: Small, samples: tuple[Tensor, Tensor]) -> None:
    """Rate and start are facts, read by whoever starts the training."""
    plain, ours = small(), small()
    train(plain, samples, RECIPE)
    train(ours, samples, RECIPE, callbacks=[callback(name)])
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in plain.state_dict().items())


def test_the_facts_that_tell_them_apart() -> None:
    facts = {name: METHODS.entry(name).facts for name in ("train", "fine-tune", "lr-rewind", "linear-probe")}
    plain = MethodFacts()
    assert facts == {
        "train": plain,
        "fine-tune": MethodFacts(lr="last"),
        "lr-rewind": MethodFacts(start="rewind"),
        "linear-probe": plain,
    }


def test_a_linear_probe_is_the_head_trained_on_fixed_features(small: Small, samples: tuple[Tensor, Tensor]) -> None:
    """Against the head alone, trained on what the rest of the network gives in evaluation mode."""
    model, untouched = small(), small()
    train(model, samples, RECIPE, callbacks=[callback("linear-probe")], validation=samples)
    for name, value in untouched.state_dict().items():
        assert torch.equal(model.state_dict()[name], value) != name.startswith("5."), name

    with torch.no_grad():
        features = untouched.eval()[:5](samples[0])
    alone = nn.Sequential(untouched[5])
    train(alone, (features, samples[1]), RECIPE)
    torch.testing.assert_close(model[5].weight, untouched[5].weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model[5].bias, untouched[5].bias, rtol=1e-9, atol=1e-12)


def test_a_linear_probe_uses_neither_dropout_nor_batch_statistics(samples: tuple[Tensor, Tensor]) -> None:
    inputs, targets = samples
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    model[2].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone()))
    probe = callback_of("linear-probe", MethodContext(0.5, "2", RECIPE), {})
    train(model, (inputs, targets), Recipe.sgd(epochs=2, batch_size=8), callbacks=[probe])
    for batch in seen:
        rows = {tuple(row) for row in (batch * (1 + 1e-5) ** 0.5).round(decimals=9).tolist()}
        assert rows == {tuple(row) for row in inputs.round(decimals=9).tolist()}
    assert model[1].num_batches_tracked == 0


def test_a_linear_probe_keeps_masks_and_leaves_every_parameter_as_trainable_as_it_was(
    small: Small, samples: tuple[Tensor, Tensor]
) -> None:
    model = small()
    model.get_parameter("1.bias").requires_grad_(False)
    model.get_parameter("5.bias").requires_grad_(False)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}
    masks = Masks({n: torch.rand(w.shape) < 0.5 for n, w in Prunable(model).weights()})
    train(model, samples, RECIPE, masks=masks, callbacks=[callback("linear-probe")])
    for name, parameter in model.named_parameters():
        trainable, value = before[name]
        assert parameter.requires_grad == trainable, name
        expected = value * masks[name] if name in masks else value
        assert torch.equal(parameter, expected) == (name != "5.weight"), name
    model.zero_grad()
    F.cross_entropy(model(samples[0]), samples[1]).backward()
    assert model.get_parameter("0.weight").grad is not None
