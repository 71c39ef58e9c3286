"""``watch``, ``report --live`` and ``report`` of several tables: what is seen of a store while a run fills it."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneticket.cli import result_commands, watch_command
from oneticket.cli.watch_command import sparkline
from oneticket.lab.cells.store import Store
from oneticket.lab.results import table as tidy
from oneticket.lab.results.watching import Watcher


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Where the store of `store` was computed once."""
    return []


@pytest.fixture
def store(call: Any, tiny: Callable[..., Path], tmp_path: Path, finished: list[Path]) -> Path:
    if not finished:
        assert call("run", tiny(), "--store", "whole", "--workers", "1").code == 0
        finished.append(tmp_path / "whole")
    shutil.copytree(finished[0], tmp_path / "store", copy_function=shutil.copy2)
    return tmp_path / "store"


def files(root: Path) -> dict[str, tuple[bytes, float]]:
    return {str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime) for p in root.rglob("*") if p.is_file()}


def networks(store: Path) -> list[str]:
    """The cells of the rows."""
    (content,) = Store(store).experiments()
    place = content["columns"].index("cell")
    return [row[place] for row in content["rows"]]


def test_one_frame_says_what_is_done_running_and_failed(call: Any, store: Path) -> None:
    done, running, failed = networks(store)[:3]
    for cell in (running, failed):
        shutil.rmtree(Store(store).folder(cell))
    (store / "leases" / f"{running}.lease").write_text("held")
    (store / "working" / running).mkdir()
    (store / "failures" / f"{failed}.json").write_text('{"cell":"x","reason":"y"}')
    before = files(store)
    told = call("watch", "store", "--once")
    assert (told.code, told.error) == (0, "")
    planned = len(list(store.glob("cells/*/*"))) + 2
    assert told.out.startswith(f"tiny: {planned - 2}/{planned} cells done, 1 running, 1 failed\n")
    assert len(re.findall(r"^  running  .*, seed 0  \(\d\.\d s\)$", told.out, re.M)) == 1
    assert re.search(r"^  last \d validation  [▁-█]+  \d+\.\d\d % to \d+\.\d\d %$", told.out, re.M)
    assert re.search(r"^  done  .*: \d+\.\d\d % (test|validation)$", told.out, re.M)
    assert "accuracy %" in told.out
    assert files(store) == before
    assert Store(store).has(done)


def test_claims_of_the_dead_do_not_run(store: Path) -> None:
    import os

    cell = networks(store)[0]
    shutil.rmtree(Store(store).folder(cell))
    lease = store / "leases" / f"{cell}.lease"
    lease.write_text("held")
    (store / "working" / cell).mkdir()
    watcher = Watcher(Store(store))
    assert watcher.look().stages[0].running == 1
    os.utime(lease, (1, 1))
    seen = watcher.look()
    assert (seen.stages[0].running, seen.complete) == (0, False)


def test_finished_cells_are_read_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher, read, real = Watcher(Store(store)), [], Store.figures

    def figures(self: Store, cell: str) -> dict[str, Any]:
        read.append(cell)
        return real(self, cell)

    monkeypatch.setattr(Store, "figures", figures)
    first = watcher.look()
    assert first.complete
    assert watcher.look() == first
    assert len(read) == len(set(read)) == len(first.recent)


def test_nothing_planned_and_no_store(call: Any, tmp_path: Path) -> None:
    Store.open(tmp_path / "empty", create=True)
    assert call("watch", "empty", "--once").out == "No experiment has been planned in this store yet.\n"
    told = call("watch", "missing")
    assert told.code == 2
    assert "is not a store" in told.error


def test_a_terminal_shows_frames_until_control_c(call: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    naps = iter([None])

    def sleep(seconds: float) -> None:
        if next(naps, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr(watch_command.time, "sleep", sleep)
    told = call("watch", "store", "--every", "0.1")
    assert told.code == 0
    assert "cells done" in told.out


def test_a_frame_fits_the_screen(store: Path) -> None:
    from rich.console import Console

    view = watch_command._View(Store(store), None)
    shown = str(view.picture(Console(width=80), height=6))
    assert len(shown.splitlines()) == 6
    assert re.fullmatch(r"… \d+ more lines: oneticket results .*store", shown.splitlines()[-1])


def test_bars_of_a_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.3, 0.3]) == "▁▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"


def test_a_live_report_is_written_whenever_cells_come_and_ends_with_the_run(
    call: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = networks(store)[-1]
    shutil.move(Store(store).folder(late), tmp_path / "late")
    written: list[int] = []
    naps = itertools.count()

    def write_page(place: Path, out: Path, *_: Any) -> Path:
        written.append(len(list(place.glob("cells/*/*"))))
        return out / "report.html"

    def sleep(_: float) -> None:
        if next(naps) == 1:  # nothing has come in the first nap
            shutil.move(tmp_path / "late", Store(store).folder(late))

    monkeypatch.setattr(result_commands, "write_page", write_page)
    monkeypatch.setattr(result_commands.time, "sleep", sleep)
    told = call("report", "store", "--live", "--every", "5")
    assert told.code == 0
    assert written == [written[0], written[0] + 1]
    assert len(told.out.splitlines()) == 2


# -- several tables on one page -------------------------------------------------------------------------------------
def table(path: Path, gain: float, **other: Any) -> None:
    rows = []
    for arm, seed in itertools.product(("dense", "winning", "random"), range(3)):
        row = {column: "" if column in tidy.WORDS else None for column in tidy.COLUMNS}
        row |= {"experiment": "e", "model": "net", "rescale": "none", "budget": "recipe", "target": "t", "seed": seed}
        row |= {"target_recipe": "sgd", "arm": arm, "cell": f"{path.stem} {arm} {seed}", "test_images": 1000}
        row |= {"density_asked": 1.0 if arm == "dense" else 0.1, "density": 1.0 if arm == "dense" else 0.1}
        row |= {} if arm == "dense" else {"source": "t", "source_recipe": "sgd"}
        row |= {"test_accuracy": 0.8 + gain * (arm == "winning") + 0.001 * seed, "test_loss": 0.5}
        rows.append(row | other)
    path.write_text(tidy.as_csv(rows))


def test_two_tables_on_one_page(call: Any, tmp_path: Path) -> None:
    table(tmp_path / "before.csv", 0.01)
    table(tmp_path / "after.csv", 0.05)
    told = call("report", "before.csv", "after.csv", "--out", "page")
    assert (told.code, told.error) == (0, "")
    page = (tmp_path / "page" / "report.html").read_text()
    assert "e in before" in page
    assert "e in after" in page
    assert "vs that in before" in page
    lines = (tmp_path / "page" / "tables" / "comparisons.csv").read_text().splitlines()
    shown = [line for line in lines if line.startswith("e in after") and ",winning," in line and "store_before" in line]
    assert len(shown) == 1
    assert float(shown[0].split(",")[11]) == pytest.approx(0.04)
    colours = [
        set(re.findall(r"#[0-9a-f]{6}", (tmp_path / "page" / "figures" / name).read_text()))
        for name in ("e-in-before-net-t-sgd.svg", "e-in-after-net-t-sgd.svg")
    ]
    assert colours[0] == colours[1]


def test_what_can_not_be_compared_is_refused(call: Any, tmp_path: Path) -> None:
    table(tmp_path / "before.csv", 0.01)
    table(tmp_path / "after.csv", 0.05, test_images=999)
    told = call("report", "before.csv", "after.csv", "--out", "page")
    assert told.code == 2
    assert "before and after have different numbers of test images called 't': 1000 and 999" in told.error
    assert call("report", "before.csv", "before.csv", "--out", "page").code == 2
    assert "need --out" in call("report", "before.csv", "after.csv").error
    assert not (tmp_path / "page").exists()
