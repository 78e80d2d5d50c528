"""How much faster, and how sure is that? The median of paired ratios, its interval, and the noise of the machine.

The interval is the percentile bootstrap of the median, without drawing: the distribution of a resampled median over
the order statistics is binomial (Efron 1979, §3), so that the same ratios always give the same interval. Ends are
taken outwards to the next order statistic, which keeps the coverage at or above what is claimed for any distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Pairs:
    """Seconds per call of the original and of the candidate, pair by pair.

    contended: whether other processes took CPU time meanwhile; other: what the clock that does not judge showed.
    """

    old_s: Sequence[float]
    new_s: Sequence[float]
    contended: bool = False
    other: str = ""

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.old_s)

    @cached_property
    def ratios(self) -> npt.NDArray[np.float64]:
        """old / new of each pair, ascending; above 1 the candidate was faster."""
        return np.sort(np.asarray(self.old_s, np.float64) / np.asarray(self.new_s, np.float64))

    @property
    def speedup(self) -> float:
        """Median of the paired ratios."""
        return float(np.median(self.ratios))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of the speed-up over pairs."""
        low, high = bootstrap_ranks(self.n, confidence)
        return float(self.ratios[low]), float(self.ratios[high])

    @property
    def noise(self) -> float:
        """How far the same code differs from itself: the median |ln| of the ratio of consecutive samples of one side.

        The worse side counts. A lone slow sample does not move it; a neighbour that is always there does.
        """
        return max(_consecutive_spread(self.old_s), _consecutive_spread(self.new_s))


def _consecutive_spread(seconds: Sequence[float]) -> float:
    """Median |ln(next / this)|; 0 for fewer than two samples."""
    if len(seconds) < 2:
        return 0.0
    return float(np.median(np.abs(np.diff(np.log(np.asarray(seconds, np.float64))))))


@lru_cache(maxsize=4096)
def bootstrap_ranks(n: int, confidence: float = 0.95) -> tuple[int, int]:
    """Ranks (from 0) of the order statistics that bound a resampled median of `n` values with `confidence`.

    Where `n` is too small for that confidence, the ends are the extremes.
    """
    outside = (1 - confidence) / 2
    low, high = 1, (n + 1) // 2  # from 1: at least `high` of n draws fall among the first `rank` values
    while low < high:
        rank = (low + high + 1) // 2
        if _binomial_tail(n, rank / n, (n + 1) // 2) <= outside:
            low = rank
        else:
            high = rank - 1
    return low - 1, n - low


def _binomial_tail(n: int, p: float, least: int) -> float:
    """P(X ≥ least) for X binomial(n, p), by logarithms so that a large n does not overflow."""
    if p >= 1:
        return 1.0
    log_p, log_q = math.log(p), math.log1p(-p)
    terms = (_log_choose(n, k) + k * log_p + (n - k) * log_q for k in range(least, n + 1))
    return math.fsum(math.exp(term) for term in terms)


def _log_choose(n: int, k: int) -> float:
    """ln of the binomial coefficient."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
