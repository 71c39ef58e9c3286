"""The events of a run, for a listener while it lasts, and the summary at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:  # a finished experiment is summed up without torch, which all of these load
    from oneticket.lab.execution.engines import Done, Progress
    from oneticket.lab.planning.plan import Plan


class PlainPath(msgspec.Struct):
    """A layer that took the plain path in ``cells`` cells of a network, and the reason in the first of them.

    An empty layer name stands for the network as a whole.
    """

    network: str
    layer: str
    reason: str
    cells: int = 0

    def __str__(self) -> str:
        where = f"layer '{self.layer}' of {self.network}" if self.layer else f"{self.network} as a whole"
        return f"{where}: {self.reason}  [{self.cells} cell{'' if self.cells == 1 else 's'}]"


class Summary(msgspec.Struct, kw_only=True):
    """How a run ended. ``failed`` and ``left_out`` give the reason for each cell without a result.

    ``diverged`` gives the reason for each trained cell whose training could not finish. ``plain`` lists the layers that
    were not computed in the requested layout or precision.
    """

    cells: int
    cached: int = 0
    trained: int = 0
    elsewhere: int = 0
    diverged: dict[str, str] = {}
    failed: dict[str, str] = {}
    left_out: dict[str, str] = {}
    plain: list[PlainPath] = []
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every cell has its result."""
        return not self.failed and not self.left_out

    def took_plain_path(self, network: str, layers: Mapping[str, str]) -> None:
        """Count a cell of ``network``; ``layers`` gives the reason for each layer that took the plain path."""
        known = {(path.network, path.layer): path for path in self.plain}
        for layer, reason in layers.items():
            path = known.get((network, layer))
            if path is None:  # reasons name shapes, which differ from mask to mask: only the first is kept
                path = PlainPath(network, layer, reason)
                self.plain.append(path)
            path.cells += 1


class RunListener:
    """Base class for listeners to a run; it ignores every event."""

    def begin(self, plan: Plan, cached: int) -> None:
        """The run starts; ``cached`` cells are already finished."""

    def started(self, cell: str) -> None:
        """A cell is being computed."""

    def progress(self, progress: Progress) -> None:
        """A running cell has finished an epoch."""

    def finished(self, cell: str, done: Done) -> None:
        """A cell is finished."""

    def postponed(self, cell: str) -> None:
        """A cell is being computed by another run; it will be looked at again."""

    def retried(self, cell: str, reason: str, *, alone: bool = True) -> None:
        """A cell will be tried again, with nothing else running if ``alone``."""

    def failed(self, cell: str, reason: str) -> None:
        """A cell has failed for good."""

    def crowded(self, reason: str) -> None:
        """A worker stays idle because there is no memory for another cell; called once."""

    def tick(self) -> None:
        """Time has passed."""

    def end(self) -> None:
        """The run is over, one way or another."""
