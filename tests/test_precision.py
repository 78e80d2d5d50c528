"""What a narrower element type would save, by the roofs: the ratios are those of arithmetic or of bytes."""

import pytest

from probe.analyzers.cost_models import Cost
from probe.analyzers.precision import Work, precision_gains, speedup
from probe.device import Ceilings

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
