"""How far is one clock ahead of another? In nanoseconds where it is computed, in seconds where it is told."""

from __future__ import annotations

from dataclasses import dataclass

from probe.results.multirank import ClockOffset, Interval


@dataclass(frozen=True)
class Offset:
    """A `ClockOffset` in integer nanoseconds; drifts in seconds per second."""

    rank: int
    reference: int
    offset_ns: int | None
    interval_ns: tuple[int, int] | None
    bounds_ns: tuple[int, int] | None
    n: int
    drift: float | None = None
    drift_error: float | None = None
    reason: str | None = None

    @property
    def known_ns(self) -> tuple[int, int] | None:
        """The interval where there is one, else the hard bounds."""
        return self.interval_ns or self.bounds_ns


def in_seconds(offset: Offset) -> ClockOffset:
    """The same as users see it."""
    return ClockOffset(
        rank=offset.rank,
        reference=offset.reference,
        offset_s=None if offset.offset_ns is None else offset.offset_ns / 1e9,
        interval_s=_seconds(offset.interval_ns),
        bounds_s=_seconds(offset.bounds_ns),
        n=offset.n,
        drift_fraction=offset.drift,
        drift_error_fraction=offset.drift_error,
        reason=offset.reason,
    )


def _seconds(ends_ns: tuple[int, int] | None) -> Interval | None:
    return None if ends_ns is None else (ends_ns[0] / 1e9, ends_ns[1] / 1e9)
