"""The gradients of attention in Triton: the weights computed again from the inputs, tile by tile, and never stored.

After FlashAttention-2 (Dao, arXiv 2307.08691): with the sum's logarithm from the forward pass a weight is
2^(score - logarithm), and the sum that the derivative of softmax needs is that of out · d_out over one row (`delta`).
Two kernels, one that walks over queries for a tile of keys (d_k, d_v) and one that walks over keys for a tile of
queries (d_q): the scores are computed in both, and no program adds to what another one writes, so that results do not
depend on the order in which programs run.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from probe.kernels.triton.attention_problem import Problem, constants, strides
from probe.kernels.triton.attention_tiles import DELTA_ROWS, Tiles
from probe.kernels.triton.launching import FUSED, on_device_of
from probe.kernels.triton.products import product


@triton.jit(do_not_specialize=["heads", "queries"])
def delta_kernel(
    out, d_out, delta,
    out_batch, out_head, out_row, d_out_batch, d_out_head, d_out_row,
    heads, queries, head_dim: tl.constexpr, tile_q: tl.constexpr,
):  # fmt: skip
    """The sum of out · d_out over each row, in float32."""
    tiles = tl.cdiv(queries, tile_q)
    which = tl.program_id(0) // tiles
    batch, head = tl.cast(which // heads, tl.int64), tl.cast(which % heads, tl.int64)
    at_query = tl.program_id(0) % tiles * tile_q + tl.arange(0, tile_q)
    row, column = tl.cast(at_query, tl.int64)[:, None], tl.arange(0, head_dim)[None, :]
    inside = at_query[:, None] < queries
    tile = out + batch * out_batch + head * out_head + row * out_row + column
    one = tl.load(tile, mask=inside, other=0.0).to(tl.float32)
    tile = d_out + batch * d_out_batch + head * d_out_head + row * d_out_row + column
    other = tl.load(tile, mask=inside, other=0.0).to(tl.float32)
    tl.store(delta + tl.cast(which, tl.int64) * queries + at_query, tl.sum(one * other, 1), mask=at_query < queries)


@triton.jit
def over_queries(
    d_key, d_value, key, value, q, d_out, log2_sum, delta, q_row, d_out_row, first, last, queries, at_key, scale_log2,
    head_dim: tl.constexpr, tile_q: tl.constexpr, tile_k: tl.constexpr, masked: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Add what the queries [first, last) contribute to the gradients of a tile of keys and values.

    A query past the end has zeros for itself and its d_out, and a logarithm of +inf: it adds nothing.
    """
    column = tl.arange(0, head_dim)
    empty = tl.zeros((tile_k, tile_q), tl.float32)
    for start in range(first, last, tile_q):
        at_query = start + tl.arange(0, tile_q)
        inside = at_query[:, None] < queries
        tile = q + tl.cast(start, tl.int64) * q_row + tl.arange(0, tile_q)[:, None] * q_row + column[None, :]
        query = tl.load(tile, mask=inside, other=0.0)
        logarithm = tl.load(log2_sum + at_query, mask=at_query < queries, other=float("inf"))
        weights = tl.exp2(product(key, tl.trans(query), empty, wide) * scale_log2 - logarithm[None, :])
        if masked:
            weights = tl.where(at_key[:, None] <= at_query[None, :], weights, 0.0)
        tile = d_out + tl.cast(start, tl.int64) * d_out_row
        tile += tl.arange(0, tile_q)[:, None] * d_out_row + column[None, :]
        d_result = tl.load(tile, mask=inside, other=0.0)
        d_value = product(weights.to(d_result.dtype), d_result, d_value, wide)
        d_weights = product(value, tl.trans(d_result), empty, wide)
        shared = tl.load(delta + at_query, mask=at_query < queries, other=0.0)
        d_scores = weights * (d_weights - shared[None, :])
        d_key = product(d_scores.to(query.dtype), query, d_key, wide)
    return d_key, d_value


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def keys_kernel(
    q, k, v, d_out, log2_sum, delta, d_k, d_v, scale_log2, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    d_out_batch, d_out_head, d_out_row, d_k_batch, d_k_head, d_k_row, d_v_batch, d_v_head, d_v_row,
    heads, queries, keys,
    head_dim: tl.constexpr, tile_q: tl.constexpr, tile_k: tl.constexpr, causal: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """d_k and d_v of one tile of keys of one head of one batch."""
    tiles = tl.cdiv(keys, tile_k)
    which = tl.program_id(0) // tiles
    first_key = tl.program_id(0) % tiles * tile_k  # under a causal mask the first keys have the longest work
    batch, head = tl.cast(which // heads, tl.int64), tl.cast(which % heads, tl.int64)
    at_key = first_key + tl.arange(0, tile_k)
    row, column = tl.cast(at_key, tl.int64)[:, None], tl.arange(0, head_dim)[None, :]
    inside = at_key[:, None] < keys
    key = tl.load(k + batch * k_batch + head * k_head + row * k_row + column, mask=inside, other=0.0)
    value = tl.load(v + batch * v_batch + head * v_head + row * v_row + column, mask=inside, other=0.0)
    q += batch * q_batch + head * q_head
    d_out += batch * d_out_batch + head * d_out_head
    log2_sum += tl.cast(which, tl.int64) * queries
    delta += tl.cast(which, tl.int64) * queries
    d_key = tl.zeros((tile_k, head_dim), tl.float32)
    d_value = tl.zeros((tile_k, head_dim), tl.float32)
    whole = 0  # from it on every query sees all keys of the tile
    if causal:
        first = first_key // tile_q * tile_q
        whole = tl.cdiv(first_key + tile_k - 1, tile_q) * tile_q
        d_key, d_value = over_queries(
            d_key, d_value, key, value, q, d_out, log2_sum, delta, q_row, d_out_row,
            first, tl.minimum(whole, queries), queries, at_key, scale_log2, head_dim, tile_q, tile_k, True, wide,
        )  # fmt: skip
    d_key, d_value = over_queries(
        d_key, d_value, key, value, q, d_out, log2_sum, delta, q_row, d_out_row,
        whole, queries, queries, at_key, scale_log2, head_dim, tile_q, tile_k, False, wide,
    )  # fmt: skip
    tile = d_k + batch * d_k_batch + head * d_k_head + row * d_k_row + column
    tl.store(tile, (d_key * scale).to(d_k.dtype.element_ty), mask=inside)
    tile = d_v + batch * d_v_batch + head * d_v_head + row * d_v_row + column
    tl.store(tile, d_value.to(d_v.dtype.element_ty), mask=inside)


@triton.jit
def over_keys(
    d_query, query, d_result, k, v, k_row, v_row, first, last, keys, at_query, logarithm, shared, scale_log2,
    head_dim: tl.constexpr, tile_q: tl.constexpr, tile_k: tl.constexpr,
    causal: tl.constexpr, masked: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Add what the keys [first, last) contribute to the gradient of a tile of queries."""
    column = tl.arange(0, head_dim)
    empty = tl.zeros((tile_q, tile_k), tl.float32)
    for start in range(first, last, tile_k):
        at_key = start + tl.arange(0, tile_k)
        inside = at_key[:, None] < keys
        tile = k + tl.cast(start, tl.int64) * k_row + tl.arange(0, tile_k)[:, None] * k_row + column[None, :]
        key = tl.load(tile, mask=inside, other=0.0) if masked else tl.load(tile)
        weights = tl.exp2(product(query, tl.trans(key), empty, wide) * scale_log2 - logarithm[:, None])
        if masked:  # a key past the end is all zeros, and its score of 0 may be far above the others
            seen = at_key[None, :] < keys
            if causal:
                seen = seen & (at_key[None, :] <= at_query[:, None])
            weights = tl.where(seen, weights, 0.0)
        tile = v + tl.cast(start, tl.int64) * v_row + tl.arange(0, tile_k)[:, None] * v_row + column[None, :]
        value = tl.load(tile, mask=inside, other=0.0) if masked else tl.load(tile)
        d_weights = product(d_result, tl.trans(value), empty, wide)
        d_scores = weights * (d_weights - shared[:, None])
        d_query = product(d_scores.to(key.dtype), key, d_query, wide)
    return d_query


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def queries_kernel(
    q, k, v, d_out, log2_sum, delta, d_q, scale_log2, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    d_out_batch, d_out_head, d_out_row, d_q_batch, d_q_head, d_q_row,
    heads, queries, keys,
    head_dim: tl.constexpr, tile_q: tl.constexpr, tile_k: tl.constexpr, causal: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """d_q of one tile of queries of one head of one batch."""
    tiles = tl.cdiv(queries, tile_q)
    which = tl.program_id(0) // tiles
    first_query = (tiles - 1 - tl.program_id(0) % tiles) * tile_q  # under a causal mask the longest work goes first
    batch, head = tl.cast(which // heads, tl.int64), tl.cast(which % heads, tl.int64)
    at_query = first_query + tl.arange(0, tile_q)
    row, column = tl.cast(at_query, tl.int64)[:, None], tl.arange(0, head_dim)[None, :]
    inside = at_query[:, None] < queries
    query = tl.load(q + batch * q_batch + head * q_head + row * q_row + column, mask=inside, other=0.0)
    tile = d_out + batch * d_out_batch + head * d_out_head + row * d_out_row + column
    d_result = tl.load(tile, mask=inside, other=0.0)
    a_row = tl.cast(which, tl.int64) * queries + at_query
    logarithm = tl.load(log2_sum + a_row, mask=at_query < queries, other=float("inf"))
    shared = tl.load(delta + a_row, mask=at_query < queries, other=0.0)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    d_query = tl.zeros((tile_q, head_dim), tl.float32)
    last = keys
    whole = keys // tile_k * tile_k  # before it every pair sees each other
    if causal:
        last = tl.minimum(keys, first_query + tile_q)
        whole = tl.minimum(keys, first_query + 1) // tile_k * tile_k
    d_query = over_keys(
        d_query, query, d_result, k, v, k_row, v_row, 0, whole, keys, at_query, logarithm, shared, scale_log2,
        head_dim, tile_q, tile_k, causal, False, wide,
    )  # fmt: skip
    d_query = over_keys(
        d_query, query, d_result, k, v, k_row, v_row, whole, last, keys, at_query, logarithm, shared, scale_log2,
        head_dim, tile_q, tile_k, causal, True, wide,
    )  # fmt: skip
    tile = d_q + batch * d_q_batch + head * d_q_head + row * d_q_row + column
    tl.store(tile, (d_query * scale).to(d_q.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class Backward:
    """The gradients, and what Triton compiled for them, by kernel (nothing under its interpreter)."""

    d_q: torch.Tensor
    d_k: torch.Tensor
    d_v: torch.Tensor
    compiled: dict[str, Any]


def backward(
    call: Problem,
    out: torch.Tensor,
    log2_sum: torch.Tensor,
    d_out: torch.Tensor,
    tiles_of_keys: Tiles | None = None,
    tiles_of_queries: Tiles | None = None,
) -> Backward:
    """The gradients from what the forward pass left and `d_out`, whose rows are contiguous."""
    d_q, d_k, d_v = (torch.empty_like(tensor) for tensor in (call.q, call.k, call.v))
    with on_device_of(call.q, keys_kernel):
        delta = _delta(call, out, d_out)
        given = (call.q, call.k, call.v, d_out, log2_sum, delta)
        keys = _keys(call, given, (d_k, d_v), tiles_of_keys or call.tiles("keys"))
        queries = _queries(call, given, d_q, tiles_of_queries or call.tiles("queries"))
    return Backward(d_q, d_k, d_v, {name: c for name, c in (("keys", keys), ("queries", queries)) if c is not None})


def _delta(call: Problem, out: torch.Tensor, d_out: torch.Tensor) -> torch.Tensor:
    delta = torch.empty((call.slices, call.queries), dtype=torch.float32, device=out.device)
    grid = (triton.cdiv(call.queries, DELTA_ROWS) * call.slices,)
    if grid[0]:
        delta_kernel[grid](
            out, d_out, delta, *strides(out, d_out), call.q.shape[1], call.queries,
            head_dim=call.head_dim, tile_q=DELTA_ROWS, **FUSED,
        )  # fmt: skip
    return delta


def _keys(
    call: Problem, given: tuple[torch.Tensor, ...], found: tuple[torch.Tensor, torch.Tensor], tiles: Tiles
) -> Any:
    grid = (triton.cdiv(call.keys, tiles.keys) * call.slices,)
    if not grid[0]:
        return None
    return keys_kernel[grid](
        *given, *found, call.scale_log2, call.scale, *strides(*given[:4], *found),
        call.q.shape[1], call.queries, call.keys, **constants(tiles, call),
    )  # fmt: skip


def _queries(call: Problem, given: tuple[torch.Tensor, ...], found: torch.Tensor, tiles: Tiles) -> Any:
    grid = (triton.cdiv(call.queries, tiles.queries) * call.slices,)
    if not grid[0]:
        return None
    return queries_kernel[grid](
        *given, found, call.scale_log2, call.scale, *strides(*given[:4], found),
        call.q.shape[1], call.queries, call.keys, **constants(tiles, call),
    )  # fmt: skip
