"""`figure`: each kind from a table in CSV, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneticket.cli import group
from oneticket.errors import InputError
from oneticket.report.figure_kinds import KINDS

TABLE = Path(__file__).resolve().parents[2] / "docs" / "results" / "fashion-mnist.csv"


def call(*words: str) -> None:
    group.main(["figure", *words], standalone_mode=False)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_and_leads_nowhere(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "figure.svg"
    if kind == "compute":  # the table is older than its column
        with pytest.raises(InputError, match="does not know what its networks cost"):
            call(str(TABLE), "--kind", kind, "--target", "fashion@sgd", "--out", str(out))
        return
    target = [] if kind == "heat-map" else ["--target", "fashion@sgd"]
    call(str(TABLE), "--kind", kind, *target, "--out", str(out))
    assert b"<svg" in out.read_bytes()
    assert b"#row-" not in out.read_bytes()


def test_what_cannot_be_drawn_is_refused_and_nothing_written(tmp_path: Path) -> None:
    out = tmp_path / "figure.svg"
    with pytest.raises(InputError, match="shows one target"):
        call(str(TABLE), "--out", str(out))
    with pytest.raises(InputError, match="did you mean 'fashion@sgd'"):
        call(str(TABLE), "--target", "fasion@sgd", "--out", str(out))
    with pytest.raises(InputError, match="did you mean 'winning'"):
        call(str(TABLE), "--target", "fashion@sgd", "--arm", "wining", "--out", str(out))
    with pytest.raises(InputError, match=r"ends in \.svg"):
        call(str(TABLE), "--out", str(tmp_path / "figure.gif"))
    assert list(tmp_path.iterdir()) == []
