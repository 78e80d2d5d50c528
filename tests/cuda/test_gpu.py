"""What only a GPU can show. Run by `make gpu`; not one of these has met a GPU yet."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import probe

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def device() -> Iterator[str]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    yield "cuda"
    torch.cuda.synchronize()


def analysed(folder: Path, step: Any) -> probe.Analysis:
    with probe.profile(folder / "run", wait=5, warmup=2, active=3) as prof:
        for _ in range(14):
            step()
            prof.step()
    return probe.analyze(folder / "run")


def test_kernels_are_recorded_and_parts_add_up(tmp_path: Path, device: str) -> None:
    a = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    analysis = analysed(tmp_path, lambda: torch.relu(a @ a))
    largest = max(analysis.ops, key=lambda op: op.device_s)
    assert largest.name == "aten::mm"
    assert largest.bound == "compute", largest.evidence
    assert largest.kernels
    parts = [v or 0.0 for k, v in analysis.time_s.items() if k != "step"]
    assert math.isclose(sum(parts), analysis.time_s["step"] or 0.0, rel_tol=0.01)
    assert analysis.utilisation.mfu_fraction is None or 0 < analysis.utilisation.mfu_fraction <= 1


def test_a_large_addition_is_memory_bound(tmp_path: Path, device: str) -> None:
    x, y = torch.randn(1 << 28, device=device), torch.randn(1 << 28, device=device)
    analysis = analysed(tmp_path, lambda: torch.add(x, y))
    largest = max(analysis.ops, key=lambda op: op.device_s)
    assert largest.bound == "memory", largest.evidence


def test_tiny_kernels_are_overhead(tmp_path: Path, device: str) -> None:
    x = torch.ones(16, device=device)

    def step() -> None:
        for _ in range(1000):
            torch.add(x, x)

    analysis = analysed(tmp_path, step)
    assert analysis.bound == "overhead"
    assert analysis.findings[0].code == "H01"


def test_ceilings_of_a_gpu() -> None:
    from probe.microbench.run import Options, measure

    result = measure(Options(("memory_bandwidth", "matmul", "launch"), "cuda:0", quick=True))
    assert not any(u.suite in ("memory_bandwidth", "matmul", "launch") for u in result.unsupported)
    assert (result.ceilings.dram_bytes_per_s or 0) > 1e11
    assert result.ceilings.flops_per_s["float32"] > 1e12
    assert 1e-7 < (result.ceilings.launch_s or 0) < 1e-4


def test_a_callable_on_a_gpu_is_placed(device: str) -> None:
    a = torch.randn(2048, 2048, device=device)
    analysis = probe.roofline(torch.mm, a, a)
    assert max(analysis.ops, key=lambda op: op.device_s).flops == pytest.approx(2 * 2048**3)
