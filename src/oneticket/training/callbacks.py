"""`Callback`: it modifies or observes a training at fixed moments; `CallbackList` calls several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from oneticket.errors import InputError
from oneticket.training.former import in_present_form
from oneticket.training.watching import refuse_other_moments, watched

if TYPE_CHECKING:
    from oneticket.training.state import TrainState


class Callback:
    """Base class of callbacks, which modify or observe a training; this one does nothing.

    The loop calls, in this order: :meth:`on_train_start` once; for each step :meth:`before_forward`, :meth:`penalty`
    (its value is added to the loss), :meth:`after_backward` (before gradients are masked and clipped),
    :meth:`after_step` (weights are masked again by then) and :meth:`on_step_end`; at the end of each epoch
    :meth:`on_validation`, inside :meth:`evaluation_weights`, and :meth:`on_epoch_end`; and :meth:`on_train_end` once.
    From ``before_forward`` to ``after_step``, ``state.step`` is the current step, counted from 0; in ``on_step_end`` it
    is the number of steps taken. In ``on_epoch_end``, ``state.history`` already has the record of the epoch for
    callbacks that only observe, and not yet for those that modify.

    ``modifies`` says whether the callback changes weights, gradients, masks or the loss. A callback that only observes,
    such as a logger, sets it to False: it is called after those that modify, and leaves the fast paths on.

    A callback returns its memory between steps from :meth:`state_dict`, as tensors and plain values only, and takes it
    back in :meth:`load_state_dict`, after ``on_train_start``: a killed training continues bit for bit. The loop itself
    saves weights, masks and the optimiser's memory, and restores them before ``load_state_dict``.
    """

    modifies: ClassVar[bool] = True

    def on_train_start(self, state: TrainState) -> None:
        """The training starts; weights are masked."""

    def before_forward(self, state: TrainState) -> None:
        """The weights may be changed for the forward and backward pass of this step."""

    def penalty(self, state: TrainState) -> Tensor | None:
        """A scalar to add to the loss of this step, or None."""
        return None

    def after_backward(self, state: TrainState) -> None:
        """Gradients are computed, those of masked weights too."""

    def after_step(self, state: TrainState) -> None:
        """The optimiser has stepped."""

    def on_step_end(self, state: TrainState) -> None:
        """The step is counted: ``state.loss``, ``state.lr`` and ``state.step`` can be logged."""

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """A context with the weights that would be evaluated if training ended now."""
        return nullcontext()

    def on_validation(self, state: TrainState) -> None:
        """The epoch is over, and the network has its evaluation weights."""

    def on_epoch_end(self, state: TrainState) -> None:
        """The epoch is over, and the network has its training weights again."""

    def on_train_end(self, state: TrainState) -> None:
        """Training is over: make the evaluation weights, and the masks of the result, permanent."""

    def state_dict(self) -> dict[str, Any]:
        """The memory between steps: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the memory that :meth:`state_dict` returned."""


_MOMENTS = [name for name, value in vars(Callback).items() if callable(value) and not name.startswith("_")]


class CallbackList:
    """Calls, at each moment, only those callbacks that override its method.

    Callbacks that modify come first, in their order (in ``after_backward`` in reverse: the last replacement is undone
    first), then ``built_in`` ones, then those that only observe: first those with a memory, then ``saving``, which
    writes all memories as they are after the same step, then those without.

    Raises InputError for a callback with ``modifies = False`` that adds to the loss or swaps weights.
    """

    def __init__(
        self, callbacks: Sequence[Callback], built_in: Sequence[Callback] = (), saving: Sequence[Callback] = ()
    ) -> None:
        self._own = [_checked(in_present_form(callback)) for callback in callbacks]
        self._acting = [callback for callback in self._own if callback.modifies]
        self._remembering = [callback for callback in self._own if _does(callback, "state_dict")]
        observers = [callback for callback in self._own if not callback.modifies]
        before = [callback for callback in observers if callback in self._remembering]
        self._looking = [*built_in, *before, *saving, *(callback for callback in observers if callback not in before)]
        for callback in self._looking:
            for word in ("penalty", "evaluation_weights"):
                if _does(callback, word):
                    name = type(callback).__name__
                    raise InputError(f"the callback {name} has modifies = False, but a {word}", expected="True")
        self._before_forward, self._after_step = self._that("before_forward"), self._that("after_step")
        self._penalty, self._after_backward = self._that("penalty"), self._that("after_backward")[::-1]
        self._on_step_end, self._evaluation_weights = self._that("on_step_end"), self._that("evaluation_weights")

    def _that(self, word: str) -> list[Any]:
        """The methods ``word`` of all callbacks that override it."""
        every = [callback for callback in (*self._acting, *self._looking) if _does(callback, word)]
        return [self._call(callback, word) for callback in every]

    def _call(self, callback: Callback, word: str) -> Any:
        """The method ``word`` of a callback; it is watched if the user says that it only looks."""
        own = callback in self._own and not callback.modifies
        return watched(getattr(callback, word), callback, word) if own else getattr(callback, word)

    @property
    def modifies(self) -> bool:
        """Whether any callback may change weights, gradients or masks."""
        return any(_does(callback, moment) for callback in self._acting for moment in _MOMENTS)

    def on_train_start(self, state: TrainState) -> None:
        """Start all; a checkpoint that ``state`` finds is restored once those that modify have started."""
        for callback in self._acting:
            callback.on_train_start(state)
        saved = state.resume()
        for callback in self._looking:
            self._call(callback, "on_train_start")(state)
        if saved is not None:
            self.load_state_dict(saved)

    def before_forward(self, state: TrainState) -> None:
        for call in self._before_forward:
            call(state)

    def penalty(self, state: TrainState) -> Tensor | None:
        """The sum of all penalties; None if no callback gives one."""
        parts = [part for call in self._penalty if (part := call(state)) is not None]
        return sum(parts[1:], parts[0]) if parts else None

    def after_backward(self, state: TrainState) -> None:
        for call in self._after_backward:
            call(state)

    def after_step(self, state: TrainState) -> None:
        for call in self._after_step:
            call(state)

    def on_step_end(self, state: TrainState) -> None:
        for call in self._on_step_end:
            call(state)

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """The contexts of all callbacks, the last callback's innermost."""
        with ExitStack() as stack:
            for context in self._evaluation_weights:
                stack.enter_context(context())
            yield

    def on_validation(self, state: TrainState) -> None:
        for call in self._that("on_validation"):
            call(state)

    def on_epoch_end(self, state: TrainState) -> None:
        for call in self._that("on_epoch_end"):
            call(state)

    def on_train_end(self, state: TrainState) -> None:
        for call in self._that("on_train_end"):
            call(state)

    def state_dict(self) -> list[Any]:
        """Name and memory of each callback that has a memory, in their order."""
        return [[type(callback).__name__, callback.state_dict()] for callback in self._remembering]

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore the memory of the callbacks from the checkpoint ``saved``.

        Raises InputError if it was written with other callbacks.
        """
        if "companion" in saved:  # the old form, of one companion or several combined
            states = saved["companion"].get("companions", [saved["companion"]])
            callbacks = self._acting
            fits = len(states) == len(callbacks) or not (callbacks or any(states))
            found, expected = (f"{len(each)} that modify" for each in (states, callbacks))
        else:
            states, callbacks = [state for _, state in saved["callbacks"]], self._remembering
            names = [[name for name, _ in saved["callbacks"]], [type(callback).__name__ for callback in callbacks]]
            fits = names[0] == names[1]
            found, expected = (", ".join(each) or "without any" for each in names)
        if not fits:
            raise InputError(f"the checkpoint was written with other callbacks: {found}", expected=expected)
        for callback, state in zip(callbacks, states, strict=False):
            try:
                callback.load_state_dict(state)
            except KeyError as error:
                name = type(callback).__name__
                raise InputError(f"the checkpoint holds no {error} of the callback {name}") from None


def _checked(callback: Any) -> Callback:
    """``callback``; InputError unless it is an instance of Callback."""
    if isinstance(callback, Callback):
        refuse_other_moments(callback, _MOMENTS)
        return callback
    if isinstance(callback, type):
        raise InputError(f"the callback {callback.__name__} is a class", expected=f"an instance, {callback.__name__}()")
    name = getattr(callback, "__name__", type(callback).__name__)
    raise InputError(f"{name} is not a callback", expected="a Callback, or OnEpoch(function)")


def _does(callback: Callback, word: str) -> bool:
    return getattr(getattr(callback, word), "__func__", None) is not getattr(Callback, word)
