"""Real images: the counts, shapes and statistics that are known of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oneticket.data import DataSpec, Normalisation, Splits, open_data, resolve

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="session")
def opened(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """Opens a derivation of one of the real sets; each is decoded once."""
    cache = tmp_path_factory.mktemp("cache")

    def open_one(folder: str, **keys: object) -> Splits:
        specs = {"base": DataSpec(path=folder), "x": DataSpec(from_="base", **keys)}  # type: ignore[arg-type]
        return open_data(resolve(specs, "x", folder=real_data, cache=cache), cache=cache)

    return open_one


def test_traffic_signs(opened: object) -> None:
    splits = opened("gtsrb32")  # type: ignore[operator]
    assert len(splits.train) + len(splits.validation) == 7120
    assert len(splits.test) == 1760
    assert splits.train.shape == (3, 32, 32)
    assert len(splits.train.classes) == 43
    assert splits.train.classes[0] == "Speed limit 20"
    halves = [opened("gtsrb32", half=half, validation=0.0).train for half in ("a", "b")]  # type: ignore[operator]
    assert sum(map(len, halves)) == 7120
    a, b = (torch.bincount(half.labels, minlength=43) for half in halves)
    assert int((a - b).abs().max()) <= 1


@pytest.mark.slow
def test_mnist(opened: object) -> None:
    """Official counts of the classes; mean 0.1307 and standard deviation 0.3081, as quoted everywhere."""
    splits = opened("mnist", validation=0.0)  # type: ignore[operator]
    assert splits.train.shape == (1, 28, 28)
    assert torch.bincount(splits.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(splits.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    normalisation = Normalisation.of(splits.train)
    assert normalisation.mean == pytest.approx((0.1307,), abs=5e-5)
    assert normalisation.std == pytest.approx((0.3081,), abs=5e-5)
    few = opened("mnist", per_class=100, classes=(7, 3), size=32, fit="pad", channels=3)  # type: ignore[operator]
    assert (len(few.train), len(few.validation), len(few.test)) == (180, 20, 1028 + 1010)
    assert few.test.shape == (3, 32, 32)
    assert few.test.classes == ("7", "3")
