"""TicketCallback in Hugging Face's Trainer, with the real library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Trainer, TrainerCallback, TrainingArguments

from oneticket.errors import InputError
from oneticket.finding import find_ticket
from oneticket.fitting import Run
from oneticket.integrations.transformers import TicketCallback
from oneticket.ticket import Ticket

pytestmark = pytest.mark.slow


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def trainer(model: nn.Module, folder: Path, callback: TicketCallback, steps: int = 4, **options: Any) -> Any:
    data = [{"x": torch.randn(6, generator=torch.Generator().manual_seed(i)), "labels": i % 3} for i in range(32)]
    settings = {
        "max_steps": steps, "save_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.05, "report_to": [],
        "weight_decay": 0.1, "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no",
    }  # fmt: skip
    arguments = TrainingArguments(str(folder), **(settings | options))
    return Trainer(model, arguments, train_dataset=data, callbacks=[callback])


@pytest.mark.parametrize(
    "options",
    [{}, {"bf16": True, "gradient_accumulation_steps": 2, "max_grad_norm": 0.1}],
    ids=["plain", "bf16-accumulated-clipped"],
)
def test_masked_weights_stay_zero_and_are_saved_so(
    options: dict[str, Any], network: Any, ticket: Ticket, back: Any, tmp_path: Path
) -> None:
    model = network(1)
    ticket.put_into(model, model_head="fc")
    trainer(model, tmp_path, TicketCallback(ticket), **options).train()
    assert back(model.state_dict(), ticket) == 0
    for step in 2, 4:
        folder = tmp_path / f"checkpoint-{step}"
        assert back(saved(folder), ticket) == 0
        assert Ticket.load(folder / "ticket.safetensors") == ticket


def test_a_training_is_resumed_by_a_model_without_the_ticket(
    network: Any, ticket: Ticket, back: Any, tmp_path: Path
) -> None:
    first = network(1)
    ticket.put_into(first, model_head="fc")
    trainer(first, tmp_path, TicketCallback(ticket)).train()
    model = network(2)  # as in a new process: only the checkpoint carries the ticket
    again = trainer(model, tmp_path, TicketCallback(ticket), steps=6)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.state.global_step == 6
    assert back(model.state_dict(), ticket) == 0
    assert back(saved(tmp_path / "checkpoint-6"), ticket) == 0


def test_a_model_without_the_ticket_is_refused(network: Any, ticket: Ticket, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not carry this ticket"):
        trainer(network(2), tmp_path, TicketCallback(ticket)).train()


def test_an_average_made_before_is_masked_at_the_end(network: Any, ticket: Ticket, back: Any, tmp_path: Path) -> None:
    model = network(1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    ticket.put_into(model, model_head="fc")
    running = trainer(model, tmp_path, TicketCallback(ticket, averages=[average]))

    class Averaging(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            average.update_parameters(model)

    running.add_callback(Averaging())
    running.train()
    assert back(average.state_dict(), ticket, "module.") == 0


def test_a_search_is_trained_by_the_trainer(network: Any, tmp_path: Path) -> None:
    losses = []

    def fit(model: nn.Module, run: Run) -> float:
        trained = trainer(model, tmp_path / str(run.number), TicketCallback(run.ticket), steps=6)
        return float(trained.train().training_loss)

    found = find_ticket(
        network(1), fit=fit, density=0.25, rounds=2, rewind="2it", head="fc", on_round=lambda *told: losses.append(told)
    )
    assert found.masks.kept == 42
    assert [told[:2] for told in losses] == [(0, 2), (1, 2)]
