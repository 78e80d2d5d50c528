"""What does a step use of energy, and what does it cost? Types only; a field's name is its JSON key."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Energy:
    """Energy of the steps that nothing recorded, from the devices' own counters."""

    source: str  # "nvml" or "rapl"
    devices: tuple[str, ...]  # whose counters were added up
    mean_w: float
    measured_s: float  # how long the counters were watched, of each device
    readings: int
    j_per_step: float | None = None
    j_per_sample: float | None = None
    j_per_token: float | None = None


@dataclass(frozen=True)
class Cost:
    """Energy and money of a step over all its devices; None where not known, with the reason."""

    energy: Energy | None = None
    devices: int = 1  # that are paid for: one a rank
    price_usd_per_hour: float | None = None  # of one device
    price_origin: str | None = None
    usd_per_step: float | None = None
    usd_per_1000_steps: float | None = None
    usd_per_million_samples: float | None = None
    usd_per_million_tokens: float | None = None
    idle_usd_per_1000_steps: float | None = None
    recoverable_usd_per_1000_steps: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)  # what is not known: why
