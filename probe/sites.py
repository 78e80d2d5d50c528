"""What a rule found, in the terms that its replacement can be run on: recorded sizes, strides, types and scalars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from probe.trace import Signature


@dataclass(frozen=True)
class AttentionSite:
    """Hand-written attention: softmax(scale · Q Kᵀ + mask) V. dtype is torch's name ("float32", "bfloat16")."""

    query: tuple[int, ...]  # sizes, last two [T, D]; leading ones batch and heads in any number
    key: tuple[int, ...]  # sizes, last two [S, D]
    value: tuple[int, ...]  # sizes, last two [S, Dv]
    dtype: str
    scale: float | None  # None where no scaling was recorded: 1.0
    mask: Literal["none", "additive", "boolean", "causal"]
    dropout: float
    training: bool  # whether the backward pass was recorded too
    softmax_dtype: str | None = None  # where the softmax ran in another type than `dtype`
    mask_keeps: bool = False  # boolean masks: True where a score is kept, as in torch.where(mask, scores, -inf)


@dataclass(frozen=True)
class OptimizerSite:
    """An optimizer that updates parameter after parameter in Python."""

    kind: Literal["adam", "adamw", "sgd"]
    parameters: tuple[tuple[int, ...], ...]  # sizes, one entry per parameter
    dtype: str


@dataclass(frozen=True)
class LoopSite:
    """The same done to tensor after tensor: gradients clipped, weights averaged, gradients filled with zeros."""

    code: str  # of the rule: F26, F27, H13
    tensors: tuple[tuple[int, ...], ...]  # sizes, one entry per tensor
    dtype: str


@dataclass(frozen=True)
class Read:
    """Where a tensor argument comes from: an earlier step of the chain, or (None) a tensor from outside it."""

    step: int | None
    outside: int = -1  # which one: the same number is the same storage
    offset: int | None = None  # of its first element in the storage, where that was recorded


@dataclass(frozen=True)
class Step:
    """One recorded operator; its tensor arguments in order, those in lists one by one."""

    name: str  # "aten::addmm"
    signature: Signature
    reads: tuple[Read, ...]
    list_dtype: str | None = None  # the profiler's name of the element type of lists


@dataclass(frozen=True)
class ChainSite:
    """The recorded operators of one place, in order; what it returns is what no step of it reads, and what is `kept`.

    known: whether tensors were recorded; else who made an argument is concluded from sizes.
    why_not: why it cannot be run, where that is known already.
    """

    code: str  # of the rule that found it
    steps: tuple[Step, ...]
    training: bool
    known: bool
    kept: tuple[int, ...] = ()  # steps whose results something behind the chain reads too
    why_not: str | None = None


Site: TypeAlias = AttentionSite | OptimizerSite | LoopSite | ChainSite


def attention_line(site: AttentionSite, *, padded: bool = False) -> str:
    """The line to paste where `q`, `k`, `v` are [batch, heads, length, D] and `mask` is the user's own.

    A recorded product has batch and heads merged; the user's tensors do not. `padded`: the narrower heads are filled
    with zeros up to the width of the others, which fused kernels of a CPU need.
    """
    width, own = (max(size[-1:], default=1) for size in (site.value, site.query))
    masked = site.mask != "none" and not is_causal(site)
    options = ["is_causal=True"] if is_causal(site) else []
    if masked:
        hides = site.mask == "boolean" and not site.mask_keeps  # SDPA takes True where a score is kept
        options.append("attn_mask=~mask" if hides else "attn_mask=mask")
    if site.dropout:
        options.append(f"dropout_p={site.dropout!r}")
    scale = 1.0 if site.scale is None else site.scale
    if (padded and width > own) or not math.isclose(scale, own**-0.5, rel_tol=1e-6):
        options.append(f"scale={scale!r}")
    given = ["q", "k", "v"]
    if padded and width != own:
        narrow = "v" if width < own else "qk"
        given = [f"F.pad({name}, (0, {abs(width - own)}))" if name in narrow else name for name in given]
    line = f"F.scaled_dot_product_attention({', '.join([*given, *options])})"
    line += f"[..., :{width}]" if padded and width < own else ""
    remarks = "; ".join(_remarks(site, masked))
    return f"{line}  # {remarks}" if remarks else line


def _remarks(site: AttentionSite, masked: bool) -> list[str]:
    """What the user has to know beside the line."""
    remarks = ["keep your own scaling of q, if any"] if site.scale is None else []
    if masked and site.query[-2:-1] == site.key[-2:-1]:
        remarks.append("is_causal=True instead of a triangular mask")
    return remarks


def is_causal(site: AttentionSite) -> bool:
    """Whether `is_causal` says the same: for T ≠ S it is ambiguous which corner the mask was aligned to."""
    return site.mask == "causal" and site.query[-2:-1] == site.key[-2:-1]
