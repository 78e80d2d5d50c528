"""What counts as a regression: the limits of a gate, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Counts of one step have no noise: one more of these is one more. Of the others a few percent may come with a change.
EXACT_LIMITS: Mapping[str, float] = {
    "synchronisations": 0.0,
    "host_device_copies": 0.0,
    "graph_breaks": 0.0,
    "recompilations": 0.0,
    "operators": 0.05,
    "kernels": 0.05,
    "launches": 0.05,
    "flops": 0.05,
    "copied_bytes": 0.05,
    "peak_memory_bytes": 0.05,
}


@dataclass(frozen=True)
class Limits:
    """Fractions of the base's value.

    floor: the step fails when it is slower by more than this, surely. tolerance: it passes when it is surely not
    slower by this. op_floor, op_share: an operator fails when it is slower by more than op_floor, surely, and that is
    at least op_share of the step. counts: by how much each count may rise. `operators` overrides op_floor by pattern
    of names (as in a shell); infinity for those that are acknowledged.
    """

    floor: float = 0.01
    tolerance: float = 0.03
    op_floor: float = 0.05
    op_share: float = 0.003
    counts: Mapping[str, float] = field(default_factory=lambda: dict(EXACT_LIMITS))
    operators: Mapping[str, float] = field(default_factory=dict)
