"""Tables of features: standardised and one-hot by the training rows, and what of a table is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import oneticket as ot
from oneticket.data import DataSpec, Splits, TableSet, open_data, resolve
from oneticket.errors import InputError


def lines(rows: int = 40) -> list[str]:
    """A table of two columns of numbers, one of colours and a label."""
    draws = np.random.default_rng(0)
    return ["width,weight,colour,kind"] + [
        f"{draws.normal(5, 3):.4f},{draws.normal(-100, 40):.4f},{'red' if n % 3 else 'blue'},{'ab'[n % 2]}"
        for n in range(rows)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_(text: list[str], name: str = "t.csv") -> Path:
        (tmp_path / name).write_text("\n".join(text) + "\n")
        return tmp_path / name

    return write_


@pytest.fixture
def opened(cache: Path) -> Callable[..., Splits]:
    def open_(file: Path, **keys: object) -> Splits:
        spec = DataSpec(table=str(file), **{"label": "kind", "validation": 0, **keys})  # type: ignore[arg-type]
        return open_data(resolve({"x": spec}, "x", folder=file.parent, cache=cache), cache=cache)

    return open_


def features(part: object) -> Tensor:
    assert isinstance(part, TableSet)
    return part.gather()


def test_numbers_are_standardised_and_categories_one_hot_by_the_training_rows_alone(
    write: Callable[..., Path], opened: Callable[..., Splits]
) -> None:
    train, test = write(lines()), write(lines(12)[:1] + lines(60)[45:], "test.csv")
    splits = opened(train, test=str(test))
    for part, file in ((splits.train, train), (splits.test, test)):
        raw, known = (
            [line.split(",") for line in f.read_text().splitlines()[1:]] for f in (file, train)
        )  # independent of the code: NumPy in float64
        numbers, of_train = (np.array([[float(v) for v in row[:2]] for row in t]) for t in (raw, known))
        expected = (numbers - of_train.mean(0)) / of_train.std(0)
        hot = np.array([[row[2] == "blue", row[2] == "red"] for row in raw])
        assert torch.allclose(features(part).double(), torch.from_numpy(np.hstack([expected, hot])), atol=1e-5)
        assert isinstance(part, TableSet)
        assert [part.classes[label] for label in part.labels] == [row[3] for row in raw]
    assert splits.train.classes == ("a", "b")


def test_a_fraction_of_each_class_is_for_testing_whatever_the_order_of_the_rows(
    write: Callable[..., Path], opened: Callable[..., Splits]
) -> None:
    table = lines()
    first = opened(write(table), test=0.25)
    assert (len(first.train), len(first.test)) == (30, 10)
    assert torch.bincount(first.test.labels).tolist() == [5, 5]  # type: ignore[union-attr]
    turned = opened(write([table[0], *table[:0:-1]], "turned.csv"), test=0.25)
    rows = [set(map(tuple, features(splits.test).tolist())) for splits in (first, turned)]
    assert {tuple(round(v, 4) for v in row) for row in rows[0]} == {tuple(round(v, 4) for v in row) for row in rows[1]}
    assert len(opened(write(table), test=0.25, per_class=4).train) == 8
    assert opened(write(table), test=0.25, classes=("b", "a")).train.classes == ("b", "a")


def test_equal_rows_are_on_one_side(write: Callable[..., Path], opened: Callable[..., Splits]) -> None:
    table = lines(20)
    splits = opened(write([table[0], *table[1:], *table[1:]]), test=0.3)
    train, test = (set(map(tuple, features(part).tolist())) for part in (splits.train, splits.test))
    assert not train & test


def test_a_parquet_file_gives_the_same_table(
    write: Callable[..., Path], opened: Callable[..., Splits], tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [line.split(",") for line in lines()[1:]]
    columns = {"width": [float(r[0]) for r in rows], "weight": [float(r[1]) for r in rows]}
    columns |= {"colour": [r[2] for r in rows], "kind": [r[3] for r in rows]}  # type: ignore[dict-item]
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    a, b = opened(write(lines())), opened(tmp_path / "t.parquet")
    assert a.train.digest() == b.train.digest()


def test_what_is_changed_or_left_out_is_said(write: Callable[..., Path], opened: Callable[..., Splits]) -> None:
    train = [line + tail for line, tail in zip(lines(), [",same,fixed", *[",1,"] * 40], strict=True)]
    train[1] = train[1].replace("blue", "")
    test = [train[0], train[2].replace("red", "green")]
    with pytest.warns(UserWarning, match="left out") as caught:
        splits = opened(write(train), test=str(write(test, "test.csv")))
    told = "\n".join(str(warning.message) for warning in caught)
    assert "column colour: 1 missing values are a category of their own" in told
    assert "column colour: 1 test rows have a category that train lacks, such as 'green'" in told
    assert "column same left out: it has one value in train" in told
    assert "column fixed left out: it is empty in train" in told
    assert splits.train.shape == (2 + 3,)
    assert features(splits.test)[0, 2:].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "keys", "said"),
    [
        (lambda t: t, {"label": "kid"}, r"label: no column 'kid' \(did you mean 'kind'\?\)"),
        (lambda t: t, {"label": None}, "label: the key is missing"),
        (lambda t: t, {"columns": ("widht",)}, r"columns: no column 'widht' \(did you mean 'width'\?\)"),
        (lambda t: t, {"columns": ("kind",)}, "columns: 'kind' is the label"),
        (lambda t: t, {"size": 8}, 'size: "size" is for pictures, and the data are a table'),
        (lambda t: t, {"windows": 8}, 'windows: "windows" is for text'),
        (lambda t: t, {"test": 1.5}, "test: 1.5 is out of range"),
        (lambda t: [*t[:3], "1,2", *t[3:]], {}, "line 4: 2 values, where the header has 4 names"),
        (lambda t: ["a,a,b,kind", *t[1:]], {}, "two columns are called 'a'"),
        (lambda t: [*t[:3], ",-100,red,a", *t[3:]], {}, "column width, .*: the number is missing"),
        (lambda t: [*t[:3], "inf,-100,red,a", *t[3:]], {}, "column width, .*: inf is not finite"),
        (lambda t: [*t[:3], "1,-100,red,", *t[3:]], {}, "row 3: the label is missing"),
        (lambda t: [t[0], *(line[:-1] + "a" for line in t[1:])], {}, "label: all labels are 'a'"),
        (lambda t: [t[0], *(f"{line[:-1]}{n}.5" for n, line in enumerate(t[1:]))], {}, "row 1: the label is 0.5"),
        (lambda t: [*t, "1,2,red,c"], {}, "class 'c' has 1 rows that cannot be parted"),
        (lambda t: t[:1], {}, "has no rows"),
        (lambda t: [*t, "", '"'], {}, "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused(
    write: Callable[..., Path],
    opened: Callable[..., Splits],
    change: Callable[[list[str]], list[str]],
    keys: dict[str, object],
    said: str,
) -> None:
    with pytest.raises(InputError, match=said):
        opened(write(change(lines())), **keys)


def test_names_of_rows_are_not_features(write: Callable[..., Path], opened: Callable[..., Splits]) -> None:
    table = [line + (",name" if not n else f",row{n}") for n, line in enumerate(lines(400))]
    with pytest.raises(InputError, match=r"column name has 3\d\d different texts"):
        opened(write(table))
    assert opened(write(table), columns=("width", "colour")).train.shape == (3,)


def test_texts_among_the_numbers_of_the_test_table_are_refused(
    write: Callable[..., Path], opened: Callable[..., Splits]
) -> None:
    test = write([lines()[0], "wide,-100,red,a"], "test.csv")
    with pytest.raises(InputError, match="column width, test, row 1: 'wide' is not a number"):
        opened(write(lines()), test=str(test))
    with pytest.raises(InputError, match="class 'z' is in test, but not in train"):
        opened(write(lines()), test=str(write([lines()[0], "1,-100,red,z"], "other.csv")))


def test_one_line_opens_a_table_and_a_network_learns_it(write: Callable[..., Path], cache: Path) -> None:
    rows = [f"{n % 7},{(n * 5) % 11},{'yes' if n % 7 > 3 else 'no'}" for n in range(200)]
    train, test = ot.data.table(write(["a,b,kind", *rows]), label="kind", cache=cache)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        recipe = ot.Recipe.adam(epochs=30, lr=0.02, batch_size=32)
        ticket = ot.find_ticket(network, train, recipe=recipe, density=0.5, rounds=1, rewind=0)
        assert ticket.provenance.seen[0].input_shape == (2,)
        result = ot.transfer(ticket, network, train, recipe=recipe, test_set=test)
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.9
