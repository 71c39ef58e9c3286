"""What was allowed is kept once for each folder and content, and can be taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneticket.errors import InputError
from oneticket.places import config_home
from oneticket.trust.consent import NAME, Allowed, allow, is_allowed, list_allowed, revoke

MINE = Allowed("/home/me", {"a.py": "1", "b.py": "2"})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "oneticket"


def test_nothing_is_allowed_at_first(home: Path) -> None:
    assert config_home() == home
    assert list_allowed() == []
    assert not is_allowed(MINE)
    assert not home.exists(), "to look is not to write"


def test_what_was_allowed_is_allowed_in_its_folder_with_its_content() -> None:
    allow(MINE)
    assert is_allowed(MINE)
    assert is_allowed(Allowed("/home/me", {"a.py": "1"})), "a part of it"
    assert not is_allowed(Allowed("/home/you", MINE.files))
    assert not is_allowed(Allowed("/home/me", {"a.py": "1", "b.py": "3"}))
    assert not is_allowed(Allowed("/home/me", {**MINE.files, "c.py": "4"}))


def test_a_new_content_takes_the_place_of_the_old() -> None:
    allow(MINE)
    newer = Allowed("/home/me", {"a.py": "1", "b.py": "3"})
    allow(newer)
    assert [entry.files for entry in list_allowed()] == [newer.files]
    assert not is_allowed(MINE)


def test_other_files_and_folders_stay() -> None:
    others = [Allowed("/home/me", {"c.py": "1"}), Allowed("/home/you", MINE.files)]
    for entry in (*others, MINE):
        allow(entry)
    assert all(is_allowed(entry) for entry in (*others, MINE))
    assert {entry.folder for entry in revoke(["/home/me"])} == {"/home/me"}
    assert [is_allowed(entry) for entry in (*others, MINE)] == [False, True, False]
    revoke(None)
    assert list_allowed() == []


def test_only_the_user_can_read_it(home: Path) -> None:
    allow(MINE)
    assert (home / NAME).stat().st_mode & 0o077 == 0
    assert [path.name for path in home.iterdir()] == [NAME], "nothing half-written stays"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 2, "allowed": []}', b"\xff", b'{"version": 1, "allowed": [1]}'],
)
def test_a_damaged_file_allows_nothing_and_says_what_to_do(home: Path, content: bytes) -> None:
    allow(MINE)
    (home / NAME).write_bytes(content)
    with pytest.raises(InputError, match=rf"{NAME}: .*(remove it|update oneticket)"):
        is_allowed(MINE)
