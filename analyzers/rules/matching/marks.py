"""Which instants lie inside ranges of given names, such as torch.optim's marks around its steps?"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from probe.trace import Int64s, Mask, Trace

OPTIMIZER = re.compile(r"Optimizer\.step#(\w+)\.step")  # torch.optim names its step in the trace


@dataclass(frozen=True, eq=False)
class Marked:
    """The times inside marks: spans by start, each end the latest so far, so that they may overlap."""

    start_ns: Int64s
    end_ns: Int64s

    @classmethod
    def of(cls, trace: Trace, names: list[int]) -> Marked:
        """The spans of the annotations and operators with one of these names."""
        tables = (trace.annotations, trace.host_ops)
        start, end = (
            np.concatenate([getattr(t, column)[np.isin(t.name, names)] for t in tables])
            for column in ("start_ns", "end_ns")
        )
        order = np.argsort(start, kind="stable")
        return cls(start[order], np.maximum.accumulate(end[order]))

    def holds(self, at_ns: Int64s) -> Mask:
        """Which of the given times are inside a mark."""
        if not len(self.start_ns):
            return np.zeros(len(at_ns), bool)
        last = np.searchsorted(self.start_ns, at_ns, side="right") - 1
        inside: Mask = (last >= 0) & (at_ns < self.end_ns[last])
        return inside
