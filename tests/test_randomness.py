"""Randomness: streams that repeat, that differ, and that leave the caller's random state alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneticket.randomness import STREAMS, Streams, seeded


@given(st.integers(0, 2**31), st.sampled_from(STREAMS), st.lists(st.integers() | st.text(max_size=5), max_size=3))
def test_a_stream_is_a_function_of_its_name(replicate: int, stream: str, keys: list[int | str]) -> None:
    seed = Streams(replicate).seed(stream, *keys)
    assert seed == Streams(replicate).seed(stream, *keys)
    assert 0 <= seed < 2**63
    numbers = [torch.rand(4, generator=Streams(replicate).generator(stream, *keys)) for _ in range(2)]
    assert torch.equal(*numbers)


def test_no_two_streams_share_a_seed() -> None:
    seeds = {
        Streams(replicate).seed(stream, *keys)
        for replicate in range(20)
        for stream in STREAMS
        for keys in [(), (0,), (1,), (0, 1), ("epoch", 1)]
    }
    assert len(seeds) == 20 * len(STREAMS) * 5


def test_the_seed_is_pinned() -> None:
    """A change here would change every stored result without changing its name."""
    assert Streams(0).seed("init") == 3603159908283767693
    assert Streams(3).seed("data-order", "epoch", 7) == 3998936798466807105


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown random stream 'order'; expected one of init, data-order"):
        Streams(0).seed("order")


def test_a_seeded_block_repeats_and_leaves_no_trace() -> None:
    torch.manual_seed(7)
    undisturbed = torch.rand(3)
    torch.manual_seed(7)
    with seeded(1):
        first = torch.nn.Linear(3, 3).weight
    assert torch.equal(torch.rand(3), undisturbed)
    with seeded(1):
        again = torch.nn.Linear(3, 3).weight
    with seeded(2):
        other = torch.nn.Linear(3, 3).weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_seeded_block_leaves_no_trace_after_an_error() -> None:
    def fail_inside() -> None:
        with seeded(1):
            torch.rand(3)
            raise RuntimeError("inside")

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert torch.equal(torch.get_rng_state(), state)
