"""The costs: it adds up, to what was in fact computed; sharing is seen; and it is told when sharing pays."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import oneticket.lab.cells.run
import oneticket.methods.pretraining
import oneticket.training.loop
import oneticket.training.state
from oneticket.errors import InputError
from oneticket.identity import digest
from oneticket.lab.cells.records import sealed
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.plan import Plan
from oneticket.lab.results.cost import COLUMNS, MEASURES, CostReport, _targets, cost_report
from oneticket.lab.results.cost_formats import as_csv, as_json, as_table
from oneticket.lab.results.table import remember, tidy
from oneticket.training import MaskKeeper

ARMS = ["winning", "own", "snip", "gmp", "rigl", "rotation", "layer-wise", "xnor", "dense-finetune", "pruned-probe"]
GRIDS = [
    {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": ARMS, "densities": [0.125]},
    {
        "sources": ["low@sgd"],
        "targets": ["digits@adam"],
        "arms": ["winning", "own"],
        "densities": [0.25],
        "lr": [0.001, 0.01],
    },
]


class Meter:
    """Counts the samples of every forward pass that a gradient follows, and operations by the masks of that moment."""

    def __init__(self) -> None:
        self.samples = self.masked_flops = 0
        self.keepers: list[MaskKeeper] = []

    def __deepcopy__(self, _: Any) -> Meter:
        """Counts for the smaller copy of a network, too, that is trained in its place."""
        return self

    def attach(self, patch: pytest.MonkeyPatch) -> None:
        """Have every training from now on counted."""
        keepers = self.keepers

        class Noted(MaskKeeper):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                keepers.append(self)

        patch.setattr(oneticket.training.state, "MaskKeeper", Noted)
        patch.setattr(oneticket.lab.cells.run, "train", self.train)
        patch.setattr(oneticket.methods.pretraining, "train", self.train)

    def train(self, model: nn.Module, *arguments: Any, **options: Any) -> Any:
        """Stands in for the loop, with a hook on the network for as long as it runs."""
        network = model._whole[0] if isinstance(model, oneticket.methods.pretraining._Stage) else model
        handle = network.register_forward_pre_hook(self.count)
        try:
            return oneticket.training.loop.train(model, *arguments, **options)
        finally:
            handle.remove()

    def count(self, network: nn.Module, given: tuple[torch.Tensor]) -> None:
        if torch.is_grad_enabled():
            weights = sum(p.numel() for name, p in network.named_parameters() if name.endswith("weight"))
            gone = sum(int((mask == 0).sum()) for mask in self.keepers[-1]._masks)
            self.samples += len(given[0])
            self.masked_flops += 3 * 2 * (weights - gone) * len(given[0])


class Done:
    """An experiment, computed under a meter."""

    def __init__(self, lab: Any, **changes: Any) -> None:
        self.meter = Meter()
        self.plan: Plan = lab.plan(lab.raw(**changes))
        self.store: Store = lab.store(changes["name"])
        remember(self.plan, self.store)
        with pytest.MonkeyPatch.context() as patch:
            self.meter.attach(patch)
            assert lab.run(self.plan, self.store).complete
        self.report: CostReport = cost_report(self.store)

    def records(self) -> dict[str, dict[str, Any]]:
        return {cell: self.store.read(cell) for cell in self.plan.cells}


@pytest.fixture(scope="module")
def done(shared_lab: Any) -> Done:
    """The example, with an arm of each kind."""
    return Done(shared_lab, name="bill", transfer=GRIDS)


# -- adding up ----------------------------------------------------------------------------------------------------
def test_the_sum_over_cells_is_what_went_through_the_networks(done: Done) -> None:
    totals = done.report.totals
    assert totals.everything.trainings == len(done.plan.cells)
    assert totals.everything.samples == done.meter.samples
    kinds = {record["description"]["start"]["kind"] for record in done.records().values()}
    assert kinds == {"initial", "round", "arm", "pre-training"}


def test_mask_aware_operations_are_those_of_the_masks_at_each_step(shared_lab: Any) -> None:
    """Of all but pre-trainings, whose own heads the meter sees and the report does not count."""
    arms = [arm for arm in ARMS if arm not in ("rotation", "layer-wise")]
    done = Done(shared_lab, name="masks", seeds=1, transfer=[{**GRIDS[0], "arms": arms}])
    everything, records = done.report.totals.everything, done.records()
    assert everything.masked_flops == done.meter.masked_flops
    dense = sum(3 * 2 * _weights(record) * record["cost"]["samples"] for record in records.values())
    assert everything.train_flops == dense
    rows = done.report.rows
    gradual = next(row for row in rows if row["arm"] == "gmp")
    final = 3 * 2 * gradual["samples"] * (records[gradual["cell"]]["outcome"]["kept"] + 5 * 10)
    assert final < gradual["masked_flops"] < gradual["train_flops"], "not as if it had been sparse from the start"


def _weights(record: dict[str, Any]) -> int:
    return 64 * 15 + 15 * 5 + 5 * int(record["description"]["network"]["classes"])


def test_no_training_is_lost_or_counted_twice(done: Done) -> None:
    totals, records = done.report.totals, done.records()
    for measure in MEASURES:
        parts = [getattr(part, measure) for part in (totals.networks, totals.own_searches, totals.shared_searches)]
        assert sum(parts) == pytest.approx(getattr(totals.everything, measure), rel=1e-12)
        by_hand = sum((record["cost"] | record["outcome"])[measure] for record in records.values())
        assert getattr(totals.everything, measure) == pytest.approx(by_hand, rel=1e-12)
    for measure in ("trainings", "samples"):
        rows = {row["cell"]: row for row in done.report.rows}.values()
        own = 1 if measure == "trainings" else None
        each = sum((own or row[measure]) + row[f"search_{measure}"] for row in rows)
        assert getattr(totals.unshared, measure) == each > getattr(totals.everything, measure)


def test_a_row_for_every_network_and_every_column_in_it(done: Done) -> None:
    table = done.report.rows
    assert all(tuple(row) == COLUMNS for row in table)
    chosen = [row for row in done.plan.rows if row.target_recipe == "sgd"]
    assert [row["cell"] for row in table if row["target_recipe"] == "sgd"] == [row.cell for row in chosen]
    for row in table:
        record = done.store.read(row["cell"])
        for measure in MEASURES:
            assert row[measure] == (record["cost"] | record["outcome"])[measure]


def test_the_totals_of_the_table_are_a_networks_cost_with_its_search(done: Done) -> None:
    """Those with other learning rates included; steps by following the plan from cell to cell."""
    table = {row["cell"]: row for row in tidy(done.store, experiment="bill")}
    assert len(table) == len({row["cell"] for row in done.report.rows})
    for row in done.report.rows:
        known = table[row["cell"]]
        assert known["total_samples"] == row["samples"] + row["search_samples"]
        assert known["total_masked_flops"] == row["masked_flops"] + row["search_masked_flops"]
        if row["lr"] is None:
            ahead, met = [row["cell"]], set[str]()
            while ahead:
                met.add(ahead[-1])
                ahead += set(done.plan.cells[ahead.pop()].parents) - met
            assert known["total_steps"] == sum(done.store.read(cell)["cost"]["steps"] for cell in met)


# -- what rests on what -------------------------------------------------------------------------------------------
def test_each_arm_rests_on_the_search_that_it_needs(done: Done) -> None:
    """By hand, for density 0.125: three rounds of halving, so a dense training and two rounds of 36 · 10 images."""
    rows = {(row["arm"], row["seed"]): row for row in done.report.rows if row["target_recipe"] == "sgd"}
    trainings = {arm: rows[arm, 0]["search_trainings"] for arm in ("dense", *ARMS)}
    assert trainings == {
        "dense": 0, "winning": 3, "own": 3, "snip": 0, "gmp": 0, "rigl": 0, "rotation": 1, "layer-wise": 1, "xnor": 0,
        "dense-finetune": 1, "pruned-probe": 3,
    }  # fmt: skip
    low, digits = 5 * 36, 10 * 36
    assert rows["winning", 0]["search_samples"] == (3 + 2 + 2) * low
    assert rows["own", 0]["search_samples"] == (3 + 2 + 2) * digits
    assert rows["rotation", 0]["search_samples"] == 4 * 3 * low, "each image in four rotations"
    assert rows["winning", 0]["shared_trainings"] == 3, "with the arm that trains its head alone"
    assert rows["own", 0]["shared_trainings"] == 1, "its dense training is the row 'dense'"
    assert rows["rotation", 0]["shared_trainings"] == 0
    assert rows["dense-finetune", 0]["shared_trainings"] == 1


def test_learning_rates_that_were_tried_belong_to_the_search(done: Done) -> None:
    rows = [row for row in done.report.rows if row["target_recipe"] == "adam"]
    assert sorted((row["arm"], row["seed"]) for row in rows) == [
        (arm, seed) for arm in ("dense", "own", "winning") for seed in (0, 1)
    ]
    assert len({row["lr"] for row in rows if row["arm"] == "winning"}) == 1
    for row in rows:
        # Density 0.25 takes two trainings; the own one's are at the rate of the recipe, not one of those tried.
        assert row["search_trainings"] == {"dense": 1, "winning": 1 + 2, "own": 1 + 2}[row["arm"]]


def test_one_experiment_alone_is_charged_for_all_it_rests_on(shared_lab: Any, done: Done) -> None:
    small = shared_lab.plan(
        shared_lab.raw(name="small", seeds=1, transfer=[{**GRIDS[0], "arms": ["winning"], "densities": [0.5]}])
    )
    remember(small, done.store)
    assert shared_lab.run(small, done.store).complete
    alone = cost_report(done.store, experiment="small")
    assert alone.totals.everything.trainings == len(small.cells) == 3
    assert [row["shared_trainings"] for row in alone.rows] == [0, 0], "nobody else in this experiment"
    both = cost_report(done.store)
    assert both.totals.everything.trainings == len({*small.cells, *done.plan.cells})
    (done.store.root / "experiments" / "small.json").unlink()


def test_what_is_not_finished_has_no_row_and_costs_nothing(shared_lab: Any) -> None:
    plan, store = shared_lab.plan(seeds=1), shared_lab.store("empty")
    remember(plan, store)
    empty = cost_report(store)
    assert empty.rows == empty.break_even == []
    assert empty.totals.everything.trainings == empty.totals.unshared.samples == 0
    assert as_table(empty).startswith("arm")
    with pytest.raises(InputError, match="unknown experiment"):
        cost_report(store, experiment="tyni")


def test_a_cell_that_is_gone_is_missed(lab: Any) -> None:
    plan, store = lab.plan(seeds=1), lab.store()
    remember(plan, store)
    assert lab.run(plan, store).complete
    gone = next(cell.parents[0] for cell in plan.cells.values() if cell.parents and cell.start.ticket.round == 3)  # type: ignore[union-attr]
    (store.folder(gone) / "cell.json").unlink()
    with pytest.raises(InputError, match=rf"the cell {gone[:12]}… is missing.*a new run"):
        cost_report(store)


# -- any graph at all ---------------------------------------------------------------------------------------------
@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[int, int, bool]]:
    """Of each cell two earlier cells that it was pruned from (itself: none), and whether it is in the table."""
    return [
        (draw(st.integers(0, number)), draw(st.integers(0, number)), draw(st.booleans()))
        for number in range(draw(st.integers(1, 12)))
    ]


@settings(max_examples=50)
@given(graphs())
def test_sharing_is_what_a_walk_over_the_graph_finds(
    tmp_path_factory: pytest.TempPathFactory, graph: list[tuple[int, int, bool]]
) -> None:
    """Each cell costs its own power of two, so that a sum says which cells are in it."""
    store = Store.open(tmp_path_factory.mktemp("graph") / "store", create=True)
    rows: list[list[Any]] = []
    names: list[str] = []
    for number, (dense, previous, shown) in enumerate(graph):
        parents = number not in (dense, previous)
        names.append(
            write(store, number, {"ticket": {"dense": names[dense], "previous": names[previous]}} if parents else {})
        )
        if shown:
            rows.append([{"experiment": "e", "arm": "a", "cell": names[number]}.get(column) for column in COLUMNS[:13]])
    store.write_experiment("e", {"columns": COLUMNS[:13], "rows": rows})

    def below(number: int) -> set[int]:
        dense, previous, _ = graph[number]
        if number in (dense, previous):
            return set()
        return {dense, previous} | below(dense) | below(previous)

    table = {n: below(n) for n, (_, _, shown) in enumerate(graph) if shown}
    uses = Counter(cell for n, search in table.items() for cell in search | {n})
    found = cost_report(store)
    assert [bits(row["search_samples"]) for row in found.rows] == list(table.values())
    assert [bits(row["shared_samples"]) for row in found.rows] == [
        {cell for cell in search if uses[cell] > 1} for search in table.values()
    ]
    assert bits(found.totals.everything.samples) == set(uses)
    assert bits(found.totals.shared_searches.samples) == {c for c, n in uses.items() if n > 1 and c not in table}


def bits(value: int) -> set[int]:
    return {place for place in range(64) if value >> place & 1}


def write(store: Store, number: int, start: dict[str, Any], samples: int | None = None) -> str:
    """A finished cell; returns its name."""
    cost = {"samples": samples or 1 << number, "train_flops": 1, "masked_flops": 1, "seconds": 0.1}
    description = {"number": number, "start": {"kind": "arm", **start}}
    folder: Path = store.folder(digest(description))
    folder.mkdir(parents=True)
    record = {"description": description, "cost": cost, "outcome": {"bytes": 1}, "files": {}}
    (folder / "cell.json").write_text(sealed(record))
    return folder.name


# -- when sharing pays --------------------------------------------------------------------------------------------
@given(st.integers(1, 10**18), st.integers(0, 10**15), st.integers(0, 10**15))
def test_sharing_pays_from_the_first_number_of_targets_on_which_it_is_cheaper(once: int, each: int, alone: int) -> None:
    count = _targets(once, each, alone)
    if count is None:
        assert each >= alone
    else:
        assert once + count * each < count * alone
        assert once + (count - 1) * each >= (count - 1) * alone


def test_a_search_of_a_large_source_has_to_be_shared_often(lab: Any) -> None:
    """A search of 1000 samples against one of 100, and 50 on the target with either: cheaper from n > 1000/100 on."""
    store = lab.store()
    cells = {0: (1000, None, ""), 1: (100, None, ""), 2: (50, 0, "winning"), 3: (50, 1, "own"), 4: (50, None, "even")}
    rows: list[list[Any]] = []
    names: list[str] = []
    for number, (samples, dense, arm) in cells.items():
        ticket = None if dense is None else {"dense": names[dense], "previous": names[dense]}
        names.append(write(store, number, {"ticket": ticket}, samples))
        if arm:
            known = {"experiment": "e", "target": "t", "arm": arm, "seed": 0, "cell": names[number]}
            rows.append([known.get(column) for column in COLUMNS[:13]])
    store.write_experiment("e", {"columns": COLUMNS[:13], "rows": rows})
    (found,) = cost_report(store).break_even
    assert (found.arm, found.seeds, found.targets_by_samples) == ("winning", 1, 11)
    assert found.targets_by_masked_flops == 2, "1 + n < 2 n"


def test_break_even_of_the_example_by_hand(done: Done) -> None:
    """Five classes cost half of ten to search; the trainings on the target are equally long."""
    found = {(entry.arm, entry.target_recipe): entry for entry in done.report.break_even}
    assert set(found) == {("winning", "sgd"), ("pruned-probe", "sgd"), ("winning", "adam")}
    winning = found["winning", "sgd"]
    assert winning.seeds == 2
    assert winning.targets_by_samples == 1
    # Adam: on low@sgd a dense training of 3 epochs and a round of 2, with 180 images; on digits@adam 2 and 1, with 360.
    # Two rates were tried with either arm. 5 · 180 + n · 2 · 720 < n · (3 · 360 + 2 · 720) from n = 1 on.
    assert found["winning", "adam"].targets_by_samples == 900 // 1080 + 1
    once = each = alone = 0
    for row in done.report.rows:
        if (row["target_recipe"], row["arm"]) == ("sgd", "winning"):
            once, each = once + row["search_masked_flops"], each + row["masked_flops"]
        elif (row["target_recipe"], row["arm"]) == ("sgd", "own"):
            alone += row["search_masked_flops"] + row["masked_flops"]
    assert winning.targets_by_masked_flops == next(n for n in range(1, 1000) if once + n * each < n * alone)


# -- written down -------------------------------------------------------------------------------------------------
def test_csv_and_json_say_the_same(done: Done) -> None:
    told = json.loads(as_json(done.report))
    assert told["rows"] == done.report.rows
    assert told["totals"]["everything"]["samples"] == done.meter.samples
    assert [entry["arm"] for entry in told["break_even"]] == [entry.arm for entry in done.report.break_even]
    read = list(csv.DictReader(io.StringIO(as_csv(done.report))))
    for text, row in zip(read, done.report.rows, strict=True):
        assert text == {column: "" if row[column] is None else str(row[column]) for column in COLUMNS}


def test_the_table_says_it_in_short(done: Done) -> None:
    arms, sums, sharing = as_table(done.report).strip().split("\n\n")
    lines = arms.splitlines()
    assert len(lines) == 1 + (1 + len(ARMS)) + 3, "an arm a line, its seeds together"
    assert len({line.index("search samples") for line in lines[:1]}) == 1
    winning = next(line for line in lines if " winning " in line and "digits@sgd" in line)
    assert "1.08k" in winning, "3 epochs of 360 images"
    assert "tiny" not in arms, "what is the same in every line is left out"
    assert f"everything {len(done.plan.cells):>20}".split() == sums.splitlines()[4].split()[:2]
    assert sharing.splitlines()[0].startswith("target")


def test_it_is_read_without_torch(done: Done) -> None:
    code = (
        "import sys; from pathlib import Path; from oneticket.lab.results.cost import cost_report; "
        "from oneticket.lab.results.cost_formats import as_table; from oneticket.lab.cells.store import Store; "
        f"as_table(cost_report(Store(Path({str(done.store.root)!r})))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
