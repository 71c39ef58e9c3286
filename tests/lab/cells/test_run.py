"""Cells: what a training begins with, in every arm, and that its result depends on nothing else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import msgspec
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

import oneticket.lab.cells.run
from oneticket.errors import NonFiniteLoss
from oneticket.kernels.machine import this_machine
from oneticket.kernels.trial import Layout
from oneticket.lab.cells.description import ArmStart, Description, Initial, PretrainingStart, Round
from oneticket.lab.cells.parents import ParentCells
from oneticket.lab.cells.run import CellCheckpoint, Clock, Watch, run_cell
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks, load_state
from oneticket.lab.planning.plan import Plan
from oneticket.masks import Masks
from oneticket.pruning import kept_count
from oneticket.training import EpochRecord, Runtime, Start, evaluate, train
from oneticket.training.kernels import Kernels
from oneticket.training.observers import finite_sum

ARMS = ["winning", "own", "random", "preserved", "layer-permuted", "even", "erk", "pruned-finetune", "kept", "again"]
GRID = {
    "sources": ["low@sgd"],
    "targets": ["digits@sgd"],
    "arms": ARMS,
    "rescale": ["none", "layer", "fan-in"],
    "densities": [0.5, 0.125],
}
OWN_ARMS = {
    "kept": {"mask": "ticket", "weights": "initial"},
    "again": {"mask": "ticket", "weights": "trained", "method": "lr-rewind"},
}
CONVOLUTIONS = {"name": "conv-2", "options": {"width": 0.1}}
SCHEDULE = {"kind": "step", "at": ["1ep", "2ep"], "factor": 0.1}


class Begun(NamedTuple):
    """What a training was begun with."""

    state: dict[str, Tensor]
    masks: Masks | None
    start: Start


class Stop(Exception):
    """Ends a cell where its training would begin."""


class World(NamedTuple):
    """A plan with all its searches done."""

    lab: Any
    plan: Plan
    store: Store

    def cell(self, arm: str, density: float, rescale: str = "none") -> Description:
        """The cell of an arm."""
        rows = (r for r in self.plan.rows if (r.arm, r.density_asked, r.rescale) == (arm, density, rescale))
        return self.plan.cells[next(rows).cell]

    def begun(self, cell: Description, monkeypatch: pytest.MonkeyPatch, where: Path) -> Begun:
        """What the training of ``cell`` begins with."""
        caught: list[Begun] = []

        def spy(model: torch.nn.Module, _data: Any, _recipe: Any, **options: Any) -> None:
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            caught.append(Begun(state, options["masks"], options["start"]))
            raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(oneticket.lab.cells.run, "train", spy)
            with pytest.raises(Stop):
                run_cell(cell, self.lab.workplace(self.store), where)
        return caught[0]

    def rewound(self, cell: Description) -> dict[str, Tensor]:
        """W_k of the ticket that an arm starts from."""
        return load_state(self.store.folder(cell.start.ticket.dense) / "weights-1ep.safetensors")  # type: ignore[union-attr]

    def trained(self, cell: Description) -> dict[str, Tensor]:
        """W_T of the round that its ticket was pruned from."""
        folder = self.store.folder(cell.start.ticket.previous)  # type: ignore[union-attr]
        return load_state(folder / "weights-end.safetensors", load_masks(folder / "masks.safetensors"))


@pytest.fixture(scope="module")
def world(shared_lab: Any) -> World:
    """The tiny experiment with every arm planned; of its cells, only the searches computed."""
    raw = shared_lab.raw(seeds=1, arm=OWN_ARMS, recipe__sgd__schedule=SCHEDULE, transfer=[GRID])
    plan = shared_lab.plan(raw)
    store = shared_lab.store("world")
    searches = {i: c for i, c in plan.cells.items() if not isinstance(c.start, ArmStart)}
    assert shared_lab.run(Plan(plan.experiment, searches, []), store).complete
    return World(shared_lab, plan, store)


@pytest.fixture
def begun(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Begun]:
    """What the training of an arm begins with."""

    def look(arm: str, density: float = 0.125, rescale: str = "none") -> Begun:
        return world.begun(world.cell(arm, density, rescale), monkeypatch, tmp_path)

    return look


def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


def masked(state: dict[str, Tensor], masks: Masks | None) -> dict[str, Tensor]:
    return {n: t * masks[n] if masks is not None and n in masks else t for n, t in body(state).items()}


# -- masks --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("density", [0.5, 0.125])
def test_the_density_asked_is_met_exactly(begun: Callable[..., Begun], arm: str, density: float) -> None:
    state, masks, _ = begun(arm, density)
    assert masks is not None
    assert set(masks) == {"linear1.weight", "linear2.weight"}
    assert masks.total == sum(state[name].numel() for name in masks) == 64 * 15 + 15 * 5
    assert masks.kept == math.floor(density * masks.total + 0.5)
    assert all(bool((state[name][~masks[name]] == 0).all()) for name in masks)
    assert all(bool((state[name][masks[name]] != 0).all()) for name in masks), "a kept weight that is zero"


def test_a_round_keeps_the_largest_of_what_was_alive(world: World, begun: Callable[..., Begun]) -> None:
    """Global magnitude, by hand: no weight that went was larger than one that stays."""
    for density in (0.5, 0.125):
        cell = world.cell("winning", density)
        ticket = cell.start.ticket  # type: ignore[union-attr]
        assert ticket is not None
        alive = load_masks(world.store.folder(ticket.previous) / "masks.safetensors")
        trained = world.trained(cell)
        masks = begun("winning", density).masks
        assert masks is not None
        assert masks <= alive
        kept = torch.cat([trained[name][masks[name]].abs() for name in masks])
        gone = torch.cat([trained[name][alive[name] & ~masks[name]].abs() for name in masks])
        assert kept.min() >= gone.max()


def test_every_round_prunes_inside_the_one_before(world: World) -> None:
    rounds = [(c.start.ticket.round, i) for i, c in world.plan.cells.items() if isinstance(c.start, Round)]
    masks = {n: load_masks(world.store.folder(i) / "masks.safetensors") for n, i in rounds if _classes(world, i) == 5}
    assert [masks[n].kept for n in sorted(masks)] == [518, 259]
    assert masks[2] <= masks[1]


def test_a_weight_that_was_pruned_stays_so_whatever_the_criterion_thinks(lab: Any) -> None:
    """Zeroed weights have no magnitude to come back with; a random score they have."""
    plan, store = lab.plan(seeds=1, search__criterion="random", transfer__0__arms=["winning"]), lab.store()
    assert lab.run(plan, store).complete
    ends = {
        cell.start.ticket.round: load_masks(store.folder(identity) / "masks.safetensors")
        for identity, cell in plan.cells.items()
        if not isinstance(cell.start, Initial) and cell.start.ticket is not None
    }
    assert sorted(ends) == [1, 2, 3]
    assert ends[3] <= ends[2] <= ends[1]


def _classes(world: World, identity: str) -> int:
    return world.plan.cells[identity].network.classes


def test_controls_change_the_masks_as_they_say(begun: Callable[..., Begun]) -> None:
    found = {arm: begun(arm).masks for arm in ARMS}
    ticket = found["winning"]
    assert found["preserved"] == found["pruned-finetune"] == found["kept"] == ticket
    for arm in ("random", "layer-permuted", "even", "erk"):
        assert found[arm] != ticket
        assert found[arm].overlap(ticket) < 0.5
    counts = {arm: {row.name: row.kept for row in masks.table()} for arm, masks in found.items()}
    assert counts["layer-permuted"] == counts["winning"]
    assert counts["random"] != counts["winning"]
    assert counts["even"] == {"linear1.weight": 120, "linear2.weight": 9}
    # ERK: N_l Σdims/Πdims = Σdims, 79 and 20, of 129 weights; no layer saturates.
    assert counts["erk"] == {"linear1.weight": round(129 * 79 / 99), "linear2.weight": round(129 * 20 / 99)}


# -- weights ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("density", [0.5, 0.125])
@pytest.mark.parametrize("arm", ["winning", "own"])
def test_a_ticket_begins_with_the_masked_rewound_weights(
    world: World, begun: Callable[..., Begun], arm: str, density: float, differing: Any
) -> None:
    state, masks, start = begun(arm, density)
    assert not differing(body(state), masked(world.rewound(world.cell(arm, density)), masks))
    assert (start.step, start.lr_schedule) == (0, "recipe")


def test_the_rewound_weights_are_those_a_training_of_one_epoch_ends_with(
    world: World, tmp_path: Path, differing: Any
) -> None:
    dense = next(cell for cell in world.plan.cells.values() if isinstance(cell.start, Initial))
    short = replace(dense, recipe=replace(dense.recipe, epochs=1), snapshots=())
    run_cell(short, world.lab.workplace(world.store), tmp_path)
    kept = load_state(world.store.folder(dense.identity) / "weights-1ep.safetensors")
    assert not differing(load_state(tmp_path / "weights-end.safetensors"), kept)
    assert not torch.equal(load_state(world.store.folder(dense.identity) / "weights-end.safetensors")["linear1.weight"],
                           kept["linear1.weight"])  # fmt: skip


def test_kept_initial_weights_are_those_the_source_began_with(
    world: World, begun: Callable[..., Begun], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, differing: Any
) -> None:
    """W_0 belongs to the ticket: a target with other classes draws another body from the same seed."""
    dense = next(c for c in world.plan.cells.values() if isinstance(c.start, Initial) and c.network.classes == 5)
    start = world.begun(dense, monkeypatch, tmp_path)
    assert start.masks is None
    state, masks, _ = begun("kept")
    assert not differing(body(state), masked(start.state, masks))


def test_fan_in_multiplies_kept_initial_weights(begun: Callable[..., Begun]) -> None:
    """They are no fresh draw: only their scale may change."""
    plain, scaled = (begun("kept", 0.125, rescale) for rescale in ("none", "fan-in"))
    assert plain.masks is not None
    for name in plain.masks:
        assert torch.equal(plain.state[name].sign(), scaled.state[name].sign()), name
    assert any(not torch.equal(plain.state[name], scaled.state[name]) for name in plain.masks)


def test_every_arm_of_a_replicate_has_the_same_fresh_head(
    world: World, begun: Callable[..., Begun], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dense = next(c for c in world.plan.cells.values() if isinstance(c.start, Initial) and c.network.classes == 10)
    head = world.begun(dense, monkeypatch, tmp_path).state["head.weight"]
    for arm in ARMS:
        for rescale in GRID["rescale"]:
            assert torch.equal(begun(arm, 0.125, rescale).state["head.weight"], head), arm
    assert not torch.equal(world.rewound(world.cell("own", 0.125))["head.weight"], head), "not the source's"


def test_random_arms_are_drawn_anew_and_all_alike(world: World, begun: Callable[..., Begun]) -> None:
    initial = begun("kept")
    assert initial.masks is not None
    drawn = {arm: begun(arm) for arm in ("random", "preserved", "layer-permuted", "even", "erk")}
    preserved = drawn["preserved"]
    for arm, (state, masks, _) in drawn.items():
        assert masks is not None
        for name in masks:
            both = masks[name] & preserved.masks[name]  # type: ignore[index]
            assert torch.equal(state[name][both], preserved.state[name][both]), f"{arm}: another draw"
            also = masks[name] & initial.masks[name]
            assert not (state[name][also] == initial.state[name][also]).any(), f"{arm}: not drawn anew"
            rewound = world.rewound(world.cell("winning", 0.125))[name]
            assert not (state[name][masks[name]] == rewound[masks[name]]).any()
    spread = torch.cat([preserved.state["linear1.weight"][preserved.masks["linear1.weight"]]])  # type: ignore[index]
    assert spread.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.25)


def test_pruned_finetune_begins_with_trained_weights_and_the_last_rate(
    world: World, begun: Callable[..., Begun], tmp_path: Path, differing: Any
) -> None:
    cell = world.cell("pruned-finetune", 0.125)
    state, masks, start = begun("pruned-finetune")
    assert not differing(body(state), masked(world.trained(cell), masks))
    assert start.lr_schedule == "last"
    run_cell(cell, world.lab.workplace(world.store), tmp_path)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in history] == pytest.approx([0.001] * 3)


def test_learning_rate_rewinding_begins_with_trained_weights_at_the_step_of_rewinding(
    world: World, begun: Callable[..., Begun], tmp_path: Path, differing: Any
) -> None:
    cell = world.cell("again", 0.5)
    state, masks, start = begun("again", 0.5)
    assert not differing(body(state), masked(world.trained(cell), masks))
    assert start.step == "1ep"
    run_cell(cell, world.lab.workplace(world.store), tmp_path)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["lr"]) for line in history] == [(2, pytest.approx(0.01)), (3, pytest.approx(0.001))]


# -- rescaling ----------------------------------------------------------------------------------------------------
def test_layer_rescaling_divides_by_the_root_of_the_layers_density(begun: Callable[..., Begun], differing: Any) -> None:
    for arm in ("winning", "random", "pruned-finetune"):
        plain, scaled = begun(arm), begun(arm, rescale="layer")
        assert scaled.masks == plain.masks
        for name, density in plain.masks.densities().items():  # type: ignore[union-attr]
            torch.testing.assert_close(scaled.state[name], plain.state[name] / math.sqrt(density))
        assert not differing({n: t for n, t in plain.state.items() if n not in plain.masks},  # type: ignore[operator]
                    {n: t for n, t in scaled.state.items() if n not in plain.masks})  # type: ignore[operator]  # fmt: skip


def test_fan_in_rescaling_multiplies_the_units_of_a_ticket(begun: Callable[..., Begun]) -> None:
    plain, scaled = begun("winning"), begun("winning", rescale="fan-in")
    assert plain.masks is not None
    for name, mask in plain.masks.items():
        factor = (mask.shape[1] / mask.sum(1, keepdim=True).clamp(min=1)).sqrt()
        torch.testing.assert_close(scaled.state[name], plain.state[name] * factor)


def test_fan_in_rescaling_draws_random_arms_anew(begun: Callable[..., Begun]) -> None:
    plain, scaled = begun("random", 0.5), begun("random", 0.5, rescale="fan-in")
    assert plain.masks == scaled.masks
    assert plain.masks is not None
    mask = plain.masks["linear1.weight"]
    factor = (mask.shape[1] / mask.sum(1, keepdim=True)).sqrt()
    assert not torch.isclose(scaled.state["linear1.weight"], plain.state["linear1.weight"] * factor)[mask].any()
    unit = (scaled.state["linear1.weight"] * (mask.sum(1, keepdim=True) / 2).sqrt())[mask]
    assert unit.std().item() == pytest.approx(1, rel=0.15)


def moments(begun: Begun) -> dict[str, float]:
    """The mean of w² over the kept weights of each layer."""
    assert begun.masks is not None
    return {n: begun.state[n][mask].double().square().mean().item() for n, mask in begun.masks.items()}


def assert_only_scaled(here: Begun, there: Begun) -> None:
    """Equal masks, and in each layer the weights of the one are those of the other times a factor."""
    assert here.masks == there.masks
    one, two = moments(here), moments(there)
    for name in one:
        torch.testing.assert_close(here.state[name], there.state[name] * math.sqrt(one[name] / two[name]))


@pytest.mark.parametrize("arm", ["magnitude-init", "even-initial"])
def test_a_mask_of_no_ticket_lies_on_the_targets_own_initial_weights_whatever_the_rescaling(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arm: str, differing: Any
) -> None:
    """Matched rescaling looks at the ticket of a source of five classes, whose W_0 is another."""
    even = {"mask": "even", "weights": "initial"}
    grid = {**GRID, "arms": [arm], "rescale": ["none", "matched"], "densities": [0.125]}
    plan = world.lab.plan(seeds=1, arm={"even-initial": even}, recipe__sgd__schedule=SCHEDULE, transfer=[grid])
    here = World(world.lab, plan, world.store)
    dense = next(c for c in plan.cells.values() if isinstance(c.start, Initial) and c.network.classes == 10)
    start = here.begun(dense, monkeypatch, tmp_path).state
    cells = [here.cell(arm, 0.125, rescale) for rescale in ("none", "matched")]
    assert [cell.start.ticket is None for cell in cells] == [True, False]  # type: ignore[union-attr]
    plain, matched = (here.begun(cell, monkeypatch, tmp_path) for cell in cells)
    assert not differing(body(plain.state), masked(start, plain.masks))
    assert_only_scaled(matched, plain)
    winning = world.begun(world.cell("winning", 0.125), monkeypatch, tmp_path)
    assert moments(matched) == pytest.approx(moments(winning), rel=1e-5)
    if arm == "magnitude-init":
        kept, gone = (torch.cat([start[n][m if kept else ~m].abs() for n, m in plain.masks.items()]) for kept in (1, 0))  # type: ignore[union-attr]
        assert kept.min() >= gone.max(), "the mask was scored on these very weights"


def test_elastic_tickets_are_matched_layer_by_layer(lab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The ticket of a shallower network, blocks repeated, is the other side of re-drawn weights under its mask."""
    found = {"mask": "elastic", "model": {"name": "resnet20", "options": {"width": 0.25}}}
    plan = lab.plan(
        seeds=1,
        model={"name": "resnet32", "options": {"width": 0.25}},
        arm={"carried": {**found, "weights": "rewound"}, "re-drawn": {**found, "weights": "re-drawn"}},
        data__digits={"builtin": "digits", "per_class": 12, "size": 16},
        recipe__sgd__epochs=2,
        search={"rounds": 1, "prune": 0.5},
        transfer=[{**GRID, "arms": ["carried", "re-drawn"], "rescale": ["none", "matched"], "densities": [0.5]}],
    )
    store = lab.store()
    searches = {i: c for i, c in plan.cells.items() if isinstance(c.start, Initial) and c.network.name == "resnet20"}
    assert lab.run(Plan(plan.experiment, searches, []), store).complete
    here = World(lab, plan, store)
    begun = {
        (arm, rescale): here.begun(here.cell(arm, 0.5, rescale), monkeypatch, tmp_path)
        for arm in ("carried", "re-drawn")
        for rescale in ("none", "matched")
    }
    for arm in ("carried", "re-drawn"):
        assert_only_scaled(begun[arm, "matched"], begun[arm, "none"])
    carried, redrawn = begun["carried", "none"], begun["re-drawn", "matched"]
    assert moments(redrawn) == pytest.approx(moments(carried), rel=1e-5)
    back = moments(begun["carried", "matched"])
    # Weights drawn from N(0, 2/f) under the mask permuted: of some hundred kept ones, within 4 standard errors.
    masks = carried.masks
    assert masks is not None
    for name, mask in masks.items():
        assert back[name] == pytest.approx(2 / mask[0].numel(), rel=4 * math.sqrt(2 / (0.4 * mask.numel()))), name


# -- rounds of other searches -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "start", "weights"),
    [
        ({}, Start(step="1ep"), "rewound"),
        ({"method": "fine-tune"}, Start(lr_schedule="last"), "trained"),
        ({"method": "lr-rewind"}, Start(step="1ep"), "trained"),
    ],
)
def test_a_round_begins_as_its_search_says(
    lab: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: dict[str, str],
    start: Start,
    weights: str,
    differing: Any,
) -> None:
    plan = lab.plan(lab.raw(seeds=1, search={"rounds": 2, "prune": 0.5, **change}, transfer__0__densities=[0.25]))
    store = lab.store()
    rounds = [cell for cell in plan.cells.values() if isinstance(cell.start, Round)]
    dense = {i: c for i, c in plan.cells.items() if isinstance(c.start, Initial)}
    lab.run(Plan("dense", dense, []), store)
    here = World(lab, plan, store)
    for cell in rounds:
        begun = here.begun(cell, monkeypatch, tmp_path)
        origin = here.rewound(cell) if weights == "rewound" else here.trained(cell)
        assert not differing(body(begun.state), masked(origin, begun.masks))
        assert begun.start == start
        assert torch.equal(begun.state["head.weight"], origin["head.weight"]), "inside a search the head goes along"


def test_a_search_may_rewind_what_the_optimiser_remembered(
    lab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = {"rounds": 2, "prune": 0.5, "optimizer_state": "rewound"}
    plan = lab.plan(lab.raw(seeds=1, search=search, transfer__0__densities=[0.25]))
    store = lab.store()
    lab.run(Plan("dense", {i: c for i, c in plan.cells.items() if isinstance(c.start, Initial)}, []), store)
    cell = next(cell for cell in plan.cells.values() if isinstance(cell.start, Round))
    state = World(lab, plan, store).begun(cell, monkeypatch, tmp_path).start.optimizer_state
    assert state is not None
    assert state["linear1.weight/momentum_buffer"].abs().sum() > 0


# -- normalisation ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def normalised(shared_lab: Any) -> World:
    """A narrow VGG11 with BatchNorm on digits, its searches done."""
    grid = {**GRID, "arms": ["winning", "random", "preserved", "even"], "rescale": ["none"], "densities": [0.125]}
    raw = shared_lab.raw(
        seeds=1,
        model={"name": "vgg11", "options": {"width": 0.05}},
        data__digits={"builtin": "digits", "per_class": 12, "size": 16},
        recipe__sgd__epochs=2,
        transfer=[grid],
    )
    plan = shared_lab.plan(raw)
    store = shared_lab.store("normalised")
    searches = {i: c for i, c in plan.cells.items() if not isinstance(c.start, ArmStart)}
    assert shared_lab.run(Plan(plan.experiment, searches, []), store).complete
    return World(shared_lab, plan, store)


def test_normalisation_is_never_masked_nor_permuted(
    normalised: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for arm in ("winning", "random", "preserved", "even"):
        cell = normalised.cell(arm, 0.125)
        state, masks, _ = normalised.begun(cell, monkeypatch, tmp_path)
        assert masks is not None
        assert masks
        assert all(state[name].dim() == 4 for name in masks), "only convolutions"
        layers = [name.rpartition(".")[0] for name in state if name.endswith("running_mean")]
        gains = [f"{layer}.weight" for layer in layers]
        assert len(gains) == 8
        for name in gains:
            if arm == "winning":
                assert torch.equal(state[name], normalised.rewound(cell)[name])
            else:
                assert torch.equal(state[name], torch.ones_like(state[name]))


def test_running_statistics_go_back_with_the_weights_or_begin_anew(
    normalised: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    winning, random = normalised.cell("winning", 0.125), normalised.cell("random", 0.125)
    rewound = normalised.rewound(winning)
    trained = normalised.trained(winning)
    statistics = [name for name in rewound if name.endswith("running_mean")]
    for name in statistics:
        state = normalised.begun(winning, monkeypatch, tmp_path).state
        assert torch.equal(state[name], rewound[name])
        assert not torch.equal(state[name], trained[name]), "not those of the trained network"
        assert not normalised.begun(random, monkeypatch, tmp_path).state[name].any()


# -- results ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arm", ["winning", "random", "pruned-finetune"])
def test_masked_weights_are_zero_after_training(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arm: str, differing: Any
) -> None:
    ends: list[dict[str, Tensor]] = []
    judge = oneticket.lab.cells.run.evaluate

    def spy(model: torch.nn.Module, *arguments: Any, **options: Any) -> tuple[float, float]:
        ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return judge(model, *arguments, **options)

    cell = world.cell(arm, 0.125)
    begun = world.begun(cell, monkeypatch, tmp_path)
    monkeypatch.setattr(oneticket.lab.cells.run, "evaluate", spy)
    record = run_cell(cell, world.lab.workplace(world.store), tmp_path)
    (end,) = ends
    assert begun.masks is not None
    for name, mask in begun.masks.items():
        assert not end[name][~mask].any()
        assert not torch.equal(end[name], begun.state[name]), "it has been trained"
    assert record["outcome"]["masked_nonzero"] == 0
    assert record["outcome"]["kept"] == begun.masks.kept
    assert record["outcome"]["density"] == begun.masks.kept / begun.masks.total
    assert not differing(load_state(tmp_path / "weights-end.safetensors", begun.masks), end)
    assert load_masks(tmp_path / "masks.safetensors") == begun.masks


def test_a_record_tells_what_was_done_and_what_it_cost(world: World, tmp_path: Path) -> None:
    cell = world.cell("winning", 0.125)
    record = run_cell(cell, world.lab.workplace(world.store), tmp_path)
    cost, outcome = record["cost"], record["outcome"]
    samples = 10 * 36  # 40 images a class, a tenth of them held out
    assert (cost["samples"], cost["steps"]) == (3 * samples, 3 * math.ceil(samples / 32))
    head, hidden = 5 * 10, 64 * 15 + 15 * 5
    assert cost["train_flops"] == 3 * 2 * (hidden + head) * 3 * samples
    assert cost["masked_flops"] == 3 * 2 * (outcome["kept"] + head) * 3 * samples
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2, 3]
    assert outcome["val_accuracy"] == history[-1]["val_accuracy"]
    assert outcome["best_val_accuracy"] == max(line["val_accuracy"] for line in history)
    assert outcome["best_epoch"] == next(
        line["epoch"] for line in history if line["val_accuracy"] == outcome["best_val_accuracy"]
    )
    assert 0 <= outcome["test_accuracy"] <= 1
    environment = record["environment"]
    assert (environment["threads"], environment["layout"]) == (1, "channels-last")
    machine = this_machine()
    assert (environment["processor"], environment["instructions"]) == (machine.processor, machine.instructions)
    assert environment.get("restricted", {}) == machine.restricted
    assert not {"plain_layers", "kernels_unchecked"} & environment.keys()


@pytest.mark.parametrize(
    ("kernels", "told"),
    [
        (Kernels("channels-last"), {}),
        (
            Kernels("channels-last", {"features.conv1": "it is wrong"}),
            {"plain_layers": {"features.conv1": "it is wrong"}},
        ),
        (Kernels("contiguous", {"": "no layer's"}), {"plain_layers": {"": "no layer's"}}),
        (Kernels("contiguous", unchecked="it can't be copied"), {"kernels_unchecked": "it can't be copied"}),
    ],
)
def test_a_record_tells_by_which_kernels_it_was_trained_and_judged(
    lab: Any, monkeypatch: pytest.MonkeyPatch, kernels: Kernels, told: dict[str, Any]
) -> None:
    judged: list[tuple[bool, str]] = []

    def seen(model: torch.nn.Module, *arguments: Any, channels_last: bool, **options: Any) -> Any:
        judged.append((channels_last, type(model.get_submodule("features.conv1")).__name__))
        return evaluate(model, *arguments, channels_last=channels_last, **options)

    monkeypatch.setattr("oneticket.training.state.choose_kernels", lambda *_, **__: kernels)
    monkeypatch.setattr(oneticket.lab.cells.run, "evaluate", seen)
    plan: Plan = lab.plan(seeds=1, model=CONVOLUTIONS, transfer=[{"targets": ["digits@sgd"], "arms": ["dense"]}])
    (cell,) = plan.cells.values()
    environment = run_cell(cell, lab.workplace(lab.store()), lab.folder)["environment"]
    assert environment["layout"] == kernels.layout
    assert {key: environment[key] for key in ("plain_layers", "kernels_unchecked") if key in environment} == told
    kind = "PlainConv2d" if "features.conv1" in kernels.plain else "Conv2d"
    assert judged == [(kernels.layout == "channels-last", kind)]


def test_a_layer_wise_pre_training_tells_of_the_layers_of_its_parts(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Kernels("channels-last", {"layer": "it is wrong"})
    monkeypatch.setattr("oneticket.training.state.choose_kernels", lambda *_, **__: kernels)
    grid = {"sources": ["digits@sgd"], "targets": ["digits@sgd"], "arms": ["layer-wise"]}
    plan = lab.plan(seeds=1, transfer=[grid])
    cell = next(cell for cell in plan.cells.values() if isinstance(cell.start, PretrainingStart))
    environment = run_cell(cell, lab.workplace(lab.store()), lab.folder)["environment"]
    assert environment["layout"] == "channels-last"
    assert environment["plain_layers"] == {"linear1/layer": "it is wrong", "linear2/layer": "it is wrong"}


@pytest.mark.parametrize("layout", ["channels-last", "contiguous"])
def test_what_was_not_trained_to_its_end_tells_the_layout_that_was_asked_for(lab: Any, layout: str) -> None:
    grid = {"sources": ["digits@sgd"], "targets": ["digits@adam"], "arms": ["winning"], "densities": [0.5]}
    plan = lab.plan(seeds=1, model=CONVOLUTIONS, recipe__sgd__lr=1e20, transfer=[grid])
    store = lab.store()
    assert lab.run(plan, store, runtime=Runtime(layout=layout, threads=1)).complete
    records = [store.read(identity) for identity in plan.cells]
    assert {"diverged" in record["outcome"] for record in records} == {True, False}
    assert {record["environment"]["layout"] for record in records} == {layout}


def test_the_layout_reaches_training_and_judging_and_names_nothing(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[str] = []
    train, judge = oneticket.lab.cells.run.train, oneticket.lab.cells.run.evaluate

    def trained(*arguments: Any, runtime: Runtime, **options: Any) -> Any:
        laid_out.append(runtime.layout)
        return train(*arguments, runtime=runtime, **options)

    def judged(*arguments: Any, channels_last: bool, **options: Any) -> Any:
        laid_out.append("channels-last" if channels_last else "contiguous")
        return judge(*arguments, channels_last=channels_last, **options)

    monkeypatch.setattr(oneticket.lab.cells.run, "train", trained)
    monkeypatch.setattr(oneticket.lab.cells.run, "evaluate", judged)
    plan: Plan = lab.plan(seeds=1, model=CONVOLUTIONS, transfer=[{"targets": ["digits@sgd"], "arms": ["dense"]}])
    (identity,) = plan.cells
    for layout in get_args(Layout):
        laid_out.clear()
        store = lab.store(layout)
        assert lab.run(plan, store, runtime=Runtime(layout=layout, threads=1)).complete
        assert laid_out == [layout, layout]
        assert store.has(identity)


def test_a_round_of_a_search_never_sees_the_test_split(world: World) -> None:
    rounds = [i for i, c in world.plan.cells.items() if isinstance(c.start, Round)]
    assert rounds
    assert all("test_accuracy" not in world.store.read(identity)["outcome"] for identity in rounds)


def test_the_description_in_a_cell_gives_its_name_again(world: World) -> None:
    for identity in world.plan.cells:
        if world.store.has(identity):
            read = msgspec.convert(world.store.read(identity)["description"], Description)
            assert read.identity == identity


# -- a training that diverges -------------------------------------------------------------------------------------
def test_a_training_that_diverges_counts_as_guessing_and_tells_step_and_rate(lab: Any) -> None:
    plan = lab.plan(seeds=1, recipe__sgd__lr=1e20)
    dense = next(cell for cell in plan.cells.values() if cell.test and not cell.parents)
    record = run_cell(dense, lab.workplace(lab.store()), lab.folder)
    outcome, cost = record["outcome"], record["cost"]
    assert re.fullmatch(r"the loss is (nan|inf) at step \d+ \(learning rate 1e\+20\)", outcome["diverged"])
    assert (outcome["test_accuracy"], outcome["val_accuracy"]) == (0.1, 0.1)
    assert (outcome["test_loss"], outcome["best_epoch"], outcome["effective_density"]) == (None, None, None)
    assert (outcome["density"], outcome["kept"]) == (1.0, outcome["prunable"])
    assert 0 < cost["samples"] <= 32 * cost["steps"], "what was trained is paid for"
    assert cost["train_flops"] == cost["masked_flops"] > 0
    assert sorted(path.name for path in lab.folder.glob("*.safetensors")) == [], "no network is left"


def test_it_tells_how_many_steps_were_taken_and_the_epochs_before(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(recent: list[tuple[Tensor, int, float]], step: int) -> float:
        if step > sum(len(part) for part in told):
            told.append(recent)
        return finite_sum([(loss * (math.nan if len(told) == 2 else 1), n, lr) for loss, n, lr in recent], step)

    told: list[list[tuple[Tensor, int, float]]] = []
    monkeypatch.setattr("oneticket.training.observers.finite_sum", lost)  # in the second of three epochs
    plan = lab.plan(seeds=1)
    dense = next(cell for cell in plan.cells.values() if cell.test and not cell.parents)
    record = run_cell(dense, lab.workplace(lab.store()), lab.folder)
    history = [msgspec.json.decode(line) for line in (lab.folder / "history.jsonl").read_bytes().splitlines()]
    assert [line["epoch"] for line in history] == [1]
    per_epoch = history[0]["step"]
    assert record["cost"]["steps"] == 2 * per_epoch
    images = ParentCells(lab.store(), lab.cache, lab.folder).splits(dense).train
    assert record["cost"]["samples"] == 2 * len(images)


def test_what_rests_on_a_training_that_diverged_is_not_trained_and_counts_as_guessing(lab: Any) -> None:
    arms = ["winning", "random", "preserved"]
    grid = {"sources": ["digits@sgd"], "targets": ["digits@adam"], "arms": arms, "densities": [0.125]}
    plan, store = lab.plan(seeds=1, recipe__sgd__lr=1e20, transfer=[grid]), lab.store()
    summary = lab.run(plan, store)
    assert summary.complete
    of = {row.arm: store.read(row.cell) for row in plan.rows}
    for arm in ("winning", "preserved"):
        outcome, cost = of[arm]["outcome"], of[arm]["cost"]
        assert outcome["diverged"].startswith("a training it builds on diverged: the loss is ")
        assert outcome["diverged"].count("a training it builds on") == 1, "however far back it lies"
        assert (outcome["test_accuracy"], outcome["density"]) == (0.1, outcome["kept"] / outcome["prunable"])
        assert outcome["kept"] == kept_count(0.125, outcome["prunable"])
        assert (cost["steps"], cost["samples"], cost["train_flops"]) == (0, 0, 0)
    for arm in ("random", "dense"):
        assert "diverged" not in of[arm]["outcome"], "it looks at no ticket"
    rounds = [store.read(i) for i, cell in plan.cells.items() if isinstance(cell.start, Round)]
    assert len(rounds) == 2
    assert all("diverged" in record["outcome"] for record in rounds)


def test_a_layer_that_diverges_pays_for_the_layers_before(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"sources": ["digits@sgd"], "targets": ["digits@sgd"], "arms": ["layer-wise"]}
    plan = lab.plan(seeds=1, transfer=[grid])
    cell = next(cell for cell in plan.cells.values() if isinstance(cell.start, PretrainingStart))
    calls: list[int] = []

    def second_diverges(*arguments: Any, **options: Any) -> Any:
        calls.append(0)
        done = train(*arguments, **options)
        if len(calls) == 2:
            raise NonFiniteLoss("the loss is nan", done.steps, done.samples, done.history)
        return done

    monkeypatch.setattr("oneticket.methods.pretraining.train", second_diverges)
    record = run_cell(cell, lab.workplace(lab.store()), lab.folder)
    history = [msgspec.json.decode(line) for line in (lab.folder / "history.jsonl").read_bytes().splitlines()]
    assert record["outcome"]["diverged"] == "the loss is nan"
    assert [line["epoch"] for line in history] == [1, 2, 3], "two epochs of the first layer, one of the second"
    assert record["cost"]["steps"] == history[-1]["step"]
    assert record["cost"]["samples"] == 3 * len(ParentCells(lab.store(), lab.cache, lab.folder).splits(cell).train)


def test_a_test_loss_that_is_not_finite_is_a_divergence(world: World, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("oneticket.lab.cells.run.evaluate", lambda *_, **__: (0.9, float("nan")))
    record = run_cell(world.cell("random", 0.5), world.lab.workplace(world.store), tmp_path)
    assert record["outcome"]["diverged"].startswith("the test loss is nan after ")
    assert record["outcome"]["test_accuracy"] == 0.1
    assert record["outcome"]["kept"] == kept_count(0.5, record["outcome"]["prunable"])
    assert record["cost"]["masked_flops"] < record["cost"]["train_flops"], "its masks count"


# -- the same again -----------------------------------------------------------------------------------------------
def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "cell.json"}


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("kind", ["dense", "round", "winning", "batch-norm"])
def test_a_killed_cell_goes_on_to_the_same_bytes(world: World, normalised: World, tmp_path: Path, kind: str) -> None:
    here = normalised if kind == "batch-norm" else world
    cells = list(here.plan.cells.values())
    cell = {
        "dense": lambda: next(c for c in cells if isinstance(c.start, Initial)),
        "round": lambda: next(c for c in cells if isinstance(c.start, Round)),
        "winning": lambda: here.cell("winning", 0.125, "fan-in"),
        "batch-norm": lambda: here.cell("random", 0.125),
    }[kind]()
    workplace = here.lab.workplace(here.store, checkpoint_every=0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = run_cell(cell, workplace, whole)
    epochs: list[int] = []

    def kill(record: EpochRecord) -> None:
        epochs.append(record.epoch)
        raise Killed

    first = 2 if kind == "round" else 1
    for _ in range(first, cell.recipe.epochs):
        with pytest.raises(Killed):
            run_cell(cell, workplace, parts, Watch(on_epoch=kill))
    resumed = run_cell(cell, workplace, parts, Watch(on_epoch=lambda record: epochs.append(record.epoch)))
    assert epochs == list(range(first, cell.recipe.epochs + 1)), "every epoch trained once"
    assert resumed["outcome"] == expected["outcome"]
    for key in ("steps", "samples", "train_flops", "masked_flops"):
        assert resumed["cost"][key] == expected["cost"][key]
    for name, content in files(whole).items():
        assert files(parts)[name] == content, name


def test_seconds_add_up_over_resumptions(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by one second whenever it is looked at: at the begin, at each checkpoint, at the end."""
    seconds = iter(range(100))
    monkeypatch.setattr(oneticket.lab.cells.run, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    cell = next(c for c in world.plan.cells.values() if isinstance(c.start, Initial))
    workplace = world.lab.workplace(world.store, checkpoint_every=0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = run_cell(cell, workplace, whole)["cost"]["seconds"]

    def kill(_: EpochRecord) -> None:
        raise Killed

    for _ in range(1, cell.recipe.epochs):
        with pytest.raises(Killed):
            run_cell(cell, workplace, parts, Watch(on_epoch=kill))
    cost = run_cell(cell, workplace, parts)["cost"]
    assert cost["seconds"] == expected == cost["steps"], "a checkpoint after each step but the last, and the end"


def test_the_checkpoint_of_another_cell_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def checkpoint(cell: str, part: str = "training") -> CellCheckpoint:
        return CellCheckpoint(tmp_path / f"{part}.pt", every=0, cell=cell, clock=Clock())

    checkpoint("a").save({"epoch": 3})
    assert checkpoint("a").load() == {"epoch": 3}
    assert checkpoint("b").load() is None
    assert "is the checkpoint of another training" in caplog.text
    assert checkpoint("a").load() is None
    checkpoint("a").save({"epoch": 3})
    (tmp_path / "training.pt").rename(tmp_path / "head.pt")
    assert checkpoint("a", "head").load() is None


def test_a_whole_plan_computed_twice_gives_the_same_bytes(lab: Any) -> None:
    plan = lab.plan(seeds=1)
    first, second = lab.store("first"), lab.store("second")
    torch.manual_seed(1)
    lab.run(plan, first)
    torch.manual_seed(2)  # the state of the process is of no importance
    torch.rand(7)
    lab.run(plan, second)
    for identity in plan.cells:
        assert files(first.folder(identity)) == files(second.folder(identity))
        assert first.read(identity)["outcome"] == second.read(identity)["outcome"]
