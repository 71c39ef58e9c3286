"""Training a masked transformer on tokens: the same as a loop written as in a textbook, and its operations counted."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.randomness import Streams
from oneticket.training import Recipe, Runtime, train
from oneticket.training.cost import forward_flops

SAMPLES, BATCH, LENGTH, VOCABULARY, SEED, EPOCHS = 32, 8, 6, 9, 3, 5


def gpt() -> nn.Module:
    spec = ModelSpec(name="gpt", options={"width": 16, "depth": 2, "heads": 2})
    return build(spec, input_shape=(LENGTH,), classes=VOCABULARY, seed=1, tokens=True)


def masks_of(network: nn.Module, density: float = 0.3) -> Masks:
    chance = torch.Generator().manual_seed(2)
    return Masks({n: torch.rand(w.shape, generator=chance) < density for n, w in Prunable(network).weights()})


def windows() -> Tensor:
    return torch.randint(VOCABULARY, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(4))


def plainly(network: nn.Module, text: Tensor, masks: Masks) -> nn.Module:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, foreach=False, fused=False)
    parameters = dict(network.named_parameters())
    network.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(SAMPLES, generator=Streams(SEED).generator("data-order", epoch))
        for batch in order.split(BATCH):
            for name, mask in masks.items():
                parameters[name].data *= mask
            optimizer.zero_grad()
            logits, following = network(text[batch])[:, :-1], text[batch][:, 1:]
            F.cross_entropy(logits.flatten(0, 1), following.flatten()).backward()
            optimizer.step()
    for name, mask in masks.items():
        parameters[name].data *= mask
    return network


def test_a_masked_transformer_is_trained_as_in_a_textbook() -> None:
    text = windows()
    for runtime, density in ((Runtime(), 0.3), (Runtime(layout="channels-last"), 0.02)):
        fast, slow, masks = gpt().double(), gpt().double(), masks_of(gpt(), density)
        recipe = Recipe.adam(epochs=EPOCHS, lr=1e-3, batch_size=BATCH, weight_decay=0.0)
        training = train(fast, (text, text), recipe, masks=masks, seed=SEED, loss="next-token", runtime=runtime)
        plainly(slow, text, masks)
        assert training.masks == masks
        start = {name: tensor.clone() for name, tensor in gpt().double().state_dict().items()}
        for name, tensor in slow.state_dict().items():
            torch.testing.assert_close(fast.state_dict()[name], tensor, rtol=0, atol=1e-9)
            assert density < 0.1 or not torch.equal(start[name], tensor), f"{name} is trained"
        for name, mask in masks.items():
            assert not fast.state_dict()[name][~mask].any()


def test_operations_of_attention_are_counted_in_full_and_those_of_layers_by_their_density() -> None:
    """A multiply-add is two operations; scores and their products with the values are computed for all pairs."""
    width, depth, hidden = 16, 2, 64
    layers = depth * LENGTH * (4 * width * width + 2 * width * hidden)
    attention, head = depth * 2 * LENGTH * LENGTH * width, LENGTH * width * VOCABULARY
    network, masks = gpt(), masks_of(gpt())
    dense, kept = forward_flops(network, windows()[:1], masks)
    assert dense == 2 * (layers + attention + head)
    left = sum(2 * LENGTH * int(mask.sum()) for mask in masks.values())
    assert kept == 2 * (attention + head) + left
