"""Small data sets written to disk, as a user would have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oneticket.data import DataRef, DataSpec, reference, resolve
from oneticket.data.cache import Decoded, keep, kept


def png(pixels: np.ndarray) -> bytes:
    """An image file of these pixels, [H, W] or [H, W, 3]."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def noise(seed: int, *shape: int) -> np.ndarray:
    """Random pixels, the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_parquet(
    file: Path, images: Sequence[bytes | None], labels: Sequence[object], names: Sequence[str] | None
) -> None:
    """A table in the Hugging Face image-classification convention; without names, a table without its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([None if image is None else {"bytes": image, "path": None} for image in images], kind)
    table = pa.table({"image": column, "label": pa.array(labels)})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


@pytest.fixture
def parquet() -> Callable[..., None]:
    """Writes a table: file, images, labels, names of the classes."""
    return write_parquet


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A folder of grey 6×6 parquet data: cat, dog, eel with 12, 9 and 7 training and 3 test images each."""
    for part, counts in {"train": (12, 9, 7), "test": (3, 3, 3)}.items():
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        images = [png(noise(100 * len(part) + row, 6, 6)) for row in range(len(labels))]
        write_parquet(tmp_path / "animals" / f"{part}.parquet", images, labels, ["cat", "dog", "eel"])
    return tmp_path / "animals"


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Writes files given by their path inside a fresh folder."""

    def write(files: dict[str, bytes]) -> Path:
        for name, content in files.items():
            file = tmp_path / "pictures" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return tmp_path / "pictures"

    return write


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def ref_of(animals: Path, cache: Path) -> Callable[..., DataRef]:
    """The reference of a data set derived from the animals, which are named ``base`` in the file."""

    def find(name: str = "x", /, **specs: DataSpec) -> DataRef:
        return resolve({"base": DataSpec(path="animals"), **specs}, name, folder=animals.parent, cache=cache)

    return find


@pytest.fixture
def base(ref_of: Callable[..., DataRef], cache: Path) -> Decoded:
    """The animals as they were decoded."""
    data = kept(cache, ref_of("base").fingerprint)
    assert data is not None
    return data


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprints of what was decoded, in order."""
    names: list[str] = []

    def counting(cache: Path, data: Decoded) -> str:
        names.append(keep(cache, data))
        return names[-1]

    monkeypatch.setattr(reference, "keep", counting)
    return names
