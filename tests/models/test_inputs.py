"""What a network takes: images, features or tokens; and what a network for another kind of input gets."""

import sys

import pytest
import torch

from oneticket.errors import InputError
from oneticket.models import ModelSpec, blank, build, check_size

WORDS = """
from torch import nn

def words(input_shape, classes):
    return nn.Sequential(nn.Embedding(classes, 4), nn.Linear(4, classes))

def bag(input_shape, classes):
    return nn.Sequential(nn.Embedding(classes, 4), nn.Flatten(), nn.Linear(4 * input_shape[0], classes))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own_words.py").write_text(WORDS)
    yield tmp_path
    sys.modules.pop("own_words", None)


def test_a_network_for_tokens_gives_logits_at_each_position(folder):
    spec = ModelSpec(name="own_words:words")
    network = build(spec, input_shape=(6,), classes=11, seed=0, tokens=True, folder=folder)
    assert network(torch.randint(11, (3, 6))).shape == (3, 6, 11)


def test_a_network_for_tokens_that_gives_one_answer_is_refused(folder):
    with pytest.raises(InputError) as caught:
        build(ModelSpec(name="own_words:bag"), input_shape=(6,), classes=11, seed=0, tokens=True, folder=folder)
    assert caught.value.what == "its output for a batch of 2 is (2, 11)"
    assert caught.value.expected.startswith("shape (2, 6, 11): one number for each token of the vocabulary")


@pytest.mark.parametrize(
    ("name", "shape", "tokens", "said"),
    [
        ("vgg11", (16,), True, "it takes images, and a sample of the data is a sequence of 16 tokens"),
        ("lenet-300-100", (16,), True, "it takes numbers, and a sample of the data is a sequence of 16 tokens"),
        ("resnet20", (12,), False, "it takes images, and a sample of the data is 12 numbers"),
    ],
)
@pytest.mark.parametrize("check", [build, check_size])
def test_another_kind_of_input_is_refused(name, shape, tokens, said, check):
    options = {"width": 0.1} if check is build else {"width": 5.0}
    seed = {"seed": 0} if check is build else {}
    with pytest.raises(InputError, match=said) as caught:
        check(ModelSpec(name=name, options=options), input_shape=shape, classes=10, tokens=tokens, **seed)
    assert "one of your own" in caught.value.expected


def test_features_pass_through_a_network_for_numbers():
    network = build(ModelSpec(name="lenet-300-100"), input_shape=(12,), classes=3, seed=0)
    assert network(torch.zeros(5, 12)).shape == (5, 3)


def test_a_blank_batch_has_the_type_of_its_kind():
    assert (blank((3, 8, 8), 2).shape, blank((3, 8, 8), 2).dtype) == ((2, 3, 8, 8), torch.float32)
    assert (blank((7,), tokens=True).shape, blank((7,), tokens=True).dtype) == ((1, 7), torch.int64)
