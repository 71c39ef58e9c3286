"""Learning curves: training loss and validation accuracy against the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from oneticket.report.drawing import WIDTHS, Columns, extent, styled
from oneticket.report.formatting import density as as_percent
from oneticket.report.lines import Drawn, Lines, Look, Row, lines_of, over_seeds
from oneticket.statistics import Sample

_LEAST = 1e-12  # the lower end of a band on a logarithmic axis, which knows no zero


def draw_learning(rows: Sequence[Row], columns: Columns = 2) -> Drawn:
    """The figure of the histories of one target, and its caption.

    Beside each other (below each other in one column): the training loss in nats, on a log axis, and the validation
    accuracy in percent, where there is a validation split. x are optimiser steps from the beginning of the recipe.

    Parameters
    ----------
    rows : Sequence[Row]
        Rows of ``oneticket.lab.results.histories.COLUMNS``.
    columns : {1, 2}
        The width, in columns of a page of two.
    """
    lines = lines_of(rows, with_dense=True)
    judged = any(row["val_accuracy"] is not None for row in rows)
    with styled():
        figure = _figure(lines, columns, judged=judged)
    told = f"Training loss {'and validation accuracy ' if judged else ''}against optimiser steps, {lines.about()}. "
    told += "Lines are means over seeds, bands their 95 % intervals." if lines.seeds > 1 else "One seed: no intervals."
    if not judged:
        told += " Validation accuracies need a validation split."
    return Drawn(figure, f"{told} Rewound networks begin at the step of W_k.")


def _figure(lines: Lines, columns: Columns, *, judged: bool) -> Figure:
    across, down = (2, 1) if columns == 2 and judged else (1, 2 if judged else 1)
    figure = Figure(figsize=(WIDTHS[columns], 2.9 if down == 1 else 4.4), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    axes[0].set_yscale("log")
    axes[0].set_ylabel("training loss (nats)")
    losses = [loss for loss in _draw(axes[0], lines, "train_loss", 1.0) if loss > 0]
    if losses:
        axes[0].set_ylim(min(losses) / 1.5, 1.5 * max(losses))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    if judged:
        axes[1].set_ylabel("validation accuracy (%)")
        shown = _draw(axes[1], lines, "val_accuracy", 100.0)
        axes[1].set_ylim(*extent(shown, most=100.0))
    for axis in axes if across == 2 else axes[-1:]:
        axis.set_xlabel("optimiser steps")
    handles = lines.handles()
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5 if columns == 2 else 3))
    return figure


def _draw(axis: Axes, lines: Lines, column: str, factor: float) -> list[float]:
    """Draw a line for each key; returns the means, in the unit of the axis."""
    means: list[float] = []
    for key, look in lines.looks().items():
        bounds: tuple[float, float] = (0.0, 1.0) if column == "val_accuracy" else (0.0, float("inf"))
        samples = over_seeds(lines.of[key], "step", column, bounds=bounds)
        _draw_line(axis, samples, look, factor)
        means += [factor * sample.mean for sample in samples.values()]
        if lines.one_arm and samples and key.arm != "dense":
            last = max(samples)
            axis.annotate(
                f"{as_percent(key.density)} %", (last, factor * samples[last].mean), xytext=(4, 0),
                textcoords="offset points", fontsize=7, color=look.colour, verticalalignment="center",
            )  # fmt: skip
    return means


def _draw_line(axis: Axes, samples: Mapping[Any, Sample], look: Look, factor: float) -> None:
    xs, ys = list(samples), [factor * sample.mean for sample in samples.values()]
    ends = [(s.interval.low, s.interval.high) if s.interval else (s.mean, s.mean) for s in samples.values()]
    low, high = [max(factor * end, _LEAST) for end, _ in ends], [factor * end for _, end in ends]
    if any(sample.interval for sample in samples.values()):
        axis.fill_between(xs, low, high, color=look.colour, alpha=0.15, linewidth=0)
    options = look.options() | {"markersize": 3, "markevery": max(len(xs) // 8, 1)}
    axis.plot(xs, ys, **options)
