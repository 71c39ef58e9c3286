"""What a newcomer gives by mistake: each is refused before any work, with what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import oneticket as ot
from oneticket.errors import InputError, nearest
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.pruning import CRITERIA, ScoreContext, criterion, prune
from oneticket.search import Search
from oneticket.training import Checkpoint, Cosine, Observer, Runtime, Start, StepDecay, evaluate
from oneticket.weights import RESCALINGS, RescalingContext, rescale

DATA = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
RECIPE = ot.Recipe.sgd(epochs=2, batch_size=10)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 2))


class Log(Observer):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_end(self, state: Any) -> None:
        self.steps.append(state.step)


def found(**options: Any) -> ot.Ticket:
    return ot.find_ticket(network(), DATA, **{"recipe": RECIPE, "density": 0.5, "rounds": 1, "rewind": 0, **options})


def trained(**options: Any) -> Any:
    return ot.train(network(), DATA, RECIPE, **options)


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "callback without a list": (lambda: trained(callbacks=Log()), r"callbacks = a Log; expected a list"),
    "snapshots as text": (lambda: trained(snapshots="1ep"), r"snapshots = '1ep'; expected a list.*\['1ep'\]"),
    "masks as a dictionary": (lambda: trained(masks={"0.weight": torch.ones(20, 4) > 0}), r"expected Masks or None"),
    "keyword of train": (lambda: trained(callback=[]), r"unknown argument 'callback'.*did you mean 'callbacks'"),
    "runtime as a device": (lambda: trained(runtime="cpu"), r"runtime = 'cpu'; expected Runtime"),
    "loss by name": (lambda: trained(loss="mse"), r"unknown loss 'mse'; expected one of classification"),
    "a loss that is not one": (lambda: trained(loss=3), r"loss = 3; expected .*a function or None"),
    "seed": (lambda: trained(seed=-1), r"seed = -1; expected a whole number of at least 0"),
    "model": (lambda: ot.train("lenet", DATA, RECIPE), r"model = 'lenet'; expected Module"),  # type: ignore[arg-type]
    "learning rate": (lambda: ot.Recipe.sgd(epochs=1, lr="fast"), r"lr = 'fast'; expected a number"),  # type: ignore[arg-type]
    "keyword of a recipe": (lambda: ot.Recipe.sgd(epochs=1, warm_up="1ep"), r"unknown field 'warm_up'.*'warmup'"),
    "keyword of adam": (lambda: ot.Recipe.adam(epochs=1, beta=(0.9, 0.9)), r"unknown field 'beta'.*'betas'"),
    "moments of a schedule": (lambda: StepDecay(at="1ep"), r"at = '1ep'; expected a list.*\['1ep'\]"),  # type: ignore[arg-type]
    "end of a schedule": (lambda: Cosine(final=True), r"final = True; expected a number"),
    "clip": (lambda: ot.Recipe.sgd(epochs=1, clip_norm=float("nan")), r"clip_norm = nan; expected a number above 0"),
    "threads": (lambda: Runtime(threads=0), r"threads = 0; expected a whole number of at least 1 or None"),
    "layout": (lambda: Runtime(layout="nhwc"), r"unknown layout 'nhwc'"),  # type: ignore[arg-type]
    "device": (lambda: Runtime(device="gpu"), r"device = 'gpu' is not a device of torch; expected cpu"),
    "factors": (lambda: Start(lr_factors={"a": -1.0}), r"lr_factors\['a'\] = -1.0; expected a number of at least 0"),
    "density of nothing": (lambda: found(density=0.0), r"density = 0.0; expected a fraction above 0 and below 1"),
    "option of a search": (lambda: found(criterium="magnitude"), r"unknown option 'criterium'.*'criterion'"),
    "text for a list of names": (lambda: found(prunable="0.weight"), r"prunable = '0.weight'; expected a list"),
    "field of a search": (lambda: Search.for_density(0.5, alocation="erk"), r"Search: unknown field 'alocation'"),
    "checkpoint of a search": (lambda: found(runtime=Runtime(checkpoint=Checkpoint("c"))), r"none: a search is many"),  # type: ignore[arg-type]
    "two devices": (lambda: found(runtime=Runtime(), device="cuda"), r"device = 'cuda' and runtime.device = 'cpu'"),
    "one epoch": (
        lambda: ot.find_ticket(network(), DATA, recipe=ot.Recipe.sgd(epochs=1), density=0.5),
        r"rewind = 1ep leaves no step.*expected a moment before 1ep, such as rewind=0, or a recipe with more epochs",
    ),
    "generator": (lambda: Masks({"a": torch.ones(3) > 0}).permuted(0, within="layer"), r"generator = 0"),  # type: ignore[arg-type]
    "density of prune": (
        lambda: prune(Prunable(network()), ScoreContext(), criterion="magnitude", allocation="global", density="0.5"),  # type: ignore[arg-type]
        r"density = '0.5'; expected a number",
    ),
    "size of a batch": (lambda: evaluate(network(), DATA, batch_size=1.5), r"batch_size = 1.5"),  # type: ignore[arg-type]
    "criterion without parentheses": (lambda: criterion(network), r"without a name.*@criterion\(\"network\"\)"),  # type: ignore[arg-type]
    "misspelt field of a context": (lambda: ScoreContext().has("inital"), r"unknown field 'inital'.*'initial'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_the_remedy(mistake: str) -> None:
    make, told = MISTAKES[mistake]
    with pytest.raises(InputError, match=told):
        make()


def test_a_misspelt_field_of_a_context_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"ScoreContext: unknown field 'inital'.*did you mean 'initial'"):
        _ = ScoreContext().inital  # type: ignore[attr-defined]
    assert not hasattr(ScoreContext(), "inital")


def test_a_fact_that_is_a_choice_lists_its_words() -> None:
    with pytest.raises(TypeError, match="unknown at 'start'; expected one of end, init"):
        criterion("mine", at="start")


@pytest.mark.parametrize("gives", [None, 3, {"0.weight": None}, {"0.weight": 1.0}])
def test_an_addition_that_forgets_to_return_is_refused_by_name(gives: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (CRITERIA, RESCALINGS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    criterion("forgetful")(lambda *_: gives)
    with pytest.raises(InputError, match=r"criterion 'forgetful': .*(lack a `return`|a int|a float)"):
        found(criterion="forgetful")
    if isinstance(gives, dict):
        return
    RESCALINGS.register("forgetful")(lambda *_: gives)
    with pytest.raises(InputError, match=r"rescaling 'forgetful' gave (nothing|a int)"):
        rescale("forgetful", {}, Masks({}), RescalingContext("rewound"), optimizer="sgd")


def test_a_short_word_is_near_the_word_that_it_begins() -> None:
    assert nearest("lenet", ["resnet56", "lenet-300-100", "vgg19"]) == "lenet-300-100"
    assert nearest("LeNet-5", ["lenet-5", "resnet"]) == "lenet-5"


def test_callbacks_and_runtime_reach_every_training() -> None:
    log, rounds = Log(), Log()
    ticket = found(rounds=2, callbacks=[rounds], runtime=Runtime(threads=1))
    assert rounds.steps == [*range(1, 9), *range(1, 9)]
    ot.transfer(ticket, network(), DATA, recipe=RECIPE, callbacks=[log], runtime=Runtime(compact=False))
    assert log.steps == list(range(1, 9))
    assert ticket.masks == found(rounds=2).masks
