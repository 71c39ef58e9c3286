"""Claims in a store: written down before the first network is there, and judged by the table of results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oneticket.lab.cells.store import Store
from oneticket.lab.planning.rows import RowKey
from oneticket.verdicts import Place, Question, Verdict, judge

if TYPE_CHECKING:  # a store is judged without torch, which planning loads
    from oneticket.lab.planning.plan import Plan

Key = tuple[Any, ...]


def claims_of(plan: Plan, store: Store, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a table of the store says of the claims of its experiment.

    ``claims`` holds those of the file with their places. ``registered`` holds every claim that was ever made there, by
    its digest: how many of the networks that the experiment compares were there at that time, and its seeds. A claim
    that was made before the first of them is said anew while there is still none.

    Parameters
    ----------
    plan, store : the plan and the store.
    known : the table that the store has so far.

    Returns
    -------
    dict
        Empty where there are no claims and never were.
    """
    before: dict[str, Any] = dict((known or {}).get("registered", {}))
    if not (plan.claims.asked or before):
        return {}
    networks = {row.cell for row in plan.rows}
    there, seeds = len(store.finished(networks)), sorted({row.seed for row in plan.rows})
    now = {"there": there, "networks": len(networks), "seeds": seeds}
    content = []
    for asked in plan.claims.asked:
        name = asked.digest
        if name not in before or not there:
            before[name] = {"says": asked.claim.says, **now}
        claim = asked.claim
        content.append(
            {
                "digest": name,
                "says": claim.says,
                "comparison": claim.comparison,
                "direction": claim.direction,
                "margin": None if claim.equivalent is None else claim.equivalent / 100,
                "places": [[_listed(key) for key in pair] for pair in asked.places],
            }
        )
    return {"claims": content, "registered": before}


def _listed(key: RowKey) -> list[Any]:
    return [getattr(key, field) for field in RowKey.__struct_fields__]


def verdicts(store: Store, rows: Sequence[Mapping[str, Any]], experiment: str | None = None) -> list[Verdict]:
    """The verdicts on the claims of a store, experiments by name, each in the order of its file.

    Parameters
    ----------
    store : the store.
    rows : its table of results.
    experiment : only the claims of this one.
    """
    accuracies: dict[Key, dict[int, float]] = defaultdict(dict)
    images: dict[Key, int | None] = {}
    for row in rows:
        if row["test_accuracy"] is not None:
            accuracies[_key(row)][row["seed"]] = row["test_accuracy"]
            images[_key(row)] = row.get("test_images")
    found = []
    for content in store.experiments(experiment):
        claims = content.get("claims", ())
        if not claims:
            continue
        planned = [dict(zip(content["columns"], values, strict=True)) for values in content["rows"]]
        missing = _missing(store, planned)
        seeds = sorted({row["seed"] for row in planned})
        for claim in claims:
            late = _late(content["registered"][claim["digest"]], seeds)
            question = Question(
                claim["says"], claim["comparison"], claim["direction"], claim["margin"], content["name"], late
            )
            pairs = [(tuple(first), tuple(second)) for first, second in claim["places"]]
            places = [
                Place(_where(first, second, pairs), accuracies[first], accuracies[second],
                      tuple(dict.fromkeys((*missing[first], *missing[second]))), images.get(first))
                for first, second in pairs
            ]  # fmt: skip
            found.append(judge(question, places))
    return found


def withdrawn(store: Store, experiment: str | None = None) -> list[str]:
    """Sentences of claims that were made in a store, and are no longer in the file of their experiment."""
    found: dict[str, None] = {}
    for content in store.experiments(experiment):
        kept = {claim["says"] for claim in content.get("claims", ())}
        for entry in content.get("registered", {}).values():
            if entry["says"] not in kept:
                found[entry["says"]] = None
    return list(found)


def _key(row: Mapping[str, Any]) -> Key:
    return tuple(row.get(field) for field in RowKey.__struct_fields__)


def _missing(store: Store, planned: Iterable[Mapping[str, Any]]) -> dict[Key, list[str]]:
    """For each key the networks that are not there, in words."""
    rows = list(planned)
    there = store.finished({row["cell"] for row in rows})
    found: dict[Key, list[str]] = defaultdict(list)
    for row in rows:
        if row["cell"] not in there:
            rate = "" if row.get("lr") is None else f", lr {row['lr']:g}"
            name = f"{row['arm']} on {row['target']}@{row['target_recipe']}"
            found[_key(row)].append(f"{name}, {100 * row['density_asked']:.3g} %{rate}, seed {row['seed']}")
    return found


def _late(entry: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """What was there when a claim was made; empty where it came first."""
    if entry["there"]:
        return f"added after {entry['there']} of {entry['networks']} networks were there"
    if entry["seeds"] != list(seeds):
        return f"made for {len(entry['seeds'])} seeds, of which there are {len(seeds)} now"
    return ""


def _where(first: Key, second: Key, pairs: Sequence[tuple[Key, Key]]) -> str:
    """A place in words: the target, the source and density where there are any, the model where there are several."""
    one, other = RowKey(*first), RowKey(*second)
    words = [f"{one.target}@{one.target_recipe}"]
    source = one if one.source else other
    if source.source:
        words.append(f"from {source.source}@{source.source_recipe}")
    density = min(one.density_asked, other.density_asked)
    words += [f"{100 * density:.3g} %"] if density < 1 else []
    if len({key[1] for pair in pairs for key in pair}) > 1:
        words.append(one.model)
    return ", ".join(words)
