"""Comparing: who won, on anybody's network and data, in one call."""

from oneticket.comparing.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
