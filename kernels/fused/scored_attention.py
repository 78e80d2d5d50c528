"""Attention whose scores are capped or get a bias, forward only: softmax(cap(scale · q kᵀ) + bias) v in one kernel.

As probe.kernels.triton.attention, after FlashAttention-2 (Dao, arXiv 2307.08691), with two steps more for each score:
softcap · tanh(score / softcap), as in Gemma 2, and a bias by pair of positions, as ALiBi's and T5's. Torch's
scaled_dot_product_attention has no soft-cap. With `causal`, query i sees the keys j ≤ i. A query that sees nothing
gives zeros.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import nn

from probe.kernels.fused import domain
from probe.kernels.fused.activations import tanh
from probe.kernels.fused.kernel import Cost, FusedKernel, check
from probe.kernels.fused.launch import INTERPRETED, launch
from probe.kernels.triton.products import product

LOG2_E = math.log2(math.e)
HEAD_DIMS = (16, 32, 64, 128, 256)
WIDEST_FLOAT32 = 128


@triton.jit(do_not_specialize=["heads", "queries"])
def forward_kernel(
    q, k, v, bias, out, scale, softcap,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row,
    bias_batch, bias_head, bias_row, heads, queries, keys,
    head_dim: tl.constexpr, tile_q: tl.constexpr, tile_k: tl.constexpr, causal: tl.constexpr, capped: tl.constexpr,
    wide: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head of one batch."""
    tiles = tl.cdiv(queries, tile_q)
    which = tl.program_id(0) // tiles
    first_query = (tiles - 1 - tl.program_id(0) % tiles) * tile_q  # under a causal mask the longest work goes first
    batch, head = tl.cast(which // heads, tl.int64), tl.cast(which % heads, tl.int64)
    column, at_query = tl.arange(0, head_dim), first_query + tl.arange(0, tile_q)
    row = tl.cast(at_query, tl.int64)[:, None]
    there = at_query[:, None] < queries
    query = tl.load(q + batch * q_batch + head * q_head + row * q_row + column[None, :], mask=there, other=0.0)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    largest = tl.full((tile_q,), float("-inf"), tl.float32)
    total = tl.zeros((tile_q,), tl.float32)
    weighted = tl.zeros((tile_q, head_dim), tl.float32)
    last = tl.minimum(keys, first_query + tile_q) if causal else keys
    for start in range(0, last, tile_k):
        at_key = start + tl.arange(0, tile_k)
        inside = at_key[:, None] < keys
        tile = tl.cast(at_key, tl.int64)[:, None]
        key = tl.load(k + tile * k_row + column[None, :], mask=inside, other=0.0)
        scores = product(query, tl.trans(key), tl.zeros((tile_q, tile_k), tl.float32), wide) * scale
        if capped:
            scores = softcap * tanh(scores / softcap)
        seen = (at_key[None, :] < keys) & there
        if bias is not None:
            at = bias + batch * bias_batch + head * bias_head + row * bias_row + at_key[None, :]
            scores += tl.load(at, mask=seen, other=0.0).to(tl.float32)
        if causal:
            seen = seen & (at_key[None, :] <= at_query[:, None])
        scores = tl.where(seen, scores * 1.4426950408889634, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # -inf - -inf is no number
        weights = tl.exp2(scores - shift[:, None])
        shrunk = tl.exp2(largest - shift)
        total = total * shrunk + tl.sum(weights, 1)
        value = tl.load(v + tile * v_row + column[None, :], mask=inside, other=0.0)
        weighted = product(weights.to(value.dtype), value, weighted * shrunk[:, None], wide)
        largest = new_largest
    result = weighted / tl.where(total == 0.0, 1.0, total)[:, None]
    at = out + batch * out_batch + head * out_head + row * out_row + column[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=there)


def _tile(head_dim: int, itemsize: int) -> tuple[int, int, int, int]:
    """Queries, keys, warps and stages: chosen so that nothing is spilled, which the tests see; not timed."""
    if INTERPRETED:
        return 32, 16, 1, 1  # small, so that short sequences have several
    if itemsize == 4:
        return (32, 32, 4, 1) if head_dim < WIDEST_FLOAT32 else (16, 32, 4, 1)
    return (64, 64, 4, 2) if head_dim <= 64 else (64, 32, 4, 2) if head_dim <= 128 else (64, 32, 8, 1)


def scored_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    softcap: float | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(cap(scale · q kᵀ) + bias) v, of [batch, heads, positions, head_dim]; for inference: it has no gradients.

    bias can be broadcast to [batch, heads, queries, keys] in its first dimensions; its last must be contiguous. `scale`
    None is 1 / √head_dim. Raises UnavailableError without a GPU for Triton, UsageError for tensors outside `why_not`.
    """
    check("scored_attention", domain.no_device(q), _unsuited(q, k, v, bias, softcap, scale))
    out: torch.Tensor = _forward(q, k, v, bias, softcap or 0.0, causal, scale or q.shape[-1] ** -0.5)
    return out


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    softcap: float | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """The same in torch's operators, with all scores at once."""
    scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores if bias is None else scores + bias
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.softmax(scores, -1) @ v


def why_not(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    softcap: float | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> str | None:
    """Why the kernel cannot be called so; None if it can."""
    return domain.no_device(q) or _unsuited(q, k, v, bias, softcap, scale)


def _unsuited(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, softcap: float | None,
    scale: float | None,
) -> str | None:  # fmt: skip
    return (
        domain.unsuited(q, "q")
        or domain.other_kind(q, k=k, v=v, bias=bias)
        or _wrong_sizes(q, k, v)
        or _wrong_bias(bias, (*q.shape[:3], k.shape[2]))
        or (None if softcap is None or softcap > 0 else f"softcap is {softcap}; it must be above 0")
        or (None if scale is None or 0 < scale < math.inf else f"the scale is {scale}; it must be above 0")
        or _wants_gradients(q, k, v, bias)
    )


def _wrong_sizes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str | None:
    if q.dim() != 4 or k.shape != v.shape or (q.shape[:2], q.shape[3:]) != (k.shape[:2], k.shape[3:]):
        sizes = f"{list(q.shape)}, {list(k.shape)}, {list(v.shape)}"
        return f"q, k, v are {sizes}; they must be [batch, heads, positions, head_dim], k like v"
    most = WIDEST_FLOAT32 if q.dtype == torch.float32 else HEAD_DIMS[-1]
    if q.shape[3] not in HEAD_DIMS or q.shape[3] > most:
        return f"head_dim is {q.shape[3]}; with this dtype it must be a power of 2 from {HEAD_DIMS[0]} to {most}"
    if q.dtype != k.dtype or q.dtype != v.dtype:
        return "q, k and v have different dtypes"
    return None if q.stride(-1) == k.stride(-1) == v.stride(-1) == 1 else "the last dimension is not contiguous"


def _wrong_bias(bias: torch.Tensor | None, sizes: tuple[int, ...]) -> str | None:
    if bias is None:
        return None
    fits = bias.dim() <= 4 and all(a in (1, b) for a, b in zip(reversed(bias.shape), reversed(sizes), strict=False))
    if not fits or bias.dim() == 0 or bias.shape[-1] != sizes[-1]:
        return f"the bias is {list(bias.shape)}, which is not broadcast to {list(sizes)}"
    return None if bias.stride(-1) == 1 or sizes[-1] == 1 else "the last dimension of the bias is not contiguous"


def _wants_gradients(*tensors: torch.Tensor | None) -> str | None:
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return "it computes no gradients; call it under torch.no_grad()" if wanted else None


@torch.library.custom_op("probe::scored_attention", mutates_args=())
def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, softcap: float, causal: bool,
    scale: float,
) -> torch.Tensor:  # fmt: skip
    batch, heads, queries, head_dim = q.shape
    keys = k.shape[2]
    out = torch.empty_like(q)
    tile_q, tile_k, warps, stages = _tile(head_dim, q.element_size())
    steps = [step for tensor in (q, k, v, out) for step in tensor.stride()[:3]]
    of_bias = bias.expand(batch, heads, queries, keys).stride()[:3] if bias is not None else (0, 0, 0)
    launch(
        forward_kernel, -(-queries // tile_q) * batch * heads, q, q, k, v, bias, out, scale, softcap, *steps, *of_bias,
        heads, queries, keys, head_dim=head_dim, tile_q=tile_q, tile_k=tile_k, causal=causal, capped=softcap > 0,
        wide=INTERPRETED and q.dtype == torch.bfloat16, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


@_forward.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, softcap: float, causal: bool,
    scale: float,
) -> torch.Tensor:  # fmt: skip
    return torch.empty_like(q)


def cost(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None, *, causal: bool = False,
    **_: Any,
) -> Cost:  # fmt: skip
    """q, k, v and the bias are read, the output is written; of a causal mask only the pairs that are seen count."""
    batch, heads, queries, head_dim = q.shape
    pairs = queries * k.shape[2]
    if causal:
        pairs = sum(min(i + 1, k.shape[2]) for i in range(queries))
    return Cost(domain.size_bytes(q, k, v, bias), domain.size_bytes(q), 4 * batch * heads * pairs * head_dim)


class ScoredAttention(nn.Module):
    """Attention with a soft-cap and a bias.

    Where the kernel cannot run (`why_not`), and for gradients, it computes the same with torch's operators.
    """

    def __init__(self, softcap: float | None = None, causal: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.softcap, self.causal, self.scale = softcap, causal, scale

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The weighted values."""
        options = {"softcap": self.softcap, "causal": self.causal, "scale": self.scale}
        way: Any = reference if why_not(q, k, v, bias, **options) else scored_attention  # type: ignore[arg-type]
        out: torch.Tensor = way(q, k, v, bias, **options)
        return out


KERNEL = FusedKernel(
    name="scored_attention",
    replaces="attention written out by hand whose scores are capped or get a bias, forward only",
    codes=("F06",),
    function=scored_attention,
    reference=reference,
    why_not=why_not,
    cost=cost,
    backward_cost=None,
    module=ScoredAttention,
    operators=("probe::scored_attention",),
)
