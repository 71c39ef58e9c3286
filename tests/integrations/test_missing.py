"""A library that is missing is named, with the command that installs it."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.ticket import Ticket


@pytest.mark.parametrize("library", ["transformers", "lightning"])
def test_a_missing_library_is_named_with_its_command(
    library: str, ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, f"oneticket.integrations.{library}", raising=False)
    module: Any = importlib.import_module(f"oneticket.integrations.{library}")
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(
        InputError, match=rf"{library} is not installed; expected pip install 'oneticket\[integrations\]'"
    ):
        module.TicketCallback(ticket)
