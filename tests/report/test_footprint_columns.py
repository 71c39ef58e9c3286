"""The table of footprints: how each number is written, and which columns are left out."""

from __future__ import annotations

from typing import Any

from oneticket.report import footprint_table
from oneticket.report.writers import markdown


def row(**changes: Any) -> dict[str, Any]:
    return {
        "experiment": "e", "model": "lenet-300-100", "target": "mnist", "target_recipe": "sgd", "source": "",
        "source_recipe": "", "arm": "dense", "rescale": "none", "density_asked": 1.0, "density": 1.0, "n": 6,
        "test_accuracy": 0.92641, "test_accuracy_deviation": 0.0019, "bytes": 1_066_440.0, "way": "dense kernels",
        "seconds_1": 5.639e-5, "seconds_128": 7.24e-6,
    } | changes  # fmt: skip


ROWS = [
    row(),
    row(arm="xnor", n=1, test_accuracy_deviation=None, bytes=None, way="packed bits", seconds_1=2.0, density=0.0467),
]


def test_numbers_are_written_in_percent_bytes_and_milliseconds() -> None:
    table = footprint_table(ROWS)
    assert dict(zip(table.header, table.lines[0], strict=True)) == {
        "weights %": "100", "arm": "dense", "n": "6", "accuracy %": "92.64 ± 0.19", "stored": "1.07 MB",
        "run by": "dense kernels", "ms, one image": "0.0564", "ms an image, of 128": "0.00724",
    }  # fmt: skip
    second = ("4.67", "xnor", "1", "92.64", "—", "packed bits", "2e+03", "0.00724")
    assert table.lines[1] == second
    assert [title for title, number in zip(table.header, table.numeric, strict=True) if not number] == ["arm", "run by"]


def test_what_is_the_same_everywhere_is_left_out_and_the_rest_told_apart() -> None:
    others = [row(**{key: value}) for key, value in row(target="gtsrb", source="fashion", model="vgg11").items()]
    assert footprint_table([row(), *others]).header[:3] == ("model", "target", "source")
    assert "rescale" in footprint_table([row(), row(rescale="layer")]).header


def test_as_markdown() -> None:
    lines = markdown(footprint_table([row(arm="a|b")])).splitlines()
    assert lines[0].startswith("| weights % | arm | n |")
    assert lines[1] == "| --: | --- | --: | --: | --: | --- | --: | --: |"
    assert lines[2] == r"| 100 | a\|b | 6 | 92.64 ± 0.19 | 1.07 MB | dense kernels | 0.0564 | 0.00724 |"
    assert len(lines) == 3
