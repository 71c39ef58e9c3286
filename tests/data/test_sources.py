"""Data sources and decoding: what comes out for what a user has, and which message for what can't be used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oneticket.data import SOURCES
from oneticket.data.cache import Decoded
from oneticket.data.decoding import Reading
from oneticket.data.derivations import Size
from oneticket.errors import InputError

FolderOf = Callable[[dict[str, bytes]], Path]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def read(kind: str, place: Path | str, size: Size | None = None) -> Decoded:
    return SOURCES[kind](str(place), Path("/nowhere")).read(Reading(size))[0]


GREY, COLOUR = noise(1, 4, 5), noise(2, 4, 5, 3)


def test_digits_are_split_evenly_and_use_the_whole_range() -> None:
    data = read("builtin", "digits")
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert len(data.train.labels) + len(data.test.labels) == 1797
    for label in range(10):
        train, test = (int((part.labels == label).sum()) for part in (data.train, data.test))
        assert abs(test - 0.2 * (train + test)) < 1
    assert int(data.train.images.max()) == 255
    assert set(data.train.images.unique().tolist()) <= {int(np.rint(v * 255 / 16)) for v in range(17)}
    with pytest.raises(InputError, match=r"unknown built-in data set 'digit'.*'digits'"):
        SOURCES["builtin"]("digit", Path())


def test_a_folder_of_images_gives_its_pixels_and_classes_in_order(folder_of: FolderOf) -> None:
    home = folder_of(
        {
            "train/10/a.png": encoded(noise(1, 4, 5)),
            "train/9/b.bmp": encoded(noise(2, 4, 5), "BMP"),
            "train/9/a.PNG": encoded(noise(3, 4, 5)),
            "train/9/notes.txt": b"not an image",
            "test/9/a.png": encoded(noise(4, 4, 5)),
        }
    )
    data = read("images", home)
    assert data.classes == ("9", "10")
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.test.labels.tolist() == [0]
    assert np.array_equal(data.train.images[:, 0].numpy(), np.stack([noise(3, 4, 5), noise(2, 4, 5), noise(1, 4, 5)]))


def test_grey_stays_grey_and_one_colour_image_makes_all_rgb(folder_of: FolderOf) -> None:
    files = {"train/x/a.png": encoded(GREY), "test/x/b.png": encoded(GREY)}
    assert read("images", folder_of(files)).train.images.shape == (1, 1, 4, 5)
    data = read("images", folder_of(files | {"test/x/c.png": encoded(COLOUR)}))
    assert all(np.array_equal(data.train.images[0, channel].numpy(), GREY) for channel in range(3))
    assert np.array_equal(data.test.images[1].permute(1, 2, 0).numpy(), COLOUR)


def test_images_of_every_mode_become_8_bits(folder_of: FolderOf) -> None:
    wide = np.array([[0, 128, 129, 257 * 7, 65535]] * 4, dtype=np.uint16)
    palette = BytesIO()
    Image.fromarray(COLOUR // 64 * 64).quantize(64).save(palette, "PNG")
    files = {"train/x/wide.png": encoded(wide), "test/x/bits.png": encoded(GREY > 127)}
    data = read("images", folder_of(files))
    assert data.train.images[0, 0, 0].tolist() == [0, 0, 1, 7, 255]
    assert np.array_equal(data.test.images[0, 0].numpy(), (GREY > 127) * 255)
    more = {"train/x/palette.png": palette.getvalue(), "train/x/rgba.png": encoded(np.dstack([COLOUR, GREY]))}
    data = read("images", folder_of(more))
    assert data.train.images.shape == (3, 3, 4, 5)
    assert np.array_equal(data.train.images[1].permute(1, 2, 0).numpy(), COLOUR)
    assert data.train.images[2, :, 0].T.tolist() == [[v] * 3 for v in (0, 0, 1, 7, 255)]


def test_the_orientation_that_a_camera_noted_is_applied(folder_of: FolderOf) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(GREY, exif=exif.tobytes())
    data = read("images", folder_of({"train/x/a.png": turned, "test/x/a.png": encoded(np.rot90(GREY, -1))}))
    assert torch.equal(data.train.images, data.test.images)


def test_pixels_of_32_bits_are_refused(folder_of: FolderOf) -> None:
    files = {"train/x/a.tif": encoded(GREY.astype(np.float32), "TIFF"), "test/x/a.png": encoded(GREY)}
    with pytest.raises(InputError, match=r"a\.tif: pixels of 32 bits \(mode F\); expected 8 or 16 bits"):
        read("images", folder_of(files))


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"nonsense", lambda b: b""])
def test_an_image_that_does_not_decode_is_named(folder_of: FolderOf, damage: Callable[[bytes], bytes]) -> None:
    broken = damage(encoded(noise(1, 40, 40, 3), "JPEG"))
    home = folder_of({"train/x/a.jpg": encoded(noise(1, 40, 40, 3), "JPEG"), "test/x/broken.jpg": broken})
    with pytest.raises(InputError, match=r"test/x/broken\.jpg: the image does not decode"):
        read("images", home)


def test_different_sizes_need_a_size(folder_of: FolderOf) -> None:
    home = folder_of({"train/x/a.png": encoded(noise(1, 4, 4)), "test/x/b.png": encoded(noise(2, 8, 6))})
    with pytest.raises(InputError, match=r"size: images have different sizes, such as 4×4 and 8×6"):
        read("images", home)
    data, resized = SOURCES["images"](str(home), Path()).read(Reading(Size(8, "pad")))
    assert resized
    assert data.train.images.shape == data.test.images.shape == (1, 1, 8, 8)
    assert np.array_equal(data.train.images[0, 0, 2:6, 2:6].numpy(), noise(1, 4, 4))
    with pytest.raises(InputError, match=r"b\.png: size: images of 8×6 cannot be padded to 7×7"):
        read("images", home, Size(7, "pad"))


def test_one_size_is_left_alone_by_decoding(folder_of: FolderOf) -> None:
    home = folder_of({"train/x/a.png": encoded(GREY), "test/x/b.png": encoded(GREY)})
    data, resized = SOURCES["images"](str(home), Path()).read(Reading(Size(8, "resize")))
    assert not resized
    assert data.train.images.shape == (1, 1, 4, 5)


def test_folders_that_are_not_as_they_should_be(folder_of: FolderOf, tmp_path: Path) -> None:
    home = folder_of({"train/cats/a.png": encoded(GREY), "test/cat/a.png": encoded(GREY)})
    with pytest.raises(InputError, match=r"class 'cat' is in test, but not in train \(did you mean 'cats'\?\)"):
        SOURCES["images"](str(home), Path())
    with pytest.raises(InputError, match=r"the folder .*picture does not exist \(did you mean 'pictures'\?\)"):
        SOURCES["images"]("picture", tmp_path)
    (home / "train" / "dogs").mkdir()
    (home / "test" / "cat").rename(home / "test" / "cats")
    with pytest.raises(InputError, match=r"class 'dogs' has no image in train"):
        SOURCES["images"](str(home), Path())
    (home / "train" / "dogs").rmdir()
    (home / "test" / "cats" / "a.png").unlink()
    with pytest.raises(InputError, match=r"the test split is empty"):
        read("images", home)


def test_a_class_folder_whose_name_is_no_text(folder_of: FolderOf) -> None:
    home = folder_of({"train/cats/1.png": encoded(GREY), "test/cats/1.png": encoded(GREY)})
    for part in ("train", "test"):
        os.rename(home / part / "cats", os.fsencode(home / part) + b"/caf\xe9")
    with pytest.raises(InputError, match="is not valid UTF-8"):
        read("images", home)


def test_parquet_gives_pixels_labels_and_names(animals: Path) -> None:
    data = read("path", animals)
    assert data.classes == ("cat", "dog", "eel")
    assert data.train.images.shape == (28, 1, 6, 6)
    assert data.train.labels.tolist() == [0] * 12 + [1] * 9 + [2] * 7
    assert np.array_equal(data.train.images[17, 0].numpy(), noise(517, 6, 6))


def test_parquet_agrees_with_the_hugging_face_reader(animals: Path, tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_parquet(str(animals / "train.parquet"), cache_dir=str(tmp_path / "hf"))
    data = read("path", animals)
    assert tuple(table.features["label"].names) == data.classes
    assert np.array_equal(np.stack([np.array(row["image"]) for row in table]), data.train.images[:, 0].numpy())


def test_parquet_in_shards_is_read_in_their_order(animals: Path) -> None:
    whole = read("path", animals)
    (animals / "test.parquet").rename(animals / "train-00001-of-00002.parquet")
    (animals / "train.parquet").rename(animals / "train-00000-of-00002.parquet")
    (animals / "test-00000-of-00001.parquet").write_bytes((animals / "train-00001-of-00002.parquet").read_bytes())
    sharded = read("path", animals)
    assert torch.equal(sharded.train.labels, torch.cat([whole.train.labels, whole.test.labels]))
    assert torch.equal(sharded.train.images, torch.cat([whole.train.images, whole.test.images]))


def test_parquet_that_cannot_be_used(animals: Path, parquet: Callable[..., None]) -> None:
    def refused(message: str, images: list[bytes | None], labels: list[object], names: list[str] | None) -> None:
        parquet(animals / "test.parquet", images, labels, names)
        with pytest.raises(InputError, match=message):
            read("path", animals)

    names, image = ["cat", "dog", "eel"], encoded(noise(0, 6, 6))
    refused(r"test\.parquet row 1: the image does not decode", [image, image[:30]], [0, 1], names)
    refused(r"test\.parquet row 1: the image is missing", [image, None], [0, 1], names)
    refused(r"test\.parquet row 1: label -1 is not a class; expected 0 to 2", [image, image], [0, -1], names)
    refused(r"test\.parquet row 0: the label is 'cat'; expected the number", [image], ["cat"], names)
    refused("the test split is empty", [], [], names)
    refused("train and test name different classes", [image], [0], ["dog", "cat", "eel"])
    (animals / "test.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"test\.parquet: this is not a Parquet file"):
        read("path", animals)
    (animals / "test.parquet").unlink()
    with pytest.raises(InputError, match=r"no test\.parquet in"):
        read("path", animals)


def test_parquet_without_metadata_numbers_its_classes(tmp_path: Path, parquet: Callable[..., None]) -> None:
    for part, labels in {"train": [0, 2, 1], "test": [1, 1, 0]}.items():
        parquet(tmp_path / f"{part}.parquet", [encoded(GREY)] * 3, labels, None)
    assert read("path", tmp_path).classes == ("0", "1", "2")


def test_two_classes_of_one_name_are_refused(tmp_path: Path, parquet: Callable[..., None]) -> None:
    for part in ("train", "test"):
        parquet(tmp_path / f"{part}.parquet", [encoded(GREY)], [0], ["cat", "cat"])
    with pytest.raises(InputError, match=r"two classes have the name 'cat'"):
        read("path", tmp_path)


def hub_of(monkeypatch: pytest.MonkeyPatch, **parts: tuple[list[np.ndarray], list[int]]) -> list[str]:
    """``datasets.load_dataset`` replaced by one that has these parts; the ids that it is asked for."""
    import datasets

    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["cat", "dog"])})
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        assert datasets.are_progress_bars_disabled()
        assert not datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
        if name == "not/there":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'not/there' doesn't exist on the Hub")
        columns = {
            part: {"img": [{"bytes": encoded(i), "path": None} for i in images], "fine_label": labels}
            for part, (images, labels) in parts.items()
        }
        return datasets.DatasetDict({part: datasets.Dataset.from_dict(c, features) for part, c in columns.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_data_set_of_the_hub_is_found_by_the_types_of_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub_of(monkeypatch, train=([GREY, GREY.T.reshape(4, 5)], [1, 0]), test=([GREY], [0]))
    data = read("hub", "animals/pets")
    assert asked == ["animals/pets"]
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0]
    assert np.array_equal(data.train.images[0, 0].numpy(), GREY)


def test_the_progress_bars_of_the_user_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    hub_of(monkeypatch, train=([GREY], [1]), test=([GREY], [1]))
    datasets.enable_progress_bars()
    read("hub", "animals/pets")
    assert not datasets.are_progress_bars_disabled()


def test_what_the_hub_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_of(monkeypatch, train=([GREY], [1]), validation=([GREY], [0]))
    with pytest.raises(InputError, match=r"'animals/pets' has no test split; .* it has train, validation"):
        read("hub", "animals/pets")
    with pytest.raises(InputError, match=r"'not/there' cannot be loaded from the hub"):
        read("hub", "not/there")


@pytest.mark.parametrize(
    ("module", "kind", "command"),
    [("pyarrow.parquet", "path", r"oneticket\[data\]"), ("datasets", "hub", r"oneticket\[hub\]")],
)
def test_a_missing_extra_is_named_with_its_command(
    animals: Path, monkeypatch: pytest.MonkeyPatch, module: str, kind: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"pip install '{command}'"):
        read(kind, animals)


def test_pillow_missing_is_named_too(folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder_of({"train/x/a.png": encoded(GREY), "test/x/b.png": encoded(GREY)})
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(InputError, match=r"needs PIL; expected pip install 'oneticket\[data\]'"):
        read("images", home)


def test_digits_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("PIL.Image", "PIL.ImageOps", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(read("builtin", "digits").classes) == 10


def test_every_source_says_in_one_line_what_it_is() -> None:
    assert {entry.name for entry in SOURCES.entries()} == {"builtin", "path", "images", "hub", "text", "table"}
    assert all(entry.summary.endswith(".") for entry in SOURCES.entries())
