"""Single tickets from the shell: found, looked into, moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from oneticket.data import DataSpec, open_data, resolve
from oneticket.ticket import Seen, Ticket

SMALL = ["--model", "lenet-300-100", "--option", "width=0.1", "--epochs", "2", "--batch-size", "64"]


@pytest.fixture
def found(call: Any, tmp_path: Path) -> Path:
    """A ticket of digits 0 to 4."""
    told = call("find", *SMALL, "--data", "digits", "--classes", "0,1,2,3,4", "--density", "0.25", "--out", "low.st")
    assert told.code == 0, told.error
    assert told.out.splitlines()[-1].startswith("low.st: ")
    assert "round 0/7: " in told.out
    return tmp_path / "low.st"


def test_find_writes_a_ticket_of_the_density_asked_for(found: Path) -> None:
    ticket = Ticket.load(found)
    assert ticket.masks.total == 64 * 30 + 30 * 10
    assert ticket.masks.kept == round(0.25 * ticket.masks.total)
    provenance = ticket.provenance
    assert (provenance.model, provenance.round, provenance.rewind, provenance.seed) == ("lenet-300-100", 7, "1ep", 0)
    assert provenance.model_options["width"] == 0.1
    (seen,) = provenance.seen
    assert (seen.name, seen.classes) == ("digits", 5)


def test_show_tells_densities_and_provenance(call: Any, found: Path) -> None:
    told = call("ticket", "show", found.name)
    assert told.code == 0
    assert "555 of 2220 weights kept, density 0.250000" in told.out
    assert "linear1.weight" in told.out
    assert "lenet-300-100" in told.out
    facts = json.loads(call("ticket", "show", found.name, "--json").out)
    assert facts["density"] == 0.25
    assert sum(layer["kept"] for layer in facts["layers"]) == 555
    assert facts["provenance"]["model"] == "lenet-300-100"


def test_show_tells_of_every_data_set_seen_its_split_fingerprint_and_what_normalised_it(
    call: Any, found: Path, tmp_path: Path
) -> None:
    splits = open_data(
        resolve({"low": DataSpec(builtin="digits", classes=tuple("01234"))}, "low", folder=tmp_path, cache=tmp_path),
        cache=tmp_path,
    )
    own = f"name digits, fingerprint {splits.train.digest()}, split train, normalised_by train, "
    lines = [line.split(maxsplit=1) for line in call("ticket", "show", found.name).out.splitlines()]
    (told,) = [words[1] for words in lines if words[:1] == ["seen"]]
    assert told.startswith(own)
    ticket = Ticket.load(found)
    later = Seen(name="later", fingerprint="f00d" * 16, split="validation", normalised_by="test")
    provenance = msgspec.structs.replace(ticket.provenance, seen=(*ticket.provenance.seen, later, Seen(name="dim")))
    Ticket(ticket.masks, ticket.weights, ticket.rest, head=ticket.head, provenance=provenance).save(tmp_path / "two.st")
    lines = [line.split(maxsplit=1) for line in call("ticket", "show", "two.st").out.splitlines()]
    assert [words[1] for words in lines if words[:1] == ["seen"]] == [
        told,
        f"name later, fingerprint {'f00d' * 16}, split validation, normalised_by test",
        "name dim",
    ], "in their order, and what is unknown is left out"
    facts = json.loads(call("ticket", "show", "two.st", "--json").out)["provenance"]["seen"]
    assert [(s["name"], s["split"], s["fingerprint"], s["normalised_by"]) for s in facts] == [
        ("digits", "train", splits.train.digest(), "train"),
        ("later", "validation", "f00d" * 16, "test"),
        ("dim", "", "", ""),
    ]


def test_verify_accepts_a_sound_ticket_and_refuses_a_damaged_one(call: Any, found: Path) -> None:
    told = call("ticket", "verify", found.name)
    assert (told.code, "sound" in told.out) == (0, True)
    content = bytearray(found.read_bytes())
    content[-5] ^= 1
    found.write_bytes(content)
    for command in ("verify", "show"):
        told = call("ticket", command, found.name)
        assert told.code == 2
        assert "low.st" in told.error
    found.write_bytes(content[: len(content) // 2])
    assert call("ticket", "verify", found.name).code == 2


def test_diff_tells_where_two_tickets_differ(call: Any, found: Path) -> None:
    assert "equal" in call("ticket", "diff", found.name, found.name).out
    other = ["--data", "digits", "--classes", "0,1,2,3,4", "--density", "0.25", "--seed", "1", "--out", "other.st"]
    assert call("find", *SMALL, *other).code == 0
    told = call("ticket", "diff", found.name, "other.st")
    assert told.code == 0
    assert "linear1.weight" in told.out
    assert "seed" in told.out


def test_finding_again_gives_the_same_bytes(call: Any, found: Path) -> None:
    again = ["--data", "digits", "--classes", "0,1,2,3,4", "--density", "0.25", "--out", "again.st"]
    assert call("find", *SMALL, *again).code == 0
    assert (found.parent / "again.st").read_bytes() == found.read_bytes()


def test_transfer_trains_the_ticket_on_another_task(call: Any, found: Path) -> None:
    arguments = ["transfer", found.name, "--data", "digits", "--epochs", "6", "--batch-size", "32"]
    facts = json.loads(call(*arguments, "--json").out)
    assert facts["density"] == 0.25
    assert len(facts["history"]) == 6
    assert facts["test_accuracy"] > 0.5, "chance is 0.1"
    told = call(*arguments)
    assert told.code == 0
    assert f"test accuracy {100 * facts['test_accuracy']:.2f} %" in told.out


def test_a_ticket_that_does_not_fit_is_refused(call: Any, found: Path) -> None:
    told = call("transfer", found.name, "--data", "digits", "--size", "12", "--epochs", "1")
    assert told.code == 2
    assert "low.st: the ticket does not fit the data: linear1.weight: shape (30, 64)" in told.error
    assert "Warning" not in told.error
    assert told.out == ""


NET = """
import pathlib
from torch import nn

def net(input_shape, classes, hidden: int = 9, mark: str = ""):
    if mark:
        pathlib.Path(mark).touch()
    c, h, w = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, hidden), nn.ReLU(), nn.Linear(hidden, classes))
"""


def test_a_ticket_decides_nothing_about_what_code_is_run(call: Any, tmp_path: Path) -> None:
    (tmp_path / "moved_nets.py").write_text(NET)
    own = ["--model", "moved_nets:net", "--option", "mark=found"]
    training = ["--data", "digits", "--epochs", "1"]
    assert call("find", *own, *training, "--rounds", "1", "--density", "0.5", "--out", "t.st").code == 0
    assert (tmp_path / "found").exists()
    (tmp_path / "found").unlink()
    told = call("transfer", "t.st", *training)
    assert told.code == 2
    assert "t.st: the ticket is of the model 'moved_nets:net'; expected --model" in told.error
    assert call("transfer", "t.st", *training, "--model", "moved_nets:net").code == 0
    assert not (tmp_path / "found").exists(), "options of a ticket are not given to code"
    assert call("transfer", "t.st", *training, *own).code == 0
    assert (tmp_path / "found").exists()
    assert call("transfer", "t.st", *training, "--model", "lenet-300-100").code == 2, "it does not fit"


def test_a_search_that_diverges_is_a_failure_and_no_bad_input(call: Any, tmp_path: Path) -> None:
    told = call("find", *SMALL, "--data", "digits", "--lr", "1e20", "--out", "t.st")
    assert told.code == 1
    assert "the loss is" in told.error
    assert not (tmp_path / "t.st").exists()


def test_a_folder_of_images_whose_classes_have_odd_names_is_harmless(call: Any, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label, name in enumerate(["a\x1b[31m", "b\x07", "c\nd"]):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            for number in range(12):
                Image.new("L", (8, 8), 80 * label + number).save(tmp_path / "pictures" / part / name / f"{number}.png")
    told = call("find", *SMALL, "--data", "pictures", "--out", "t.st", "--rounds", "1")
    assert told.code == 0, told.error
    wrong = call("find", *SMALL, "--data", "pictures", "--classes", "x", "--out", "t.st")
    assert wrong.code == 2
    assert "a\\x1b[31m" in wrong.error
    for out in (told.out, told.error, wrong.error, call("ticket", "show", "t.st").out):
        assert not any(ord(letter) < 0x20 and letter != "\n" for letter in out)


def test_a_ticket_with_control_characters_in_its_provenance_is_shown_without(call: Any, tmp_path: Path) -> None:
    (tmp_path / "odd\x1b[31m").mkdir()
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / "odd\x1b[31m" / part / label).mkdir(parents=True)
            for number in range(12):
                Image.new("L", (8, 8), number).save(tmp_path / "odd\x1b[31m" / part / label / f"{number}.png")
    assert call("find", *SMALL, "--data", "odd\x1b[31m", "--out", "t.st", "--rounds", "1").code == 0
    shown = call("ticket", "show", "t.st").out
    assert "\x1b" not in shown
    assert "odd\\x1b[31m" in shown


def test_a_folder_of_sharded_parquet_files_is_found(call: Any, tmp_path: Path) -> None:
    import io

    import pyarrow
    import pyarrow.parquet

    def png(value: int) -> dict[str, bytes]:
        file = io.BytesIO()
        Image.new("L", (8, 8), value).save(file, "PNG")
        return {"bytes": file.getvalue()}

    (tmp_path / "shards").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        table = pyarrow.table({"image": [png(10 * i) for i in range(24)], "label": [i % 2 for i in range(24)]})
        pyarrow.parquet.write_table(table, tmp_path / "shards" / f"{name}.parquet")
    told = call("find", *SMALL, "--data", "shards", "--out", "t.st", "--rounds", "1")
    assert told.code == 0, told.error
    assert Ticket.load(tmp_path / "t.st").provenance.seen[0].samples in (42, 43, 44)
