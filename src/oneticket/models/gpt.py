"""A small language model: a decoder that gives the next token at each position."""

from __future__ import annotations

from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.models.base import Shape, model
from oneticket.models.transformer import Count, Ratio, blocks, initialise_transformer


class GPT(nn.Module):
    """Learned ``tokens`` and ``positions``, ``blocks``, ``norm``, and a ``head`` of its own."""

    def __init__(self, vocabulary: int, context: int, *, width: int, depth: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = blocks(width, depth, heads, ratio, causal=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 (batch, T) → (batch, T, vocabulary), the logits of the token that follows each."""
        hidden = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(hidden)))  # type: ignore[no-any-return]


@model("gpt", source="Radford et al. 2019, §2.3", takes="tokens", draws="own")
def gpt(
    input_shape: Shape,
    classes: int,
    width: Count = 128,
    depth: Count = 4,
    heads: Count = 4,
    ratio: Ratio = 4.0,
    context: Count | None = None,
) -> nn.Module:
    """Decoder for sequences of tokens: pre-norm blocks with causal attention, learned positions, a head of its own.

    0.79 M weights: the ``query``, ``key``, ``value`` and ``output`` of attention, the ``expand`` and ``contract`` of
    the MLPs; tables, norms and the head are not pruned. ``width`` is the number of channels, a multiple of
    ``heads``; an MLP has ``ratio`` times as many. ``context`` is the number of positions, by default the length of the
    sequences; with one for all data, tickets fit sequences of any length up to it.
    """
    (length,) = input_shape
    if context is not None and context < length:
        raise InputError(f"context = {context} for sequences of {length} tokens", expected=f"{length} or more")
    network = GPT(classes, context or length, width=width, depth=depth, heads=heads, ratio=ratio)
    for table in (network.tokens, network.positions):
        nn.init.normal_(table.weight, std=0.02)
    return initialise_transformer(network)
