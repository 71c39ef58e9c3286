"""Tables of an experiment file: what is refused, and with which words."""

from __future__ import annotations

import msgspec
import pytest

from oneticket.data import DataSpec
from oneticket.data.derivations import Channels, Classes, Fraction, Half, PerClass, ShuffledLabels, Size
from oneticket.data.spec import chain
from oneticket.errors import InputError

NAMES = ("cat", "dog", "eel")


def test_a_table_of_the_file_is_read_with_its_keys() -> None:
    table = {"from": "fashion", "classes": [0, "dog"], "fraction": 1, "half": "b"}
    spec = msgspec.convert(table, DataSpec)
    assert spec == DataSpec(from_="fashion", classes=(0, "dog"), fraction=1.0, half="b")
    with pytest.raises(msgspec.ValidationError, match="`clases`"):
        msgspec.convert({"path": "x", "clases": [1]}, DataSpec)


def test_steps_act_in_the_stated_order_whatever_the_order_of_the_keys() -> None:
    spec = DataSpec(channels=3, size=8, labels="shuffled", per_class=5, half="a", classes=(2, "cat"), path="x")
    assert list(spec.derivations(NAMES, 4)) == [
        Classes(("eel", "cat")),
        Half("a", 4),
        PerClass(5, 4),
        ShuffledLabels(4),
        Size(8, "resize"),
        Channels(3),
    ]
    assert list(DataSpec(path="x", fraction=1).derivations(NAMES, 0)) == [Fraction(1.0, 0)]
    assert list(DataSpec(path="x").derivations(NAMES, 0)) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (DataSpec(), "the origin is missing; expected exactly one of path, hub, builtin, images, text, table, from"),
        (DataSpec(path="a", hub="b"), "path and hub are all given"),
        (DataSpec(path="a", classes=()), "classes: .* out of range"),
        (DataSpec(path="a", per_class=0), "per_class: 0 is out of range"),
        (DataSpec(path="a", fraction=0.0), "fraction: 0.0 is out of range"),
        (DataSpec(path="a", fraction=1.5), "fraction: 1.5 is out of range"),
        (DataSpec(path="a", size=0), "size: 0 is out of range"),
        (DataSpec(path="a", split=-1), "split: -1 is out of range"),
        (DataSpec(path="a", validation=1.0), "validation: 1.0 is out of range"),
        (DataSpec(path="a", validation=float("nan")), "validation: nan is out of range"),
        (DataSpec(path="a", fraction=float("nan")), "fraction: nan is out of range"),
        (DataSpec(path="a", per_class=3, fraction=0.5), "per_class and fraction are both given"),
        (DataSpec(path="a", fit="pad"), "fit: "),
        (DataSpec(path="a", half="c"), r"\$\.half"),  # type: ignore[arg-type]
        (DataSpec(path="a", channels=2), r"\$\.channels"),  # type: ignore[arg-type]
        (DataSpec(path="a", per_class="many"), r"\$\.per_class"),  # type: ignore[arg-type]
    ],
)
def test_values_out_of_range_are_refused_by_data_set_and_key(spec: DataSpec, message: str) -> None:
    with pytest.raises(InputError, match=f"^data.x: .*{message}"):
        chain({"x": spec}, "x")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((3,), "classes: the data has no class 3; expected 0 to 2"),
        ((-1,), "classes: the data has no class -1"),
        (("dgo",), r"classes: the data has no class 'dgo'; .* \(did you mean 'dog'\?\)"),
        (("dog", 1), "classes: class 'dog' is given twice"),
    ],
)
def test_classes_that_the_data_lacks_are_refused(classes: tuple[int | str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(DataSpec(path="x", classes=classes).derivations(NAMES, 0))


def test_a_text_is_the_name_of_a_class_also_where_it_looks_like_a_number() -> None:
    assert list(DataSpec(path="x", classes=("1", 1)).derivations(("0", "2", "1"), 0)) == [Classes(("1", "2"))]


def test_a_chain_begins_with_the_base() -> None:
    specs = {"low": DataSpec(from_="half"), "half": DataSpec(from_="all"), "all": DataSpec(builtin="digits")}
    assert [name for name, _ in chain(specs, "low")] == ["all", "half", "low"]


def test_unknown_names_and_circles_are_refused() -> None:
    specs = {"fashion": DataSpec(path="x"), "low": DataSpec(from_="fahsion")}
    with pytest.raises(InputError, match=r"^data.low.from: unknown data set 'fahsion'.*'fashion'\?"):
        chain(specs, "low")
    with pytest.raises(InputError, match=r"^unknown data set 'lwo'.*'low'\?"):
        chain(specs, "lwo")
    circle = {"a": DataSpec(from_="b"), "b": DataSpec(from_="c"), "c": DataSpec(from_="b")}
    with pytest.raises(InputError, match=r"^data.c.from: is derived from itself: a → b → c → b"):
        chain(circle, "a")
