"""F06: attention written out by hand, which moves the T × T scores through memory several times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES, FLOAT32, ElementType
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.units import Unit, places
from probe.sites import AttentionSite, attention_line
from probe.units import format_bytes, format_time

PRODUCTS = frozenset({"bmm", "baddbmm", "mm"})
SOFTMAX = frozenset({"_softmax", "_safe_softmax"})
BY_HAND = frozenset({"exp", "sum", "div"})  # a softmax spelled out has all three
OVER_ONE = SOFTMAX | {"sum"}  # what says which dimension the softmax runs over
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
    for units in places(context.runs, _scan):
        found = _Found(units[0], tuple(units[1:-1]), units[-1])
        sites[found.first.dims, found.last.dims, len(found.between)].append(found)
    for same in sites.values():
        yield _match(context, same)


def _scan(run: list[Unit]) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(run):
        found = _attention_from(run, at) if run[at].name in PRODUCTS else None
        if found is not None:
            yield at, at + len(found.between) + 2
        at += len(found.between) + 2 if found is not None else 1


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
    names = {u.name for u in over_scores if u.name not in OVER_ONE or _over_last(u) is not False}
    return bool(names & SOFTMAX) or names >= BY_HAND


def _over_last(unit: Unit) -> bool | None:
    """Whether a softmax or sum runs over the last dimension; None where its `dim` was not recorded."""
    text = _scalar(unit, 1)
    return None if text is None else text.strip("[]") in ("-1", str(len(unit.size) - 1))


def _scalar(unit: Unit, argument: int) -> str | None:
    """The recorded text of a scalar argument."""
    scalars = unit.signature.scalars if unit.signature else ()
    return scalars[argument] or None if argument < len(scalars) else None


def _number(unit: Unit, argument: int) -> float | None:
    """The recorded value of a scalar argument."""
    try:
        return float(_scalar(unit, argument) or "")
    except ValueError:
        return None


def _element(unit: Unit) -> ElementType | None:
    """Element type of the first argument."""
    dtypes = unit.signature.dtypes if unit.signature else ()
    return ELEMENT_TYPES.get(dtypes[0]) if dtypes else None


def _match(context: Context, same: list[_Found]) -> Match:
    """The finding for all calls of one shape."""
    site, assumed = _site(context, same[0])
    forward = [u.row for f in same for u in (f.first, *f.between, f.last)]
    passes = [u.row for f in same for u in f.between]
    backward = context.backward_rows(passes)
    spent_s = context.seconds(passes) + context.seconds(backward)
    calls = len(same) / len(context.steps)
    scores = prod(site.query[:-1]) * site.key[-2]
    array = format_bytes(scores * (_element(same[0].first) or FLOAT32).itemsize)
    return Match(
        rows=(*forward, *backward),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in forward})),
        key="x".join(map(str, (*site.query, site.key[-2]))),
        summary=(
            f"{calls:.0f} attention{'s' * (calls > 1)} of {site.query[-2]} × {site.key[-2]} scores per step are "
            f"written out: scaling, masking and softmax pass {array} of scores through memory "
            f"{len(same[0].between)} times and take {format_time(spent_s)} between the two products"
        ),
        evidence=(
            f"{same[0].first.name} → {' → '.join(u.name.strip('_') for u in same[0].between)} → {same[0].last.name}",
            f"query {list(site.query)}, key {list(site.key)}, value {list(site.value)}, {site.dtype}",
            *(("the backward pass repeats them",) if backward else ()),
            *assumed,
        ),
        saving_s=spent_s,
        where=f"operators {same[0].first.name} to {same[0].last.name}, {calls:.0f} per step",
        replacement="torch.nn.functional.scaled_dot_product_attention",
        how=attention_line(site),
        site=site,
    )


def _site(context: Context, found: _Found) -> tuple[AttentionSite, tuple[str, ...]]:
    """The site, and in words what of it is assumed."""
    first, last = _operands(found.first), _operands(found.last)
    assert first is not None and last is not None  # as _attention_from has checked
    query, key_transposed = first
    key = (*key_transposed[:-2], key_transposed[-1], key_transposed[-2])
    scores = prod(query[:-1]) * key[-2]
    scale, recorded = _scale(found, scores)
    element = _element(found.first)
    mask, mask_keeps = _mask(found, scores)
    assumed = {
        "the factor was not recorded; 1/sqrt(D) is assumed for the proof": not recorded,
        "the dimension of the softmax was not recorded; the last is assumed": _over_last(_softmax(found)) is None,
        "the element type was not recorded; float32 is assumed": element is None,
    }
    site = AttentionSite(
        query=query,
        key=key,
        value=last[1],
        dtype=(element or FLOAT32).name,
        scale=scale if recorded else query[-1] ** -0.5,
        mask=mask,
        dropout=_dropout(found),
        training=bool(context.backward_rows([found.first.row])),
        softmax_dtype=_softmax_dtype(found),
        mask_keeps=mask_keeps,
    )
    return site, tuple(words for words, needed in assumed.items() if needed)


def _softmax(found: _Found) -> Unit:
    """The operator that says which dimension the softmax runs over."""
    return next(u for u in found.between if u.name in OVER_ONE)


def _softmax_dtype(found: _Found) -> str | None:
    """The type of the softmax where it differs from that of the products: a cast stands between, or is part of it."""
    softmax = next(u for u in found.between if u.name in SOFTMAX or u.name == "exp")
    inside = FLOAT32 if softmax.name in SOFTMAX and _scalar(softmax, 2) == "True" else _element(softmax)
    outside = _element(found.first)
    return inside.name if inside and outside and inside != outside else None


def _scale(found: _Found, scores: int) -> tuple[float | None, bool]:
    """The factor on the scores (None: there is none), and whether all of it was recorded.

    torch records the value of a Scalar argument; Python's `scores * 0.2` arrives as a tensor, whose value it does not.
    """
    factors = [_number(found.first, 4)] if found.first.name == "baddbmm" else []  # its alpha
    if factors == [1.0]:
        factors = []
    for unit in found.between:
        if unit.name in SOFTMAX or unit.name == "exp":
            break
        if unit.name in ("mul", "div") and unit.numel == scores:
            value = _number(unit, 1)
            factors.append(value if value is None or unit.name == "mul" else 1 / value if value else None)
    known = [f for f in factors if f is not None]
    return prod(known) if known else None, len(known) == len(factors)


def _mask(found: _Found, scores: int) -> tuple[Mask, bool]:
    """What masks the scores, if anything, and whether True keeps a score.

    A fill, or the addition of another tensor of their last two sizes; the first argument of baddbmm is one.
    """
    fill = next((u for u in found.between if u.name in ("masked_fill", "where")), None)
    if fill is not None:
        return "boolean", fill.name == "where" and fill.dims[1:2] == (fill.size,)
    if found.first.name == "baddbmm" and _number(found.first, 3):  # its beta
        return "additive", False
    for unit in found.between:
        others = [d for d in unit.dims if d and d != unit.size]
        same = sum(d == unit.size for d in unit.dims)
        if unit.name == "add" and unit.numel == scores and (others or same > 1):
            return "additive", False
    return "none", False


def _dropout(found: _Found) -> float:
    """The recorded dropout probability; 0 where there is none or it was not recorded."""
    for unit in found.between:
        if unit.name in ("native_dropout", "dropout"):
            return 0.0 if _scalar(unit, 2) == "False" else _number(unit, 1) or 0.0  # "False": not training
    return 0.0


RULES = (
    Rule(
        "F06", "naive-attention", "attention written out by hand", find,
        trigger="a matrix product whose T × S result goes through a softmax into a second product",
        advice="call scaled_dot_product_attention, which keeps the scores on the chip",
        saving="the time of every operator between the two products, forward and backward",
        cannot_show="whether a mask is causal (then is_causal=True saves half of the arithmetic too)",
        proof="replay", effort="line", needs=("shapes",),
        example=Example(
            "scores = q @ k.transpose(-2, -1) / math.sqrt(d)\nout = torch.softmax(scores + mask, -1) @ v",
            "out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)",
        ),
    ),
)  # fmt: skip
