"""The ticket as a value: what it accepts, when two are equal, what survives the file, pickle and deepcopy."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.ticket import Provenance, Seen, Ticket
from oneticket.ticket.provenance import versions

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
WEIGHT_TYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
REST_TYPES = st.sampled_from([torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.uint8])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def provenances(draw: st.DrawFn) -> Provenance:
    seen = st.builds(
        Seen,
        name=NAMES,
        fingerprint=NAMES,
        split=st.sampled_from(["train", ""]),
        samples=st.none() | st.integers(0, 10**9),
        classes=st.none() | st.integers(1, 1000),
        input_shape=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 99)),
        recipe=st.dictionaries(NAMES, JSON, max_size=3),
    )
    return draw(
        st.builds(
            Provenance,
            model=NAMES,
            model_options=st.dictionaries(NAMES, JSON, max_size=2),
            seen=st.lists(seen, max_size=2).map(tuple),
            round=st.none() | st.integers(0, 30),
            rewind=NAMES,
            seed=st.none() | st.integers(0, 2**63),
            density_asked=st.none() | st.floats(0, 1) | st.integers(0, 1),
            notes=st.dictionaries(NAMES, NAMES, max_size=2),
        )
    )


@st.composite
def tickets(draw: st.DrawFn) -> Ticket:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def values(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator).mul(9).to(dtype)

    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    count = draw(st.integers(1, len(names)))
    density = draw(st.floats(0, 1))
    weights = {name: values(draw(SHAPES), draw(WEIGHT_TYPES)) for name in names[:count]}
    masks = Masks({n: torch.rand(w.shape, generator=generator) < density for n, w in weights.items()})
    rest = {name: values(draw(SHAPES), draw(REST_TYPES)) for name in names[count:]}
    return Ticket(masks, weights, rest, draw(NAMES | st.just("")), draw(provenances()))


def small(**changes: Any) -> Ticket:
    mask = torch.tensor([[True, False, True], [False, True, True]])
    weights = torch.arange(1.0, 7.0).view(2, 3)
    parts: dict[str, Any] = {
        "masks": Masks({"body.weight": mask, "conv.weight": torch.ones(2, dtype=torch.bool)}),
        "weights": {"body.weight": weights, "conv.weight": torch.ones(2)},
        "rest": {"fc.weight": torch.eye(2), "body.bias": torch.zeros(2)},
        "head": "fc",
        "provenance": Provenance(model="lenet", seen=(Seen(name="digits"),), rewind="1ep", seed=3),
    }
    return Ticket(**(parts | changes))


# -- the file --------------------------------------------------------------------------------------------------------
@given(ticket=tickets())
def test_what_is_saved_is_loaded(ticket: Ticket, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tickets")
    ticket.save(folder / "a.safetensors")
    loaded = Ticket.load(folder / "a.safetensors")
    assert loaded == ticket
    assert loaded.masks == ticket.masks
    assert list(loaded.masks) == list(ticket.masks)
    for mine, theirs in ((ticket.weights, loaded.weights), (ticket.rest, loaded.rest)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert theirs[name].dtype == tensor.dtype
            assert torch.equal(theirs[name], tensor)
    assert (loaded.head, loaded.provenance) == (ticket.head, ticket.provenance)
    loaded.save(folder / "b.safetensors")
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


@given(ticket=tickets())
def test_copies_are_equal(ticket: Ticket) -> None:
    assert copy.deepcopy(ticket) == ticket
    assert pickle.loads(pickle.dumps(ticket)) == ticket
    assert ticket.diff(ticket).empty


@pytest.mark.parametrize(("density", "kilobytes"), [(0.1, 525), (0.02, 205), (0.01, 165)])
def test_the_file_is_as_small_as_bits_and_kept_values(tmp_path: Path, density: float, kilobytes: int) -> None:
    count = 1_000_000
    mask = torch.zeros(count, dtype=torch.bool)
    mask[: int(density * count)] = True
    Ticket(Masks({"w": mask}), {"w": torch.ones(count)}).save(tmp_path / "t")
    size = (tmp_path / "t").stat().st_size
    theory = count / 8 + 4 * density * count
    assert theory <= size < theory + 1000
    assert theory == kilobytes * 1000


def test_saving_replaces_a_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_text("old")
    small().save(path)
    assert Ticket.load(path) == small()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.safetensors"
    small().save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        small(head="other").save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saving_into_no_folder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "missing" / "t", tmp_path / "file" / "t", tmp_path):
        with pytest.raises(InputError, match="cannot be saved") as caught:
            small().save(place)
        assert str(place) in str(caught.value)


def test_verify_tells_what_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t"
    small().save(path)
    found = Ticket.verify(path)
    assert (found.ok, found.version, found.tensors, found.kept, found.total) == (True, 1, 6, 6, 8)
    assert found.bytes == path.stat().st_size
    assert len(found.checksum) == 64
    small(head="other").save(path)
    assert Ticket.verify(path).checksum != found.checksum


# -- the value -------------------------------------------------------------------------------------------------------
def test_masked_weights_become_zero_and_the_tensors_are_its_own() -> None:
    weights = torch.tensor([-1.0, -2.0], requires_grad=True)
    ticket = Ticket(Masks({"w": torch.tensor([True, False])}), {"w": weights})
    assert ticket.weights["w"].tolist() == [-1.0, 0.0]
    assert not ticket.weights["w"].signbit()[1], "minus zero"
    with torch.no_grad():
        weights.zero_()
    assert ticket.weights["w"].tolist() == [-1.0, 0.0]
    assert not ticket.weights["w"].requires_grad


def test_masked_weights_may_be_anything_but_kept_ones_are_finite() -> None:
    mask, bad = Masks({"w": torch.tensor([True, False])}), torch.tensor([1.0, float("nan")])
    assert Ticket(mask, {"w": bad}).weights["w"].tolist() == [1.0, 0.0]
    for value in ("nan", "inf", "-inf"):
        with pytest.raises(InputError, match="'w' are not finite"):
            Ticket(mask, {"w": torch.tensor([float(value), 1.0])})


def test_the_rest_may_hold_infinities(tmp_path: Path) -> None:
    # A causal attention mask is a buffer full of them.
    ticket = small(rest={"causal": torch.full((2, 2), float("-inf")), "odd": torch.tensor(float("nan"))})
    ticket.save(tmp_path / "t")
    assert Ticket.load(tmp_path / "t") == ticket


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"masks": Masks({})}, "the ticket has no masks"),
        ({"weights": {"body.weight": torch.ones(2, 3)}}, r"'conv\.weight' is in only one"),
        ({"weights": {"body.weight": torch.ones(2, 3), "conv.weight": torch.ones(3)}}, r"\(2,\) and \(3,\)"),
        ({"weights": {"body.weight": torch.ones(2, 3), "conv.weight": torch.ones(2).long()}}, "int64"),
        ({"rest": {"conv.weight": torch.ones(2)}}, "both the weights and the rest"),
        ({"provenance": Provenance(round="three")}, "provenance"),  # type: ignore[arg-type]
        ({"provenance": Provenance(density_asked=float("nan"))}, "provenance"),
        ({"provenance": Provenance(model_options={"path": Path("x")})}, "provenance"),
        ({"provenance": Provenance(model="\ud800")}, "provenance"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        small(**changes)


def test_provenance_reads_the_same_before_and_after_the_file() -> None:
    given = Provenance(
        seen=(Seen(name="d", input_shape=torch.Size([1, 8, 8]), recipe={"betas": (0.9, 0.999)}),),
        density_asked=np.float64(0.5),
        model_options={"depth": np.int64(3)},
        versions={"torch": torch.__version__},
    )
    kept = small(provenance=given).provenance
    assert kept.seen[0].input_shape == (1, 8, 8)
    assert kept.seen[0].recipe == {"betas": [0.9, 0.999]}
    assert kept.model_options == {"depth": 3}
    assert type(small(provenance=Provenance(density_asked=1)).provenance.density_asked) is float


def test_versions_name_what_runs_here() -> None:
    assert versions().keys() == {"oneticket", "torch", "python"}
    assert versions()["torch"] == torch.__version__


# -- equality and difference -----------------------------------------------------------------------------------------
def test_any_change_makes_a_ticket_unequal() -> None:
    mask = small().masks["body.weight"]
    weights = small().weights
    changed = [
        small(head="other"),
        small(provenance=Provenance()),
        small(rest={"fc.weight": torch.eye(2)}),
        small(rest={"fc.weight": torch.eye(2), "body.bias": torch.tensor([0.0, 1.0])}),
        small(rest={"fc.weight": torch.eye(2), "body.bias": torch.tensor([0.0, -0.0])}),
        small(rest={"fc.weight": torch.eye(2), "body.bias": torch.zeros(2, dtype=torch.float64)}),
        small(rest={"fc.weight": torch.eye(2), "body.bias": torch.zeros(2, dtype=torch.int32)}),
        small(rest={"fc.weight": torch.eye(2), "body.bias": torch.zeros(1, 2)}),
        small(weights=weights | {"conv.weight": torch.tensor([1.0, 1.5])}),
        small(masks=Masks({"body.weight": mask & (torch.arange(6).view(2, 3) > 0), "conv.weight": torch.ones(2) > 0})),
        small(masks=Masks({"conv.weight": torch.ones(2) > 0, "body.weight": mask})),
    ]
    assert small() == small()
    for ticket in changed:
        assert ticket != small()
    assert small() != "ticket"


def test_the_order_of_the_rest_is_no_part_of_a_ticket(tmp_path: Path) -> None:
    other = small(rest=dict(reversed(small().rest.items())))
    assert other == small()
    other.save(tmp_path / "a")
    small().save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_diff_gives_overlap_densities_and_fields() -> None:
    a = Masks({"x": torch.tensor([True, True, False, False]), "y": torch.tensor([True])})
    b = Masks({"x": torch.tensor([True, False, True, True]), "z": torch.tensor([False])})
    here = Ticket(a, {n: torch.ones(m.shape) for n, m in a.items()}, provenance=Provenance(seed=1))
    there = Ticket(b, {n: torch.ones(m.shape) for n, m in b.items()}, {"r": torch.ones(1)}, "fc", Provenance(seed=2))
    found = here.diff(there)
    rows = {row.name: row for row in found.layers}
    assert (rows["x"].overlap, rows["x"].density, rows["x"].other_density) == (0.25, 0.5, 0.75)
    assert not rows["x"].weights_equal
    assert (rows["y"].overlap, rows["y"].density, rows["y"].other_density) == (None, 1.0, None)
    assert (rows["z"].overlap, rows["z"].density, rows["z"].other_density) == (None, None, 0.0)
    assert found.rest == ("r",)
    assert [(f.field, f.here, f.there) for f in found.fields] == [("head", "", "fc"), ("seed", 1, 2)]
    assert not found.empty
    text = str(found)
    assert "0.2500" in text
    assert "seed: 1 | 2" in text


def test_diff_of_layers_with_other_shapes() -> None:
    one, two = (Ticket(Masks({"x": torch.ones(n) > 0}), {"x": torch.ones(n)}) for n in (2, 3))
    (row,) = one.diff(two).layers
    assert (row.overlap, row.density, row.other_density, row.weights_equal) == (None, 1.0, 1.0, False)
