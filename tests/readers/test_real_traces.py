"""Traces recorded by others: every number that their files state is what was read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from brute_force import kept_events
from real_traces import trace_in

from probe.trace import Trace


def counts(trace: Trace) -> dict[str, int]:
    """The quality counts that are not zero, but for the number of events."""
    return {name: count for name, count in asdict(trace.quality).items() if count and name != "events"}


# Real traces: device, rank, world size, operators, kernels, copies, step numbers, counts of quality.
# A normal trace shows no damage: what its format brings with it is not counted.
LATE_509, LATE_463, LATE_968, LATE_64 = ({"unlaunched": n, "unattributed": n} for n in (509, 463, 968, 64))
A100, V100, H100 = (
    ("cuda", "NVIDIA A100-PG509-200"),
    ("cuda", "Tesla V100-SXM2-32GB"),
    ("cuda", "NVIDIA H100 80GB HBM3"),
)
UNNAMED = ("cuda", "unknown device")
MI300X = ("rocm", "AMD Instinct MI300X")
REAL: dict[str, tuple[Any, ...]] = {
    "a100_alexnet_inference": (A100, 0, None, 359, 79, 19, [], {}),
    "a100_nccl_rank0": (A100, 0, 2, 14346, 2700, 1074, [4, 5, 6], {}),
    "a100_training_rank3": (A100, 3, 8, 40506, 8568, 882, [*range(1009, 1015)], {"unattributed": 48}),
    "a100_triton_kernel": (A100, None, None, 3, 1, 0, [1], {}),
    "cpu_only_no_rank": (("cpu", "CPU"), None, None, 2424, 0, 0, [1009], {}),
    "h100_bert_small": (H100, None, None, 479, 60, 1, [6], {}),
    "h100_qwen_0.5b_chat": (H100, None, None, 4186, 1465, 242, [6], LATE_509),
    "mi300x_compiled_triton": (MI300X, None, None, 41, 12, 0, [], {}),
    "mi300x_normalisation_layers": (MI300X, None, None, 978, 168, 5, [], {}),
    "mi300x_qwen_0.5b_chat": (("rocm", "AMD Instinct MI300X VF"), None, None, 4619, 1516, 1, [6], LATE_463),
    "mi300x_resnet_checkpointing_rank0": (MI300X, 0, 8, 8004, 2995, 658, [15, 16, 17], LATE_968),
    "two_of_128_ranks/sampled_rank-0": (UNNAMED, 0, 128, 2329, 1154, 50, [551, 552], {"unattributed": 16}),
    "two_of_128_ranks/sampled_rank-1": (UNNAMED, 1, 128, 2302, 1104, 50, [551, 552], {"unattributed": 16}),
    "v100_dlrm_4_of_8_ranks/rank0": (V100, 0, 8, 1633, 245, 16, [10], {}),
    "v100_dlrm_4_of_8_ranks/rank1": (V100, 1, 8, 1633, 310, 16, [10], LATE_64),
    "v100_dlrm_4_of_8_ranks/rank2": (V100, 2, 8, 1633, 246, 16, [10], {}),
    "v100_dlrm_4_of_8_ranks/rank3": (V100, 3, 8, 1633, 315, 22, [10], LATE_64),
    "v100_ns_resolution_rank0": (V100, 0, 1, 23910, 4350, 1745, [101, 102, 103, 104, 105], {}),
    "v100_resnet50_training": (("cuda", "Tesla V100-DGXS-32GB"), None, None, 20556, 8868, 390, [*range(16, 22)], {}),
}
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset", "memcpy", "memset")


@pytest.mark.parametrize("name", REAL)
def test_a_real_trace(foreign_traces: Path, name: str) -> None:
    path = foreign_traces / f"{name}.json.gz"
    trace = trace_in(path)
    trace.check()
    assert (
        (trace.device.kind, trace.device.name), trace.rank, trace.world_size, len(trace.host_ops), len(trace.kernels),
        len(trace.copies), trace.steps.number.tolist(), counts(trace),
    ) == REAL[name]  # fmt: skip
    base_ns, events = kept_events(path)
    same_times_and_owners(trace, base_ns, [e for e in events if e["cat"].lower() in DEVICE_WORK])


def same_times_and_owners(trace: Trace, base_ns: int, expected: list[dict[str, Any]]) -> None:
    """Device work to the nanosecond, and its operator: the one whose external id the file puts on the work as well."""
    tables = (trace.kernels, trace.copies)
    base = trace.start_unix_ns - base_ns
    times = sorted(pair for w in tables for pair in zip(w.start_ns.tolist(), w.duration_ns.tolist(), strict=True))
    assert times == sorted((round(e["ts"] * 1000) - base, round(e["dur"] * 1000)) for e in expected)
    told = {e["args"]["correlation"]: e["args"].get("External id", e["args"].get("external id")) for e in expected}
    ids = trace.host_ops.external_id
    for work in tables:
        for correlation, row in zip(work.correlation.tolist(), work.op.tolist(), strict=True):
            if row >= 0 and told[correlation] != correlation:  # until 2023 one number was both
                assert ids[row] == told[correlation]


def test_the_oldest_real_trace(foreign_traces: Path) -> None:
    """Torch 1.9: capitals, thread numbers as text, whole microseconds since the epoch, flows named async."""
    trace = trace_in(foreign_traces / "v100_resnet50_training.json.gz")
    assert trace.start_unix_ns == 1_623_212_760_127_798_000
    assert (trace.kernels.launch >= 0).all() and (trace.kernels.op >= 0).all()
    assert trace.with_shapes
    assert trace.device.compute_capability == "7.0"


def test_flows_of_2022_are_not_needed(foreign_traces: Path) -> None:
    """Their category is async_cpu_to_gpu, where later files have ac2g: kernels are joined by correlation."""
    path = foreign_traces / "a100_training_rank3.json.gz"
    trace, (_, events) = trace_in(path), kept_events(path)
    assert (trace.kernels.launch >= 0).all()
    assert int(trace.kernels.duration_ns.sum()) == 1000 * sum(e["dur"] for e in events if e["cat"] == "kernel")


def test_kernels_of_the_step_before_are_told_apart(foreign_traces: Path) -> None:
    trace = trace_in(foreign_traces / "h100_qwen_0.5b_chat.json.gz")
    early = trace.kernels.start_ns < trace.runtime_calls.start_ns.min()
    assert (trace.kernels.launch[early] < 0).all()
    assert "509 device activities were launched before the recording began" in trace.warnings


def test_rocm_tells_no_resources_and_few_sizes(foreign_traces: Path) -> None:
    trace = trace_in(foreign_traces / "mi300x_resnet_checkpointing_rank0.json.gz")
    found = [trace.launch_shapes[i] for i in trace.kernels.launch_shape]
    assert all(s.grid and s.block for s in found)
    assert {(s.registers_per_thread, s.shared_bytes, s.theoretical_occupancy_fraction) for s in found} == {(None,) * 3}
    assert int((trace.copies.bytes < 0).sum()) == 292


def test_kernels_that_a_compiler_made(foreign_traces: Path) -> None:
    digest = "cqaokwf2bph4egogzevc22vluasiyuui4i54zpemp6knbsggfbuu"
    trace = trace_in(foreign_traces / "a100_triton_kernel.json.gz")
    made = [s.kernel for s in trace.signatures if s.kernel is not None]
    assert [(k.backend, k.hash, k.grid, k.warps, k.stages) for k in made] == [
        ("triton", digest, "grid(100,)", None, None)
    ]
    rocm = trace_in(foreign_traces / "mi300x_compiled_triton.json.gz")
    kinds = {(s.kernel.backend, s.kernel.grid) for s in rocm.signatures if s.kernel is not None}
    assert kinds == {("triton", None)}
    assert {s.kernel.warps for s in rocm.signatures if s.kernel is not None} >= {8}


def test_no_occupancy_is_zero_in_a_real_trace(foreign_traces: Path) -> None:
    """Kineto writes 0 for what it did not compute: 924 of these kernels."""
    trace = trace_in(foreign_traces / "a100_nccl_rank0.json.gz")
    told = [trace.launch_shapes[i].theoretical_occupancy_fraction for i in trace.kernels.launch_shape]
    assert told.count(None) == 924
    assert all(0 < t <= 1 for t in told if t is not None)
