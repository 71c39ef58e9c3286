"""Named independent random streams, all derived from one seed per replicate.

Two arms of one replicate share exactly the streams that make differences between them paired, and no others: a
different data order never changes a weight draw.
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
        """A 63-bit seed for ``stream``; ``keys`` (an epoch, a purpose) distinguish several seeds of one stream."""
        if stream not in STREAMS:
            raise ValueError(f"unknown random stream '{stream}'; expected one of {', '.join(STREAMS)}")
        text = "/".join(["oneticket", str(self.replicate), stream, *map(str, keys)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, stream: str, *keys: int | str) -> torch.Generator:
        """A fresh CPU generator at the start of ``stream``."""
        return torch.Generator().manual_seed(self.seed(stream, *keys))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set torch's global generators to ``seed`` inside, and restore their state afterwards.

    Modules draw their weights from the global generator when they are built. With this context a draw can have its own
    seed without disturbing the caller's random state.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        if torch.cuda.is_available():
            torch.manual_seed(seed)
        else:  # torch.manual_seed would record a stack trace for each missing accelerator
            torch.default_generator.manual_seed(seed)
        yield
