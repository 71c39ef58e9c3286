"""The store: a cell is there whole or not at all, and nobody computes what another process is computing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease

from oneticket.errors import InputError
from oneticket.lab.cells.store import LEASE_SECONDS, STORE_VERSION, Busy, Store, is_store

PATIENCE = 600.0  # seconds until what has not happened is taken never to happen
CELL = "ab" + "0" * 62
RECORD = {"description": {}, "outcome": {"test_accuracy": 0.5}, "cost": {"seconds": 1.0}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def finish(store: Store, identity: str = CELL, **files: str) -> None:
    with store.claimed(identity) as working:
        for name, text in files.items():
            (working / name).write_text(text)
        store.commit(identity, working, RECORD)


# -- finished cells -----------------------------------------------------------------------------------------------
def test_a_finished_cell_lies_whole_under_its_name_and_leaves_nothing_behind(store: Store) -> None:
    with store.claimed(CELL) as working:
        (working / "checkpoint").mkdir()
        (working / "checkpoint" / "training.pt").touch()
        (working / "history.jsonl").write_text("{}\n")
        assert not store.has(CELL)
        assert not store.folder(CELL).exists()
        store.commit(CELL, working, RECORD)
    assert store.has(CELL)
    assert store.read(CELL) == RECORD
    assert sorted(file.name for file in store.folder(CELL).iterdir()) == ["cell.json", "history.jsonl"]
    assert store.folder(CELL) == store.root / "cells" / "ab" / CELL
    assert not list((store.root / "working").iterdir())
    assert not list((store.root / "leases").iterdir())


def test_everything_is_on_disk_before_the_cell_appears(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename is the last thing that happens, and every file has been synced before it."""
    events: list[str] = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b))[1])
    finish(store, history="x")
    assert events[-1] == "rename"
    assert {Path(event).name for event in events[:-1]} == {"cell.json", "history"}


def test_a_commit_that_is_interrupted_leaves_no_cell(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        finish(store)
    monkeypatch.undo()
    assert not store.has(CELL)
    finish(store)
    assert store.read(CELL) == RECORD


def test_a_cell_that_somebody_else_finished_meanwhile_stays_as_it_is(store: Store) -> None:
    with store.claimed(CELL) as working:
        store.folder(CELL).mkdir(parents=True)
        theirs = {**RECORD, "outcome": {"test_accuracy": 0.25}}
        (store.folder(CELL) / "cell.json").write_text(json.dumps(theirs))
        store.commit(CELL, working, RECORD)
    assert store.read(CELL)["outcome"] == {"test_accuracy": 0.25}
    assert not (store.root / "working" / CELL).exists()


def test_the_remains_of_a_damaged_cell_make_room(store: Store) -> None:
    store.folder(CELL).mkdir(parents=True)
    (store.folder(CELL) / "history.jsonl").touch()
    assert not store.has(CELL)
    finish(store)
    assert store.read(CELL) == RECORD


def test_a_record_that_is_no_json_is_not_committed(store: Store) -> None:
    with store.claimed(CELL) as working, pytest.raises(ValueError, match="JSON"):
        store.commit(CELL, working, {"outcome": float("nan")})
    assert not store.has(CELL)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"outcome": {}}', "\x00" * 100])
def test_a_damaged_cell_is_told_with_its_file_and_what_to_do(store: Store, text: str) -> None:
    finish(store)
    (store.folder(CELL) / "cell.json").write_text(text)
    with pytest.raises(InputError, match=r"cell\.json: is damaged .*delete its folder and run again"):
        store.read(CELL)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"outcome": {}}', "\x00" * 100])
def test_figures_of_a_damaged_cell_are_refused_in_the_same_words(store: Store, text: str) -> None:
    finish(store)
    assert store.figures(CELL) == {"test_accuracy": 0.5, "seconds": 1.0}
    (store.folder(CELL) / "cell.json").write_text(text)
    with pytest.raises(InputError, match=r"cell\.json: is damaged .*delete its folder and run again"):
        store.figures(CELL)


def test_the_finished_ones_of_many_cells_are_those_it_has(store: Store) -> None:
    asked = [f"{shelf}{number:062d}" for shelf in ("ab", "cd", "ef") for number in range(4)]
    assert store.finished(asked) == store.finished([]) == set()
    there = {asked[0], asked[2], asked[5]}
    for identity in there:
        finish(store, identity)
    finish(store, "ab" + "9" * 62)  # not asked for
    assert store.finished(iter(asked)) == there
    (store.folder(asked[2]) / "cell.json").unlink()
    (store.folder(asked[8])).mkdir(parents=True)
    assert store.finished(asked) == there - {asked[2]} == {i for i in asked if store.has(i)}


def test_finishing_a_cell_takes_back_the_note_of_its_failure(store: Store) -> None:
    store.note_failure(CELL, "winning digits@sgd", "the loss is nan")
    note = store.root / "failures" / f"{CELL}.json"
    assert json.loads(note.read_text()) == {"cell": "winning digits@sgd", "reason": "the loss is nan"}
    finish(store)
    assert not note.exists()


def test_finishing_a_cell_takes_back_the_stacks_of_its_crash(store: Store) -> None:
    file = store.note_stacks(CELL, "Fatal Python error: Aborted\n")
    assert file == store.root / "failures" / f"{CELL}.txt"
    assert file.read_text() == "Fatal Python error: Aborted\n"
    finish(store)
    assert not list((store.root / "failures").iterdir())


def test_of_a_crash_without_stacks_nothing_is_kept(store: Store) -> None:
    assert store.note_stacks(CELL, "") is None
    assert not list((store.root / "failures").iterdir())


def test_a_failure_that_cannot_be_noted_does_not_stop_the_run(store: Store) -> None:
    (store.root / "failures").rmdir()
    (store.root / "failures").touch()
    store.note_failure(CELL, "label", "reason")
    assert store.note_stacks(CELL, "stacks") is None
    store.forget_stacks(CELL)


def test_a_failure_for_which_the_disk_is_too_full_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    store.note_failure(CELL, "label", "reason")
    assert store.note_stacks(CELL, "stacks") is None
    assert not list((store.root / "failures").iterdir())


# -- opening ------------------------------------------------------------------------------------------------------
def test_a_store_is_opened_again(store: Store) -> None:
    finish(store)
    assert is_store(store.root)
    assert Store.open(store.root).has(CELL)
    assert Store.open(store.root, create=True).has(CELL)


def test_a_folder_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a store"):
        Store.open(tmp_path)
    with pytest.raises(InputError, match="is not a store"):
        Store.open(tmp_path / "nowhere")
    assert not is_store(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", [STORE_VERSION + 1, 99, "1", None])
def test_a_store_from_a_newer_version_is_refused(store: Store, version: Any) -> None:
    (store.root / "store.json").write_text(json.dumps({"store": version}))
    for create in (False, True):
        with pytest.raises(InputError, match=f"has version {version}; expected at most {STORE_VERSION}"):
            Store.open(store.root, create=create)


@pytest.mark.parametrize("text", ["", "1", "{}", "[]"])
def test_a_damaged_store_file_is_refused(store: Store, text: str) -> None:
    (store.root / "store.json").write_text(text)
    with pytest.raises(InputError, match=r"store\.json cannot be read"):
        Store.open(store.root)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below", Path("/proc/oneticket"), tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="expected a folder"):
            Store.open(place, create=True)
    (store.root / "working").rmdir()
    (store.root / "working").touch()
    with pytest.raises(InputError, match="cannot be written"):
        Store.open(store.root, create=True)


def test_experiments_come_back_by_name_and_a_damaged_one_is_told(store: Store) -> None:
    for name in ("b", "a"):
        store.write_experiment(name, {"columns": ["x"], "rows": [[name]]})
    assert [content["rows"] for content in store.experiments()] == [[["a"]], [["b"]]]
    (store.root / "experiments" / "a.json").write_text('{"columns": []}')
    with pytest.raises(InputError, match=r"a\.json: is damaged"):
        list(store.experiments())


# -- claims -------------------------------------------------------------------------------------------------------
def hold(root: str, identity: str, sender: Connection) -> None:
    """In another process: claim a cell, say so, and hold it."""
    try:
        with Store(Path(root)).claimed(identity) as working:
            (working / "half.txt").write_text("half")
            sender.send("held")
            time.sleep(60)
    except Busy:
        sender.send("busy")


@pytest.fixture
def holder(store: Store) -> Any:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=hold, args=(str(store.root), CELL, sender))
    process.start()
    assert receiver.recv() == "held"
    yield process
    process.kill()
    process.join()


def test_a_cell_that_another_process_holds_is_busy_and_others_are_free(store: Store, holder: Any) -> None:
    with pytest.raises(Busy, match=CELL[:12]), store.claimed(CELL):
        pytest.fail("two processes hold one cell")
    with store.claimed("cd" + "0" * 62):
        pass


def test_of_two_processes_that_claim_one_cell_exactly_one_gets_it(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        identity = f"{attempt:064}"
        pairs = [context.Pipe(duplex=False) for _ in range(2)]
        both = [context.Process(target=hold, args=(str(store.root), identity, sender)) for _, sender in pairs]
        for process in both:
            process.start()
        assert sorted(receiver.recv() for receiver, _ in pairs) == ["busy", "held"]
        for process in both:
            process.kill()
            process.join()


def test_a_dead_process_loses_its_cell_at_once_and_its_files_are_found(store: Store, holder: Any) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with store.claimed(CELL) as working:
        assert (working / "half.txt").read_text() == "half"


def test_a_claim_is_free_again_after_an_error(store: Store) -> None:
    with pytest.raises(RuntimeError, match="halfway"), store.claimed(CELL):
        raise RuntimeError("halfway")
    with store.claimed(CELL):
        store.discard(CELL)
        assert not (store.root / "working" / CELL).exists()


def claim(store: Store, identity: str = CELL, *, seconds: float = LEASE_SECONDS) -> SoftFileLease:
    """The claim of a holder that lives and refreshes it."""
    lease = SoftFileLease(str(store.root / "leases" / f"{identity}.lease"), lease_duration=seconds)
    lease.acquire()
    return lease


def silent(lease: SoftFileLease) -> SoftFileLease:
    """The claim of a holder that fell silent a minute ago, as when it died on another machine."""
    heartbeat = lease._claim.heartbeat
    assert heartbeat is not None
    lease._stop_heartbeat()
    heartbeat.thread.join()  # its last touch is behind it
    os.utime(lease.lock_file, (time.time() - 60,) * 2)
    return lease


def test_a_claim_that_its_holder_refreshes_is_busy(store: Store) -> None:
    lease = claim(store)
    with pytest.raises(Busy), store.claimed(CELL):
        pass
    lease.release()


def test_a_claim_that_nobody_refreshes_is_taken_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a process that died on another machine: nothing but its silence tells."""
    monkeypatch.setattr("oneticket.lab.cells.store.LEASE_SECONDS", 0.5)
    lease = silent(claim(store, seconds=0.5))
    with store.claimed(CELL) as working:
        assert working.is_dir()
    assert lease.is_locked, "it was not given back"


def test_claims_on_finished_cells_go_when_the_store_is_opened_if_their_holders_are_gone(
    store: Store, holder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process killed between the rename and the release leaves its claim, and nobody would ever ask for it again."""
    lease = store.root / "leases" / f"{CELL}.lease"
    working = store.root / "working" / CELL
    store.commit(CELL, working, RECORD)
    Store.open(store.root, create=True)
    assert lease.exists(), "its holder lives"
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    Store.open(store.root, create=True)
    assert not lease.exists()


def test_a_silent_claim_on_a_finished_cell_goes_and_one_on_an_unfinished_cell_stays(store: Store) -> None:
    other = "cd" + "0" * 62
    finish(store)
    leases = [silent(claim(store, identity)) for identity in (CELL, other)]
    Store.open(store.root, create=True)
    assert [path.stem for path in (store.root / "leases").iterdir()] == [other]
    assert all(lease.is_locked for lease in leases), "neither was given back"


def test_a_claim_that_was_never_signed_is_taken_away_and_one_just_made_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process killed between making the file and signing it leaves an empty one, which filelock keeps for ever."""
    place = store.root / "leases" / f"{CELL}.lease"
    place.parent.mkdir(exist_ok=True)
    place.touch()
    monkeypatch.setattr("oneticket.lab.cells.store.RECORDLESS_SECONDS", 3600.0)
    with pytest.raises(Busy), store.claimed(CELL):
        pass
    monkeypatch.setattr("oneticket.lab.cells.store.RECORDLESS_SECONDS", 0.0)
    with store.claimed(CELL):
        assert [file.name for file in place.parent.iterdir()] == [place.name]
        assert place.stat().st_size
        with pytest.raises(Busy), store.claimed(CELL):
            pass
    assert not list(place.parent.iterdir())


def test_who_lost_a_claim_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneticket.lab.cells.store.LEASE_SECONDS", 0.3)
    told = threading.Event()
    with store.claimed(CELL, on_lost=told.set):
        (store.root / "leases" / f"{CELL}.lease").unlink()
        assert told.wait(PATIENCE)
