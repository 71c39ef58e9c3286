"""The bits of a cell: which test images its network classifies rightly, and what becomes of cells without them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oneticket.data import Normalisation
from oneticket.errors import InputError
from oneticket.lab.cells.parents import ParentCells
from oneticket.lab.cells.records import CORRECT, sealed
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.plan import Plan
from oneticket.lab.results.correct import correct, correct_of
from oneticket.lab.results.footprints import stored_network
from oneticket.lab.results.table import remember, tidy


@pytest.fixture(scope="module")
def done(shared_lab: Any) -> tuple[Plan, Store]:
    plan, store = shared_lab.plan(seeds=1, name="bits"), shared_lab.store("bits")
    remember(plan, store)
    assert shared_lab.run(plan, store).complete
    return plan, store


def test_the_bits_are_those_of_the_stored_network_image_by_image(done: tuple[Plan, Store], shared_lab: Any) -> None:
    plan, store = done
    parents, read = ParentCells(store, shared_lab.cache, shared_lab.folder), correct_of(store)
    for row in tidy(store):
        network, splits = stored_network(row["cell"], parents).eval(), parents.splits(plan.cells[row["cell"]])
        known, test = Normalisation.of(splits.train), splits.test
        mean, scale = (torch.tensor(values).view(1, -1, 1, 1) for values in (known.mean, known.std))
        with torch.inference_mode():
            images = test.images if test.index is None else test.images[test.index]
            outputs = network((images.float() / 255 - mean) / scale)
        expected = (outputs.argmax(1) == test.labels).numpy()
        bits = read(row["cell"])
        assert bits is not None
        assert np.array_equal(bits, expected)
        assert bits.sum() / len(bits) == row["test_accuracy"]
        assert len(bits) == row["test_images"]
        raw = (store.folder(row["cell"]) / CORRECT).read_bytes()
        assert raw == np.packbits(expected).tobytes(), "anybody can read them with numpy alone"


def test_a_cell_that_was_not_tested_has_no_bits(done: tuple[Plan, Store]) -> None:
    plan, store = done
    untested = [identity for identity, cell in plan.cells.items() if not cell.test]
    assert untested
    assert {correct(store, cell) is None for cell in untested} == {True}


def test_a_training_that_diverged_has_no_bits(lab: Any) -> None:
    grid = {"targets": ["digits@sgd"], "arms": ["dense"]}
    plan, store = lab.plan(seeds=1, recipe__sgd__lr=1e20, transfer=[grid]), lab.store()
    assert lab.run(plan, store).complete
    (cell,) = plan.cells
    assert "diverged" in store.read(cell)["outcome"]
    assert correct(store, cell) is None


def test_cells_of_earlier_versions_have_none_and_damaged_ones_are_told(
    done: tuple[Plan, Store], tmp_path: Path
) -> None:
    _, store = done
    shutil.copytree(store.root, tmp_path / "store")
    copy = Store.open(tmp_path / "store")
    first, second, third = (row["cell"] for row in tidy(copy)[:3])

    def rewritten(cell: str, **changes: Any) -> None:
        (copy.folder(cell) / "cell.json").write_text(sealed({**copy.read(cell), **changes}))

    rewritten(first, files={k: v for k, v in copy.read(first)["files"].items() if k != CORRECT})
    assert correct(copy, first) is None
    rewritten(second, outcome=copy.read(second)["outcome"] | {"test_images": 8})
    with pytest.raises(InputError, match="its record 8 images"):
        correct(copy, second)
    path = copy.folder(third) / CORRECT
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(InputError, match="does not agree with its digest"):
        correct(copy, third)
