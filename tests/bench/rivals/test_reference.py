"""The alternatives: the reference loop and plain PyTorch train as oneticket does, and keep the masks."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.bench.rivals import plain, reference
from oneticket.bench.rivals.ours import our_batches, train_ours
from oneticket.bench.workload import LR, Workload
from oneticket.data import ImageBatches, Normalisation
from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.training import Runtime, train

Batch = tuple[Tensor, Tensor]


class Given:
    """A source whose every epoch is the next one of the given batches."""

    def __init__(self, batches: list[Batch]) -> None:
        self.first, self.batches = batches[0], iter(batches)
        self.samples, self.batch_size, self.steps_per_epoch = 8, 8, 1

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[Batch]:
        yield next(self.batches)

    def ordered(self) -> Iterator[Batch]:
        return iter([self.first])


def batches_of(workload: Workload, count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    shape = (8, *workload.shape)
    return [(torch.randn(shape, generator=generator), torch.arange(8) % 10) for _ in range(count)]


@pytest.mark.parametrize("density", [1.0, 0.2])
@pytest.mark.parametrize("model", ["resnet20", "vgg11", "lenet-300-100"])
def test_it_computes_the_same_training_as_ours(tiny: Workload, model: str, density: float) -> None:
    # Larger pictures and few steps: normalising over a few pixels would blow rounding up.
    workload = replace(tiny, model=model, density=density, shape=(3, 16, 16))
    masks, batches = workload.masks(), batches_of(workload, 5)
    theirs = reference.train(workload.network(), batches, 1, lr=LR, masks=dict(masks or {}))
    run = train(
        workload.network(), Given(batches), workload.recipe(5), masks=masks, runtime=Runtime(layout="channels-last")
    )
    ours = [record.train_loss for record in run.history]
    assert len(ours) == len(theirs) == 5
    assert [float(loss) for loss in theirs] == pytest.approx(ours, abs=1e-4)
    assert len(set(ours)) == 5


def test_plain_pytorch_computes_the_same_training(tiny: Workload) -> None:
    workload = replace(tiny, density=0.2)
    masks = workload.masks()
    assert masks is not None
    [(inputs, labels)] = batches_of(workload, 1)
    theirs, other = workload.network(), plain.masked(workload.network(), masks)
    reference.train(theirs, [(inputs, labels)] * 4, 1, lr=LR, masks=dict(masks))
    plain.train(other, inputs, labels, 4, lr=LR, batch_size=8)
    theirs.eval()
    other.eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name in masks:
                parameter *= masks[name]
        torch.testing.assert_close(other(inputs), theirs(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loop", ["reference", "plain"])
def test_no_forward_pass_sees_a_masked_weight(tiny: Workload, loop: str) -> None:
    workload = replace(tiny, density=0.2)
    masks, model, images, norm = workload.masks(), workload.network(), workload.images(), workload.normalisation()
    assert masks is not None
    seen: list[int] = []

    def look_inside(module: nn.Module, inputs: object) -> None:
        # From inside: a layer's own hook comes after the one by which torch computes its masked weight.
        places = {name: name.rpartition(".") for name in masks}
        weights = {n: getattr(model.get_submodule(module), last) for n, (module, _, last) in places.items()}
        seen.append(sum(int(weights[name][~mask].count_nonzero()) for name, mask in masks.items()))

    if loop == "plain":
        plain.masked(model, masks)
    model.get_submodule("head").register_forward_pre_hook(look_inside)
    if loop == "plain":
        plain.train(model, torch.randn(24, *workload.shape), images.labels, 2, lr=LR, batch_size=8)
    else:
        reference.train(model, reference.loader(images, norm, 8, augment=True), 2, lr=LR, masks=dict(masks))
    assert seen == [0] * 6


def test_ours_keeps_the_masks(tiny: Workload) -> None:
    workload = replace(tiny, density=0.2)
    masks, model = workload.masks(), workload.network()
    assert masks is not None
    train_ours(model, our_batches(workload), workload.recipe(2), masks=masks)
    state = model.state_dict()
    assert all(torch.equal(state[name] != 0, mask) for name, mask in masks.items())


def test_pictures_that_are_not_augmented_are_those_of_our_batches(tiny: Workload) -> None:
    for shape in ((3, 8, 8), (1, 8, 8)):
        workload = replace(tiny, shape=shape)
        images = workload.images()
        norm = Normalisation.of(images)
        dataset = reference.PictureDataset(images, norm, augment=False)
        [(ours, labels)] = ImageBatches(images, len(images), normalisation=norm).ordered()
        theirs = torch.stack([dataset[i][0] for i in range(len(dataset))])
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
        assert [dataset[i][1] for i in range(len(dataset))] == labels.tolist()


def test_augmented_pictures_are_windows_of_the_picture_with_a_border(tiny: Workload) -> None:
    images = tiny.images()
    dataset = reference.PictureDataset(images, Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3), augment=True)
    padded = F.pad(images.images[0].float() / 255, (4, 4, 4, 4))
    windows = {
        (top, left, flip): (padded.flip(2) if flip else padded)[:, top : top + 8, left : left + 8]
        for top in range(9)
        for left in range(9)
        for flip in (False, True)
    }
    torch.manual_seed(0)
    drawn = set()
    for _ in range(60):
        picture = dataset[0][0]
        drawn.update(place for place, window in windows.items() if torch.allclose(picture, window, atol=1e-6))
    assert len(drawn) > 40
    assert {flip for *_, flip in drawn} == {False, True}
    assert {top for top, *_ in drawn} == {left for _, left, _ in drawn} == set(range(9))


def test_the_loader_gives_each_picture_once_shuffled(tiny: Workload) -> None:
    images = tiny.images()
    batches = list(reference.loader(images, tiny.normalisation(), 8, augment=False))
    assert [len(labels) for _, labels in batches] == [8, 8, 8]
    order = torch.cat([labels for _, labels in batches])
    assert sorted(order.tolist()) == sorted(images.labels.tolist())
    assert order.tolist() != images.labels.tolist()


def test_global_pruning_takes_the_smallest_of_the_remaining(tiny: Workload) -> None:
    model = tiny.network()
    names = Prunable(model).names
    weights = {name: model.state_dict()[name] for name in names}
    masks = {name: torch.ones_like(weight) for name, weight in weights.items()}
    total = remaining = sum(weight.numel() for weight in weights.values())
    for _ in range(3):
        masks = reference.prune_globally(model, masks, 0.2)
        remaining -= round(0.2 * remaining)
    magnitudes = np.concatenate([weights[name].abs().numpy().ravel() for name in names])
    kept = np.concatenate([masks[name].numpy().ravel() for name in names]) == 1
    assert kept.sum() == remaining < 0.52 * total
    assert magnitudes[kept].min() > magnitudes[~kept].max()


def test_a_search_prunes_as_often_as_it_says(tiny: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.network()
    batches = reference.loader(tiny.images(), tiny.normalisation(), 8, augment=False)
    trained: list[tuple[int, float, Tensor]] = []
    real = reference.train

    def spied(net: nn.Module, data: object, epochs: int, **options: object) -> object:
        masks = options.get("masks") or {"all": torch.ones(1)}
        kept = Masks({name: mask == 1 for name, mask in masks.items()}).density  # type: ignore[attr-defined]
        trained.append((epochs, kept, net.state_dict()["stem.conv.weight"].clone()))
        return real(net, data, epochs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reference, "train", spied)
    reference.search(model, batches, Prunable(model).names, epochs=2, lr=LR, rounds=3, prune=0.5)
    assert [epochs for epochs, *_ in trained] == [2, 1, 1, 2]
    assert [density for _, density, _ in trained] == pytest.approx([1, 0.5, 0.25, 0.125], abs=1e-3)
    _, *rounds = [start for *_, start in trained]
    assert all(torch.equal(start, rounds[0]) for start in rounds)
    assert not torch.equal(rounds[0], tiny.network().state_dict()["stem.conv.weight"])


def test_without_pillow_the_extra_is_named(tiny: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "PIL", None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"needs Pillow.*pip install 'oneticket\[data\]'"):
        reference.loader(tiny.images(), tiny.normalisation(), 8, augment=False)
