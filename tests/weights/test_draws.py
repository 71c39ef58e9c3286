"""Draws: each gives its own origin, whole, and looks at no other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.weights import Origins, draw

# Draw, and the origin it gives (methods §5).
ORIGINS = {"rewound": "rewound", "initial": "initial", "trained": "trained", "re-drawn": "redrawn"}


def state(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[1].running_mean.fill_(seed)
    return model.state_dict()


STATES = {name: state(seed) for seed, name in enumerate(["initial", "rewound", "trained", "redrawn"])}


@pytest.mark.parametrize(("name", "origin"), ORIGINS.items())
def test_a_draw_gives_its_origin_with_every_parameter_and_buffer(name: str, origin: str) -> None:
    values = draw[name](Origins(**{key: lambda key=key: STATES[key] for key in STATES}))
    assert list(values) == list(STATES[origin])
    assert "1.running_mean" in values
    for key, value in values.items():
        assert torch.equal(value, STATES[origin][key])
    for other in STATES.keys() - {origin}:
        assert not torch.equal(values["0.weight"], STATES[other]["0.weight"])


@pytest.mark.parametrize(("name", "origin"), ORIGINS.items())
def test_a_draw_asks_for_nothing_else(name: str, origin: str) -> None:
    assert draw[name](Origins(**{origin: lambda: STATES[origin]}))


def test_nothing_is_read_before_it_is_asked_for() -> None:
    asked: list[str] = []

    def source(key: str) -> dict[str, torch.Tensor]:
        asked.append(key)
        return STATES[key]

    origins = Origins(**{key: lambda key=key: source(key) for key in STATES})
    assert asked == []
    origins.trained()
    assert asked == ["trained"]


@pytest.mark.parametrize("origin", list(STATES))
def test_an_origin_that_was_not_given_is_named(origin: str) -> None:
    with pytest.raises(InputError, match=rf"which were not given; expected Origins\({origin}=…\)"):
        getattr(Origins(), origin)()


def test_changing_what_was_given_out_does_not_change_the_origin() -> None:
    given = {"w": torch.ones(2)}
    origins = Origins(initial=lambda: given)
    origins.initial()["w"] = torch.zeros(2)
    assert torch.equal(origins.initial()["w"], torch.ones(2))
