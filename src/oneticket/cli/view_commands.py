"""Commands that show what there is: list, doctor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from oneticket.lab.spec.arms import Arm


_KEYS = {"rescale": "rescaling"}
"""The key of experiment files → the kind of what it names, where the two differ."""


@click.command("list")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def list_everything(kind: str | None, as_json: bool) -> None:
    """Everything that can be named in an experiment file, one line each with its source; or one KIND of it."""
    from oneticket.errors import unknown

    kinds = _kinds()
    if kind in _KEYS:
        kind = _KEYS[kind]
    if kind is not None and kind not in kinds:
        raise unknown("kind", kind, kinds)
    shown = {k: v for k, v in kinds.items() if kind in (None, k)}
    if as_json:
        click.echo(json.dumps(shown, indent=1, ensure_ascii=False))
        return
    for title, entries in shown.items():
        click.secho(title, bold=True)
        width = max(len(entry["name"]) for entry in entries)
        for entry in entries:
            source = f"  ({entry['source']})" if entry["source"] else ""
            click.echo(f"  {entry['name']:<{width}}  {entry['summary']}{source}")
        click.echo()


def _kinds() -> dict[str, list[dict[str, str]]]:
    from oneticket.data import SOURCES
    from oneticket.lab.execution.engines import ENGINES
    from oneticket.lab.spec.arms import ARM_SOURCES, ARMS
    from oneticket.methods import METHODS, PRETRAININGS
    from oneticket.models import MODELS
    from oneticket.pruning import ALLOCATIONS, CONTROLS, CRITERIA
    from oneticket.weights import DRAWS, NORMS, RESCALINGS

    arms = [
        {
            "name": name,
            "summary": _axes(arm),
            "source": ARM_SOURCES[name],
        }
        for name, arm in ARMS.items()
    ]
    registries = (
        CRITERIA, ALLOCATIONS, CONTROLS, DRAWS, NORMS, RESCALINGS, METHODS, PRETRAININGS, MODELS, SOURCES, ENGINES,
    )  # fmt: skip
    return {"arm": arms} | {
        registry.kind: [{"name": e.name, "summary": e.summary, "source": e.source} for e in registry.entries()]
        for registry in registries
    }


def _axes(arm: Arm) -> str:
    whose = "" if arm.mask == "dense" else " on the target" if arm.scored_on_target else f" of the {arm.ticket}"
    values = f" of the {arm.values}" if arm.values else ""
    return f"{arm.mask} mask{whose}, {arm.weights} weights{values}, {arm.norms} norms, {arm.method}".replace(
        ", as-drawn norms", ""
    )


@click.command()
@click.option("--kernels", is_flag=True, help="Try small convolutions of every kind against float64: minutes.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def doctor(kernels: bool, as_json: bool) -> int:
    """What this machine has: devices, precision, threads, versions, extras, and kernels that are wrong here."""
    if kernels:
        return _sweep(as_json=as_json)
    facts = _facts()
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return 0
    for title, lines in facts.items():
        click.secho(title, bold=True)
        for key, value in lines.items():
            click.echo(f"  {key:<22} {value}")
    return 0


def _sweep(*, as_json: bool) -> int:
    """Say which convolutions are wrong on this machine, and whether the layers of networks are right all the same."""
    from oneticket.kernels.machine import this_machine
    from oneticket.kernels.sweep import CHANNELS, kinds, spans, sweep

    found: dict[bool, list[dict[str, Any]]] = {}
    chosen, faulty = kinds(), []
    for layers in (False, True):
        what = "layers as networks here have them" if layers else "convolutions of PyTorch"
        found[layers] = []
        for number, (kind, wrong) in enumerate(sweep(chosen, layers=layers), start=1):
            click.echo(f"\r{what}: {number}/{len(chosen)} kinds ", nl=False, err=True)
            if wrong is not None:
                found[layers].append({"kind": str(kind), "channels": spans(wrong.channels), "fault": wrong.fault})
                faulty.append(kind)
        click.echo(err=True)
        chosen = list(faulty)
    if as_json:
        facts = {"machine": str(this_machine()), "kinds": len(kinds()), "wrong": found[False], "layers": found[True]}
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return 1 if found[True] else 0
    click.echo(f"{this_machine()}: {len(kinds())} kinds of convolutions, {CHANNELS[0]} to {CHANNELS[-1]} channels")
    for layers, title in ((False, "PyTorch computes wrongly here"), (True, "wrong in networks here as well")):
        click.secho(f"{title}: {'nothing' if not found[layers] else ''}".rstrip(), bold=True)
        for line in found[layers]:
            click.echo(f"  {line['kind']}; {line['channels']} channels: {line['fault']}")
    return 1 if found[True] else 0


def _facts() -> dict[str, dict[str, Any]]:
    import importlib.metadata
    import importlib.util
    import os
    import platform

    import torch

    from oneticket.data import default_cache
    from oneticket.kernels.machine import this_machine
    from oneticket.kernels.verdicts import known_faults
    from oneticket.lab.execution.capacity import GIB, cores, default_workers
    from oneticket.training.precision import bf16_units
    from oneticket.version import __version__

    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    capability = torch.backends.cpu.get_cpu_capability()
    devices = {
        f"cuda:{i}": f"{torch.cuda.get_device_name(i)}, {torch.cuda.mem_get_info(i)[1] / 2**30:.0f} GiB; "
        f"fastest in {_fastest(f'cuda:{i}')}"
        for i in range(torch.cuda.device_count())
    } or {"cuda": "none"}
    beside, memory = default_workers(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    extras = {"data": "datasets", "hub": "huggingface_hub"}
    tried, faulty = known_faults()
    return {
        "versions": {
            "oneticket": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "safetensors", "filelock", "matplotlib")},
        },
        "processor": {
            "name": this_machine().processor,
            "cores": cores(),
            "vector instructions": capability,
            "bfloat16 in hardware": "yes" if bf16_units() else "no: float32 is faster",
            "fastest precision": _fastest("cpu"),
            "workers by default": f"{beside.count}, one thread each: {beside.reason}",
            "memory": f"{memory / GIB:.0f} GiB",
        },
        "kernels": {
            "compared here so far": f"{tried} operations with the plain path (NCHW, float32), {len(faulty)} differ",
            **{
                f"differs ({number})": f"{line.about}, {line.threads} threads: {line.fault}"
                for number, line in enumerate(faulty, start=1)
            },
        },
        "devices": devices,
        "extras": {
            extra: f"{package} {version(package)}"
            + ("" if importlib.util.find_spec(package) else f": pip install 'oneticket[{extra}]'")
            for extra, package in extras.items()
        },
        "places": {"decoded data": str(default_cache())},
    }


def _fastest(device: str) -> str:
    from oneticket.training.precision import fastest

    found = fastest(device)
    return f"{found.precision}: {found.reason}"
