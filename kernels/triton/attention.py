"""Attention in one kernel, in Triton: softmax(scale · q kᵀ) v without the scores ever being written to memory.

After FlashAttention-2 (Dao, arXiv 2307.08691): a program holds one tile of queries and walks over the keys, tile by
tile. It keeps for each query the largest score so far, the sum of the exponentials relative to it and the weighted
sum of values in float32, and rescales the latter two when a larger score comes. What the backward pass needs beside the
inputs is one number a query, the logarithm of the sum. Powers of 2 replace those of e, the scale takes the factor.

With `causal`, query i sees the keys j ≤ i, as in torch's scaled_dot_product_attention(is_causal=True). A query that
sees no key, or only keys whose score is -inf, gives zeros.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from probe.kernels.triton.attention_backward import backward
from probe.kernels.triton.attention_problem import Problem, constants, problem, strides, with_rows
from probe.kernels.triton.attention_tiles import Tiles
from probe.kernels.triton.launching import on_device_of
from probe.kernels.triton.products import product


@triton.jit
def over_keys(
    weighted, total, largest, query, k, v, k_row, v_row, first, last, keys, at_query, scale_log2,
    head_dim: tl.constexpr, tile_q: tl.constexpr, tile_k: tl.constexpr,
    causal: tl.constexpr, masked: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Take the keys [first, last) into the running sums; only `masked` asks which pairs may see each other."""
    column = tl.arange(0, head_dim)
    for start in range(first, last, tile_k):
        at_key = start + tl.arange(0, tile_k)
        inside = at_key[:, None] < keys
        tile = k + tl.cast(start, tl.int64) * k_row + tl.arange(0, tile_k)[:, None] * k_row + column[None, :]
        key = tl.load(tile, mask=inside, other=0.0) if masked else tl.load(tile)
        scores = product(query, tl.trans(key), tl.zeros((tile_q, tile_k), tl.float32), wide)
        if masked:
            seen = at_key[None, :] < keys
            if causal:
                seen = seen & (at_key[None, :] <= at_query[:, None])
            scores = tl.where(seen, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1) * scale_log2)
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # -inf - -inf is no number
        weights = tl.exp2(scores * scale_log2 - shift[:, None])
        shrunk = tl.exp2(largest - shift)
        total = total * shrunk + tl.sum(weights, 1)
        tile = v + tl.cast(start, tl.int64) * v_row + tl.arange(0, tile_k)[:, None] * v_row + column[None, :]
        value = tl.load(tile, mask=inside, other=0.0) if masked else tl.load(tile)
        weighted = product(weights.to(value.dtype), value, weighted * shrunk[:, None], wide)
        largest = new_largest
    return weighted, total, largest


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def forward_kernel(
    q, k, v, out, log2_sum, scale_log2,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row,
    heads, queries, keys,
    head_dim: tl.constexpr, tile_q: tl.constexpr, tile_k: tl.constexpr, causal: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head of one batch; the tiles of a head follow each other, to share its keys in L2."""
    tiles = tl.cdiv(queries, tile_q)
    which = tl.program_id(0) // tiles
    first_query = (tiles - 1 - tl.program_id(0) % tiles) * tile_q  # under a causal mask the longest work goes first
    batch, head = tl.cast(which // heads, tl.int64), tl.cast(which % heads, tl.int64)
    column = tl.arange(0, head_dim)
    at_query = first_query + tl.arange(0, tile_q)
    inside = at_query[:, None] < queries
    row = tl.cast(first_query, tl.int64)
    tile = q + batch * q_batch + head * q_head + row * q_row + tl.arange(0, tile_q)[:, None] * q_row + column[None, :]
    query = tl.load(tile, mask=inside, other=0.0)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    largest = tl.full((tile_q,), float("-inf"), tl.float32)
    total = tl.zeros((tile_q,), tl.float32)
    weighted = tl.zeros((tile_q, head_dim), tl.float32)
    last = keys
    whole = keys // tile_k * tile_k  # before it every pair sees each other
    if causal:
        last = tl.minimum(keys, first_query + tile_q)
        whole = tl.minimum(keys, first_query + 1) // tile_k * tile_k
    weighted, total, largest = over_keys(
        weighted, total, largest, query, k, v, k_row, v_row, 0, whole, keys, at_query, scale_log2,
        head_dim, tile_q, tile_k, causal, False, wide,
    )  # fmt: skip
    weighted, total, largest = over_keys(
        weighted, total, largest, query, k, v, k_row, v_row, whole, last, keys, at_query, scale_log2,
        head_dim, tile_q, tile_k, causal, True, wide,
    )  # fmt: skip
    empty = total == 0.0
    result = weighted * (1.0 / tl.where(empty, 1.0, total))[:, None]
    tile = out + batch * out_batch + head * out_head + row * out_row
    tile += tl.arange(0, tile_q)[:, None] * out_row + column[None, :]
    tl.store(tile, result.to(out.dtype.element_ty), mask=inside)
    # Of a query that sees nothing +inf: the backward pass then finds weights of 2^-inf = 0.
    logarithm = tl.where(empty, float("inf"), largest + tl.log2(tl.where(empty, 1.0, total)))
    tl.store(log2_sum + tl.cast(which, tl.int64) * queries + at_query, logarithm, mask=at_query < queries)


@dataclass(frozen=True)
class Forward:
    """What the forward kernel leaves, and what Triton compiled for it (None under the interpreter)."""

    out: torch.Tensor
    log2_sum: torch.Tensor  # float32 [batch · heads, queries]: log2 of the sum of exponentials
    compiled: Any


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False, scale: float | None = None
) -> torch.Tensor:
    """softmax(scale · q kᵀ) v with gradients; sizes [batch, heads, positions, head_dim], any strides.

    float16, bfloat16, or float32 (each product from three in TF32, which lose next to nothing); head_dim a power of 2
    from 16 to 256, in float32 to 128; `scale` None is 1 / √head_dim. Raises UsageError for other tensors,
    UnavailableError where there is no GPU of compute capability 8.0.
    """
    result: torch.Tensor = _Attention.apply(q, k, v, causal, scale)  # type: ignore[no-untyped-call]
    return result


class _Attention(torch.autograd.Function):
    """The forward kernel, and the backward ones for its gradients."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None) -> Any:
        """Attention; remembers what the backward pass needs."""
        call = problem(q, k, v, causal, scale)
        found = forward(call)
        ctx.save_for_backward(call.q, call.k, call.v, found.out, found.log2_sum)
        ctx.causal, ctx.scale = causal, call.scale
        return found.out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: torch.Tensor) -> Any:
        """The gradients of q, k and v."""
        q, k, v, out, log2_sum = ctx.saved_tensors
        found = backward(Problem(q, k, v, ctx.causal, ctx.scale), out, log2_sum, with_rows(d_out))
        return found.d_q, found.d_k, found.d_v, None, None


def forward(call: Problem, tiles: Tiles | None = None) -> Forward:
    """Output and logarithms; `tiles` None takes those of the GPU."""
    tiles = tiles or call.tiles("forward")
    out = torch.empty_like(call.q)
    log2_sum = torch.empty((call.slices, call.queries), dtype=torch.float32, device=call.q.device)
    grid = (triton.cdiv(call.queries, tiles.queries) * call.slices,)
    if not grid[0]:
        return Forward(out, log2_sum, None)
    with on_device_of(call.q, forward_kernel):
        compiled = forward_kernel[grid](
            call.q, call.k, call.v, out, log2_sum, call.scale_log2, *strides(call.q, call.k, call.v, out),
            call.q.shape[1], call.queries, call.keys, **constants(tiles, call),
        )  # fmt: skip
    return Forward(out, log2_sum, compiled)
