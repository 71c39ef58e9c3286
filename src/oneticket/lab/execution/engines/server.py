"""Loaded once by the server that workers fork from: everything a worker needs before it reads its cell."""

from __future__ import annotations

import gc

import torch
import torch._dynamo  # torch's optimisers load it at their first step: a second and a half
from torch import nn

from oneticket.lab.execution.engines import worker as worker
from oneticket.masks import Masks
from oneticket.metrics.paths import find_paths
from oneticket.randomness import seeded
from oneticket.training import Recipe, train, training_flops


def _warm_up() -> None:
    """Compute a tiny cell, so that workers inherit what the first steps of a process set up."""
    with seeded(0):
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    images, labels = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    train(network, (images, labels), Recipe.sgd(epochs=1, batch_size=4), validation=(images, labels))
    find_paths(network, Masks.full({"1.weight": network.get_parameter("1.weight")}), images[:1])
    training_flops(network, images[:1], len(images))


torch.set_num_threads(1)  # a pool of threads would not survive the fork
if torch.accelerator.current_accelerator() is None:  # with one, autograd has threads of its own, which would not either
    _warm_up()

# Workers share these pages until they write to them, and a garbage collector writes to every object that it visits.
gc.collect()
gc.freeze()
