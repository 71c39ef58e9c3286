"""Targets: those that a named loss is not defined for are refused, with what to give instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from oneticket.calling import tensor_of
from oneticket.errors import InputError

_TOLERANCE = 0.01  # of a sum of class probabilities: a mixture in bfloat16 meets it too
_IGNORED = -100


def check_targets(outputs: Any, targets: Tensor, where: str, *, soft: bool = True) -> None:
    """Refuse targets that cross-entropy is not defined for, given the outputs of the network.

    Parameters
    ----------
    outputs : what the network returned; logits N × classes are expected.
    targets : int64 [N], or class probabilities N × classes if they may be ``soft``.
    where : the place of the data in errors.
    """
    try:
        outputs = tensor_of(outputs)
    except InputError as error:
        raise error.at(where) from None
    if outputs.dim() < 2 or len(outputs) != len(targets) or (not soft and outputs.dim() != 2):
        found = f"the network's output for {len(targets)} samples has the shape {tuple(outputs.shape)}"
        raise InputError(found, where=where, expected=f"N × classes{_of_tokens(outputs, targets)}")
    if outputs.shape[1] == 1:
        expected = "an output for each class, loss='regression' or 'multi-label', or a loss of your own"
        raise InputError("the cross-entropy of one output is always 0", where=where, expected=expected)
    if targets.is_floating_point() and targets.shape == outputs.shape and soft:
        if bool((targets < 0).any()) or bool(((targets.float().sum(1) - 1).abs() > _TOLERANCE).any()):
            raise InputError(
                "targets are not probabilities of classes",
                where=where,
                expected="rows that sum to 1, or a loss",
            )
        return
    if hint := _of_tokens(outputs, targets):
        found = f"the network's output has the shape {tuple(outputs.shape)}, the targets {tuple(targets.shape)}"
        raise InputError(found, where=where, expected=f"N × classes{hint}")
    numbers = targets.dtype in (torch.int64, torch.uint8)
    if not numbers or targets.shape != (len(outputs), *outputs.shape[2:]):
        found = f"targets are {targets.dtype} of shape {tuple(targets.shape)}"
        expected = f"class numbers, torch.int64 of shape {(len(outputs), *outputs.shape[2:])}, or a loss of your own"
        raise InputError(found, where=where, expected=expected)
    if outputs.dim() == 2:
        check_range(targets, outputs.shape[1], where)


def _of_tokens(outputs: Tensor, targets: Tensor) -> str:
    tokens = outputs.dim() == 3 and outputs.shape[:2] == targets.shape != (len(outputs), outputs.shape[2])
    return ", or loss='next-token' for tokens" if tokens else ""


def check_range(labels: Tensor, classes: int, where: str) -> None:
    """Refuse class numbers outside the outputs of the network."""
    least, most = (int(end) for end in torch.aminmax(labels))
    if least < 0 or most >= classes:
        start = " (subtract 1)" if (least, most) == (1, classes) else ""
        found = f"labels go from {least} to {most}, and the network has {classes} outputs"
        raise InputError(found, where=where, expected=f"labels from 0 to {classes - 1}{start}")


def check_labels(outputs: Tensor, targets: Tensor, where: str) -> None:
    """Refuse targets that are not numbers between 0 and 1 in the shape of the outputs."""
    _check_shape(outputs, targets, where)
    if bool((targets < 0).any()) or bool((targets > 1).any()):
        found = f"targets go from {float(targets.min()):g} to {float(targets.max()):g}"
        raise InputError(found, where=where, expected="0 or 1 for each label")


def check_numbers(outputs: Tensor, targets: Tensor, where: str) -> None:
    """Refuse targets that are not finite floating-point numbers in the shape of the outputs."""
    if not targets.is_floating_point():
        expected = "floating-point numbers, targets.float(), or loss='classification'"
        raise InputError(f"targets of a regression are {targets.dtype}", where=where, expected=expected)
    _check_shape(outputs, targets, where)
    if not bool(targets.isfinite().all()):
        raise InputError("targets are not all finite", where=where, expected="numbers without NaN and infinity")


def _check_shape(outputs: Tensor, targets: Tensor, where: str) -> None:
    # One output for each sample may stand with or without a dimension of its own; nothing else is stretched.
    sole = (len(targets), 1)
    alike = outputs.shape == targets.shape or {(*part.shape, 1)[:2] for part in (outputs, targets)} == {sole}
    if not alike or outputs.numel() != targets.numel():
        found = f"targets have the shape {tuple(targets.shape)}, the network's outputs {tuple(outputs.shape)}"
        raise InputError(found, where=where, expected="equal shapes")


def check_tokens(outputs: Tensor, targets: Tensor, where: str) -> None:
    """Refuse targets that are not the tokens at the N × T places of the outputs, or -100."""
    if outputs.dim() != 3 or outputs.shape[:2] != targets.shape:
        found = f"targets have the shape {tuple(targets.shape)}, the network's outputs {tuple(outputs.shape)}"
        raise InputError(found, where=where, expected="N × T tokens and N × T × vocabulary outputs")
    if targets.dtype != torch.int64:
        raise InputError(f"targets are {targets.dtype}", where=where, expected="tokens, torch.int64")
    if targets.shape[1] < 2:
        raise InputError("windows of one token", where=where, expected="two or more: the last has no token after it")
    counted = targets[targets != _IGNORED]
    if counted.numel():
        check_range(counted, outputs.shape[2], where)


def check_unshifted(inputs: Any, targets: Tensor, where: str) -> None:
    """Refuse next tokens as the targets of ``next-token``, which finds the next tokens itself."""
    if not (isinstance(inputs, Tensor) and inputs.shape == targets.shape and inputs.dim() == 2 and inputs.shape[1] > 2):
        return
    if torch.equal(inputs[:, 1:], targets[:, :-1]) and not torch.equal(inputs, targets):
        raise InputError(
            "targets are shifted by a place already", where=where, expected="the tokens themselves, (tokens, tokens)"
        )
