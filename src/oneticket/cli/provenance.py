"""What a report says of where its networks come from: the store's facts, a methods paragraph, the literature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oneticket.lab.results.provenance import Origins
    from oneticket.report import Provenance


def provenance(place: Path, rows: Sequence[Mapping[str, Any]], experiment: str | None) -> Provenance:
    """Everything that is known of the networks at ``place``: a store, or a table in CSV, which knows little."""
    from oneticket.report import Provenance

    if place.is_file():
        used = {kind: {str(row[kind]) for row in rows} for kind in ("arm", "rescale")}
        facts = [("table", [f"read from {place.name}, which does not say where its networks were trained"])]
        return Provenance(facts=facts, commands=[f"oneticket report {place.name}"], bibtex=_bibtex(used))
    from oneticket.lab.cells.store import Store
    from oneticket.lab.results.provenance import origins

    found = origins(Store.open(place), experiment)
    runs = [f"oneticket run {name} --store {place.name}" for name, _ in found.files]
    return Provenance(
        facts=found.facts,
        files=found.files,
        commands=[*runs, f"oneticket report {place.name}"],
        methods=_methods(found, rows),
        bibtex=_bibtex(found.used),
    )


def joint(parts: Mapping[str, Provenance], places: Sequence[Path]) -> Provenance:
    """What is known of the networks of several stores, each fact with the name of its store."""
    from oneticket.report import Provenance

    found = parts.values()
    runs = [command for part in found for command in part.commands if command.startswith("oneticket run")]
    entries = dict.fromkeys(entry for part in found for entry in part.bibtex.strip().split("\n\n") if entry)
    return Provenance(
        facts=[(f"{name}: {term}", told) for name, part in parts.items() for term, told in part.facts],
        files=[file for part in found for file in part.files],
        commands=[*runs, f"oneticket report {' '.join(place.name for place in places)} --out report"],
        methods=" ".join(f"{name}: {part.methods}" for name, part in parts.items() if part.methods),
        bibtex="\n\n".join(entries) + "\n" if entries else "",
    )


def _methods(found: Origins, rows: Sequence[Mapping[str, Any]]) -> str:
    """A paragraph for a paper, of what the store knows."""
    models = _listed(sorted({row["model"] for row in rows}))
    seeds = len({row["seed"] for row in rows})
    told = [f"Networks ({models}) were trained with oneticket ({_listed(found.versions)})."]
    for name, recipe in sorted(found.recipes.items()):
        told.append(
            f"The recipe {name} is {recipe['optimizer']} with a learning rate of {recipe['lr']:g}, batches of "
            f"{recipe['batch_size']}, weight decay {recipe['weight_decay']:g}, for {recipe['epochs']} epochs in "
            f"{recipe['precision']}."
        )
    for search in found.searches:
        told.append(
            f"Tickets were found by pruning {100 * search['prune']:g} % of the remaining weights a round by "
            f"{search['criterion']} ({search['allocation']}), rewinding to {search['rewind']}."
        )
    told.append(f"The arms {_listed(sorted(found.used['arm']))} were each trained with {seeds} seeds.")
    told.append(
        "Accuracies are on the test split after the last step. Differences are paired by seed; intervals are Student's "
        "95 % intervals, and significance is Holm's at 0.05."
    )
    return " ".join(told)


def _bibtex(used: Mapping[str, Iterable[str]]) -> str:
    from oneticket.lab.spec.arms import ARM_SOURCES
    from oneticket.pruning import ALLOCATIONS, CRITERIA
    from oneticket.report.literature import bibtex
    from oneticket.weights import RESCALINGS

    sources = [ARM_SOURCES[arm] for arm in sorted(used.get("arm", ())) if arm in ARM_SOURCES]
    for kind, registry in (("criterion", CRITERIA), ("allocation", ALLOCATIONS), ("rescale", RESCALINGS)):
        named = {entry.name: entry.source for entry in registry.entries()}
        sources += [named[word] for word in sorted(used.get(kind, ())) if named.get(word)]
    return bibtex(sources)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "unknown"
