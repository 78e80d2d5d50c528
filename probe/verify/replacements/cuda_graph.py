"""The recorded chain as a CUDA graph: the same kernels, launched at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from probe.verify.program import Program
from probe.verify.proposal import Proposal

LINE = "torch.cuda.make_graphed_callables(module, sample_inputs)"


def propose(program: Program) -> Iterator[Proposal]:
    """On a GPU, for more than one operator: one launch cannot be made fewer."""
    import torch

    if torch.cuda.is_available() and len(program.calls) > 1:
        yield Proposal("CUDA graph", LINE, _Graphed(program), fixed=True)


@dataclass
class _Graphed:
    """Captured at the first call with gradients and at the first without; inputs are copied into it at every call."""

    program: Program
    with_gradients: Any = None
    without: Any = None

    def __call__(self, *tensors: Any) -> Any:
        import torch

        training = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        captured = self.with_gradients if training else self.without
        if captured is None:
            samples = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)
            captured = torch.cuda.make_graphed_callables(self.program.function(device=str(tensors[0].device)), samples)
            if training:
                self.with_gradients = captured
            else:
                self.without = captured
        returned = captured(*tensors)
        # The graph's own outputs are written again by its next call.
        return tuple(t.clone() for t in returned) if isinstance(returned, (tuple, list)) else returned.clone()
