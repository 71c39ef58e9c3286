"""Commands that show what is available: list, doctor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from oneticket.kernels.sweep import Kind
    from oneticket.lab.spec.arms import Arm


_KEYS = {"mask": "control", "weights": "draw", "rescale": "rescaling"}
"""Keys of an arm in an experiment file → the kind of what they name."""


@click.command("list")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def list_everything(kind: str | None, as_json: bool) -> None:
    """Everything that an experiment file or a figure can name, one line each with its source; or only one KIND."""
    from oneticket.errors import unknown

    kinds = _kinds()
    kind = _KEYS.get(kind, kind) if kind is not None else None
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
    from oneticket.lab.spec.ready_claims import READY
    from oneticket.methods import METHODS, PRETRAININGS
    from oneticket.models import MODELS
    from oneticket.pruning import ALLOCATIONS, CONTROLS, CRITERIA
    from oneticket.report.references import REFERENCES
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
    claims = [{"name": name, "summary": ready.claim.says, "source": ""} for name, ready in READY.items()]
    references = [
        {"name": name, "summary": f"{known.network} on {known.data}: {known.protocol}", "source": known.source}
        for name, known in REFERENCES.items()
    ]
    return {"arm": arms, "claim": claims, "reference": references} | {
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
    """Show which convolutions are wrong on this machine; exit code 1 if layers of networks are wrong too."""
    from oneticket.kernels.machine import this_machine
    from oneticket.kernels.sweep import kinds

    chosen = kinds()
    alone, faulty = _tried(chosen, layers=False)
    in_networks, _ = _tried(faulty, layers=True)
    if as_json:
        facts = {"machine": str(this_machine()), "kinds": len(chosen), "wrong": alone, "layers": in_networks}
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        _show_sweep(len(chosen), alone, in_networks)
    return 1 if in_networks else 0


def _tried(chosen: Sequence[Kind], *, layers: bool) -> tuple[list[dict[str, Any]], list[Kind]]:
    """The faults found among these kinds of convolutions, as facts and as kinds; progress on standard error."""
    from oneticket.kernels.sweep import spans, sweep

    what = "layers as networks here have them" if layers else "convolutions of PyTorch"
    facts, faulty = [], []
    for number, (kind, wrong) in enumerate(sweep(chosen, layers=layers), start=1):
        click.echo(f"\r{what}: {number}/{len(chosen)} kinds ", nl=False, err=True)
        if wrong is not None:
            facts.append({"kind": str(kind), "channels": spans(wrong.channels), "fault": wrong.fault})
            faulty.append(kind)
    click.echo(err=True)
    return facts, faulty


def _show_sweep(count: int, alone: Sequence[dict[str, Any]], in_networks: Sequence[dict[str, Any]]) -> None:
    from oneticket.kernels.machine import this_machine
    from oneticket.kernels.sweep import CHANNELS

    click.echo(f"{this_machine()}: {count} kinds of convolutions, {CHANNELS[0]} to {CHANNELS[-1]} channels")
    for title, lines in (("PyTorch computes wrongly here", alone), ("wrong in networks here as well", in_networks)):
        click.secho(f"{title}: {'' if lines else 'nothing'}".rstrip(), bold=True)
        for line in lines:
            click.echo(f"  {line['kind']}; {line['channels']} channels: {line['fault']}")


def _facts() -> dict[str, dict[str, Any]]:
    from oneticket.data import default_cache

    return {
        "versions": _versions(),
        "processor": _processor(),
        "kernels": _kernels(),
        "devices": _devices(),
        "extras": _extras(),
        "places": {"decoded data": str(default_cache())},
    }


def _versions() -> dict[str, str]:
    import platform

    from oneticket.version import __version__

    packages = ("torch", "numpy", "safetensors", "filelock", "matplotlib")
    return {
        "oneticket": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def _processor() -> dict[str, Any]:
    import os

    import torch

    from oneticket.kernels.machine import this_machine
    from oneticket.lab.execution.capacity import GIB, cores, default_workers
    from oneticket.training.precision import bf16_units

    workers, memory = default_workers(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "name": this_machine().processor,
        "cores": cores(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16 in hardware": "yes" if bf16_units() else "no: float32 is faster",
        "fastest precision": _fastest("cpu"),
        "workers by default": f"{workers.count}, one thread each: {workers.reason}",
        "memory": f"{memory / GIB:.0f} GiB",
    }


def _kernels() -> dict[str, str]:
    from oneticket.kernels.sparse.building import LOST, compiler, why_not
    from oneticket.kernels.verdicts import known_faults

    tried, faulty = known_faults()
    lacking = why_not()
    return {
        "sparse layers": f"compiled by {' '.join(compiler())}" if lacking is None else f"{lacking}: {LOST}",
        "compared here so far": f"{tried} operations with the plain path (NCHW, float32), {len(faulty)} differ",
        **{
            f"differs ({number})": f"{line.about}, {line.threads} threads: {line.fault}"
            for number, line in enumerate(faulty, start=1)
        },
    }


def _devices() -> dict[str, str]:
    import torch

    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return {name: _device(name) for name in names} or {"cuda": "none"}


def _device(name: str) -> str:
    import torch

    from oneticket.lab.execution.capacity import GIB

    memory = torch.cuda.mem_get_info(name)[1] / GIB
    return f"{torch.cuda.get_device_name(name)}, {memory:.0f} GiB; fastest in {_fastest(name)}"


def _extras() -> dict[str, str]:
    import importlib.util

    return {
        extra: f"{package} {_version(package)}"
        + ("" if importlib.util.find_spec(package.partition("-")[0]) else f": pip install 'oneticket[{extra}]'")
        for extra, package in (
            ("data", "datasets"),
            ("hub", "huggingface_hub"),
            ("share", "fsspec"),
            ("onnx", "onnxruntime"),
            ("tensorboard", "tensorboard"),
            ("mlflow", "mlflow-skinny"),
            ("wandb", "wandb"),
            ("trackio", "trackio"),
        )
    }


def _version(package: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _fastest(device: str) -> str:
    from oneticket.training.precision import fastest

    found = fastest(device)
    return f"{found.precision}: {found.reason}"
