"""Damage in the thousands: whatever is read back is what was written, or an error says which file is not.

Every damage is drawn from a seed: bits that flip, files that end early, are empty, zero, missing, longer, or another's.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import oneticket as ot
from oneticket.data import DataSpec, open_data, resolve
from oneticket.errors import OneticketError
from oneticket.lab.cells.claims import Busy
from oneticket.lab.cells.records import CORRECT
from oneticket.lab.cells.run import CellCheckpoint, Clock, Workplace, run_cell
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks, load_state
from oneticket.lab.cells.verification import verify
from oneticket.lab.planning.plan import make_plan
from oneticket.lab.results.correct import correct
from oneticket.lab.results.cost import cost_report
from oneticket.lab.results.suspects import suspects
from oneticket.lab.results.table import remember, tidy
from oneticket.lab.spec.experiment import read_experiment

pytestmark = pytest.mark.faults

SECONDS, BYTES = 5.0, 10**9
"""What reading something damaged may take at most."""

EXPERIMENT: dict[str, Any] = {
    "name": "damage",
    "model": {"name": "lenet-300-100", "options": {"width": 0.05}},
    "seeds": 1,
    "data": {"digits": {"builtin": "digits", "per_class": 20}},
    "recipe": {"sgd": {"optimizer": "sgd", "lr": 0.1, "epochs": 2, "batch_size": 32}},
    "search": {"rounds": 2, "prune": 0.5, "rewind": "1ep"},
    "transfer": [
        {"sources": ["digits@sgd"], "targets": ["digits@sgd"], "arms": ["winning", "random"], "densities": [0.25]},
    ],
}


# -- damages ------------------------------------------------------------------------------------------------------
def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        place = chance.randrange(len(data) * 8)
        data[place // 8] ^= 1 << place % 8


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def empty(data: bytearray, _: random.Random) -> None:
    data.clear()


def append(data: bytearray, chance: random.Random) -> None:
    data += chance.choice([b"\0", b"\n", b"}", chance.randbytes(64), bytes(data)])


def overwrite(data: bytearray, chance: random.Random) -> None:
    begin = chance.randrange(len(data))
    end = min(len(data), begin + chance.choice([1, 16, 512]))
    data[begin:end] = chance.choice([bytes(end - begin), chance.randbytes(end - begin)])


def lose(data: bytearray, chance: random.Random) -> None:
    begin = chance.randrange(len(data))
    del data[begin : begin + chance.choice([1, 2, 16])]


CHANGES = (flip, flip, flip, cut, empty, append, overwrite, lose)


class Damage:
    """A damage to one of ``files``, which goes away at the end of the context."""

    def __init__(self, files: list[Path], seed: int) -> None:
        chance = random.Random(seed)
        self.file = chance.choice(files)
        alike = [file for file in files if file.name == self.file.name and file != self.file]
        kind = chance.choice([*CHANGES, "delete", "swap"])
        self.other = chance.choice(alike) if kind == "swap" and alike else None
        self.kind = "swap" if self.other else kind if callable(kind) or kind == "delete" else flip
        self._chance = chance

    def __enter__(self) -> Damage:
        self._right = {file: file.read_bytes() for file in (self.file, self.other) if file is not None}
        if self.other is not None:
            self.file.write_bytes(self._right[self.other])
            self.other.write_bytes(self._right[self.file])
        elif callable(self.kind):
            data = bytearray(self._right[self.file])
            self.kind(data, self._chance)
            self.file.write_bytes(data)
        else:
            self.file.unlink()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        took = time.perf_counter() - self._began
        for file, data in self._right.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        assert took < SECONDS, self

    def __str__(self) -> str:
        kind = self.kind if isinstance(self.kind, str) else self.kind.__name__
        return f"{kind} of {self.file}" + (f" with {self.other}" if self.other else "")


def same_or_told(look: Callable[[], Any], right: Any, damage: Damage) -> bool:
    """Whether the damage was told; if not, what is read must be right."""
    try:
        found = look()
    except OneticketError:
        return True
    assert equal(found, right), f"silent: {damage}"
    return False


def equal(here: Any, there: Any) -> bool:
    if isinstance(here, dict) and isinstance(there, dict):
        return list(here) == list(there) and all(equal(here[key], there[key]) for key in here)
    if isinstance(here, torch.Tensor) and isinstance(there, torch.Tensor):
        return here.dtype == there.dtype and torch.equal(here, there)
    return bool(here == there)


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES


# -- a store ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two experiments, really computed."""
    folder = tmp_path_factory.mktemp("damage")
    store = Store.open(folder / "store", create=True)
    workplace = Workplace(store=str(store.root), cache=str(folder / "cache"), folder=str(folder))
    for name in ("damage", "twice"):
        plan = make_plan(read_experiment({**EXPERIMENT, "name": name}), folder=folder, cache=folder / "cache")
        remember(plan, store)
        for identity, cell in plan.cells.items():
            if not store.has(identity):
                with store.claimed(identity) as working:
                    store.commit(identity, working, run_cell(cell, workplace, working))
    return store.root


def contents(root: Path, cell: str) -> dict[str, Any]:
    """Everything in a cell, as the readers of the laboratory see it."""
    store = Store(root)
    files = [file for file in store.read(cell)["files"] if file.endswith(".safetensors")]
    masks = load_masks(store.file(cell, "masks.safetensors"))
    states = {f: load_state(store.file(cell, f), masks) for f in files if not f.startswith("masks")}
    figures = {"figures": store.figures(cell), "environment": store.environment(cell)}
    figures["correct"] = right.tolist() if (right := correct(store, cell)) is not None else None
    return {**figures, "masks": dict(masks), "history": store.file(cell, "history.jsonl").read_bytes(), **states}


@pytest.mark.parametrize("seed", range(8))
def test_damaged_cells(root: Path, seed: int) -> None:
    cells = sorted(path.name for path in root.glob("cells/*/*"))
    files = sorted(root.glob("cells/*/*/*"))
    right = {cell: contents(root, cell) for cell in cells}
    for number in range(300):
        with Damage(files, seed * 1000 + number) as damage:
            cell = damage.file.parent.name
            told = same_or_told(lambda cell=cell: contents(root, cell), right[cell], damage)  # type: ignore[misc]
            found = {Path(d.path).parent.name for d in verify(root).damaged}
            hit = {cell, damage.other.parent.name} if damage.other and told else {cell}
            assert found == (hit if told else set()), damage


@pytest.mark.parametrize("seed", range(2))
def test_results_of_damaged_stores(root: Path, seed: int) -> None:
    files = sorted([*root.glob("cells/*/*/cell.json"), *root.glob("experiments/*.json"), root / "store.json"])

    def look() -> Any:
        store = Store.open(root)
        return tidy(store), cost_report(store), suspects(store)

    right = look()
    for number in range(400):
        with Damage(files, 10**6 + seed * 1000 + number) as damage:
            if damage.file.parent.name == "experiments" and damage.kind == "delete":
                continue  # the experiment has never been run in this store
            same_or_told(look, right, damage)


def test_cells_of_earlier_versions_end_no_command_in_a_traceback(root: Path, tmp_path: Path) -> None:
    """They have no digests, so what is damaged in them can be read as something else; but not as a raw exception."""
    old = tmp_path / "old"
    shutil.copytree(root, old)
    for path in old.glob("cells/*/*/cell.json"):
        record = json.loads(path.read_text())
        del record["sha256"], record["files"]
        path.write_text(json.dumps(record, indent=1, sort_keys=True))
        (path.parent / CORRECT).unlink(missing_ok=True)
    marker = '{"store":1}'
    files = sorted(old.glob("cells/*/*/*"))
    for number in range(400):
        (old / "store.json").write_text(marker)
        with Damage(files, 2 * 10**6 + number) as damage:
            cell = damage.file.parent.name
            for look in (lambda: tidy(Store.open(old)), lambda cell=cell: old_contents(old, cell)):
                with suppress(OneticketError):
                    look()


def old_contents(root: Path, cell: str) -> None:
    store = Store(root)
    masks = load_masks(store.file(cell, "masks.safetensors"))
    load_state(store.file(cell, "weights-end.safetensors"), masks)


def test_damaged_leases(root: Path) -> None:
    cell = "ab" + "0" * 62
    store = Store(root)
    with store.claimed(cell):
        whole = (root / "leases" / f"{cell}.lease").read_bytes()
    for number in range(60):
        place = root / "leases" / f"{cell}.lease"
        place.write_bytes(whole)
        with Damage([place], 3 * 10**6 + number) as damage:
            try:
                with store.claimed(cell):
                    pass
            except Busy:
                assert damage.file.exists()
        place.unlink(missing_ok=True)
    shutil.rmtree(root / "working" / cell, ignore_errors=True)


# -- what can be made again ---------------------------------------------------------------------------------------
def test_damaged_caches(tmp_path: Path) -> None:
    """Of two data sets, one of them resized, whatever is damaged is made again, and is what it was."""
    specs = {
        "digits": DataSpec(builtin="digits", validation=0.1),
        "large": DataSpec(from_="digits", size=10),
        "few": DataSpec(from_="digits", per_class=9),
    }
    cache = tmp_path / "cache"

    def look() -> dict[str, Any]:
        found = {}
        for name in specs:
            splits = open_data(resolve(specs, name, folder=tmp_path, cache=cache), cache=cache)
            found |= {f"{name}-images": splits.train.gather(), f"{name}-labels": splits.train.labels}
        return found

    right = look()
    data = cache / "data"
    for number in range(600):
        files = sorted(path for path in data.rglob("*") if path.is_file() and path.suffix != ".lock")
        with Damage(files, 4 * 10**6 + number) as damage:
            assert not same_or_told(look, right, damage), "a cache never stops the work that it should save"
    assert all(path.suffix in (".npy", ".json", "") for path in files)


def test_damaged_checkpoints(tmp_path: Path) -> None:
    """A checkpoint that is damaged, or that of another cell, is dropped."""
    state = {"epoch": 3, "model": {"w": torch.randn(30, 20)}, "history": [{"loss": 0.5}], "name": "sgd"}
    files = [tmp_path / cell / "training.pt" for cell in ("a", "b")]

    def checkpoint(file: Path) -> CellCheckpoint:
        return CellCheckpoint(file, every=0, cell=file.parent.name, clock=Clock())

    for file in files:
        checkpoint(file).save(state | {"epoch": file.parent.name})
    for number in range(800):
        with Damage(files, 5 * 10**6 + number) as damage:
            found = checkpoint(damage.file).load()
            assert found is None or equal(found, state | {"epoch": damage.file.parent.name}), f"silent: {damage}"
            assert damage.file.exists() == (found is not None)


# -- tickets ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_damaged_tickets(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(40, 8), torch.randint(0, 3, (40,))
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    recipe = ot.Recipe.sgd(epochs=1, batch_size=20)
    ticket = ot.find_ticket(network, (inputs, labels), recipe=recipe, density=0.3, rounds=1, rewind=0)
    file = tmp_path / "ticket.safetensors"
    ticket.save(file)
    for number in range(300):
        with Damage([file], 6 * 10**6 + seed * 1000 + number) as damage:
            same_or_told(lambda: ot.Ticket.load(file), ticket, damage)
