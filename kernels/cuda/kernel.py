"""What is one kernel that a suite can load: its source, what its machine code must show, and from which GPU on?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from probe.kernels.cuda.proof import Claim


@functools.cache
def source_text(name: str) -> str:
    """The CUDA C++ source beside this file, e.g. of "chase.cu"."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Kernel:
    """One kernel that a suite can load.

    `claim` is what its machine code must show; where that differs by architecture, a function of 70, 75, 80, 86, 89,
    90, 100, 120, ….
    """

    name: str  # of the extern "C" function
    source: str  # CUDA C++
    claim: Claim | Callable[[int], Claim]
    defines: Mapping[str, object] = field(default_factory=dict)  # macros
    first: int = 70  # the least architecture it runs on
    label: str = ""  # tells the variants of one kernel apart in tests

    def claim_for(self, architecture: int) -> Claim:
        """What the machine code for `architecture` (90 for sm_90a) must show."""
        return self.claim if isinstance(self.claim, Claim) else self.claim(architecture)

    @property
    def title(self) -> str:
        """The name, and the label where there is one: "chase, width 16"."""
        return f"{self.name}, {self.label}" if self.label else self.name
