"""Precision: bfloat16 is called fast only where something multiplies it, and nothing is ever refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oneticket.training import precision
from oneticket.training.precision import Choice, bf16_units, choice, fastest

X86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx2 avx512f {}\nbugs\t\t: none\n"
ARM = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve {}\nCPU part\t: 0xd40\n"


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Have the system list this of its processor, or nothing at all."""

    for limit in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(limit, raising=False)

    def listing(text: str | None) -> None:
        file = tmp_path / "cpuinfo"
        if text is not None:
            file.write_text(text, encoding="utf-8")
        real = Path
        monkeypatch.setattr(precision, "Path", lambda name: file if name == "/proc/cpuinfo" else real(name))

    return listing


@pytest.mark.parametrize(
    ("text", "units"),
    [
        (X86.format("avx512_bf16 avx512_vnni"), ("avx512_bf16",)),
        (X86.format("amx_bf16 amx_tile avx512_bf16"), ("amx_bf16", "avx512_bf16")),
        (X86.format("avx512_vnni amx_tile"), ()),
        (X86.format(""), ()),
        (X86.format("") + "processor\t: 1\nflags\t: avx512_bf16\n", ()),
        (ARM.format("i8mm bf16"), ("bf16",)),
        (ARM.format("i8mm"), ()),
        ("", ()),
        (None, ()),
    ],
)
def test_a_processor_multiplies_bfloat16_where_it_says_so(text: str | None, units: tuple[str, ...], processor) -> None:  # type: ignore[no-untyped-def]
    processor(text)
    assert bf16_units() == units
    assert fastest().precision == ("bf16" if units else "float32")
    assert fastest().fastest
    assert choice("bf16").fastest is bool(units)
    assert choice("float32").fastest is not bool(units)


@pytest.mark.parametrize(
    ("limit", "units"),
    [
        ("AVX2", ()),
        ("avx512_core", ()),
        ("AVX512_CORE_BF16", ("avx512_bf16",)),
        ("AVX512_CORE_AMX", ("amx_bf16", "avx512_bf16")),
        ("DEFAULT", ("amx_bf16", "avx512_bf16")),
    ],
)
def test_units_that_the_environment_forbids_do_not_count(
    limit: str,
    units: tuple[str, ...],
    processor,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    processor(X86.format("amx_bf16 avx512_bf16"))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert bf16_units() == units


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 1), True)])
def test_a_gpu_does_from_capability_8_0_on(
    capability: tuple[int, int], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert bool(bf16_units("cuda:1")) is fast
    assert asked == ["cuda:1"]


def test_of_what_is_not_there_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bf16_units("cuda") == bf16_units("mps") == ()


def test_reasons_are_told(processor) -> None:  # type: ignore[no-untyped-def]
    """And the precision of the recipe stays what it is, also where it is the slower one."""
    processor(X86.format("avx512_bf16"))
    assert choice("bf16") == Choice("bf16", True, "avx512_bf16 multiplies it")
    told = "bf16 may be faster here (avx512_bf16; `oneticket bench` measures it), with other numbers"
    assert choice("float32") == Choice("float32", False, told)
    processor(X86.format(""))
    nothing = "nothing on cpu is known to multiply bfloat16 in hardware"
    assert choice("bf16") == Choice("bf16", False, f"{nothing}: slower than float32 here")
    assert choice("float32") == Choice("float32", True, nothing)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="a system that does not list it")
def test_this_processor_is_read_as_torch_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch knows the instruction too."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if known is None:
        pytest.skip("this torch does not tell")
    assert ("avx512_bf16" in bf16_units()) is known()
