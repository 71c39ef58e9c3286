"""What is shown while cells are computed: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from oneticket.cli.text import harmless
from oneticket.lab.execution.events import RunListener

if TYPE_CHECKING:  # a finished experiment is answered without torch
    from oneticket.lab.execution.engines import Done, Progress
    from oneticket.lab.planning.plan import Plan

PLAIN_EVERY = 10.0  # seconds between two plain lines
SURE_AFTER = 5  # finished cells, from which on the time left can be estimated


def duration(seconds: float) -> str:
    """``95`` → ``1 min 35 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(seconds, 0):.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def make_listener(*, quiet: bool = False) -> RunListener:
    """A live display for a terminal, plain lines for a file or a pipe, nothing if ``quiet``."""
    if quiet:
        return RunListener()
    console = Console(stderr=True)
    return _LiveListener(console) if console.is_terminal and sys.stdout.isatty() else _PlainListener()


class _Counting(RunListener):
    """The figures that both displays show."""

    def begin(self, plan: Plan, cached: int) -> None:
        from oneticket.lab.cells.rates import cycles_of  # it needs torch, and other commands show durations

        self.began = time.monotonic()
        self.labels = plan.labels
        self.total, self.cached = len(plan.cells), cached
        self.work = {name: cell.recipe.epochs * cycles_of(cell.start) for name, cell in plan.cells.items()}
        self.done = self.failures = 0
        self.running: dict[str, Progress | None] = {}  # None before the first epoch has ended
        self.last: deque[str] = deque(maxlen=5)

    def started(self, cell: str) -> None:
        self.running[cell] = None

    def progress(self, progress: Progress) -> None:
        if progress.cell in self.running:
            self.running[progress.cell] = progress

    def finished(self, cell: str, done: Done) -> None:
        self.running.pop(cell, None)
        self.done += 1
        if done.diverged is not None:
            self.last.append(f"{self.labels[cell]}: diverged")
            return
        accuracy = done.test_accuracy if done.test_accuracy is not None else done.val_accuracy
        if accuracy is not None:
            kind = "test" if done.test_accuracy is not None else "validation"
            self.last.append(f"{self.labels[cell]}: {100 * accuracy:.2f} % {kind}")

    def postponed(self, cell: str) -> None:
        self.running.pop(cell, None)

    def retried(self, cell: str, reason: str, *, alone: bool = True) -> None:
        self.running.pop(cell, None)
        self.say(f"trying again{', alone' if alone else ''}: {self.labels[cell]}: {harmless(reason)}")

    def failed(self, cell: str, reason: str) -> None:
        self.running.pop(cell, None)
        self.failures += 1
        self.say(f"failed: {self.labels[cell]}: {harmless(reason)}")

    def crowded(self, reason: str) -> None:
        self.say(f"fewer cells side by side than there are workers: {reason}")

    def say(self, line: str) -> None:
        """Show a line that the user must not miss; here it is dropped."""

    def figures(self) -> str:
        """One line of figures."""
        left = self.total - self.cached - self.done - self.failures
        busy = time.monotonic() - self.began
        # The first few cells also waited for the workers to load, so they say little about the rest.
        ahead = f", {duration(busy / self.done * left)} left" if self.done >= SURE_AFTER and left else ""
        return (
            f"{self.cached + self.done}/{self.total} cells done ({self.cached} cached), {len(self.running)} running, "
            f"{self.failures} failed, {duration(busy)} so far{ahead}"
        )


class _PlainListener(_Counting):
    """Lines for logs: figures every few seconds, and every failure."""

    def begin(self, plan: Plan, cached: int) -> None:
        super().begin(plan, cached)
        self.spoke = 0.0
        if cached < self.total:
            self.say(f"{plan.experiment}: {self.total} cells, {cached} already there")

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def tick(self) -> None:
        now = time.monotonic()
        if now - self.spoke >= PLAIN_EVERY and self.done:
            self.spoke = now
            self.say(f"{self.figures()}; last: {self.last[-1]}" if self.last else self.figures())


class _LiveListener(_Counting):
    """A display that is redrawn during the run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None

    def begin(self, plan: Plan, cached: int) -> None:
        super().begin(plan, cached)
        if cached < self.total:
            self.live = Live(console=self.console, refresh_per_second=8, transient=True, get_renderable=self.picture)
            self.live.start()

    def end(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def say(self, line: str) -> None:
        self.console.print(line, style="yellow", markup=False, highlight=False)

    def picture(self) -> RenderableType:
        """The bar, the running cells and the last accuracies."""
        bar = ProgressBar(total=max(self.total, 1), completed=self.cached + self.done, width=60)
        cells = Table.grid(padding=(0, 2))
        for identity, at in list(self.running.items()):
            seen = at.val_accuracy if at is not None else None
            accuracy = f"{100 * seen:.2f} % validation" if seen is not None else ""
            epoch = at.epoch if at is not None else 0
            cells.add_row(Text(self.labels[identity]), f"epoch {epoch}/{self.work[identity]}", accuracy)
        last = Text("\n".join(self.last), style="dim")
        return Group(bar, Text(self.figures()), Text(""), cells, Text(""), last)
