"""What have others published for this CPU's core? Values with their source; what was not seen in a source is not here.

Latencies and peak rates are given in cycles and become seconds by the clock measured in the same run. They are
structural values (no TLB misses, large pages), so a chase over 4 KiB pages lies above them beyond the TLB's reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from probe.microbench.published.published import Published, Unit
from probe.results.measurement import Measurement

ROME = "AnandTech, AMD Rome 2nd Gen EPYC review (2019), latency table"
SKYLAKE_X = "AnandTech, Skylake-X review (2017), comparison of Skylake-S and Skylake-SP caches"
SOG_ZEN3 = "AMD Software Optimization Guide 19h, quoted in LLVM X86ScheduleZnver3.td"
SOG_ZEN4 = "AMD Software Optimization Guide Zen 4, quoted in LLVM X86ScheduleZnver4.td"
GENOA_X = "Chips and Cheese, Genoa-X (2023): Milan-X 50 cycles, of which V-Cache adds 4"
GOLDEN_COVE = "Chips and Cheese, Golden Cove's caches (2022)"
SAPPHIRE_RAPIDS = "Chips and Cheese, A Peek at Sapphire Rapids (2023): 2 × 512 bit FMA"
KERNCRAFT = "RRZE kerncraft machine file {}: FLOPs per cycle"
ZEN2_7CPU = "7-cpu.com Zen2: two 256-bit loads and one store a cycle"


@dataclass(frozen=True)
class Cycles:
    """A published range, in cycles or per cycle."""

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Family:
    """Published values of one core: load-to-use cycles by level; peaks of FLOP by dtype and L1 bytes a cycle."""

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


def values_of(core: Family, clock_hz: float, cores: int, measurement: Measurement) -> Iterator[Published]:
    """What is published of `core` for the suite of `measurement`: latencies, and the peaks of all its threads."""
    if measurement.suite == "cache_latency":
        for level, cycles in core.latency.items():
            yield _published(core, cycles, 1 / clock_hz, "cache_latency", "latency", "s", {"level": level})
    if measurement.suite == "matmul":
        for dtype, rate in core.flops.items():
            yield _published(core, rate, clock_hz * cores, "matmul", "flops_per_s", "FLOP/s", {"dtype": dtype})
    threads = measurement.params.get("threads")
    if measurement.suite == "memory_bandwidth" and core.l1_bytes and threads:
        params: dict[str, object] = {
            "level": "L1",
            "kernel": ("add", "triad"),
        }  # two loads and a store: what the peak counts
        yield _published(core, core.l1_bytes, clock_hz * threads, "memory_bandwidth", "bandwidth", "B/s", params)


def _published(
    core: Family, cycles: Cycles, factor: float, suite: str, metric: str, unit: Unit, params: Mapping[str, object]
) -> Published:
    values = tuple((end * factor, f"{core.name}, {cycles.source}") for end in dict.fromkeys((cycles.low, cycles.high)))
    return Published(suite, metric, unit, values, params, peak=unit != "s")
