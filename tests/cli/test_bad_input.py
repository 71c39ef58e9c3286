"""Bad input: exit code 2, one clear line on the error stream, nothing started and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Tiny = Callable[..., Path]


def refused(told: Any, *parts: str) -> None:
    assert told.code == 2, told
    assert told.error.startswith("Error: ") or "Usage: " in told.error
    assert "Traceback" not in told.error
    for part in parts:
        assert part in told.error, told.error
    assert told.out == ""


# Replaced text, and what the message must hold besides the name of the file.
FILES = [
    # an unknown key, at every level
    (("seeds = 1", "seed = 1"), ["unknown key 'seed'", "did you mean 'seeds'?"]),
    (("per_class", "perclass"), ["data.digits", "unknown key 'perclass'", "'per_class'"]),
    (("batch_size", "batchsize"), ["recipe.sgd", "'batch_size'"]),
    (
        ("epochs = 2", 'epochs = 2\nschedule = { kind = "step", at = [], fact = 1 }'),
        ["recipe.sgd.schedule", "'factor'"],
    ),
    (("epochs = 2", "epochs = 2\naugment = { flop = true }"), ["recipe.sgd.augment", "'flip'"]),
    (("prune = 0.5", "prun = 0.5"), ["search", "'prune'"]),
    (("arms =", "arm ="), ["transfer[0]", "'arms'"]),
    (("width = 0.05", "widht = 0.05"), ["model", "'width'"]),
    # a wrong type
    (("lr = 0.1", 'lr = "0.1"'), ["recipe.sgd.lr", "text", "expected a number"]),
    (("epochs = 2", "epochs = true"), ["recipe.sgd.epochs", "expected a whole number"]),
    (("epochs = 2", 'epochs = 2\nnesterov = "False"'), ["recipe.sgd.nesterov", "expected true or false"]),
    # out of range
    (("seeds = 1", "seeds = 0"), ["seeds"]),
    (("epochs = 2", "epochs = 0"), ["recipe.sgd", "epochs = 0", "at least 1"]),
    (("lr = 0.1", "lr = 0"), ["recipe.sgd", "lr = 0"]),
    (("lr = 0.1", "lr = -0.1"), ["recipe.sgd", "lr = -0.1"]),
    (("lr = 0.1", "lr = nan"), ["recipe.sgd.lr", "finite"]),
    (("lr = 0.1", "lr = inf"), ["recipe.sgd.lr", "finite"]),
    (("rounds = 2", "rounds = 0"), ["search", "rounds = 0"]),
    (("prune = 0.5", "prune = 0"), ["search", "prune = 0"]),
    (("prune = 0.5", "prune = 1"), ["search", "prune = 1"]),
    (("0.5, 0.25", "0"), ["transfer[0].densities", "density 0"]),
    (("0.5, 0.25", "1.5"), ["transfer[0].densities", "density 1.5"]),
    # an unknown word
    (('"winning", "random"', '"wining"'), ["transfer[0].arms", "'winning'"]),
    (('["digits@sgd"]', '["digits@sdg"]'), ["transfer[0].targets", "'sgd'"]),
    (('["low@sgd"]', '["lo@sgd"]'), ["transfer[0].sources", "'low'"]),
    (('optimizer = "sgd"', 'optimizer = "sgb"'), ["recipe.sgd.optimizer", "'sgd'"]),
    (("prune = 0.5", 'prune = 0.5\ncriterion = "magnitud"'), ["search.criterion", "'magnitude'"]),
    (("prune = 0.5", 'prune = 0.5\nallocation = "globel"'), ["search.allocation", "'global'"]),
    (("densities", 'rescale = ["layers"]\ndensities'), ["transfer[0].rescale", "'layer'"]),
    (("lenet-300-100", "lenet-300-10"), ["model", "'lenet-300-100'"]),
    (('builtin = "digits"', 'builtin = "digit"'), ["data.digits", "'digits'"]),
    (('from = "digits"', 'from = "digit"'), ["data.low.from", "'digits'"]),
    # what cannot work
    (("[0, 1, 2, 3, 4]", "[0, 11]"), ["data.low: classes", "no class 11"]),
    (("[0, 1, 2, 3, 4]", "[0, 1]\nsize = 12"), ["transfer[0].sources", "1×12×12"]),
    (("0.5, 0.25", "0.01"), ["transfer[0].densities", "below that of the last round"]),
    (("rounds = 2", "rounds = 40"), []),
    (("prune = 0.5", 'prune = 0.5\nrewind = "3ep"'), ["search.rewind", "at most 2ep"]),
    (("seeds = 1", 'seeds = 1\nhead = "hed"'), ["head", "'head'"]),
    (("per_class = 40", 'images = "pictures"'), ["data.digits", "exactly one of"]),
    (("per_class = 40", "fraction = 1e-9"), ["data.digits", "leaves no"]),
    # no TOML
    (("seeds = 1", "seeds ="), ["not valid TOML", "line 4"]),
    # control characters
    (("[data.low]", '[data."lo\\u001bw"]'), ["control character U+001B", "data.lo\\x1bw"]),
    (("[0, 1, 2, 3, 4]", '["a\\u0007"]'), ["control character U+0007", "data.low.classes[0]"]),
    (('name = "tiny"', 'name = "../tiny"'), ["name", "letters, digits"]),
]


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(("change", "parts"), FILES)
def test_a_faulty_file_is_refused_before_anything_starts(
    call: Any, tiny: Tiny, tmp_path: Path, command: str, change: tuple[str, str], parts: list[str]
) -> None:
    file = tiny(change, *([("0.5, 0.25", "1e-12")] if "rounds = 40" in change[1] else []))
    told = call(command, file)
    refused(told, "tiny.toml: ", *parts)
    assert not any(ord(letter) < 0x20 and letter != "\n" for letter in told.error)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.toml"]


def test_a_missing_file_is_refused_with_the_nearest(call: Any, tiny: Tiny) -> None:
    tiny()
    for command in ("run", "plan"):
        refused(call(command, "tyny.toml"), "tyny.toml: no such file", "did you mean 'tiny.toml'?")


def test_a_density_that_leaves_no_weight_is_refused(call: Any, tiny: Tiny) -> None:
    file = tiny(("rounds = 2", "rounds = 40"), ("0.5, 0.25", "1e-9"))
    refused(call("run", file), "transfer[0].densities", "leaves none of the 1035 weights")


def test_an_image_that_does_not_decode_is_named(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / "pictures" / part / label).mkdir(parents=True)
            for number in range(12):
                Image.new("L", (8, 8), number).save(tmp_path / "pictures" / part / label / f"{number}.png")
    (tmp_path / "pictures" / "train" / "b" / "7.png").write_bytes(b"no picture")
    file = tiny(('builtin = "digits"\nper_class = 40', 'images = "pictures"'), ("[0, 1, 2, 3, 4]", "[0, 1]"))
    refused(call("run", file), "tiny.toml: data.", "does not decode", "train/b/7.png")
    assert not (tmp_path / "stores").exists()


def test_a_model_without_a_head_is_told_how_to_name_one(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "cli_headless.py").write_text(
        "from torch import nn\n"
        "def net(input_shape, classes):\n"
        "    c, h, w = input_shape\n"
        "    last = nn.Linear(6, 5 * classes)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 6), last, nn.Unflatten(1, (classes, 5)), Mean())\n"
        "class Mean(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.mean(-1)\n"
    )
    file = tiny(('{ name = "lenet-300-100", options = { width = 0.05 } }', '"cli_headless:net"'))
    refused(call("run", file, "--trust-code"), "tiny.toml: head", "can't be found", 'head="…"')


# -- stores and places --------------------------------------------------------------------------------------------
def test_a_store_that_cannot_be_written_is_refused(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/below", "/proc/oneticket", "x" * 300):
        refused(call("run", tiny(), "--store", place), place[:20], "expected a folder")
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("command", ["results", "report"])
def test_a_folder_that_is_no_store_is_refused(call: Any, tmp_path: Path, command: str) -> None:
    refused(call(command, tmp_path), "is not a store of oneticket")
    refused(call(command, "nowhere"), "nowhere", "is not a store of oneticket")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["run", "plan", "results", "report"])
def test_a_store_from_a_newer_version_is_refused(call: Any, tiny: Tiny, tmp_path: Path, command: str) -> None:
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "store.json").write_text('{"store": 99}')
    arguments = ["newer"] if command in ("results", "report") else [tiny(), "--store", "newer"]
    refused(call(command, *arguments), "newer", "version 99", "update oneticket")
    assert [entry.name for entry in (tmp_path / "newer").iterdir()] == ["store.json"]


def test_a_cache_that_cannot_be_written_is_refused(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(call("run", tiny(), "--cache", "file"), "the cache cannot be written")


def test_results_go_only_where_they_can_be_written(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").write_text('{"store": 1}')
    for place in ("nowhere/table.csv", "store", "/proc/table.csv"):
        refused(
            call("results", "store", "--format", "csv", "--out", place),
            "--out" if place != "/proc/table.csv" else "table.csv",
        )


# -- the command line itself --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["rum"], "unknown command 'rum' (did you mean 'run'?)"),
        (["run"], "Missing argument 'EXPERIMENT'"),
        (["run", "x.toml", "--workers", "0"], "--workers"),
        (["run", "x.toml", "--threads", "-1"], "--threads"),
        (["run", "x.toml", "--device", "tpu"], "--device"),
        (["run", "x.toml", "--speed", "9"], "--speed"),
        (["results", "x", "--format", "xml"], "--format"),
        (["list", "criteria"], "unknown kind 'criteria'"),
        (["ticket", "burn"], "No such command 'burn'"),
        (["find"], "Missing option"),
    ],
)
def test_a_wrong_command_line_is_refused(call: Any, arguments: list[str], part: str) -> None:
    refused(call(*arguments), part)


def test_an_unknown_engine_is_refused_with_the_nearest(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    refused(call("run", tiny(), "--engine", "locl"), "unknown engine 'locl'", "did you mean 'local'?")
    assert not (tmp_path / "stores").exists()


def test_a_device_that_is_not_there_is_refused(call: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(call("run", tiny(), "--device", "cuda"), "--device", "no CUDA device")


# -- find and transfer --------------------------------------------------------------------------------------------
FIND = ["find", "--model", "lenet-300-100", "--option", "width=0.05", "--data", "digits", "--epochs", "1"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--model", "lenet"], ["model 'lenet'", "did you mean"]),
        (["--option", "widht=1"], ["did you mean 'width'?"]),
        (["--option", "width"], ["expected KEY=VALUE"]),
        (["--data", "digit"], ["did you mean 'digits'?"]),
        (["--classes", "0,12"], ["no class 12"]),
        (["--classes", "²"], ["no class '²'"]),
        (["--classes", "9" * 30], ["classes"]),
        (["--density", "0"], ["density = 0.0"]),
        (["--density", "2"], ["density = 2.0"]),
        (["--density", "0.0000001"], ["leaves none of the"]),
        (["--rewind", "soon"], ["'soon' is not a valid moment"]),
        (["--rewind", "²"], ["'²' is not a valid moment"]),
        (["--rewind", "9ep"], ["9ep"]),
        (["--criterion", "magnitud"], ["did you mean 'magnitude'?"]),
        (["--allocation", "globl"], ["did you mean 'global'?"]),
        (["--head", "hed"], ["did you mean 'head'?"]),
        (["--lr", "nan"], ["lr = nan"]),
        (["--lr", "0"], ["lr = 0.0"]),
        (["--epochs", "0"], ["epochs = 0"]),
        (["--batch-size", "0"], ["batch_size = 0"]),
        (["--size", "0"], ["size"]),
        (["--rounds", "0"], ["--rounds"]),
        (["--seed", "-1"], ["--seed"]),
        (["--out", "nowhere/t.safetensors"], ["--out"]),
        (["--out", "."], ["--out", "a folder"]),
    ],
)
def test_find_refuses_what_cannot_work(call: Any, tmp_path: Path, options: list[str], parts: list[str]) -> None:
    refused(call(*FIND, "--out", "t.safetensors", *options), *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no ticket", b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 64])
def test_a_file_that_is_no_ticket_is_refused_by_all_who_read_one(call: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    for arguments in (["ticket", "show", "t"], ["ticket", "verify", "t"], ["ticket", "diff", "t", "t"],
                      ["transfer", "t", "--data", "digits"]):  # fmt: skip
        refused(call(*arguments), "t: ")


def test_a_ticket_that_is_not_there_is_refused(call: Any, tmp_path: Path) -> None:
    for place in ("nowhere", "."):
        for arguments in (
            ["ticket", "show", place],
            ["ticket", "verify", place],
            ["transfer", place, "--data", "digits"],
        ):
            told = call(*arguments)
            assert told.code == 2
            assert "Traceback" not in told.error
