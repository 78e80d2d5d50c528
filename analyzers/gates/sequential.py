"""Is a ratio above a limit, decided as early as its certainty allows? Group-sequential tests on session means.

A session is one pair of fresh processes in turn; blocks within it depend on one another, so that the session is the
unit of replication. A look is taken after 3, 5, 8, 12 and 16 sessions. Looking five times and stopping at a favourable
moment would be wrong more often than once, so each look spends the same part of the error (Pocock's design): 0.25 of
it. With that part, of a million simulated series of normal sessions exactly at the limit 0.996 % were called slower
at α = 0.01. Student's distribution, since there are few sessions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.stats import student_quantile, student_tail

ALPHA = 0.01  # one-sided, of all looks together: how often equals may be called slower
ALPHA_PASS = 0.05  # how often what is slower by the tolerance may pass
PER_LOOK = 0.25
LOOKS = (3, 5, 8, 12, 16)
SUSPECTED = 0.05  # one test alone: such an operator keeps a gate from passing before more sessions are in
NOISE_PART = 0.5  # of the standard deviation between sessions: a slow-down smaller than that is not believed
POWER_QUANTILE = 0.8416  # of the normal distribution, for a power of 80 %


@dataclass(frozen=True)
class Bounds:
    """The mean of log ratios over sessions, and the one-sided bounds of one look."""

    mean: float
    lower: float
    upper: float
    n: int

    @property
    def ratio(self) -> float:
        """New by base."""
        return math.exp(self.mean)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the ratio."""
        return math.exp(self.lower), math.exp(self.upper)


def bounds(log_ratios: Sequence[float], alpha: float = ALPHA * PER_LOOK) -> Bounds:
    """Of at least two sessions; infinite bounds for one."""
    values = np.asarray(log_ratios, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Bounds(mean, -math.inf, math.inf, len(values))
    half = student_quantile(len(values) - 1, 1 - 2 * alpha) * standard_error(log_ratios)
    return Bounds(mean, mean - half, mean + half, len(values))


def standard_error(log_ratios: Sequence[float]) -> float:
    """Of the mean over sessions."""
    values = np.asarray(log_ratios, np.float64)
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def slower(log_ratios: Sequence[float], floor: float) -> bool:
    """Whether the ratio is surely above 1 + floor, and above what the machine's noise could be taken for."""
    return bounds(log_ratios).lower > _believable(log_ratios, floor)


def _believable(log_ratios: Sequence[float], floor: float) -> float:
    """The floor of a log ratio; sessions that differ by more than it raise it."""
    return max(math.log1p(floor), NOISE_PART * standard_error(log_ratios) * math.sqrt(len(log_ratios)))


def not_slower(log_ratios: Sequence[float], tolerance: float) -> bool:
    """Whether the ratio is surely below 1 + tolerance."""
    return bounds(log_ratios, ALPHA_PASS * PER_LOOK).upper < math.log1p(tolerance)


def minimum_detectable_fraction(log_ratios: Sequence[float], floor: float) -> float | None:
    """The slow-down that these sessions would have found in four cases of five; None of fewer than two sessions."""
    if len(log_ratios) < 2:
        return None
    quantile = student_quantile(len(log_ratios) - 1, 1 - 2 * ALPHA * PER_LOOK) + POWER_QUANTILE
    return math.expm1(_believable(log_ratios, floor) + quantile * standard_error(log_ratios))


def surely_slower(series: Mapping[str, Sequence[float]], floors: Mapping[str, float]) -> set[str]:
    """Of many series those whose ratio is above 1 + its floor; at most a share ALPHA · PER_LOOK of them by chance.

    Benjamini and Hochberg's procedure on one-sided t tests (J. R. Stat. Soc. B 57, 1995).
    """
    level = ALPHA * PER_LOOK
    tails = sorted((_tail(values, floors[name]), name) for name, values in series.items() if len(values) >= 2)
    accepted = [rank for rank, (p, _) in enumerate(tails, 1) if p <= level * rank / len(tails)]
    return {name for _, name in tails[: max(accepted, default=0)]}


def suspected(log_ratios: Sequence[float], floor: float) -> bool:
    """Whether a ratio may well be above 1 + floor: no reason to fail, but none to pass either."""
    return len(log_ratios) >= 2 and _tail(log_ratios, floor) <= SUSPECTED


def _tail(log_ratios: Sequence[float], floor: float) -> float:
    """The probability of so large a mean where the ratio is 1 + floor."""
    if math.isinf(floor):
        return 1.0
    error = standard_error(log_ratios)
    distance = float(np.mean(log_ratios)) - _believable(log_ratios, floor)
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return student_tail(distance / error, len(log_ratios) - 1)
