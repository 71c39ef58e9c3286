"""TicketCallback in Lightning's Trainer, with the real library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning.pytorch")

from oneticket.errors import InputError
from oneticket.integrations.lightning import TicketCallback
from oneticket.ticket import Ticket

pytestmark = pytest.mark.slow


class Module(lightning.LightningModule):
    def __init__(self, net: nn.Module, manual: bool = False) -> None:
        super().__init__()
        self.net, self.automatic_optimization = net, not manual

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss: Tensor = self.net(*batch)["loss"]
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


def fit(
    module: Module, folder: Path, callback: TicketCallback, epochs: int = 1, resume: Any = None, **options: Any
) -> Any:
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, callbacks=[callback],
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, torch.arange(32) % 3), batch_size=4), ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")
    return trainer


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_masked_weights_stay_zero_and_are_saved_so(
    manual: bool, network: Any, ticket: Ticket, back: Any, tmp_path: Path
) -> None:
    module = Module(network(1), manual)
    ticket.put_into(module.net, model_head="fc")
    options = {} if manual else {"precision": "bf16-mixed", "accumulate_grad_batches": 2, "gradient_clip_val": 0.1}
    fit(module, tmp_path, TicketCallback(ticket), **options)
    assert back(module.net.state_dict(), ticket) == 0
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert back(checkpoint["state_dict"], ticket, "net.") == 0
    masks = checkpoint["callbacks"]["TicketCallback"]["masks"]
    assert all(torch.equal(masks[name], mask) for name, mask in ticket.masks.items())


def test_a_fit_is_resumed_and_other_masks_are_refused(
    network: Any, ticket: Ticket, other_ticket: Ticket, back: Any, tmp_path: Path
) -> None:
    module = Module(network(1))
    ticket.put_into(module.net, model_head="fc")
    fit(module, tmp_path, TicketCallback(ticket))
    fresh = Module(network(2))  # as in a new process: only the checkpoint carries the ticket
    again = fit(fresh, tmp_path, TicketCallback(ticket), epochs=2, resume=tmp_path / "last.ckpt")
    assert again.global_step == 16
    assert back(fresh.net.state_dict(), ticket) == 0
    wrong = Module(network(3))
    with pytest.raises(InputError, match="trained with other masks"):
        fit(wrong, tmp_path, TicketCallback(other_ticket), epochs=3, resume=tmp_path / "last.ckpt")


def test_a_module_without_the_ticket_is_refused(network: Any, ticket: Ticket, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not carry this ticket"):
        fit(Module(network(2)), tmp_path, TicketCallback(ticket))
