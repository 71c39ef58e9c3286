"""Pre-training on a source: by self-made labels, by reconstruction, or layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.data import BatchSource
from oneticket.errors import InputError, NonFiniteLoss
from oneticket.methods.base import PretrainingTask, pretraining
from oneticket.prunable import Prunable
from oneticket.randomness import Streams, seeded
from oneticket.training import EpochRecord, Loss, OnEpoch, Recipe, Training, train
from oneticket.training.evaluation import evaluating
from oneticket.training.kernels import Kernels

MASKED = 0.25  # ν, the fraction of an input that masking noise sets to 0; Vincent et al. 2010 try 0.1, 0.25 and 0.4
HIDDEN = 512  # units of the hidden layer between features and reconstructed pixels


@pretraining("rotation", source="Gidaris et al. 2018", takes="images")
def rotation(task: PretrainingTask) -> Training:
    """Which of four rotations an image has: every image of a batch in all four, so four samples for each image."""
    return _with_other_head(task, 4, _Rotated(task.train_set), None)


@pretraining("autoencoder", source="Hinton & Salakhutdinov 2006; Bengio et al. 2007")
def autoencoder(task: PretrainingTask) -> Training:
    """The features before the head reconstruct the input through one hidden layer of 512 units: mean squared error.

    All layers learn at once, by gradient descent from W_0; the papers begin with layers that were trained one by one.
    """
    pixels = _example(task)[0].numel()
    return _with_other_head(task, pixels, task.train_set, _reconstruction)


@pretraining("denoising", source="Vincent et al. 2010")
def denoising(task: PretrainingTask) -> Training:
    """As ``autoencoder``, from inputs of which a quarter of the values are set to 0 (masking noise).

    ν = 0.25: of the d values of an input, ⌊νd⌉ are set to 0, drawn anew for each input and epoch; 0 is the mean of the
    training data after normalisation. The target is the clean input, and the error is that of all d values. All layers
    learn at once; the paper stacks layers that were trained one by one.
    """
    pixels = _example(task)[0].numel()
    return _with_other_head(task, pixels, _Masked(task.train_set, task.seed), _restoration)


@pretraining("layer-wise", source="Bengio et al. 2007", parts=True)
def layer_wise(task: PretrainingTask) -> Training:
    """One layer after the other: each learns to reconstruct its input from its rectified output, the rest is frozen.

    The recipe's epochs are divided over the layers, at least one each; the first layers get the remainder. Each layer
    has the whole schedule of the recipe, warm-up included, at the same fractions of its own epochs. The decoder of a
    layer is linear, of the transposed shape, and discarded afterwards. The code is standardised over the batch,
    and the squared error is divided by the power of the reconstructed input. Normalisation parameters and statistics
    stay those of W_0. A last batch that gives a unit only one value teaches nothing.
    """
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in Prunable(task.model, head=task.head).names))
    whole, rest = divmod(task.recipe.epochs, len(layers))
    parts: list[Training] = []
    for number, name in enumerate(layers):
        epochs = max(1, whole + (number < rest))
        stage = _Stage(task.model, name, _example(task), Streams(task.seed).seed("head", "layer-wise", name))
        with _only(task.model, stage.layer):
            parts.append(_train(task, stage, task.train_set, stage.loss, part=name, epochs=epochs, before=parts))
    return Training(
        history=[record for part in parts for record in part.history],
        snapshots={},
        steps=sum(part.steps for part in parts),
        samples=sum(part.samples for part in parts),
        seconds=sum(part.seconds for part in parts),
        resumed_at=parts[0].resumed_at,
        kernels=_kernels_of_all(dict(zip(layers, parts, strict=True))),
    )


def _kernels_of_all(parts: Mapping[str, Training]) -> Kernels:
    """The kernels of the trainings of all parts as one; ``PART/layer`` is a layer of a part."""
    kernels = {part: training.kernels for part, training in parts.items()}
    plain = {f"{part}/{name}": fault for part, known in kernels.items() for name, fault in known.plain.items()}
    laid_out = any(known.layout == "channels-last" for known in kernels.values())
    unchecked = next((f"{part}: {known.unchecked}" for part, known in kernels.items() if known.unchecked), None)
    return Kernels("channels-last" if laid_out else "contiguous", plain, unchecked)


# -- with a temporary head ----------------------------------------------------------------------------------------
def _with_other_head(task: PretrainingTask, outputs: int, batches: BatchSource, loss: Loss | None) -> Training:
    """Train with a head for the task in place of the classifier, which is restored unchanged."""
    parent_name, _, own = task.head.rpartition(".")
    parent, head = task.model.get_submodule(parent_name), task.model.get_submodule(task.head)
    if not isinstance(head, nn.Linear):
        raise InputError(
            f"the head is a {type(head).__name__}", where="pre-training", expected="a linear layer on a feature vector"
        )
    with seeded(Streams(task.seed).seed("head", "pre-training")), torch.device("cpu"):
        substitute: nn.Module = nn.Linear(head.in_features, outputs)
        if loss is not None:
            substitute = nn.Sequential(nn.Linear(head.in_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))
    setattr(parent, own, substitute.to(task.runtime.device))
    try:
        return _train(task, task.model, batches, loss, part="pre-training")
    finally:
        setattr(parent, own, head.to(task.runtime.device))


def _reconstruction(model: nn.Module, inputs: Tensor, _: Tensor) -> Tensor:
    return F.mse_loss(model(inputs).float(), inputs.flatten(1))


def _restoration(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(model(inputs).float(), targets.flatten(1))


class _Masked:
    """A source of batches of inputs under masking noise; their targets are the inputs without it."""

    def __init__(self, source: BatchSource, seed: int) -> None:
        self._source, self._streams = source, Streams(seed)
        self.samples, self.batch_size = source.samples, source.batch_size
        self.steps_per_epoch = source.steps_per_epoch
        self.normalisation = getattr(source, "normalisation", None)

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = augmentation.initial_seed()  # another one in each epoch, and the same one in a resumed epoch
        return self._noisy(self._source.epoch(order, augmentation), epoch)

    def ordered(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._noisy(self._source.ordered(), 0)

    def _noisy(self, batches: Iterator[tuple[Tensor, Tensor]], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (clean, _) in enumerate(batches):
            yield masked_inputs(clean, MASKED, self._streams.generator("noise", "masking", epoch, number)), clean


def masked_inputs(inputs: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """``inputs`` (N, …) with ⌊νd⌉ of the d values of each set to 0, drawn for each by itself; ν = ``fraction``.

    ``generator`` is on the CPU, so that all devices mask the same values.

    >>> (masked_inputs(torch.ones(2, 8), 0.25, torch.Generator().manual_seed(0)) == 0).sum(1)
    tensor([2, 2])
    """
    rows = inputs.flatten(1)
    chances = torch.rand(rows.shape, generator=generator)
    gone = chances.topk(math.floor(fraction * rows.shape[1] + 0.5), dim=1).indices
    return rows.scatter(1, gone.to(rows.device), 0).view(inputs.shape)


class _Rotated:
    """A source of batches with every image in its four rotations, and the rotation as the target."""

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self.samples, self.batch_size = 4 * source.samples, 4 * source.batch_size
        self.steps_per_epoch = source.steps_per_epoch
        self.normalisation = getattr(source, "normalisation", None)

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        return map(_rotations, self._source.epoch(order, augmentation))

    def ordered(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(_rotations, self._source.ordered())


def _rotations(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    images, _ = batch
    if images.dim() != 4 or images.shape[2] != images.shape[3]:
        raise InputError(
            f"inputs of the shape {tuple(images.shape[1:])} cannot be rotated",
            where="pre-training 'rotation'",
            expected="square images; set size under [data]",
        )
    turned = [torch.rot90(images, quarter, dims=(2, 3)) for quarter in range(4)]
    return torch.cat(turned), torch.arange(4, device=images.device).repeat_interleave(len(images))


# -- layer by layer -----------------------------------------------------------------------------------------------
class _Reached(Exception):
    """The layer has been computed; the rest of the forward pass is not needed."""


class _Stage(nn.Module):
    """One layer of a network with a decoder for its output; the network itself is not a registered submodule."""

    def __init__(self, model: nn.Module, name: str, example: Tensor, seed: int) -> None:
        super().__init__()
        self.layer = model.get_submodule(name)
        self._whole = [model]
        with evaluating(model), torch.no_grad():  # statistics need more than one image, and must not change
            seen, _ = self._through(example[:1])
        with seeded(seed), torch.device("cpu"):
            self.decoder = _decoder(self.layer, seen.shape)
            nn.init.normal_(self.decoder.weight)
        # The number of codes that are summed into one reconstructed value.
        self.spread = math.sqrt(self.decoder.weight.numel() / seen.shape[1] / math.prod(_stride(self.layer)))
        self.to(example.device)

    def _through(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Input and output of the layer."""
        caught: list[Tensor] = []

        def catch(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            caught.extend((given[0].detach(), output))
            raise _Reached

        handle = self.layer.register_forward_hook(catch)
        try:
            self._whole[0](inputs)
        except _Reached:
            return caught[0], caught[1]
        finally:
            handle.remove()
        raise InputError(f"the layer {self.layer} is not used in the forward pass", where="pre-training 'layer-wise'")

    @staticmethod
    def loss(stage: nn.Module, inputs: Tensor, _: Tensor) -> Tensor:
        """The loss of a stage; it uses only its argument, which may be a copy."""
        assert isinstance(stage, _Stage)
        seen, output = stage._through(inputs)
        # Inputs of unit power from a code of zero mean and unit variance: otherwise the deeper layers of a network
        # without normalisation would need learning rates of their own.
        code = output.relu().float()
        if code.numel() > code.shape[1]:
            code = F.batch_norm(code, None, None, training=True)
        else:
            code = code - code  # a single value per unit, minus its mean; torch refuses to standardise it
        return F.mse_loss(stage.decoder(code / stage.spread), seen.float() / seen.float().square().mean().sqrt())


def _stride(layer: nn.Module) -> tuple[int, ...]:
    return layer.stride if isinstance(layer, nn.Conv2d) else (1,)


def _decoder(layer: nn.Module, shape: torch.Size) -> nn.Linear | nn.ConvTranspose2d:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.out_features, layer.in_features, bias=False)
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
        raise InputError(
            f"a {type(layer).__name__} has no decoder", where="pre-training 'layer-wise'", expected="Linear or Conv2d"
        )
    # Rows and columns that the stride skips at the border must come back.
    kernel, stride, padding, dilation = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    over = [(shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) % stride[i] for i in range(2)]
    return nn.ConvTranspose2d(
        layer.out_channels, layer.in_channels, kernel, stride, padding,  # type: ignore[arg-type]
        output_padding=(over[0], over[1]), groups=layer.groups, dilation=dilation, bias=False,  # type: ignore[arg-type]
    )  # fmt: skip


@contextmanager
def _only(model: nn.Module, layer: nn.Module) -> Iterator[None]:
    """A context in which only ``layer`` is trained, and normalisation statistics do not change."""
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    mode = model.training
    own = set(layer.parameters())
    for parameter in asked:
        parameter.requires_grad_(parameter in own)
    model.eval()
    try:
        yield
    finally:
        model.train(mode)
        for parameter, value in asked.items():
            parameter.requires_grad_(value)


# -- both ---------------------------------------------------------------------------------------------------------
def _example(task: PretrainingTask) -> Tensor:
    inputs: Tensor = next(iter(task.train_set.ordered()))[0]
    task.model.to(inputs.device)
    return inputs


def _train(
    task: PretrainingTask, model: nn.Module, batches: BatchSource, loss: Loss | None, *, part: str,
    epochs: int | None = None, before: list[Training] | None = None,
) -> Training:  # fmt: skip
    recipe: Recipe = task.recipe
    if epochs is not None:
        recipe = recipe.scaled(epochs, steps_per_epoch=batches.steps_per_epoch)
    past = [record for training in before or [] for record in training.history]

    def told(record: EpochRecord) -> EpochRecord:
        """The record of this part as a record of the whole training."""
        last = past[-1] if past else EpochRecord(0, 0, 0.0, 0.0)
        return msgspec.structs.replace(record, epoch=last.epoch + record.epoch, step=last.step + record.step)

    def on_epoch(record: EpochRecord) -> None:
        if task.on_epoch is not None:
            task.on_epoch(told(record))

    try:
        training = train(
            model, batches, recipe, seed=task.seed, loss=loss, callbacks=[OnEpoch(on_epoch)],
            runtime=msgspec.structs.replace(
                task.runtime, checkpoint=task.checkpoint(part) if task.checkpoint else None
            ),
        )  # fmt: skip
    except NonFiniteLoss as error:
        steps, samples = (sum(getattr(t, what) for t in before or []) for what in ("steps", "samples"))
        history = [*past, *map(told, error.history)]
        raise NonFiniteLoss(str(error), steps + error.steps, samples + error.samples, history) from None
    return msgspec.structs.replace(training, history=[told(record) for record in training.history])
