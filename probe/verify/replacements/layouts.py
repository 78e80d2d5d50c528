"""The chain on tensors that lie otherwise in memory: channels_last for images (E09), contiguous for strided (E08)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probe.verify.program import Program
from probe.verify.proposal import Prepared, Proposal


def propose(program: Program) -> Iterator[Proposal]:
    """Laid out once before, as a model that is converted has it: the conversion is not timed."""
    code = program.site.code
    if code == "E09" and any(len(o.dims) == 4 for o in program.outside):
        line = "model.to(memory_format=torch.channels_last)  # and the images"
        yield Proposal("channels_last", line, program.function(), _channels_last, tuple, fixed=True)
    if code == "E08":
        yield Proposal(
            "contiguous inputs", "x.contiguous() where it is made", program.function(), _dense, tuple, fixed=True
        )


def _channels_last(*tensors: Any) -> Prepared:
    import torch

    return tuple(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors)


def _dense(*tensors: Any) -> Prepared:
    return tuple(t.contiguous() for t in tensors)
