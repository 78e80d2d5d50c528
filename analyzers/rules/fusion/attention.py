"""F06: attention written out by hand, which moves the T × T scores through memory several times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

from probe.analyzers.cost_models.dtypes import FLOAT32
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion import sdpa
from probe.analyzers.rules.fusion.attention_flow import Written, attentions
from probe.analyzers.rules.fusion.attention_masks import Masking, masking
from probe.analyzers.rules.fusion.attention_site import element_of, site_of
from probe.analyzers.rules.matching.ledger import usual_s
from probe.analyzers.rules.rule import Example, Rule
from probe.sites import AttentionSite, attention_line
from probe.units import format_bytes, format_time

RETURNING = frozenset({"mean", "cat", "stack", "topk", "max", "argmax"})  # readers of weights that are returned
LEAST = 0.25  # of the time between the products, which fused kernels that compute the scores again save at least
REPEATED = ("the backward pass repeats them",)
NARROW = frozenset({"bfloat16", "float16"})
UNFUSED = ("the mask is learned: on a CPU no fused kernel gives its gradient, so SDPA is not known to be faster",)
CAPPED = "flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: cap * torch.tanh(s / cap))  # compiled"


def find(context: Context) -> Iterator[Match]:
    """One match per distinct shape; all its layers and steps together."""
    sites: dict[tuple[object, ...], list[Written]] = defaultdict(list)
    for written in attentions(context):
        first, last = written.unit(written.first), written.unit(written.last)
        sites[first.dims, last.dims, len(written.between)].append(written)
    for same in sites.values():
        yield _match(context, same)


def _match(context: Context, same: list[Written]) -> Match:
    """The finding for all calls of one shape."""
    masks = masking(same[0], context.differentiated)
    site, assumed = site_of(context, same[0], masks)
    capped = any(u.name == "tanh" for u in same[0].between)
    products = [w.unit(i).row for w in same for i in (w.first, w.last)]
    passes = [u.row for w in same for u in w.between]
    masked = _mask_rows(context, same, masks)
    backward = context.backward_rows(passes)
    spent_s = usual_s(context, [*passes, *backward])
    again_s = usual_s(context, [w.unit(i).row for w in same for i in (w.first, w.softmax)]) if backward else 0.0
    unfused = masks.learned and bool(backward) and not context.trace.on_device
    narrow_s = 0.0 if context.trace.on_device else _narrow_s(context, products, site)
    said = (*REPEATED[: bool(backward)], *UNFUSED[:unfused], *_of_products(site, narrow_s))
    forward = [*products, *passes, *masked]
    return Match(
        rows=(*forward, *backward),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in forward})),
        key="x".join(map(str, (*site.query, site.key[-2]))),
        summary=_summary(context, same, site, spent_s),
        evidence=(*_evidence(same[0], site, masks), *said, *assumed),
        saving_s=None if unfused else max(spent_s - again_s, LEAST * spent_s) + usual_s(context, masked) + narrow_s,
        where=f"operators {same[0].unit(same[0].first).name} to {same[0].unit(same[0].last).name}, "
        f"{times(len(same) / len(context.steps))}",
        replacement="torch.nn.attention.flex_attention.flex_attention"
        if capped
        else "torch.nn.functional.scaled_dot_product_attention",
        how=CAPPED if capped else _line(site, masks, on_device=context.trace.on_device),
        site=None if capped else site,
        tier=same[0].tier,
    )  # fmt: skip


def _line(site: AttentionSite, masks: Masking, *, on_device: bool) -> str:
    """What to write instead; a mask of numbers that the exponentials are multiplied with is added as its logarithm."""
    line = attention_line(site, padded=not on_device)
    return line.replace("attn_mask=mask", "attn_mask=mask.log()") if masks.multiplied else line


def _narrow_s(context: Context, products: list[int], site: AttentionSite) -> float:
    """What products of 16-bit types take beyond the float32 ceiling, at which a CPU's fused kernel computes them."""
    rate = context.machine.ceilings.flops_per_s.get("float32")
    if site.dtype not in NARROW or not rate:
        return 0.0
    flops = sum(context.costs[context.groups.of_op[row]].flops or 0.0 for row in products) / len(context.steps)
    return max(usual_s(context, products) - flops / rate, 0.0)


def _of_products(site: AttentionSite, narrow_s: float) -> Iterator[str]:
    if narrow_s:
        yield f"its {site.dtype} products take {format_time(narrow_s)} longer than float32's would at their ceiling"


def _mask_rows(context: Context, same: list[Written], masks: Masking) -> list[int]:
    """The operators that make a causal mask, which is not needed then; other findings' are left out."""
    rows = {w.unit(i).row for w in same for i in masks.units if masks.kind == "causal"}
    return sorted(rows - context.claimed - {u.row for w in same for u in w.between})


def _summary(context: Context, same: list[Written], site: AttentionSite, spent_s: float) -> str:
    calls = len(same) / len(context.steps)
    scores = prod(site.query[:-1]) * site.key[-2]
    array = format_bytes(scores * (element_of(same[0].unit(same[0].first)) or FLOAT32).itemsize)
    return (
        f"{calls:.0f} attention{'s' * (calls > 1)} of {site.query[-2]} × {site.key[-2]} scores per step are "
        f"written out: scaling, masking and softmax pass {array} of scores through memory "
        f"{len(same[0].between)} times and take {format_time(spent_s)} between the two products"
    )


def _evidence(written: Written, site: AttentionSite, masks: Masking) -> Iterator[str]:
    between = " → ".join(u.name.strip("_") for u in written.between)
    yield f"{written.unit(written.first).name} → {between} → {written.unit(written.last).name}"
    yield f"query {list(site.query)}, key {list(site.key)}, value {list(site.value)}, {site.dtype}"
    if masks.kind == "causal":
        yield "the mask is a triangle that the step itself makes: is_causal=True stands for it"
    if masks.computed:
        yield "the step computes what is added to the scores: where that is learned, flex_attention keeps its gradient"
    returned = _returned(written)
    if returned:
        yield (
            f"{returned} reads the weights, too, and SDPA does not return them: leave them out where nothing uses them "
            "(torch.nn.MultiheadAttention: need_weights=False)"
        )


def _returned(written: Written) -> str | None:
    """The operator that reads the weights beside the second product; None where it is not known or there is none."""
    if written.tier == "order":
        return None
    readers = written.flow.readers_of
    weights = [i for i in written.path if written.softmax <= i < written.last]
    found = (written.unit(r).name for i in weights for r in readers.get(i, ()) if r > written.last)
    return next((name for name in found if name in RETURNING), None)


RULES = (
    Rule(
        "F06", "naive-attention", "attention written out by hand", find,
        trigger="a matrix product whose T × S result goes through a softmax into a second product",
        advice="call scaled_dot_product_attention, which keeps the scores on the chip",
        saving="the time of all operators between the two products, both ways, less computing the scores again",
        cannot_show="whether a mask made outside the steps is causal (then is_causal=True saves half the arithmetic)",
        proof="replay", effort="line", needs=("shapes",),
        example=Example(
            "scores = q @ k.transpose(-2, -1) / math.sqrt(d)\nout = torch.softmax(scores + mask, -1) @ v",
            "out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)",
        ),
    ),
    *sdpa.RULES,
)  # fmt: skip
