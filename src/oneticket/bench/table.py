"""The outcome as text: tables for a terminal, and blocks of a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oneticket.bench.measures.ceiling import Ceiling, Floor
from oneticket.bench.measures.families import DATA, OPTIMISER
from oneticket.bench.outcome import ModelStep, Outcome, Result
from oneticket.bench.pairing import Spread
from oneticket.bench.rows import ROWS
from oneticket.errors import InputError

HEADER = ("row", "what", "target", "measured (min–max)", "turns", "met", "a step", "floor", "against others")

SHOWN = ("convolution", "linear", "normalisation", "activation and pooling", OPTIMISER, DATA)
"""The families that have a column in the table of models."""

MODELS_HEADER = ("model", "precision", "a step", "floor: compute", "floor: memory", *SHOWN, "rest")


def lines(outcome: Outcome) -> list[tuple[str, ...]]:
    """A tuple of texts for each result, under `HEADER`."""
    return [_line(entry) for entry in outcome.results]


def model_lines(outcome: Outcome) -> list[tuple[str, ...]]:
    """A tuple of texts for each model and precision, under `MODELS_HEADER`; shares are parts of the profiled step."""
    return [_model_line(entry) for entry in outcome.models]


def heading(outcome: Outcome) -> str:
    """The machine, the versions and the form of the outcome, in one line."""
    machine = outcome.machine
    chip = machine.processor if outcome.device == "cpu" else f"{machine.device} beside {machine.processor}"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    bf16 = ", ".join(machine.bf16) or "none"
    short = "short form, " if outcome.short else ""
    return (
        f"{short}{outcome.date}: {chip}, {machine.cores} cores, {machine.memory_gib:g} GiB, {machine.vectors}, "
        f"bf16 in hardware: {bf16}; {versions}; threads of a step: {outcome.threads}, processes of "
        f"the reference's loader: {outcome.loader_workers}"
    )


def ceiling_line(ceiling: Ceiling) -> str:
    """The ceiling in one line."""
    return (
        f"ceiling: matrix product {_si(ceiling.float32, 'FLOP/s')} float32, {_si(ceiling.bf16, 'FLOP/s')} bf16; "
        f"copy {_si(ceiling.copy, 'B/s')}"
    )


def markdown(outcome: Outcome) -> str:
    """Heading, table, ceiling and profiles of the rows as Markdown."""
    parts = [f"{heading(outcome)}.", _grid(HEADER, lines(outcome)), f"{ceiling_line(outcome.ceiling)}."]
    for row, found in outcome.profiles.items():
        families = [(f.family, f"{f.ms:.3g}", _share(f.share)) for f in found]
        parts.append(f"Profile of `{row}`:\n\n{_grid(('family', 'ms a step', 'share'), families)}")
    return "\n\n".join(parts) + "\n"


def models_markdown(outcome: Outcome) -> str:
    """Heading, table of models and ceiling as Markdown."""
    parts = (f"{heading(outcome)}.", _grid(MODELS_HEADER, model_lines(outcome)), f"{ceiling_line(outcome.ceiling)}.")
    return "\n\n".join(parts) + "\n"


def marks(outcome: Outcome) -> dict[str, str]:
    """Name of a block of a page → its text: the table of rows, that of models, or both."""
    blocks = {mark_of(outcome.device): markdown(outcome)} if outcome.results else {}
    return blocks | ({mark_of("cpu", models=True): models_markdown(outcome)} if outcome.models else {})


def mark_of(device: str, *, models: bool = False) -> str:
    """The name of a block of a page."""
    return f"the steps of the models on {device}" if models else f"oneticket bench on {device}"


def fill(page: Path, outcome: Outcome) -> None:
    """Replace the text of ``page`` between the two comments that name a block of this outcome."""
    for mark, text in marks(outcome).items():
        before, after = split_page(page, mark)
        page.write_text(f"{before}\n\n{text}\n{after}", encoding="utf-8")


def split_page(page: Path, mark: str) -> tuple[str, str]:
    """The page up to the first comment of the block ``mark``, and from its last comment on.

    Raises InputError when the page cannot be read or lacks one of the two comments.
    """
    begin, end = (f"<!-- {word} of {mark} -->" for word in ("begin", "end"))
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(page), expected="a Markdown file") from None
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise InputError("has no block for the table", where=str(page), expected=f"{begin} and {end}")
    return before + begin, end + after


def _line(entry: Result) -> tuple[str, ...]:
    side = "≥" if ROWS[entry.row].at_least else "≤"
    target = f"{side} {entry.target:g} {entry.unit}"
    if entry.measured is None:
        return (entry.row, entry.what, target, f"not measured: {entry.note}", "", "", "", "", "")
    step = f"{1e3 * Spread.of(entry.seconds['ours']).median:.3g} ms" if entry.floor else ""
    others = ", ".join(f"{_number(spread.median)} × {name}" for name, spread in entry.against.items())
    met = {True: "yes", False: "no", None: ""}[entry.met]
    measured, turns = _spread(entry.measured, entry.unit), str(len(entry.measured.values))
    return (entry.row, entry.what, target, measured, turns, met, step, _floor(entry.floor), others)


def _model_line(entry: ModelStep) -> tuple[str, ...]:
    shares = {found.family: found.share for found in entry.families}
    shown = [shares.get(family, 0.0) for family in SHOWN]
    times = (f"{ms:.3g} ms" for ms in (entry.ms, entry.floor.compute_ms, entry.floor.memory_ms))
    return (entry.model, entry.precision, *times, *map(_share, [*shown, max(1 - sum(shown), 0.0)]))


def _share(part: float) -> str:
    return f"{100 * part:.0f} %"


def _spread(spread: Spread, unit: str) -> str:
    return f"{_number(spread.median)} {unit} ({_number(spread.low)}–{_number(spread.high)})"


def _floor(floor: Floor | None) -> str:
    return f"{floor.compute_ms:.3g} ms compute, {floor.memory_ms:.3g} ms memory" if floor else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _si(value: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _grid(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    everything = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in everything)
