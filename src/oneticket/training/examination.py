"""Examination: whether a network can be trained, and evaluated, on its data, found out before the first step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import TensorDataset

from oneticket.calling import Inputs, call, described, each, tensor_of, tensors_of
from oneticket.data import BatchSource, ImageSet, TableSet, as_batches
from oneticket.errors import InputError
from oneticket.randomness import seeded
from oneticket.training.objectives import Objective
from oneticket.training.recipe import Recipe
from oneticket.training.targets import check_range, check_targets, check_unshifted

_OF_BATCHNORM = "Expected more than 1 value per channel"


class Examined(NamedTuple):
    """Batches to train on, and those of each set to evaluate on, by its name."""

    train_set: BatchSource
    evaluated: dict[str, BatchSource]


def examine(
    model: nn.Module,
    train_set: Any,
    recipe: Recipe,
    *,
    device: str = "cpu",
    objective: Objective | None = None,
    evaluated: Mapping[str, Any] = {},
) -> Examined:
    """The batches of all data of a training; what would stop it later, or make it meaningless, is refused.

    A copy of the network gets one batch of the training set in training mode, and one of each set to evaluate on in
    evaluation mode; ``model`` is not changed. A network that can't be copied, or that has hooks, is not tried.

    Parameters
    ----------
    model, train_set, recipe, device : as for :func:`oneticket.train`.
    objective : loss and metric; by default cross-entropy and accuracy.
    evaluated : name of an argument → the data that it holds, to be evaluated later; None for none.

    Raises
    ------
    InputError : weights without memory, without gradients or with sparse ones; data that can't be batches, are empty or
        not finite; a batch that the network fails on; targets that cross-entropy is not defined for; a last batch of
        one sample under BatchNorm.
    """
    check_network(model)
    objective = objective or Objective()
    data = _source(train_set, recipe.batch_size, "train_set", augmentation=recipe.augment, device=device)
    # For evaluation, too, images are normalised with the statistics of the training split.
    known, size = getattr(data, "normalisation", None), max(recipe.batch_size, 512)
    others: dict[str, BatchSource] = {}
    if objective.metric is None and any(given is not None for given in evaluated.values()):
        raise InputError("a loss of your own has no metric to evaluate", expected="metric=…, or no set to evaluate on")
    for where, given in evaluated.items():
        if isinstance(given, ImageSet) and known is None:
            raise InputError(f"{where} is an ImageSet, but train_set is not", expected="both of one kind")
        if given is not None:
            others[where] = _source(given, size, where, normalisation=known, device=device)
    trial, first = _copied(model), _first_batch(data)
    if trial is None or first is None:  # then the first step is the trial
        return Examined(data, others)
    trial.to(device)
    with seeded(0), torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
        inputs, targets = first
        _check_last_batch(trial.train(), data, each(lambda part: part[:1], inputs), targets[:1], objective)
        if objective.name is not None:
            _check_set(trial, train_set, inputs, targets, "train_set", objective, soft=True)
        trial.eval()
        for where, source in others.items():
            _check_set(trial, evaluated[where], *next(iter(source.ordered())), where, objective, soft=False)
    return Examined(data, others)


def _copied(model: nn.Module) -> nn.Module | None:
    """A copy that shares nothing with ``model``; None if it can't be made, or hooks could reach the model from it."""
    if any(hooks for m in model.modules() for name, hooks in vars(m).items() if name.endswith("_hooks")):
        return None
    try:
        copied = copy.deepcopy(model)
    except Exception:  # the user's code may raise anything
        return None
    parts = [{id(part) for part in (*m.modules(), *m.parameters(), *m.buffers())} for m in (model, copied)]
    return None if parts[0] & parts[1] else copied


def _first_batch(data: BatchSource) -> tuple[Inputs, Tensor] | None:
    try:
        return next(iter(data.ordered()), None)
    except NotImplementedError:  # a source that only trains
        return None


def _source(data: Any, size: int, where: str, **options: Any) -> BatchSource:
    parts = _pair(data)
    for inputs in tensors_of(parts[0]) if parts else ():
        if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
            raise InputError(f"inputs of {where} are not all finite", expected="numbers without NaN and infinity")
    try:
        found = as_batches(data, size, **options)
    except InputError as error:
        raise error.at(where) from None
    if not found.samples:
        raise InputError(f"{'the training set' if where == 'train_set' else where} is empty", expected="samples")
    return found


def _check_set(
    network: nn.Module, data: Any, inputs: Inputs, targets: Tensor, where: str, objective: Objective, *, soft: bool
) -> None:
    outputs = _outputs(network, inputs, where)
    if objective.name == "classification":
        check_targets(outputs, targets, where, soft=soft)
        labels = data.labels if isinstance(data, ImageSet | TableSet) else (_pair(data) or (None, None))[1]
        if isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point():
            classes = tensor_of(outputs).shape[1]
            check_range(labels, classes, where)  # all that can be seen at once, not only the first batch
    elif objective.name is not None:
        objective.check(tensor_of(outputs), targets, where)
    if objective.name == "next-token":
        check_unshifted(inputs, targets, where)


def check_network(model: nn.Module) -> None:
    """Refuse a network whose parameters cannot be trained; the message says what to do."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise InputError(f"'{name}' has no shape yet", where="model", expected="one batch through it first")
        if parameter.is_meta:
            expected = "model.to_empty(device='cpu'), and initial weights"
            raise InputError(f"'{name}' is on the meta device, without values", where="model", expected=expected)
        if parameter.is_inference():
            expected = "a network that is built outside torch.inference_mode()"
            raise InputError(f"'{name}' was made in inference mode", where="model", expected=expected)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise InputError(
                f"'{name}' has sparse gradients", where="model", expected=f"{type(module).__name__}(…, sparse=False)"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no parameter has requires_grad", where="model", expected="at least one to train")


def check_state(model: nn.Module) -> None:
    """Refuse a network that keeps more than tensors, of which no snapshot, checkpoint or ticket can be made."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            what = f"'{name}' in its state is a {type(value).__name__}"
            raise InputError(what, where="model", expected="tensors only: get_extra_state that returns a tensor")


def _pair(data: Any) -> tuple[Any, Any] | None:
    pair = data.tensors if isinstance(data, TensorDataset) else data
    return (pair[0], pair[1]) if isinstance(pair, tuple | list) and len(pair) == 2 else None


def _outputs(network: nn.Module, inputs: Inputs, where: str) -> Any:
    try:
        with torch.no_grad():
            return call(network, inputs)
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"the network fails on a batch of {described(inputs)}: {_first_line(error)}",
            where=where,
            expected=_remedy(network, inputs),
        ) from error


def _remedy(network: nn.Module, inputs: Inputs) -> str:
    if not isinstance(inputs, Tensor):
        return "inputs that the network takes"
    kinds: Iterator[torch.dtype] = (p.dtype for p in network.parameters() if p.is_floating_point())
    kind = next(kinds, inputs.dtype)
    return f"inputs.to({kind})" if kind != inputs.dtype else "inputs that the network takes"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _check_last_batch(
    network: nn.Module,
    data: BatchSource,
    inputs: Inputs,
    targets: Tensor,
    objective: Objective,
) -> None:
    """Refuse a batch of one sample where BatchNorm has no variance to divide by."""
    size, samples = data.batch_size, data.samples
    if samples % size != 1 and size != 1:
        return
    try:
        call(network, inputs) if objective.name is not None else objective.loss(network, inputs, targets)
    except ValueError as error:
        if _OF_BATCHNORM not in str(error):
            return  # another fault, which the first step will show
        fits = [n for n in (*range(size + 1, samples + 1), *range(size - 1, 1, -1)) if samples % n != 1]
        raise InputError(
            f"batch_size = {size}: the last batch of {samples} samples has one, and BatchNorm needs two",
            where="train_set",
            expected=f"another, such as batch_size = {fits[0]}" if fits else "more samples",
        ) from None
    except Exception:  # the user's code may raise anything: the first step will show it
        return
