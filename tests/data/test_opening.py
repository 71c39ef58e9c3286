"""One line from a folder to train and test: folders of classes are parted by names, the same share of each class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.conftest import noise, png
from torch import Tensor, nn

import oneticket as ot
from oneticket.data import DataSpec, open_data, resolve
from oneticket.errors import InputError


@pytest.fixture
def home(folder_of: Callable[[dict[str, bytes]], Path]) -> Path:
    """A folder of two classes of 20 and 10 pictures, of two sizes, that is not parted."""
    files = {f"cat/{n:02}.png": png(noise(n, 6, 6)) for n in range(20)}
    files |= {f"dog/{n:02}.png": png(noise(100 + n, 8, 8)) for n in range(10)}
    return folder_of(files)


def pictures(part: object) -> set[bytes]:
    assert isinstance(part, ot.data.ImageSet)
    return {image.numpy().tobytes() for image in part.gather()}


def test_a_folder_of_classes_is_parted_by_names_and_nothing_is_lost(home: Path, cache: Path) -> None:
    train, test = ot.data.images(home, size=4, cache=cache)
    assert (train.classes, train.shape) == (("cat", "dog"), (1, 4, 4))
    assert torch.bincount(train.labels).tolist() == [16, 8]
    assert torch.bincount(test.labels).tolist() == [4, 2]
    assert not pictures(train) & pictures(test)
    assert len(pictures(train) | pictures(test)) == 30
    again, _ = ot.data.images(home, size=4, cache=cache)
    other, _ = ot.data.images(home, size=4, split=1, cache=cache)
    assert again.digest() == train.digest() != other.digest()


def test_an_experiment_file_says_the_same(home: Path, cache: Path) -> None:
    ref = resolve({"x": DataSpec(images=str(home), test=0.2, size=4, validation=0)}, "x", folder=Path(), cache=cache)
    train, test = ot.data.images(home, size=4, cache=cache)
    splits = open_data(ref, cache=cache)
    assert (splits.train.digest(), splits.test.digest()) == (train.digest(), test.digest())


def test_a_parted_folder_stays_as_it_is_parted(folder_of: Callable[[dict[str, bytes]], Path], cache: Path) -> None:
    files = {f"{part}/cat/{n}.png": png(noise(n + len(part), 6, 6)) for part in ("train", "test") for n in range(3)}
    home = folder_of(files)
    train, test = ot.data.images(home, cache=cache)
    assert (len(train), len(test)) == (3, 3)
    with pytest.raises(InputError, match=r"test = 0\.2 and a folder 'train'"):
        resolve({"x": DataSpec(images=str(home), test=0.2)}, "x", folder=Path(), cache=cache)


def test_what_cannot_be_parted_is_refused(home: Path, cache: Path) -> None:
    with pytest.raises(InputError, match=r"neither train nor test; expected .*test = 0.2 for a folder of classes"):
        resolve({"x": DataSpec(images=str(home))}, "x", folder=Path(), cache=cache)
    with pytest.raises(InputError, match=r"^size: images have different sizes"):
        ot.data.images(home, cache=cache)
    with pytest.raises(InputError, match=r"channels"):
        ot.data.images(home, size=4, channels=2, cache=cache)
    (home / "eel").mkdir()
    (home / "eel" / "0.png").write_bytes(png(noise(7, 6, 6)))
    with pytest.raises(InputError, match=r"test: class 'eel' has 1 pictures"):
        ot.data.images(home, size=4, cache=cache)


class Reader(nn.Module):
    """Logits of the next token by the token before."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.body, self.head = nn.Embedding(256, 12), nn.Linear(12, 24), nn.Linear(24, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(self.tokens(tokens))))  # type: ignore[no-any-return]


def test_a_ticket_is_found_on_text_and_moved_by_the_loss_of_text(tmp_path: Path, cache: Path) -> None:
    draws = np.random.default_rng(0)
    for number in range(12):
        steps = draws.choice([1, 2, 3], 400, p=[0.7, 0.2, 0.1]).cumsum()
        (tmp_path / f"{number}.txt").write_text("".join("abcdefgh"[step % 8] for step in steps))
    train, test = ot.data.text(tmp_path, window=20, pattern="*.txt", cache=cache)
    recipe = ot.Recipe.adam(epochs=4, lr=0.05, batch_size=32)
    torch.manual_seed(0)
    ticket = ot.find_ticket(Reader(), train, recipe=recipe, density=0.5, rounds=2, rewind="1it", criterion="snip")
    assert ticket.provenance.seen[0].classes == 256
    result = ot.transfer(ticket, Reader(), train, recipe=recipe, validation=test, test_set=test)
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.5
    assert result.training.history[-1].val_accuracy == pytest.approx(result.test_accuracy)
    with pytest.raises(InputError, match="looks at samples of each class"):
        ot.find_ticket(Reader(), train, recipe=recipe, density=0.5, criterion="grasp", rounds=1, rewind=0)


def test_the_loss_of_a_recipe_is_that_of_the_training() -> None:
    inputs = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    data = inputs, inputs.sum(1, keepdim=True)
    network = nn.Linear(3, 1)
    recipe = ot.Recipe.sgd(epochs=20, lr=0.1, batch_size=8, loss="regression", metric="mean-absolute-error")
    history = ot.train(network, data, recipe, validation=data).history
    assert history[-1].val_accuracy is not None
    assert history[-1].val_accuracy < 0.3  # R² is nearly 1
    with pytest.raises(InputError, match="targets go from"):
        ot.train(network, data, recipe, loss="multi-label")
