"""Synthetic experiments for the laboratory: images written from a seed, files of experiments, the commands that run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from oneticket.bench.workload import CLASSES, LR, Workload
from oneticket.data.decoding import extra
from oneticket.errors import OneticketError

_DIGITS = """\
name = "synthetic"
model = {{ name = "lenet-300-100", options = {{ width = 0.05 }} }}
seeds = {seeds}
[data.digits]
builtin = "digits"
[recipe.sgd]
optimizer = "sgd"
lr = 0.01
epochs = {epochs}
batch_size = 2000
[search]
rounds = {rounds}
prune = 0.1
[[transfer]]
sources = ["digits@sgd"]
targets = ["digits@sgd"]
arms = [{arms}]
"""

_IMAGES = """\
name = "synthetic"
model = {{ name = "{model}", options = {{ width = {width} }} }}
seeds = {seeds}
[data.noise]
images = "images"
validation = 0.0
[recipe.sgd]
optimizer = "sgd"
lr = {lr}
epochs = {epochs}
batch_size = {batch_size}
precision = "{precision}"
augment = {{ flip = true, crop = 4 }}
[search]
rounds = {rounds}
prune = 0.2
rewind = "1ep"
[[transfer]]
sources = ["noise@sgd"]
targets = ["noise@sgd"]
arms = ["{arm}"]
densities = [{density}]
"""

LARGE_ARMS = ("winning", "preserved", "layer-permuted", "random")
CELLS_A_SEED = 100
"""Of a large experiment: a dense training, 19 rounds of search, and four arms at twenty densities."""


def large_experiment(folder: Path, cells: int) -> Path:
    """The file of an experiment of ``cells`` cells, a multiple of 100."""
    arms = ", ".join(f'"{arm}"' for arm in LARGE_ARMS)
    return _written(folder, _DIGITS.format(seeds=cells // CELLS_A_SEED, epochs=2, rounds=20, arms=arms))


def tiny_cells(folder: Path, cells: int) -> Path:
    """The file of an experiment of ``cells`` dense trainings of one step each."""
    return _written(folder, _DIGITS.format(seeds=cells, epochs=1, rounds=1, arms='"dense"'))


def search_experiment(folder: Path, workload: Workload, *, seeds: int, rounds: int) -> Path:
    """The file of a search of ``rounds`` rounds whose last ticket is trained, on the images of ``workload``.

    With 0 rounds, of dense trainings only.
    """
    write_images(folder / "images", workload)
    return _written(
        folder,
        _IMAGES.format(
            model=workload.model,
            width=workload.width,
            seeds=seeds,
            lr=LR,
            epochs=workload.epochs,
            batch_size=workload.batch_size,
            precision=workload.precision,
            rounds=max(rounds, 1),
            arm="winning" if rounds else "dense",
            density=0.8 ** max(rounds, 1),
        ),
    )


def write_images(folder: Path, workload: Workload) -> None:
    """The images of ``workload`` as train/CLASS/NUMBER.png; as test/CLASS/0.png the negative of one of each class."""
    pil = extra("PIL.Image", "data")
    images = workload.images()
    pixels = images.gather().permute(0, 2, 3, 1).numpy()
    for number, label in enumerate(images.labels.tolist()):
        image = pixels[number].squeeze()
        for part, shown in {"train": image, "test": 255 - image}.items() if number < CLASSES else (("train", image),):
            place = folder / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            pil.fromarray(shown).save(place / f"{number}.png")


def command(folder: Path, *words: str | Path) -> float:
    """Seconds of ``oneticket WORDS`` in a new process, its start included, with its cache in ``folder``.

    Raises OneticketError, with what the process wrote, if it fails.
    """
    return timed_process([sys.executable, "-m", "oneticket", *map(str, words)], folder)[0]


def timed_process(line: Sequence[str], folder: Path) -> tuple[float, str]:
    """Seconds of a process in ``folder``, and what it printed."""
    began = time.perf_counter()
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    ended = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if ended.returncode:
        raise OneticketError(f"{' '.join(line)} ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    return seconds, ended.stdout


def _written(folder: Path, text: str) -> Path:
    file = folder / "synthetic.toml"
    file.write_text(text, encoding="utf-8")
    return file
