"""Claims → the places of the table at which they are tested; a claim that the grids cannot answer is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

import msgspec

from oneticket.data.spec import chain
from oneticket.errors import InputError, nearest, unknown
from oneticket.identity import digest
from oneticket.lab.planning.rows import Role, Row, RowKey
from oneticket.lab.spec.arms import DENSE
from oneticket.lab.spec.claims import Claim
from oneticket.lab.spec.experiment import Experiment
from oneticket.lab.spec.parsing import split_role
from oneticket.lab.spec.ready_claims import Ready, ready_claims

CLOSE = 0.01
"""Two densities are the same within this fraction: a claim may round those of ``densities = "all"``."""

MORE, AS_MANY = 1.5, 0.05
"""One source has more samples than another from this ratio on, and as many within this fraction."""

Pair = tuple[RowKey, RowKey]
Extent = Callable[[str], tuple[int, frozenset[str]]]
"""Data set → its training images and its classes."""


class Asked(msgspec.Struct, frozen=True):
    """A claim with its places: the keys of the rows on its two sides."""

    claim: Claim
    places: tuple[Pair, ...]

    @property
    def digest(self) -> str:
        """The name of what is claimed: sentence, sides, expectation and places."""
        keys = [[msgspec.structs.astuple(key) for key in pair] for pair in self.places]
        return digest([msgspec.to_builtins(self.claim), keys])


class Unanswered(msgspec.Struct, frozen=True):
    """A ready claim that the grids do not answer, and what they lack."""

    name: str
    lacks: str


class Claims(msgspec.Struct, frozen=True):
    """The claims of an experiment; ``unanswered`` are those of its ready ones that its grids cannot test."""

    asked: tuple[Asked, ...] = ()
    unanswered: tuple[Unanswered, ...] = ()


def ask(experiment: Experiment, rows: Sequence[Row], extent: Extent) -> Claims:
    """The places of every claim of an experiment.

    Parameters
    ----------
    experiment : Experiment
        Its claims and data sets.
    rows : sequence of Row
        The planned rows.
    extent : callable
        Training images and classes of a data set.

    Raises
    ------
    InputError : a claim of the file about an arm, target, source, density or rescaling that no grid trains.
    """
    if not (experiment.claim or experiment.claims):
        return Claims()
    asked, unanswered = [], []
    everything = _Table(experiment, rows)
    for number, claim in enumerate(experiment.claim):
        try:
            asked.append(Asked(claim, everything.places(claim)))
        except InputError as error:
            raise error.at(f"claim[{number}]") from None
    for ready in ready_claims(experiment.claims):
        try:
            asked.append(_ready(ready, experiment, rows, extent))
        except InputError as error:
            unanswered.append(Unanswered(f"{ready.group}/{ready.name}", error.what))
    return Claims(tuple(asked), tuple(unanswered))


def _ready(ready: Ready, experiment: Experiment, rows: Sequence[Row], extent: Extent) -> Asked:
    if ready.only in ("more-samples", "more-classes"):
        return _larger(ready, experiment, rows, extent)
    kept = [row for row in rows if _is_of(row, ready)]
    if not kept:
        raise InputError(
            "no grid has lr, a list of learning rates" if ready.only == "rates" else
            "no grid has budget = 'equal-search' or 'equal-flops'"
        )  # fmt: skip
    return Asked(ready.claim, _Table(experiment, kept).places(ready.claim))


def _is_of(row: Row, ready: Ready) -> bool:
    if ready.only == "rates":
        return row.lr is not None
    return ready.only != "equal-search" or row.budget in ("equal-search", "equal-flops")


def _larger(ready: Ready, experiment: Experiment, rows: Sequence[Row], extent: Extent) -> Asked:
    """The places of a larger source against a smaller one, over all such pairs of sources."""
    table = _Table(experiment, rows)
    roles = sorted({_source(row) for row in rows if row.arm == ready.claim.arm})
    places: list[Pair] = []
    for large, small in permutations(roles, 2):
        if _is_larger(ready, experiment, split_role(large), split_role(small), extent):
            claim = msgspec.structs.replace(ready.claim, sources=(large,), against_source=small)
            try:
                places += table.places(claim)
            except InputError:  # this pair has no target in common that the claim is about
                continue
    if not places:
        what = "samples of the same classes" if ready.only == "more-samples" else "classes among as many samples"
        raise InputError(f"no two sources differ in the number of {what}, judged on other data")
    return Asked(ready.claim, tuple(places))


def _is_larger(
    ready: Ready, experiment: Experiment, large: tuple[str, str], small: tuple[str, str], extent: Extent
) -> bool:
    (data, recipe), (other, other_recipe) = large, small
    if recipe != other_recipe or _origin(experiment, data) != _origin(experiment, other):
        return False
    (many, classes), (few, fewer) = extent(data), extent(other)
    if ready.only == "more-samples":
        return classes == fewer and many >= MORE * few
    return classes > fewer and abs(many - few) <= AS_MANY * few


class _Table:
    """The keys of the planned rows, each with its cells."""

    def __init__(self, experiment: Experiment, rows: Iterable[Row]) -> None:
        self.experiment, self.arms = experiment, experiment.arms()
        self.cells: dict[RowKey, list[str]] = {}
        for row in rows:
            self.cells.setdefault(key_of(row), []).append(row.cell)

    def places(self, claim: Claim) -> tuple[Pair, ...]:
        """The places of a claim, each pair once; InputError where nothing trains it, or a filter is empty."""
        firsts = self._of_arm(claim.arm, claim.rescale, "arm", "rescale")
        firsts = self._filtered(claim, firsts)
        seconds = self._seconds(claim)
        found: dict[tuple[tuple[str, ...], tuple[str, ...]], Pair] = {}
        for first in firsts:
            for second in self._opposite(first, seconds, claim):
                if self.cells[first] != self.cells[second]:
                    found.setdefault((tuple(self.cells[first]), tuple(self.cells[second])), (first, second))
        pairs = tuple(found.values())
        if not pairs:
            raise InputError(f"no place has both sides of {claim.comparison}", where="against")
        # Each word of a filter asks for something: a target that drops out here would do so in silence.
        for key, of in (("targets", _target), ("sources", _source)):
            for word in getattr(claim, key):
                if word not in {of(first) for first, _ in pairs}:
                    raise InputError(f"'{word}' has no place with both sides of {claim.comparison}", where=key)
        return pairs

    def _of_arm(self, arm: str, rescale: str, key: str, rescale_key: str) -> list[RowKey]:
        trained = [found for found in self.cells if found.arm == arm]
        if not trained:
            arms = list(dict.fromkeys(found.arm for found in self.cells))
            raise InputError(
                f"no grid trains the arm '{arm}'", where=key, expected="one of " + ", ".join(arms),
                nearest=nearest(arm, arms),
            )  # fmt: skip
        if self.arms[arm].mask == DENSE:  # nothing to rescale for
            return trained
        kept = [found for found in trained if found.rescale == rescale]
        if not kept:
            words = dict.fromkeys(found.rescale for found in trained)
            raise unknown(f"rescaling of the arm '{arm}'", rescale, words, rescale_key)
        return kept

    def _seconds(self, claim: Claim) -> list[RowKey]:
        rescale = claim.rescale if claim.against_rescale is None else claim.against_rescale
        found = self._of_arm(claim.other, rescale, "against", "against_rescale")
        if claim.against_source is None:
            return found
        kept = [key for key in found if _source(key) == claim.against_source]
        if not kept:
            words = dict.fromkeys(filter(None, map(_source, found)))
            raise unknown(f"source of the arm '{claim.other}'", claim.against_source, words, "against_source")
        return kept

    def _filtered(self, claim: Claim, keys: list[RowKey]) -> list[RowKey]:
        for field, of in (("targets", _target), ("sources", _source)):
            words = getattr(claim, field)
            known = dict.fromkeys(filter(None, map(of, keys)))
            for word in words:
                if word not in known:
                    raise unknown(f"{field[:-1]} of the arm '{claim.arm}'", word, known, field)
            keys = [key for key in keys if not words or of(key) in words]
        keys = _at_densities(claim, keys)
        if claim.across is None:
            return keys
        kept = [key for key in keys if self._goes_across(key, claim.across)]
        if not kept:
            what = {
                "split": "another split of the same data",
                "data": "other data",
                "recipe": "another recipe on the same data",
            }[claim.across]
            raise InputError(f"no grid moves the arm '{claim.arm}' to {what}", where="across")
        return kept

    def _opposite(self, first: RowKey, seconds: Sequence[RowKey], claim: Claim) -> list[RowKey]:
        """The rows on the other side of a place.

        That is the one of the same source. Where one of the two has its ticket from the target, or none at all, the
        source does not tell them apart; where one keeps all weights, neither does the density.
        """
        there = [key for key in seconds if (key.model, _target(key)) == (first.model, _target(first))]
        dense = self.arms[claim.arm].stays_dense or self.arms[claim.other].stays_dense
        there = [key for key in there if dense or key.density_asked == first.density_asked]
        if claim.against_source is not None:
            return there
        same = [key for key in there if _source(key) == _source(first)]
        if same:
            return same
        settled = not first.source or "target" in (self.arms[claim.arm].ticket, self.arms[claim.other].ticket)
        return [key for key in there if settled or not key.source]

    def _goes_across(self, key: RowKey, what: str) -> bool:
        if not key.source:
            return False
        same_recipe = key.source_recipe == key.target_recipe
        if key.source == key.target:
            return what == "recipe" and not same_recipe
        if _origin(self.experiment, key.source) == _origin(self.experiment, key.target):
            return what == "split" and same_recipe
        return what == "data"


def key_of(row: Row) -> RowKey:
    """The key of a planned row."""
    return RowKey(*(getattr(row, field) for field in RowKey.__struct_fields__))


def _at_densities(claim: Claim, keys: list[RowKey]) -> list[RowKey]:
    known = sorted({key.density_asked for key in keys}, reverse=True)
    for density in claim.densities:
        if not any(_is_close(density, other) for other in known):
            words = [f"{other:.4g}" for other in known]
            closest = nearest(f"{density:.4g}", words)
            raise InputError(
                f"no grid trains '{claim.arm}' at density {density:g}", where="densities",
                expected="one of " + ", ".join(words), nearest=closest,
            )  # fmt: skip
    if claim.densities:
        keys = [key for key in keys if any(_is_close(density, key.density_asked) for density in claim.densities)]
    if claim.at_most is None:
        return keys
    kept = [key for key in keys if key.density_asked <= claim.at_most * (1 + CLOSE)]
    if not kept:
        raise InputError(f"no grid trains '{claim.arm}' at a density of at most {claim.at_most:g}", where="at_most")
    return kept


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=CLOSE)


def _origin(experiment: Experiment, data: str) -> tuple[str, str]:
    return chain(experiment.data, data)[0][1].origin


def _target(key: RowKey) -> str:
    return str(Role(key.target, key.target_recipe))


def _source(key: RowKey) -> str:
    return str(Role(key.source, key.source_recipe)) if key.source else ""
