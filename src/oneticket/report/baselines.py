"""Baselines: what a network is compared with: the same place with another arm, rescaling or source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from oneticket.errors import InputError, unknown
from oneticket.report.groups import Group, at

USUAL = ("dense", "random")
OWN = "own"
AXES = ("arm", "rescale", "source", "store")
IN = " in "
"""Between the experiment and its store, in tables of several."""

Accuracies = Mapping[Any, float]
"""Seed → test accuracy."""
BySeed = TypeVar("BySeed", bound=Mapping[Any, Any])


class Baseline(NamedTuple):
    """A place with one of its words (``axis``) changed to ``value``."""

    axis: str
    value: str

    @classmethod
    def parse(cls, word: str, groups: Iterable[Group]) -> Baseline:
        """Read ``arm=winning`` or ``winning``, ``rescale=none``, ``source=mnist@sgd``, ``store=first``.

        Raises InputError, with the nearest valid word, for an unknown axis and for a value that no group has.
        """
        axis, equals, value = word.partition("=")
        baseline = cls(axis, value) if equals else cls("arm", word)
        if baseline.axis not in AXES:
            raise unknown("axis", baseline.axis, AXES, where="--against")
        known = sorted({baseline._of(group) for group in groups} - {""})
        if baseline.value not in known:
            raise unknown(baseline.axis, baseline.value, known, where="--against")
        return baseline

    @property
    def label(self) -> str:
        """How a heading names it, after 'vs'."""
        return {
            "arm": self.value,
            "rescale": f"rescale {self.value}",
            "source": f"from {self.value}",
            "store": f"that in {self.value}",
        }[self.axis]

    @property
    def phrase(self) -> str:
        """How a sentence names it, after 'with'."""
        return {
            "arm": f"the arm {self.value}",
            "rescale": f"the same arm with rescale = {self.value}",
            "source": f"the same arm from {self.value}",
            "store": f"the same arm in {self.value}",
        }[self.axis]

    @property
    def slug(self) -> str:
        """How the name of a column has it."""
        return self.value if self.axis == "arm" else f"{self.axis}_{self.value}"

    def is_of(self, group: Group) -> bool:
        """Whether ``group`` has this value itself."""
        return self._of(group) == self.value

    def instead_of(self, group: Group) -> Group:
        """``group`` with this value in place of its own."""
        if self.axis == "source":
            source, _, recipe = self.value.partition("@")
            return group._replace(source=source, source_recipe=recipe)
        if self.axis == "store":
            return group._replace(experiment=f"{group.experiment.rpartition(IN)[0]}{IN}{self.value}")
        return group._replace(arm=self.value) if self.axis == "arm" else group._replace(rescale=self.value)

    def _of(self, group: Group) -> str:
        if self.axis == "source":
            return at(group.source, group.source_recipe) if group.source else ""
        if self.axis == "store":
            return group.experiment.rpartition(IN)[2] if IN in group.experiment else ""
        return str(getattr(group, self.axis))


def parse(words: Iterable[str], groups: Iterable[Group]) -> list[Baseline]:
    """The baselines that ``words`` name; the usual ones need not be in the table.

    Raises InputError for a word that is named twice, and as `Baseline.parse` does.
    """
    words, groups = list(words), list(groups)
    if len(set(words)) != len(words):
        raise InputError("a baseline is named twice", where="--against", expected="each baseline once")
    if words == list(USUAL):
        return [Baseline("arm", arm) for arm in USUAL]
    return [Baseline.parse(word, groups) for word in words]


class Baselines(Generic[BySeed]):
    """The accuracies of every group by seed, or whatever else its networks have, looked up for comparison.

    A place that the baseline arm does not have itself is filled by that arm's networks for the same target, rescaling
    and density, if these are the same for all its sources and do not belong to another source: the arm has no source
    or shares its networks between several, or one of the two arms is ``own`` or has no source. Where either arm keeps
    all weights, the density does not matter; where the baseline does, neither does the rescaling.
    """

    def __init__(self, accuracies: Mapping[Group, BySeed]) -> None:
        self._exact = accuracies
        self._shared: dict[tuple[Hashable, ...], BySeed | None] = {}
        self._sources: dict[tuple[Hashable, ...], set[tuple[str, str]]] = defaultdict(set)
        for group, values in accuracies.items():
            arm = (group.section, group.arm, group.rescale)
            for key in (group.density_asked, "any", *(["all"] if _keeps_all(group) else [])):
                self._sources[*arm, key].add((group.source, group.source_recipe))
                if self._shared.setdefault((*arm, key), values) != values:
                    self._shared[*arm, key] = None

    def find(self, group: Group, baseline: Baseline) -> BySeed | None:
        """The accuracies to compare ``group`` with; None without a unique baseline, or for the baseline itself."""
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
