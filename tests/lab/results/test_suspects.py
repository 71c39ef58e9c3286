"""Suspects: which trainings of earlier versions may have had wrong gradients, and that no other is named."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest
import torch

from oneticket.errors import InputError
from oneticket.lab.cells.description import ArmStart
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import save_masks
from oneticket.lab.planning.plan import Plan
from oneticket.lab.results.suspects import suspects
from oneticket.lab.results.table import remember
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build

OLD = {"oneticket": "0.1.0", "device": "cpu (x86_64)", "threads": 1, "peak_bytes": 1}
NARROW = {"name": "resnet20", "options": {"width": 0.25}}
DENSE = [{"targets": ["digits@sgd"], "arms": ["dense"]}]
OWN = """
from torch import nn
def net(input_shape, classes):
    return nn.Sequential(nn.Conv2d(input_shape[0], 4, 1, stride=2), nn.Flatten(), nn.Linear(256, classes))
"""


def planned(lab: Any, **changes: Any) -> Plan:
    known = {"seeds": 1, "model": NARROW, "data__digits": {"builtin": "digits", "per_class": 12, "size": 16}}
    plan: Plan = lab.plan(**known | changes)
    return plan


def finish(plan: Plan, store: Store, environment: dict[str, Any], masks: Masks | None = None) -> None:
    """Each cell a finished one, without having been trained."""
    remember(plan, store)
    for identity, cell in plan.cells.items():
        working = store.root / "working" / identity
        working.mkdir()
        if masks is not None:
            save_masks(working / "masks.safetensors", masks)
        record = {"description": msgspec.to_builtins(cell), "outcome": {}, "cost": {}}
        store.commit(identity, working, record | {"environment": environment})


def test_searches_count_too_and_threads_are_told(lab: Any) -> None:
    plan, store = planned(lab), lab.store()
    finish(plan, store, OLD)
    found = suspects(store)
    assert found is not None
    assert set(found.cells) == set(plan.cells)
    assert (found.models, found.threaded) == (("resnet20",), 0)
    text = str(found)
    assert text.startswith(
        f"{len(plan.cells)} trainings of resnet20 (searches counted too) were finished by an earlier"
    )
    assert "of them" not in text
    assert text.endswith("Run the experiment again in a new store.")
    again = lab.store("threads")
    finish(plan, again, OLD | {"threads": 2})
    assert f"every processor; {len(plan.cells)} of them had several." in str(suspects(again))


def test_only_the_experiment_asked_for_is_looked_at(lab: Any) -> None:
    store = lab.store()
    finish(planned(lab, name="narrow", transfer=DENSE), store, OLD)
    finish(planned(lab, name="wide", model="resnet20", transfer=DENSE), store, OLD)
    assert suspects(store, experiment="wide") is None
    found = suspects(store, experiment="narrow")
    assert found == suspects(store)
    assert str(found).startswith("1 training of resnet20 (searches counted too) was finished")
    with pytest.raises(InputError, match="did you mean 'narrow'"):
        suspects(store, experiment="narow")


@pytest.mark.parametrize(
    ("changes", "environment"),
    [
        ({}, OLD | {"processor": "a new one"}),
        ({}, OLD | {"device": "cuda (a card)"}),
        ({}, {}),
        ({"model": "resnet20"}, OLD),
        ({"model": {"name": "resnet20", "options": {"width": 0.25, "shortcut": "identity"}}}, OLD),
        ({"model": {"name": "vgg11", "options": {"width": 0.05}}}, OLD),
        ({"model": "own:net"}, OLD),
    ],
)
def test_no_other_training_is_named(lab: Any, changes: dict[str, Any], environment: dict[str, Any]) -> None:
    (lab.folder / "own.py").write_text(OWN)
    plan, store = planned(lab, **changes, transfer=DENSE), lab.store()
    finish(plan, store, environment)
    assert suspects(store) is None


def test_one_that_is_damaged_or_of_a_model_that_is_gone_is_passed_over(lab: Any) -> None:
    plan, store = planned(lab), lab.store()
    finish(plan, store, OLD)
    first, second, *rest = plan.cells
    (store.folder(first) / "cell.json").write_text("{")
    lab.redescribed(store, second, lambda description: description["network"].update(name="resnet21"))
    found = suspects(store)
    assert found is not None
    assert set(found.cells) == set(rest)


def full_masks() -> Masks:
    """Every convolution of a ResNet-20 on digits, whose shortcuts read 16 channels: as many as the kernel needs."""
    network = build(ModelSpec(name="resnet20"), input_shape=(1, 16, 16), classes=10, seed=0)
    return Masks({name: torch.ones_like(p, dtype=torch.bool) for name, p in network.named_parameters() if p.dim() == 4})


@pytest.mark.parametrize(("unread", "named"), [(0, False), (6, True)])
@pytest.mark.parametrize(("method", "mask"), [("train", "random"), ("gmp", "dense")])
def test_a_network_that_was_trained_without_its_dead_channels_is_judged_by_those_left(
    lab: Any, unread: int, named: bool, method: str, mask: str
) -> None:
    """A method that acts while it is trained leaves the network whole."""
    masks = full_masks()
    for name, kept in masks.items():
        reads = (name.startswith("stages.0.") and "conv1" in name) or name.startswith("stages.1.0.")
        if unread and reads and kept.shape[1] == 16:
            kept[:, :unread] = False
    arm = {"mask": mask, "weights": "initial", "method": method}
    grid = [{"targets": ["digits@sgd"], "arms": ["it"], "densities": [0.5]}]
    plan, store = planned(lab, model="resnet20", arm={"it": arm}, transfer=grid), lab.store()
    finish(plan, store, OLD, masks)
    found = suspects(store)
    arms = {identity for identity, cell in plan.cells.items() if isinstance(cell.start, ArmStart)}
    assert arms
    assert bool(found and arms & set(found.cells)) is (named and method == "train")


def test_a_store_of_this_version_is_looked_through_without_torch(lab: Any) -> None:
    plan, store = planned(lab, transfer=DENSE), lab.store()
    finish(plan, store, OLD | {"processor": "a new one"})
    look = (
        "import sys\n"
        "from pathlib import Path\n"
        "from oneticket.lab.cells.store import Store\n"
        "from oneticket.lab.results.suspects import suspects\n"
        "print(suspects(Store(Path(sys.argv[1]))), 'torch' in sys.modules)\n"
    )
    told = subprocess.run([sys.executable, "-c", look, str(store.root)], capture_output=True, text=True, check=True)
    assert told.stdout == "None False\n"
