"""`kept` around a loop with Accelerate, and LoRA of PEFT merged into a model with a ticket, with the real libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

accelerate = pytest.importorskip("accelerate")

from oneticket.errors import InputError
from oneticket.integrations.accelerate import kept
from oneticket.ticket import Ticket

pytestmark = pytest.mark.slow


def test_masked_weights_stay_zero_also_after_a_state_is_loaded(
    network: Any, ticket: Ticket, back: Any, tmp_path: Path
) -> None:
    accelerate.state.AcceleratorState._reset_state(
        reset_partial_state=True
    )  # one a process, which other tests have made
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    model = network(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    with pytest.raises(InputError, match="has not prepared"), kept(ticket, accelerator):
        pass
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.save_state(str(tmp_path / "dense"))
    ticket.put_into(model, model_head="fc")
    with kept(ticket, accelerator):
        for step in range(8):
            if step == 4:
                accelerator.load_state(str(tmp_path / "dense"))
                assert back(accelerator.unwrap_model(model).state_dict(), ticket) == 0, "before any step"
            with accelerator.accumulate(model):
                x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
                accelerator.backward(model(x, torch.arange(4) % 3)["loss"])
                accelerator.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
    assert back(accelerator.unwrap_model(model).state_dict(), ticket) == 0
    accelerator.save_state(str(tmp_path / "kept"))
    accelerator.load_state(str(tmp_path / "kept"))
    assert back(accelerator.unwrap_model(model).state_dict(), ticket) == 0


def test_lora_merged_into_a_ticket_is_masked_once(network: Any, ticket: Ticket, back: Any) -> None:
    peft = pytest.importorskip("peft")
    model = network(1)
    ticket.put_into(model, model_head="fc")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["a", "b"]))
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        adapted(torch.randn(8, 6), torch.arange(8) % 3)["loss"].backward()
        optimizer.step()
    with pytest.raises(InputError, match=r"merge_and_unload"):
        ticket.apply_masks(model)
    merged = adapted.merge_and_unload()
    changed = back(merged.state_dict(), ticket)
    assert changed > 0, "the adapters filled nothing in"
    assert ticket.apply_masks(merged) == changed
    assert back(merged.state_dict(), ticket) == 0
