"""Ticket files that are damaged, foreign, too new or contradictory; and the documented way to read one without us."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from oneticket.errors import DamagedTicket, ForeignFile, TicketError, TooNewTicket
from oneticket.masks import Masks
from oneticket.ticket import Provenance, Seen, Ticket

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ticket-format.md"


def example() -> Ticket:
    generator = torch.Generator().manual_seed(0)
    weights = {"conv.weight": torch.randn(3, 2, 3, 3, generator=generator), "fc1.weight": torch.randn(5, 7)}
    masks = Masks({name: torch.rand(w.shape, generator=generator) < 0.4 for name, w in weights.items()})
    rest = {"fc.weight": torch.randn(2, 5), "norm.num_batches_tracked": torch.tensor(3), "fc.bias": torch.randn(2)}
    seen = Seen(name="größe", fingerprint="ab", split="train", samples=10, recipe={"lr": 0.1})
    return Ticket(masks, weights, rest, "fc", Provenance(model="conv-2", seen=(seen,), seed=1, density_asked=0.4))


@pytest.fixture(scope="module")
def ticket() -> Ticket:
    return example()


@pytest.fixture(scope="module")
def whole(ticket: Ticket, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "t"
    ticket.save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "t.safetensors"


def outcome(path: Path, data: bytes) -> Ticket | TicketError:
    """What load makes of the bytes; anything but a ticket or a TicketError escapes and fails the test."""
    path.write_bytes(data)
    try:
        return Ticket.load(path)
    except TicketError as error:
        return error


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def signed(data: bytes, change: dict[str, Any] | None = None, **tensors: torch.Tensor | None) -> bytes:
    """The file with other metadata or tensors (None takes one away) and a checksum that is right for them."""
    header, _ = header_of(data)
    about = json.loads(header["__metadata__"]["oneticket"]) | (change or {})
    about.pop("checksum")
    content = {n: t for n, t in (load(data) | tensors).items() if t is not None}
    entries, body = header_of(save(content))
    sha = hashlib.sha256(canonical(about))
    for name, entry in sorted(entries.items()):
        sha.update(canonical([name, entry["dtype"], entry["shape"]]) + body[slice(*entry["data_offsets"])])
    about["checksum"] = sha.hexdigest()
    return save(content, {"oneticket": canonical(about).decode()})


# -- chance ----------------------------------------------------------------------------------------------------------
def test_every_truncation_is_damage(whole: bytes, path: Path) -> None:
    for length in range(len(whole)):
        assert isinstance(outcome(path, whole[:length]), DamagedTicket), length


def test_no_flipped_byte_gives_another_ticket(whole: bytes, ticket: Ticket, path: Path) -> None:
    begin = 8 + int.from_bytes(whole[:8], "little")
    for place in range(len(whole)):
        found = outcome(path, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if place >= begin:
            assert isinstance(found, DamagedTicket), place
            assert "checksum" in str(found)
        elif isinstance(found, Ticket):
            assert found == ticket, place


@settings(max_examples=400)
@given(data=st.data())
def test_whatever_happens_to_a_file_it_loads_equal_or_not_at_all(
    data: st.DataObject, whole: bytes, ticket: Ticket, path: Path
) -> None:
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat", "drop"]))
        if kind == "flip":
            changed[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            changed = changed[: place + 1]
        elif kind == "insert":
            changed[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "repeat":
            changed[place:place] = changed[place : place + 20]
        elif len(changed) > 9:
            del changed[place : place + 8]
    found = outcome(path, bytes(changed))
    if isinstance(found, Ticket):
        assert found == ticket


@settings(max_examples=200)
@given(data=st.binary(max_size=200))
def test_no_file_of_any_bytes_escapes(data: bytes, path: Path) -> None:
    assert isinstance(outcome(path, data), TicketError)
    assert isinstance(outcome(path, len(data).to_bytes(8, "little") + data), TicketError)


# -- named faults ----------------------------------------------------------------------------------------------------
def test_the_example_as_re_signed_here_is_sound(whole: bytes, path: Path) -> None:
    # The faults below are then the only ones in their files.
    assert signed(whole) == whole
    assert isinstance(outcome(path, signed(whole, {"head": "other"})), Ticket)


def test_a_flipped_byte_in_the_metadata(whole: bytes, path: Path) -> None:
    found = outcome(path, whole.replace(b"conv-2", b"conv-3"))
    assert isinstance(found, DamagedTicket)
    assert "checksum" in str(found)


def test_a_newer_version_is_told_before_anything_else(whole: bytes, path: Path) -> None:
    for data in (signed(whole, {"format": 2, "masks": "laid out anew"}), whole.replace(b'format\\":1', b'format\\":7')):
        found = outcome(path, data)
        assert isinstance(found, TooNewTicket)
        assert "newer oneticket" in str(found)


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, None])
def test_a_version_that_is_none(whole: bytes, path: Path, version: Any) -> None:
    assert isinstance(outcome(path, signed(whole, {"format": version})), DamagedTicket)


@pytest.mark.parametrize(
    ("change", "tensors", "fault"),
    [
        ({}, {"kept/conv.weight": None}, r"disagree about kept/conv\.weight"),
        ({}, {"rest/fc.bias": None}, r"disagree about rest/fc\.bias"),
        ({}, {"mask/ghost": torch.zeros(1, dtype=torch.uint8)}, "disagree about mask/ghost"),
        ({"rest": ["fc.bias", "fc.bias", "fc.weight", "norm.num_batches_tracked"]}, {}, "occur twice"),
        ({}, {"mask/conv.weight": torch.zeros(6, dtype=torch.uint8)}, "does not have its shape"),
        ({}, {"mask/conv.weight": torch.zeros(7)}, "does not have its shape"),
        ({}, {"kept/conv.weight": torch.zeros(1)}, r"\(1,\) kept values"),
        ({}, {"mask/conv.weight": torch.zeros(7, dtype=torch.uint8)}, "for 0 kept weights"),
        ({"masks": [{"name": "conv.weight", "shape": [-1]}]}, {}, "cannot be understood"),
        ({"masks": [{"name": "conv.weight"}]}, {}, "cannot be understood"),
        ({"masks": {}}, {}, "cannot be understood"),
        ({"head": 3}, {}, "cannot be understood"),
        ({"provenance": {"seed": "one"}}, {}, "cannot be understood"),
        ({"provenance": None}, {}, "cannot be understood"),
    ],
)
def test_contradictions_with_a_right_checksum(
    whole: bytes, path: Path, change: dict[str, Any], tensors: dict[str, Any], fault: str
) -> None:
    found = outcome(path, signed(whole, change, **tensors))
    assert isinstance(found, DamagedTicket)
    assert re.search(fault, str(found)), found


def test_kept_values_that_are_not_finite(ticket: Ticket, whole: bytes, path: Path) -> None:
    kept = ticket.weights["conv.weight"][ticket.masks["conv.weight"]].clone()
    kept[0] = float("nan")
    found = outcome(path, signed(whole, **{"kept/conv.weight": kept}))
    assert isinstance(found, DamagedTicket)
    assert "not finite" in str(found)


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**63], [10**30, 0]])
def test_shapes_that_cannot_exist(path: Path, shape: list[int], tmp_path: Path) -> None:
    Ticket(Masks({"x": torch.zeros(0, dtype=torch.bool)}), {"x": torch.zeros(0)}).save(tmp_path / "t")
    data = signed((tmp_path / "t").read_bytes(), {"masks": [{"name": "x", "shape": shape}]})
    assert isinstance(outcome(path, data), TicketError)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", "", "{}", '{"format":1}', '{"format":1,"a":NaN}', '{"format":1,"a":"\\ud800"}', "[" * 100_000],
)
def test_metadata_that_are_no_json_of_ours(path: Path, text: str) -> None:
    data = save({"mask/x": torch.zeros(1)}, {"oneticket": text})
    assert isinstance(outcome(path, data), DamagedTicket)


def test_a_header_that_is_broken_json_is_damage_to_a_ticket(whole: bytes, path: Path) -> None:
    end = 8 + int.from_bytes(whole[:8], "little")
    brace = whole.rindex(b"}", 0, end)
    assert isinstance(outcome(path, whole[:brace] + b" " + whole[brace + 1 :]), DamagedTicket)


def test_a_header_with_broken_unicode_is_damage_to_a_ticket(whole: bytes, path: Path) -> None:
    size = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + size].replace(b'"rest/fc.bias"', b'"rest/\\ud800"')
    found = outcome(path, len(header).to_bytes(8, "little") + header + whole[8 + size :])
    assert isinstance(found, DamagedTicket)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**7])
def test_an_absurd_header_length(whole: bytes, path: Path, length: int) -> None:
    found = outcome(path, length.to_bytes(8, "little") + whole[8:])
    assert isinstance(found, DamagedTicket)
    assert str(length) in str(found)
    assert str(path) in str(found)


def test_files_of_somebody_else(path: Path) -> None:
    foreign = [
        b"a text file that says something",
        b"PK\x03\x04" + bytes(100),
        b"\x80\x02}q\x00(X\x06\x00\x00\x00weightq\x01K\x01u." * 3,
        save({"weight": torch.ones(3)}),
        save({"weight": torch.ones(3)}, {"format": "pt"}),
        (2).to_bytes(8, "little") + b"[]",
        (27).to_bytes(8, "little") + b'{"__metadata__": "no table"}',
        (24).to_bytes(8, "little") + b'{"__metadata__":{"a":1}}',
    ]
    for data in foreign:
        assert isinstance(outcome(path, data), ForeignFile), data[:20]


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    with pytest.raises(ForeignFile, match="folder"):
        Ticket.load(tmp_path)
    with pytest.raises(TicketError, match="does not exist"):
        Ticket.verify(tmp_path / "missing")
    with pytest.raises(TicketError, match="cannot be read"):
        Ticket.load("nul\0byte")


def test_verify_raises_like_load(whole: bytes, path: Path) -> None:
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedTicket, match="bytes where its header announces"):
        Ticket.verify(path)


def test_unknown_provenance_is_read_past(whole: bytes, path: Path) -> None:
    found = outcome(path, signed(whole, {"provenance": {"seed": 5, "of a later version": 1}}))
    assert isinstance(found, Ticket)
    assert found.provenance == Provenance(seed=5)


# -- the documented way ----------------------------------------------------------------------------------------------
def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_reads_a_ticket_without_oneticket(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ticket.save("fashion.safetensors")
    code = blocks()[0]
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    assert "oneticket." not in code.replace("oneticket.safetensors", "")
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["weights"].keys() == ticket.weights.keys()
    assert scope["rest"].keys() == ticket.rest.keys()
    for read, held in ((scope["weights"], ticket.weights), (scope["rest"], ticket.rest)):
        for name, tensor in held.items():
            assert read[name].dtype == tensor.numpy().dtype
            assert np.array_equal(read[name], tensor.numpy()), name
    assert scope["about"]["head"] == "fc"
    assert scope["about"]["provenance"]["seen"][0]["name"] == "größe"


def test_the_page_verifies_a_ticket_without_oneticket(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ticket.save("fashion.safetensors")
    scope: dict[str, Any] = {}
    exec(blocks()[1], scope)
    assert scope["checksum"] == Ticket.verify("fashion.safetensors").checksum
    data = bytearray(Path("fashion.safetensors").read_bytes())
    data[-1] ^= 1
    Path("fashion.safetensors").write_bytes(data)
    with pytest.raises(AssertionError):
        exec(blocks()[1], {})


def test_the_page_names_every_key(ticket: Ticket, whole: bytes) -> None:
    about = json.loads(header_of(whole)[0]["__metadata__"]["oneticket"])
    text = PAGE.read_text(encoding="utf-8")
    for key in [*about, *about["provenance"], *about["provenance"]["seen"][0]]:
        assert f"`{key}`" in text, key
