"""Summaries of samples: minimum, median and percentiles, each with how sure it is.

Two numbers describe a timing: the minimum (what the hardware can do) and the median (what one gets), the latter with
a distribution-free 95 % interval from order statistics. Means of times are not compared: one descheduling moves them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONTENDED_FRACTION = 0.05  # median this far above the minimum: something else used the machine


@dataclass(frozen=True)
class Summary:
    """Samples of one quantity, in that quantity's unit."""

    n: int
    min: float
    median: float
    max: float
    mean: float
    interval: tuple[float, float]  # 95 % interval of the median

    @property
    def spread_fraction(self) -> float:
        """How far the median lies above the minimum; for times, a sign of contention."""
        return (self.median - self.min) / self.min if self.min > 0 else 0.0

    @property
    def contended(self) -> bool:
        """Whether the median lies so far above the minimum that the samples were disturbed."""
        return self.spread_fraction > CONTENDED_FRACTION


def summarise(samples: Sequence[float] | npt.NDArray[np.float64]) -> Summary:
    """Summary of at least one finite sample."""
    values = np.sort(np.asarray(samples, np.float64))
    if not len(values):
        raise ValueError("no samples to summarise")
    low, high = median_interval_ranks(len(values))
    return Summary(
        n=len(values),
        min=float(values[0]),
        median=float(np.median(values)),
        max=float(values[-1]),
        mean=float(values.mean()),
        interval=(float(values[low]), float(values[high])),
    )


def median_interval_ranks(n: int, confidence: float = 0.95) -> tuple[int, int]:
    """Ranks (from 0) of the two order statistics that enclose the median with at least `confidence`.

    The number of samples below the median is binomial(n, ½). With fewer than 6 samples no pair reaches 95 %, and
    the interval is the whole range.
    """
    outside = (1 - confidence) / 2
    cumulative = 0.0
    rank = 0
    for k in range((n + 1) // 2):
        cumulative += _binomial_half(n, k)
        if cumulative > outside:
            break
        rank = k
    return rank, n - 1 - rank


def _binomial_half(n: int, k: int) -> float:
    """P(X = k) for X binomial(n, ½), by logarithms so that a large n does not overflow."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))


def percentile(samples: Sequence[float] | npt.NDArray[np.float64], percent: float) -> float:
    """The `percent` percentile, linear between samples."""
    return float(np.percentile(np.asarray(samples, np.float64), percent))
