"""A trained ticket as ONNX, run by onnxruntime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from oneticket.masks import Masks
from oneticket.sharing.exporting import export
from oneticket.ticket import Ticket

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_onnxruntime_computes_what_the_network_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    masks = Masks({"0.weight": torch.rand(4, 1, 3, 3) < 0.5})
    rest = {name: tensor for name, tensor in model.state_dict().items() if name != "0.weight"}
    ticket = Ticket(masks, {"0.weight": model[0].weight}, rest, "4")
    ticket.put_into(model, head="copied")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ticket.kept(optimizer):
        nn.functional.cross_entropy(model(torch.randn(16, 1, 8, 8)), torch.arange(16) % 5).backward()
        optimizer.step()
    done = export(ticket, tmp_path / "t.onnx", to="onnx", model=model, example=torch.randn(2, 1, 8, 8))
    assert done.error < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "t.onnx"), providers=["CPUExecutionProvider"])
    batch = torch.randn(9, 1, 8, 8)
    (outputs,) = session.run(None, {"inputs": batch.numpy()})
    with torch.no_grad():
        expected = model.eval()(batch)
    torch.testing.assert_close(torch.from_numpy(outputs), expected, rtol=1e-4, atol=1e-5)
    assert (torch.from_numpy(outputs).argmax(1) == expected.argmax(1)).all()
    weights: Any = sys.modules["onnx"].load(str(tmp_path / "t.onnx"))
    assert weights.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
