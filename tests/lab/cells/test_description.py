"""Descriptions: the names of cells are what they have always been, however they are written out."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest

from oneticket.data import DataRef
from oneticket.data.derivations import Classes, PerClass
from oneticket.lab.cells.description import (
    ArmStart,
    CellNamer,
    Description,
    Initial,
    Network,
    PretrainingStart,
    Round,
    TicketRef,
)
from oneticket.search import Search
from oneticket.training import Recipe

NETWORK = Network(
    name="vgg19", options={"width": 0.5, "norm": "batch"}, code=None, input=(3, 32, 32), classes=10, head="head",
    prune_head=False, prunable=None,
)  # fmt: skip
DATA = DataRef(fingerprint="f" * 64, steps=(Classes(("Ärmel", "9")), PerClass(40, 0)), split=1)
RECIPE = Recipe(optimizer="sgd", lr=0.1, epochs=160, batch_size=128)
TICKET = TicketRef(dense="d" * 64, previous="e" * 64, round=13, density=0.8**13, search=Search(rounds=13))
WINNING = ArmStart(
    mask="ticket", allocation="", weights="rewound", norms="as-drawn", rescale="none", method="train", options={},
    density=0.8**13, ticket=TICKET, values=None, pretrained=None, rewind="",
)  # fmt: skip
RANDOM = msgspec.structs.replace(
    WINNING, mask="globally-permuted", weights="re-drawn", rescale="layer", density=0.8, ticket=None
)
L0 = msgspec.structs.replace(
    RANDOM, mask="dense", weights="initial", rescale="none", method="l0", options={"strength": 0.1, "cut": 0.75}
)


def cell(start: Any, **more: Any) -> Description:
    return Description(network=NETWORK, data=DATA, recipe=RECIPE, seed=3, start=start, **more)


CELLS = {
    "dense": cell(Initial(), snapshots=("1ep",)),
    "round": cell(Round(ticket=TICKET), test=False),
    "winning": cell(WINNING),
    "random": cell(RANDOM),
    "l0": cell(L0),
    "rotation": cell(PretrainingStart(task="rotation"), test=False),
    "fine-tuned after a cosine": cell(msgspec.structs.replace(WINNING, method="fine-tune"), rates="last-tenth"),
    "layer-wise with moments": cell(PretrainingStart(task="layer-wise"), test=False, rates="each-part"),
}
NAMES = {
    "dense": "fab1fd9723acda9ac948cb3dd22461f49e1dde4cfd129997973d701dd19f19ae",
    "round": "40653d5fdac3e94adc6bd75b5b586b76e999c7cbd0281bf70be908e231c57cef",
    "winning": "b663061edd9032454324a38e88cc4fa55fb374649cb7849d06a109ed195208ab",
    "random": "d8e4b4b2cdbf836b5e222cc78d904e74b76cd0684d36024e30f201d8ca6c70ad",
    "l0": "35c5ea8966e3bc49acc012c331e038de06bfcdf5e28e9dc72548f83af878b2b4",
    "rotation": "99c4cb5d28bffad8e3db2d7d080d1fb87b1f3ea88ad7cf0c4807a184146d1505",
    "fine-tuned after a cosine": "036d04c5333d1f52666e551d2ea063fd0c11cc20871b9d43758cbbc0e392a088",
    "layer-wise with moments": "1b85c994a0de3d7a31028441c7f60043306fa40059fe60eb82a25a7d01fc820d",
}


@pytest.mark.parametrize("kind", CELLS)
def test_the_name_of_a_cell_is_pinned(kind: str) -> None:
    """Where this fails, every stored result of this kind has lost its name."""
    assert CELLS[kind].identity == NAMES[kind]


@pytest.mark.parametrize("kind", CELLS)
def test_the_name_is_the_digest_of_what_a_cell_file_holds(kind: str) -> None:
    held = json.loads(msgspec.json.encode(CELLS[kind]))
    text = json.dumps(held, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert CELLS[kind].identity == hashlib.sha256(text.encode()).hexdigest()


def test_naming_many_gives_the_same_names_as_naming_one() -> None:
    namer = CellNamer()
    for _ in range(2):
        assert {kind: namer.identity(each) for kind, each in CELLS.items()} == NAMES
    # Parts that are equal but other objects, and parts that differ in one field only.
    for each in CELLS.values():
        again = msgspec.json.decode(msgspec.json.encode(each), type=Description)
        assert namer.identity(again) == each.identity
    for field, value in {"seed": 4, "test": False, "snapshots": ("2ep", "3ep"), "schema": 1}.items():
        other = msgspec.structs.replace(CELLS["winning"], **{field: value})
        assert namer.identity(other) == other.identity != CELLS["winning"].identity


def test_a_part_that_is_gone_lends_its_text_to_no_other() -> None:
    """Objects that have been collected leave their address to new ones."""
    namer = CellNamer()
    for epochs in range(1, 300):
        each = msgspec.structs.replace(CELLS["dense"], recipe=Recipe(optimizer="sgd", lr=0.1, epochs=epochs))
        assert namer.identity(each) == each.identity


def test_parents_are_the_cells_whose_files_are_read() -> None:
    first = msgspec.structs.replace(TICKET, previous=TICKET.dense)
    assert CELLS["dense"].parents == CELLS["random"].parents == ()
    assert CELLS["winning"].parents == CELLS["round"].parents == ("d" * 64, "e" * 64)
    assert cell(Round(ticket=first)).parents == ("d" * 64,)
