"""The public names: what completion shows, and that showing it loads nothing."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import oneticket

LAZY = ["oneticket", "oneticket.report"]


@pytest.mark.parametrize("name", LAZY)
def test_completion_shows_the_public_names_and_no_others(name: str) -> None:
    module = importlib.import_module(name)
    shown = set(dir(module)) - {"__version__"}
    assert shown == set(module.__all__)
    for public in shown:
        assert getattr(module, public) is not None


def test_the_package_shows_its_names_and_its_version() -> None:
    assert dir(oneticket) == [
        "Masks", "Recipe", "Ticket", "__version__", "compact", "compare", "find_ticket", "train", "transfer",
    ]  # fmt: skip
    members = dict(inspect.getmembers(oneticket))
    assert set(members) == set(dir(oneticket))


@pytest.mark.parametrize("name", LAZY)
def test_a_name_that_is_not_there_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"module '{name}' has no attribute 'tickets'"):
        importlib.import_module(name).tickets  # noqa: B018


@pytest.mark.parametrize(("name", "heavy"), [("oneticket", "torch"), ("oneticket.report", "matplotlib")])
def test_showing_the_names_loads_nothing(name: str, heavy: str) -> None:
    code = f"import sys, {name}; assert dir({name}); print('{heavy}' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
