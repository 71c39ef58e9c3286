"""Assembly: what every arm starts from, put together here a second time from the files of the cells it builds on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oneticket.finding
from oneticket.data import Augmentation, ImageBatches, Normalisation, Splits, open_data
from oneticket.finding import find_ticket
from oneticket.lab.cells.assembly import Assembled, assemble
from oneticket.lab.cells.description import ArmStart, Description, Initial, PretrainingStart, Round
from oneticket.lab.cells.parents import ParentCells
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks, load_state
from oneticket.lab.planning.plan import Plan
from oneticket.lab.spec.arms import ARMS
from oneticket.masks import Masks
from oneticket.methods.updates import Frozen
from oneticket.metrics.alignment import match_channels
from oneticket.models import ModelSpec, build
from oneticket.prunable import Prunable
from oneticket.pruning import CONTROLS, CRITERIA, ControlContext, ScoreContext, prune
from oneticket.pruning.correspondence import reindexed
from oneticket.randomness import Streams
from oneticket.training import Recipe, Start
from oneticket.weights import RescalingContext, rescale

State = dict[str, Tensor]

NETWORK = {"name": "resnet20", "options": {"width": 0.25}}
DEEPER = {"name": "resnet32", "options": {"width": 0.25}}
DENSITY = 0.25
OURS = ["none", "layer", "fan-in", "matched", "data"]
NORMS = ["as-drawn", "fresh", "rewound", "trained"]
NORMED = [f"{weights}-with-{norms}" for weights in ("rewound", "re-drawn", "trained") for norms in NORMS]
OWN_ARMS: dict[str, Any] = {
    **{
        name: {"mask": "ticket", "weights": name.split("-with-")[0], "norms": name.split("-with-")[1]}
        for name in NORMED
    },
    **{
        f"elastic-{weights}": {"mask": "elastic", "weights": weights, "model": DEEPER}
        for weights in ("rewound", "initial", "trained")
    },
}
CARRIED = [name for name in OWN_ARMS if name.startswith("elastic-")]


# -- the files --------------------------------------------------------------------------------------------------------
class Files(NamedTuple):
    """A plan with all cells that the arms of the first replicate build on, and what lies in their files."""

    lab: Any
    plan: Plan
    store: Store

    def cell(self, arm: str, rescale: str = "none", recipe: str = "sgd") -> Description:
        """The cell of an arm of the first replicate."""
        key = (arm, rescale, recipe, 0)
        rows = (r for r in self.plan.rows if (r.arm, r.rescale, r.target_recipe, r.seed) == key)
        return self.plan.cells[next(rows).cell]

    def start(self, cell: Description) -> Assembled:
        """What the code begins a cell with."""
        return assemble(cell, ParentCells(self.store, self.lab.cache, self.lab.folder))

    def found(self, kind: type, classes: int, seed: int, network: str, optimizer: str) -> Iterator[str]:
        """The cells of a kind."""
        for identity, cell in self.plan.cells.items():
            facts = (cell.network.classes, cell.seed, cell.network.name, cell.recipe.optimizer)
            if isinstance(cell.start, kind) and facts == (classes, seed, network, optimizer):
                yield identity

    def searched(self, cell: str) -> tuple[str, bool]:
        """How a round trains, and whether it interpolates its norms."""
        start = self.plan.cells[cell].start
        assert isinstance(start, Round)
        return start.ticket.search.method, start.ticket.search.norms == "interpolated"

    def giver(
        self, classes: int, seed: int = 0, network: str = "resnet20", optimizer: str = "sgd",
        search: tuple[str, bool] = ("rewind", False),
    ) -> Giver:  # fmt: skip
        """A data set (5 classes: the source; 10: the target) and a replicate that something may be taken from."""
        (dense,) = self.found(Initial, classes, seed, network, optimizer)
        rounds = [
            identity
            for identity in self.found(Round, classes, seed, network, optimizer)
            if self.searched(identity) == search
        ]
        return Giver(self, classes, seed, network, dense, rounds[0] if rounds else "")

    def pretrained(self, task: str) -> State:
        """What a pre-training of the source ended with."""
        cells = self.found(PretrainingStart, 5, 0, "resnet20", "sgd")
        (cell,) = (i for i in cells if self.plan.cells[i].start == PretrainingStart(task=task))
        return ended(self, cell)

    def splits(self, cell: str) -> Splits:
        """The images of a cell."""
        return open_data(self.plan.cells[cell].data, cache=self.lab.cache)


class Giver:
    """What one search has left: W_0, W_k, W_T of the dense training, W_T of its last round, and its ticket."""

    def __init__(self, files: Files, classes: int, seed: int, network: str, dense: str, last: str) -> None:
        self.files, self.classes, self.seed, self.network = files, classes, seed, network
        self.dense, self.last = dense, last

    @cached_property
    def initial(self) -> State:
        return drawn(self.network, self.classes, self.seed, "init")

    @cached_property
    def rewound(self) -> State:
        return load_state(self.files.store.folder(self.dense) / "weights-1ep.safetensors")

    @cached_property
    def densely_trained(self) -> State:
        return ended(self.files, self.dense)

    @cached_property
    def trained(self) -> State:
        return ended(self.files, self.last)

    @cached_property
    def masks(self) -> Masks:
        """A quarter of the weights: the largest, over the network, of what the last round has trained."""
        names = prunable(self.trained)
        values = np.concatenate([self.trained[name].abs().numpy().ravel() for name in names])
        count = math.floor(DENSITY * len(values) + 0.5)
        return cut(np.isin(np.arange(len(values)), np.argsort(-values, kind="stable")[:count]), self.trained)

    def evidence(self, augment: Augmentation | None = None) -> ImageBatches:
        """Its training images in batches as criteria see them."""
        images = self.files.splits(self.dense).train
        return ImageBatches(images, 128, normalisation=Normalisation.of(images), augmentation=augment)

    def batches(self, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        """These batches in the order of a replicate."""
        order, changes = (generator(seed, "mask", "evidence", what) for what in ("order", "augmentation"))
        return list(self.evidence(self.files.plan.cells[self.dense].recipe.augment).epoch(order, changes))

    def network_of(self, state: State) -> nn.Module:
        model = build(ModelSpec(**NETWORK), input_shape=(1, 8, 8), classes=self.classes, seed=0)
        model.load_state_dict(state)
        return model


def ended(files: Files, cell: str) -> State:
    folder = files.store.folder(cell)
    return load_state(folder / "weights-end.safetensors", load_masks(folder / "masks.safetensors"))


def generator(seed: int, *keys: str) -> torch.Generator:
    """A named stream of a replicate (docs/reproducibility.md)."""
    return Streams(seed).generator(*keys)


def drawn(network: str, classes: int, seed: int, *keys: str) -> State:
    """A fresh network of a replicate; its head is from a stream of its own."""
    spec = ModelSpec(name=network, options={"width": 0.25})
    body, head = (
        build(spec, input_shape=(1, 8, 8), classes=classes, seed=Streams(seed).seed(*stream)).state_dict()
        for stream in (keys, ("head",))
    )
    return {name: (head if name.startswith("head.") else body)[name].clone() for name in body}


def prunable(state: State) -> list[str]:
    """Convolutions: the head is no matter of masks, and everything else is a vector."""
    return [name for name, value in state.items() if value.dim() == 4]


def normalising(state: State) -> list[str]:
    return [name for name in state if re.search(r"norm\d?\.\w+$", name)]


def cut(flat: np.ndarray | Tensor, state: State) -> Masks:
    """The entries of all weights of a network in a row, as masks."""
    names = prunable(state)
    pieces = torch.split(torch.as_tensor(flat), [state[name].numel() for name in names])
    return Masks({name: piece.reshape(state[name].shape) for name, piece in zip(names, pieces, strict=True)})


def random_control(word: str, state: State) -> Masks:
    """The masks of a control that looks at no ticket."""
    total = sum(state[name].numel() for name in prunable(state))
    any_masks = cut(torch.arange(total) < math.floor(DENSITY * total + 0.5), state)
    stream = generator(0, "mask", word, "0.25")
    return CONTROLS[word](any_masks, ControlContext(generator=lambda: stream, head=lambda: None))


# -- the arms, written out --------------------------------------------------------------------------------------------
class Expected(NamedTuple):
    """A state before masks are put on it and the head is drawn, its masks, and where the training starts."""

    state: State
    masks: Masks
    start: Start = Start()

    def masked(self, head: State) -> State:
        """Masked weights at zero, the head fresh."""
        body = {n: torch.where(self.masks[n], t, 0.0) if n in self.masks else t for n, t in self.state.items()}
        return body | {name: value for name, value in head.items() if name.startswith("head.")}


class Parts(NamedTuple):
    """What the arms of the first replicate are made of."""

    files: Files
    source: Giver
    target: Giver
    other: Giver  # the source's search from the second seed
    deeper: Giver  # the source's search of a deeper network of the family
    fresh: State  # W_0 of the target
    redrawn: State


def full(state: State) -> Masks:
    return Masks({name: torch.ones_like(state[name], dtype=torch.bool) for name in prunable(state)})


def of_random_mask(word: str) -> Callable[[Parts], Expected]:
    return lambda p: Expected(p.redrawn, random_control(word, p.fresh))


def layer_permuted(p: Parts) -> Expected:
    stream = generator(0, "mask", "layer-permuted", "0.25")
    return Expected(p.redrawn, p.source.masks.permuted(stream, within="layer"))


def natural_corrected(p: Parts, bound: float = 1e-3) -> Expected:
    """Random places in a queue, behind all others those that the dense training of the source drove to zero."""
    natural = []
    for name in p.source.masks:
        spread = p.source.initial[name].double().std(correction=0).item()
        natural.append((p.source.densely_trained[name].double().abs() <= bound * spread).flatten())
    gone = torch.cat(natural)
    assert gone.any(), "nothing to correct"
    queue = torch.randperm(len(gone), generator=generator(0, "mask", "natural-corrected", "0.25")).numpy()
    queue[gone.numpy()] -= len(gone)
    kept = np.zeros(len(gone), dtype=bool)
    kept[np.argsort(-queue)[: p.source.masks.kept]] = True
    return Expected(p.redrawn, cut(kept, p.fresh))


def aligned(p: Parts) -> Expected:
    """The mask of the second seed's ticket, brought to the first seed's network by what both do on the source."""
    here, there = (giver.network_of(giver.densely_trained) for giver in (p.source, p.other))
    order, back = (
        match_channels(a, b, p.source.batches(), names=list(p.other.masks)) for a, b in ((here, there), (there, here))
    )
    found, wrong = (Masks(reindexed(p.other.masks, matching)) for matching in (order, back))
    assert found != wrong, "the two ways are the same"
    return Expected(p.source.rewound, found)


def reshuffled(p: Parts) -> Expected:
    state, stream = dict(p.source.rewound), generator(0, "init", "draw", "reshuffled")
    for name, mask in p.source.masks.items():
        kept = state[name][mask]
        state[name] = torch.zeros_like(state[name])
        state[name][mask] = kept[torch.randperm(len(kept), generator=stream)]
    return Expected(state, p.source.masks)


def sign_constant(p: Parts) -> Expected:
    state = dict(p.source.rewound)
    for name in p.source.masks:
        state[name] = state[name].sign() * p.source.initial[name].double().std(correction=0).item()
    return Expected(state, p.source.masks)


def sign_redrawn(p: Parts) -> Expected:
    signs = {name: p.source.rewound[name].sign() * p.redrawn[name].abs() for name in p.source.masks}
    return Expected(p.redrawn | signs, p.source.masks)


def sign_interpolated(p: Parts) -> Expected:
    state, masks, _ = sign_redrawn(p)
    return Expected(state | {name: p.source.trained[name] for name in normalising(state)}, masks)


def signs_of(search: tuple[str, bool]) -> Callable[[Parts], Expected]:
    """The signs that the last round of a search ended with, on fresh magnitudes; norms as they are drawn."""

    def assembled(p: Parts) -> Expected:
        giver = p.files.giver(5, search=search)
        signs = {name: giver.trained[name].sign() * p.redrawn[name].abs() for name in giver.masks}
        return Expected(p.redrawn | signs, giver.masks)

    return assembled


def largest(scores: Mapping[str, Tensor], state: State) -> Masks:
    """A quarter of the weights: those of the highest scores."""
    flat = torch.cat([scores[name].flatten() for name in prunable(state)])
    count = math.floor(DENSITY * len(flat) + 0.5)
    return cut(np.isin(np.arange(len(flat)), np.argsort(-flat.numpy(), kind="stable")[:count]), state)


def magnitude_init(p: Parts) -> Expected:
    return Expected(p.fresh, largest({name: p.fresh[name].abs() for name in prunable(p.fresh)}, p.fresh))


def snip(p: Parts, labels: Callable[[Tensor], Tensor] = lambda labels: labels) -> Expected:
    """|g ∘ W| on the first batch of the target, the network as in training."""
    model = p.target.network_of(p.fresh).train()
    images, classes = p.target.batches()[0]
    F.cross_entropy(model(images), labels(classes)).backward()
    scores = {
        n: (w.grad * w).detach().abs() for n, w in model.named_parameters() if w.dim() == 4 and w.grad is not None
    }
    return Expected(p.fresh, largest(scores, p.fresh))


def scored_by(name: str) -> Callable[..., Expected]:
    """The criterion itself has tests in float64; here it is what it is shown that counts."""

    def assembled(p: Parts, labels: Callable[[Tensor], Tensor] = lambda labels: labels) -> Expected:
        context = ScoreContext(
            batches=lambda: [(images, labels(classes)) for images, classes in p.target.batches()],
            generator=lambda: generator(0, "mask", name, str(DENSITY)),
        )
        scores = CRITERIA[name](Prunable(p.target.network_of(p.fresh), head="head"), context)
        return Expected(p.fresh, largest(scores, p.fresh))

    return assembled


def synflow(p: Parts) -> Expected:
    """It looks at the shape of images only."""
    model, zeros = Prunable(p.target.network_of(p.fresh), head="head"), (torch.zeros(1, 1, 8, 8), torch.zeros(1))
    evidence = ScoreContext(batches=lambda: [zeros])
    return Expected(p.fresh, prune(model, evidence, criterion="synflow", allocation="global", density=DENSITY))


def as_drawn_with(name: str) -> Callable[[Parts], Expected]:
    weights, _, norms = name.partition("-with-")

    def assembled(p: Parts) -> Expected:
        states = {"rewound": p.source.rewound, "re-drawn": p.redrawn, "trained": p.source.trained, "fresh": p.redrawn}
        state = dict(states[weights])
        if norms != "as-drawn":
            state |= {key: states[norms][key] for key in normalising(state)}
        return Expected(state, p.source.masks)

    return assembled


def carried(weights: str) -> Callable[[Parts], Expected]:
    """Five blocks a stage become three: the last ones are dropped."""

    def assembled(p: Parts) -> Expected:
        state: State = getattr(p.deeper, weights)
        body = [name for name in p.fresh if not name.startswith("head.")]
        return Expected({n: state[n] for n in body}, Masks({n: p.deeper.masks[n] for n in prunable(p.fresh)}))

    return assembled


def of_dense(p: Parts) -> Expected:
    return Expected(p.fresh, full(p.fresh))


def of_pretraining(task: str) -> Callable[[Parts], Expected]:
    return lambda p: Expected(p.files.pretrained(task), full(p.fresh))


def made_masks(files: Files, arm: str) -> Masks:
    """The masks with which the training that makes those of an arm has ended."""
    start = files.cell(arm).start
    assert isinstance(start, ArmStart)
    assert start.maker
    return load_masks(files.store.folder(start.maker) / "masks.safetensors")


LAST, REWOUND_RATE, AT_THE_END = Start(lr_schedule="last"), Start(step="1ep"), Start(step="2ep")
ASSEMBLED: dict[str, Callable[[Parts], Expected]] = {
    "winning": lambda p: Expected(p.source.rewound, p.source.masks),
    "own": lambda p: Expected(p.target.rewound, p.target.masks),
    "random": of_random_mask("globally-permuted"),
    "random-from-longer": of_random_mask("globally-permuted"),
    "dense-from-k": lambda p: Expected(p.source.rewound, full(p.fresh)),
    "preserved": lambda p: Expected(p.redrawn, p.source.masks),
    "layer-permuted": layer_permuted,
    "even": of_random_mask("even"),
    "erk": of_random_mask("erk"),
    "smart": of_random_mask("smart"),
    "smart-vgg": of_random_mask("smart-vgg"),
    "natural-corrected": natural_corrected,
    "other-seed": lambda p: Expected(p.source.rewound, p.other.masks),
    "aligned": aligned,
    "source-mask": lambda p: Expected(p.target.rewound, p.source.masks),
    "source-weights": lambda p: Expected(p.source.rewound, p.target.masks),
    "ticket-initial": lambda p: Expected(p.source.initial, p.source.masks),
    "reshuffled": reshuffled,
    "sign-constant": sign_constant,
    "sign-redrawn": sign_redrawn,
    "sign-interpolated": sign_interpolated,
    "untrained": lambda p: Expected(p.source.initial, p.source.masks, AT_THE_END),
    "pruned-finetune": lambda p: Expected(p.source.trained, p.source.masks, LAST),
    "pruned-lr-rewind": lambda p: Expected(p.source.trained, p.source.masks, REWOUND_RATE),
    "pruned-probe": lambda p: Expected(p.source.trained, p.source.masks),
    "dense-finetune": lambda p: Expected(p.source.densely_trained, full(p.fresh), LAST),
    "dense-pretrained": lambda p: Expected(p.source.densely_trained, full(p.fresh)),
    "autoencoder": of_pretraining("autoencoder"),
    "denoising": of_pretraining("denoising"),
    "rotation": of_pretraining("rotation"),
    "layer-wise": of_pretraining("layer-wise"),
    "magnitude-init": magnitude_init,
    "snip": snip,
    **{name: scored_by(name) for name in ("grasp", "hts", "fts")},
    "synflow": synflow,
    **dict.fromkeys(
        [
            "l1",
            "l0",
            "gmp",
            "gmp-global",
            "set",
            "set-cosine",
            "rigl",
            "edge-popup",
            "supermask",
            "supermask-constant",
            "binary-connect",
            "bwn",
            "xnor",
        ],
        of_dense,
    ),
    "aws": signs_of(("lr-rewind", True)),
    "lrr-signed": signs_of(("lr-rewind", False)),
    "cts": lambda p: Expected(p.source.rewound, made_masks(p.files, "cts")),
    **dict.fromkeys(
        ["update-mask", "update-random"], lambda p: Expected(p.source.densely_trained, full(p.fresh), LAST)
    ),
    **{name: as_drawn_with(name) for name in NORMED},
    **{name: carried(name.removeprefix("elastic-")) for name in CARRIED},
}


def world_of(lab: Any) -> Files:
    """Every arm planned, of a narrow residual network with BatchNorm; computed is what seed 0's arms build on."""
    one = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "densities": [DENSITY]}
    others = [name for name in ASSEMBLED if name not in CARRIED]
    grids = [
        {**one, "arms": ["dense", *others], "rescale": OURS},
        {**one, "arms": CARRIED},
        {**one, "targets": ["digits@adam"], "arms": ["winning", "random"], "rescale": ["none", "smup"]},
    ]
    raw = lab.raw(
        seeds=2,
        model=NETWORK,
        data__digits={"builtin": "digits", "per_class": 16},
        recipe__sgd__epochs=2,
        recipe__sgd__augment={"flip": True, "crop": 1},
        arm=OWN_ARMS,
        transfer=grids,
    )
    plan, store = lab.plan(raw), lab.store("assembly")
    wanted = {identity for row in plan.rows if row.seed == 0 for identity in plan.cells[row.cell].parents}
    while missing := {p for i in wanted for p in plan.cells[i].parents} - wanted:
        wanted |= missing
    target = next(i for i, c in plan.cells.items() if c.start == Initial() and (c.network.classes, c.seed) == (10, 0))
    assert target in wanted
    assert lab.run(Plan("built on", {i: c for i, c in plan.cells.items() if i in wanted}, []), store).complete
    return Files(lab, plan, store)


@pytest.fixture(scope="module")
def files(shared_lab: Any) -> Files:
    return world_of(shared_lab)


@pytest.fixture(scope="module")
def parts(files: Files) -> Parts:
    return Parts(
        files=files,
        source=files.giver(5),
        target=files.giver(10),
        other=files.giver(5, seed=1),
        deeper=files.giver(5, network="resnet32"),
        fresh=drawn("resnet20", 10, 0, "init"),
        redrawn=drawn("resnet20", 10, 0, "init", "redrawn"),
    )


# -- what an arm begins with ------------------------------------------------------------------------------------------
def test_every_arm_is_written_out_here() -> None:
    assert set(ASSEMBLED) == {*ARMS, *OWN_ARMS} - {"dense"}


def test_the_dense_arm_begins_with_a_fresh_network_and_no_masks(files: Files, parts: Parts, differing: Any) -> None:
    start = files.start(files.cell("dense"))
    assert not differing(start.state, parts.fresh)
    assert (start.masks, start.start) == (None, Start())


@pytest.mark.parametrize("name", ASSEMBLED)
def test_an_arm_begins_with_what_the_files_say(files: Files, parts: Parts, name: str, differing: Any) -> None:
    start, expected = files.start(files.cell(name)), ASSEMBLED[name](parts)
    assert start.masks == expected.masks
    assert list(start.masks or ()) == prunable(parts.fresh), "never the normalisation, and all convolutions"
    assert not differing(start.state, expected.masked(parts.fresh))
    assert not differing(dict(start.model.state_dict()), start.state)
    assert (start.naturally_zero is not None) == (name == "natural-corrected")
    assert msgspec.structs.replace(start.start, callbacks=()) == expected.start


def test_what_is_naturally_zero_is_measured_by_the_spread_at_initialisation(
    files: Files, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bound so high that a spread of the trained weights would make a difference."""
    monkeypatch.setattr("oneticket.pruning.controls.NATURALLY_ZERO", 0.5)
    assert files.start(files.cell("natural-corrected")).masks == natural_corrected(parts, 0.5).masks


def test_the_share_of_natural_zeros_is_told_and_counts_gains_of_the_dense_training(
    files: Files, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bound between the gains that training ended with, so that some units count and others don't."""
    trained = parts.source.densely_trained
    gains = torch.cat([trained[name.replace("conv", "norm")].abs() for name in parts.source.masks])
    bound = float(gains.double().median()) + 1e-9
    monkeypatch.setattr("oneticket.pruning.controls.NATURALLY_ZERO", bound)
    zero = total = 0
    for name in parts.source.masks:
        spread = parts.source.initial[name].double().std(correction=0).item()
        small = trained[name].double().abs() <= bound * spread
        small |= (trained[name.replace("conv", "norm")].double().abs() <= bound).view(-1, 1, 1, 1)
        zero, total = zero + int(small.sum()), total + small.numel()
    assert files.start(files.cell("natural-corrected")).naturally_zero == pytest.approx(zero / total)


def test_what_is_to_be_told_apart_differs(parts: Parts) -> None:
    """Where two origins were equal, an arm that took the wrong one would not be noticed."""
    source = parts.source
    states = [source.initial, source.rewound, source.densely_trained, source.trained, parts.redrawn, parts.fresh,
              parts.target.rewound, parts.other.rewound]  # fmt: skip
    for one in range(len(states)):
        for two in range(one):
            for name in prunable(parts.fresh):
                assert not torch.equal(states[one][name], states[two][name]), (one, two, name)
    for name in normalising(parts.fresh):
        values = [state[name] for state in (source.rewound, source.trained, source.densely_trained, parts.fresh)]
        if not name.endswith("num_batches_tracked"):
            assert len({tuple(value.tolist()) for value in values}) == len(values), name
    for score in (snip, scored_by("grasp")):
        assert score(parts).masks != score(parts, lambda labels: labels.roll(1)).masks


def test_the_norms_of_the_signed_mask_are_interpolated_from_trained_to_fresh(
    files: Files, parts: Parts, differing: Any
) -> None:
    start = files.start(files.cell("sign-interpolated"))
    callback, model = start.start.callbacks[0], start.model
    gains = [name for name, _ in model.named_parameters() if name in normalising(parts.fresh)]
    assert len(gains) == 2 * (1 + 18 + 2)
    others = {name: value.clone() for name, value in model.state_dict().items() if name not in gains}
    state: Any = SimpleNamespace(
        model=model, step=0, times=SimpleNamespace(first=0, total=9),
        generator=lambda what, step: generator(3, "mask", what),
    )  # fmt: skip
    callback.on_train_start(state)
    assert not differing({name: model.get_parameter(name).detach() for name in gains},
                {name: parts.source.trained[name] for name in gains})  # fmt: skip
    callback.before_forward(state)
    share = torch.rand((), generator=generator(3, "mask", "interpolation")).item()
    assert 0.05 < share < 0.95
    for name in gains:
        mixed = (1 - share) * parts.source.trained[name] + share * parts.fresh[name]
        torch.testing.assert_close(model.get_parameter(name).detach(), mixed)
    assert not differing({name: value for name, value in model.state_dict().items() if name in others}, others)


# -- masks with a training of their own -------------------------------------------------------------------------------
def test_concrete_ticket_search_sees_the_network_of_w_k_with_its_own_head(
    files: Files, parts: Parts, differing: Any
) -> None:
    """On the source; the arm then has the mask and W_k under a fresh head, as every ticket."""
    start = files.cell("cts").start
    assert isinstance(start, ArmStart)
    assert start.maker
    begun = files.start(files.plan.cells[start.maker])
    assert not differing(begun.state, parts.source.rewound)
    assert begun.masks == full(parts.source.rewound)
    assert made_masks(files, "cts").kept == parts.source.masks.kept
    assert not differing(ended(files, start.maker), Expected(begun.state, made_masks(files, "cts")).masked({}))


def frozen(files: Files, arm: str) -> Masks:
    """The masks outside of which an arm's weights stay at their values."""
    (callback,) = files.start(files.cell(arm)).start.callbacks
    assert isinstance(callback, Frozen)
    return callback.masks


def test_the_update_mask_is_where_fine_tuning_moves_the_source_s_weights_furthest(files: Files, parts: Parts) -> None:
    start = files.cell("update-mask").start
    assert isinstance(start, ArmStart)
    tuned = next(row.cell for row in files.plan.rows if (row.arm, row.seed) == ("dense-finetune", 0))
    assert start.maker == tuned, "the calibration is the arm that fine-tunes all weights"
    after, before = ended(files, tuned), parts.source.densely_trained
    moved = {name: (after[name].double() - before[name].double()).abs() for name in prunable(before)}
    assert frozen(files, "update-mask") == largest(moved, parts.fresh)
    assert frozen(files, "update-random") == random_control("even", parts.fresh)


# -- elastic ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("order", "repeated"), [(None, (0, 1, 2, 1, 2)), ("append", (0, 1, 2, 1, 2)), ("interleave", (0, 1, 1, 2, 2))]
)
def test_a_deeper_network_repeats_the_blocks_of_a_shallower_ones_ticket(
    shared_lab: Any, parts: Parts, differing: Any, order: str | None, repeated: tuple[int, ...]
) -> None:
    """Three blocks become five; masks, weights and what is normalised with alike."""
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": ["up"], "densities": [DENSITY]}
    raw = shared_lab.raw(
        seeds=1,
        model=DEEPER,
        data__digits={"builtin": "digits", "per_class": 16},
        recipe__sgd__epochs=2,
        recipe__sgd__augment={"flip": True, "crop": 1},
        arm={"up": {"mask": "elastic", "weights": "rewound", "model": NETWORK, **({"blocks": order} if order else {})}},
        transfer=[grid],
    )
    plan = shared_lab.plan(raw)
    assert parts.source.last in plan.cells, "the shallower one's search is there already"
    cell = plan.cells[next(row.cell for row in plan.rows if row.arm == "up")]
    start = parts.files.start(cell)
    blocks = dict(enumerate(repeated))
    assert cell.start.blocks == (order if order == "interleave" else msgspec.UNSET), "the default is not written"

    def giver(name: str) -> str:
        return re.sub(r"^(stages\.\d)\.(\d)", lambda found: f"{found[1]}.{blocks[int(found[2])]}", name)

    fresh = drawn("resnet32", 10, 0, "init")
    body = [name for name in fresh if not name.startswith("head.")]
    masks = Masks({name: parts.source.masks[giver(name)] for name in prunable(fresh)})
    assert start.masks == masks
    assert not differing(start.state, Expected({n: parts.source.rewound[giver(n)] for n in body}, masks).masked(fresh))


# -- rescaling --------------------------------------------------------------------------------------------------------
def mean_square(values: Tensor) -> float:
    return float((values.double() ** 2).mean())


def by_layer(p: Parts, arm: str, state: State, masks: Masks) -> State:
    return {name: state[name] * math.sqrt(mask.numel() / int(mask.sum())) for name, mask in masks.items()}


def by_fan_in(p: Parts, arm: str, state: State, masks: Masks) -> State:
    """Ticket arms by the inputs that a unit has left; re-drawn ones from N(0, 2/f_i) in the arm's own stream."""
    found, stream = {}, generator(0, "init", "rescale", "fan-in")
    for name, mask in masks.items():
        inputs = mask.flatten(1).sum(1).clamp(min=1).double().view(-1, 1, 1, 1)
        if arm in REDRAWN:
            found[name] = torch.randn(mask.shape, generator=stream, dtype=torch.float64) * (2 / inputs).sqrt() * mask
        else:
            found[name] = state[name].double() * (mask[0].numel() / inputs).sqrt()
    return {name: value.float() for name, value in found.items()}


def by_the_other_side(p: Parts, arm: str, state: State, masks: Masks) -> State:
    """What is at the initial scale as the ticket, else as the arm ``random``."""
    ticket = p.target if arm == "own" else p.source
    if arm in AT_INITIAL_SCALE:
        others, kept = ticket.rewound, ticket.masks
    else:
        others, kept = p.redrawn, ASSEMBLED["random"](p).masks
    return {
        name: state[name] * math.sqrt(mean_square(others[name][kept[name]]) / mean_square(state[name][mask]))
        for name, mask in masks.items()
    }


def by_data(p: Parts, arm: str, state: State, masks: Masks) -> State:
    """Unit variance on the first training batch of the target; the algorithm itself is tested elsewhere."""
    return by_batch(p.target.network_of(state), p.target.batches()[0][0], state, masks)


def by_batch(model: nn.Module, batch: Tensor, state: State, masks: Masks) -> State:
    context = RescalingContext("trained", network=lambda: model, batch=lambda: batch)
    return rescale("data", {name: state[name] for name in masks}, masks, context, optimizer="adam").weights


REDRAWN = ("random", "preserved")
AT_INITIAL_SCALE = ("random", "preserved", "ticket-initial", "sign-redrawn")
RESCALED = [*AT_INITIAL_SCALE, "winning", "own", "reshuffled", "pruned-finetune"]
BY_HAND: dict[str, Callable[[Parts, str, State, Masks], State]] = {
    "layer": by_layer,
    "fan-in": by_fan_in,
    "matched": by_the_other_side,
    "data": by_data,
}


@pytest.mark.parametrize("rescale", BY_HAND)
@pytest.mark.parametrize("name", RESCALED)
def test_an_arm_is_rescaled_by_what_the_files_say(files: Files, parts: Parts, name: str, rescale: str) -> None:
    start, plain = files.start(files.cell(name, rescale)), ASSEMBLED[name](parts)
    state = plain.masked(parts.fresh)
    expected = BY_HAND[rescale](parts, name, state, plain.masks)
    assert start.masks == plain.masks
    for key in state:
        torch.testing.assert_close(start.state[key], expected.get(key, state[key]), rtol=1e-6, atol=1e-9)
    assert any(not torch.allclose(state[key], expected[key], rtol=1e-3) for key in plain.masks)


def test_other_images_than_the_targets_first_training_batch_would_be_noticed(parts: Parts) -> None:
    state, _, _ = ASSEMBLED["winning"](parts)
    state, masks = Expected(state, parts.source.masks).masked(parts.fresh), parts.source.masks
    images = parts.files.splits(parts.target.dense)
    norm = Normalisation.of(images.train)
    others = {
        "the source's": parts.source.batches()[0][0],
        "the next": parts.target.batches()[1][0],
        "another replicate's": parts.target.batches(seed=1)[0][0],
        "validation": next(ImageBatches(images.validation, 128, normalisation=norm).ordered())[0],
        "test": next(ImageBatches(images.test, 128, normalisation=norm).ordered())[0],
        "in order": next(parts.target.evidence().ordered())[0],
    }
    expected = by_data(parts, "winning", state, masks)
    for what, batch in others.items():
        wrong = by_batch(parts.target.network_of(state), batch, state, masks)
        assert any(not torch.allclose(wrong[name], expected[name], rtol=1e-5) for name in masks), what


@pytest.mark.parametrize("name", ["winning", "random"])
def test_smup_comes_with_the_rates_of_the_layers(files: Files, parts: Parts, name: str) -> None:
    start, plain = files.start(files.cell(name, "smup", "adam")), ASSEMBLED[name](parts)
    state = plain.masked(parts.fresh)
    expected = by_layer(parts, name, state, plain.masks)
    for key in state:
        torch.testing.assert_close(start.state[key], expected.get(key, state[key]), rtol=1e-6, atol=1e-9)
    rates = {key: mask.numel() / int(mask.sum()) for key, mask in plain.masks.items()}
    assert start.start.lr_factors == pytest.approx(rates)
    assert files.start(files.cell(name, "none", "adam")).start.lr_factors == {}


# -- rounds of a search -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rescale", "method"),
    [*((rescale, "rewind") for rescale in ("none", "layer", "fan-in", "data", "smup")), ("data", "fine-tune")],
)
def test_a_round_begins_rescaled_as_the_search_says(files: Files, parts: Parts, rescale: str, method: str) -> None:
    """Half of the weights of the dense network, W_k or W_T, under the rescaling; the head goes along."""
    recipe = "adam" if rescale == "smup" else "sgd"
    grid = {"sources": [f"low@{recipe}"], "targets": [f"digits@{recipe}"], "arms": ["winning"], "densities": [DENSITY]}
    raw = files.lab.raw(
        seeds=1,
        model=NETWORK,
        data__digits={"builtin": "digits", "per_class": 16},
        recipe__sgd__epochs=2,
        recipe__sgd__augment={"flip": True, "crop": 1},
        search__rescale=rescale,
        search__method=method,
        transfer=[grid],
    )
    plan = files.lab.plan(raw)
    (cell,) = (c for c in plan.cells.values() if isinstance(c.start, Round) and c.network.classes == 5)
    here = Files(files.lab, plan, files.store)
    (dense,) = (i for i, c in plan.cells.items() if isinstance(c.start, Initial) and c.network.classes == 5)
    assert files.lab.run(Plan("dense", {dense: plan.cells[dense]}, []), files.store).complete
    giver = Giver(here, 5, 0, "resnet20", dense, "")
    start = here.start(cell)
    masks = start.masks
    assert masks is not None
    assert masks.kept == math.floor(0.5 * masks.total + 0.5)
    origin = giver.rewound if method == "rewind" else giver.densely_trained
    state = {n: torch.where(masks[n], t, 0.0) if n in masks else t for n, t in origin.items()}
    batch = giver.batches()[0][0]
    expected = {
        "none": dict,
        "layer": lambda: by_layer(parts, "winning", state, masks),
        "smup": lambda: by_layer(parts, "winning", state, masks),
        "fan-in": lambda: by_fan_in(parts, "winning", state, masks),
        "data": lambda: by_batch(giver.network_of(state), batch, state, masks),
    }[rescale]()
    for key in state:
        torch.testing.assert_close(start.state[key], expected.get(key, state[key]), rtol=1e-6, atol=1e-9)
    rates = {key: mask.numel() / int(mask.sum()) for key, mask in masks.items()} if rescale == "smup" else {}
    assert start.start.lr_factors == pytest.approx(rates)


class Normalised(nn.Module):
    """Two hidden layers, normalised, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(6, 20), nn.BatchNorm1d(20), nn.Linear(20, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.norm(self.one(x)).relu()).relu())


@pytest.mark.parametrize("rescale", ["none", "layer", "fan-in", "data", "smup"])
def test_find_ticket_begins_its_rounds_rescaled_too(rescale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(96, 6, generator=stream) * 3 + 1, torch.randint(0, 3, (96,), generator=stream)
    torch.manual_seed(0)
    model = Normalised()
    recipe = (Recipe.adam if rescale == "smup" else Recipe.sgd)(epochs=2, batch_size=32)
    train, begun, ends = oneticket.finding.train, [], []

    def spy(network: nn.Module, *arguments: Any, **options: Any) -> Any:
        begun.append(({name: value.clone() for name, value in network.state_dict().items()}, options))
        ends.append(train(network, *arguments, **options))
        return ends[-1]

    monkeypatch.setattr(oneticket.finding, "train", spy)
    find_ticket(model, (inputs, labels), recipe=recipe, density=0.25, rounds=2, seed=4, rescale=rescale)
    state, options = begun[1]
    masks = options["masks"]
    assert masks.density == 0.5
    plain = {n: torch.where(masks[n], t, 0.0) if n in masks else t for n, t in ends[0].snapshots["1ep"].state.items()}
    order = torch.randperm(96, generator=generator(4, "mask", "evidence", "order"))
    density = {name: int(mask.sum()) / mask.numel() for name, mask in masks.items()}
    network = Normalised()
    network.load_state_dict(plain)
    expected = {
        "none": dict,
        "layer": lambda: {name: plain[name] / math.sqrt(density[name]) for name in masks},
        "smup": lambda: {name: plain[name] / math.sqrt(density[name]) for name in masks},
        "fan-in": lambda: {n: plain[n] * (m.shape[1] / m.sum(1, True).clamp(min=1)).sqrt() for n, m in masks.items()},
        "data": lambda: by_batch(network, inputs[order[:32]], plain, masks),
    }[rescale]()
    for key in plain:
        torch.testing.assert_close(state[key], expected.get(key, plain[key]), rtol=1e-5, atol=1e-9)
    assert options["start"].lr_factors == pytest.approx(
        {n: 1 / d for n, d in density.items()} if rescale == "smup" else {}
    )
