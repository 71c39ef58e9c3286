"""Tickets: masks, the values of the kept weights and where they come from; saved, loaded, put into a model and kept."""

from __future__ import annotations

from oneticket.ticket.artefact import Ticket
from oneticket.ticket.difference import Difference
from oneticket.ticket.format import Verification
from oneticket.ticket.placement import Placement
from oneticket.ticket.provenance import Provenance, Seen, versions

__all__ = ["Difference", "Placement", "Provenance", "Seen", "Ticket", "Verification", "versions"]
