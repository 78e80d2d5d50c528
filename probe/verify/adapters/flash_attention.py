"""flash-attention: attention in half precision without the matrix of scores. Read: 2, at commit 0053002."""

from __future__ import annotations

from typing import Any

from probe.verify.adapters.kinds import Adapter


def _attention(q: Any, k: Any, v: Any, causal: bool, scale: float | None) -> Any:
    from flash_attn import flash_attn_func

    rows = (t.transpose(1, 2) for t in (q, k, v))  # it takes [batch, T, heads, D]
    return flash_attn_func(*rows, softmax_scale=scale, causal=causal).transpose(1, 2)


ADAPTER = Adapter(
    "flash-attention",
    "flash_attn",
    {"attention": ("flash_attn_func(q, k, v, softmax_scale=scale, causal=causal)", _attention)},
)
