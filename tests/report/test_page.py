"""The page holds everything, asks the network for nothing, and is the same for the same rows."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from oneticket.errors import InputError
from oneticket.report import COLUMNS, Provenance, summary, summary_table, write_report

Row = dict[str, Any]
Make = Callable[..., list[Row]]
VOID = {"meta", "br", "input"}


class Outline(HTMLParser):
    """The elements of a page; refuses one that is closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def words(page: str) -> str:
    """The page as it is read: no markup, one space between words."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.fixture(scope="module")
def folder(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    assert write_report(rows, out) == out / "report.html"
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


def test_every_file_of_the_contract_is_there_and_no_other(folder: Path) -> None:
    figures = [
        f"figures/lenet-300-100-{target}{kind}"
        for target in ("fashion-sgd", "mnist-sgd", "fashion-low-adam")
        for kind in (".svg", ".pdf", "-compute.svg")
    ]
    figures += ["figures/differences.svg", "figures/heat-map.svg"]
    tables = ["tables/comparisons.csv", "tables/results.csv", "tables/summary.csv", "tables/summary.tex"]
    assert sorted(contents(folder)) == sorted(["report.html", *figures, *tables])


@pytest.mark.slow
def test_the_same_rows_in_any_order_give_the_same_bytes(rows: list[Row], folder: Path, tmp_path: Path) -> None:
    write_report(random.Random(2).sample(rows, len(rows)), tmp_path)
    assert contents(tmp_path) == contents(folder)


def test_the_page_asks_the_network_for_nothing(page: str) -> None:
    assert "://" not in page
    assert "default-src 'none'" in page
    outline = Outline(page)
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in outline.elements}
    for tag, attributes in outline.elements:
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), tag
    assert not re.search(r"@import|url\((?!#)", page)


def test_every_reference_finds_its_element_and_no_id_is_given_twice(page: str) -> None:
    outline = Outline(page)
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    references = re.findall(r'(?:href="|url\()#([^")]+)', page)
    assert references
    assert set(references) <= set(ids)


def test_the_page_has_a_drawing_and_all_lines_of_each_target(page: str, rows: list[Row]) -> None:
    outline = Outline(page)
    # Accuracy and compute of each target, the differences and the map of all; each for two widths of the screen.
    assert outline.count("figure") == 2 * 3 + 2
    assert outline.count("svg") == 2 * outline.count("figure")
    shown = words(page)
    for target in ("fashion", "mnist", "fashion-low"):
        table = summary_table([row for row in summary(rows) if row.group.target == target])
        for cells in table.lines:
            assert " ".join(cells) in shown


def test_the_tidy_table_is_whole(page: str, rows: list[Row]) -> None:
    details = page[page.index("<details>") :]
    details = details[: details.index("</details>")]
    assert details.count("<tr>") == 1 + len(rows)
    assert [html.unescape(name) for name in re.findall(r"<button[^>]*>(.*?)</button>", details)] == list(COLUMNS)


def test_the_page_says_what_was_run_and_which_interval_is_shown(page: str) -> None:
    shown = words(page)
    assert "396 trained networks over 6 seeds" in shown
    assert "with tickets from 2 sources ( fashion@sgd and mnist@sgd ), at 21.0, 5.50 and 1.80 % of the weights" in shown
    assert "the mean ± the sample standard deviation (n − 1) over seeds" in shown
    assert "95 % interval of Student’s t" in shown
    assert "Holm's correction over all comparisons of the target with that baseline" in shown
    assert "The number of test images is not known" in shown
    assert "Some networks are missing" not in shown


def test_what_is_missing_is_said(make_table: Make, tmp_path: Path) -> None:
    rows = make_table(targets=["mnist@sgd"], arms=["winning"], densities=[0.1])
    kept = [row | {"test_accuracy": None} if place == 3 else row for place, row in enumerate(rows)][:-1]
    shown = words(write_report(kept, tmp_path).read_text("utf-8"))
    assert (
        "Some networks are missing: n tells where. 1 network without a test accuracy is in the full table only."
        in shown
    )


def test_one_seed_is_owned_up_to(make_table: Make, tmp_path: Path) -> None:
    rows = make_table(seeds=1, targets=["digits@sgd"], sources=["digits@sgd"], arms=["winning"], densities=[0.1])
    shown = words(write_report(rows, tmp_path).read_text("utf-8"))
    assert "There is a single seed" in shown
    assert "no difference can be told from chance" in shown
    assert "one standard deviation to each side" not in shown


def test_names_are_text_and_never_markup(rows: list[Row], tmp_path: Path) -> None:
    evil = "<b>&\"'</script><script>x()"
    named = [
        row | {"experiment": evil, "source": row["source"] and evil, "arm": f"{row['arm']}<i>"} for row in rows[:30]
    ]
    text = write_report(named[:1] + named[-1:], tmp_path).read_text("utf-8")
    assert evil not in text
    assert "x()</script>" not in text
    assert Outline(text).count("script") == 1
    assert html.escape("<b>&") in text
    for svg in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(svg)


def test_a_title_is_shown_and_escaped(make_table: Make, tmp_path: Path) -> None:
    rows = make_table(seeds=1, targets=["a@b"], arms=["winning"])
    text = write_report(rows, tmp_path, title="Tickets & <masks>").read_text("utf-8")
    assert "<h1>Tickets &amp; &lt;masks&gt;</h1>" in text
    assert "<title>Tickets &amp; &lt;masks&gt;</title>" in text


def test_cautions_are_said_first_and_escaped(make_table: Make, tmp_path: Path) -> None:
    rows = make_table(seeds=1, targets=["a@b"], arms=["winning"])
    assert "Caution" not in write_report(rows, tmp_path).read_text("utf-8")
    text = write_report(rows, tmp_path, cautions=["<b> was wrong", "so was c"]).read_text("utf-8")
    shown = words(text)
    assert "&lt;b&gt; was wrong" in text
    assert shown.index("Caution: <b> was wrong Caution: so was c") < shown.index("Accuracies are on")


@pytest.mark.slow
def test_names_that_would_meet_or_leave_the_folder_get_files_of_their_own(make_table: Make, tmp_path: Path) -> None:
    targets = ["../../a@x", "A@x", "a@x", "数@据"]
    write_report(make_table(seeds=1, targets=targets, arms=["winning"], densities=[0.1]), tmp_path / "out")
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.svg")]
    files = [file for file in files if file.stem not in ("differences", "heat-map") and "-compute" not in file.name]
    assert len({str(file).lower() for file in files}) == len(targets)
    assert {file.parts[:2] for file in files} == {("out", "figures")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.slow
def test_several_experiments_each_have_their_section(make_table: Make, tmp_path: Path) -> None:
    rows = make_table(seeds=2, targets=["a@x"], arms=["winning"])
    text = write_report([*rows, *(row | {"experiment": "second", "cell": "2"} for row in rows)], tmp_path).read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text)[:2] == ["a@x (fashion-small)", "a@x (second)"]
    assert len(list((tmp_path / "figures").glob("*.pdf"))) == 2


def test_a_table_without_any_test_accuracy_still_gives_its_costs(make_table: Make, tmp_path: Path) -> None:
    rows = [row | {"test_accuracy": None} for row in make_table(seeds=1)]
    text = write_report(rows, tmp_path).read_text("utf-8")
    assert Outline(text).count("figure") == 0
    assert "What it cost" in text


def test_an_empty_table_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to report"):
        write_report([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_row_of_a_target_is_found_by_its_anchor_and_knows_its_networks(page: str, rows: list[Row]) -> None:
    found = re.findall(r'<tr id="(row-[0-9a-f]+)" data-line="[^"]*" data-cells="([^"]*)"', page)
    assert len({anchor for anchor, _ in found}) == len(found) == len(summary(rows))
    assert sorted(cell for _, cells in found for cell in cells.split()) == sorted(row["cell"][:12] for row in rows)
    assert set(re.findall(r'data-row="([^"]*)"', page)) == {anchor for anchor, _ in found}


def test_what_a_store_knows_is_shown_as_text_with_buttons_to_copy_it(make_table: Make, tmp_path: Path) -> None:
    known = Provenance(
        facts=[("versions", ["torch <9>"])], files=[("a.toml", "name = '</pre>'")], commands=["oneticket run a.toml"],
        methods="Trained.", bibtex="@misc{a}",
    )  # fmt: skip
    rows = make_table(seeds=1, targets=["a@b"], arms=["winning"], densities=[0.1])
    text = write_report(rows, tmp_path, provenance=known).read_text("utf-8")
    assert {"torch <9>", "name = '</pre>'", "oneticket run a.toml", "Trained.", "@misc{a}"} <= {
        html.unescape(part) for part in re.findall(r"<(?:dd|pre[^>]*)>(.*?)</(?:dd|pre)>", text, re.DOTALL)
    }
    assert text.count('class="copy"') == 4
    assert Outline(text).count("pre") == 4


def test_a_table_that_is_too_long_for_a_page_is_named_and_not_listed(
    make_table: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneticket.report.page.MOST_NETWORKS", 3)
    rows = make_table(seeds=2, targets=["a@b"], sources=["a@b"], arms=["winning"], densities=[0.1])
    text = write_report(rows, tmp_path).read_text("utf-8")
    assert '<table class="tidy">' not in text
    assert "The 4 networks are too many for a page" in text
    assert len((tmp_path / "tables" / "results.csv").read_text("utf-8").splitlines()) == 5
