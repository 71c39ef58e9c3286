"""Capacity: workers by cores and memory, and no cell started that memory would not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import oneticket.lab.execution.capacity
from oneticket.lab.execution.capacity import GIB, MARGIN, SMALLEST, UNKNOWN, Memory, cores, default_workers, free_memory

LINUX = Path("/proc/meminfo").exists()


class Cell:
    """As much of a description as memory is counted by."""

    def __init__(self, network: object, recipe: object) -> None:
        self.network, self.recipe = network, recipe


def cells(**kinds: int) -> dict[str, Any]:
    """``cells(a=1, b=1)``: two cells of one kind."""
    parts = {kind: (object(), object()) for kind in kinds.values()}
    return {name: Cell(*parts[kind]) for name, kind in kinds.items()}


def test_there_is_a_worker_for_every_core_when_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oneticket.lab.execution.capacity, "cores", lambda: 8)
    for free, count, words in (
        (None, 8, "the free memory is unknown"),
        (64 * GIB, 8, "one per core; 64.0 GiB of memory are free"),
        (3 * SMALLEST, 3, "for 8 cores"),
        (SMALLEST // 2, 1, "for 8 cores"),
    ):
        monkeypatch.setattr(oneticket.lab.execution.capacity, "free_memory", lambda free=free: free)
        found = default_workers()
        assert found.count == count
        assert words in found.reason
    monkeypatch.undo()
    assert 1 <= default_workers().count <= cores()


@pytest.mark.skipif(not LINUX, reason="reads /proc/meminfo")
def test_free_memory_is_some_of_what_there_is() -> None:
    free = free_memory()
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert free is not None
    assert 0 < free <= int(facts["MemTotal"].split()[0]) * 1024


@pytest.mark.skipif(not LINUX, reason="reads /proc/self/cgroup")
def test_the_limits_of_control_groups_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of an outer group holds inside; what only caches files could be given back."""
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    inner = tmp_path / own.strip("/")
    inner.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(oneticket.lab.execution.capacity, "_GROUPS", tmp_path)
    everything = free_memory()
    for folder in {tmp_path, inner}:
        (folder / "memory.max").write_text("max\n")
    assert everything is not None
    assert free_memory() == pytest.approx(everything, rel=0.2)
    (tmp_path / "memory.max").write_text(f"{50 * 2**20}\n")
    (tmp_path / "memory.current").write_text(f"{30 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\nactive_file {4 * 2**20}\ninactive_file {6 * 2**20}\nfile 99\n")
    assert free_memory() == 30 * 2**20


def test_the_first_cell_always_runs_and_others_wait_until_it_has_told(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(cells(a=1, b=1), lambda: UNKNOWN)
    assert memory.lacks("a", []) is None
    assert "an unknown amount" in str(memory.lacks("b", ["a"]))
    memory.heard("a", GIB)
    assert memory.lacks("b", ["a"]) is None
    assert Memory(cells(a=1, b=1), lambda: 2 * UNKNOWN).lacks("b", ["a"]) is None


def test_where_memory_is_not_known_nothing_waits() -> None:
    memory = Memory(cells(a=1, b=1), lambda: None)
    memory.heard("a", 10**15)
    assert memory.lacks("b", ["a"]) is None


def test_what_running_cells_will_still_take_is_not_free() -> None:
    free = 10 * GIB
    memory = Memory(cells(a=1, b=1, c=1, d=2), lambda: free)
    memory.heard("a", 4 * GIB)
    memory.ended("a")
    need = MARGIN * 4 * GIB
    # b has begun and not told yet: its five GiB are owed; so ten hold c, and nine would not.
    assert memory.lacks("c", ["b"]) is None
    free = round(2 * need) - 1
    assert "about 5 GiB" in str(memory.lacks("c", ["b"]))
    memory.heard("b", 4 * GIB)  # what it has is not free any more; only the margin is owed
    free = round(need + need - 4 * GIB)
    assert memory.lacks("c", ["b"]) is None
    free -= 1
    assert memory.lacks("c", ["b"]) is not None
    memory.ended("b")  # and begins again, with nothing
    assert "and 1 GiB are free" in str(memory.lacks("c", ["b"]))
    free = UNKNOWN  # of another kind: another network, or another recipe
    assert "unknown" in str(memory.lacks("d", ["b"]))


def test_a_cell_that_cannot_tell_holds_nobody_up() -> None:
    memory = Memory(cells(a=1, b=1), lambda: 1000)
    memory.heard("a", 0)
    assert memory.lacks("b", ["a"]) is None
