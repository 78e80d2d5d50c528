"""Rotary embedding of queries and keys in one launch: pairs (x1, x2) become (x1 c - x2 s, x2 c + x1 s).

Pairs are the two halves of a head ("halves", as in GPT-NeoX and LLaMA) or neighbours ("pairs", as in GPT-J). The
gradient is the rotation by the opposite angle, by the same kernel; nothing but cosines and sines is kept for it.
"""

from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import nn

from probe.kernels.fused import domain
from probe.kernels.fused.kernel import Cost, FusedKernel, check
from probe.kernels.fused.launch import launch
from probe.kernels.fused.tiles import WARPS, power_of_2

Layout = Literal["halves", "pairs"]
ELEMENTS = 2048  # of a tile: half of them pairs
WIDEST_HEAD = 1024


@triton.jit
def rotate(x, out, cosine, sine, row, inside_row, x_row, out_row, half,
           paired: tl.constexpr, tile_half: tl.constexpr):  # fmt: skip
    """The rows of one head of one tensor; cosine and sine are [rows, tile_half]."""
    pair = tl.arange(0, tile_half)
    if paired:
        column = tl.arange(0, 2 * tile_half)
        inside = inside_row[:, None] & (column[None, :] < 2 * half)
        both = tl.load(x + row[:, None] * x_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(both, (row.shape[0], tile_half, 2)))
        turned = tl.join(first * cosine - second * sine, second * cosine + first * sine)
        turned = tl.reshape(turned, (row.shape[0], 2 * tile_half))
        tl.store(out + row[:, None] * out_row + column[None, :], turned.to(out.dtype.element_ty), mask=inside)
    else:
        inside = inside_row[:, None] & (pair[None, :] < half)
        at = x + row[:, None] * x_row + pair[None, :]
        first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(at + half, mask=inside, other=0.0).to(tl.float32)
        at = out + row[:, None] * out_row + pair[None, :]
        tl.store(at, (first * cosine - second * sine).to(out.dtype.element_ty), mask=inside)
        tl.store(at + half, (second * cosine + first * sine).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["q_heads", "k_heads", "positions"])
def rope_kernel(
    q, k, cos, sin, q_out, k_out,
    q_batch, q_head, q_row, k_batch, k_head, k_row, qo_batch, qo_head, qo_row, ko_batch, ko_head, ko_row,
    angle_batch, angle_row, q_heads, k_heads, positions, half,
    inverse: tl.constexpr, paired: tl.constexpr, tile_rows: tl.constexpr, tile_half: tl.constexpr,
):  # fmt: skip
    """A tile of positions of one head, of q or of k; heads of one tile of positions follow each other."""
    heads = q_heads + k_heads
    head = tl.cast(tl.program_id(0) % heads, tl.int64)
    tiles = tl.cdiv(positions, tile_rows)
    batch = tl.cast(tl.program_id(0) // heads // tiles, tl.int64)
    row = tl.cast(tl.program_id(0) // heads % tiles * tile_rows + tl.arange(0, tile_rows), tl.int64)
    inside_row = row < positions
    pair = tl.arange(0, tile_half)
    at = batch * angle_batch + row[:, None] * angle_row + pair[None, :]
    inside = inside_row[:, None] & (pair[None, :] < half)
    cosine = tl.load(cos + at, mask=inside, other=0.0).to(tl.float32)
    sine = tl.load(sin + at, mask=inside, other=0.0).to(tl.float32)
    if inverse:
        sine = -sine
    if head < q_heads:
        rotate(q + batch * q_batch + head * q_head, q_out + batch * qo_batch + head * qo_head, cosine, sine, row,
               inside_row, q_row, qo_row, half, paired, tile_half)  # fmt: skip
    else:
        head -= q_heads
        rotate(k + batch * k_batch + head * k_head, k_out + batch * ko_batch + head * ko_head, cosine, sine, row,
               inside_row, k_row, ko_row, half, paired, tile_half)  # fmt: skip


def rope(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, layout: Layout = "halves"
) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k, [batch, heads, positions, head_dim], rotated; only the last dimension must be contiguous.

    cos and sin are [positions, head_dim / 2], or head_dim with every angle written twice as the layout has its pairs;
    a batch dimension before is taken. They get no gradients. Raises UnavailableError without a GPU for Triton,
    UsageError for tensors outside `why_not`.
    """
    check("rope", domain.no_device(q), _unsuited(q, k, cos, sin, layout))
    half = q.shape[-1] // 2
    cos, sin = (_once(angle, half, layout) for angle in (cos, sin))
    turned: tuple[torch.Tensor, torch.Tensor] = _forward(q, k, cos, sin, layout, False)
    return turned


def reference(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, layout: Layout = "halves"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in torch's operators."""
    half = q.shape[-1] // 2
    cos, sin = (_once(angle, half, layout) for angle in (cos, sin))
    if cos.dim() == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return _rotated(q, cos, sin, layout), _rotated(k, cos, sin, layout)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout) -> torch.Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if layout == "pairs":
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def _once(angle: torch.Tensor, half: int, layout: Layout) -> torch.Tensor:
    """Every angle once, contiguous in the last dimension."""
    if angle.shape[-1] == half:
        return angle
    return angle[..., :half] if layout == "halves" else angle[..., ::2].contiguous()


def why_not(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, layout: Layout = "halves"
) -> str | None:
    """Why the kernel cannot be called so; None if it can."""
    return domain.no_device(q) or _unsuited(q, k, cos, sin, layout)


def _unsuited(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: str) -> str | None:
    return (
        domain.unsuited(q, "q")
        or domain.other_kind(q, k=k, cos=cos, sin=sin)
        or _wrong_sizes(q, k)
        or _wrong_angles(q, cos, sin)
        or (None if q.dtype == k.dtype else "q and k have different dtypes")
        or (None if q.stride(-1) == k.stride(-1) == 1 else "the last dimension of q or k is not contiguous")
        or ("cos or sin needs a gradient, which is not computed" if cos.requires_grad or sin.requires_grad else None)
        or (None if layout in ("halves", "pairs") else f"the layout is {layout!r}; known are 'halves' and 'pairs'")
    )


def _wrong_sizes(q: torch.Tensor, k: torch.Tensor) -> str | None:
    if q.dim() != 4 or k.dim() != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        return f"q is {list(q.shape)}, k is {list(k.shape)}; they must be [batch, heads, positions, head_dim]"
    if q.shape[-1] % 2 or q.shape[-1] > WIDEST_HEAD:
        return f"head_dim is {q.shape[-1]}; it must be even and no more than {WIDEST_HEAD}"
    return None


def _wrong_angles(q: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> str | None:
    right = cos.shape == sin.shape and cos.shape[-1] in (q.shape[-1], q.shape[-1] // 2)
    leading = tuple(cos.shape[:-1])
    if right and leading in ((q.shape[2],), (1, q.shape[2]), (q.shape[0], q.shape[2])):
        return None if cos.stride(-1) == sin.stride(-1) == 1 else "the last dimension of cos or sin is not contiguous"
    return f"cos is {list(cos.shape)}, sin {list(sin.shape)}; they must be [positions, head_dim / 2] or a batch of them"


@torch.library.custom_op("probe::rope", mutates_args=())
def _forward(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: str, inverse: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    batch, q_heads, positions, head_dim = q.shape
    half, k_heads = head_dim // 2, k.shape[1]
    tile_half = max(8, power_of_2(half))
    tile_rows = max(1, ELEMENTS // 2 // tile_half)
    if sin.stride() != cos.stride():
        cos, sin = cos.contiguous(), sin.contiguous()
    angle_batch = cos.stride(0) if cos.dim() == 3 and cos.shape[0] > 1 else 0
    steps = [step for tensor in (q, k, q_out, k_out) for step in tensor.stride()[:3]]
    launch(
        rope_kernel, -(-positions // tile_rows) * batch * (q_heads + k_heads) if half else 0, q, q, k, cos, sin,
        q_out, k_out, *steps, angle_batch, cos.stride(-2), q_heads, k_heads, positions, half, inverse=inverse,
        paired=layout == "pairs", tile_rows=tile_rows, tile_half=tile_half, num_warps=WARPS,
    )  # fmt: skip
    return q_out, k_out


@_forward.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: str, inverse: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(q), torch.empty_like(k)


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    _, _, cos, sin, ctx.layout, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin)


def _gradients(ctx: Any, dq: torch.Tensor, dk: torch.Tensor) -> Any:
    cos, sin = ctx.saved_tensors
    dq, dk = (d if d.stride(-1) == 1 else d.contiguous() for d in (dq, dk))
    return *_forward(dq, dk, cos, sin, ctx.layout, not ctx.inverse), None, None, None, None


_forward.register_autograd(_gradients, setup_context=_remember)


def cost(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, **_: Any) -> Cost:
    """q, k, cosines and sines are read, q and k are written; the backward pass costs the same."""
    written = domain.size_bytes(q, k)
    return Cost(written + domain.size_bytes(cos, sin), written, 3 * (q.numel() + k.numel()))


class Rope(nn.Module):
    """Rotary embedding of queries and keys.

    Where the kernel cannot run (`why_not`) it computes the same with torch's operators.
    """

    def __init__(self, layout: Layout = "halves") -> None:
        super().__init__()
        self.layout: Layout = layout

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """q and k, rotated."""
        way = reference if why_not(q, k, cos, sin, layout=self.layout) else rope
        return way(q, k, cos, sin, layout=self.layout)


KERNEL = FusedKernel(
    name="rope",
    replaces="rotary embedding of q and k written out with slices, negation and concatenation",
    codes=("F11",),
    function=rope,
    reference=reference,
    why_not=why_not,
    cost=cost,
    backward_cost=cost,
    module=Rope,
    operators=("probe::rope",),
)
