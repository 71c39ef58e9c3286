"""The command: rows measured end to end at a tiny size, its options, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from oneticket.bench import measure, rows, steps
from oneticket.bench import outcome as outcome_module
from oneticket.bench.ceiling import Ceiling
from oneticket.bench.families import FAMILIES, OTHER, families, family_of
from oneticket.bench.outcome import Outcome, read_outcome
from oneticket.bench.rows import STEPS, Step
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
    monkeypatch.setattr("oneticket.bench.machine._processor", lambda _: "avx512_bf16")
    code, out, _ = call(*rows_of_a_bout, "--repeats", "2", "--threads", "2", "--json")
    assert code == 0
    assert json.loads(out)["threads"] == 2
    assert torch.get_num_threads() == 1
    assert came == ["time_reference", "time_plain", "time_ours", "time_ours"] * 2
    assert [entry["met"] for entry in json.loads(out)["results"]] == [False, False]


def test_where_there_is_no_bf16_that_is_said(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneticket.bench.machine._processor", lambda _: "sse2")
    code, out, _ = call("--short", "--only", "resnet20-bf16", "--repeats", "1")
    assert code == 0
    assert "not measured: this processor has no bf16 in hardware" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "lennet"], "did you mean 'lenet'?"),
        (["--only", "gpu-vgg19"], "not measured on cpu"),
        (["--check"], "--check needs --short"),
        (["--device", "cuda"], "torch sees no CUDA device"),
        (["--from", "none.json"], "cannot be read"),
        (["--out", "nowhere/run.json"], "can't be written"),
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
def test_a_fallen_ratio_ends_with_1(call: Call, tmp_path: Path, factor: float, code: int) -> None:
    now = one_row(ratio=2.0)
    (tmp_path / "now.json").write_text(now.as_json(), "utf-8")
    (tmp_path / "before.json").write_text(one_row(ratio=2.0 * factor).as_json(), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome_module, "EXPECTED", tmp_path / "before.json")
        ended, _, error = call("--check", "--from", "now.json")
    assert ended == code
    assert ("fallen: lenet: 2.00 ×" in error) == bool(code)


def one_row(ratio: float) -> Outcome:
    from oneticket.bench.outcome import EXPECTED
    from oneticket.bench.pairing import Spread

    expected = read_outcome(EXPECTED)
    [first] = [entry for entry in expected.results if entry.row == "lenet"]
    return replace(expected, results=[replace(first, measured=Spread.of([ratio]))])


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

    monkeypatch.setattr("oneticket.bench.machine._processor", lambda _: "avx512_bf16")
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


@pytest.mark.parametrize(
    ("operator", "family"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("aten::native_batch_norm", "normalisation"),
        ("aten::addmm", "matrix product"),
        ("aten::_fused_sgd_", "optimiser and masks"),
        ("aten::_foreach_mul_", "optimiser and masks"),
        ("aten::index_select", "choosing and cropping"),
        ("aten::copy_", "copies and casts"),
        ("aten::threshold_backward", "elementwise"),
        ("aten::_log_softmax", "loss"),
        ("something", OTHER),
    ],
)
def test_operators_belong_to_families(operator: str, family: str) -> None:
    assert family_of(operator) == family


def test_the_shares_of_a_profile_are_the_whole_step(tiny: Workload) -> None:
    found = families(tiny)
    assert sum(entry.share for entry in found) == pytest.approx(1)
    assert {entry.family for entry in found} <= {*FAMILIES, OTHER}
    assert {"convolution", "normalisation", "optimiser and masks"} < {entry.family for entry in found}
    assert [entry.ms for entry in found] == sorted((entry.ms for entry in found), reverse=True)
