"""Tickets that change hands: pushed to a place with a card, and pulled from it, verified before anything is built."""

from __future__ import annotations

from oneticket.sharing.index import Entry, Index, read_index
from oneticket.sharing.places import Place, place_of
from oneticket.sharing.pulling import Pulled, pull
from oneticket.sharing.pushing import Pushed, push

__all__ = ["Entry", "Index", "Place", "Pulled", "Pushed", "place_of", "pull", "push", "read_index"]
