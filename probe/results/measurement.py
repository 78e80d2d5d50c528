"""The object of `probe run microbench`: types only (schema probe.microbench/1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from probe.machine.device import Ceilings, Device

SCHEMA = "probe.microbench/1"


@dataclass(frozen=True)
class Reference:
    """A published range for a measurement, in the measurement's unit."""

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Measurement:
    """One measured quantity.

    `value` is what the ceilings use: the best window, the least of times and the greatest of rates. `min` is the least
    sample either way. `median` with its 95 % `interval` is what one gets on average.
    """

    suite: str
    name: str
    metric: str  # "latency", "bandwidth", "flops_per_s", "time"
    unit: str  # "s", "B/s", "FLOP/s"
    value: float
    min: float
    median: float
    interval: tuple[float, float]
    n: int
    params: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()  # "contended", "throttled", "launch-bound", "emulated", …
    reference: Reference | None = None
    proof: dict[str, Any] | None = None
    verdict: str | None = None  # against the reference: "as published", "better", "worse"; None where that is not known
    because: str | None = None  # what explains a worse result, or why there is a reference and no verdict
    samples: tuple[float, ...] = ()  # of each window in the order they ran, in `unit`; () where a suite keeps none


@dataclass(frozen=True)
class Unsupported:
    """A suite this device could not run, and why."""

    suite: str
    reason: str


@dataclass(frozen=True)
class MicrobenchResult:
    """Everything one `probe run microbench` found."""

    device: Device
    environment: dict[str, Any]
    measurements: tuple[Measurement, ...]
    ceilings: Ceilings
    unsupported: tuple[Unsupported, ...] = ()
    warnings: tuple[str, ...] = ()
    interrupted: bool = False  # Ctrl-C came before all suites were done; what was done is here
    schema: str = SCHEMA
