"""Published curves: accuracy against density as others found it, with source and protocol."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from oneticket.errors import InputError, unknown
from oneticket.report.tables import SummaryRow


class Point(NamedTuple):
    """A density and an accuracy in percent, with the standard deviation in points; None of a single run."""

    density: float
    accuracy: float
    deviation: float | None


class Reference(NamedTuple):
    """Curves that were published: of which network on which data, by whom, how they were trained."""

    network: str
    data: str
    images: int
    source: str
    protocol: str


_ARORA = (
    "SGD 0.1, weight decay 1e-3, batch 512, 160 epochs with drops at 80 and 120, gradient norm clipped at 2, mixed "
    "precision, head pruned too, 20 % a round, 3 runs; batch statistics of the test batches"
)
REFERENCES: Mapping[str, Reference] = {
    "renda-2020": Reference(
        "resnet20", "cifar10", 10_000, "Renda et al. 2020, released data",
        "SGD 0.1, weight decay 2e-4, batch 128, 182 epochs with drops at 91 and 136, global 20 % a round, 3 trials",
    ),
    "gohil-2020": Reference(
        "vgg19", "cifar10", 10_000, "Gohil et al. 2020, ReScience C",
        "tickets of CIFAR-10 and of CIFAR-100 on CIFAR-10, single runs",
    ),
    "arora-2025-resnet20": Reference(
        "resnet20", "cifar10", 10_000, "Arora & Teuscher 2025, arXiv 2512.07142, released arrays",
        f"{_ARORA}; IMP-e rewinds to epoch 3, IMP-l to 9",
    ),
    "arora-2025-vgg16": Reference(
        "vgg16", "cifar10", 10_000, "Arora & Teuscher 2025, arXiv 2512.07142, released arrays",
        f"{_ARORA}; IMP-e rewinds to epoch 5, IMP-l to 15",
    ),
}  # fmt: skip
"""The references by name. Means and standard deviations are those that were published, not computed here."""


@cache
def curves(name: str) -> Mapping[str, Sequence[Point]]:
    """The curves of a reference by their label, each from the densest point to the sparsest."""
    found: dict[str, list[Point]] = {}
    with files(__package__).joinpath("references.csv").open("r", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["reference"] == name:
                deviation = float(line["deviation"]) if line["deviation"] else None
                point = Point(float(line["density"]), float(line["accuracy"]), deviation)
                found.setdefault(line["label"], []).append(point)
    return found


def agreeing(name: str, rows: Iterable[SummaryRow]) -> Reference:
    """The reference of this name, if it is of the network and of the data of these rows.

    Raises
    ------
    InputError
        For an unknown name, and where network, data or the number of test images differ: such curves say nothing about
        each other.
    """
    if name not in REFERENCES:
        raise unknown("reference", name, REFERENCES, where="--reference")
    reference = REFERENCES[name]
    for row in rows:
        data = re.sub(r"[^a-z0-9]|jpeg", "", row.group.target.lower())
        ours = {"network": row.group.model, "data": data, "test images": row.images}
        theirs = {"network": reference.network, "data": reference.data, "test images": reference.images}
        for what, value in theirs.items():
            if ours[what] != value:
                raise InputError(
                    f"'{name}' is of another {what}: {value}, and the table has {ours[what]}",
                    where="--reference",
                    expected="a figure of the same network, data and test images (`oneticket list reference`)",
                )
    return reference


def caption(name: str) -> str:
    """What the grey curves are, and how their protocol may differ."""
    reference = REFERENCES[name]
    return (
        f"Grey, published: {reference.source} ({', '.join(curves(name))}); {reference.protocol}. Recipe, number of "
        "training images and their compression may be others here: the table does not say."
    )
