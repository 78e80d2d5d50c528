"""Which latency and bandwidth describe the times of an operation at all sizes? T(size) = alpha + size / beta.

Method: least squares of the relative errors (weights 1 / T²: times span many decades, and absolute errors would leave
the small sizes, which alone determine alpha, without a say). One line often does not hold throughout: beyond some
size caches or protocols change. The line is therefore that of the longest run of sizes, from the smallest up, that it
describes; where that is less than four sizes or does not reach sizes where the transfer outweighs alpha, there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SIZES = 4  # two are always on a line, and three nearly
MOST_RMS_FRACTION = 0.20  # root mean square of the relative errors up to which the line describes the times
MOST_WORST_FRACTION = 0.50  # and the largest of them


@dataclass(frozen=True)
class Line:
    """alpha in seconds, beta in bytes/s, the number of sizes it was fitted to, and its relative errors there."""

    alpha_s: float
    beta_bytes_per_s: float
    sizes: int
    rms_error_fraction: float
    worst_error_fraction: float

    @property
    def describes(self) -> bool:
        """Whether alpha and beta are possible and the errors small."""
        return (
            self.alpha_s > 0
            and 0 < self.beta_bytes_per_s < math.inf
            and self.rms_error_fraction <= MOST_RMS_FRACTION
            and self.worst_error_fraction <= MOST_WORST_FRACTION
        )

    def transfer_outweighs(self, size_bytes: int) -> bool:
        """Whether moving `size_bytes` takes longer than alpha: below that, beta is not seen."""
        return size_bytes / self.beta_bytes_per_s >= self.alpha_s


def line_through(sizes_bytes: Sequence[int], seconds: Sequence[float]) -> Line:
    """The line with the least squares of relative errors, for at least two different sizes and positive times."""
    sizes, times = np.asarray(sizes_bytes, np.float64), np.asarray(seconds, np.float64)
    columns = np.stack([1 / times, sizes / times], axis=1)
    norms = np.linalg.norm(columns, axis=0)  # the columns differ by many decades
    solution = np.linalg.lstsq(columns / norms, np.ones_like(times), rcond=None)[0] / norms
    errors = np.abs(columns @ solution - 1)
    alpha_s, slope = float(solution[0]), float(solution[1])
    return Line(
        alpha_s,
        1 / slope if slope > 0 else math.inf,
        len(sizes),
        float(np.sqrt(np.mean(errors**2))),
        float(errors.max()),
    )


def longest_line(sizes_bytes: Sequence[int], seconds: Sequence[float]) -> Line | None:
    """The line of the longest run of sizes (ascending) from the first that it describes; None if there is none."""
    for count in range(len(sizes_bytes), LEAST_SIZES - 1, -1):
        line = line_through(sizes_bytes[:count], seconds[:count])
        if line.describes and line.transfer_outweighs(sizes_bytes[count - 1]):
            return line
    return None
