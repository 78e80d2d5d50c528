"""How far off were projections that could be measured? The figures of docs/validation.md, by kind of question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probe.analyzers.projection.result import Validation

Kind = Literal["device", "threads", "batch", "dtype", "fuse", "replace", "none"]


@dataclass(frozen=True)
class Errors:
    """Errors as fractions of the measured step, over n pairs."""

    kind: Kind
    median: float | None
    worst: float | None
    n: int
    of: str

    @property
    def fraction(self) -> float:
        """By how much an interval is widened: the worst error seen, since few pairs stand behind it."""
        return min(self.worst or 0.0, 0.95)

    def validation(self) -> Validation:
        """As it is printed beside a projection."""
        return Validation(self.median, self.n, self.worst, self.of)


NO_ERRORS = Errors("none", None, None, 0, "no projection of this kind could be measured")

# From benchmarks/results/projection.*.json, as a test holds them; `benchmarks/projection.py docs` writes them.
# "device": Qwen2-0.5B on an H100 and on an MI300X, projected from each to the other: one case, stated as such.
MEASURED: dict[Kind, Errors] = {
    "device": Errors("device", 0.054, 0.062, 2, "one model, recorded on an H100 and an MI300X, each way"),
    "batch": Errors("batch", 0.055, 0.211, 22, "four small models on one thread of a CPU"),
    "dtype": Errors("dtype", 0.060, 0.195, 8, "four small models on one thread of a CPU, float32 and float64"),
    "fuse": Errors("fuse", 0.044, 0.337, 15, "five chains on one thread of a CPU, forward only"),
    "replace": Errors("replace", 0.062, 0.186, 9, "three operators on one thread of a CPU, forward only"),
}
