"""The plan cache: recognises a finished experiment by a digest of its inputs, without planning it and without torch."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from oneticket.errors import InputError
from oneticket.identity import digest
from oneticket.lab.cells.store import Store, is_store

if TYPE_CHECKING:
    from oneticket.lab.spec.experiment import Experiment

PACKAGE = Path(__file__).parents[2]
"""The folder of oneticket's own code."""


class Origin(msgspec.Struct, frozen=True):
    """The inputs of a plan: the files and folders of its data, and a digest of their state.

    The digest covers the text of the experiment file, and path, size and modification time of the files of the data and
    of this package.
    """

    data: tuple[str, ...]
    state: str


class Finished(msgspec.Struct, frozen=True):
    """An experiment whose cells are all finished, and their number."""

    experiment: str
    store: Store
    cells: int


def origin(file: Path, experiment: Experiment) -> Origin | None:
    """The inputs of the plan of ``experiment``, which was read from ``file``.

    None where only planning can decide: for the user's own code, which it imports, and for unusable data,
    about which it raises the error.
    """
    if experiment.code or any(":" in spec.name for spec in experiment.models):
        return None
    try:
        data = tuple(sorted(_places(file.parent, experiment)))
        return Origin(data, _state(file, data))
    except (InputError, OSError):
        return None


def recall(file: Path, home: Callable[[str], Path]) -> Finished | None:
    """The experiment of ``file`` if its plan is known and all its cells are finished; None otherwise.

    ``home`` maps the name of an experiment to the folder of its store. Errors in the file or the store are left to
    planning, which reports them.
    """
    try:
        name = str(tomllib.loads(file.read_text(encoding="utf-8"))["name"])
        root = home(name)
        if not is_store(root):
            return None
        store = Store.open(root)
        (content,) = store.experiments(name)
        known = msgspec.convert(content["origin"], Origin)
        cells = content["cells"]
        if _state(file, known.data) != known.state or len(store.finished(cells)) < len(cells):
            return None
    except (InputError, OSError, ValueError, LookupError, TypeError, msgspec.ValidationError):
        return None
    return Finished(name, store, len(cells))


def _places(folder: Path, experiment: Experiment) -> Iterable[str]:
    """Every file of the data, and the folders in which another file could appear."""
    from oneticket.data import SOURCES
    from oneticket.data.spec import chain

    roles = [role for transfer in experiment.transfer for role in (*transfer.sources, *transfer.targets)]
    for name in {role.partition("@")[0] for role in roles}:
        kind, place = chain(experiment.data, name)[0][1].origin
        files = [file.absolute() for file in SOURCES[kind](place, folder).files]
        folders = {file.parent for file in files}
        if kind == "images":
            home = (folder / Path(place).expanduser()).absolute()
            folders |= {home, *home.glob("*/"), *home.glob("*/*/")}
        yield from map(str, [*files, *folders])


def _state(file: Path, places: Iterable[str]) -> str:
    own = sorted(PACKAGE.rglob("*.py"))
    states = [(str(place), place.stat()) for place in (*map(Path, places), *own)]
    text = hashlib.sha256(file.read_bytes()).hexdigest()
    return digest([text, [(place, state.st_size, state.st_mtime_ns) for place, state in states]])
