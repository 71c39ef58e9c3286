"""Image folders and tables: what is used, and what is said of what is not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oneticket.data import DataSpec, Splits, open_data, pixel_limit, resolve
from oneticket.data.folders import is_document
from oneticket.errors import InputError


def encoded(kind: str, shade: int = 7) -> bytes:
    from io import BytesIO

    file = BytesIO()
    Image.fromarray(np.full((8, 8), shade, np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Classes a and b: 20 training and 2 test pictures each."""
    for part, count in (("train", 20), ("test", 2)):
        for name in "ab":
            (tmp_path / "d" / part / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / "d" / part / name / f"{number}.png").write_bytes(encoded("PNG"))
    return tmp_path / "d"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., tuple[Splits, list[str]]]:
    """Reads the folder ``d``; the images, and what was said."""

    def read(origin: str = "images", **options: object) -> tuple[Splits, list[str]]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            spec = DataSpec(**{origin: "d"}, validation=0.0, **options)  # type: ignore[arg-type]
            ref = resolve({"d": spec}, "d", folder=tmp_path, cache=tmp_path / "cache")
            return open_data(ref, cache=tmp_path / "cache"), [str(warning.message) for warning in told]

    return read


Opened = Callable[..., tuple[Splits, list[str]]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.jfif", "JPEG"), ("x.JPE", "JPEG"), ("x", "PNG"), ("x.bak", "GIF"), ("x.avif", "AVIF"), ("x.t", "TIFF"),
        ("x.jp2", "JPEG2000"), ("x.1", "WEBP"), ("x.dib", "BMP"), ("in/x.png", "PNG"), ("in/still/x.jpg", "JPEG"),
    ],
)  # fmt: skip
def test_a_picture_is_used_whatever_it_is_called(pictures: Path, opened: Opened, name: str, kind: str) -> None:
    (pictures / "train" / "a" / name).parent.mkdir(parents=True, exist_ok=True)
    try:
        (pictures / "train" / "a" / name).write_bytes(encoded(kind))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    found, told = opened()
    assert (len(found.train), found.train.classes, told) == (41, ("a", "b"), [])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("train/.ipynb_checkpoints/x.png", "not a class"),
        ("train/__MACOSX/x.png", "not a class"),
        ("train/a/._0.png", "not a picture"),
        ("train/a/.hidden/x.png", "not a class"),
        ("train/a/labels.csv", "not a picture"),
        ("train/index.json", "not a picture"),
        ("val/a/x.png", "only train and test are read"),
        ("labels.csv", "only train and test are read"),
    ],
)
def test_what_is_left_out_is_named_with_its_reason(pictures: Path, opened: Opened, path: str, reason: str) -> None:
    (pictures / path).parent.mkdir(parents=True, exist_ok=True)
    (pictures / path).write_bytes(encoded("PNG") if path.endswith("png") else b"0,1")
    found, told = opened()
    assert (len(found.train), found.train.classes) == (40, ("a", "b"))
    assert len(told) == 1
    assert told[0].startswith("data.d: ")
    assert path.split("/")[0] in told[0]
    assert told[0].endswith(f"left out: {reason}") or reason in told[0]
    assert opened()[1] == told, "also where the decoded data come from the cache"


def test_many_files_left_out_are_counted(pictures: Path, opened: Opened) -> None:
    for number in range(9):
        (pictures / "train" / "a" / f"{number}.xml").write_text("<x/>")
    names = "train/a/0.xml, train/a/1.xml, train/a/2.xml"
    assert opened()[1] == [f"data.d: {names} and 6 more left out: not a picture"]


def test_documents_are_not_mentioned(pictures: Path, opened: Opened) -> None:
    for name in ("README.md", "LICENSE", "SHA256SUMS", ".DS_Store", "Thumbs.db", "notes.txt"):
        (pictures / name).write_text("text")
        assert is_document(pictures / name)
        assert not is_document(pictures / "train.parquet")
    assert opened()[1] == []


def test_links_to_files_are_followed(pictures: Path, opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "pool.png").write_bytes(encoded("PNG", 9))
    (pictures / "train" / "a" / "z.png").symlink_to(tmp_path / "pool.png")
    assert len(opened()[0].train) == 41


def test_a_class_without_a_test_picture_is_named(pictures: Path, opened: Opened) -> None:
    for file in (pictures / "test" / "b").iterdir():
        file.unlink()
    assert opened()[1] == ["data.d: no image in test of class b"]


@pytest.mark.parametrize(("top", "levels"), [(255, 256), (1023, 256), (4095, 256), (65535, 256), (100, 101)])
def test_16_bits_keep_the_range_that_they_use(pictures: Path, opened: Opened, top: int, levels: int) -> None:
    ramp = np.rint(np.linspace(0, top, 256)).astype(np.uint16).reshape(16, 16)
    for file in pictures.rglob("*.png"):
        Image.fromarray(ramp).save(file)
    shown = opened()[0].train.gather(torch.tensor([0])).flatten()
    assert len(shown.unique()) == levels
    whole = next(2**bits - 1 for bits in range(8, 17) if 2**bits > top)
    assert torch.equal(shown, torch.tensor(np.rint(ramp.flatten() * (255.0 / whole)), dtype=torch.uint8))


def test_the_limit_for_pixels(pictures: Path, opened: Opened) -> None:
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(pictures / "train" / "a" / "0.png")
    with (
        pixel_limit(71),
        pytest.raises(InputError, match=r"a/0\.png: the picture has 8×9 = 72 pixels; expected at most 71"),
    ):
        opened(size=8)
    with pixel_limit(72):
        assert len(opened(size=8)[0].train) == 40


def test_the_limit_of_pillow_is_as_it_was(pictures: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # it would refuse these pictures
    assert len(opened()[0].train) == 40
    assert Image.MAX_IMAGE_PIXELS == 10


def test_compact_labels(tmp_path: Path, opened: Opened, parquet: Callable[..., None]) -> None:
    (tmp_path / "d").mkdir()
    for part, labels in {"train": [7, 3, 7, 2**40], "test": [3, 7]}.items():
        parquet(tmp_path / "d" / f"{part}.parquet", [encoded("PNG")] * len(labels), labels, None)
    with pytest.raises(InputError, match="compact"):
        opened("path")
    found, _ = opened("path", labels="compact")
    assert found.train.classes == ("3", "7", str(2**40))
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([1, 0, 1, 2], [0, 1])


def test_compact_labels_keep_their_names(tmp_path: Path, opened: Opened, parquet: Callable[..., None]) -> None:
    (tmp_path / "d").mkdir()
    for part, labels in {"train": [2, 0], "test": [0, 2]}.items():
        parquet(tmp_path / "d" / f"{part}.parquet", [encoded("PNG")] * 2, labels, ["ant", "bee", "cow"])
    assert opened("path")[1] == ["data.d: no image in train of class bee", "data.d: no image in test of class bee"]
    found, told = opened("path", labels="compact")
    assert (found.train.classes, found.train.labels.tolist(), told) == (("ant", "cow"), [1, 0], [])


def test_compact_is_about_an_origin() -> None:
    with pytest.raises(InputError, match=r"labels: \"compact\" is about an origin; expected it in data\.base"):
        DataSpec(from_="base", labels="compact").check()


def test_a_picture_of_a_table_may_lie_in_its_folder(tmp_path: Path, opened: Opened) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "d" / "files").mkdir(parents=True)
    (tmp_path / "d" / "files" / "x.png").write_bytes(encoded("PNG", 5))
    for part in ("train", "test"):
        rows = [{"bytes": None, "path": "files/x.png"}] * 2
        pq.write_table(pa.table({"image": rows, "label": [0, 1]}), tmp_path / "d" / f"{part}.parquet")
    found, told = opened("path")
    assert found.train.gather().unique().tolist() == [5]
    assert told == ["data.d: files left out: not a table; a row may name it"]


def test_other_tables_of_a_folder_are_named(tmp_path: Path, opened: Opened, parquet: Callable[..., None]) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test", "validation", "test2"):
        parquet(tmp_path / "d" / f"{name}.parquet", [encoded("PNG")] * 2, [0, 1], None)
    found, told = opened("path")
    assert len(found.train) == 4
    assert told == ["data.d: test2.parquet, validation.parquet left out: only train and test are read"]


def test_only_the_columns_that_are_used_are_read(tmp_path: Path, opened: Opened) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in ("train", "test"):
        rows = {"image": [{"bytes": encoded("PNG"), "path": None}] * 2, "label": [0, 1], "notes": ["x" * 10**6] * 2}
        (tmp_path / "d").mkdir(exist_ok=True)
        pq.write_table(pa.table(rows), tmp_path / "d" / f"{part}.parquet", compression="none")
        content = bytearray((tmp_path / "d" / f"{part}.parquet").read_bytes())
        place = content.index(b"x" * 1000)
        content[place : place + 500] = os.urandom(500)  # a column that nobody asked for may be damaged
        (tmp_path / "d" / f"{part}.parquet").write_bytes(content)
    assert len(opened("path")[0].train) == 2
