"""How much faster is NEW, how sure is that, and when is it noise?

Everything is a cost (seconds, or seconds per unit of work) with a range; the speed-up is base / new. Its interval joins
the worst ends of both ranges, so that it covers more than either. It knows what varied within each result. What
changed on the machine between the two it cannot know, therefore a change below a floor is noise whatever the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.results.comparison import Interval, Judged, Verdict
from probe.stats import summarise
from probe.units import significant

FLOOR_FRACTION = 0.01  # a smaller change of speed is called noise, as Criterion.rs does by default
ENOUGH = 6  # samples from which order statistics give a 95 % interval of the median
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # samples -> 97.5 % quantile of Student's t for one fewer


@dataclass(frozen=True)
class Cost:
    """What something costs, less is better: what is compared, and the range it lies in; None where not known."""

    value: float
    interval: Interval | None
    n: int


def cost(samples: Sequence[float] | npt.NDArray[np.float64]) -> Cost:
    """The median of `samples` with its 95 % interval; of fewer than 6 Student's, on logarithms; of one none."""
    summary = summarise(samples)
    if summary.n >= ENOUGH:
        return Cost(summary.median, summary.interval, summary.n)
    if summary.n == 1 or summary.min <= 0:
        return Cost(summary.median, None, summary.n)
    logs = np.log(np.asarray(samples, np.float64))
    half = STUDENT[summary.n] * float(logs.std(ddof=1)) / math.sqrt(summary.n)
    centre = float(logs.mean())
    if centre + half > math.log(summary.max) + 50:  # two samples far apart: a range without an end says nothing
        return Cost(summary.median, None, summary.n)
    return Cost(summary.median, (math.exp(centre - half), math.exp(centre + half)), summary.n)


def judge(base: Cost, new: Cost, floor: float = FLOOR_FRACTION) -> Judged:
    """The speed-up base / new with its interval; a verdict where that lies beyond the floor, else "~"."""
    if base.value <= 0 or new.value <= 0:
        return Judged(None, None, "~", "one side is zero")
    ratio = base.value / new.value
    lone = " and ".join(side for side, c in (("BASE", base), ("NEW", new)) if c.interval is None)
    if base.interval is None or new.interval is None:
        return Judged(ratio, None, "~", f"no interval: one sample of {lone}" if min(base.n, new.n) == 1 else _TOO_FAR)
    if min(*base.interval, *new.interval) <= 0:
        return Judged(ratio, None, "~", "the interval of one side reaches zero")
    interval = (base.interval[0] / new.interval[1], base.interval[1] / new.interval[0])
    return verdict(ratio, interval, floor)


_TOO_FAR = "no interval: the few samples lie too far apart"


def verdict(ratio: float, interval: Interval, floor: float = FLOOR_FRACTION) -> Judged:
    """What may be said of a speed-up with this interval."""
    low, high = interval
    limit = 1 + floor
    said: Verdict = "~"
    if low > 1 and ratio > limit:
        said = "faster"
    elif high < 1 and ratio < 1 / limit:
        said = "slower"
    if said != "~":
        return Judged(ratio, interval, said)
    why = "the interval holds 1" if low <= 1 <= high else f"within the noise of {significant(limit)}×"
    return Judged(ratio, interval, "~", why)


def geometric_mean(found: Sequence[Judged], floor: float = FLOOR_FRACTION) -> Judged:
    """The geometric mean of the speed-ups; the ends of its interval are those of all ends.

    Results of one run share its clock and its neighbours, so that their errors do not average out: the interval does
    not narrow with their number.
    """
    ratios = [one.ratio for one in found if one.ratio is not None and one.interval is not None]
    intervals = [one.interval for one in found if one.ratio is not None and one.interval is not None]
    if not ratios:
        return Judged(None, None, "~", "nothing on both sides has an interval")
    low, high = (_mean([interval[end] for interval in intervals]) for end in (0, 1))
    return verdict(_mean(ratios), (low, high), floor)


def mean_noise(fractions: Sequence[float]) -> float:
    """The geometric mean of several margins of noise, each a fraction by which a ratio may be off."""
    return _mean([1 + fraction for fraction in fractions]) - 1 if fractions else FLOOR_FRACTION


def _mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))
