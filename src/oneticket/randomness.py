"""Named independent random streams, all derived from one seed per replicate.

Two arms of one replicate share exactly the streams they must share, so that differences between them are paired,
and nothing else: a different data order never changes a weight draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

STREAMS = ("init", "data-order", "augmentation", "mask", "head", "split", "noise")


@dataclass(frozen=True)
class Streams:
    """The random streams of one replicate.

    >>> Streams(0).seed("init") == Streams(0).seed("init")
    True
    >>> Streams(0).seed("init") == Streams(0).seed("data-order")
    False
    """

    replicate: int

    def seed(self, stream: str, *keys: int | str) -> int:
        """A 63-bit seed for ``stream``, told apart further by ``keys`` (an epoch, a purpose)."""
        if stream not in STREAMS:
            raise ValueError(f"unknown random stream '{stream}'; expected one of {', '.join(STREAMS)}")
        text = "/".join(["oneticket", str(self.replicate), stream, *map(str, keys)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, stream: str, *keys: int | str) -> torch.Generator:
        """A fresh CPU generator at the start of ``stream``."""
        return torch.Generator().manual_seed(self.seed(stream, *keys))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generators set to ``seed`` inside, and put back as they were afterwards.

    Modules draw their weights from the global generator when they are built; this is how a draw gets a seed of its own
    without disturbing the caller's random state.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        if torch.cuda.is_available():
            torch.manual_seed(seed)
        else:  # which would note, for each accelerator that is not there, from where it has been called
            torch.default_generator.manual_seed(seed)
        yield
