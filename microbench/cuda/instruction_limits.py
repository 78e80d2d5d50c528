"""What can an SM do at most, how long can an instruction take? Beyond that, a loop is not what it seems.

Rates: NVIDIA's table "Throughput of Native Arithmetic Instructions" (CUDA C++ Programming Guide up to 12, Best
Practices Guide since 13) by compute capability; where its editions disagree or leave doubt (packed 16-bit numbers on
8.6, 8.9, 10.0 and 12.0, additions of integers on 10.0) the larger value stands here: a limit must not be too low.
Tensor cores: rates of NVIDIA's white papers and datasheets divided by SMs and boost clock. No SM since Volta issues
more than four warp instructions in a cycle, which bounds what is not in the table.

Latencies: 4 cycles for the core arithmetic since Volta (NVIDIA's Volta tuning guide), 8 for DFMA on a V100. Others are
wide windows, with no source but what is usual. A loop that carries its counter or a move beside the instruction shows
as a latency far above: an "FMA latency of 29 cycles" has been published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LANES = 32
ISSUED_LANES = 128  # four schedulers, one warp instruction each a cycle
TOLERANCE = 1.03  # of the limit: both sides are counted in the same clock
GUIDE = "NVIDIA's table of native arithmetic throughput"
TENSOR_SOURCE = "NVIDIA's white papers and datasheets: rate by SMs and boost clock"
ISSUE_SOURCE = "four warp instructions a cycle"

Capability = tuple[int, int]


def _lanes(ffma: int, dfma: int, hfma2: int, iadd3: int) -> Mapping[str, int]:
    """Lanes of an SM by instruction; those of the others are the same everywhere since Volta."""
    return {"FFMA": ffma, "DFMA": dfma, "HFMA2": hfma2, "IADD3": iadd3, "IMAD": 64, "MUFU": 16, "SHFL": 32}


# Lanes that finish an instruction in a cycle, for all of one SM. One HFMA2 is two numbers a lane.
LANES_A_CYCLE: Mapping[Capability, Mapping[str, int]] = {
    (7, 0): _lanes(64, 32, 64, 64),
    (7, 5): _lanes(64, 2, 64, 64),
    (8, 0): _lanes(64, 32, 128, 64),
    (8, 6): _lanes(128, 2, 128, 64),
    (8, 9): _lanes(128, 2, 128, 64),
    (9, 0): _lanes(128, 64, 128, 64),
    (10, 0): _lanes(128, 64, 128, 128),
    (12, 0): _lanes(128, 2, 128, 128),
}


def _macs(
    half: int, bfloat: int = 0, *, tf32: int = 0, int8: int = 0, float8: int = 0, float64: int = 0
) -> Mapping[str, int]:
    found = {
        "float16": half, "bfloat16": bfloat, "tf32": tf32, "int8": int8, "float8_e4m3fn": float8, "float64": float64,
    }  # fmt: skip
    return {f"MMA {dtype}": macs for dtype, macs in found.items() if macs}


# Dense multiply-adds of an SM's tensor cores in a cycle, by the best accumulator: GeForce cards do half with float32.
MACS_A_CYCLE: Mapping[Capability, Mapping[str, int]] = {
    (7, 0): _macs(512),
    (7, 5): _macs(512, int8=1024),
    (8, 0): _macs(1024, 1024, tf32=512, int8=2048, float64=64),
    (8, 6): _macs(512, 512, tf32=256, int8=1024),
    (8, 9): _macs(512, 512, tf32=256, int8=1024, float8=1024),
    (9, 0): _macs(2048, 2048, tf32=1024, int8=4096, float8=4096, float64=128),
    (10, 0): _macs(4096, 4096, tf32=2048, int8=8192, float8=8192, float64=64),
    (12, 0): _macs(512, 512, tf32=256, int8=1024, float8=1024),
}

# Cycles from an instruction to the next that needs its result.
LATENCIES: Mapping[str, tuple[float, float]] = {
    "FFMA": (3, 8),
    "IMAD": (3, 10),
    "IADD3": (2, 10),
    "HFMA2": (3, 12),
    "DFMA": (4, 96),  # an SM with two units needs 16 cycles for a warp alone
    "MUFU": (8, 64),
    "SHFL": (8, 64),
}
MATRIX_LATENCY = (8, 400)  # a product of four warps takes longer than one of a warp's own


@dataclass(frozen=True)
class Limit:
    """What one SM does at most of one kind of instruction in a cycle (lanes, or multiply-adds), and its latency.

    `a_cycle` is None where nothing is known that bounds it.
    """

    kind: str
    a_cycle: float | None
    source: str
    latency: tuple[float, float]

    def wrong_rate(self, found: float) -> str | None:
        """Why `found`, in lanes or multiply-adds a cycle, cannot be; None where it can."""
        if self.a_cycle is None or found <= self.a_cycle * TOLERANCE:
            return None
        unit = "multiply-adds" if self.kind.startswith("MMA") else "lanes"
        return f"{found:.4g} {unit} a cycle and SM; {self.a_cycle:g} is the most there is ({self.source})"

    def wrong_latency(self, cycles: float, work: float) -> str | None:
        """Why `cycles` between dependent instructions of `work` lanes or multiply-adds cannot be; None: they can."""
        low, high = self.latency
        least = max(1.0, low, work / self.a_cycle if self.a_cycle else 0.0)
        if cycles < least / TOLERANCE:
            return f"a dependent {self.kind} every {cycles:.3g} cycles; it takes {least:g} at least"
        if cycles > high * TOLERANCE:
            return f"a dependent {self.kind} every {cycles:.3g} cycles; {high:g} is the most that is plausible"
        return None


def limit_of(kind: str, capability: Capability) -> Limit:
    """The limits of `kind` ("FFMA", "MMA bfloat16") on an SM of that compute capability."""
    if kind.startswith("MMA"):
        return Limit(kind, MACS_A_CYCLE.get(capability, {}).get(kind), TENSOR_SOURCE, MATRIX_LATENCY)
    lanes = LANES_A_CYCLE.get(capability, {}).get(kind)
    source = GUIDE if lanes else ISSUE_SOURCE
    return Limit(kind, lanes or ISSUED_LANES, source, LATENCIES[kind])
