"""What a narrower element type would save, by the roofs: the ratios are those of arithmetic or of bytes."""

from pathlib import Path

import pytest
from builders import kernel, launch, op, shapes, step, write

import probe
from probe.analyzers.cost_models import Cost
from probe.analyzers.precision import Work, precision_gains, speedup
from probe.machine.device import Ceilings
from probe.report.analysis import fact_lines
from probe.results.analysis import Analysis

H100 = Ceilings(
    "datasheet", "H100", dram_bytes_per_s=1e12,
    flops_per_s={"float32": 50e12, "tf32": 400e12, "bfloat16": 800e12, "float16": 800e12, "float8_e4m3fn": 1600e12},
)  # fmt: skip


def work(
    kind: str, dtype: str, flops: float, size: float, call_s: float, *, index: int = 0, runs: str | None = None
) -> Work:
    return Work(Cost(flops, size, kind, dtype), call_s, 2.0, index, runs)  # type: ignore[arg-type]


def test_a_product_bound_by_arithmetic_gains_the_ratio_of_the_rates() -> None:
    product = work("matmul", "float32", 50e9, 1e6, 1.25e-3)  # 1 ms at the roof
    assert speedup(product, "tf32", H100) == pytest.approx(8)
    assert speedup(product, "bfloat16", H100) == pytest.approx(16)


def test_a_product_bound_by_memory_gains_the_bytes_only() -> None:
    product = work("matmul", "float32", 1e6, 1e9, 1.1e-3)
    assert speedup(product, "tf32", H100) == pytest.approx(1.0)
    assert speedup(product, "bfloat16", H100) == pytest.approx(2)


def test_the_new_roof_may_be_the_memory() -> None:
    product = work("matmul", "float32", 50e9, 0.5e9, 1e-3)  # 1 ms of arithmetic, 0.5 ms of traffic
    assert speedup(product, "tf32", H100) == pytest.approx(2)


def test_what_is_far_from_its_roof_gains_the_time_at_the_roof_at_most() -> None:
    tiny = work("matmul", "float32", 50e6, 1e3, 100e-6)  # 1 µs at the roof
    assert speedup(tiny, "bfloat16", H100) == pytest.approx(100 / (100 - 1 + 1 / 16), rel=1e-3)


def test_pointwise_work_knows_no_tf32_and_no_fp8() -> None:
    pointwise = work("pointwise", "float32", 1e6, 1e9, 1.2e-3)
    assert speedup(pointwise, "tf32", H100) is None
    assert speedup(pointwise, "bfloat16", H100) == pytest.approx(2)
    assert speedup(work("pointwise", "bfloat16", 1e6, 1e9, 1.2e-3), "float8_e4m3fn", H100) is None


def test_gains_are_summed_by_pair_of_types() -> None:
    rows = precision_gains(
        [
            work("matmul", "float32", 50e9, 1e6, 1e-3, index=3),
            work("matmul", "float32", 50e9, 1e6, 1e-3, index=1),
            work("matmul", "float32", 50e9, 1e6, 1e-3, index=2, runs="tf32"),
            work("attention", "bfloat16", 800e9, 1e6, 1e-3, index=4),
        ],
        H100,
    )
    assert {(r.before, r.after): r.ops for r in rows} == {
        ("float32", "tf32"): (1, 3), ("float32", "bfloat16"): (1, 3), ("float32", "float16"): (1, 3),
        ("tf32", "bfloat16"): (2,), ("tf32", "float16"): (2,), ("bfloat16", "float8_e4m3fn"): (4,),
    }  # fmt: skip
    assert [r.saving_s for r in rows] == sorted((r.saving_s for r in rows), reverse=True)
    saving = {(r.before, r.after): r.saving_s for r in rows}
    assert saving["float32", "tf32"] == pytest.approx(2 * 2 * 1e-3 * 7 / 8)
    assert saving["bfloat16", "float8_e4m3fn"] == pytest.approx(2 * 1e-3 / 2)


def test_nothing_is_said_without_a_roof() -> None:
    product = work("matmul", "float32", 50e9, 1e6, 1e-3)
    assert precision_gains([product], Ceilings("assumed", "?")) == ()
    no_narrower = Ceilings("measured", "CPU", dram_bytes_per_s=1e10, flops_per_s={"float32": 1e11})
    assert precision_gains([product], no_narrower) == ()
    assert precision_gains([work("matmul", "float32", 0.0, 0.0, 1e-3)], H100) == ()


H100_DEVICE = [{"id": 0, "name": "NVIDIA H100 80GB HBM3", "computeMajor": 9, "computeMinor": 0, "numSms": 132}]


def analysed(folder: Path, kernel_us: float, elsewhere_us: float = 1.0) -> Analysis:
    """A step of one product on the device (137 GFLOP: 2.05 ms in float32), and a kernel beside it on another stream."""
    sizes = shapes([4096, 4096], [4096, 4096])
    events = [
        op("aten::mm", 5, 8, **sizes), launch(1, 8), kernel("ampere_sgemm_128x128_nn", 12, kernel_us, 1),
        op("custom::scan", 15, 8), launch(2, 17), kernel("scan", 20, elsewhere_us, 2, 9),
        launch(3, 30, max(kernel_us, elsewhere_us), name="cudaDeviceSynchronize"),
    ]  # fmt: skip
    whole = step(1, 0, max(kernel_us, elsewhere_us) + 40)
    return probe.analyze(write(folder, [whole, *events], deviceProperties=H100_DEVICE))


def test_an_analysis_says_what_narrower_types_would_gain(tmp_path: Path) -> None:
    found = analysed(tmp_path, 2500)
    gains = {(gain.before, gain.after): gain for gain in found.precision}
    assert set(gains) == {("float32", after) for after in ("tf32", "bfloat16", "float16")}
    assert found.ops[gains["float32", "tf32"].ops[0]].name == "aten::mm"
    assert gains["float32", "tf32"].saving_s < gains["float32", "bfloat16"].saving_s < 2500e-6
    assert found.to_json()["precision"][0]["saving_s"] == found.precision[0].saving_s
    (line,) = (text for label, text in fact_lines(found) if label == "precision")
    assert line.startswith("less time by the roofs: float32 → bfloat16 at most 2.33 ms")  # 2.5 ms by 66.9 / 989.4
    assert "→ tf32 at most 2.16 ms" in line  # by 66.9 / 494.7
    assert "float16 at" not in line.replace("bfloat16 at", "")  # it saves the same


def test_what_the_step_does_not_wait_for_gains_nothing(tmp_path: Path) -> None:
    found = analysed(tmp_path, 2500, elsewhere_us=4000)
    assert found.precision == ()
    assert "precision" not in dict(fact_lines(found))


def test_nothing_is_said_of_work_of_unknown_size(tmp_path: Path) -> None:
    found = probe.analyze(write(tmp_path, [step(1, 0, 100), op("aten::mm", 5, 80)]))
    assert found.precision == ()
