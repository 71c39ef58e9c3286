"""Draws: each looks at its own origins and no others, and gives what its formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.weights import DRAWS, DrawContext

# Draw, and the origins it looks at (methods §5).
ORIGINS = {
    "rewound": ["rewound"],
    "initial": ["initial"],
    "trained": ["trained"],
    "re-drawn": ["redrawn"],
    "reshuffled": ["rewound", "masks", "generator"],
    "sign-constant": ["rewound", "masks", "initial"],
    "sign-redrawn": ["rewound", "masks", "redrawn"],
    "sign-trained": ["trained", "masks", "redrawn"],
    "sign-trained-all": ["trained", "redrawn"],
}
WHOLE = {name: origins[0] for name, origins in ORIGINS.items() if len(origins) == 1}
SIGNS = {
    "sign-constant": "rewound",
    "sign-redrawn": "rewound",
    "sign-trained": "trained",
    "sign-trained-all": "trained",
}
"""Draws that keep signs, and whose."""


def state(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 30), nn.BatchNorm1d(30), nn.Linear(30, 20), nn.Linear(20, 2))
    model[1].running_mean.fill_(seed)
    nn.init.uniform_(model[1].weight)
    return model.state_dict()


STATES = {name: state(seed) for seed, name in enumerate(["initial", "rewound", "trained", "redrawn"])}


def masks(density: float = 0.4) -> Masks:
    stream = torch.Generator().manual_seed(9)
    kept = {
        name: torch.rand(STATES["initial"][name].shape, generator=stream) < density for name in ("0.weight", "2.weight")
    }
    return Masks(kept)


def origins(seed: int = 0, *, only: list[str] | None = None) -> DrawContext:
    given = {key: lambda key=key: STATES[key] for key in STATES}
    given |= {"masks": masks, "generator": lambda: torch.Generator().manual_seed(seed)}
    return DrawContext(**{key: source for key, source in given.items() if only is None or key in only})


@pytest.mark.parametrize(("name", "origin"), WHOLE.items())
def test_a_draw_gives_its_origin_with_every_parameter_and_buffer(name: str, origin: str) -> None:
    values = DRAWS[name](origins())
    assert list(values) == list(STATES[origin])
    assert "1.running_mean" in values
    for key, value in values.items():
        assert torch.equal(value, STATES[origin][key])
    for other in STATES.keys() - {origin}:
        assert not torch.equal(values["0.weight"], STATES[other]["0.weight"])


@pytest.mark.parametrize(("name", "needed"), ORIGINS.items())
def test_a_draw_asks_for_nothing_else_and_changes_nothing_it_is_given(name: str, needed: list[str]) -> None:
    before = {key: {n: t.clone() for n, t in STATES[key].items()} for key in STATES}
    assert DRAWS[name](origins(only=needed))
    for key in STATES:
        assert all(torch.equal(STATES[key][n], before[key][n]) for n in before[key])
    for missing in needed:
        with pytest.raises(InputError, match=rf"DrawContext\({missing}=…\)"):
            DRAWS[name](origins(only=[key for key in needed if key != missing]))


# -- shuffled values ---------------------------------------------------------------------------------------------
def test_reshuffled_moves_kept_values_inside_each_layer_and_nothing_else() -> None:
    values, kept = DRAWS["reshuffled"](origins()), masks()
    for name, before in STATES["rewound"].items():
        after = values[name]
        if name not in kept:
            assert torch.equal(after, before)
            continue
        mask = kept[name]
        assert torch.equal(after[~mask], before[~mask])
        assert sorted(after[mask].tolist()) == sorted(before[mask].tolist())
        moved = int((after[mask] != before[mask]).sum())
        assert moved > 0.8 * int(mask.sum())
    again, other = DRAWS["reshuffled"](origins()), DRAWS["reshuffled"](origins(1))
    assert torch.equal(values["2.weight"], again["2.weight"])
    assert not torch.equal(values["2.weight"], other["2.weight"])


def test_reshuffled_puts_every_value_everywhere_equally_often() -> None:
    """Over 2,000 shuffles of four kept values: each of the 16 places within 4 standard errors of a quarter."""
    kept = Masks({"w": torch.tensor([True, True, False, True, True])})
    values = {"w": torch.tensor([0.0, 1.0, 9.0, 2.0, 3.0])}
    stream, count = torch.Generator().manual_seed(0), torch.zeros(4, 4)
    for _ in range(2000):
        given = DrawContext(rewound=lambda: values, masks=lambda: kept, generator=lambda: stream)
        places = DRAWS["reshuffled"](given)["w"][kept["w"]].long()
        count[torch.arange(4), places] += 1
    assert (count / 2000 - 0.25).abs().max() < 4 * (0.25 * 0.75 / 2000) ** 0.5


# -- signs -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SIGNS)
def test_signs_are_the_tickets(name: str) -> None:
    values, owner = DRAWS[name](origins()), STATES[SIGNS[name]]
    for layer in masks():
        assert torch.equal(values[layer].sign(), owner[layer].sign())
        assert not torch.equal(values[layer].abs(), owner[layer].abs())


def test_sign_constant_has_the_spread_of_the_initial_weights() -> None:
    values = DRAWS["sign-constant"](origins())
    for name in masks():
        start = STATES["initial"][name].numpy().astype(np.float64)
        sigma = np.sqrt(((start - start.mean()) ** 2).mean())
        np.testing.assert_allclose(values[name].numpy(), np.sign(STATES["rewound"][name].numpy()) * sigma, rtol=1e-6)
    rest = values.keys() - masks().keys()
    assert all(torch.equal(values[name], STATES["rewound"][name]) for name in rest)


@pytest.mark.parametrize("name", ["sign-redrawn", "sign-trained"])
def test_redrawn_magnitudes_are_those_of_the_fresh_draw(name: str) -> None:
    values = DRAWS[name](origins())
    for layer in masks():
        assert torch.equal(values[layer].abs(), STATES["redrawn"][layer].abs())
    rest = values.keys() - masks().keys()
    assert all(torch.equal(values[layer], STATES["redrawn"][layer]) for layer in rest)


def test_every_parameter_has_the_sign_that_training_gave_it_and_a_fresh_magnitude() -> None:
    """The biases and the head, too; what W_T does not have, or in another shape, is fresh."""
    values = DRAWS["sign-trained-all"](origins())
    for name, fresh in STATES["redrawn"].items():
        expected = np.sign(STATES["trained"][name].numpy()) * np.abs(fresh.numpy())
        np.testing.assert_array_equal(values[name].numpy(), expected)
    given = DrawContext(
        redrawn=lambda: {"head.weight": torch.ones(3, 2), "own": torch.ones(2), "w": torch.ones(2)},
        trained=lambda: {"head.weight": -torch.ones(5, 2), "w": torch.tensor([-3.0, 2.0])},
    )
    values = DRAWS["sign-trained-all"](given)
    assert torch.equal(values["head.weight"], torch.ones(3, 2))
    assert torch.equal(values["own"], torch.ones(2))
    assert values["w"].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("name", SIGNS)
def test_what_has_no_sign_stays_zero(name: str) -> None:
    weights = {"w": torch.tensor([-2.0, 0.0, 3.0])}
    start = {"w": torch.tensor([0.5, 0.7, -0.1])}
    given = DrawContext(
        rewound=lambda: weights,
        trained=lambda: weights,
        initial=lambda: start,
        redrawn=lambda: start,
        masks=lambda: Masks.full(weights),
    )
    after = DRAWS[name](given)["w"]
    assert after[0] < 0 == after[1] < after[2]


# -- origins -----------------------------------------------------------------------------------------------------
def test_nothing_is_read_before_it_is_asked_for() -> None:
    asked: list[str] = []

    def source(key: str) -> dict[str, torch.Tensor]:
        asked.append(key)
        return STATES[key]

    given = DrawContext(**{key: lambda key=key: source(key) for key in STATES})
    assert asked == []
    assert given.trained == given.trained
    assert asked == ["trained"]


@pytest.mark.parametrize("origin", [*STATES, "masks", "generator"])
def test_an_origin_that_was_not_given_is_named(origin: str) -> None:
    with pytest.raises(InputError, match=rf"not given; expected DrawContext\({origin}=…\)"):
        getattr(DrawContext(), origin)


def test_what_was_given_out_cannot_be_changed_for_others() -> None:
    given = {"w": torch.ones(2)}
    from_given = DrawContext(initial=lambda: given)
    with pytest.raises(TypeError, match="does not support item assignment"):
        from_given.initial["w"] = torch.zeros(2)  # type: ignore[index]
    assert torch.equal(from_given.initial["w"], torch.ones(2))
