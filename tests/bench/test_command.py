"""The command: rows measured end to end at a tiny size, its options, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from oneticket.bench import check, measure, rows
from oneticket.bench.check import read_ratios
from oneticket.bench.measures import models, steps
from oneticket.bench.measures.ceiling import Ceiling
from oneticket.bench.outcome import Outcome, read_outcome, result
from oneticket.bench.pairing import Spread
from oneticket.bench.rows import ROWS, STEPS, Step
from oneticket.bench.workload import Workload
from oneticket.cli import main
from oneticket.masks import Masks
from oneticket.prunable import Prunable

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, tiny: Workload, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``oneticket bench WORDS`` in an empty folder, on tiny workloads: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    small = {
        name: Step(step.bout, *(replace(tiny, precision=w.precision, density=w.density) for w in step[1:]))
        for name, step in STEPS.items()
    }
    for module in (rows, steps, measure):
        monkeypatch.setattr(module, "STEPS", small)
    ceiling = Ceiling(float32=1e11, bf16=2e11, copy=1e10)
    monkeypatch.setattr(measure, "measure_ceiling", lambda *_, **__: ceiling)

    def bench(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bench", *(() if "--threads" in words else ("--threads", "1")), *words])
        out, error = capsys.readouterr()
        return int(ended.value.code or 0), out, error

    return bench


@pytest.mark.slow
def test_a_run_tells_every_repetition(call: Call) -> None:
    code, out, error = call("--short", "--only", "lenet", "--only", "vgg19-sparse", "--repeats", "3", "--json")
    assert code == 0, error
    content = json.loads(out)
    found = {entry["row"]: entry for entry in content["results"]}
    sparse = found["vgg19-sparse"]
    if sparse["measured"] is not None:  # where the processor has bf16
        assert set(sparse["seconds"]) == {"ours", "reference", "plain", "dense"}
        assert set(sparse["against"]) == {"plain", "dense"}
        assert sparse["details"]["density"] == pytest.approx(0.02, abs=0.01)
    lenet = found["lenet"]
    ratios = [a / b for a, b in zip(lenet["seconds"]["reference"], lenet["seconds"]["ours"], strict=True)]
    assert lenet["measured"]["values"] == pytest.approx(ratios)
    assert len(ratios) == 3
    assert lenet["met"] is None
    assert (content["repeats"], content["short"], content["device"]) == (3, True, "cpu")
    assert content["threads"] == 1
    assert "turn 3 of 3" in error


def test_rows_of_one_bout_share_the_reference_loop(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[str] = []
    for name in ("time_reference", "time_plain", "time_ours"):
        monkeypatch.setattr(steps, name, lambda *_, name=name, **__: came.append(name) or 1.0)
    rows_of_a_bout = ("--only", "resnet20", "--only", "resnet20-bf16")
    monkeypatch.setattr("oneticket.bench.machine.bf16_units", lambda _: ("avx512_bf16",))
    code, out, _ = call(*rows_of_a_bout, "--repeats", "2", "--threads", "2", "--json")
    assert code == 0
    assert json.loads(out)["threads"] == 2
    assert torch.get_num_threads() == 1
    assert came == ["time_reference", "time_plain", "time_ours", "time_ours"] * 2
    assert [entry["met"] for entry in json.loads(out)["results"]] == [False, False]


def test_where_there_is_no_bf16_that_is_said(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneticket.bench.machine.bf16_units", lambda _: ())
    code, out, _ = call("--short", "--only", "resnet20-bf16", "--repeats", "1")
    assert code == 0
    assert "not measured: this processor has no bf16 in hardware" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "lennet"], "did you mean 'lenet'?"),
        (["--only", "gpu-vgg19"], "not measured on cpu"),
        (["--check"], "--check needs --short"),
        (["--ratios", "r.json"], "--ratios needs --short"),
        (["--check", "--short", "--threads", "2"], "--check needs one thread"),
        (["--profile-models", "--threads", "1", "--short", "--repeats", "2"], "does not go with --repeats, --short"),
        (["--profile-models", "--only", "lenet"], "unknown model 'lenet'"),
        (["--device", "cuda"], "torch sees no CUDA device"),
        (["--from", "none.json"], "cannot be read"),
        (["--from", "none.json", "--from", "none.json"], "cannot be read"),
        (["--out", "nowhere/run.json"], "cannot be written"),
        (["--markdown", "none.md"], "cannot be read"),
        (["--short", "--only", "vgg19-sparse", "--ticket", "none.safetensors"], "none.safetensors"),
        (["--repeats", "0"], "--repeats"),
    ],
)
def test_bad_input_ends_with_2(call: Call, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, error = call(*words)
    assert (code, out) == (2, "")
    assert told in " ".join(error.split())


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.3, 0), (1.4, 1)])
def test_a_fallen_ratio_ends_with_1(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, code: int
) -> None:
    words = ("--short", "--only", "lenet", "--repeats", "1")
    assert call(*words, "--out", "now.json", "--ratios", "ratios.json")[0] == 0
    before = {
        row: {k: factor * r for k, r in now.items()} for row, now in read_ratios(tmp_path / "ratios.json").items()
    }
    assert list(before) == ["lenet"]
    monkeypatch.setattr(check, "read_ratios", lambda: before)
    ended, _, error = call("--check", "--from", "now.json")
    assert ended == code
    assert ("fallen: lenet: " in error) == bool(code)


@pytest.mark.parametrize(("second", "code"), [(0.7, 1), (0.8, 0)])
def test_a_row_that_looks_fallen_is_measured_once_more_alone(
    call: Call, monkeypatch: pytest.MonkeyPatch, second: float, code: int
) -> None:
    speeds, asked = iter([0.7, second]), []

    def made_up(names: Sequence[str], **options: object) -> Outcome:
        asked.append((list(names), options["short"], options.get("profile", False)))
        return made(**{"lenet": next(speeds), "resnet20": 1.0} if not names else {"lenet": next(speeds)})

    monkeypatch.setattr(measure, "run_bench", made_up)
    monkeypatch.setattr(check, "read_ratios", lambda: {"lenet": {"reference": 1.0}, "resnet20": {"reference": 1.0}})
    ended, _, error = call("--short", "--check", "--profile")
    assert (ended, asked) == (code, [([], True, True), (["lenet"], True, False)])
    assert "slower than expected, so measured once more: lenet" in error
    assert ("fallen: lenet: 0.70 × reference, expected 1.00 × reference" in error) == bool(code)


def made(**speeds: float) -> Outcome:
    """An outcome of the short form in which oneticket is so many times as fast as the reference loop."""
    empty = measure._nothing_yet("cpu", 1, lambda _: None, short=True)
    rows_of_it = [
        result(ROWS[row], Spread.of([speed]), seconds={"reference": [speed], "ours": [1.0]})
        for row, speed in speeds.items()
    ]
    return replace(empty, results=rows_of_it)


@pytest.mark.parametrize("cut_off", ["a row", "a profile"])
def test_a_run_that_is_cut_off_keeps_what_was_measured(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_off: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    bouts = iter([lambda: 1.0, stop if cut_off == "a row" else lambda: 1.0])
    monkeypatch.setattr(steps, "time_plain", lambda *_: next(bouts)())
    monkeypatch.setattr(measure, "families", stop)
    (tmp_path / "run.json").write_text("what was there before", "utf-8")
    words = ("--short", "--only", "lenet", "--only", "resnet20", "--repeats", "1", "--profile", "--out", "run.json")
    assert call(*words)[0] == 130
    kept = read_outcome(tmp_path / "run.json")
    assert [entry.row for entry in kept.results] == (["lenet"] if cut_off == "a row" else ["lenet", "resnet20"])
    assert not kept.profiles
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.slow
def test_runs_are_shown_together_the_later_one_before_the_earlier(call: Call, tmp_path: Path) -> None:
    for rows_of_it, file in (("lenet resnet20", "a.json"), ("lenet", "b.json")):
        only = [word for row in rows_of_it.split() for word in ("--only", row)]
        assert call("--short", *only, "--repeats", "1", "--profile", "--out", file)[0] == 0
    first, second = read_outcome(tmp_path / "a.json"), read_outcome(tmp_path / "b.json")
    code, out, _ = call("--from", "a.json", "--from", "b.json", "--json", "--out", "both.json")
    assert code == 0
    both = read_outcome(tmp_path / "both.json")
    assert json.loads(out) == json.loads(both.as_json())
    assert both.results == [second.results[0], first.results[1]]
    assert both.profiles == {"lenet": second.profiles["lenet"], "resnet20": first.profiles["resnet20"]}


@pytest.mark.slow
def test_a_step_of_every_model_is_told_and_written(
    call: Call, tiny: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneticket.bench.machine.bf16_units", lambda _: ("avx512_bf16",))
    monkeypatch.setattr(models, "workload_of", lambda name, precision: replace(tiny, model=name, precision=precision))
    monkeypatch.setattr(models, "MOST_STEPS", 2)
    mark = "of the steps of the models on cpu"
    (tmp_path / "page.md").write_text(f"<!-- begin {mark} -->\n<!-- end {mark} -->\n", "utf-8")
    only = ("--only", "resnet20", "--only", "lenet-300-100")
    code, out, error = call("--profile-models", *only, "--out", "models.json", "--markdown", "page.md")
    assert code == 0, error
    kept = read_outcome(tmp_path / "models.json")
    told = [(entry.model, entry.precision) for entry in kept.models]
    assert told == [(m, p) for m in ("lenet-300-100", "resnet20") for p in ("float32", "bf16")]
    assert not kept.results
    assert all(entry.ms > 0 and sum(f.share for f in entry.families) == pytest.approx(1) for entry in kept.models)
    page = (tmp_path / "page.md").read_text("utf-8")
    assert page.count("| resnet20 | float32 |") == page.count("| lenet-300-100 | bf16 |") == 1
    assert "resnet20" in out
    code, out, _ = call("--from", "models.json", "--json")
    assert json.loads(out) == json.loads(kept.as_json())


def test_an_earlier_run_is_shown_and_fills_a_page(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("--short", "--only", "lenet", "--repeats", "1", "--profile", "--json", "--out", "run.json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "run.json").read_text("utf-8"))
    (tmp_path / "page.md").write_text(
        "<!-- begin of oneticket bench on cpu -->\n<!-- end of oneticket bench on cpu -->\n", "utf-8"
    )
    code, out, _ = call("--from", "run.json", "--markdown", "page.md")
    assert code == 0
    assert "convolution" in out
    page = (tmp_path / "page.md").read_text("utf-8")
    assert "| lenet | lenet-300-100: a training step, data included | ≥ 8 × |" in page
    assert "Profile of `lenet`" in page


def test_the_masks_of_a_ticket_are_those_of_the_sparse_row(
    call: Call, tiny: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneticket.ticket import Ticket

    monkeypatch.setattr("oneticket.bench.machine.bf16_units", lambda _: ("avx512_bf16",))
    network = tiny.network()
    weights = dict(Prunable(network).weights())
    masks = Masks({name: weight.detach().abs() > 0.3 for name, weight in weights.items()})
    kept = {name: weight.detach() * masks[name] for name, weight in weights.items()}
    Ticket(masks, kept).save(tmp_path / "t.safetensors")
    words = ("--short", "--only", "vgg19-sparse", "--repeats", "1", "--json", "--ticket", "t.safetensors")
    code, out, error = call(*words)
    assert code == 0, error
    assert json.loads(out)["results"][0]["details"]["density"] == pytest.approx(masks.density)
    Ticket(Masks({"head.weight": masks["stem.conv.weight"]}), {"head.weight": kept["stem.conv.weight"]}).save(
        tmp_path / "t.safetensors"
    )
    code, out, error = call(*words)
    assert code == 2
    assert "--ticket: the ticket's mask" in error
