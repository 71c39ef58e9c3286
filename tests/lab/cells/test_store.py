"""The store: a cell is there whole or not at all, and nobody computes what another process is computing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease

from oneticket.errors import InputError
from oneticket.identity import digest
from oneticket.lab.cells.claims import LEASE_SECONDS, Busy
from oneticket.lab.cells.marker import STORE_VERSION, version_of, write_marker
from oneticket.lab.cells.records import sealed
from oneticket.lab.cells.store import Store, is_store

PATIENCE = 600.0  # seconds until what has not happened is taken never to happen
RECORD = {"description": {"seed": 0}, "outcome": {"test_accuracy": 0.5}, "cost": {"seconds": 1.0}}
CELL = digest(RECORD["description"])


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
    files = {"history.jsonl": hashlib.sha256(b"{}\n").hexdigest()}
    assert store.read(CELL) == {**RECORD, "files": files}
    assert sorted(file.name for file in store.folder(CELL).iterdir()) == ["cell.json", "history.jsonl"]
    assert store.folder(CELL) == store.root / "cells" / CELL[:2] / CELL
    assert not list((store.root / "working").iterdir())
    assert not list((store.root / "leases").iterdir())


def test_everything_is_on_disk_before_the_cell_appears_and_then_the_cell_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file has been synced before the rename, and so has the list of them; after it, the shelf of the cell."""
    events: list[str] = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b))[1])
    finish(store, history="x")
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert {"cell.json", "history", CELL} <= {Path(event).name for event in before}
    assert {Path(event).name for event in after} == {CELL[:2], "cells"}


def test_a_commit_that_is_interrupted_leaves_no_cell(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        finish(store)
    monkeypatch.undo()
    assert not store.has(CELL)
    finish(store)
    assert store.read(CELL) == RECORD | {"files": {}}


def test_a_cell_that_somebody_else_finished_meanwhile_stays_as_it_is(store: Store) -> None:
    with store.claimed(CELL) as working:
        store.folder(CELL).mkdir(parents=True)
        theirs = {**RECORD, "outcome": {"test_accuracy": 0.25}}
        (store.folder(CELL) / "cell.json").write_text(sealed(theirs))
        store.commit(CELL, working, RECORD)
    assert store.read(CELL)["outcome"] == {"test_accuracy": 0.25}
    assert not (store.root / "working" / CELL).exists()


def test_the_remains_of_a_damaged_cell_make_room(store: Store) -> None:
    store.folder(CELL).mkdir(parents=True)
    (store.folder(CELL) / "history.jsonl").touch()
    assert not store.has(CELL)
    finish(store)
    assert store.read(CELL) == RECORD | {"files": {}}


def test_a_record_that_is_no_json_is_not_committed(store: Store) -> None:
    with store.claimed(CELL) as working, pytest.raises(ValueError, match="JSON"):
        store.commit(CELL, working, {"outcome": float("nan")})
    assert not store.has(CELL)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"outcome": {}}', "\x00" * 100])
def test_a_damaged_cell_is_told_with_its_file_and_what_to_do(store: Store, text: str) -> None:
    finish(store)
    (store.folder(CELL) / "cell.json").write_text(text)
    with pytest.raises(InputError, match=r"cell\.json: is damaged .*store verify .* --repair"):
        store.read(CELL)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"outcome": {}}', "\x00" * 100])
def test_figures_of_a_damaged_cell_are_refused_in_the_same_words(store: Store, text: str) -> None:
    finish(store)
    assert store.figures(CELL) == {"test_accuracy": 0.5, "seconds": 1.0}
    (store.folder(CELL) / "cell.json").write_text(text)
    with pytest.raises(InputError, match=r"cell\.json: is damaged .*store verify .* --repair"):
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


@pytest.mark.parametrize(
    "text", ["", '{"store', '{"store":2,"sha256":"7', "\x00" * 90, '{"store":2,\x00\x00', "1", "[]", None]
)
def test_a_store_whose_marker_a_power_cut_took_keeps_its_cells(
    store: Store, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    finish(store)
    marker = store.root / "store.json"
    marker.unlink() if text is None else marker.write_text(text)
    assert is_store(store.root)
    assert Store.open(store.root).figures(CELL) == {"test_accuracy": 0.5, "seconds": 1.0}
    assert "store.json was lost" in caplog.text
    assert Store.open(store.root, create=True).has(CELL)
    caplog.clear()
    assert Store.open(store.root).has(CELL)
    assert not caplog.text, "it has been written anew"


@pytest.mark.parametrize("text", ["", '{"store', "\x00" * 90])
def test_a_store_that_a_power_cut_took_when_it_was_made_is_made_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    store = Store.open(tmp_path, create=True)
    finish(store)
    assert version_of(tmp_path) == STORE_VERSION


@pytest.mark.parametrize("text", ["1", "{}", "[]", '{"name": "a web shop"}', "\ud800"])
def test_a_store_file_of_another_program_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    marker = tmp_path / "store.json"
    marker.write_bytes(text.encode("utf-8", "surrogatepass"))
    for create in (False, True):
        with pytest.raises(InputError, match=r"store\.json cannot be read"):
            Store.open(tmp_path, create=create)
    assert [marker] == list(tmp_path.iterdir())


def old(store: Store, identity: str = CELL) -> None:
    """Make a finished cell, and the store, as versions before digests wrote them."""
    record = store.read(identity)
    del record["files"]
    (store.folder(identity) / "cell.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    (store.root / "store.json").write_text('{"store":1}')


def test_a_store_of_version_1_opens_with_its_cells_and_takes_new_ones(store: Store) -> None:
    finish(store, history="x")
    old(store)
    again = Store.open(store.root, create=True)
    assert again.read(CELL) == RECORD
    assert again.figures(CELL) == {"test_accuracy": 0.5, "seconds": 1.0}
    assert again.file(CELL, "history").read_text() == "x"
    with pytest.raises(InputError, match=r"is damaged \(it is missing\)"):
        again.file(CELL, "masks")
    assert version_of(store.root) == 1


def test_in_a_store_of_version_2_a_cell_without_digest_is_damaged(store: Store) -> None:
    finish(store)
    old(store)
    write_marker(store.root, 2)
    for read in (store.read, store.figures, store.environment):
        with pytest.raises(InputError, match="it has lost its digest"):
            read(CELL)


# -- damage -------------------------------------------------------------------------------------------------------
READERS = ("read", "figures", "environment")


@pytest.mark.parametrize("reader", READERS)
def test_any_flipped_bit_of_a_record_is_noticed_or_changes_nothing(store: Store, reader: str) -> None:
    finish(store, history="x")
    path = store.folder(CELL) / "cell.json"
    whole, right = path.read_bytes(), getattr(store, reader)(CELL)
    for place in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            assert getattr(store, reader)(CELL) == right


@pytest.mark.parametrize("reader", READERS)
def test_a_cell_in_the_folder_of_another_is_noticed(store: Store, reader: str) -> None:
    other = digest({"seed": 1})
    finish(store)
    shutil.copytree(store.folder(CELL), store.folder(other))
    with pytest.raises(InputError, match="that of another cell"):
        getattr(store, reader)(other)


def test_a_record_that_somebody_indented_is_whole_and_one_with_another_number_is_not(store: Store) -> None:
    finish(store)
    path = store.folder(CELL) / "cell.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, indent=2))
    assert store.figures(CELL)["test_accuracy"] == 0.5
    content["outcome"]["test_accuracy"] = 0.75
    path.write_text(json.dumps(content, indent=2))
    with pytest.raises(InputError, match="does not agree with its digest"):
        store.figures(CELL)


def test_a_file_of_a_cell_is_handed_out_only_as_it_was_written(store: Store) -> None:
    finish(store, history="x", masks="y")
    assert store.file(CELL, "history").read_text() == "x"
    damages: tuple[tuple[str, Callable[[Path], object]], ...] = (
        ("does not agree", lambda path: path.write_text("z")),
        ("does not agree", lambda path: path.write_text("")),
        ("No such file", Path.unlink),
    )
    for words, damage in damages:
        damage(store.folder(CELL) / "history")
        with pytest.raises(InputError, match=f"history: is damaged .*{words}.*verify .* --repair"):
            store.file(CELL, "history")
    (store.folder(CELL) / "more").write_text("m")
    with pytest.raises(InputError, match="finished without it"):
        store.file(CELL, "more")


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
    monkeypatch.setattr("oneticket.lab.cells.claims.LEASE_SECONDS", 0.5)
    lease = silent(claim(store, seconds=0.5))
    with store.claimed(CELL) as working:
        assert working.is_dir()
    assert lease.is_locked, "it was not given back"


@pytest.mark.parametrize("content", [b"garbage", bytes(64), b"{}", b"another duration"])
def test_a_damaged_claim_is_busy_and_taken_over_after_its_time(
    store: Store, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """It names no holder, or another duration, so that nobody could take it over."""
    place = store.root / "leases" / f"{CELL}.lease"
    lease = claim(store, seconds=7.0 if content == b"another duration" else LEASE_SECONDS)
    whole = place.read_bytes()
    silent(lease)
    lease.release()
    place.write_bytes(whole if content == b"another duration" else content)
    with pytest.raises(Busy), store.claimed(CELL):
        pass
    assert place.exists(), "its holder may live"
    monkeypatch.setattr("oneticket.lab.cells.claims.LEASE_SECONDS", 0.2)
    os.utime(place, (time.time() - 60,) * 2)
    with pytest.raises(Busy), store.claimed(CELL):
        pass
    with store.claimed(CELL) as working:
        assert working.is_dir()


def test_claims_on_finished_cells_go_when_the_store_is_opened(store: Store) -> None:
    """A process killed between the rename and the release leaves its claim, and nobody would ever ask for it again."""
    other = "cd" + "0" * 62
    finish(store)
    leases = [silent(claim(store, identity)) for identity in (CELL, other)]
    for lease in leases:
        Path(f"{lease.lock_file}.4711.unsigned").touch()
    Store.open(store.root, create=True)
    left = {path.name for path in (store.root / "leases").iterdir()}
    assert left == {f"{other}.lease", f"{other}.lease.4711.unsigned"}
    assert all(lease.is_locked for lease in leases), "neither was given back"


def test_a_holder_whose_cell_is_finished_may_find_its_claim_gone(store: Store) -> None:
    """Another run may have been started just now."""
    with store.claimed(CELL) as working:
        store.commit(CELL, working, RECORD)
        Store.open(store.root, create=True)
        assert not list((store.root / "leases").iterdir())
    assert store.has(CELL)
    assert not list((store.root / "leases").iterdir())


def test_the_claim_of_a_killed_process_that_its_parent_has_not_heard_of(store: Store, holder: Any) -> None:
    """Until then it looks alive: its cell, if finished, needs no claim."""
    store.commit(CELL, store.root / "working" / CELL, RECORD)
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it is dead and still has its number
    os.kill(holder.pid, 0)
    Store.open(store.root, create=True)
    assert not list((store.root / "leases").iterdir())


def test_a_claim_that_was_never_signed_is_taken_away_and_one_just_made_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process killed between making the file and signing it leaves an empty one, which filelock keeps for ever."""
    place = store.root / "leases" / f"{CELL}.lease"
    place.parent.mkdir(exist_ok=True)
    place.touch()
    monkeypatch.setattr("oneticket.lab.cells.claims.RECORDLESS_SECONDS", 3600.0)
    with pytest.raises(Busy), store.claimed(CELL):
        pass
    monkeypatch.setattr("oneticket.lab.cells.claims.RECORDLESS_SECONDS", 0.0)
    with store.claimed(CELL):
        assert [file.name for file in place.parent.iterdir()] == [place.name]
        assert place.stat().st_size
        with pytest.raises(Busy), store.claimed(CELL):
            pass
    assert not list(place.parent.iterdir())


def test_who_lost_a_claim_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneticket.lab.cells.claims.LEASE_SECONDS", 0.3)
    told = threading.Event()
    with store.claimed(CELL, on_lost=told.set):
        (store.root / "leases" / f"{CELL}.lease").unlink()
        assert told.wait(PATIENCE)
