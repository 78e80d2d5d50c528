"""Is a result what others published, better, or worse, and if worse, what is known to explain it?

The rule: the best window lies in the published range, widened by TOLERANCE_FRACTION and by half the width of the
median's 95 % interval, both relative: "as published". Outside on the good side it is "better", on the bad side "worse".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from probe.results.measurement import Measurement, Reference

AS_PUBLISHED, BETTER, WORSE = "as published", "better", "worse"
TOLERANCE_FRACTION = (
    0.10  # sources that measured the same quantity on the same GPU differ by 8 to 20 % about the middle
)
IMPLAUSIBLE, UNKNOWN = "implausible", "unknown"
# Flags that explain a worse result, the likeliest first.
EXPLANATIONS = ("contended", "few-windows", "launch-bound", "emulated")
# NVML's reasons for a lower clock that are none: the user's own setting, or nothing to do.
HARMLESS = ("gpu_idle", "applications_clocks_setting", "sync_boost", "display_clock_setting")


def judge(
    measurement: Measurement, reference: Reference, *, peak: bool = False, throttled_by: Sequence[str] = ()
) -> tuple[str | None, str | None]:
    """Verdict and, where it is "worse" or None, why.

    What a core could do at most (a `peak`) is no result of anybody's: below it there is no verdict.
    """
    if IMPLAUSIBLE in measurement.flags:
        return None, IMPLAUSIBLE
    low, high = widened(measurement, reference)
    if low <= measurement.value <= high:
        return AS_PUBLISHED, None
    if (measurement.value < low) == (measurement.unit == "s"):
        return BETTER, None
    if peak:
        reached = measurement.value / reference.low
        return None, f"{reached * 100:.0f} % of a theoretical peak"
    return WORSE, _explanation(measurement, throttled_by)


def widened(measurement: Measurement, reference: Reference) -> tuple[float, float]:
    """The range that still counts as published."""
    share = TOLERANCE_FRACTION + half_width_fraction(measurement)
    return reference.low * max(0.0, 1 - share), reference.high * (1 + share)


def half_width_fraction(measurement: Measurement) -> float:
    """Half the width of the median's interval, relative to the median; 0 where there is no median to relate it to."""
    low, high = measurement.interval
    half = (high - low) / 2
    return half / measurement.median if measurement.median > 0 and math.isfinite(half) else 0.0


def _explanation(measurement: Measurement, throttled_by: Sequence[str]) -> str:
    """The first cause that was seen; "unknown" where none was."""
    reasons = [r for r in measurement.params.get("clocks_event_reasons") or throttled_by if r not in HARMLESS]
    if reasons:
        return f"throttled ({', '.join(reasons)})"
    if "throttled" in measurement.flags:
        return "throttled (reason unknown)"
    return next((cause for cause in EXPLANATIONS if cause in measurement.flags), UNKNOWN)
