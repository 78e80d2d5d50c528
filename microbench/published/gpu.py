"""What have others published for this GPU? Values that were read in the named source; all others are not here.

Methods differ, and so do results: an H100's DRAM answers in 570, 658, 700 or 834 cycles. A range over the sources is
therefore given, each value with its own. The A100's 60 and 68 cycles of caps-tum/mt4g are left out: they lie 30 cycles
above every other source. Latencies are in cycles of the SM clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from probe.microbench.published.published import Published

LATENCY = "te42kyfo/gpu-benches gpu-latency, {}"
KERNELS = "markdewing/AI_kernels latency, {}"
MT4G = "caps-tum/mt4g, published sample"
CHIP = "ChipBenchmarker"
STUDY = "CUDA Performance Study"
STREAM = "te42kyfo/gpu-benches gpu-stream, {}"
L2_CACHE = "te42kyfo/gpu-benches gpu-l2-cache, {}"
L1_CACHE = "te42kyfo/gpu-benches gpu-cache, {}: 12 kB a block"
SMALL = "te42kyfo/gpu-benches gpu-small-kernels, {}: derived from its 64 kB kernels"
MAMF = "stas00/ml-engineering MAMF, {}"
SJFENG = "sjfeng1999/gpu-arch-microbenchmark README, RTX 2070"
L40_PAPER = "arXiv 2606.22588, abstract: {} SM"
NCCL = "NVIDIA/nccl-tests issue {}"
MEASURED_FROM_BYTES = 1 << 20  # below, ranks wait for one another and no rate is approached


@dataclass(frozen=True)
class Gpu:
    """Published values of the devices whose name, as torch gives it, matches a regular expression."""

    names: str
    values: tuple[Published, ...]


def _latency(level: str, *values: tuple[float, str]) -> Published:
    """Cycles of a dependent load that is served by `level`."""
    return Published("cache_latency", "latency", "cycles", values, {"level": level})


def _dram(kernel: str, gigabytes_per_s: float, source: str) -> Published:
    """What a streaming kernel reaches on arrays far larger than the L2 cache; bytes counted as STREAM counts them."""
    params = {"kernel": kernel, "level": (None, "DRAM"), "occupancy": (None, "most")}
    return Published("memory_bandwidth", "bandwidth", "B/s", ((gigabytes_per_s * 1e9, source),), params)


def _cache(level: str, *terabytes_per_s: float, source: str, most_bytes: float = float("inf")) -> Published:
    """What all SMs together read from a cache level."""
    values = tuple((rate * 1e12, source) for rate in terabytes_per_s)
    params = {"level": level, "kernel": (None, "read")}
    return Published("memory_bandwidth", "bandwidth", "B/s", values, params, sizes=(0, most_bytes))


def _matmul(dtype: str, teraflops_per_s: float, source: str) -> Published:
    """The best rate over shapes of a matrix product."""
    values = ((teraflops_per_s * 1e12, source),)
    return Published("matmul", "flops_per_s", "FLOP/s", values, {"dtype": dtype})


def _launches(stream: float, graph: float, name: str) -> tuple[Published, Published]:
    """Microseconds a kernel where kernels follow one another: launched one by one, and replayed from a graph.

    Of bare kernels: `method` keeps them from an eager operator, whose dispatch is in its time.
    """
    source = SMALL.format(name)
    return (
        Published("launch", "time", "s", ((stream * 1e-6, source),), {"method": "stream"}),
        Published("launch", "time", "s", ((graph * 1e-6, source),), {"method": "graph"}),
    )


def _all_reduce(ranks: int, *gigabytes_per_s: tuple[float, str]) -> Published:
    """Bus bandwidth as nccl-tests defines it, best over sizes."""
    values = tuple((rate * 1e9, source) for rate, source in gigabytes_per_s)
    params = {"operation": "all_reduce", "ranks": ranks, "backend": "nccl"}
    sizes = (MEASURED_FROM_BYTES, float("inf"))
    return Published("collectives", "busbw", "B/s", values, params, sizes=sizes, best_of_sizes=True)


def _load(bits: int, gigabytes_per_s: float) -> Published:
    """Loads of one width, 64 blocks of 256 threads."""
    source = f"{SJFENG}, LDG.{bits} with 64 × 256 threads"
    params = {"load_bytes": bits // 8, "kernel": "load", "level": "DRAM", "blocks": 64}
    return Published("vector_loads", "bandwidth", "B/s", ((gigabytes_per_s * 1e9, source),), params)


def _banks(instruction: str, conflict: float, free: float, reuse: float) -> Iterator[Published]:
    """Cycles an instruction by where its operands lie."""
    for operands, cycles in (("conflict", conflict), ("free", free), ("reuse", reuse)):
        params = {"instruction": instruction, "operands": operands}
        yield Published("register_banks", "time", "cycles", ((cycles, SJFENG),), params)


_V100 = (
    _latency("L1", (29.9, LATENCY.format("v100")), (36.0, KERNELS.format("v100")), (30, MT4G)),
    _latency("shared", (23, MT4G)),
    _latency("L2", (215, LATENCY.format("v100")), (221, KERNELS.format("v100")), (214, MT4G)),
    _latency("DRAM", (437, LATENCY.format("v100")), (460, KERNELS.format("v100")), (408, MT4G)),
    _dram("scale", 802, STREAM.format("v100")),
    _dram("write", 895, STREAM.format("v100") + ", init"),
    _cache("L2", 5.364, source=L2_CACHE.format("v100")),
    _cache("L1", 13.8, source=L1_CACHE.format("v100")),
)
_A100 = (
    _latency("L1", (36.0, LATENCY.format("a100_80")), (38.9, KERNELS.format("a100sxm")), (33, CHIP)),
    _latency("shared", (23, CHIP)),
    _latency("L2", (211, LATENCY.format("a100_80") + ", near partition"), (210, KERNELS.format("a100sxm"))),
    _latency("DRAM", (571, LATENCY.format("a100_80")), (550, KERNELS.format("a100sxm")), (499, CHIP)),
    _cache("L2", 7.078, source=L2_CACHE.format("a100")),
    _cache("L1", 19.2, source=L1_CACHE.format("a100")),
    *_launches(2.6, 1.34, "a100"),
)
_H100_PCIE = (
    _latency("L1", (34.1, LATENCY.format("h100_pcie"))),
    _latency("L2", (265, LATENCY.format("h100_pcie") + ", near partition")),
    _latency("L2 far", (477, LATENCY.format("h100_pcie") + ", at 35 to 50 MB")),
    _latency("DRAM", (650, LATENCY.format("h100_pcie")), (658, LATENCY.format("h100_pcie"))),
    _dram("triad", 1832, STREAM.format("h100_pcie")),
    _dram("read", 1942, STREAM.format("h100_pcie")),
    _cache("L1", 25.2, source=L1_CACHE.format("h100_pcie")),
    _all_reduce(2, (116, NCCL.format("194") + ": two joined by a bridge")),
)
_H100_SXM = (
    _latency("L1", (39.6, KERNELS.format("h100sxm")), (40.2, STUDY), (38, MT4G)),
    _latency("shared", (28.6, STUDY), (30, MT4G)),
    _latency("L2", (291, KERNELS.format("h100sxm")), (260, STUDY), (219, MT4G)),
    _latency("DRAM", (700, KERNELS.format("h100sxm")), (570, STUDY), (834, MT4G)),
    _matmul("bfloat16", 794.5, MAMF.format("H100 SXM")),
    _matmul("float8_e4m3fn", 1402.6, MAMF.format("H100 SXM")),
    _all_reduce(8, (480, NCCL.format("212") + ": NVLS"), (370, NCCL.format("212") + ": ring")),
)
_H200 = (
    _dram("triad", 3534, STREAM.format("h200")),
    _dram("read", 2756, STREAM.format("h200")),
    _dram("scale", 3165, STREAM.format("h200")),
    _dram("write", 3884, STREAM.format("h200") + ", init"),
    _cache("L2", 9.7, 10.5, source=L2_CACHE.format("h200") + ", within 25 MB", most_bytes=25e6),
    _matmul("bfloat16", 794.5, MAMF.format("H100 SXM") + ", “H200 is the same”"),
    _matmul("float8_e4m3fn", 1453.4, MAMF.format("H200")),
    *_launches(2.4, 1.26, "h200"),
    _all_reduce(8, (475, NCCL.format("272") + ": NVLink 4, NVLS")),
)


def _one_source(name: str, l1: float, l2: float, dram: float) -> tuple[Published, ...]:
    """The three latencies of a device that only one source has."""
    source = KERNELS.format(name)
    return _latency("L1", (l1, source)), _latency("L2", (l2, source)), _latency("DRAM", (dram, source))


_L40_L2 = (
    (277, LATENCY.format("l40") + ", mean"),
    (222, L40_PAPER.format("fastest")),
    (339, L40_PAPER.format("slowest")),
)

GPUS = (
    Gpu(r"V100", _V100),
    Gpu(r"\bA100", _A100),
    Gpu(r"\bA100-SXM", (_matmul("bfloat16", 271.2, MAMF.format("A100 SXM")),)),
    Gpu(r"\bH100 PCIe", _H100_PCIE),
    Gpu(r"\bH100.*HBM3|\bH100[ -]SXM", _H100_SXM),
    Gpu(
        r"\bGH200",
        (
            *_one_source("gh200", 39.6, 280, 684),
            _matmul("bfloat16", 828.6, MAMF.format("GH200")),
        ),
    ),
    Gpu(r"\bH200", _H200),
    Gpu(
        r"\bB200",
        (
            *_one_source("b200", 39.6, 294, 857),
            _matmul("bfloat16", 1745.0, MAMF.format("B200")),
            _matmul("float8_e4m3fn", 3432.5, MAMF.format("B200")),
        ),
    ),
    Gpu(
        r"\bB300",
        (
            _latency("L1", (39.4, KERNELS.format("b300"))),
            _latency("L2", (294, KERNELS.format("b300"))),
            _latency("DRAM", (845, KERNELS.format("b300")), (810, KERNELS.format("b300") + ", clocks at 2032 MHz")),
            _matmul("bfloat16", 1769.0, MAMF.format("B300")),
        ),
    ),
    Gpu(r"\bGB200", (_matmul("bfloat16", 1822.0, MAMF.format("GB200")),)),
    Gpu(r"\bRTX 4090\b(?! D)", _one_source("README", 40, 296, 636)),
    Gpu(r"\bRTX 5090\b(?! D)", _one_source("README", 44, 360, 936)),
    Gpu(r"\bRTX PRO 6000\b", _one_source("README", 44, 352, 864)),
    Gpu(
        r"\bRTX 2070",
        (
            _latency("L1", (32, SJFENG)),
            _latency("shared", (23, SJFENG)),
            _latency("L2", (236, SJFENG)),
            _load(32, 246.7),
            _load(64, 379.2),
            _load(128, 391.8),
            *_banks("FFMA", 3.516, 2.969, 2.938),
            *_banks("IADD3", 3.031, 2.062, 2.031),
        ),
    ),
    Gpu(
        r"\bL40\b",
        (
            _latency("L1", (36.0, LATENCY.format("l40"))),
            _latency("L2", *_L40_L2),
            _latency("DRAM", (632, LATENCY.format("l40"))),
            *_launches(1.6, 0.94, "l40"),
        ),
    ),
)


def values_of(name: str) -> tuple[Published, ...]:
    """Everything published for the device that torch calls `name`; empty where nothing was read for it."""
    found = (gpu.values for gpu in GPUS if re.search(gpu.names, name, re.IGNORECASE))
    return tuple(value for values in found for value in values)
