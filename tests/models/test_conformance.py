"""What every registered network promises; a new one is taken up here by being registered."""

import copy
import pickle

import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.models import MODELS, ModelSpec, blank, build, complete
from oneticket.prunable import Prunable, find_head

IMAGES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 5, 9)]
SHAPES = {"images": IMAGES, "numbers": [*IMAGES, (5,)], "tokens": [(1,), (9,)]}
SMALL = {"images": (3, 8, 8), "numbers": (3, 8, 8), "tokens": (6,)}
NARROW = {"vit": {"width": 8, "heads": 2}, "gpt": {"width": 8, "heads": 2}}


@pytest.fixture(params=list(MODELS))
def spec(request):
    return ModelSpec(name=request.param, options=NARROW.get(request.param, {"width": 0.05}))


def takes(spec):
    return MODELS.entry(spec.name).facts.takes


def make(spec, shape=None, classes=7, seed=0):
    tokens = takes(spec) == "tokens"
    return build(spec, input_shape=shape or SMALL[takes(spec)], classes=classes, seed=seed, tokens=tokens)


def batch_for(spec, samples, seed, shape=None):
    """Random images, or random tokens."""
    batch = blank(shape or SMALL[takes(spec)], samples, tokens=takes(spec) == "tokens")
    generator = torch.Generator().manual_seed(seed)
    return batch.normal_(generator=generator) if batch.is_floating_point() else batch.random_(7, generator=generator)


def test_is_described(spec):
    entry = MODELS.entry(spec.name)
    assert entry.summary.endswith(".")
    assert entry.source


def test_learns_at_any_sensible_shape(spec):
    for shape in SHAPES[takes(spec)]:
        network = make(spec, shape)
        assert network.training
        output = network(batch_for(spec, 4, 0, shape))
        assert output.shape == ((4, *shape, 7) if takes(spec) == "tokens" else (4, 7))
        targets = torch.arange(output.numel() // 7) % 7
        nn.functional.cross_entropy(output.flatten(0, -2), targets).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        assert network.head.weight.grad.any()


def test_every_sample_has_its_own_output(spec):
    network = make(spec).eval()
    images = batch_for(spec, 3, 1)
    with torch.no_grad():
        together = network(images)
        assert torch.allclose(together[1:2], network(images[1:2]), atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-5)


def test_head_is_called_head_and_is_not_pruned(spec):
    network = make(spec)
    assert find_head(network) == find_head(network, 7) == "head"
    assert not [name for name in Prunable(network).names if name.startswith("head")]


def test_prunable_are_all_weights_of_convolutions_and_linear_layers_and_no_norm(spec):
    network = make(spec)
    weighted = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert set(Prunable(network).names) == weighted - {"head.weight"}


def test_same_seed_same_weights_whatever_the_global_state(spec):
    torch.manual_seed(1)
    first = make(spec, seed=5)
    torch.manual_seed(2)
    second = make(spec, seed=5)
    other = make(spec, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    for name, weight in Prunable(first, prune_head=True).weights():
        assert not torch.equal(weight, other.get_parameter(name))


def test_global_generator_is_not_moved(spec):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    make(spec)
    assert torch.equal(torch.get_rng_state(), before)


def test_normalisation_statistics_are_untouched_by_the_check(spec):
    for module in make(spec).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
            assert not module.running_mean.any()


def test_deepcopy_and_pickle_give_the_same_network(spec):
    network = make(spec).eval()
    images = batch_for(spec, 2, 2)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert list(twin.state_dict()) == list(network.state_dict())
        assert torch.equal(twin(images), network(images))


def test_completed_spec_builds_the_same_network(spec):
    full = complete(spec)
    assert full.options["width"] == spec.options["width"]
    assert complete(full) == full
    assert all(torch.equal(a, b) for a, b in zip(make(spec).parameters(), make(full).parameters(), strict=True))


@pytest.mark.parametrize("wrong", ["wide", 0, -1.0, True, None, float("nan"), float("inf")])
def test_width_must_be_a_positive_number(spec, wrong):
    with pytest.raises(InputError, match=f"^model '{spec.name}'"):
        make(ModelSpec(name=spec.name, options={"width": wrong}))
