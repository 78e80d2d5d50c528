"""What exactly does a written-out attention compute: sizes, types, factor, mask, dropout; and what of it is assumed?"""

from __future__ import annotations

from math import prod

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES, FLOAT32, ElementType
from probe.analyzers.rules.context import Context
from probe.analyzers.rules.fusion.attention_flow import SOFTMAX, Written, factors, number, over, scalar
from probe.analyzers.rules.fusion.attention_masks import Masking
from probe.analyzers.rules.matching.units import Unit
from probe.sites import AttentionSite


def site_of(context: Context, written: Written, masks: Masking) -> tuple[AttentionSite, tuple[str, ...]]:
    """The site, and in words what of it is assumed."""
    first, last = written.unit(written.first), written.unit(written.last)
    left, right = factors(first), factors(last)
    assert left is not None and right is not None  # as they were found
    query, key_transposed = left
    value = transposed(right[0]) if written.swapped else right[1]
    scale, recorded = _scale(written)
    dropout, known = _dropout(written)
    element = element_of(first)
    assumed = {
        "the factor was not recorded; 1/sqrt(D) is assumed for the proof": not recorded,
        "the dimension of the softmax was not recorded; the last is assumed": over(_summed(written)) is None,
        "the element type was not recorded; float32 is assumed": element is None,
        "the probability of the dropout was not recorded; none is assumed": not known,
        "several masks: combine them into one": masks.several,
    }
    site = AttentionSite(
        query=query,
        key=transposed(key_transposed),
        value=value,
        dtype=(element or FLOAT32).name,
        scale=scale if recorded else query[-1] ** -0.5,
        mask=masks.kind,
        dropout=dropout,
        training=bool(context.backward_rows([first.row])),
        softmax_dtype=_softmax_dtype(written),
        mask_keeps=masks.keeps,
    )
    return site, tuple(words for words, needed in assumed.items() if needed)


def transposed(size: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes with the last two exchanged."""
    return (*size[:-2], size[-1], size[-2])


def element_of(unit: Unit) -> ElementType | None:
    """Element type of the first argument."""
    dtypes = unit.signature.dtypes if unit.signature else ()
    return ELEMENT_TYPES.get(dtypes[0]) if dtypes else None


def _summed(written: Written) -> Unit:
    """The operator that says which dimension the softmax runs over."""
    entry = written.unit(written.softmax)
    return entry if entry.name != "exp" else next(u for u in written.between if u.name == "sum")


def _softmax_dtype(written: Written) -> str | None:
    """The type of the softmax where it differs from that of the products: a cast stands between, or is part of it."""
    softmax, first = written.unit(written.softmax), written.unit(written.first)
    inside = FLOAT32 if softmax.name in SOFTMAX and scalar(softmax, 2) == "True" else element_of(softmax)
    outside = element_of(first)
    return inside.name if inside and outside and inside != outside else None


def _scale(written: Written) -> tuple[float | None, bool]:
    """The factor on the scores (None: there is none), and whether all of it was recorded.

    torch records the value of a Scalar argument; Python's `scores * 0.2` arrives as a tensor, whose value it does not.
    """
    first = written.unit(written.first)
    found = [number(first, 4)] if first.name == "baddbmm" and number(first, 4) != 1.0 else []  # its alpha
    for index in written.path:
        unit = written.unit(index)
        if index < written.softmax and unit.name in ("mul", "div"):
            factor = number(unit, 1)
            found.append(factor if factor is None or unit.name == "mul" else 1 / factor if factor else None)
    known = [f for f in found if f is not None]
    return prod(known) if known else None, len(known) == len(found)


def _dropout(written: Written) -> tuple[float, bool]:
    """The dropout probability, and whether it is known; 0 where there is none."""
    for unit in written.between:
        if unit.name in ("native_dropout", "dropout"):
            probability = 0.0 if scalar(unit, 2) == "False" else number(unit, 1)  # "False": not training
            return probability or 0.0, probability is not None
        if unit.name == "bernoulli":
            keep = number(unit, 1)
            return (1 - keep if keep is not None else 0.0), keep is not None
    return 0.0, True
