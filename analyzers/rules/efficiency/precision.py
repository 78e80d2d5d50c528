"""E01, E02, E03, E14: arithmetic in a type that the device is slow in, or on sizes that its fast units do not take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES
from probe.analyzers.gpu.tensor_cores import float32_runs_in
from probe.analyzers.precision import Work, gains, speedup
from probe.analyzers.roofline import TENSOR_KINDS
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.repeats import as_recorded_s, bare_fraction, rows_between, share_of_step
from probe.analyzers.rules.matching.units import MATRIX, Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.units import format_fraction, format_time

SHARE = 0.02  # of the step
AMP_SHARE = 0.2
CASTS = frozenset({"to_copy", "to"})
SINGLE = frozenset({"float", "c10::Half", "c10::BFloat16", "Half", "BFloat16"})
HALF = frozenset({"c10::Half", "c10::BFloat16", "Half", "BFloat16", "at::BFloat16"})
BEST = 64  # a tile's granularity
MULTIPLE = 8  # elements of two bytes in the 16 bytes that tensor cores load at once
HALF_TYPES = ("bfloat16", "float16")  # in the order in which they are advised: bfloat16 needs no scaled loss


def doubled(context: Context) -> Iterator[Match]:
    """E14: double tensors in a program whose others are float."""
    double = context.free_units(lambda u: _has(u, frozenset({"double"})))
    single = context.free_units(lambda u: _has(u, SINGLE)) if double else []
    spent_s = context.seconds([u.row for u in double]) * bare_fraction(context)
    if not single or share_of_step(context, spent_s) < SHARE:
        return
    saving_s = sum(_double_gain_s(context, u) for u in double) / len(context.steps) * bare_fraction(context)
    first = double[0]
    yield Match(
        rows=tuple(row for u in double for row in rows_between(context, u.row, u.row)),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u in double})),
        key=first.name,
        summary=(
            f"{len(double) / len(context.steps):.0f} operators per step work on float64 tensors, "
            f"{len(single) / len(context.steps):.0f} on narrower ones: {format_time(spent_s)} that float32 would halve"
        ),
        evidence=(
            f"the first is {first.name} of {list(first.size)}, behind {_before(context, first)}",
            f"{format_fraction(share_of_step(context, spent_s))} of the step in float64",
        ),
        saving_s=as_recorded_s(context, saving_s),
        where=f"from {first.name} of {list(first.size)} on",
        replacement="float32",
        how="x = x.float()  # where the float64 tensor is made: torch.from_numpy(a).float(), dtype=torch.float32",
    )


def _has(unit: Unit, types: frozenset[str]) -> bool:
    """Whether an argument of more than one element has one of the types."""
    if unit.signature is None:
        return False
    pairs = zip(unit.signature.dims, unit.signature.dtypes, strict=False)
    return any(dtype in types and dims and _elements(dims) > 1 for dims, dtype in pairs)


def _elements(dims: Sequence[object]) -> int:
    return prod(n for n in dims if isinstance(n, int))


def _double_gain_s(context: Context, unit: Unit) -> float:
    """Half of the time: half of the bytes, and at least twice the rate; products by the measured rates; casts whole."""
    spent_s = float(context.spent_ns[unit.row]) / 1e9
    rates = context.machine.ceilings.flops_per_s
    if unit.name in CASTS:  # from the wide type to the narrow one
        return spent_s
    if unit.name in MATRIX and rates.get("float64") and rates.get("float32"):
        return spent_s * max(1 - rates["float64"] / rates["float32"], 0.0)
    return spent_s / 2


def _before(context: Context, unit: Unit) -> str:
    units = context.free_units(lambda u: True)
    at = next(i for i, u in enumerate(units) if u.row == unit.row)
    return units[at - 1].name if at else "nothing else"


def without_tf32(context: Context) -> Iterator[Match]:
    """E01: float32 products on a device with TF32 whose kernels do not use it."""
    found = [(g, w) for g, w in _products(context) if w.cost.dtype == "float32" and _runs_in(context, g) == "float32"]
    faster = {g: ratio for g, w in found if (ratio := speedup(w, "tf32", context.machine.ceilings)) and ratio > 1}
    saving_s = sum(w.call_s * w.calls * (1 - 1 / faster[g]) for g, w in found if g in faster)
    if share_of_step(context, saving_s) < SHARE:
        return
    spent_s = sum(w.call_s * w.calls for g, w in found if g in faster)
    kernels = dict.fromkeys(context.groups.kernels[g][0].name for g in faster if context.groups.kernels[g])
    yield Match(
        rows=tuple(_rows(context, set(faster))),
        ops=tuple(sorted(faster)),
        summary=(
            f"float32 matrix products and convolutions run without TF32: {format_time(spent_s)} per step, "
            f"{format_fraction(share_of_step(context, spent_s))} of it; with it about {format_time(spent_s - saving_s)}"
        ),
        evidence=tuple(f"kernel {name[:80]}" for name in list(kernels)[:3]),
        saving_s=saving_s,
        where="every float32 product",
        replacement="TF32",
        how='torch.set_float32_matmul_precision("high"); torch.backends.cudnn.allow_tf32 = True',
    )


def without_amp(context: Context) -> Iterator[Match]:
    """E02: products in float32 or TF32 where the device has half-precision units; the gain is beyond E01's."""
    found = [(g, w) for g, w in _products(context, all_of_them=True) if w.cost.dtype == "float32"]
    spent_s = sum(w.call_s * w.calls for _, w in found)
    ceilings = context.machine.ceilings
    half = next((dtype for dtype in HALF_TYPES if dtype in ceilings.flops_per_s), HALF_TYPES[0])
    slow = {g for g, _ in found if _runs_in(context, g) == "float32"}
    first = {g: dict(gains(w, ceilings)).get("tf32", 0.0) * (g in slow) for g, w in found}
    best = {g: dict(gains(w, ceilings)).get(half, 0.0) for g, w in found}
    saving_s = _in_step_s(context, sum(max(best[g] - first[g], 0.0) for g, _ in found), [g for g, _ in found])
    if share_of_step(context, spent_s) < AMP_SHARE or share_of_step(context, saving_s) < SHARE:
        return
    device = "cuda" if context.trace.on_device else "cpu"
    yield Match(
        rows=(),
        ops=tuple(sorted(g for g, _ in found)),
        summary=(
            f"{format_time(spent_s)} per step are matrix products and convolutions in float32; by the roofs of "
            f"{half} they take {format_time(saving_s)} less{' than in TF32' if any(first.values()) else ''}"
        ),
        evidence=(
            f"{len(found)} kinds of products, {format_fraction(share_of_step(context, spent_s))} of the step",
            "the other operators would move half of the bytes as well: that is not counted",
        ),
        saving_s=saving_s,
        where="the forward pass",
        replacement=f"torch.autocast in {half}",
        how=f'with torch.autocast("{device}", torch.{half}): loss = model(batch)'
        + ("  # and torch.amp.GradScaler for the backward pass" if half == "float16" else ""),
    )


def _in_step_s(context: Context, saving_s: float, groups: Sequence[int]) -> float:
    """A saving in all calls of these groups, as far as the step gets shorter by it."""
    if not context.trace.on_device:
        return saving_s
    members = np.isin(context.groups.of_op, groups) & (context.groups.step_of_op >= 0)
    return context.shortens_s(saving_s, tuple(np.flatnonzero(members).tolist())) or 0.0


def _products(context: Context, *, all_of_them: bool = False) -> Iterator[tuple[int, Work]]:
    """The groups of products and convolutions that take time, unless other findings have all of their calls."""
    groups, steps = context.groups, len(context.steps)
    spent = (groups.device_s if context.trace.on_device else groups.self_s).sum(axis=1) / steps
    calls = groups.calls.sum(axis=1) / steps
    taken = np.array(sorted(context.claimed), np.int64)
    claimed = np.bincount(groups.of_op[taken], minlength=len(calls))
    scale = 1.0 if context.trace.on_device else bare_fraction(context)
    for group, cost in enumerate(context.costs):
        runs = spent[group] > 0 and calls[group] > 0
        if cost.kind in TENSOR_KINDS and runs and (all_of_them or claimed[group] < calls[group] * steps):
            tf32 = cost.dtype == "float32" and _runs_in(context, group) == "tf32"
            once_s = float(spent[group] / calls[group]) * scale
            yield group, Work(cost, once_s, float(calls[group]), group, "tf32" if tf32 else None)


def _runs_in(context: Context, group: int) -> str | None:
    """The type in which the kernel that takes most of a group's time multiplies float32 tensors."""
    longest = context.groups.kernels[group][:1]
    return next((float32_runs_in(use.name, context.trace.device) for use in longest), None)


def _rows(context: Context, groups: set[int]) -> Iterator[int]:
    wanted = np.isin(context.groups.of_op, sorted(groups)) & (context.groups.step_of_op >= 0)
    return (row for row in np.flatnonzero(wanted).tolist() if row not in context.claimed)


def odd_sizes(context: Context) -> Iterator[Match]:
    """E03: half-precision products with a dimension that is no multiple of 8, on a device with tensor cores."""
    odd = context.free_units(lambda u: u.name in (*MATRIX, "convolution") and _has(u, HALF) and _odd(u))
    spent_s = context.seconds([u.row for u in odd])
    if share_of_step(context, spent_s) < SHARE:
        return
    saving_s = sum(_padded_gain_s(context, u) for u in odd) / len(context.steps)
    worst = max(odd, key=lambda u: int(context.spent_ns[u.row]))
    yield Match(
        rows=tuple(row for u in odd for row in rows_between(context, u.row, u.row)),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u in odd})),
        key="x".join(str(n) for n in _odd(worst)),
        summary=(
            f"{len(odd) / len(context.steps):.0f} half-precision products per step have a length that is no multiple "
            f"of {MULTIPLE}, and take {format_time(spent_s)}"
        ),
        evidence=(f"{worst.name} of {[list(d) for d in worst.dims if d]}: {', '.join(map(str, _odd(worst)))}",),
        saving_s=saving_s,
        where=f"the products with {', '.join(map(str, _odd(worst)))}",
        replacement=f"sizes that are multiples of {MULTIPLE}",
        how=f"size = (size + {BEST - 1}) // {BEST} * {BEST}  # vocabulary, channels, heads: padded where they are made",
    )


def _odd(unit: Unit) -> list[int]:
    """The lengths of rows, of both factors and the result, that are no multiple of eight."""
    factors = [d for d in unit.dims if len(d) >= 2 and all(isinstance(n, int) for n in d)][-2:]
    if len(factors) < 2:
        return []
    lengths = factors[1][:2] if unit.name == "convolution" else (factors[0][-1], factors[1][-1])
    return [n for n in dict.fromkeys(lengths) if n % MULTIPLE and n > MULTIPLE]


def _padded_gain_s(context: Context, unit: Unit) -> float:
    """Time beyond twice the roof of the same product: aligned ones come that near."""
    cost = context.costs[context.groups.of_op[unit.row]]
    element = ELEMENT_TYPES.get(unit.signature.dtypes[0]) if unit.signature else None
    peak = context.machine.ceilings.flops_per_s.get(element.name) if element else None
    roof_s = max(cost.flops / peak, context.roof_s(cost.bytes or 0.0) or 0.0) if cost.flops and peak else None
    spent_s = float(context.spent_ns[unit.row]) / 1e9
    return max(spent_s - 2 * roof_s, 0.0) if roof_s is not None else 0.0


RULES = (
    Rule(
        "E14", "accidental-float64", "float64 tensors among float32 ones", doubled,
        trigger="operators on float64 tensors, 2 % of the step or more, in a program that works in narrower types too",
        advice="cast to float32 where the tensor is made",
        saving="half of their time; of products, by the rates of both types; casts to a narrower type whole",
        cannot_show="whether the accuracy is meant",
        proof="module", effort="line", about="compute", needs=("shapes",),
        example=Example("mask = torch.from_numpy(np.ones(n))", "mask = torch.from_numpy(np.ones(n)).float()"),
    ),
    Rule(
        "E01", "no-tf32", "float32 products without TF32", without_tf32,
        trigger="float32 products whose kernels are not TF32's, on a device with a TF32 roof, 2 % of the step or more",
        advice="allow TF32",
        saving="their time by the ratio of the two roofs",
        cannot_show="whether ten bits of mantissa are enough: compare the loss over some steps",
        proof="flag", effort="flag", about="compute", needs=("shapes", "device work"),
        example=Example("y = x @ w", 'torch.set_float32_matmul_precision("high")\ny = x @ w'),
    ),
    Rule(
        "E02", "no-amp", "products in float32 where half precision is faster", without_amp,
        trigger="a fifth of the step in float32 products, and a roof of bfloat16 or float16 above theirs",
        advice="autocast in bfloat16, or in float16 where the device has no bfloat16",
        saving="the time of the products by the ratio of the roofs, beyond what TF32 gives",
        cannot_show="the training's accuracy in half precision",
        proof="module", effort="line", about="compute", needs=("shapes",), shares=True,
        example=Example("loss = model(x)", 'with torch.autocast("cuda", torch.bfloat16):\n    loss = model(x)'),
    ),
    Rule(
        "E03", "odd-sizes", "half-precision products of sizes that are no multiple of 8", odd_sizes,
        trigger="a half-precision product or convolution with such a dimension, 2 % of the step or more",
        advice="pad vocabulary, channels or heads to multiples of 8, better 64",
        saving="the time beyond twice the roof of the product",
        cannot_show="which dimensions are the model's to choose",
        proof="replay", about="compute", needs=("shapes", "device work"),
        example=Example("nn.Linear(1024, 50257)", "nn.Linear(1024, 50304)"),
    ),
)  # fmt: skip
