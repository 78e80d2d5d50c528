"""Summaries of samples: minimum, median and percentiles, each with how sure it is.

Two numbers describe a timing: the minimum (what the hardware can do) and the median (what one gets), the latter with
a distribution-free 95 % interval from order statistics. Means of times are not compared: one descheduling moves them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

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

    The number of samples below the median is binomial(n, ½). With fewer samples than `fewest_for_interval` no pair
    reaches the confidence, and the interval is the whole range.
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


@cache
def fewest_for_interval(confidence: float = 0.95) -> int:
    """Samples from which the least and the largest enclose the median with at least `confidence`: 6 for 95 %."""
    n = 1
    while 2 * 0.5**n > 1 - confidence:
        n += 1
    return n


@cache
def student_quantile(freedom: int, confidence: float = 0.95) -> float:
    """Half the width, in standard errors, of the interval of a mean by Student's distribution: 2.228 for 10 degrees.

    Exact for one and two degrees of freedom; else by Abramowitz and Stegun's expansion 26.7.5, at 95 % within 0.2 %.
    """
    if freedom == 1:
        return math.tan(math.pi * confidence / 2)
    if freedom == 2:
        return confidence * math.sqrt(2 / (1 - confidence**2))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / float(freedom) ** power for power, term in enumerate(terms))


def _binomial_half(n: int, k: int) -> float:
    """P(X = k) for X binomial(n, ½), by logarithms so that a large n does not overflow."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))


def percentile(samples: Sequence[float] | npt.NDArray[np.float64], percent: float) -> float:
    """The `percent` percentile, linear between samples."""
    return float(np.percentile(np.asarray(samples, np.float64), percent))


def student_tail(t: float, freedom: int) -> float:
    """P(T > t) of Student's distribution with whole degrees of freedom.

    Exact: the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2 == 1
    term = total = cosine if odd else 1.0
    for k in range(2 if odd else 1, freedom - 1, 2):
        term *= cosine**2 * k / (k + 1)
        total += term
    between = (2 / math.pi) * (angle + sine * total * (freedom > 1)) if odd else sine * total
    return (1 - between) / 2
