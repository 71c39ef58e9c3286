"""A ticket that is pushed comes back to the bit, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from oneticket.errors import DamagedTicket, ForeignFile, InputError, TicketError, TooNewTicket
from oneticket.sharing import Place, places, pull, push, read_index
from oneticket.sharing.places import place_of
from oneticket.sharing.pulling import save
from oneticket.ticket import Ticket


def test_a_pushed_ticket_comes_back_to_the_bit(place: Place, ticket: Path, tmp_path: Path) -> None:
    pushed = push(ticket, place, license="cc-by-4.0")
    assert pushed.written == ("ticket.safetensors", "README.md", "index.json"), "the index comes last"
    pulled = pull(place)
    assert pulled.data == ticket.read_bytes()
    assert pulled.sha256 == pushed.entry.sha256 == hashlib.sha256(ticket.read_bytes()).hexdigest()
    assert pulled.entry is not None
    assert (pulled.entry.name, pulled.entry.model, pulled.entry.seen) == ("small", "lenet-300-100", ("digits",))
    assert save(pulled, tmp_path / "back.safetensors")
    assert Ticket.load(tmp_path / "back.safetensors") == Ticket.load(ticket)
    assert not save(pulled, tmp_path / "back.safetensors"), "it is there already"


def test_pushing_again_writes_nothing(place: Place, ticket: Path) -> None:
    push(ticket, place)
    assert push(ticket, place).written == ()


def test_other_content_is_refused_without_force(place: Place, ticket: Path, other: Path) -> None:
    push(ticket, place)
    with pytest.raises(InputError, match=r"has other content in ticket\.safetensors.*expected --force"):
        push(other, place)
    assert pull(place).data == ticket.read_bytes()
    assert push(other, place, force=True).written
    assert pull(place, name="other").data == other.read_bytes()


def test_a_zoo_holds_several_tickets_by_name(place: Place, ticket: Path, other: Path) -> None:
    for name, file in {"b": ticket, "a": other}.items():
        push(file, place, name=name)
    index = read_index(place)
    assert index is not None
    assert [entry.name for entry in index.tickets] == ["a", "b"]
    assert pull(place, name="b").data == ticket.read_bytes()
    with pytest.raises(InputError, match="there are 2 tickets; expected --name a or b"):
        pull(place)
    with pytest.raises(InputError, match=r"unknown ticket 'aa'.*did you mean 'a'"):
        pull(place, name="aa")


def test_an_interrupted_push_leaves_nothing(tmp_path: Path, ticket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = places.write_file

    def interrupted(path: Any, data: bytes) -> None:
        if Path(path).name == "index.json":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(places, "write_file", interrupted)
    target = tmp_path / "new" / "place"
    with pytest.raises(KeyboardInterrupt):
        push(ticket, place_of(str(target)), name="one")
    assert not target.parent.exists(), "folders that were made are gone too"


def test_a_push_that_fails_leaves_an_older_ticket_as_it_was(
    tmp_path: Path, ticket: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    place = place_of(f"memory://{tmp_path.name}/zoo")
    push(ticket, place, name="one")
    system = type(fsspec.filesystem("memory"))
    real = system.pipe_file

    def full(self: Any, path: str, data: bytes, **rest: Any) -> None:
        if path.endswith("README.md"):
            raise OSError("no space left")
        real(self, path, data, **rest)

    monkeypatch.setattr(system, "pipe_file", full)
    with pytest.raises(InputError, match=r"cannot be written .no space left"):
        push(other, place, name="two")
    index = read_index(place)
    assert index is not None
    assert [entry.name for entry in index.tickets] == ["one"]
    assert place.read("two/ticket.safetensors", 10**6) is None
    assert pull(place, name="one").data == ticket.read_bytes()


def test_a_store_that_writes_something_else_is_noticed(
    tmp_path: Path, ticket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = type(fsspec.filesystem("memory"))
    real = system.pipe_file
    monkeypatch.setattr(system, "pipe_file", lambda self, path, data, **rest: real(self, path, data[:-1], **rest))
    with pytest.raises(InputError, match="was not written as it is"):
        push(ticket, place_of(f"memory://{tmp_path.name}/zoo"))


def test_a_push_to_the_hub_is_one_commit(hub: Any, ticket: Path) -> None:
    push(ticket, place_of("hf:someone/mine", private=True))
    assert hub.commits == ["Ticket of lenet-300-100, density 0.5833"]
    assert hub.made == {"someone/mine": True}
    hub.refuses = True
    with pytest.raises(
        TicketError, match=r"hf:someone/other: the hub did not do it .403 Forbidden.; expected a network"
    ):
        push(ticket, place_of("hf:someone/other"))


def test_from_a_web_server_a_ticket_is_pulled_and_nothing_is_pushed(server: str, ticket: Path, tmp_path: Path) -> None:
    push(ticket, place_of(str(tmp_path / "zoo")), name="one")
    web = place_of(f"{server}/zoo/")
    assert pull(web).data == ticket.read_bytes()
    assert pull(place_of(server), file="small.safetensors").entry is None
    with pytest.raises(TicketError, match="it holds no shared tickets"):
        pull(place_of(f"{server}/nothing"))
    with pytest.raises(InputError, match="a web server is only read"):
        push(ticket, web)


# -- what must not be believed ----------------------------------------------------------------------------------------
def test_a_file_that_changed_on_the_way_is_refused(tmp_path: Path, ticket: Path, other: Path) -> None:
    place = place_of(str(tmp_path / "shared"))
    push(ticket, place)
    (tmp_path / "shared" / "ticket.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(DamagedTicket, match=r"its SHA-256 is .*, not that of the index"):
        pull(place)
    push(ticket, place, force=True)
    with pytest.raises(DamagedTicket, match="not that of the digest asked for"):
        pull(place, sha256="0" * 64)
    assert pull(place, sha256=hashlib.sha256(ticket.read_bytes()).hexdigest().upper())


def changed(folder: Path, **entry: Any) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["tickets"][0] |= entry
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "file", ["../small.safetensors", "/etc/passwd", "a/../../b", "a\\b", "http://x/y", ".hidden", ""]
)
def test_an_index_cannot_name_files_outside_of_its_place(file: str, tmp_path: Path, ticket: Path) -> None:
    push(ticket, place_of(str(tmp_path / "shared")))
    changed(tmp_path / "shared", file=file)
    with pytest.raises(ForeignFile, match="not an index of tickets"):
        pull(place_of(str(tmp_path / "shared")))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"format": 1, "tickets": [{}]}', b"\xff", b'{"format": "1"}', b"[" * 10**5, b"null"],
)
def test_a_file_that_is_no_index_is_refused_and_not_overwritten(content: bytes, tmp_path: Path, ticket: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "index.json").write_bytes(content)
    for act in (lambda p: pull(p), lambda p: push(ticket, p, force=True)):
        with pytest.raises(ForeignFile, match="not an index of tickets"):
            act(place_of(str(tmp_path / "shared")))
    assert (tmp_path / "shared" / "index.json").read_bytes() == content


def test_an_index_of_a_later_version_is_not_guessed_at(tmp_path: Path, ticket: Path) -> None:
    push(ticket, place_of(str(tmp_path / "shared")))
    (tmp_path / "shared" / "index.json").write_text('{"format": 2}')
    with pytest.raises(TooNewTicket, match="expected 1 at most"):
        pull(place_of(str(tmp_path / "shared")))


def test_a_file_larger_than_its_index_says_is_not_read(tmp_path: Path, ticket: Path) -> None:
    push(ticket, place_of(str(tmp_path / "shared")))
    changed(tmp_path / "shared", bytes=10)
    with pytest.raises(TicketError, match="has more than 10 bytes"):
        pull(place_of(str(tmp_path / "shared")))
    changed(tmp_path / "shared", bytes=10**17)  # more than there is memory: what is promised is not reserved
    assert pull(place_of(str(tmp_path / "shared")))


def test_a_pulled_ticket_does_not_replace_another_file(tmp_path: Path, ticket: Path, other: Path) -> None:
    push(ticket, place_of(str(tmp_path / "shared")))
    pulled = pull(place_of(str(tmp_path / "shared")))
    with pytest.raises(InputError, match="the file has other content"):
        save(pulled, other)
    assert save(pulled, other, force=True)
    assert other.read_bytes() == ticket.read_bytes()


@pytest.mark.parametrize("text", ["hf:name", "hf:a/b/c", "hf:../x", "foo://bar"])
def test_what_names_no_place_is_refused(text: str) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("huggingface_hub")
    with pytest.raises(InputError):
        place_of(text)


@pytest.mark.parametrize(
    ("library", "text", "extra"), [("fsspec", "s3://a/b", "share"), ("huggingface_hub", "hf:a/b", "hub")]
)
def test_a_missing_library_is_named_with_its_command(
    library: str, text: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    hidden: Mapping[str, None] = {library: None}
    for name in hidden:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"needs {library}; expected pip install 'oneticket\[{extra}\]'"):
        place_of(text)
