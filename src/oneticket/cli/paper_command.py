"""The command that runs, judges and draws one figure of the paper: paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from oneticket.cli import tables
from oneticket.cli.claim_commands import told_verdicts
from oneticket.cli.code_options import CodeOptions
from oneticket.cli.figure_command import drawn, rows_for
from oneticket.cli.lab_commands import computed, plan, print_end
from oneticket.cli.text import harmless
from oneticket.errors import InputError

FIGURES = ("fig1a", "fig1b", "fig2", "fig3", "fig4", "fig5", "figA1")
SCALES = ("small", "gpu", "paper")

_PACKAGED = Path(__file__).with_name("paper")
FILES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "examples" / "paper"
"""The experiment files: a wheel holds those of the folder ``examples/paper`` of a checkout."""

_PATH = re.compile(r'^path = "(?P<folder>.*)/(?P<name>[^/"]+)"$', re.MULTILINE)


class _Drawing(NamedTuple):
    """One figure to draw: the name of its file, its kind, and what it shows."""

    name: str
    kind: str
    target: str | None
    model: str | None
    arms: tuple[str, ...]


@click.command()
@click.argument("figure", type=click.Choice(FIGURES))
@click.option(
    "--scale", type=click.Choice(SCALES), default="small", show_default=True,
    help="Two cores; one GPU; the original grid, which is to be planned rather than run.",
)  # fmt: skip
@click.option("--plan", "only_plan", is_flag=True, help="Only show what would be computed, and the estimated time.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the image folders.  [default: ../shared/data]")
@click.option("--store", type=click.Path(path_type=Path), help="Folder of cells.  [default: stores/paper-SCALE]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the figures.  [default: paper/FIGURE-SCALE]")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of decoded data.  [default: per user]")
@click.option("--workers", type=click.IntRange(1), help="Cells side by side.  [default: as many as fit]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.pass_context
def paper(
    context: click.Context, figure: str, scale: str, only_plan: bool, data: Path | None, store: Path | None,
    out: Path | None, cache: Path | None, workers: int | None, device: str,
) -> int:  # fmt: skip
    """Run FIGURE of Morcos et al. 2019 at a scale, judge its claims and draw it; exit codes are those of `verify`."""
    name = f"{figure}-{scale}"
    folder, root = out or Path("paper") / name, store or Path("stores") / f"paper-{scale}"
    file = experiment_file(name, data, folder)
    click.echo(f"{about(file)}\n")
    if only_plan:
        context.invoke(plan, experiment=file, store=root, cache=cache, workers=workers)
        return 0
    ended = computed(file, root, cache, "local", workers, 1, device, CodeOptions(), quiet=False)
    print_end(ended.labels, ended.summary, root, err=True)
    code = told_verdicts(file, root, name, as_json=False)
    for path, caption in draw_all(root, name, folder):
        click.echo(f"{path}\n  {harmless(caption)}")
    return code


def experiment_file(name: str, data: Path | None, folder: Path) -> Path:
    """The experiment file of this name; with ``data``, written into ``folder`` with the paths of that place.

    Raises
    ------
    InputError
        Where the images are missing.
    """
    file = FILES / f"{name}.toml"
    text = file.read_text(encoding="utf-8")
    paths = list(_PATH.finditer(text))
    for found in paths:
        place = data if data is not None else file.parent / found["folder"]
        if not (place / found["name"]).is_dir():
            raise InputError(
                f"'{place}' has no folder '{found['name']}'",
                where="--data",
                expected=f"a folder with {', '.join(dict.fromkeys(found['name'] for found in paths))}, each with "
                "train.parquet and test.parquet",
            )
    if data is None:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    ours = folder / file.name
    ours.write_text(
        _PATH.sub(lambda found: f'path = "{_toml(data.resolve() / found["name"])}"', text), encoding="utf-8"
    )
    return ours


def _toml(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def about(file: Path) -> str:
    """What a file says of itself before its first key: its figure, and what differs from the original."""
    comment = file.read_text(encoding="utf-8").partition("\nname ")[0]
    lines = [line.removeprefix("#").strip() for line in comment.splitlines()]
    return "\n".join(line for line in lines if not line.startswith("oneticket ")).strip()


def draw_all(root: Path, name: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """Draw the figures of an experiment into ``folder``: the path and the caption of each, or why it is not drawn.

    After hours of computing, one figure that lacks its networks must not take the others along.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tidy = tables.rows_of(root, name)
    for each in _drawings(name.partition("-")[0], tidy):
        path = folder / f"{each.name}.svg"
        try:
            rows = rows_for(root, each.kind, name, each.model, each.target, each.arms)
            yield path, drawn(rows, each.kind, path, target=each.target, arms=each.arms)
        except InputError as error:
            yield path, f"not drawn: {error}"


def _drawings(figure: str, tidy: list[dict[str, Any]]) -> Iterator[_Drawing]:
    """What stands for a figure of the paper: its own kind first, then accuracy against density of each target."""
    places = dict.fromkeys((row["model"], f"{row['target']}@{row['target_recipe']}") for row in tidy)
    if figure in ("fig3", "fig4") and tidy:
        yield _Drawing(f"{figure}-heat-map", "heat-map", None, None, ())
    for model, target in places:
        parts = [figure, *([model.partition("(")[0]] if len({m for m, _ in places}) > 1 else [])]
        parts += [target.replace("@", "-")] if len({t for _, t in places}) > 1 else []
        if figure == "fig1b":
            yield _Drawing("-".join(parts), "layers", target, model, ("own",))
            parts.append("accuracy")
        yield _Drawing("-".join(parts), "accuracy", target, model, ())
