"""xformers: memory-efficient attention. Read: commit 00afc12."""

from __future__ import annotations

from typing import Any

from probe.verify.adapters.kinds import Adapter


def _attention(q: Any, k: Any, v: Any, causal: bool, scale: float | None) -> Any:
    from xformers.ops import LowerTriangularMask, memory_efficient_attention

    rows = (t.transpose(1, 2) for t in (q, k, v))  # it takes [batch, T, heads, D]
    bias = LowerTriangularMask() if causal else None
    return memory_efficient_attention(*rows, attn_bias=bias, scale=scale).transpose(1, 2)


ADAPTER = Adapter(
    "xformers",
    "xformers",
    {"attention": ("xformers.ops.memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale)", _attention)},
)
