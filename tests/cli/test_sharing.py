"""Tickets that change hands, from the shell."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from oneticket.masks import Masks
from oneticket.models import ModelSpec, build
from oneticket.ticket import Provenance, Seen, Ticket


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """A ticket that keeps a quarter of its weights."""
    masks = Masks({"linear1.weight": torch.arange(16).view(4, 4) % 4 == 0})
    about = Provenance(model="lenet-300-100", seen=(Seen(name="digits"),))
    Ticket(masks, {"linear1.weight": torch.ones(4, 4)}, {}, "", about).save(tmp_path / "d.safetensors")
    return tmp_path / "d.safetensors"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Results of tickets of one source at two densities, their controls, and the dense network."""
    at = {"dense": (1.0,), "winning": (0.5, 0.25), "random": (0.5, 0.25)}
    rows = [
        {
            "experiment": "e", "model": "lenet-300-100", "target": "digits", "target_recipe": "sgd", "arm": arm,
            "source": "low" if arm == "winning" else "", "source_recipe": "sgd" if arm == "winning" else "",
            "density": density, "seed": seed, "test_accuracy": 0.9 * density + 0.01 * seed, "test_loss": 1.0,
        }
        for arm, densities in at.items() for density in densities for seed in range(3)
    ]  # fmt: skip
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "results.csv"


def test_a_ticket_is_pushed_listed_and_pulled(call: Any, found: Path) -> None:
    pushing = ("ticket", "push", found.name, "zoo", "--name", "quarter", "--license", "cc-by-4.0")
    told = call(*pushing)
    assert told.code == 0, told.error
    assert "zoo/quarter/README.md" in told.out
    assert "has it already" in call(*pushing).out
    (line,) = call("zoo", "list").out.splitlines()[1:]
    assert line.split() == ["quarter", "lenet-300-100", "25", "4", "digits", "cc-by-4.0"]
    (entry,) = json.loads(call("zoo", "list", "--json").out)["tickets"]
    assert call("zoo", "get", "quarter", "--sha256", entry["sha256"]).code == 0
    assert Path("quarter.safetensors").read_bytes() == found.read_bytes()
    told = call("ticket", "pull", "zoo/quarter/ticket.safetensors", "--to", "again.safetensors")
    assert "again.safetensors: verified and written" in told.out
    assert entry["checksum"] in told.out


def test_what_cannot_be_shared_or_fetched_is_refused(call: Any, found: Path) -> None:
    assert "hf:user/name" in call("ticket", "push", found.name, "http://x").error
    assert "one such as cc-by-4.0" in call("ticket", "push", found.name, "there", "--license", "my own").error
    assert not Path("there").exists()
    told = call("zoo", "list")
    assert (told.code, told.out) == (2, "")
    assert "it holds no shared tickets" in told.error
    call("ticket", "push", found.name, "zoo", "--name", "quarter")
    assert "did you mean 'quarter'" in call("zoo", "get", "quater").error
    Path("quarter.safetensors").write_text("mine")
    told = call("zoo", "get", "quarter")
    assert (told.code, Path("quarter.safetensors").read_text()) == (2, "mine")
    assert "--force" in told.error


def test_a_card_has_the_numbers_of_its_density_and_of_no_other(call: Any, found: Path, table: Path) -> None:
    told = call("ticket", "push", found.name, "shared", "--results", table.name, "--source", "low@sgd")
    assert told.code == 0, told.error
    numbers = Path("shared/README.md").read_text("utf-8").partition("## What it reached")[2].partition("## Where")[0]
    arms = [[cell.strip() for cell in line.split("|")] for line in numbers.splitlines() if line.startswith("|")]
    named = [arm for line in arms for arm in line if arm in ("dense", "winning", "random")]
    assert named == ["dense", "random", "winning"]
    assert not any(cell.startswith("46") for line in arms for cell in line), "density 0.5 is another ticket's"
    refused = call("ticket", "push", found.name, "o", "--results", table.name, "--source", "lowe@sgd")
    assert "did you mean 'low@sgd'" in refused.error
    other = Ticket(Masks({"w": torch.tensor([[True, False, False]])}), {"w": torch.ones(1, 3)})
    other.save("e.safetensors")
    told = call("ticket", "push", "e.safetensors", "o", "--results", table.name)
    assert told.code == 2
    assert "has no network of density 0.3333" in told.error
    assert "one of the densities 0.25, 0.5, 1" in told.error
    assert not Path("o").exists()


def test_a_ticket_is_exported_and_imported_again(call: Any, tmp_path: Path) -> None:
    network = build(ModelSpec(name="lenet-300-100", options={"width": 0.05}), input_shape=(1, 8, 8), classes=10, seed=0)
    state = network.state_dict()
    state["linear1.weight"][::2] = 0.0
    torch.save(state, "pruned.pth")
    own = ["--model", "lenet-300-100", "--option", "width=0.05", "--input", "1x8x8", "--classes", "10"]
    told = call("ticket", "import", "pruned.pth", *own, "--out", "t.safetensors")
    assert told.code == 0, told.error
    assert "from weights that are zero" in told.out
    assert Ticket.load("t.safetensors").provenance.notes == {"imported from": "pruned.pth"}
    assert "the ticket does not say what its inputs are; expected --input" in call(
        "ticket", "export", "t.safetensors", "--to", "dense-smaller"
    ).error  # fmt: skip
    shape = ["--input", "1x8x8"]
    told = call("ticket", "export", "t.safetensors", "--to", "torch", "--weights", "pruned.pth", *shape)
    assert told.code == 0, told.error
    again = torch.load("t.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.items())
    torch.save({name: tensor + 1 for name, tensor in state.items()}, "dense.pth")
    refused = call("ticket", "export", "t.safetensors", "--to", "torch", "--weights", "dense.pth", *shape)
    assert "does not carry this ticket" in refused.error
    assert (
        "'1x8' is not a shape"
        in call("ticket", "import", "pruned.pth", *own[:-4], "--input", "1x8", "--classes", "3", "--out", "u").error
    )
