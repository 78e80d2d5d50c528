"""What a device is, and the ceilings measured on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

DeviceKind = Literal["cuda", "cpu", "rocm", "unknown"]
Origin = Literal["measured", "datasheet", "assumed"]


@dataclass(frozen=True)
class Cache:
    """One level of a CPU's data cache, as the operating system reports it."""

    level: int
    bytes: int
    line_bytes: int
    shared_by: int  # logical CPUs that share one such cache


@dataclass(frozen=True)
class Device:
    """A processor or accelerator; what does not apply to its kind, or is not known, is None."""

    kind: DeviceKind
    name: str
    cores: int | None = None  # cpu: logical CPUs this process may use
    physical_cores: int | None = None
    isa: tuple[str, ...] = ()  # cpu: instruction sets that matter for peak rates
    caches: tuple[Cache, ...] = ()
    compute_capability: str | None = None  # cuda: "9.0"
    sm_count: int | None = None
    clock_hz: float | None = None  # cuda: maximum SM clock; cpu: measured core clock, where it was measured
    l2_bytes: int | None = None
    memory_bytes: int | None = None
    driver: str | None = None

    @property
    def key(self) -> str:
        """The name under which this device's ceilings are stored: letters, digits and dashes."""
        words = f"{self.name} {self.cores} cpus" if self.kind == "cpu" else self.name
        return "-".join("".join(c if c.isalnum() else " " for c in words.lower()).split()) or "unknown"


@dataclass(frozen=True)
class Level:
    """One level of the memory hierarchy: how long a dependent load takes, how fast it streams."""

    capacity_bytes: int | None = None
    latency_s: float | None = None
    bytes_per_s: float | None = None


@dataclass(frozen=True)
class Ceilings:
    """What a device can do at best. Rates are of the whole device, all cores or SMs."""

    origin: Origin
    device: str
    dram_bytes_per_s: float | None = None
    flops_per_s: dict[str, float] = field(default_factory=dict)  # torch dtype name -> rate
    launch_s: float | None = None  # dispatching one eager operator (CPU) or kernel (GPU)
    levels: dict[str, Level] = field(default_factory=dict)  # "L1", "L2", "L3", "DRAM"
    link_bytes_per_s: dict[str, float] = field(default_factory=dict)  # ranks -> best busbw among so many devices
    quick: bool = False
    measured_at: str | None = None  # ISO 8601, UTC

    def ridge_point(self, dtype: str) -> float | None:
        """Arithmetic intensity (FLOP/byte) above which `dtype` work is bound by arithmetic rather than by DRAM."""
        peak = self.flops_per_s.get(dtype)
        return peak / self.dram_bytes_per_s if peak and self.dram_bytes_per_s else None
