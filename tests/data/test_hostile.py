"""Data folders that nobody should have made: each is refused with one clear message, before anything starts."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from oneticket.data import DataSpec, resolve
from oneticket.errors import InputError


def png(pixels: np.ndarray | None = None, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    shown = np.arange(64, dtype=np.uint8).reshape(8, 8) if pixels is None else pixels
    Image.fromarray(shown).save(content, kind, **options)
    return content.getvalue()


def folder(home: Path, **strange: bytes) -> None:
    """Two classes with three training and two test pictures each; further files by their paths."""
    for part, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            (home / part / name).mkdir(parents=True)
            for number in range(count):
                (home / part / name / f"{number}.png").write_bytes(png())
    for path, content in strange.items():
        file = home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def with_files(**strange: bytes) -> Callable[[Path], None]:
    return lambda home: folder(home, **strange)


def table(file: Path, images: list[Any], labels: list[Any], metadata: bytes | None = None, kind: Any = None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    struct_of = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.table({"image": pa.array(images, kind or struct_of), "label": pa.array(labels)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows.replace_schema_metadata({"huggingface": metadata} if metadata else {}), file)


def pictures(count: int) -> list[Any]:
    return [{"bytes": png(), "path": None} for _ in range(count)]


def tables(home: Path, *, train: Any = (0, 1, 0, 1), test: Any = (0, 1), **options: Any) -> None:
    table(home / "train.parquet", pictures(len(train)), list(train), **options)
    table(home / "test.parquet", pictures(len(test)), list(test), **options)


def with_labels(**labels: Any) -> Callable[[Path], None]:
    return lambda home: tables(home, **labels)


def with_image(value: Any, kind: Callable[[], Any]) -> Callable[[Path], None]:
    def make(home: Path) -> None:
        tables(home)
        table(home / "train.parquet", [value] * 4, [0, 1, 0, 1], kind=kind())

    return make


def with_metadata(content: bytes) -> Callable[[Path], None]:
    return lambda home: tables(home, metadata=content)


def with_shards(*names: str) -> Callable[[Path], None]:
    def make(home: Path) -> None:
        for name in names:
            table(home / f"{name}.parquet", pictures(4), [0, 1, 0, 1])
        table(home / "test.parquet", pictures(2), [0, 1])

    return make


def with_path(path: str) -> Callable[[Path], None]:
    def make(home: Path) -> None:
        tables(home)
        (home.parent / "outside.png").write_bytes(png())
        (home / "link.png").symlink_to(home.parent / "outside.png")
        os.mkfifo(home / "pipe.png")
        table(home / "train.parquet", [{"bytes": None, "path": path}] * 4, [0, 1, 0, 1])

    return make


def with_pipe(path: str) -> Callable[[Path], None]:
    def make(home: Path) -> None:
        folder(home) if "/" in path else tables(home)
        (home / path).unlink(missing_ok=True)
        os.mkfifo(home / path)

    return make


def with_socket(home: Path) -> None:
    folder(home)
    here = os.getcwd()
    os.chdir(home / "train" / "cat")  # the address of a socket may have 107 bytes only
    try:
        socket.socket(socket.AF_UNIX).bind("s.png")
    finally:
        os.chdir(here)


def with_link(path: str, target: str) -> Callable[[Path], None]:
    def make(home: Path) -> None:
        folder(home)
        (home / path).symlink_to(target)

    return make


def bomb(side: int = 20_000) -> bytes:
    """A PNG that says it has side × side pixels and is a few hundred bytes long."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def sixteen(top: int) -> bytes:
    return png(np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8))


def deep_colour() -> bytes:
    raw = png(np.zeros((8, 8, 3), np.uint8))
    header = bytearray(raw[16:29])
    header[8] = 16
    body = zlib.compress(b"".join(b"\0" + bytes(8 * 6) for _ in range(8)))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return raw[:8] + chunk(b"IHDR", bytes(header)) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def frames(kind: str) -> bytes:
    content = io.BytesIO()
    several = [Image.fromarray(np.full((8, 8), shade, np.uint8)) for shade in (0, 128, 255)]
    several[0].save(content, kind, save_all=True, append_images=several[1:])
    return content.getvalue()


def twelve_bits_but_one(home: Path) -> None:
    folder(home)
    for file in home.rglob("*.png"):
        file.write_bytes(sixteen(4095))
    (home / "train" / "cat" / "0.png").write_bytes(png())


def brighter_test(home: Path) -> None:
    folder(home)
    for file in home.rglob("*.png"):
        file.write_bytes(sixteen(4095 if "train" in file.parts else 60_000))


def different_shards(home: Path) -> None:
    for number, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        meta = json.dumps({"info": {"features": features}}).encode()
        table(home / f"train-{number}.parquet", pictures(4), [0, 1, 0, 1], meta)
    table(home / "test.parquet", pictures(2), [0, 1], meta)


def huge_set(home: Path) -> None:
    folder(home)
    for file in [*home.rglob("*.png")]:
        for copy in range(14):
            file.with_stem(f"{file.stem}-{copy}").write_bytes(bomb(8000))
        file.unlink()


def without_test(home: Path) -> None:
    folder(home)
    (home / "test").rename(home / "tset")


def not_parquet(home: Path) -> None:
    tables(home)
    (home / "train.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")


def text() -> Any:
    import pyarrow as pa

    return pa.string()


def numbers() -> Any:
    import pyarrow as pa

    return pa.list_(pa.int64())


def whole() -> Any:
    import pyarrow as pa

    return pa.int64()


class Hostile(NamedTuple):
    """How the folder is made, the key that names it, and what the message says."""

    make: Callable[[Path], None]
    origin: str
    says: str


CASES = {
    "picture without class": Hostile(with_files(**{"train/x.png": png()}), "images", "picture without a class"),
    "unnamed picture without class": Hostile(with_files(**{"train/x": png()}), "images", "picture without a class"),
    "eps": Hostile(with_files(**{"train/cat/x.eps": b"%!PS-Adobe"}), "images", r"kind \.eps are not read"),
    "PostScript called png": Hostile(
        with_files(**{"train/cat/x.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"}), "images", "not decode"
    ),
    "heic": Hostile(with_files(**{"test/dog/x.HEIC": b"...."}), "images", r"kind \.heic are not read"),
    "numpy": Hostile(with_files(**{"train/cat/x.npy": b"...."}), "images", r"kind \.npy are not read"),
    "class only in test": Hostile(with_files(**{"test/cats/x.png": png()}), "images", "'cats' is in test.*'cat'"),
    "class without picture": Hostile(with_files(**{"train/eel/x.db": b"?"}), "images", "'eel' has no image in train"),
    "pipe": Hostile(with_pipe("train/cat/9.png"), "images", "is a pipe"),
    "socket": Hostile(with_socket, "images", "is a pipe, a socket"),
    "device": Hostile(with_link("train/cat/z.png", "/dev/zero"), "images", "device"),
    "broken link": Hostile(with_link("train/cat/z.png", "nowhere.png"), "images", "No such file"),
    "link to itself": Hostile(with_link("train/cat/z.png", "z.png"), "images", "symbolic links|cannot be read"),
    "link to the folder above": Hostile(with_link("train/cat/up", "../.."), "images", "link to a folder"),
    "empty picture": Hostile(with_files(**{"train/cat/x.png": b""}), "images", "does not decode"),
    "half a picture": Hostile(with_files(**{"train/cat/x.png": png()[:48]}), "images", "does not decode"),
    "pixel bomb": Hostile(with_files(**{"train/cat/x.png": bomb()}), "images", "400,000,000 pixels.*--max-pixels"),
    "many large pictures": Hostile(huge_set, "images", "in a data set.*--max-pixels"),
    "animation": Hostile(with_files(**{"train/cat/x.gif": frames("GIF")}), "images", "3 frames or pages"),
    "pages": Hostile(with_files(**{"train/cat/x.tif": frames("TIFF")}), "images", "3 frames or pages"),
    "colours of 16 bits": Hostile(with_files(**{"train/cat/x.png": deep_colour()}), "images", "colours of 16 bits"),
    "8 bits among 12": Hostile(twelve_bits_but_one, "images", r"0\.png: has 8 bits, .*of which 0 to 4095"),
    "brighter test": Hostile(brighter_test, "images", "60000, the training pictures go up to 4095"),
    "no test folder": Hostile(without_test, "images", "test does not exist.*'tset'"),
    "pipe for a table": Hostile(with_pipe("test.parquet"), "path", "is a pipe"),
    "label gap": Hostile(with_labels(train=(0, 2, 0, 2), test=(0, 2)), "path", "row 1: label 2, but none is 1"),
    "labels from 1": Hostile(with_labels(train=(1, 2, 1, 2), test=(1, 2)), "path", 'label 1, but none is 0.*"compact"'),
    "huge label": Hostile(with_labels(train=(0, 1, 0, 2**40)), "path", "label 1099511627776, but none is 2"),
    "negative label": Hostile(with_labels(train=(0, 1, 0, -1)), "path", "label -1 is not a class"),
    "boolean labels": Hostile(with_labels(train=(True, False)), "path", "the label is True"),
    "labels as fractions": Hostile(with_labels(train=(0.0, 1.0)), "path", r"the label is 0\.0"),
    "missing label": Hostile(with_labels(train=(0, 1, None)), "path", "row 2: the label is missing"),
    "label only in test": Hostile(with_labels(test=(0, 1, 2)), "path", "class '2' is in test, but not in train"),
    "text for a picture": Hostile(with_image("x" * 50, text), "path", "No such file"),
    "list for a picture": Hostile(with_image([1, 2, 3], numbers), "path", "the image is a list"),
    "number for a picture": Hostile(with_image(7, whole), "path", "the image is a int"),
    "picture outside": Hostile(with_path("../outside.png"), "path", "lies outside"),
    "picture outside by a whole path": Hostile(with_path("/etc/hostname"), "path", "lies outside"),
    "picture outside by a link": Hostile(with_path("link.png"), "path", "lies outside"),
    "picture with a zero byte": Hostile(with_path("a\0b"), "path", "lies outside|cannot be read"),
    "pipe in a row": Hostile(with_path("pipe.png"), "path", "is a pipe"),
    "metadata that are not JSON": Hostile(with_metadata(b"{oops"), "path", "metadata of the schema are damaged"),
    "metadata of another shape": Hostile(with_metadata(b'{"info": {"features": [1]}}'), "path", "are damaged"),
    "metadata nested deeply": Hostile(with_metadata(b"[" * 100_000), "path", "are damaged"),
    "names that are numbers": Hostile(
        with_metadata(b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": [1]}}}}'), "path",
        "not a list of texts|no column of type Image"
    ),
    "missing shard": Hostile(with_shards("train-0-of-3", "train-2-of-3"), "path", "number 1 is missing"),
    "missing last shard": Hostile(with_shards("train-00000-of-00002"), "path", "number 1 is missing"),
    "a thousand million shards": Hostile(with_shards("train-0-of-999999999"), "path", "number 1 is missing"),
    "two sets of shards": Hostile(with_shards("train-0-of-1", "train-0-of-2"), "path", "parts of different sets"),
    "whole and shard": Hostile(with_shards("train", "train-00000-of-00001"), "path", "both train.parquet and"),
    "shard without its fellow": Hostile(with_shards("train-0", "train-2"), "path", "train-1.parquet is missing"),
    "shards of other classes": Hostile(different_shards, "path", "names other classes than"),
    "Parquet that is not": Hostile(not_parquet, "path", "not a Parquet file"),
    "tables in the folder data": Hostile(lambda home: tables(home / "data"), "path", "data has some"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_folder_is_refused(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    (tmp_path / "d").mkdir()
    case.make(tmp_path / "d")
    specs = {"d": DataSpec(**{case.origin: "d"})}  # type: ignore[arg-type]
    with pytest.raises(InputError) as refused:
        resolve(specs, "d", folder=tmp_path, cache=tmp_path / "cache")
    assert re.search(case.says, str(refused.value)), str(refused.value)
    assert str(refused.value).startswith("data.d: ")
    assert not [*(tmp_path / "cache").rglob("*.npy")]


EXPERIMENT = """
name = "e"
model = "lenet-300-100"
seeds = 2
[data.d]
{origin} = "d"
[recipe.s]
optimizer = "sgd"
lr = 0.05
epochs = 1
[search]
rounds = 1
prune = 0.5
rewind = 0
[[transfer]]
sources = ["d@s"]
targets = ["d@s"]
arms = ["winning"]
densities = [0.5]
"""
WATCH = """
import os, sys
def watch(event, given):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"):
        os.write(2, f"STARTED {event} {given!r}\\n".encode())
    elif event == "open" and isinstance(given[1], str) and set(given[1]) & set("wax+"):
        if given[0] != os.devnull and not os.path.abspath(os.fsdecode(given[0])).startswith(os.environ["ALLOWED"]):
            os.write(2, f"WROTE {given!r}\\n".encode())
sys.addaudithook(watch)
"""


@pytest.mark.faults
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_folder_stops_the_command(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    (tmp_path / "d").mkdir()
    case.make(tmp_path / "d")
    (tmp_path / "e.toml").write_text(EXPERIMENT.format(origin=case.origin))
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    allowed = tmp_path / "cache"
    path = os.pathsep.join([str(tmp_path / "watch"), os.environ.get("PYTHONPATH", "")])
    surroundings = {**os.environ, "ALLOWED": str(allowed), "XDG_CACHE_HOME": str(allowed), "PYTHONPATH": path}
    surroundings["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [sys.executable, "-m", "oneticket", "plan", "e.toml", "--store", "store"]
    with subprocess.Popen(command, cwd=tmp_path, env=surroundings, stderr=subprocess.PIPE, text=True) as child:
        said = child.stderr.read() if child.stderr else ""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert child.returncode == 2, said
    assert len(errors) == 1, said
    assert re.search(case.says, errors[0]), said
    assert not re.search("Traceback|STARTED|WROTE", said), said
    assert used.ru_maxrss < 1_000_000, "kilobytes"
    assert used.ru_utime + used.ru_stime < 5, "seconds of the processor"
    assert not (tmp_path / "store").exists()
