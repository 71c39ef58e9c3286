"""A tiny experiment, and ways to plan and to compute it without other processes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oneticket.errors import OneticketError
from oneticket.identity import digest
from oneticket.lab.cells.records import sealed
from oneticket.lab.cells.run import Workplace, run_cell
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.engines import Done, Progress, Task
from oneticket.lab.execution.scheduler import RunListener, Summary, run_plan
from oneticket.lab.planning.plan import Plan, make_plan
from oneticket.lab.spec.experiment import read_experiment
from oneticket.pruning import curvature

Raw = dict[str, Any]


@pytest.fixture(scope="session", autouse=True)
def few_probes() -> Iterator[None]:
    """One random vector a sample is enough where it counts what a criterion is shown; ten take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curvature, "PROBES", 1)
        yield


TINY: Raw = {
    "name": "tiny",
    "model": {"name": "lenet-300-100", "options": {"width": 0.05}},
    "seeds": 2,
    "data": {
        "digits": {"builtin": "digits", "per_class": 40},
        "low": {"from": "digits", "classes": [0, 1, 2, 3, 4]},
    },
    "recipe": {
        "sgd": {"optimizer": "sgd", "lr": 0.1, "epochs": 3, "batch_size": 32},
        "adam": {"optimizer": "adam", "lr": 0.003, "epochs": 2, "batch_size": 32},
    },
    "search": {"rounds": 3, "prune": 0.5, "rewind": "1ep"},
    "transfer": [
        {
            "sources": ["low@sgd"],
            "targets": ["digits@sgd"],
            "arms": ["winning", "own", "random"],
            "densities": [0.5, 0.125],
        }
    ],
}


def changed(raw: Raw, path: str, value: Any) -> Raw:
    """A copy of ``raw`` with the value at a dotted path (numbers are indices) replaced; ``...`` takes it away."""
    raw = copy.deepcopy(raw)
    here: Any = raw
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in way:
        here = here.setdefault(part, {}) if isinstance(here, dict) else here[part]
    if value is ...:
        del here[last]
    else:
        here[last] = value
    return raw


class Here:
    """An engine that computes each cell in this process, at once."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def submit(self, task: Task, on_progress: Callable[[Progress], None]) -> Future[Done]:
        future: Future[Done] = Future()
        store, identity = Store(Path(task.workplace.store)), task.cell.identity
        try:
            with store.claimed(identity) as working:
                store.commit(identity, working, run_cell(task.cell, task.workplace, working))
            self.computed.append(identity)
            future.set_result(Done())
        except OneticketError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        pass


class Lab:
    """Plans and runs experiments in a folder of their own, with the decoded data shared by all tests."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def raw(self, **changes: Any) -> Raw:
        """The tiny experiment; ``search__rounds=5`` replaces ``rounds`` under ``search``."""
        raw = copy.deepcopy(TINY)
        for path, value in changes.items():
            raw = changed(raw, path.replace("__", "/"), value)
        return raw

    def plan(self, raw: Raw | None = None, **changes: Any) -> Plan:
        """The plan of ``raw``, or of the tiny experiment with changes."""
        experiment = read_experiment(self.raw(**changes) if raw is None else raw)
        return make_plan(experiment, folder=self.folder, cache=self.cache)

    def store(self, name: str = "store") -> Store:
        """A store in the folder."""
        return Store.open(self.folder / name, create=True)

    def workplace(self, store: Store, **options: Any) -> Workplace:
        """What a worker needs besides a description."""
        return Workplace(store=str(store.root), cache=str(self.cache), folder=str(self.folder), **options)

    def redescribed(self, store: Store, cell: str, change: Callable[[dict[str, Any]], object]) -> str:
        """Turn a finished cell into one whose description is changed, in the tables too; returns its new name."""
        record = store.read(cell)
        change(record["description"])
        name = digest(record["description"])
        store.folder(name).parent.mkdir(exist_ok=True)
        store.folder(cell).rename(store.folder(name))
        (store.folder(name) / "cell.json").write_text(sealed(record))
        for table in (store.root / "experiments").glob("*.json"):
            (content,) = store.experiments(table.stem)
            store.write_experiment(table.stem, json.loads(json.dumps(content).replace(cell, name)))
        return name

    def run(self, plan: Plan, store: Store, engine: Any = None, workers: int = 1, **options: Any) -> Summary:
        """Compute what is missing; in this process unless an engine is given."""
        listener: RunListener | None = options.pop("listener", None)
        workplace = self.workplace(store, **options)
        return run_plan(plan, store, engine or Here(), workplace, workers=workers, listener=listener)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the decoded data lies."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def differing() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], list[str]]:
    """The names of tensors that two states do not both have with the same type and bits."""

    def found(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> list[str]:
        def same(name: str) -> bool:
            return here[name].dtype == there[name].dtype and torch.equal(here[name], there[name])

        return [name for name in {**here, **there} if not (name in here and name in there and same(name))]

    return found


@pytest.fixture
def lab(tmp_path: Path, cache: Path) -> Lab:
    """A laboratory in a folder of its own."""
    return Lab(tmp_path, cache)


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Lab:
    """A laboratory whose results several tests look at."""
    return Lab(tmp_path_factory.mktemp("lab"), cache)
