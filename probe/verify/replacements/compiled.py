"""torch.compile of the recorded chain, which needs no knowledge of what the chain means."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from probe.units import format_time
from probe.verify.program import Program
from probe.verify.proposal import Proposal

COMPILERS = ("g++", "clang++", "c++")


def propose(program: Program) -> Iterator[Proposal]:
    """One compiled function, as `module.compile()` or `torch.compile(function)` would make it."""
    compiled = _Compiled(program)
    yield Proposal(
        "torch.compile", "module.compile()  # or torch.compile(function)", compiled, fixed=True, objection=_missing(),
        note=compiled.told,
    )  # fmt: skip


def _missing() -> str | None:
    """Why torch.compile cannot run here; a GPU needs Triton, a CPU a C++ compiler."""
    import torch

    if torch.cuda.is_available() or shutil.which(os.environ.get("CXX", "")) or any(map(shutil.which, COMPILERS)):
        return None
    return "torch.compile needs a C++ compiler on a CPU, and there is none; install g++"


@dataclass
class _Compiled:
    """The chain, compiled at the first call; how long that took is no part of any timing."""

    program: Program
    function: Any = None
    cold_s: float | None = None

    def __call__(self, *tensors: Any) -> Any:
        if self.function is not None:
            return self.function(*tensors)
        import torch

        device = str(tensors[0].device) if tensors else "cpu"
        self.function = torch.compile(self.program.function(device=device), dynamic=False, fullgraph=True)
        start = time.perf_counter()
        returned = self.function(*tensors)
        self.cold_s = time.perf_counter() - start
        return returned

    def told(self) -> str:
        """How long the first call took."""
        return f"compiling took {format_time(self.cold_s)}" if self.cold_s is not None else ""
