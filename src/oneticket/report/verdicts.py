"""Verdicts in words: the sentence of a claim first, then estimates, intervals, n, and what is lacking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oneticket.report.groups import NONE
from oneticket.verdicts import Question, Tested, Verdict

RULE = (
    "Supported: the claim shows at all its places; contradicted: the opposite shows at one or more; else not decided. "
    "It shows where Holm's p over the places of a claim is at most 0.05: paired t tests over seeds on test images, "
    "both one-sided ones for equivalence. Every claim is judged by itself."
)
"""How verdicts are reached, in words."""

FEW = 4
"""Places of which each has a line of its own where all of a claim are not asked for."""


@dataclass(frozen=True)
class Told:
    """A verdict as the page and the terminal show it; ``lines`` are its places, ``late`` is among its ``notes``."""

    word: str
    says: str
    asks: str
    experiment: str
    lines: tuple[str, ...]
    notes: tuple[str, ...]
    late: str = ""

    @property
    def kind(self) -> str:
        """The word as the name of a style."""
        return self.word.replace(" ", "-")


def told(verdicts: Sequence[Verdict], *, every: bool = False) -> list[Told]:
    """The verdicts in words; with ``every`` place of each, else those that matter where there are many."""
    several = len({verdict.question.experiment for verdict in verdicts}) > 1
    return [_told(verdict, several, every) for verdict in verdicts]


def claims_tally(verdicts: Sequence[Verdict]) -> str:
    """How many claims came out how, in a sentence: ``Of 8 claims 1 is supported, 2 are contradicted, …``."""
    found = []
    for word in ("supported", "contradicted", "not decided"):
        if count := sum(verdict.word == word for verdict in verdicts):
            found.append(f"{count} {'is' if count == 1 else 'are'} {word}")
    return f"Of {len(verdicts)} claims {', '.join(found)}."


def as_lines(verdicts: Sequence[Verdict], *, every: bool = False) -> list[str]:
    """The verdicts as lines of a terminal."""
    found = []
    for entry in told(verdicts, every=every):
        prefix = f"{entry.experiment}: " if entry.experiment else ""
        found.append(f"{entry.word.upper()}: {prefix}{entry.says}")
        found += [f"  {line}" for line in (entry.asks, *entry.lines, *entry.notes)]
    return found


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown list."""
    found = []
    for entry in told(verdicts):
        prefix = f"{entry.experiment}: " if entry.experiment else ""
        found.append(f"- **{entry.word.capitalize()}:** {prefix}{entry.says}")
        found += [f"  - {line}" for line in (entry.asks, *entry.lines, *entry.notes)]
    return "".join(f"{line}\n" for line in found)


def _told(verdict: Verdict, several: bool, every: bool) -> Told:
    question = verdict.question
    kept, left = _chosen(verdict, every)
    lines = [_line(question, test, verdict.word) for test in kept]
    if left:
        lines.append(f"and {left} more place{'s' if left > 1 else ''}")
    notes = [*verdict.lacks, *([question.late] if question.late else [])]
    count = len(verdict.tests)
    asks = f"{question.asks}, {count} place{'s' if count > 1 else ''}"
    if count > 1 and not verdict.lacks:
        asks += f", shown at {sum(test.outcome == 'shown' for test in verdict.tests)}"
    experiment = question.experiment if several else ""
    return Told(verdict.word, question.says, asks, experiment, tuple(lines), tuple(notes), question.late)


def _chosen(verdict: Verdict, every: bool) -> tuple[list[Tested], int]:
    """The places to show and the number of others: where many are told in short, the least favourable first."""
    tests = list(verdict.tests)
    if every or len(tests) <= FEW:
        return tests, 0
    rank = {"opposite": 0, "open": 1, "shown": 2}
    order = sorted(range(len(tests)), key=lambda i: (rank[tests[i].outcome], -(tests[i].p or 0.0), i))[:FEW]
    return [tests[i] for i in sorted(order)], len(tests) - FEW


def _line(question: Question, test: Tested, word: str) -> str:
    difference = test.difference
    if difference is None:
        return f"{test.where}: {NONE}"
    text = f"{test.where}: {question.comparison} = {_points(difference.mean)}"
    if difference.interval is not None:
        text += f" [{_points(difference.interval.low)}, {_points(difference.interval.high)}]"
    text += f" points, n = {difference.n}"
    if test.p is not None:
        text += f", Holm's p {_p(test.p)}"
    if word != "supported" and test.outcome != "open":
        text += ", shown" if test.outcome == "shown" else ", the opposite shown"
    return text


def _points(fraction: float) -> str:
    text = f"{100 * fraction:+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
