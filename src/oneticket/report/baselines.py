"""What the networks of a table are compared with: the same place with another arm, rescaling or source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from oneticket.errors import InputError, unknown
from oneticket.report.groups import Group, at

USUAL = ("dense", "random")
OWN = "own"
AXES = ("arm", "rescale", "source")

Accuracies = Mapping[Any, float]
"""Seed → test accuracy."""


class Baseline(NamedTuple):
    """One word of a place changed, and the rest of it left as it is."""

    axis: str
    value: str

    @classmethod
    def parse(cls, word: str, groups: Iterable[Group]) -> Baseline:
        """``arm=winning`` or ``winning``, ``rescale=none``, ``source=mnist@sgd``; InputError for what isn't there."""
        axis, equals, value = word.partition("=")
        baseline = cls(axis, value) if equals else cls("arm", word)
        if baseline.axis not in AXES:
            raise unknown("axis", baseline.axis, AXES, where="--against")
        there = sorted({baseline._of(group) for group in groups} - {""})
        if baseline.value not in there:
            raise unknown(baseline.axis, baseline.value, there, where="--against")
        return baseline

    @property
    def label(self) -> str:
        """In a heading after 'vs'."""
        return {"arm": self.value, "rescale": f"rescale {self.value}", "source": f"from {self.value}"}[self.axis]

    @property
    def phrase(self) -> str:
        """In a sentence after 'with'."""
        return {
            "arm": f"the arm {self.value}",
            "rescale": f"the same arm with rescale = {self.value}",
            "source": f"the same arm from {self.value}",
        }[self.axis]

    @property
    def slug(self) -> str:
        """In the name of a column."""
        return self.value if self.axis == "arm" else f"{self.axis}_{self.value}"

    def is_of(self, group: Group) -> bool:
        """Whether the group is such a one itself."""
        return self._of(group) == self.value

    def instead_of(self, group: Group) -> Group:
        """The place of ``group`` with the one word changed."""
        if self.axis == "source":
            source, _, recipe = self.value.partition("@")
            return group._replace(source=source, source_recipe=recipe)
        return group._replace(arm=self.value) if self.axis == "arm" else group._replace(rescale=self.value)

    def _of(self, group: Group) -> str:
        if self.axis == "source":
            return at(group.source, group.source_recipe) if group.source else ""
        return str(getattr(group, self.axis))


def parse(words: Iterable[str], groups: Iterable[Group]) -> list[Baseline]:
    """The baselines of these words, each once; of the usual ones those that are there."""
    words, groups = list(words), list(groups)
    if len(set(words)) != len(words):
        raise InputError("one baseline is named twice", where="--against", expected="each once")
    if words == list(USUAL):
        return [Baseline("arm", arm) for arm in USUAL]
    return [Baseline.parse(word, groups) for word in words]


class Baselines:
    """The accuracies of every group, looked up for comparison.

    An arm that is not at a place itself stands in there when all that it has for this target, rescaling and density are
    the same networks, and it is none of another source's: it has no source or is the same for several, or one of the
    two is the target's own ticket or has no source. Where either keeps all weights, the density says nothing, and where
    the baseline does, nor does the rescaling.
    """

    def __init__(self, accuracies: Mapping[Group, Accuracies]) -> None:
        self._exact = accuracies
        self._shared: dict[tuple[Hashable, ...], Accuracies | None] = {}
        self._sources: dict[tuple[Hashable, ...], set[tuple[str, str]]] = defaultdict(set)
        for group, values in accuracies.items():
            arm = (group.section, group.arm, group.rescale)
            for key in (group.density_asked, "any", *(["all"] if _keeps_all(group) else [])):
                self._sources[*arm, key].add((group.source, group.source_recipe))
                if self._shared.setdefault((*arm, key), values) != values:
                    self._shared[*arm, key] = None

    def find(self, group: Group, baseline: Baseline) -> Accuracies | None:
        """What ``group`` is compared with; None where there is none, or more than one, or it is that itself."""
        if baseline.is_of(group):
            return None
        place = baseline.instead_of(group)
        if place in self._exact or baseline.axis != "arm":
            return self._exact.get(place)
        arm = (place.section, place.arm)
        keys: list[tuple[Hashable, ...]] = [(*arm, place.rescale, place.density_asked)]
        if _keeps_all(group):
            keys.append((*arm, place.rescale, "any"))
        keys += [(*arm, place.rescale, "all"), (*arm, "none", "all")]
        key = next((key for key in keys if key in self._shared), None)
        return self._shared[key] if key is not None and self._stands_in(key, group, baseline) else None

    def _stands_in(self, key: tuple[Hashable, ...], group: Group, baseline: Baseline) -> bool:
        sources = self._sources[key]
        if not group.source or OWN in (group.arm, baseline.value):
            return True
        return len(sources) > 1 or sources <= {("", ""), (group.source, group.source_recipe)}


def _keeps_all(group: Group) -> bool:
    return group.density_asked == 1
