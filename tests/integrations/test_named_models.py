"""``timm:…``, ``torchvision:…`` and ``transformers:…`` with the real libraries; skipped where one is missing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from oneticket.errors import InputError
from oneticket.models import ModelSpec, build, code_digest
from oneticket.prunable import Prunable, find_head

pytestmark = pytest.mark.slow


def imported(library: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The library; where torchvision is built for another torch, without what it registers for compilers."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    try:
        return importlib.import_module(library)
    except RuntimeError:
        plain = torch.library.register_fake

        def register(name: str, *given: Any, **named: Any) -> Callable[..., Any]:
            return (lambda f: f) if name.startswith("torchvision::") else plain(name, *given, **named)

        for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        monkeypatch.setattr(torch.library, "register_fake", register)
        return importlib.import_module(library)


@pytest.mark.parametrize(
    ("name", "options", "head"),
    [
        ("timm:vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}, "head"),
        ("timm:resnet18", {}, "fc"),
        ("torchvision:resnet18", {}, "fc"),
    ],
)
def test_networks_for_images(name: str, options: dict[str, Any], head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(name.partition(":")[0], monkeypatch)
    spec = ModelSpec(name=name, options=options)
    network = build(spec, input_shape=(3, 32, 32), classes=7, seed=0)
    again = build(spec, input_shape=(3, 32, 32), classes=7, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert find_head(network, inputs=torch.zeros(2, 3, 32, 32)) == head
    assert Prunable(network).total > 0.9 * sum(p.numel() for p in network.parameters())
    assert len(code_digest(spec) or "") == 64


def test_a_misspelt_name_lists_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    imported("timm", monkeypatch)
    with pytest.raises(InputError, match=r"unknown name 'vit_tiny_patch16_24'.*vit_tiny_patch16_224"):
        build(ModelSpec(name="timm:vit_tiny_patch16_24"), input_shape=(3, 32, 32), classes=7, seed=0)


def test_networks_of_transformers_from_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.ViTConfig(patch_size=4, **sizes).save_pretrained(tmp_path / "vit")
    transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
    ).save_pretrained(tmp_path / "gpt2")
    spec = ModelSpec(name="transformers:vit", options={"num_hidden_layers": 1})
    vision = build(spec, input_shape=(1, 8, 8), classes=7, seed=0, folder=tmp_path)
    assert find_head(vision, inputs=torch.zeros(2, 1, 8, 8)) == "classifier"
    assert not [name for name, _ in vision.named_parameters() if "layer.1." in name or "layers.1." in name]
    spec = ModelSpec(name="transformers:gpt2")
    words = build(spec, input_shape=(12,), classes=50, seed=0, tokens=True, folder=tmp_path)
    assert find_head(words, inputs=torch.zeros(2, 12, dtype=torch.int64)) == "lm_head"
    assert code_digest(spec, folder=tmp_path) != code_digest(ModelSpec(name="transformers:vit"), folder=tmp_path)
    with pytest.raises(InputError, match="unknown option 'n_layers'"):
        build(ModelSpec(name=spec.name, options={"n_layers": 1}), input_shape=(1, 8, 8), classes=7, seed=0,
              folder=tmp_path)  # fmt: skip
