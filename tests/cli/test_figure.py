"""`figure`: each kind from a table in CSV, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneticket.cli import group
from oneticket.cli.figure_command import _KINDS, OF_NETWORKS
from oneticket.errors import InputError
from oneticket.report import figure_kinds
from oneticket.report.figure_kinds import KINDS

TABLE = Path(__file__).resolve().parents[2] / "docs" / "results" / "fashion-mnist.csv"


def call(*words: str) -> None:
    group.main(["figure", *words], standalone_mode=False)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_and_leads_nowhere(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "figure.svg"
    lacking = {"compute": "does not know what its networks cost", "rescale": "two rescalings"}
    if kind in lacking:  # the table is older than a column, and nothing was rescaled
        with pytest.raises(InputError, match=lacking[kind]):
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


def test_the_command_knows_the_kinds_of_the_report() -> None:
    assert (*KINDS, *figure_kinds.OF_NETWORKS) == _KINDS
    assert set(OF_NETWORKS) == set(figure_kinds.OF_NETWORKS)


def test_the_table_behind_a_figure_is_written_and_stands_for_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "layers.csv", tmp_path / "figure.svg"
    layers = TABLE.with_name("quickstart-layers.csv")
    call(str(layers), "--kind", "layers", "--out", str(out), "--table", str(table))
    assert table.read_text() == layers.read_text()
    told = capsys.readouterr().out.splitlines()
    assert told[0] == str(out)
    assert told[1].startswith("The weights that each prunable layer keeps")
    with pytest.raises(InputError, match="drawn of the tidy table"):
        call(str(TABLE), "--kind", "heat-map", "--out", str(out), "--table", str(table))
    with pytest.raises(InputError, match="--model"):
        call(str(layers), "--kind", "layers", "--model", "vgg19", "--out", str(out))
    with pytest.raises(InputError, match="has no column 'layer'"):
        call(str(TABLE), "--kind", "layers", "--out", str(out))
