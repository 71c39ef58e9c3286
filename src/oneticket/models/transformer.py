"""Parts of transformers: attention, the block of attention and MLP, their initial weights."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError

Count = Annotated[int, Meta(ge=1)]
Ratio = Annotated[float, Meta(gt=0)]


class Attention(nn.Module):
    """Multi-head attention in four layers, each pruned by its own name: ``query``, ``key``, ``value``, ``output``."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, T, width) → (batch, T, width); if causal, a position sees itself and those before it."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.output(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two layers with GELU between: ``expand`` to ``ratio`` times the width, ``contract`` back to it."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = max(1, round(width * ratio))
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, T, width) → (batch, T, width)."""
        return self.contract(F.gelu(self.expand(tokens)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and added to its input (pre-norm)."""

    def __init__(self, width: int, heads: int, ratio: float, *, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, T, width) → (batch, T, width)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))  # type: ignore[no-any-return]


def blocks(width: int, depth: int, heads: int, ratio: float, *, causal: bool) -> nn.Sequential:
    """``depth`` blocks, one after the other.

    Raises
    ------
    InputError
        When the heads cannot have equal parts of the width.
    """
    if width % heads:
        fitting = [count for count in range(1, width + 1) if width % count == 0]
        nearest = min(fitting, key=lambda count: abs(count - heads))
        raise InputError(f"heads = {heads} do not divide width = {width}", expected=f"a divisor, such as {nearest}")
    return nn.Sequential(*(Block(width, heads, ratio, causal=causal) for _ in range(depth)))


def initialise_transformer(network: nn.Module) -> nn.Module:
    """Draw the weights of a network with :class:`Block` in place, from torch's global generator; returns it.

    Linear layers N(0, 1 / fan-in); the two that write into the residual stream, ``output`` and ``contract``, divided by
    √(2 · depth), so that the stream's variance does not grow with the depth (Radford et al. 2019, §2.3). Biases are 0,
    normalisation gains 1. Tables are drawn by the network that has them.
    """
    residual = {id(layer) for block in _blocks(network) for layer in (block.attention.output, block.mlp.contract)}
    for module in network.modules():
        if isinstance(module, nn.Linear):
            shrink = len(residual) if id(module) in residual else 1
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features * shrink))
            nn.init.zeros_(module.bias)
    return network


def _blocks(network: nn.Module) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]
