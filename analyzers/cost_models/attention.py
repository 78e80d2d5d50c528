"""What does scaled-dot-product attention cost, forward and backward, on any backend?

Arithmetic: two products forward (2·D + 2·Dv per visible pair of a query and a key), five backward (scores again,
dV, dP, dQ, dK: 6·D + 4·Dv per pair), the softmax not counted, as is custom for attention kernels. A causal mask
leaves the pairs below the diagonal, half of T² (Dao, FlashAttention-2, 2023, section 4). Traffic of a fused kernel:
Q, K, V (and a bias) in, O and one float32 per row out; backward Q, K, V, O, dO and the row sums in, dQ, dK, dV out.
Keys and values that a kernel reads again because they do not fit into a cache are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.dtypes import FLOAT32
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Tensor, UndeterminedError, dense
from probe.analyzers.cost_models.terms import Cost, Part, attempted, work

Corner = Literal["top-left", "bottom-right"]  # where the diagonal of a causal mask starts


@dataclass(frozen=True)
class Layout:
    """Where an operator's schema keeps its arguments; None for those it does not have."""

    causal: int
    heads: int = 1  # axis of the heads: 1 in [B, H, T, D], 2 in [B, T, H, D]
    query: int = 0
    bias: int | None = None
    packed: int | None = None  # cumulative lengths of packed sequences, those of the keys next to it
    longest: int | None = None  # longest of the packed queries, that of the keys next to it
    grad: int | None = None  # backward: the gradient of the output …
    out: int | None = None  # … and the output
    row_sums: int | None = None
    corner: Corner = "top-left"
    mask_types: bool = False  # the argument `causal` is 0: none, 1: from the top left, 2: from the bottom right
    wants_row_sums: int | None = None  # the flag whether to write them
    window: int | None = None
    naive: bool = False  # all T² scores go through memory


class Extent(NamedTuple):
    """Sizes of one attention; of packed sequences the batch holds them all, equally long."""

    batch: int
    heads: int
    queries: int
    keys: int
    width: int
    value_width: int


def _model(layout: Layout) -> Model:
    def cost(call: Call) -> Cost:
        q, k, v = (call.tensor(layout.query + i) for i in range(3))
        flops, reason = attempted(lambda: _flops(call, layout, q, k, v))
        move = _forward_traffic if layout.grad is None else _backward_traffic
        reads, writes = move(call, layout, q, k, v)
        return work("attention", q.element.name, flops, reads, writes, reason=reason)

    return cost


def _flops(call: Call, layout: Layout, q: Tensor, k: Tensor, v: Tensor) -> float:
    extent = _extent(call, layout, q, k, v)
    pairs = _visible(call, layout, extent)
    per_pair = 2 * (extent.width + extent.value_width)
    if layout.grad is not None:
        per_pair = 2 * (3 * extent.width + 2 * extent.value_width)
    return float(extent.batch) * extent.heads * pairs * per_pair


def _extent(call: Call, layout: Layout, q: Tensor, k: Tensor, v: Tensor) -> Extent:
    """Sizes of the attention; packed sequences are [total, H, D]."""
    if layout.packed is not None and call.is_tensor(layout.packed) and call.tensor(layout.packed).elements > 1:
        return _packed_extent(call, layout, q, k, v)
    if not len(q.sizes) == len(k.sizes) == len(v.sizes) >= 3:
        raise UndeterminedError("not the sizes of an attention")
    if layout.heads == 2:
        if len(q.sizes) != 4:
            raise UndeterminedError("lengths of the packed sequences not recorded")
        batch, queries, heads, width = q.sizes
        return Extent(batch, heads, queries, k.sizes[1], width, v.sizes[3])
    *batches, queries, width = q.sizes
    heads = dense(batches, q.element).elements
    return Extent(1, heads, queries, k.sizes[-2], width, v.sizes[-1])


def _packed_extent(call: Call, layout: Layout, q: Tensor, k: Tensor, v: Tensor) -> Extent:
    """Packed sequences: their lengths are data, but all equal the longest if those fill the whole."""
    assert layout.packed is not None
    sequences = call.tensor(layout.packed).elements - 1
    lengths = "lengths of the packed sequences not recorded"
    if layout.longest is None:
        raise UndeterminedError(lengths)
    queries, keys = (call.integer(layout.longest + i, "max_seqlen") for i in (0, 1))
    tokens = [t.elements // (t.sizes[-1] * t.sizes[-2]) if min(t.sizes[-2:], default=0) else 0 for t in (q, k)]
    if tokens != [sequences * queries, sequences * keys]:
        raise UndeterminedError(lengths)
    return Extent(sequences, q.sizes[-2], queries, keys, q.sizes[-1], v.sizes[-1])


def _visible(call: Call, layout: Layout, extent: Extent) -> float:
    """Pairs of a query and a key that the mask leaves, per head; an axis of length T under a diagonal counts T/2."""
    queries, keys = extent.queries, extent.keys
    mode = call.integer(layout.causal, "is_causal")
    corner = ("top-left" if mode == 1 else "bottom-right") if layout.mask_types else layout.corner
    pairs = float(queries) * keys
    if mode:
        short = min(queries, keys)
        if corner == "top-left":
            pairs = short**2 / 2 + max(queries - keys, 0) * float(keys)
        else:
            pairs = short**2 / 2 + max(keys - queries, 0) * float(queries)
    return min(pairs, _window(call, layout, queries, keys))


def _window(call: Call, layout: Layout, queries: int, keys: int) -> float:
    """Most pairs that a sliding window leaves."""
    if layout.window is None:
        return float(queries) * keys
    left, right = (call.number(layout.window + i, -1) for i in (0, 1))
    return float(queries) * keys if left < 0 else queries * min(float(keys), left + max(right, 0) + 1)


def _forward_traffic(call: Call, layout: Layout, q: Tensor, k: Tensor, v: Tensor) -> tuple[list[Part], list[Part]]:
    out = dense(q.sizes[:-1] + v.sizes[-1:], q.element)
    reads: list[Part] = [q, k, v, call.maybe(layout.bias) if layout.bias is not None else None]
    wanted = layout.wants_row_sums is None or call.number(layout.wants_row_sums, 1) != 0
    row_sums = dense(q.sizes[:-1], FLOAT32) if wanted and not layout.naive else None
    scores: list[Part] = []
    if layout.naive:
        scores = [dense((*q.sizes[:-1], k.sizes[-2]), q.element)] * 2  # the scores, then their softmax
    return reads + scores, [out, row_sums, *scores]


def _backward_traffic(call: Call, layout: Layout, q: Tensor, k: Tensor, v: Tensor) -> tuple[list[Part], list[Part]]:
    also = (layout.grad, layout.out, layout.row_sums, layout.bias)
    reads: list[Part] = [q, k, v, *(call.maybe(i) for i in also if i is not None)]
    return reads, [dense(t.sizes, t.element) for t in (q, k, v)]


_SDPA = "aten::_scaled_dot_product"
_LAYOUTS: dict[str, Layout] = {
    "aten::scaled_dot_product_attention": Layout(causal=5, bias=3),
    f"{_SDPA}_attention_math": Layout(causal=5, bias=3, naive=True),
    f"{_SDPA}_attention_math_for_mps": Layout(causal=5, bias=3, naive=True),
    f"{_SDPA}_flash_attention": Layout(causal=4),
    f"{_SDPA}_flash_attention_for_cpu": Layout(causal=4, bias=5),
    f"{_SDPA}_efficient_attention": Layout(causal=6, bias=3, wants_row_sums=4),
    f"{_SDPA}_cudnn_attention": Layout(causal=6, bias=3, wants_row_sums=4),
    f"{_SDPA}_fused_attention_overrideable": Layout(causal=5, bias=3),
    "aten::_flash_attention_forward": Layout(
        causal=8, heads=2, packed=3, longest=5, corner="bottom-right", window=11
    ),
    "aten::_efficient_attention_forward": Layout(
        causal=9, heads=2, bias=3, packed=4, longest=6, mask_types=True, wants_row_sums=10
    ),
    "aten::_cudnn_attention_forward": Layout(causal=10, bias=3, packed=4, longest=6, wants_row_sums=8),
    f"{_SDPA}_flash_attention_backward": Layout(
        causal=11, query=1, grad=0, out=4, row_sums=5, packed=6, longest=8
    ),
    f"{_SDPA}_flash_attention_for_cpu_backward": Layout(causal=7, query=1, grad=0, out=4, row_sums=5, bias=8),
    f"{_SDPA}_efficient_attention_backward": Layout(causal=11, query=1, grad=0, bias=4, out=5, row_sums=6),
    f"{_SDPA}_cudnn_attention_backward": Layout(
        causal=14, query=1, grad=0, out=4, row_sums=5, bias=8, packed=9, longest=11
    ),
    f"{_SDPA}_fused_attention_overrideable_backward": Layout(
        causal=13, query=1, grad=0, bias=4, out=6, row_sums=7, packed=8, longest=10
    ),
    "aten::_flash_attention_backward": Layout(
        causal=11, heads=2, query=1, grad=0, out=4, row_sums=5, packed=6, longest=8, corner="bottom-right", window=15
    ),
    "aten::_efficient_attention_backward": Layout(
        causal=14, heads=2, query=1, grad=0, bias=4, out=5, packed=6, longest=8, row_sums=10, mask_types=True
    ),
    "aten::_cudnn_attention_backward": Layout(
        causal=14, query=1, grad=0, out=4, row_sums=5, bias=8, packed=9, longest=11
    ),
    "flash_attn::_flash_attn_forward": Layout(causal=5, heads=2, corner="bottom-right", window=6),
    "flash_attn::_flash_attn_varlen_forward": Layout(
        causal=9, heads=2, packed=3, longest=5, corner="bottom-right", window=10
    ),
    "flash_attn::_flash_attn_backward": Layout(
        causal=11, heads=2, query=1, grad=0, out=4, row_sums=5, corner="bottom-right", window=12
    ),
    "flash_attn::_flash_attn_varlen_backward": Layout(
        causal=15, heads=2, query=1, grad=0, out=4, row_sums=5, packed=9, longest=11, corner="bottom-right", window=16
    ),
}  # fmt: skip

MODELS: dict[str, Model] = {name: _model(layout) for name, layout in _LAYOUTS.items()}
