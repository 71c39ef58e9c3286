"""Exported files, read again by what they are for; and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oneticket.errors import InputError, OneticketError
from oneticket.masks import Masks
from oneticket.sharing import exporting
from oneticket.sharing.exporting import export
from oneticket.ticket import Ticket


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


@pytest.fixture
def ticket() -> Ticket:
    """A ticket whose first convolution has two channels into which nothing leads, and one that nobody reads."""
    state = network().state_dict()
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(state[name].shape, generator=generator) < 0.6 for name in ("0.weight", "2.weight")}
    masks["0.weight"][:2] = False
    masks["2.weight"][:, 3] = False
    weights = {name: state[name] for name in masks}
    return Ticket(Masks(masks), weights, {n: t for n, t in state.items() if n not in masks}, "5")


@pytest.fixture
def model(ticket: Ticket) -> nn.Module:
    """Another network that carries it, head included."""
    carrier = network(1)
    ticket.put_into(carrier, head="copied")
    return carrier.eval()


@pytest.fixture
def example() -> Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def test_the_table_of_layers_is_that_of_the_masks(ticket: Ticket, tmp_path: Path) -> None:
    export(ticket, tmp_path / "t.csv", to="csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["layer"], row["shape"]) for row in rows] == [("0.weight", "6x1x3x3"), ("2.weight", "4x6x3x3")]
    assert sum(int(row["kept"]) for row in rows) == ticket.masks.kept
    assert [float(row["density"]) for row in rows] == list(ticket.masks.densities().values())


def test_a_state_dict_is_loaded_as_weights_only_into_a_plain_network(ticket: Ticket, tmp_path: Path) -> None:
    export(ticket, tmp_path / "t.pt", to="torch")
    content = torch.load(tmp_path / "t.pt", weights_only=True)
    plain = network(3)
    plain.load_state_dict(content["state_dict"])
    for name, mask in content["masks"].items():
        weight = plain.get_parameter(name).detach()
        assert torch.equal(mask, ticket.masks[name])
        assert torch.equal(weight, network().get_parameter(name).detach() * mask)
    assert content["head"] == "5"


def test_trained_weights_are_written_instead_where_a_network_is_given(
    ticket: Ticket, model: nn.Module, tmp_path: Path
) -> None:
    with torch.no_grad():
        model[5].weight.fill_(7.0)  # type: ignore[index]
    export(ticket, tmp_path / "t.pt", to="torch", model=model)
    assert bool((torch.load(tmp_path / "t.pt", weights_only=True)["state_dict"]["5.weight"] == 7).all())


@pytest.mark.slow
def test_without_its_dead_channels_the_network_computes_the_same(
    ticket: Ticket, model: nn.Module, example: Tensor, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = export(ticket, tmp_path / "t.pt2", to="dense-smaller", model=model, example=example)
    assert "3 dead channels removed" in done.facts
    small = torch.export.load(tmp_path / "t.pt2")
    assert sum(tensor.numel() for tensor in small.state_dict.values()) == 3 * 9 + 4 * 3 * 9 + 4 + 64 * 3 + 3
    for batch in (example, torch.randn(7, 1, 8, 8)):
        torch.testing.assert_close(small.module()(batch), model(batch), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


def test_a_network_that_does_not_carry_the_ticket_is_refused(ticket: Ticket, example: Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not carry this ticket.*ticket\.kept in training"):
        export(ticket, tmp_path / "t.pt2", to="dense-smaller", model=network(1), example=example)
    assert not list(tmp_path.iterdir())


def test_a_file_that_holds_something_else_is_not_left(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.pt").write_text("older")
    monkeypatch.setattr(exporting, "_equal", lambda *_: False)
    with pytest.raises(OneticketError, match="not written: loaded again it differs"):
        export(ticket, tmp_path / "t.pt", to="torch")
    assert [path.name for path in tmp_path.iterdir()] == ["t.pt"]
    assert (tmp_path / "t.pt").read_text() == "older"


@pytest.mark.slow
def test_a_network_that_computes_something_else_is_not_left(
    ticket: Ticket, model: nn.Module, example: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.pt2").write_text("older")
    monkeypatch.setattr(exporting, "_difference", lambda *_: float("nan"))
    with pytest.raises(OneticketError, match="not written: loaded again it differs"):
        export(ticket, tmp_path / "t.pt2", to="dense-smaller", model=model, example=example)
    assert [path.name for path in tmp_path.iterdir()] == ["t.pt2"]
    assert (tmp_path / "t.pt2").read_text() == "older"


def test_what_lacks_is_named(ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean 'onnx'"):
        export(ticket, tmp_path / "t", to="onx")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="onnx needs a network and an example"):
        export(ticket, tmp_path / "t", to="onnx")
    carrier = network()
    ticket.put_into(carrier, head="copied")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnx is not installed; expected pip install 'oneticket\[onnx\]'"):
        export(ticket, tmp_path / "t", to="onnx", model=carrier, example=torch.zeros(1, 1, 8, 8))
