"""Recipe: everything about one training that is not the network, the data or the seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from oneticket.conversion import check_keywords, conform, fit
from oneticket.data import Augmentation
from oneticket.errors import InputError
from oneticket.training.objectives import LossName, MetricName, Objective
from oneticket.training.schedule import Constant, Schedule, fine_tuning_rate, learning_rates
from oneticket.training.step import Step

_NORMALISATION = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)

LEAST_RATE = 1e-5
"""The fraction of a recipe's ``lr`` below which fine-tuning is refused: it would change next to nothing."""

Optimizer = Literal["sgd", "adam", "adamw", "rmsprop"]
Precision = Literal["float32", "bf16"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network is trained.

    ``momentum`` belongs to SGD (0.9) and RMSprop (0), ``nesterov`` to SGD, ``betas`` to Adam and AdamW.
    ``weight_decay`` is added to the gradient (L2) except with AdamW; with ``decay_norms = false`` biases and
    normalisation parameters are not decayed. ``clip_norm`` bounds the norm of the whole gradient. ``warmup`` is a
    moment such as ``"1ep"``. ``precision`` ``"bf16"`` is autocast: products in bfloat16, weights and the optimiser's
    memory in float32. It is never chosen automatically, since the numbers depend on it;
    :mod:`oneticket.training.precision` knows where it is faster. ``loss`` and ``metric`` are names, as for
    :func:`oneticket.train`; unless they are given, those of the data: next-token for text, else classification.

    >>> Recipe.sgd(epochs=2).momentum
    0.9
    """

    optimizer: Optimizer
    lr: float
    epochs: int
    batch_size: int = 128
    momentum: float | None = None
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    weight_decay: float = 1e-4
    decay_norms: bool = True
    schedule: Schedule = Constant()
    warmup: str | int = 0
    label_smoothing: float = 0.0
    augment: Augmentation = Augmentation()
    clip_norm: float | None = None
    precision: Precision = "float32"
    loss: LossName | msgspec.UnsetType = msgspec.UNSET
    metric: MetricName | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        def put(field: str, value: Any) -> None:
            msgspec.structs.force_setattr(self, field, value)

        def require(holds: bool, field: str, expected: str) -> None:
            if not holds:
                raise InputError(f"{field} = {getattr(self, field)}", expected=expected)

        put("warmup", str(Step.parse(self.warmup, "warmup")))
        conform(self)
        if self.momentum is None and self.optimizer in ("sgd", "rmsprop"):
            put("momentum", 0.9 if self.optimizer == "sgd" else 0.0)
        if self.betas is None and self.optimizer in ("adam", "adamw"):
            put("betas", (0.9, 0.999))
        adaptive = self.optimizer in ("adam", "adamw")
        require(self.momentum is None or not adaptive, "momentum", f"no momentum with {self.optimizer}: use betas")
        require(self.betas is None or adaptive, "betas", f"no betas with {self.optimizer}: use momentum")
        require(not self.nesterov or self.optimizer == "sgd", "nesterov", "nesterov only with sgd")
        require(not self.nesterov or bool(self.momentum), "nesterov", "a momentum above 0 with nesterov")
        require(0 < self.lr < float("inf"), "lr", "a number above 0")
        require(self.epochs >= 1, "epochs", "at least 1")
        require(self.batch_size >= 1, "batch_size", "at least 1")
        require(self.momentum is None or 0 <= self.momentum < 1, "momentum", "a number from 0 to below 1")
        require(self.betas is None or all(0 <= b < 1 for b in self.betas), "betas", "numbers from 0 to below 1")
        require(0 <= self.weight_decay < float("inf"), "weight_decay", "a number of at least 0")
        require(0 <= self.label_smoothing < 1, "label_smoothing", "a number from 0 to below 1")
        if self.loss or self.metric:
            Objective(self.loss or None, self.metric or None, label_smoothing=self.label_smoothing)
        require(self.clip_norm is None or 0 < self.clip_norm < float("inf"), "clip_norm", "a number above 0")

    @classmethod
    def sgd(cls, *, epochs: int, lr: float = 0.1, **options: Any) -> Recipe:
        """SGD with momentum 0.9, learning rate 0.1 and weight decay 1e-4 unless said otherwise."""
        check_keywords(options, cls)
        return cls(optimizer="sgd", lr=lr, epochs=epochs, **options)

    @classmethod
    def adam(cls, *, epochs: int, lr: float = 3e-4, **options: Any) -> Recipe:
        """Adam with learning rate 3e-4 and weight decay 1e-4 (L2) unless said otherwise."""
        check_keywords(options, cls)
        return cls(optimizer="adam", lr=lr, epochs=epochs, **options)

    def rates(self, steps_per_epoch: int) -> Callable[[int], float]:
        """The learning rate at each 0-based step of the whole training, warm-up included."""
        total = self.epochs * steps_per_epoch
        return learning_rates(self.schedule, self.lr, Step.parse(self.warmup), total, steps_per_epoch)

    def fine_tuning_rate(self, steps_per_epoch: int) -> float:
        """The learning rate of fine-tuning by this recipe; see :func:`oneticket.training.schedule.fine_tuning_rate`.

        Raises
        ------
        InputError : a rate below 1e-5 of ``lr``, at which nothing would be learned.
        """
        rate = fine_tuning_rate(self.schedule, self.rates(steps_per_epoch), self.epochs * steps_per_epoch)
        if rate < LEAST_RATE * self.lr:
            raise InputError(
                f"fine-tuning would have the learning rate {rate:.2g}, where the schedule ends: "
                f"{rate / self.lr:.1g} of lr = {self.lr:g}",
                where="schedule",
                expected=f"a schedule that ends at {LEAST_RATE:g} of lr or above, with fewer drops or smaller ones",
            )
        return rate

    def scaled(self, epochs: int, *, steps_per_epoch: int) -> Recipe:
        """This recipe with the whole of its schedule, warm-up included, in a training of ``epochs`` epochs.

        A training in parts gives each part the recipe scaled to it. Moments lie at the same fractions of the training,
        as numbers of steps, rounded up: a step of the part has the factor of the schedule that the whole training has
        at the same fraction. Of drops closer together than a step of the part only the lower rate is seen, and a drop
        less than such a step before the end is not seen at all.

        Parameters
        ----------
        epochs : length of the part, at least 1; it may also be longer than the recipe.
        steps_per_epoch : number of batches in an epoch.

        Raises
        ------
        InputError : fewer epochs than 1.

        >>> Recipe.sgd(epochs=8, warmup="1ep").scaled(4, steps_per_epoch=10).warmup
        '5it'
        """
        if fit("epochs", epochs, int) < 1:
            raise InputError(f"a part of {epochs} epochs", where="recipe", expected="at least 1 epoch")
        if epochs == self.epochs:
            return self
        stretch = Fraction(epochs, self.epochs)
        return msgspec.structs.replace(
            self,
            epochs=epochs,
            schedule=self.schedule.scaled(stretch, steps_per_epoch),
            warmup=str(Step.parse(self.warmup).scaled(stretch, steps_per_epoch)),
        )

    def make_optimizer(self, model: nn.Module, lr_factors: Mapping[str, float] | None = None) -> torch.optim.Optimizer:
        """The optimiser for the trainable parameters of ``model``.

        Parameters
        ----------
        model : the network.
        lr_factors : parameter name → factor on its learning rate; each parameter group stores its own as ``factor``.
            Decay does not follow it: AdamW multiplies weight decay by the rate of the group, so that its decay is
            divided by the factor, and a step decays every parameter alike. At a factor of 0 nothing is stepped.
        """
        spared = set() if self.decay_norms else {id(p) for p in _spared_parameters(model)}
        alike: dict[tuple[bool, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                key = (id(parameter) in spared, (lr_factors or {}).get(name, 1.0))
                alike.setdefault(key, []).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": self.lr * factor, "factor": factor, "weight_decay": decay}
            for (is_spared, factor), parameters in sorted(alike.items(), key=lambda item: item[0])
            for decay in [0.0 if is_spared else self._decay(factor)]
        ]
        common: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=self.momentum or 0.0, nesterov=self.nesterov, fused=True, **common)
        if self.optimizer == "rmsprop":
            return torch.optim.RMSprop(groups, momentum=self.momentum or 0.0, foreach=True, **common)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, betas=self.betas or (0.9, 0.999), fused=True, **common)

    def _decay(self, factor: float) -> float:
        return self.weight_decay / factor if self.optimizer == "adamw" and factor else self.weight_decay


def _spared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Biases and the parameters of normalisation layers."""
    return [
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, _NORMALISATION) or "bias" in name
    ]
