"""F06: attention written out by hand, which moves the T × T scores through memory several times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.units import Unit
from probe.sites import AttentionSite
from probe.units import format_bytes, format_time

PRODUCTS = frozenset({"bmm", "baddbmm", "mm"})
SOFTMAX = frozenset({"_softmax", "_safe_softmax"})
BY_HAND = frozenset({"exp", "sum", "div"})  # a softmax spelled out has all three
# What may stand between the two products: scaling, masking, casting, dropout, copies.
PASSES = frozenset(
    "div mul add sub rsub masked_fill where to_copy copy clone contiguous to amax max exp sum neg dropout "
    "native_dropout bernoulli tril triu le lt ge gt eq ne logical_not bitwise_not fill zero".split()
)
REACH = 16  # units between the two products; the longest real spelling seen has 11

Mask = Literal["none", "additive", "boolean", "causal"]


@dataclass(frozen=True)
class _Found:
    first: Unit
    between: tuple[Unit, ...]
    last: Unit


def find(context: Context) -> Iterator[Match]:
    """One match per distinct shape; all its layers and steps together."""
    sites: dict[tuple[object, ...], list[_Found]] = defaultdict(list)
    for run in context.runs:
        for found in _scan(run):
            sites[found.first.dims, found.last.dims, len(found.between)].append(found)
    for same in sites.values():
        yield _match(context, same)


def _scan(run: list[Unit]) -> Iterator[_Found]:
    at = 0
    while at < len(run):
        found = _attention_from(run, at) if run[at].name in PRODUCTS else None
        if found is None:
            at += 1
            continue
        yield found
        at += len(found.between) + 2


def _attention_from(run: list[Unit], at: int) -> _Found | None:
    """Scores = A·B, softmax over them, then scores·C: the shapes must fit, whatever stands between."""
    scores = _product(run[at])
    if scores is None:
        return None
    between: list[Unit] = []
    for unit in run[at + 1 : at + 2 + REACH]:
        if unit.name in PRODUCTS:
            weighted = _operands(unit)
            fits = weighted is not None and weighted[0][-2:] == scores[-2:] and prod(weighted[0]) == prod(scores)
            return _Found(run[at], tuple(between), unit) if fits and _has_softmax(between, scores) else None
        if unit.name not in PASSES and unit.name not in SOFTMAX:
            return None
        between.append(unit)
    return None


def _operands(unit: Unit) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sizes of the two factors of a product."""
    factors = unit.dims[1:3] if unit.name == "baddbmm" else unit.dims[0:2]
    if len(factors) < 2 or any(len(f) < 2 or not all(isinstance(n, int) for n in f) for f in factors):
        return None
    return factors[0], factors[1]


def _product(unit: Unit) -> tuple[int, ...] | None:
    """Sizes of the result of a product."""
    factors = _operands(unit)
    return (*factors[0][:-1], factors[1][-1]) if factors else None


def _has_softmax(between: list[Unit], scores: tuple[int, ...]) -> bool:
    """Whether a softmax over the last dimension of the scores stands between, as one operator or spelled out."""
    over_scores = [u for u in between if u.numel == prod(scores) and u.size[-1:] == scores[-1:]]
    names = {u.name for u in over_scores}
    return bool(names & SOFTMAX) or names >= BY_HAND


def _match(context: Context, same: list[_Found]) -> Match:
    """The finding for all calls of one shape."""
    site = _site(context, same[0])
    forward = [u.row for f in same for u in (f.first, *f.between, f.last)]
    passes = [u.row for f in same for u in f.between]
    backward = context.backward_rows(passes)
    spent_s = context.seconds(passes) + context.seconds(backward)
    calls = len(same) / len(context.steps)
    scores = prod(site.query[:-1]) * site.key[-2]
    element = 2 if site.dtype in ("float16", "bfloat16") else 4
    return Match(
        rows=(*forward, *backward),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in forward})),
        key="x".join(map(str, (*site.query, site.key[-2]))),
        summary=(
            f"{calls:.0f} attention{'s' * (calls > 1)} of {site.query[-2]} × {site.key[-2]} scores per step are "
            f"written out: scaling, masking and softmax pass {format_bytes(scores * element)} of scores through memory "
            f"{len(same[0].between)} times and take {format_time(spent_s)} between the two products"
        ),
        evidence=(
            f"{same[0].first.name} → {' → '.join(u.name.strip('_') for u in same[0].between)} → {same[0].last.name}",
            f"query {list(site.query)}, key {list(site.key)}, value {list(site.value)}, {site.dtype}",
            *(("the backward pass repeats them",) if backward else ()),
        ),
        saving_s=spent_s,
        where=f"operators {same[0].first.name} to {same[0].last.name}, {calls:.0f} per step",
        replacement="torch.nn.functional.scaled_dot_product_attention",
        how=_line(site),
        site=site,
    )


def _line(site: AttentionSite) -> str:
    mask = ", attn_mask=mask" if site.mask in ("additive", "boolean") else ""
    dropout = f", dropout_p={site.dropout:g}" if site.dropout else ""
    return f"F.scaled_dot_product_attention(q, k, v{mask}{dropout})  # is_causal=True instead of a triangular mask"


def _site(context: Context, found: _Found) -> AttentionSite:
    first, last = _operands(found.first), _operands(found.last)
    assert first is not None and last is not None  # as _attention_from has checked
    query, key_transposed = first
    key = (*key_transposed[:-2], key_transposed[-1], key_transposed[-2])
    cost = context.costs[context.groups.of_op[found.first.row]]
    names = {u.name for u in found.between}
    return AttentionSite(
        query=query,
        key=key,
        value=last[1],
        dtype=cost.dtype or "float32",
        scale=query[-1] ** -0.5 if names & {"div", "mul"} or found.first.name == "baddbmm" else None,
        mask=_mask(found, prod(query[:-1]) * key[-2]),
        dropout=_dropout(found),
        training=bool(context.backward_rows([found.first.row])),
    )


def _mask(found: _Found, scores: int) -> Mask:
    """What masks the scores, if anything: a fill, or the addition of another tensor of their last two sizes."""
    if any(u.name in ("masked_fill", "where") for u in found.between):
        return "boolean"
    for unit in found.between:
        others = [d for d in unit.dims if d and d != unit.size]
        same = sum(d == unit.size for d in unit.dims)
        if unit.name == "add" and unit.numel == scores and (others or same > 1):
            return "additive"
    return "none"


def _dropout(found: _Found) -> float:
    """The recorded dropout probability; 0 where there is none or it was not recorded."""
    for unit in found.between:
        if unit.name in ("native_dropout", "dropout") and unit.signature and len(unit.signature.scalars) > 1:
            try:
                return float(unit.signature.scalars[1])
            except ValueError:
                return 0.0
    return 0.0
