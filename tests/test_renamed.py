"""Old names lead to the new ones and warn; the package itself uses none of them."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

NAMES = [
    ("oneticket.pruning", "Evidence", "ScoreContext"),
    ("oneticket.pruning", "Circumstances", "ControlContext"),
    ("oneticket.weights", "Origins", "DrawContext"),
    ("oneticket.methods", "Situation", "MethodContext"),
    ("oneticket.methods", "Lesson", "PretrainingTask"),
]


@pytest.mark.parametrize(("package", "old", "new"), NAMES)
def test_an_old_name_is_the_new_thing_and_warns_where_it_is_used(package: str, old: str, new: str) -> None:
    module = importlib.import_module(package)
    with pytest.warns(DeprecationWarning, match=rf"{package}.{old} is now called {new}; the old name goes in") as told:
        assert getattr(module, old) is getattr(module, new)
    assert [warning.filename for warning in told] == [__file__]
    assert old not in module.__all__
    assert new in module.__all__


def test_an_import_warns_once_at_its_line() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        from oneticket.pruning import Evidence  # noqa: F401
    assert [warning.filename for warning in told] == [__file__]


@pytest.mark.parametrize("package", sorted({package for package, _, _ in NAMES}))
def test_what_never_was_is_still_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'evidense'"):
        _ = importlib.import_module(package).evidense


def test_the_package_uses_none_of_them() -> None:
    """Every module is imported in a process of its own, in which such a warning is an error."""
    code = """
import importlib, pkgutil, warnings
warnings.filterwarnings("error", message=".*is now called")
import oneticket
for found in pkgutil.walk_packages(oneticket.__path__, "oneticket."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
