"""Networks are called on whatever a batch holds, and their outputs found in whatever they return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneticket.calling import call, described, joined, outputs_on, size_of, tensor_of
from oneticket.errors import InputError

LOGITS, OTHER = torch.ones(2, 3), torch.zeros(2, 5)


@dataclass
class Output:
    """The form of a ModelOutput."""

    logits: Tensor
    loss: Tensor | None = None


class Sum(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first - second


@pytest.mark.parametrize(
    "result",
    [LOGITS, Output(LOGITS), {"logits": LOGITS, "loss": OTHER}, {"out": LOGITS}, (LOGITS, OTHER),
     [torch.tensor(1.0), LOGITS]],
)  # fmt: skip
def test_the_outputs_are_found_in_what_a_network_returns(result: Any) -> None:
    assert tensor_of(result) is LOGITS


@pytest.mark.parametrize("result", [None, 3, (), {"a": LOGITS, "b": OTHER}, Output("no"), (torch.tensor(1.0),)])
def test_a_result_without_outputs_is_refused(result: Any) -> None:
    with pytest.raises(InputError, match=r"the network returns a .*; expected one tensor, N × classes, or an output"):
        tensor_of(result)


def test_several_inputs_are_given_in_order_and_a_dict_by_keyword() -> None:
    assert torch.equal(call(Sum(), (LOGITS, LOGITS * 2)), -LOGITS)
    assert torch.equal(outputs_on(Sum(), {"second": LOGITS * 2, "first": LOGITS}), -LOGITS)


def test_batches_of_any_form_are_counted_described_and_joined() -> None:
    both = {"ids": torch.zeros(2, 4, dtype=torch.int64), "x": LOGITS}
    assert (size_of(LOGITS), size_of((OTHER, LOGITS)), size_of(both)) == (2, 2, 2)
    assert described(both) == "'ids' (torch.int64 of shape (2, 4)), 'x' (torch.float32 of shape (2, 3))"
    assert [part.shape for part in joined([both, both]).values()] == [(4, 4), (4, 3)]
