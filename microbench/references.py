"""What have others published for this processor? Values with their source; what was not seen in a source is not here.

Latencies and rates are given in cycles and turned into seconds by the clock measured in the same run. They are
structural values (no TLB misses, large pages), so a chase over 4 KiB pages lies above them beyond the TLB's reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probe import cpu_info
from probe.device import Device
from probe.measurement import Measurement, Reference

ROME = "AnandTech, AMD Rome 2nd Gen EPYC review (2019), latency table"
SKYLAKE_X = "AnandTech, Skylake-X review (2017), comparison of Skylake-S and Skylake-SP caches"
SOG_ZEN3 = "AMD Software Optimization Guide 19h, quoted in LLVM X86ScheduleZnver3.td"
SOG_ZEN4 = "AMD Software Optimization Guide Zen 4, quoted in LLVM X86ScheduleZnver4.td"
GENOA_X = "Chips and Cheese, Genoa-X (2023): Milan-X 50 cycles, of which V-Cache adds 4"
GOLDEN_COVE = "Chips and Cheese, Golden Cove's caches (2022)"
SAPPHIRE_RAPIDS = "Chips and Cheese, A Peek at Sapphire Rapids (2023): 2 × 512 bit FMA"
KERNCRAFT = "RRZE kerncraft machine file {}: FLOPs per cycle"
ZEN2_7CPU = "7-cpu.com Zen2: two 256-bit loads and one store a cycle"
GPU_BENCHES = "te42kyfo/gpu-benches, gpu-stream"
MAMF = "stas00/ml-engineering, MAMF"


@dataclass(frozen=True)
class Cycles:
    """A published range, in cycles or per cycle."""

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Family:
    """Published values of one core: load-to-use latency by level, FLOP per cycle by dtype, L1 bytes per cycle."""

    name: str
    latency: dict[str, Cycles]
    flops: dict[str, Cycles]
    l1_bytes: Cycles | None = None


def _flops(single: int, source: str) -> dict[str, Cycles]:
    """FLOP per cycle and core of float32 and, half as many, float64."""
    return {"float32": Cycles(single, single, source), "float64": Cycles(single / 2, single / 2, source)}


ZEN1 = Family(
    "AMD Zen",
    {"L1": Cycles(4, 4, ROME), "L2": Cycles(12, 12, ROME)},
    _flops(16, KERNCRAFT.format("Zen_EPYC-7451")),
)
ZEN2 = Family(
    "AMD Zen 2",
    {"L1": Cycles(4, 4, ROME), "L2": Cycles(13, 13, ROME), "L3": Cycles(34, 34, ROME)},
    _flops(32, KERNCRAFT.format("Zen2_EPYC-7452")),
    Cycles(96, 96, ZEN2_7CPU),
)
ZEN3 = Family(
    "AMD Zen 3",
    {"L1": Cycles(4, 5, SOG_ZEN3), "L3": Cycles(46, 50, GENOA_X)},
    _flops(32, f"two 256-bit FMA pipes: {SOG_ZEN3}"),
    Cycles(96, 96, f"three 256-bit memory operations a cycle: {SOG_ZEN3}"),
)
ZEN4 = Family(
    "AMD Zen 4",
    {"L1": Cycles(4, 5, SOG_ZEN4)},
    _flops(32, f"two FMA pipes, 512-bit operations in two halves: {SOG_ZEN4}"),
    Cycles(96, 96, f"three 256-bit memory operations a cycle: {SOG_ZEN4}"),
)
SKYLAKE_SP = Family(
    "Intel Skylake-SP",
    {"L1": Cycles(4, 4, SKYLAKE_X), "L2": Cycles(11, 13, SKYLAKE_X), "L3": Cycles(77, 77, SKYLAKE_X)},
    _flops(64, KERNCRAFT.format("CascadelakeSP_Gold-6248") + " (same core)"),
    Cycles(192, 192, SKYLAKE_X + ": two 64-byte loads and one store a cycle"),
)
CASCADE_LAKE = Family(
    "Intel Cascade Lake",
    {"L1": Cycles(4, 4, ROME), "L2": Cycles(14, 14, ROME)},
    _flops(64, KERNCRAFT.format("CascadelakeSP_Gold-6248")),
    Cycles(192, 192, SKYLAKE_X + ": two 64-byte loads and one store a cycle (same core)"),
)
SAPPHIRE = Family("Intel Sapphire Rapids", {"L1": Cycles(5, 5, GOLDEN_COVE)}, _flops(64, SAPPHIRE_RAPIDS))

# Models of AMD families, as Linux tells the generations apart (arch/x86/kernel/cpu/amd.c).
AMD_MODELS: tuple[tuple[int, range, Family], ...] = (
    (0x17, range(0x30), ZEN1),
    (0x17, range(0x50, 0x60), ZEN1),
    (0x17, range(0x30, 0x50), ZEN2),
    (0x17, range(0x60, 0x80), ZEN2),
    (0x17, range(0x90, 0x92), ZEN2),
    (0x17, range(0xA0, 0xB0), ZEN2),
    (0x19, range(0x10), ZEN3),
    (0x19, range(0x20, 0x60), ZEN3),
    (0x19, range(0x10, 0x20), ZEN4),
    (0x19, range(0x60, 0xB0), ZEN4),
)
SKYLAKE_X_MODEL, FIRST_CASCADE_LAKE_STEPPING = 0x55, 5
SAPPHIRE_RAPIDS_MODEL = 0x8F  # arch/x86/include/asm/intel-family.h

# GPUs: part of the device name -> kernel or dtype -> value of the whole device (B/s, FLOP/s).
GPU_BYTES_PER_S = {
    "V100": {"scale": 802e9},
    "H100 PCIe": {"triad": 1832e9},
    "H200": {"triad": 3534e9, "scale": 3165e9},
}
GPU_FLOPS_PER_S = {
    "A100": {"bfloat16": 271.2e12},
    "H100": {"bfloat16": 794.5e12, "float8_e4m3fn": 1402.6e12},
    "H200": {"bfloat16": 794.5e12, "float8_e4m3fn": 1453.4e12},
    "GH200": {"bfloat16": 828.6e12},
    "GB200": {"bfloat16": 1822.0e12},
    "B200": {"bfloat16": 1745.0e12, "float8_e4m3fn": 3432.5e12},
    "B300": {"bfloat16": 1769.0e12},
}


def family(cpuinfo: str) -> Family | None:
    """The core described by the text of /proc/cpuinfo; None if there is nothing published here for it."""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    fields = {key.strip(): value.strip() for key, colon, value in pairs if colon}
    try:
        number, model, stepping = (int(fields[key]) for key in ("cpu family", "model", "stepping"))
    except (KeyError, ValueError):
        return None
    if fields.get("vendor_id") == "AuthenticAMD":
        return next((f for n, models, f in AMD_MODELS if n == number and model in models), None)
    if fields.get("vendor_id") == "GenuineIntel" and number == 6:
        if model == SKYLAKE_X_MODEL:
            return CASCADE_LAKE if stepping >= FIRST_CASCADE_LAKE_STEPPING else SKYLAKE_SP
        return SAPPHIRE if model == SAPPHIRE_RAPIDS_MODEL else None
    return None


def this_family() -> Family | None:
    """The core of this machine."""
    return family(cpu_info.read_text(Path("/proc/cpuinfo")) or "")


def annotate(
    measurements: Sequence[Measurement], device: Device, core: Family | None, clock_hz: float | None
) -> tuple[Measurement, ...]:
    """The measurements with the published range beside them where there is one."""
    if device.kind != "cpu":
        found = [_of_gpu(measurement, device.name) for measurement in measurements]
    elif core is None or clock_hz is None:
        return tuple(measurements)
    else:
        cores = device.physical_cores or device.cores or 1
        found = [_of_cpu(measurement, core, clock_hz, cores) for measurement in measurements]
    return tuple(
        dataclasses.replace(measurement, reference=reference) if reference else measurement
        for measurement, reference in zip(measurements, found, strict=True)
    )


def _of_cpu(measurement: Measurement, core: Family, clock_hz: float, cores: int) -> Reference | None:
    params = measurement.params
    if measurement.suite == "cache_latency":
        published = core.latency.get(str(params.get("level")))
        return _scaled(published, 1 / clock_hz, core.name)
    if measurement.suite == "matmul":
        return _scaled(core.flops.get(str(params.get("dtype"))), clock_hz * cores, core.name)
    three_arrays = measurement.suite == "memory_bandwidth" and params.get("kernel") in ("add", "triad")
    if three_arrays and params.get("level") == "L1":
        return _scaled(core.l1_bytes, clock_hz * int(params["threads"]), core.name)
    return None


def _scaled(published: Cycles | None, factor: float, name: str) -> Reference | None:
    if published is None:
        return None
    source = f"{name}, {published.source}"
    return Reference(published.low * factor, published.high * factor, source)


def _of_gpu(measurement: Measurement, name: str) -> Reference | None:
    if measurement.suite == "memory_bandwidth":
        table, key, source = GPU_BYTES_PER_S, "kernel", GPU_BENCHES
    elif measurement.suite == "matmul":
        table, key, source = GPU_FLOPS_PER_S, "dtype", MAMF
    else:
        return None
    value = _longest_match(table, name).get(str(measurement.params.get(key)))
    return None if value is None else Reference(value, value, source)


def _longest_match(table: dict[str, dict[str, float]], name: str) -> dict[str, float]:
    """The entry of the longest key that occurs in `name`: GH200 before H200."""
    matching = [key for key in table if key.lower() in name.lower()]
    return table[max(matching, key=len)] if matching else {}
