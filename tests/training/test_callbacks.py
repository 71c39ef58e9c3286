"""Callbacks: in which order they are called, what they find again, and which of them may change a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oneticket.training
from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.randomness import seeded
from oneticket.training import Callback, CallbackList, Checkpoint, Observer, OnEpoch, Recipe, Runtime, TrainState, train
from oneticket.training.runtime import threads_of

DATA = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2
RECIPE = Recipe.sgd(epochs=3, batch_size=4)
ANY: Any = None


class Spoken(Callback):
    """Says what it is called for, and remembers a number."""

    def __init__(self, name: str, calls: list[str], penalty: float | None = None) -> None:
        self._name, self._calls, self._penalty, self.memory = name, calls, penalty, 0

    def _say(self, what: str) -> None:
        self._calls.append(f"{self._name} {what}")

    def on_train_start(self, state: TrainState) -> None:
        self._say("begins")

    def before_forward(self, state: TrainState) -> None:
        self._say("before forward")

    def after_backward(self, state: TrainState) -> None:
        self._say("after backward")

    def after_step(self, state: TrainState) -> None:
        self._say("after step")

    def on_step_end(self, state: TrainState) -> None:
        self._say("at step")

    def on_train_end(self, state: TrainState) -> None:
        self._say("finishes")

    def penalty(self, state: TrainState) -> Tensor | None:
        return None if self._penalty is None else torch.tensor(self._penalty)

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        self._say("in")
        yield
        self._say("out")

    def on_validation(self, state: TrainState) -> None:
        self._say("validates")

    def on_epoch_end(self, state: TrainState) -> None:
        self._say(f"epoch {len(state.history)}")

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.memory = saved["memory"]


class Looking(Observer):
    """Says at which moments it is called, and after how many steps."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def on_train_start(self, state: TrainState) -> None:
        self._calls.append("looks at the start")

    def on_step_end(self, state: TrainState) -> None:
        self._calls.append(f"looks at {state.step}")

    def on_epoch_end(self, state: TrainState) -> None:
        self._calls.append(f"looks at epoch {state.history[-1].epoch}")


def network() -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(nn.Linear(3, 60), nn.ReLU(), nn.Linear(60, 2))


def test_the_order_of_calls_in_a_training() -> None:
    calls: list[str] = []
    data = torch.randn(2, 3), torch.tensor([0, 1])
    callbacks = [Looking(calls), Spoken("a", calls), Spoken("b", calls)]
    train(nn.Linear(3, 2), data, Recipe.sgd(epochs=1), callbacks=callbacks)
    assert calls == [
        *("a begins", "b begins", "looks at the start", "a before forward", "b before forward"),
        *("b after backward", "a after backward", "a after step", "b after step"),
        *("a at step", "b at step", "looks at 1"),
        *("a in", "b in", "a validates", "b validates", "b out", "a out"),
        *("a epoch 0", "b epoch 0", "looks at epoch 1", "a finishes", "b finishes"),
    ]


@pytest.mark.parametrize(
    ("parts", "expected"), [([None, None], None), ([None, 2.0], 2.0), ([1.5, None, 2.0], 3.5), ([], None)]
)
def test_penalties_add_up(parts: list[float | None], expected: float | None) -> None:
    found = CallbackList([Spoken("x", [], part) for part in parts]).penalty(ANY)
    assert (None if found is None else float(found)) == expected


def test_each_finds_its_own_state() -> None:
    one, inner = CallbackList([Spoken(name, []) for name in "abc"]), [Spoken(name, []) for name in "abc"]
    saved = one.state_dict()
    saved[0][1]["memory"], saved[2][1]["memory"] = 4, 7
    CallbackList(inner).load_state_dict({"callbacks": saved})
    assert [callback.memory for callback in inner] == [4, 0, 7]


def test_only_what_a_callback_overrides_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of two callbacks and all built-in ones, whatever would go to `Callback` itself."""
    steps: list[int] = []

    class Careful(Callback):
        def after_step(self, state: TrainState) -> None:
            steps.append(state.step)

    def refuse(*_: object) -> None:
        raise AssertionError("called")

    for word in (
        *("before_forward", "penalty", "after_backward", "after_step", "on_step_end", "evaluation_weights"),
        *("on_validation", "on_epoch_end", "on_train_end", "state_dict"),
    ):
        monkeypatch.setattr(Callback, word, refuse)
    runtime = Runtime(checkpoint=Checkpoint(tmp_path / "training.pt", every=0))
    train(network(), DATA, RECIPE, callbacks=[Callback(), Careful()], validation=DATA, runtime=runtime)
    assert steps == list(range(9))


@pytest.mark.parametrize("word", ["penalty", "evaluation_weights"])
def test_what_only_looks_can_change_neither_loss_nor_weights(word: str) -> None:
    kind = type("Meddling", (Observer,), {word: lambda *_: None})
    with pytest.raises(InputError, match=f"Meddling has modifies = False, but a {word}"):
        CallbackList([kind()])


def test_a_class_or_a_function_is_not_a_callback() -> None:
    with pytest.raises(InputError, match=r"Looking is a class; expected an instance, Looking\(\)"):
        train(network(), DATA, RECIPE, callbacks=[Looking])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"kill is not a callback; expected a Callback, or OnEpoch\(function\)"):
        train(network(), DATA, RECIPE, callbacks=[kill])  # type: ignore[list-item]


# -- looking and the compact network ----------------------------------------------------------------------------------
class Seen(Observer):
    """Keeps what it may look at."""

    def on_train_start(self, state: TrainState) -> None:
        self.steps: list[int] = []

    def on_step_end(self, state: TrainState) -> None:
        self.steps.append(sum(parameter.numel() for parameter in state.network.parameters()))
        self.model, self.masks = state.model, state.masks
        self.weights = {name: weight.detach().clone() for name, weight in state.weights().items()}
        self.loss = float(state.loss)


def test_looking_leaves_the_compact_network_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An observer sees the whole network, up to date, though a smaller one is trained; and changes nothing."""
    monkeypatch.setattr("oneticket.training.compact.channels.WORTH", 0.0)
    masks = Masks({"0.weight": torch.arange(180).view(60, 3) < 6, "2.weight": torch.arange(120).view(2, 60) % 60 < 2})
    alone, watched, seen = network(), network(), Seen()
    train(alone, DATA, RECIPE, masks=masks)
    train(watched, DATA, RECIPE, masks=masks, callbacks=[seen])
    assert max(seen.steps) < sum(parameter.numel() for parameter in watched.parameters()), "a smaller one was trained"
    assert seen.model is watched
    assert seen.masks == masks
    assert all(torch.equal(one, two) for one, two in zip(alone.parameters(), watched.parameters(), strict=True))
    assert all(torch.equal(value, watched.get_parameter(name)) for name, value in seen.weights.items())
    assert seen.loss > 0

    class Acting(Callback):
        def after_step(self, state: TrainState) -> None:
            sizes.append(sum(parameter.numel() for parameter in state.network.parameters()))

    sizes: list[int] = []
    train(network(), DATA, RECIPE, masks=masks, callbacks=[Acting()])
    assert set(sizes) == {sum(parameter.numel() for parameter in network().parameters())}


# -- checkpoints ------------------------------------------------------------------------------------------------------
class Killed(Exception):
    """Ends a training."""


def kill(_: object) -> None:
    raise Killed


def killed(path: Path, *callbacks: Any) -> None:
    with pytest.raises(Killed):
        train(
            network(), DATA, RECIPE, callbacks=[*callbacks, OnEpoch(kill)],
            runtime=Runtime(checkpoint=Checkpoint(path, every=0)),
        )  # fmt: skip


def test_a_checkpoint_of_other_callbacks_is_refused_and_one_that_only_looks_may_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    killed(path, Spoken("a", []))
    runtime = Runtime(checkpoint=Checkpoint(path))
    with pytest.raises(InputError, match="written with other callbacks: Spoken; expected without any"):
        train(network(), DATA, RECIPE, runtime=runtime)
    assert train(network(), DATA, RECIPE, callbacks=[Looking([]), Spoken("a", [])], runtime=runtime).resumed_at == 3


def test_a_checkpoint_of_the_old_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    killed(path, Spoken("a", []), Spoken("b", []))
    saved = torch.load(path, weights_only=True)
    del saved["callbacks"]
    torch.save(saved | {"companion": {"companions": [{"memory": 3}, {"memory": 5}]}}, path)
    callbacks = [Spoken("a", []), Spoken("b", [])]
    train(network(), DATA, RECIPE, callbacks=callbacks, runtime=Runtime(checkpoint=Checkpoint(path)))
    assert [callback.memory for callback in callbacks] == [3, 5]


@pytest.mark.parametrize(
    ("companion", "callbacks", "found"),
    [
        ({"memory": 3}, 0, "1 that modify; expected 0"),
        ({"companions": [{"memory": 3}, {"memory": 5}]}, 1, "2 that modify; expected 1"),
        ({"memory": 3}, 2, "1 that modify; expected 2"),
        ({}, 1, "holds no 'memory' of the callback Spoken"),
    ],
)
def test_a_checkpoint_of_the_old_form_with_other_callbacks_is_refused(
    tmp_path: Path, companion: dict[str, Any], callbacks: int, found: str
) -> None:
    path = tmp_path / "training.pt"
    killed(path, Spoken("a", []))
    saved = torch.load(path, weights_only=True)
    del saved["callbacks"]
    torch.save(saved | {"companion": companion}, path)
    given = [Spoken(name, []) for name in "abc"[:callbacks]]
    with pytest.raises(InputError, match=found):
        train(network(), DATA, RECIPE, callbacks=given, runtime=Runtime(checkpoint=Checkpoint(path)))


# -- old names --------------------------------------------------------------------------------------------------------
class Decay(Callback):
    """Shrinks the masked parameters after each step, and remembers how often."""

    count = 0

    def after_step(self, state: TrainState) -> None:
        with torch.no_grad():
            for weight in state.weights().values():
                weight.mul_(0.9)
        self.count += 1

    def penalty(self, state: TrainState) -> Tensor:
        return sum((w.square().sum() for w in state.weights().values()), torch.zeros(())) * (0.01 * (state.step + 1))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.count = saved["count"]


def test_a_companion_and_the_old_keywords_still_work_and_warn(tmp_path: Path) -> None:
    masks = Masks({"0.weight": torch.arange(180).view(60, 3) % 2 == 0})
    with pytest.warns(DeprecationWarning, match="Companion"):
        companion_class: Any = oneticket.training.Companion

    def begin(self: Any, course: Any) -> None:
        self.course, self.count = course, 0

    def after_step(self: Any, step: int) -> None:
        with torch.no_grad():
            for weight in self.course.weights().values():
                weight.mul_(0.9)
        self.count += 1

    def penalty(self: Any) -> Tensor:
        weights, step = self.course.weights().values(), self.count + self.course.first
        return sum((weight.square().sum() for weight in weights), torch.zeros(())) * (0.01 * (step + 1))

    def resume(self: Any, state: dict[str, Any]) -> None:
        self.count = state["count"]

    words = {"begin": begin, "after_step": after_step, "penalty": penalty, "resume": resume}
    with pytest.warns(DeprecationWarning, match=r"Old\(Companion\) is now oneticket\.training\.Callback"):
        old = type("Old", (companion_class,), words | {"state": lambda self: {"count": self.count}})
    new, former = network(), network()
    path = tmp_path / "training.pt"
    expected = train(new, DATA, RECIPE, masks=masks, callbacks=[Decay()])
    options: Any = {"companion": old(), "checkpoint": Checkpoint(path, every=0), "on_epoch": kill, "compact": False}
    with pytest.warns(DeprecationWarning, match=r"train\(companion=…\) is now callbacks"), pytest.raises(Killed):
        train(network(), DATA, RECIPE, masks=masks, **options)
    again: Any = {"companion": old(), "checkpoint": Checkpoint(path), "channels_last": False, "start": 0}
    with pytest.warns(DeprecationWarning, match=r"train\(start=0\) is now start=Start"):
        result = train(former, DATA, RECIPE, masks=masks, **again)
    assert result.resumed_at == 3
    assert result.history == expected.history
    assert all(torch.equal(one, two) for one, two in zip(new.parameters(), former.parameters(), strict=True))


def test_a_companion_is_called_at_the_moments_that_it_knew() -> None:
    calls: list[str] = []

    @contextmanager
    def judged(_: object) -> Iterator[None]:
        calls.append("in")
        yield
        calls.append("out")

    def saying(what: str) -> Any:
        return lambda _, step: calls.append(f"{what} {step}")

    def begin(_: object, course: Any) -> None:
        calls.append(f"begin {course.first} {course.steps} {course.per_epoch}")

    words = {word: saying(word) for word in ("before_forward", "after_backward", "after_step")}
    rest: dict[str, Any] = {"begin": begin, "judged": judged, "finish": lambda _: calls.append("finish")}
    with pytest.warns(DeprecationWarning, match="Companion"):
        kind: Any = type("Old", (oneticket.training.Companion,), words | rest)
    data = torch.randn(2, 3), torch.tensor([0, 1])
    train(nn.Linear(3, 2), data, Recipe.sgd(epochs=2, batch_size=2), callbacks=[kind()])
    steps = [[f"{word} {step}" for word in words] for step in range(2)]
    assert calls == ["begin 0 2 1", *steps[0], "in", "out", *steps[1], "in", "out", "finish"]


def test_threads_are_those_asked_for_while_it_trains() -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    look = OnEpoch(lambda _: seen.append(torch.get_num_threads()))
    train(network(), DATA, RECIPE, callbacks=[look], runtime=Runtime(threads=before + 1))
    assert seen == [before + 1] * 3
    with threads_of(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
