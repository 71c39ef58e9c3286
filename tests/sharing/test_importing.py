"""Masks that others wrote, as tickets."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from oneticket.errors import InputError
from oneticket.sharing.importing import MASKS, PRUNE, ZEROS, imported
from oneticket.sharing.states import read_state
from oneticket.ticket import Ticket


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(a=nn.Linear(6, 8), n=nn.BatchNorm1d(8), r=nn.ReLU(), fc=nn.Linear(8, 3)))


def pruned() -> tuple[nn.Module, Tensor]:
    """A network under torch's own pruning, and the mask."""
    model = network()
    prune.l1_unstructured(model.get_submodule("a"), "weight", amount=0.5)
    return model, dict(model.named_buffers())["a.weight_mask"].bool()


def check(ticket: Ticket, mask: Tensor, values: nn.Module) -> None:
    assert torch.equal(ticket.masks["a.weight"], mask)
    fresh = network(5)
    ticket.put_into(fresh, head="copied")
    for name, tensor in values.state_dict().items():
        expected = tensor * mask if name == "a.weight" else tensor
        assert torch.equal(fresh.state_dict()[name], expected), name
    assert ticket.head == "fc"


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "backbone."])
def test_masks_of_torchs_own_pruning(wrapper: str, tmp_path: Path) -> None:
    model, mask = pruned()
    state = {wrapper + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "p.pth")
    found, kind = imported(read_state(tmp_path / "p.pth"), network(1))
    assert kind == PRUNE
    check(found, mask, network())


def test_masks_alone_take_their_weights_from_another_file() -> None:
    _, mask = pruned()
    state = {"a.weight": mask.int()}
    found, kind = imported(state, network(1), weights=network().state_dict())
    assert kind == MASKS
    check(found, mask, network())
    with pytest.raises(InputError, match="holds masks and no weights; expected --weights"):
        imported(state, network(1))


def test_zeros_of_a_state_dict_are_masks_and_zero_biases_are_not() -> None:
    _, mask = pruned()
    plain = network()
    with torch.no_grad():
        plain.a.weight.mul_(mask)
        plain.a.bias.zero_()
    found, kind = imported(plain.state_dict(), network(1))
    assert kind == ZEROS
    check(found, mask, plain)
    assert list(found.masks) == ["a.weight"]


def test_a_masked_bias_is_zero_once() -> None:
    model, mask = pruned()
    prune.random_unstructured(model.get_submodule("a"), "bias", amount=0.5)
    found, _ = imported(model.state_dict(), network(1))
    assert torch.equal(found.rest["a.bias"], model.get_submodule("a").bias.detach())
    assert torch.equal(found.masks["a.weight"], mask)


def test_what_does_not_belong_to_the_network_is_named_with_the_nearest() -> None:
    model, _ = pruned()
    other = {name.replace("fc.", "fd."): tensor for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=r"2 names .* fd\.weight \(did you mean 'fc\.weight'\?\)"):
        imported(other, network())
    lacking = {name: tensor for name, tensor in model.state_dict().items() if name != "fc.bias"}
    with pytest.raises(InputError, match=r"values are missing for fc\.bias"):
        imported(lacking, network())
    with pytest.raises(InputError, match=r"fc\.weight: shape \(3, 8\) in the file, \(4, 8\) in the network"):
        imported(
            model.state_dict(),
            nn.Sequential(OrderedDict([*list(network().named_children())[:3], ("fc", nn.Linear(8, 4))])),
        )
    with pytest.raises(InputError, match="nothing is masked"):
        imported(network().state_dict(), network())


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(2), "x": Touch(str(tmp_path / "touched"))}, tmp_path / "evil.pth")
    torch.save(network(), tmp_path / "whole.pth")
    (tmp_path / "text.pth").write_text("no")
    for name in ("evil.pth", "whole.pth", "text.pth", "nothing.pth"):
        with pytest.raises(InputError, match="expected a state dict"):
            read_state(tmp_path / name)
    assert not (tmp_path / "touched").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list without tensors"):
        read_state(tmp_path / "list.pth")
