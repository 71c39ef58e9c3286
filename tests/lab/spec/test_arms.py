"""Arms: every one that has a name trains, ends where it says, and starts from what it says."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.lab.cells.assembly import Assembled, assemble
from oneticket.lab.cells.description import ArmStart, Description, PretrainingStart, Round
from oneticket.lab.cells.parents import ParentCells
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks, load_state
from oneticket.lab.planning.plan import Plan
from oneticket.lab.results.table import remember, tidy
from oneticket.lab.spec.arms import ARM_SOURCES, ARMS, Arm
from oneticket.masks import Masks
from oneticket.methods import PRETRAININGS
from oneticket.pruning import CONTROLS
from oneticket.weights import RESCALINGS

DENSITY = 0.125
UNRATED = [name for name in RESCALINGS if name != "smup"]


class Whole(NamedTuple):
    """A finished experiment with every arm."""

    plan: Plan
    store: Store
    parents: ParentCells

    def cell(self, arm: str, rescale: str = "none", seed: int = 0) -> Description:
        """The cell of an arm."""
        row = next(r for r in self.plan.rows if (r.arm, r.rescale, r.seed) == (arm, rescale, seed))
        return self.plan.cells[row.cell]

    def start(self, arm: str, rescale: str = "none", seed: int = 0) -> Assembled:
        """What its training begins with."""
        return assemble(self.cell(arm, rescale, seed), self.parents)


@pytest.fixture(scope="module")
def whole(shared_lab: Any) -> Whole:
    """Two replicates, one density, each arm with two rescalings; no cell may fail."""
    grid = {
        "sources": ["low@sgd"],
        "targets": ["digits@sgd"],
        "arms": list(ARMS),
        "rescale": ["none", "layer"],
        "densities": [DENSITY],
    }
    plan = shared_lab.plan(shared_lab.raw(transfer=[grid]))
    store = shared_lab.store("arms")
    summary = shared_lab.run(plan, store)
    assert summary.complete, {**summary.failed, **summary.left_out}
    remember(plan, store)
    return Whole(plan, store, ParentCells(store, shared_lab.cache, shared_lab.folder))


def test_every_arm_has_a_source() -> None:
    assert all(ARM_SOURCES[name] for name in ARMS)


@pytest.mark.parametrize("name", list(ARMS))
def test_an_arm_ends_at_its_density_with_its_masked_weights_at_zero(whole: Whole, name: str) -> None:
    rows = [r for r in tidy(whole.store) if r["arm"] == name]
    dense = ARMS[name].stays_dense
    assert rows
    for row in rows:
        outcome = whole.store.read(row["cell"])["outcome"]
        total = outcome["prunable"]
        assert outcome["kept"] == (total if dense or ARMS[name].freezes else int(DENSITY * total + 0.5))
        assert outcome["masked_nonzero"] == 0
        assert 0 <= outcome["effective_density"] <= outcome["density"]
        assert row["density_asked"] == (1.0 if dense else DENSITY)
        assert row["test_accuracy"] is not None


def test_rows_of_arms_that_stay_dense_have_one_density_and_no_rescaling(whole: Whole) -> None:
    for name, arm in ARMS.items():
        found = {(r.density_asked, r.rescale) for r in whole.plan.rows if r.arm == name}
        expected = {(1.0, "none")} if arm.stays_dense else {(DENSITY, "none"), (DENSITY, "layer")}
        assert found == ({(DENSITY, "none")} if arm.makes_masks or arm.freezes else expected), name


def test_what_an_arm_builds_on_is_counted(whole: Whole) -> None:
    cost = {r.arm: r.search_trainings for r in whole.plan.rows}
    assert {cost[a] for a in ("dense", "random", "snip", "synflow", "rigl", "l0", "xnor")} == {0}
    assert {cost[a] for a in ("winning", "own", "reshuffled", "pruned-finetune")} == {3}
    assert {cost[a] for a in ("other-seed", "aligned", "source-mask", "source-weights")} == {6}
    assert {cost[a] for a in ("dense-finetune", "dense-from-k", *PRETRAININGS)} == {1}


def test_the_steps_that_were_planned_are_those_that_were_trained(whole: Whole) -> None:
    """An epoch has 12 steps on digits and 6 on low; k is one epoch, and a rewound network has it behind it."""
    assert {row["arm"] for row in tidy(whole.store)} == {"dense", *ARMS}
    for row in tidy(whole.store):
        arm, steps = ARMS[row["arm"]], whole.store.read(row["cell"])["cost"]["steps"]
        behind = 12 if arm.starts_at_rewind else 0
        assert bool(steps) != arm.takes_no_step
        if arm.weights == "rewound":
            behind = 12 if (arm.values or arm.ticket) == "target" else 6
        assert row["own_steps"] == steps + behind
        assert row["budget"] == "recipe"


def test_an_arm_that_is_only_judged_takes_no_step(whole: Whole) -> None:
    rows = [r for r in tidy(whole.store) if r["arm"] == "untrained"]
    assert rows
    for row in rows:
        record = whole.store.read(row["cell"])
        assert (record["cost"]["steps"], record["cost"]["train_flops"], row["best_epoch"]) == (0, 0, None)
        assert row["val_accuracy"] is not None
        assert row["test_accuracy"] is not None


# -- masks against weights ----------------------------------------------------------------------------------------
def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


def test_the_two_by_two_of_masks_and_weights(whole: Whole) -> None:
    source, own = whole.start("winning"), whole.start("own")
    mask, weights = whole.start("source-mask"), whole.start("source-weights")
    assert mask.masks == source.masks
    assert weights.masks == own.masks
    assert source.masks != own.masks
    for mixed, giver in ((mask, "own"), (weights, "winning")):
        assert mixed.masks is not None
        ticket = whole.cell(giver).start.ticket  # type: ignore[union-attr]
        full = load_state(whole.store.folder(ticket.dense) / "weights-1ep.safetensors")  # type: ignore[union-attr]
        for name, kept in mixed.masks.items():
            assert torch.equal(mixed.state[name], full[name] * kept), name


def test_another_seeds_mask_comes_with_this_seeds_weights(whole: Whole) -> None:
    for name in ("other-seed", "aligned"):
        start, other = whole.start(name, seed=0), whole.start("winning", seed=1)
        assert start.masks is not None
        assert other.masks is not None
        if name == "other-seed":
            assert start.masks == other.masks
        else:
            assert start.masks != other.masks
            assert start.masks.densities() == other.masks.densities()
        ticket = whole.cell("winning").start.ticket  # type: ignore[union-attr]
        full = load_state(whole.store.folder(ticket.dense) / "weights-1ep.safetensors")  # type: ignore[union-attr]
        for weight, kept in start.masks.items():
            assert torch.equal(start.state[weight], full[weight] * kept)


def test_signs_and_values_are_those_of_the_draw(whole: Whole) -> None:
    ticket, shuffled = whole.start("winning"), whole.start("reshuffled")
    constant, redrawn = whole.start("sign-constant"), whole.start("sign-redrawn")
    assert ticket.masks is not None
    for name, kept in ticket.masks.items():
        values = ticket.state[name][kept]
        assert torch.equal(shuffled.state[name][kept].sort().values, values.sort().values)
        assert not torch.equal(shuffled.state[name][kept], values)
        for signed in (constant, redrawn):
            assert torch.equal(signed.state[name][kept].sign(), values.sign())
        assert len(constant.state[name][kept].abs().unique()) == 1


# -- the target's own ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["magnitude-init", "snip", "grasp", "synflow", "hts", "fts"])
def test_masks_scored_on_the_target_know_nothing_of_a_source(whole: Whole, name: str) -> None:
    cell = whole.cell(name)
    assert isinstance(cell.start, ArmStart)
    assert not cell.parents
    begun, dense = whole.start(name), whole.start("dense")
    assert begun.masks is not None
    for weight, kept in begun.masks.items():
        assert torch.equal(begun.state[weight], dense.state[weight] * kept)


@pytest.mark.parametrize("name", [n for n, a in ARMS.items() if a.makes_masks])
def test_methods_that_make_masks_begin_with_all_weights(whole: Whole, name: str, differing: Any) -> None:
    begun, dense = whole.start(name), whole.start("dense")
    assert begun.masks is not None
    assert begun.masks.density == 1
    assert not differing(begun.state, dense.state)
    assert load_masks(whole.store.folder(whole.cell(name).identity) / "masks.safetensors").density < 0.2


@pytest.mark.parametrize("task", list(PRETRAININGS))
def test_a_pre_training_is_a_cell_of_the_source_and_is_trained_once(whole: Whole, task: str, differing: Any) -> None:
    cells = [c for c in whole.plan.cells.values() if c.start == PretrainingStart(task=task)]
    assert len(cells) == 2
    assert whole.cell(task).parents == (cells[0].identity,)
    learned, begun, fresh = whole.parents.end(cells[0].identity), whole.start(task), whole.start("dense")
    assert not differing(body(begun.state), body(learned))
    assert differing(body(begun.state), body(fresh.state))
    assert torch.equal(begun.state["head.weight"], fresh.state["head.weight"])


@pytest.mark.parametrize("name", ["binary-connect", "bwn", "xnor"])
def test_a_binary_network_is_stored_binary_and_its_bytes_are_counted_so(whole: Whole, name: str) -> None:
    binary, dense = (whole.store.read(whole.cell(arm).identity)["outcome"]["bytes"] for arm in (name, "dense"))
    # Between the full-precision first layer and the head lie 15 × 5 weights, with an α for each unit unless it is 1.
    assert binary == dense - 4 * 75 + 10 + (0 if name == "binary-connect" else 4 * 5)


def test_the_optimiser_of_a_fine_tuning_keeps_the_last_rate(whole: Whole) -> None:
    assert whole.start("dense-finetune").start.lr_schedule == "last"
    assert whole.start("pruned-lr-rewind").start.step == "1ep"


# -- rescaling ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["winning", "random", "even", "sign-constant", "snip"])
def test_every_rescaling_leaves_masks_as_they_are_and_changes_the_scale(
    shared_lab: Any, whole: Whole, name: str
) -> None:
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": [name], "rescale": UNRATED,
            "densities": [DENSITY]}  # fmt: skip
    plan = shared_lab.plan(shared_lab.raw(transfer=[grid]))
    starts = {}
    for row in plan.rows:
        if row.arm == name and row.seed == 0:
            starts[row.rescale] = assemble(plan.cells[row.cell], whole.parents)
    assert set(starts) == set(UNRATED)
    for rescale, start in starts.items():
        assert start.masks == starts["none"].masks, rescale
        changed = [n for n in start.masks or () if not torch.equal(start.state[n], starts["none"].state[n])]
        assert bool(changed) == (rescale != "none"), rescale


def test_smup_raises_the_rates_of_sparse_layers_and_wants_adam(shared_lab: Any, whole: Whole) -> None:
    grid = {"sources": ["low@sgd"], "targets": ["digits@adam"], "arms": ["random"], "rescale": ["smup"],
            "densities": [DENSITY]}  # fmt: skip
    plan = shared_lab.plan(shared_lab.raw(transfer=[grid]))
    start = assemble(plan.cells[next(r.cell for r in plan.rows if r.arm == "random")], whole.parents)
    assert start.masks is not None
    assert start.start.lr_factors == {n: pytest.approx(1 / d) for n, d in start.masks.densities().items()}
    grid["targets"] = ["digits@sgd"]
    with pytest.raises(InputError, match=r"smup.*adam"):
        shared_lab.plan(shared_lab.raw(transfer=[grid]))


# -- what is refused ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arm", "match"),
    [
        ({"mask": "ticket", "weights": "initial", "method": "rigl"}, "makes its own masks"),
        ({"mask": "dense", "weights": "re-drawn"}, "dense mask"),
        ({"mask": "ticket", "weights": "rotation"}, "under a mask"),
        ({"mask": "elastic", "weights": "rewound"}, "network in which its ticket"),
        ({"mask": "ticket", "weights": "rewound", "model": "resnet20"}, "elastic"),
        ({"mask": "dense", "weights": "initial", "method": "gmp", "options": {"evry": 3}}, "every"),
        ({"mask": "ticket", "weights": "rewound", "norms": "trainde"}, "trained"),
        ({"mask": "dense", "weights": "rotation", "norms": "trained"}, "pre-trained"),
        ({"mask": "movement", "weights": "initial"}, "unknown mask"),
    ],
)
def test_axes_that_do_not_go_together_are_refused(arm: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Arm(**arm)


def test_another_seed_needs_two(shared_lab: Any) -> None:
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": ["aligned"], "densities": [DENSITY]}
    with pytest.raises(InputError, match="another seed"):
        shared_lab.plan(shared_lab.raw(seeds=1, transfer=[grid]))


def test_every_control_can_be_named_as_a_mask() -> None:
    for name in CONTROLS:
        Arm(mask=name, weights="re-drawn", model="resnet20" if name == "elastic" else None)


@pytest.mark.parametrize(("rescale", "match"), [("matched", "needs a ticket"), ("smup", "adam"), ("layr", "layer")])
def test_a_search_cannot_be_rescaled_by_what_it_does_not_have(shared_lab: Any, rescale: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        shared_lab.plan(shared_lab.raw(search__rescale=rescale))


def test_a_search_rescaled_after_every_round_begins_its_rounds_so(shared_lab: Any) -> None:
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": ["winning"], "densities": [DENSITY]}
    store = shared_lab.store("rounds")
    starts = {}
    for rescale in ("none", "layer"):
        plan = shared_lab.plan(shared_lab.raw(seeds=1, search__rescale=rescale, transfer=[grid]))
        assert shared_lab.run(plan, store).complete
        first = next(c for c in plan.cells.values() if isinstance(c.start, Round))
        starts[rescale] = assemble(first, ParentCells(store, shared_lab.cache, shared_lab.folder))
    assert starts["none"].masks == starts["layer"].masks
    for name, density in (starts["none"].masks or Masks({})).densities().items():
        assert torch.allclose(starts["layer"].state[name], starts["none"].state[name] / density**0.5)


# -- learning rates -----------------------------------------------------------------------------------------------
def test_of_several_learning_rates_the_best_by_validation_is_shown(shared_lab: Any) -> None:
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": ["random", "snip"], "densities": [DENSITY],
            "lr": [1e-5, 0.1]}  # fmt: skip
    plan = shared_lab.plan(shared_lab.raw(name="rates", transfer=[grid]))
    store = shared_lab.store("rates")
    assert shared_lab.run(plan, store).complete
    remember(plan, store)
    assert {(r.arm, r.lr) for r in plan.rows} == {(a, lr) for a in ("dense", "random", "snip") for lr in (1e-5, 0.1)}
    shown = {row["cell"] for row in tidy(store)}
    assert shown == {r.cell for r in plan.rows if r.lr == 0.1}


def test_learning_rates_cannot_be_chosen_without_validation(shared_lab: Any) -> None:
    grid = {"targets": ["digits@sgd"], "arms": ["snip"], "densities": [DENSITY], "lr": [0.1, 0.2]}
    with pytest.raises(InputError, match="validation"):
        shared_lab.plan(shared_lab.raw(data__digits__validation=0.0, transfer=[grid]))
