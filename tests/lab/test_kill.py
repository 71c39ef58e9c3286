"""Runs that are killed, again and again, and runs that share a store, end with the table of a run left in peace."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import oneticket.cli

pytestmark = pytest.mark.slow

KILLS = 20
PATIENCE = 600.0  # seconds until what has not happened is taken never to happen


class Moment(Enum):
    """When a run is killed: while it starts, while cells are computed, or just when one has been finished."""

    START = auto()
    WITHIN_A_CELL = auto()
    AFTER_A_CELL = auto()


MOMENTS = (Moment.START, *3 * (Moment.WITHIN_A_CELL,), Moment.AFTER_A_CELL)


class Place:
    """A folder with the quick start of one seed, and commands run in it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        text = Path(oneticket.cli.__file__).with_name("quickstart.toml").read_text(encoding="utf-8")
        text, found = re.subn(r"^seeds *=.*$", "seeds = 1", text, flags=re.MULTILINE)
        assert found == 1
        (folder / "short.toml").write_text(text, encoding="utf-8")

    def start(self, store: str, workers: int) -> subprocess.Popen[str]:
        """``oneticket run`` in a process group of its own."""
        arguments = ["run", "short.toml", "--json", "--store", store, "--workers", str(workers)]
        return subprocess.Popen(
            [sys.executable, "-m", "oneticket", *arguments, "--cache", str(self.cache)],
            cwd=self.folder, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def finish(self, run: subprocess.Popen[str]) -> dict[str, Any]:
        """What a run tells at its end; it must end well."""
        out, error = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0, error
        facts: dict[str, Any] = json.loads(out)
        return facts

    def table(self, store: str) -> str:
        """``oneticket results --format csv`` without the column of time."""
        command = [sys.executable, "-m", "oneticket", "results", store, "--format", "csv"]
        told = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(io.StringIO(told))]
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def kill_at_random(self, run: subprocess.Popen[str], store: str, moment: Moment, seconds: float) -> None:
        """Kill the whole group at a random moment, or as soon as it has finished a cell.

        So something is left for the kills after it, however fast the machine is by then: there are twice as many cells
        as kills.
        """
        before = self.finished(store)
        if moment is not Moment.START:
            self.first_claim(run, store)
        deadline = time.monotonic() + (PATIENCE if moment is Moment.AFTER_A_CELL else seconds)
        while run.poll() is None and time.monotonic() < deadline and self.finished(store) == before:
            time.sleep(0.005)
        alive = run.poll() is None
        with contextlib.suppress(ProcessLookupError):  # it has ended, and all it started with it
            os.killpg(run.pid, signal.SIGKILL)
        _, error = run.communicate()
        assert alive, f"it ended before it could be killed: {error}"

    def finished(self, store: str) -> int:
        """The number of cells that are there."""
        return len(list((self.folder / store).glob("cells/*/*/cell.json")))

    def first_claim(self, run: subprocess.Popen[str], store: str) -> float:
        """Wait until a run has claimed a cell, or has ended; the seconds waited."""
        since = time.time()
        while run.poll() is None and not any(at > since for at in _times(self.folder / store / "leases")):
            time.sleep(0.005)
        return time.time() - since


def _times(leases: Path) -> list[float]:
    """When the claims of the moment were made."""
    found = []
    for lease in leases.glob("*.lease"):
        try:
            found.append(lease.stat().st_mtime)
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Place:
    return Place(tmp_path_factory.mktemp("kill"), cache)


class Undisturbed(NamedTuple):
    """What a run gave that nobody disturbed: its table, its seconds to the first cell, and those a cell takes."""

    table: str
    start: float
    pace: float


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> Undisturbed:
    run = place.start("undisturbed", 2)
    start = place.first_claim(run, "undisturbed")
    facts = place.finish(run)
    assert (facts["trained"], facts["complete"]) == (facts["cells"], True)
    return Undisturbed(place.table("undisturbed"), start, 2 * (facts["seconds"] - start) / facts["cells"])


def test_a_finished_experiment_trains_nothing_when_it_is_run_again(place: Place, undisturbed: Undisturbed) -> None:
    facts = place.finish(place.start("undisturbed", 2))
    assert (facts["trained"], facts["cached"], facts["failed"]) == (0, facts["cells"], {})
    assert place.table("undisturbed") == undisturbed.table


@pytest.mark.parametrize(
    ("workers", "seed"), [(1, 1), (2, 2), *(pytest.param(2, seed, marks=pytest.mark.faults) for seed in (3, 4, 5))]
)
def test_a_run_killed_at_random_moments_ends_with_the_same_table(
    place: Place, undisturbed: Undisturbed, workers: int, seed: int
) -> None:
    chance, store = random.Random(seed), f"killed-{seed}"
    for number in range(KILLS):
        moment = MOMENTS[number % len(MOMENTS)]
        usual = undisturbed.start if moment is Moment.START else 1.5 * undisturbed.pace
        run = place.start(store, workers)
        place.kill_at_random(run, store, moment, chance.uniform(0, usual))
        whole = [folder for folder in (place.folder / store).glob("cells/*/*") if not (folder / "cell.json").exists()]
        assert not whole, "a cell that is there in part"
    facts = place.finish(place.start(store, workers))
    assert 0 < facts["cached"] < facts["cells"], "what was finished before a kill was kept"
    assert facts["trained"] == facts["cells"] - facts["cached"]
    assert place.table(store) == undisturbed.table
    assert not list((place.folder / store / "working").iterdir())
    assert not list((place.folder / store / "leases").iterdir())


def test_two_runs_on_one_store_do_each_cell_once(place: Place, undisturbed: Undisturbed) -> None:
    first, second = (place.start("shared", 1) for _ in range(2))
    facts = [place.finish(run) for run in (first, second)]
    cells = facts[0]["cells"]
    assert sum(run["trained"] for run in facts) == cells
    assert all(run["trained"] + run["elsewhere"] + run["cached"] == cells for run in facts)
    assert all(run["trained"] for run in facts), "both have worked"
    assert place.table("shared") == undisturbed.table


@pytest.mark.faults
@pytest.mark.parametrize("hours", [-7, 7])
def test_a_clock_that_is_set_changes_nothing(place: Place, undisturbed: Undisturbed, hours: int) -> None:
    """The claims of killed workers and of living ones seem to be of another time."""
    store, moved = f"clock{hours}", 0
    run = place.start(store, 2)
    place.kill_at_random(run, store, Moment.WITHIN_A_CELL, 0.2)
    since = time.monotonic()
    runs = [place.start(store, 1) for _ in range(2)]
    while any(run.poll() is None for run in runs):
        for lease in (place.folder / store / "leases").glob("*.lease"):
            with contextlib.suppress(FileNotFoundError):
                os.utime(lease, (time.time() + 3600 * hours,) * 2)
                moved += 1
        time.sleep(0.1)
    facts = [place.finish(run) for run in runs]
    assert moved
    assert sum(run["trained"] for run in facts) <= facts[0]["cells"], "no cell was computed twice"
    assert place.table(store) == undisturbed.table
    assert time.monotonic() - since < PATIENCE


@pytest.mark.faults
@pytest.mark.parametrize("most", [0, 2_000, 50_000])
def test_a_store_that_cannot_grow_says_so_and_is_finished_later(
    place: Place, undisturbed: Undisturbed, most: int
) -> None:
    """As on a full disk: no file may become larger than ``most`` bytes."""
    store = f"small-{most}"
    limited = (
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most})); "
        "sys.argv = ['oneticket', *sys.argv[1:]]; runpy.run_module('oneticket', run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", limited, "run", "short.toml", "--store", store, "--cache", str(place.cache)],
        cwd=place.folder, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert run.returncode in (1, 2), run.stderr
    assert "Traceback" not in run.stderr
    assert re.search(r"[Tt]oo large|cannot be written|No usable temporary directory", run.stderr + run.stdout), (
        run.stderr
    )
    assert place.finish(place.start(store, 2))["complete"]
    assert place.table(store) == undisturbed.table
