"""Networks of the real libraries as they are: found, moved, judged. Skipped where a library is missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import oneticket as ot
from oneticket.errors import InputError

pytestmark = pytest.mark.slow

RECIPE = ot.Recipe.adam(epochs=2, batch_size=16, lr=1e-3)
IMAGES, LABELS = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3
TOKENS = torch.randint(50, (32, 12), generator=torch.Generator().manual_seed(0))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def vision() -> tuple[Any, Any, dict[str, Any], str]:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **SIZES)
    data = {"pixel_values": IMAGES, "labels": LABELS}
    return transformers.ViTForImageClassification(config), data, {}, "classifier"


def language() -> tuple[Any, Any, dict[str, Any], str]:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=50, num_labels=3, **SIZES)
    data = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "labels": LABELS}
    return transformers.BertForSequenceClassification(config), data, {}, "classifier"


def decoder() -> tuple[Any, Any, dict[str, Any], str]:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config), {"input_ids": TOKENS}, {"loss": "next-token"}, "lm_head"


@pytest.mark.parametrize("make", [vision, language, decoder])
def test_a_ticket_of_transformers_is_found_and_moved_as_the_model_comes(make: Any) -> None:
    torch.manual_seed(0)
    model, data, options, head = make()
    ticket = ot.find_ticket(model, data, recipe=RECIPE, density=0.3, rounds=2, rewind=0, **options)
    assert ticket.head == head
    assert ticket.masks.kept == int(0.3 * ticket.masks.total + 0.5)
    assert not [n for n in ticket.masks if any(word in n for word in ("wte", "wpe", "word_", "position"))]
    moved = ot.transfer(ticket, model, data, recipe=RECIPE, test_set=data, head="keep", **options)
    assert moved.test_accuracy is not None
    parameters = dict(model.named_parameters())
    assert all(not parameters[name][~mask].any() for name, mask in ticket.masks.items())


def test_adapters_of_peft_and_what_they_freeze_are_left_alone() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model, data, _, _ = vision()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj", "query", "value"], r=2))
    data = (IMAGES, LABELS)
    with pytest.raises(InputError, match="are frozen or adapters"):
        ot.find_ticket(adapted, data, recipe=RECIPE, density=0.3, rounds=1)
