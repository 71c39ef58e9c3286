"""CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneticket.report import COLUMNS, summary
from oneticket.report.writers import escape_latex, results_csv, summary_csv, summary_latex, write

Row = dict[str, Any]


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_tidy_table_comes_back_with_every_digit(rows: list[Row]) -> None:
    lines = read(results_csv(rows))
    assert list(lines[0]) == list(COLUMNS)
    for line, row in zip(lines, rows, strict=True):
        for column in COLUMNS:
            if row[column] is None:
                assert line[column] == ""
            else:
                assert type(row[column])(line[column]) == row[column]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=20))
def test_any_name_survives_the_csv(name: str) -> None:
    row = dict.fromkeys(COLUMNS) | {"experiment": name}
    (_, line) = csv.reader(io.StringIO(results_csv([row]), newline=""))
    assert line[0] == name


def test_the_summary_comes_back_with_every_digit(rows: list[Row]) -> None:
    found = summary(rows)
    for line, row in zip(read(summary_csv(found)), found, strict=True):
        assert (line["arm"], line["source"], line["rescale"]) == (row.group.arm, row.group.source, row.group.rescale)
        assert float(line["mean"]) == row.accuracy.mean
        assert float(line["standard_deviation"]) == row.accuracy.deviation
        assert row.accuracy.interval is not None
        assert (float(line["low_95"]), float(line["high_95"])) == (
            row.accuracy.interval.low,
            row.accuracy.interval.high,
        )
        for baseline, versus in row.versus.items():
            p, holm = (line[f"versus_{baseline.slug}_{field}"] for field in ("p", "p_holm"))
            if versus is None:
                assert (p, holm) == ("", "")
            else:
                assert (float(p), float(holm)) == (versus.difference.p, versus.holm)


def test_one_seed_leaves_empty_what_it_cannot_say(make_table: Callable[..., list[Row]]) -> None:
    for line in read(summary_csv(summary(make_table(seeds=1)))):
        assert (line["n"], line["standard_deviation"], line["low_95"], line["versus_dense_p"]) == ("1", "", "", "")


def test_latex_has_one_booktabs_table_a_target_with_all_its_lines(rows: list[Row]) -> None:
    text = summary_latex(summary(rows))
    tables = re.findall(r"\\begin{table}.*?\\end{table}", text, flags=re.DOTALL)
    assert len(tables) == 3
    for table in tables:
        assert [table.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
        (columns,) = re.findall(r"begin{tabular}{@{}([lr]+)@{}}", table)
        lines = [line for line in table.splitlines() if line.endswith(r" \\")]
        assert len(lines) == 1 + 22
        assert {line.count(" & ") for line in lines} == {len(columns) - 1}
    assert r"$n = 6$ seeds" in text


def test_latex_escapes_what_would_be_a_command(rows: list[Row]) -> None:
    text = summary_latex(summary([row | {"model": "my_net&50%", "arm": f"{row['arm']}_x"} for row in rows]))
    assert r"my\_net\&50\%" in text
    assert r"winning\_x" in text
    body = re.sub(r"\\[_&%$#{}]", "", text.partition("\n")[2])
    assert not re.search(r"[_#^~]", body)
    assert "%" not in body


@given(st.text("ab\\{}$&#_%^~<>|± −—"))
def test_escaped_text_leaves_no_active_character_and_balances_its_braces(text: str) -> None:
    escaped = escape_latex(text)
    rest = re.sub(r"\\text[a-z]+{}|\$(\\pm|-)\$|\\[&%$#_{}]", "", escaped)
    assert not set(rest) & set("\\{}$&#_%^~<>|±−—")
    assert sum(c in "ab " for c in rest) == sum(c in "ab " for c in text)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "table.csv"
    write(path, "first")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write(path, "second")
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]
