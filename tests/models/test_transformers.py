"""The built-in transformers against the same computed with plain products in float64, and their options."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.models import ModelSpec, build
from oneticket.models.transformer import Block
from oneticket.models.vit import positions_of
from oneticket.prunable import Prunable

State = dict[str, Tensor]


def make(name, shape=None, classes=11, seed=0, **options):
    options = {"width": 16, "depth": 2, "heads": 4} | options
    given = shape or ((6,) if name == "gpt" else (3, 8, 8))
    spec = ModelSpec(name=name, options=options)
    return build(spec, input_shape=given, classes=classes, seed=seed, tokens=name == "gpt")


def shaken(network):
    """In float64, with biases and gains that are not neutral, so that it is seen what becomes of them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.double().parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0, 0.5, generator=generator)
    return network, {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def layer(p: State, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def normalised(p: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def attended(p: State, name: str, x: Tensor, heads: int, causal: bool) -> Tensor:
    """One head after the other, one query after the other."""
    found = torch.zeros_like(x)
    size = x.shape[-1] // heads
    query, key, value = (layer(p, f"{name}.{part}", x) for part in ("query", "key", "value"))
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for place in range(x.shape[1]):
            last = place + 1 if causal else x.shape[1]
            scores = (key[:, :last, part] @ query[:, place, part, None])[..., 0] / math.sqrt(size)
            shares = scores.exp() / scores.exp().sum(1, keepdim=True)
            found[:, place, part] = (shares[..., None] * value[:, :last, part]).sum(1)
    return layer(p, f"{name}.output", found)


def blocks(p: State, x: Tensor, causal: bool, depth: int = 2, heads: int = 4) -> Tensor:
    for number in range(depth):
        name = f"blocks.{number}"
        x = x + attended(p, f"{name}.attention", normalised(p, f"{name}.norm1", x), heads, causal)
        hidden = layer(p, f"{name}.mlp.expand", normalised(p, f"{name}.norm2", x))
        x = x + layer(p, f"{name}.mlp.contract", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
    return normalised(p, "norm", x)


def test_gpt_is_what_the_formula_gives() -> None:
    network, p = shaken(make("gpt"))
    tokens = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(2))
    x = p["tokens.weight"][tokens] + p["positions.weight"]
    torch.testing.assert_close(network(tokens), layer(p, "head", blocks(p, x, causal=True)), rtol=0, atol=1e-12)


def test_vit_is_what_the_formula_gives() -> None:
    network, p = shaken(make("vit", (3, 8, 6)))
    images = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    padded = torch.cat([images, torch.zeros(2, 3, 8, 2, dtype=torch.float64)], 3)
    corners = [(row, column) for row in (0, 4) for column in (0, 4)]
    patches = torch.stack([padded[:, :, r : r + 4, c : c + 4].flatten(1) for r, c in corners], 1)
    waves = [
        [wave(place * 10000 ** (-i / 4)) for place in (row, column) for wave in (math.sin, math.cos) for i in range(4)]
        for row in range(2)
        for column in range(2)
    ]
    x = layer(p, "embed", patches) + torch.tensor(waves, dtype=torch.float32)
    expected = layer(p, "head", blocks(p, x, causal=False).mean(1))
    torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-6)  # positions are float32


def test_a_position_does_not_see_what_follows() -> None:
    network = make("gpt").eval()
    tokens = torch.randint(11, (1, 6), generator=torch.Generator().manual_seed(3))
    other = tokens.clone()
    other[0, 3] = (other[0, 3] + 1) % 11
    before, after = network(tokens)[0], network(other)[0]
    torch.testing.assert_close(before[:3], after[:3], rtol=0, atol=1e-6)
    assert all((before[place] - after[place]).abs().max() > 1e-4 for place in range(3, 6))


def test_every_patch_has_a_place_of_its_own() -> None:
    places = positions_of(8, 8, 32)
    assert places.shape == (64, 32)
    assert torch.cdist(places, places).add(torch.eye(64) * 9).min() > 0.1


@pytest.mark.parametrize(
    ("name", "shape", "classes", "prunable", "total"),
    [
        # a block of width w has 12 w² weights, and 13 w in biases and norms
        ("vit", (3, 32, 32), 10, 6 * 12 * 192**2 + 48 * 192, 6 * (12 * 192**2 + 13 * 192) + (48 + 3 + 10) * 192 + 10),
        ("gpt", (64,), 256, 4 * 12 * 128**2, 4 * (12 * 128**2 + 13 * 128) + (256 + 64 + 2 + 256) * 128 + 256),
    ],
)
def test_sizes(name, shape, classes, prunable, total) -> None:
    network = build(ModelSpec(name=name), input_shape=shape, classes=classes, seed=0, tokens=name == "gpt")
    assert Prunable(network).total == prunable
    assert sum(p.numel() for p in network.parameters()) == total


@pytest.mark.parametrize("name", ["vit", "gpt"])
def test_initial_weights_are_of_the_fan_in_and_the_stream_does_not_grow(name: str) -> None:
    """Variance 1 / fan-in, of the layers that write into the stream over 2 · depth too; within 4 standard errors."""
    network = make(name, seed=1, width=64, depth=3)
    writers = {f"blocks.{i}.{part}.weight" for i in range(3) for part in ("attention.output", "mlp.contract")}
    for key, weight in Prunable(network, prune_head=True).weights():
        wanted = 1 / weight.shape[1] / (6 if key in writers else 1)
        n = weight.numel()
        assert abs(weight.double().square().mean() / wanted - 1) < 4 * math.sqrt(2 / n), key
    for block in (module for module in network.modules() if isinstance(module, Block)):
        assert (block.norm1.weight == 1).all()
        assert not block.mlp.expand.bias.any()


@pytest.mark.parametrize(
    ("name", "options", "said", "expected"),
    [
        ("gpt", {"heads": 3}, "heads = 3 do not divide width = 16", "a divisor, such as 2"),
        ("vit", {"width": 18, "heads": 2}, "width = 18", "a multiple of 4, such as 16"),
        ("gpt", {"context": 4}, "context = 4 for sequences of 6 tokens", "6 or more"),
        ("vit", {"patch": 0}, "option 'patch' cannot be 0", "`int` >= 1"),
        ("gpt", {"depth": 1.5}, "option 'depth' cannot be 1.5", "`int`, got `float`"),
        ("vit", {"ratio": 0.0}, "option 'ratio' cannot be 0.0", "`float` > 0"),
    ],
)
def test_options_that_do_not_fit(name, options, said, expected) -> None:
    with pytest.raises(InputError) as caught:
        make(name, **options)
    assert (caught.value.what, caught.value.where) == (said, f"model '{name}'")
    assert expected in caught.value.expected


def test_a_context_makes_parameters_independent_of_the_length() -> None:
    short, long = make("gpt", (4,), context=12), make("gpt", (12,), context=12)
    assert {k: v.shape for k, v in short.state_dict().items()} == {k: v.shape for k, v in long.state_dict().items()}
    assert short(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 11)


def test_options_are_written_out_as_numbers_of_channels() -> None:
    from oneticket.models import complete

    assert complete(ModelSpec(name="gpt")).options == {
        "width": 128, "depth": 4, "heads": 4, "ratio": 4.0, "context": None,
    }  # fmt: skip
