"""What replaces hand-written attention? scaled_dot_product_attention, against softmax(scale · Q Kᵀ + mask) V."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from probe.sites import AttentionSite, attention_line, is_causal
from probe.verify.attention_inputs import AttentionInputs, drawn, hard_problems, need_bytes, objection
from probe.verify.case import Candidate, Case, Problem, Side, Values
from probe.verify.dtypes import floating

if TYPE_CHECKING:
    import torch

Forward = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]  # of query, key, value


def attention_case(site: AttentionSite) -> Case[AttentionInputs]:
    """The site's formula and SDPA, on the recorded sizes and on hard inputs.

    Dropout runs in the timing only: the two sides draw different numbers, so values are compared without it.
    """
    wrong = objection(site)
    recorded = partial(drawn, site)
    return Case(
        name="attention",
        original=partial(hand_written, site),
        candidates=(
            Candidate("scaled_dot_product_attention", attention_line(site), partial(fused, site)),
            *(() if wrong else _padded(site)),
            *_of_libraries(site),
            *_scored(site),
        ),
        timed=Problem("recorded sizes", lambda rng: replace(recorded(rng), dropout=site.dropout)),
        checked=(Problem("recorded sizes", recorded), *hard_problems(site)),
        need_bytes=0 if wrong else need_bytes(site),
        objection=wrong,
    )


def _padded(site: AttentionSite) -> Iterator[Candidate[AttentionInputs]]:
    """SDPA on heads of one width: some fused kernels, all of a CPU, take no others."""
    if site.query[-1:] != site.value[-1:]:
        line = attention_line(site, padded=True)
        yield Candidate("padded scaled_dot_product_attention", line, partial(fused, site, padded=True))


def _of_libraries(site: AttentionSite) -> Iterator[Candidate[AttentionInputs]]:
    """Kernels of installed libraries, on a GPU and where they can express the mask; without dropout."""
    import torch

    from probe.verify.adapters.installed import libraries  # which knows chains, and those the side of a case

    if not torch.cuda.is_available() or site.dropout or not (site.mask == "none" or is_causal(site)):
        return
    for adapter in libraries():
        if "attention" in adapter.kernels:
            line, kernel = adapter.kernels["attention"]
            yield Candidate(f"{adapter.library} attention", line, partial(library_side, site, kernel))


def library_side(site: AttentionSite, kernel: Callable[..., Any], inputs: AttentionInputs) -> Side:
    """A library's kernel on [batch, heads, T, D]."""
    scale = 1.0 if site.scale is None else site.scale

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = kernel(query, key, value, is_causal(site), scale)
        return output

    return attention_side(_in_four(attend, inputs.query.dim()), inputs)


def _scored(site: AttentionSite) -> Iterator[Candidate[AttentionInputs]]:
    """probe's own kernel, which adds any bias to the scores; on a GPU, and without gradients."""
    from probe.verify.replacements.fused_kernels import there_is_triton_and_gpu

    if there_is_triton_and_gpu() and not (site.training or site.dropout or site.mask == "boolean"):
        yield scored_candidate(site)


def scored_candidate(site: AttentionSite, by: str = "function") -> Candidate[AttentionInputs]:
    """by: "reference" for the same in torch's operators, which runs anywhere."""
    from probe.kernels.fused.scored_attention import KERNEL

    def bias_of(inputs: AttentionInputs) -> Any:
        floating = inputs.mask is not None and inputs.mask.is_floating_point() and not is_causal(site)
        return inputs.mask if floating else None

    options: dict[str, Any] = {"causal": is_causal(site), "scale": 1.0 if site.scale is None else site.scale}

    def build(inputs: AttentionInputs) -> Side:
        run, bias = getattr(KERNEL, by), bias_of(inputs)
        forward = _in_four(lambda q, k, v: run(q, k, v, bias, **options), inputs.query.dim())
        return attention_side(forward, inputs)

    def guard(inputs: AttentionInputs) -> str | None:
        missing = (None,) * max(4 - inputs.query.dim(), 0)
        found = KERNEL.why_not(
            *(t[missing] for t in (inputs.query, inputs.key, inputs.value)), bias_of(inputs), **options
        )
        return f"{found}" if found else None

    line = "probe.kernels.fused.scored_attention.scored_attention(q, k, v, bias, causal=causal, scale=scale)"
    return Candidate("probe scored_attention", line, build, guard=guard if by == "function" else None)


def hand_written(site: AttentionSite, inputs: AttentionInputs) -> Side:
    """The original in the recorded dtypes; in float64 throughout where the inputs are."""
    import torch

    mask = inputs.mask
    exact = inputs.query.dtype == torch.float64
    softmax_dtype = None if exact or site.softmax_dtype is None else floating(site.softmax_dtype)

    def forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scores = query @ key.transpose(-2, -1)
        if site.scale is not None:
            scores = scores * site.scale
        if mask is not None:
            scores = scores + mask if mask.is_floating_point() else scores.masked_fill(mask, -math.inf)
        weights = torch.softmax(scores, -1, dtype=softmax_dtype).to(query.dtype)
        if inputs.dropout:
            weights = torch.nn.functional.dropout(weights, inputs.dropout)
        return weights @ value

    return attention_side(forward, inputs)


def fused(site: AttentionSite, inputs: AttentionInputs, *, padded: bool = False) -> Side:
    """The candidate, as its line says; drawn masks have True where hidden, whatever the site's own have."""
    from torch.nn import functional

    mask, causal = inputs.mask, is_causal(site)
    scale = 1.0 if site.scale is None else site.scale
    dropout = inputs.dropout

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        attn_mask = None if mask is None or causal else mask if mask.is_floating_point() else ~mask
        width = max(query.shape[-1], value.shape[-1])
        q, k, v = (functional.pad(t, (0, width - t.shape[-1])) if padded else t for t in (query, key, value))
        output = functional.scaled_dot_product_attention(q, k, v, attn_mask, dropout, is_causal=causal, scale=scale)
        return output[..., : value.shape[-1]]

    return attention_side(_in_four(attend, inputs.query.dim()), inputs)


def _in_four(attend: Forward, dimensions: int) -> Forward:
    """`attend` for operands of any number of dimensions: [batch, heads, T, D] is what fused kernels take."""
    if dimensions == 4:
        return attend
    if dimensions > 4:
        return lambda query, key, value: attend(*(t.flatten(0, -4) for t in (query, key, value))).view(
            *query.shape[:-1], value.shape[-1]
        )
    missing = 4 - dimensions
    return lambda query, key, value: attend(*(t[(None,) * missing] for t in (query, key, value)))[(0,) * missing]


def attention_side(forward: Forward, inputs: AttentionInputs) -> Side:
    """forward(query, key, value), and the gradients of all three where there is a cotangent."""
    import torch

    cotangent = inputs.cotangent
    query, key, value = (
        t.detach().requires_grad_(cotangent is not None) for t in (inputs.query, inputs.key, inputs.value)
    )

    def call() -> tuple[torch.Tensor, ...]:
        output = forward(query, key, value)
        if cotangent is None:
            return (output,)
        return (output, *torch.autograd.grad(output, (query, key, value), cotangent))

    return Side(call, lambda returned: Values((returned[0].detach(),), returned[1:]))
