"""A class is given with its evidence, and only where the evidence decides."""

import pytest

from probe.analyzers.classify import Class, Machine, classify, is_strided
from probe.analyzers.cost_models import Cost
from probe.analyzers.roofline import place
from probe.device import Ceilings, Level
from probe.trace import LaunchShape, Signature

CPU = Ceilings(
    "measured", "cpu", dram_bytes_per_s=20e9, flops_per_s={"float32": 200e9, "float64": 100e9}, launch_s=2e-6,
    levels={"L2": Level(1 << 20, 4e-9, 200e9), "DRAM": Level(None, 1e-7, 20e9)},
)  # fmt: skip
GPU = Ceilings(
    "datasheet", "gpu", dram_bytes_per_s=3e12, launch_s=2.5e-6,
    flops_per_s={"float32": 60e12, "tf32": 400e12, "bfloat16": 900e12},
)  # fmt: skip


def on_cpu(cost: Cost, time_s: float, signature: Signature | None = None) -> Class:
    return classify(cost, place(cost, CPU), time_s, Machine(CPU, 2e-6, False), signature=signature)


def on_gpu(cost: Cost, time_s: float, shape: LaunchShape | None = None, tf32: bool = False) -> Class:
    machine = Machine(GPU, 2e-6, True, sm_count=132)
    return classify(cost, place(cost, GPU, tf32=tf32), time_s, machine, shape=shape)


MATMUL = Cost(2e9, 12e6, "matmul", "float32")
ADD = Cost(16e6, 192e6, "pointwise", "float32")


@pytest.mark.parametrize(
    ("cost", "time_s", "bound", "limiter"),
    [
        (MATMUL, 12e-3, "compute", "fp32"),
        (MATMUL, 1.0, "compute", "fp32"),
        (ADD, 10e-3, "memory", "dram"),
        (Cost(64e3, 768e3, "pointwise", "float32"), 50e-6, "memory", "l2"),
        (Cost(16, 192, "pointwise", "float32"), 2e-6, "overhead", "dispatch"),
        (Cost(None, None, "unknown", reason="no model"), 2e-6, "overhead", "dispatch"),
        (Cost(None, None, "unknown", reason="no model"), 5e-3, "unknown", None),
        (Cost(2e9, 12e6, "matmul", "float16"), 12e-3, "unknown", None),
        (Cost(0, 0, "view"), 1e-6, "overhead", "dispatch"),
        (Cost(0, 0, "wrapper"), 3e-6, "overhead", "dispatch"),
        (Cost(0, 0, "wrapper"), 5e-3, "host", "python"),
        (Cost(None, 4e6, "collective"), 1e-3, "communication", None),
        (Cost(0, 0, "host"), 1e-3, "host", "loader"),
        (Cost(2e9, 12e6, "matmul", "float64"), 25e-3, "compute", "fp64"),
    ],
)
def test_on_a_cpu(cost: Cost, time_s: float, bound: str, limiter: str | None) -> None:
    found = on_cpu(cost, time_s)
    assert (found.bound, found.limiter) == (bound, limiter)
    assert found.evidence


@pytest.mark.parametrize(
    ("cost", "time_s", "bound"),
    [
        (Cost(2e12, 1e8, "matmul", "bfloat16"), 3e-3, "compute"),
        (Cost(1e8, 1.2e9, "pointwise", "bfloat16"), 5e-4, "memory"),
        (Cost(1e4, 1e5, "pointwise", "float32"), 2e-6, "overhead"),
        (Cost(2e12, 1e8, "matmul", "bfloat16"), 30e-3, "unknown"),
        (Cost(None, None, "unknown", reason="no shapes recorded"), 1e-3, "unknown"),
    ],
)
def test_on_a_gpu(cost: Cost, time_s: float, bound: str) -> None:
    assert on_gpu(cost, time_s).bound == bound


def test_latency_needs_evidence_from_the_launch() -> None:
    slow = Cost(1e9, 1e7, "attention", "bfloat16")
    assert on_gpu(slow, 1e-3, LaunchShape((16, 1, 1), (128, 1, 1))).limiter == "low-occupancy"
    assert (
        on_gpu(slow, 1e-3, LaunchShape((900, 1, 1), (128, 1, 1), theoretical_occupancy_fraction=0.12)).bound
        == "latency"
    )
    assert (
        on_gpu(slow, 1e-3, LaunchShape((900, 1, 1), (128, 1, 1), theoretical_occupancy_fraction=0.8)).bound == "unknown"
    )
    assert on_gpu(slow, 1e-3, LaunchShape((), ())).bound == "unknown"


def test_tf32_kernels_meet_the_tf32_roof() -> None:
    product = Cost(2e12, 1e8, "matmul", "float32")
    assert "tf32" in " ".join(on_gpu(product, 8e-3, tf32=True).evidence)
    assert on_gpu(product, 8e-3, tf32=True).limiter == "tensor-core"
    assert on_gpu(product, 40e-3).limiter == "fp32"


def test_gaps_between_elements_are_strided_access() -> None:
    transposed = Signature(((4096, 4096), (4096, 4096)), ("float", "float"), ((4096, 1), (1, 4096)))
    assert on_cpu(ADD, 10e-3, transposed).limiter == "strided-access"


@pytest.mark.parametrize(
    ("dims", "strides", "strided"),
    [
        ((2, 3), (3, 1), False),
        ((2, 3), (1, 2), False),
        ((64, 64, 8, 8), (4096, 1, 512, 64), False),
        ((2, 3), (1, 4), True),
        ((2, 3), (0, 1), False),
        ((1, 3), (99, 1), False),
        ((4,), (2,), True),
        ((), (), False),
        ((2, 3), (-3, 1), True),
        ((2, 3), ("x", 1), False),
        ((2,), (1, 1), False),
    ],
)
def test_what_is_contiguous(dims: tuple[int, ...], strides: tuple[int, ...], strided: bool) -> None:
    assert is_strided(Signature((dims,), ("float",), (strides,))) is strided


def test_placement_figures() -> None:
    placed = place(MATMUL, CPU)
    assert placed.intensity == pytest.approx(2e9 / 12e6)
    assert placed.ridge_point == pytest.approx(10)
    assert placed.roof_s == pytest.approx(0.01)
    assert placed.side == "compute"
    assert place(Cost(None, None, "unknown"), CPU).roof_s is None
    assert place(ADD, Ceilings("assumed", "?")).roof_s is None
