"""Which calls stand for each kernel? Those that are compiled for the documentation and timed in the benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from probe.kernels.fused import (
    bias_activation,
    gated_activation,
    linear_cross_entropy,
    pointwise_chain,
    residual_norm,
    rope,
    scored_attention,
)
from probe.kernels.fused.chain_recording import of_function
from probe.kernels.fused.kernel import FusedKernel

HEAD_DIM = 128
CLASSES = 32  # times the features
LONGEST = 4096  # sequence of attention


@dataclass(frozen=True)
class Example:
    """A call: inputs that need gradients where they are floating, and options."""

    kernel: FusedKernel
    label: str
    inputs: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def call(self) -> tuple[torch.Tensor, ...]:
        """The outputs."""
        return _outputs(self.kernel.function(*self.inputs, **self.options))

    def leaves(self) -> tuple[torch.Tensor, ...]:
        """The inputs that get gradients."""
        return tuple(t for t in self.inputs if isinstance(t, torch.Tensor) and t.requires_grad)


def _outputs(found: Any) -> tuple[torch.Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def examples(dtype: torch.dtype, device: str, rows: int, columns: int) -> Iterator[Example]:
    """A few calls of every kernel on a matrix of that size; zeros, which are as good as any numbers for time."""

    def leaf(*sizes: int) -> torch.Tensor:
        return torch.zeros(sizes, dtype=dtype, device=device, requires_grad=True)

    x, other, weight, bias = leaf(rows, columns), leaf(rows, columns), leaf(columns), leaf(columns)
    gelu = bias_activation.KERNEL
    yield Example(gelu, "gelu", (x, bias))
    yield Example(gelu, "gelu, dropout", (x, bias), {"p": 0.1, "seed": 1})
    yield Example(residual_norm.NORM, "RMSNorm", (x, weight))
    yield Example(residual_norm.NORM, "LayerNorm", (x, weight, bias), {"kind": "layer"})
    yield Example(residual_norm.RESIDUAL_NORM, "residual, RMSNorm", (x, other, weight))
    more = {"kind": "layer", "p": 0.1, "seed": 1}
    yield Example(residual_norm.RESIDUAL_NORM, "dropout, residual, LayerNorm", (x, other, weight, bias), more)
    yield Example(gated_activation.KERNEL, "SwiGLU", (x, other))
    yield Example(gated_activation.KERNEL, "GeGLU, packed", (leaf(rows, 2 * columns),), {"activation": "gelu_tanh"})
    yield from _ropes(dtype, device, rows, columns)
    yield from _chains(x, other, bias)
    x = leaf(rows, max(16, columns // CLASSES))
    weight = leaf(columns, x.shape[1])
    target = torch.zeros(rows, dtype=torch.int64, device=device)
    yield Example(linear_cross_entropy.KERNEL, "cross-entropy", (x, weight, target))
    length = min(rows, LONGEST)
    q = torch.zeros(1, max(1, columns // HEAD_DIM), length, HEAD_DIM, dtype=dtype, device=device)
    bias = torch.zeros(length, length, dtype=dtype, device=device)
    yield Example(scored_attention.KERNEL, "soft-cap, causal", (q, q, q), {"softcap": 30.0, "causal": True})
    yield Example(scored_attention.KERNEL, "bias", (q, q, q, bias))


def _ropes(dtype: torch.dtype, device: str, rows: int, columns: int) -> Iterator[Example]:
    """As many heads as fit, a quarter of them for k; in memory a position's heads follow each other."""
    heads = max(1, columns // HEAD_DIM)
    angles = torch.zeros(rows, HEAD_DIM // 2, device=device)
    q, k = (
        torch.zeros(1, rows, n, HEAD_DIM, dtype=dtype, device=device).transpose(1, 2).requires_grad_()
        for n in (heads, max(1, heads // 4))
    )
    for layout in ("halves", "pairs"):
        yield Example(rope.KERNEL, layout, (q, k, angles, angles), {"layout": layout})


def _chains(x: torch.Tensor, other: torch.Tensor, bias: torch.Tensor) -> Iterator[Example]:
    """A chain of full tensors, and one with a row that is broadcast."""
    few = torch.zeros(2, 3, dtype=x.dtype)
    chain = of_function(lambda a, b: torch.tanh(a * b) * torch.sigmoid(a) + b, few, few)
    yield Example(pointwise_chain.KERNEL, "two tensors", (chain, x, other))
    chain = of_function(lambda a, b: (a + b) * torch.exp(-(a + b).square()), few, few[0])
    yield Example(pointwise_chain.KERNEL, "a tensor and a row", (chain, x, bias))
