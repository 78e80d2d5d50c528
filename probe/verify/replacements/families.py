"""Which families propose replacements for a recorded chain? torch's own first, then fused kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from probe.verify.adapters import installed
from probe.verify.program import Program
from probe.verify.proposal import Proposal
from probe.verify.replacements import (
    attention_backends,
    compiled,
    convolution,
    cuda_graph,
    fused_forms,
    fused_kernels,
    layouts,
    losses,
    norms,
    packed,
    precision,
    products,
)

Family = Callable[[Program], Iterator[Proposal]]
FAMILIES: tuple[Family, ...] = (
    norms.propose, products.propose, packed.propose, losses.propose, convolution.propose, attention_backends.propose,
    precision.propose, layouts.propose, fused_forms.propose, fused_kernels.propose, installed.propose,
    cuda_graph.propose, compiled.propose,
)  # fmt: skip


def propose(program: Program) -> Iterator[Proposal]:
    """What every family has for this chain; torch.compile, which takes longest, comes last."""
    for family in FAMILIES:
        yield from family(program)
