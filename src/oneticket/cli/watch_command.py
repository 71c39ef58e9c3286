"""The command watch: a running store, seen from another process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oneticket.cli import tables
from oneticket.cli.text import harmless

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.watching import Seen

_BARS = "▁▂▃▄▅▆▇█"
_MOST_RUNNING = 8
_LAST = 5


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--experiment", help="Only the cells of this experiment.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=2.0, metavar="SECONDS", help="Between two looks.  [default: 2]"
)
@click.option("--once", is_flag=True, help="Print what there is now, and end; so it does without a terminal.")
def watch(store: Path, experiment: str | None, every: float, once: bool) -> int:
    """Show STORE while a run fills it: running cells, the last accuracies, the table so far. Ctrl-C ends it.

    The store is only read; the run goes on.
    """
    from rich.console import Console

    from oneticket.lab.cells.store import Store

    view = _View(Store.open(store), experiment)
    console = Console()
    if once or not console.is_terminal:
        console = console if console.is_terminal else Console(width=120)
        console.print(view.picture(console, height=None), highlight=False)
        return 0

    from rich.live import Live

    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(view.picture(console, height=console.height - 1), refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:  # the usual end: nothing was interrupted
        return 0


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, from the least to the greatest.

    >>> sparkline([0.1, 0.5, 0.9])
    '▁▅█'
    """
    least, span = min(values, default=0.0), max(values, default=0.0) - min(values, default=0.0)
    return "".join(_BARS[round((len(_BARS) - 1) * (value - least) / span) if span else 0] for value in values)


class _View:
    """Pictures of a store; the table is made again only when more cells are finished."""

    def __init__(self, store: Store, experiment: str | None) -> None:
        from oneticket.lab.results.watching import Watcher

        self._store, self._experiment = store, experiment
        self._watcher = Watcher(store, experiment)
        self._lines: list[str] = []
        self._done = -1

    def picture(self, console: Console, *, height: int | None) -> RenderableType:
        """One frame, of at most ``height`` lines."""
        from rich.text import Text

        seen = self._watcher.look()
        done = sum(stage.done for stage in seen.stages)
        if done != self._done:
            self._done, self._lines = done, self._table(console.width)
        lines = [*_above(seen), *self._lines]
        if height is not None and len(lines) > height:
            left = len(lines) - height + 1
            lines = [*lines[: height - 1], f"… {left} more lines: oneticket results {self._store.root}"]
        return Text("\n".join(map(harmless, lines)), no_wrap=True, overflow="ellipsis")

    def _table(self, width: int) -> list[str]:
        from oneticket.report import summary, summary_table

        rows: list[dict[str, Any]] = tables.rows_of(self._store.root, self._experiment)
        if all(row["test_accuracy"] is None for row in rows):
            return []
        table = summary_table(summary(rows, transfers=False), width=width)
        return ["", *tables.aligned(table)]


def _above(seen: Seen) -> list[str]:
    """The lines above the table."""
    from oneticket.cli.progress import duration

    if not seen.stages:
        return ["No experiment has been planned in this store yet."]
    lines = [
        f"{stage.experiment}: {stage.done}/{stage.planned} cells done, {stage.running} running, {stage.failed} failed"
        for stage in seen.stages
    ]
    lines += [f"  running  {label}  ({duration(since)})" for label, since in seen.running[:_MOST_RUNNING]]
    if len(seen.running) > _MOST_RUNNING:
        lines.append(f"  running  {len(seen.running) - _MOST_RUNNING} others")
    for split in ("test", "validation"):
        found = [value for _, value, of in seen.recent if of == split and value is not None]
        if found:
            lines.append(
                f"  last {len(found)} {split}  {sparkline(found)}  {_percent(min(found))} to {_percent(max(found))}"
            )
    for label, value, of in seen.recent[-_LAST:]:
        lines.append(f"  done  {label}: " + ("diverged" if value is None else f"{_percent(value)} {of}"))
    return lines


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
