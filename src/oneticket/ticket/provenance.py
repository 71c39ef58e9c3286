"""Where a ticket comes from: its model, everything it has seen, and how it was searched for."""

from __future__ import annotations

import json
import platform
from typing import Any

import msgspec
import numpy as np
import torch

from oneticket.errors import InputError
from oneticket.identity import canonical_json
from oneticket.version import __version__


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One data set the ticket was trained on, with the recipe; "" and None stand for unknown.

    ``split`` is the part of it that was trained on, ``normalised_by`` the part whose mean and standard deviation
    normalised the inputs. ``input_shape`` is one input without the batch: (channels, height, width) for images.
    """

    name: str = ""
    fingerprint: str = ""
    split: str = ""
    normalised_by: str = ""
    samples: int | None = None
    classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    recipe: dict[str, Any] = {}


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a ticket comes from; "" and None stand for unknown.

    ``seen`` names every data set and recipe, in the order of training. ``round`` of ``rounds`` is the pruning round,
    ``rewind`` the point k of W_k as text ("1ep", "500it"), ``density_asked`` the density that was requested, ``inputs``
    the rule that brought inputs to the model's size and channels, and ``notes`` anything else.

    >>> Provenance(model="lenet-300-100", rewind="1ep", seed=0).rewind
    '1ep'
    """

    model: str = ""
    model_options: dict[str, Any] = {}
    seen: tuple[Seen, ...] = ()
    round: int | None = None
    rounds: int | None = None
    rewind: str = ""
    seed: int | None = None
    criterion: str = ""
    allocation: str = ""
    density_asked: float | None = None
    inputs: str = ""
    versions: dict[str, str] = {}
    notes: dict[str, str] = {}

    def normalised(self) -> Provenance:
        """The same provenance as it is after writing and reading: typed, tuples in free fields as lists.

        Raises InputError for a field of the wrong type or a value that JSON cannot hold.
        """
        try:
            text = canonical_json(msgspec.to_builtins(self, enc_hook=_plain))
            plain = json.loads(text.encode())  # the encoding refuses broken Unicode
            return msgspec.convert(plain, Provenance)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"the provenance cannot be written as JSON: {error}", expected="plain JSON values"
            ) from error


def versions() -> dict[str, str]:
    """The versions of oneticket, torch and Python in this process, for :attr:`Provenance.versions`."""
    return {"oneticket": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):  # torch.__version__ is a subclass
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r} is not a JSON value")
