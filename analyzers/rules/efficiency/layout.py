"""E08, E09, E10, E12: operators slowed by how their tensors lie in memory, and convolutions that are slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from probe.analyzers.cost_models.dtypes import FLOAT32
from probe.analyzers.operators.strides import is_strided
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.efficiency.copies import contiguous
from probe.analyzers.rules.matching.ledger import usual_s
from probe.analyzers.rules.matching.repeats import as_recorded_s, bare_fraction, rows_between, share_of_step
from probe.analyzers.rules.matching.units import POINTWISE, REDUCTION, Unit, normalised
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Dims, Signature
from probe.units import format_fraction, format_time

STRIDED_SHARE = 0.02  # of the step
AWAY = 2.0  # times the time of its bytes: slower operators do not use what they fetch
CACHED_BYTES = 1 << 20  # a cache of the core holds as much: in what order it is read costs little
CONV_SHARE = 0.2  # of the step: below it no layout of the whole network is worth changing
L1_BYTES = 48 << 10  # of an operand: what is smaller waits for its dispatch, not for memory
# Layers between convolutions: vectorised over the channels of a pixel where those are last.
PLANES = frozenset(
    "max_pool2d max_pool2d_with_indices avg_pool2d upsample_nearest2d upsample_bilinear2d "
    "max_pool2d_with_indices_backward avg_pool2d_backward upsample_nearest2d_backward "
    "upsample_bilinear2d_backward".split()
)
NORMS = frozenset({"batch_norm", "native_batch_norm", "native_batch_norm_backward"})
SLOWED = 0.3  # a norm with fixed statistics takes so much longer over the channels of a pixel: measured 0.1 to 0.5
REORDERS = ("nchwToNhwc", "nhwcToNchw", "nchw2nhwc", "nhwc2nchw", "batched_transpose")  # in kernels' names
GROUPED_ROOF = 0.2  # of which a grouped convolution stays below


def strided(context: Context) -> Iterator[Match]:
    """E08: pointwise operators and reductions on operands of which one lies across the others."""
    beyond = list(_slow(context))
    saving_s = sum(excess_s for _, excess_s in beyond) / len(context.steps) * bare_fraction(context)
    if share_of_step(context, saving_s) < STRIDED_SHARE:
        return
    slow = [unit for unit, _ in beyond]
    spent_s = usual_s(context, [u.row for u in slow]) * bare_fraction(context)
    worst = max(beyond, key=lambda pair: pair[1])[0]
    calls = len(slow) / len(context.steps)
    assert worst.signature is not None
    yield Match(
        rows=tuple(row for u in slow for row in rows_between(context, u.row, u.row)),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u in slow})),
        key=worst.name,
        summary=(
            f"{', '.join(sorted({u.name for u in slow}))} read tensors across their rows {times(calls)}: "
            f"{format_time(spent_s)}, {format_time(saving_s)} more than their bytes take in order"
        ),
        evidence=(f"{worst.name} of {list(worst.size)}, strides {[list(s) for s in worst.signature.strides if s]}",),
        saving_s=as_recorded_s(context, saving_s),
        where=f"{times(calls)}, most in {worst.name}",
        replacement="operands in the same order of dimensions",
        how="x = x.t().contiguous()  # once, where x is made; then x + y reads both in order",
    )


def _is_across(unit: Unit) -> bool:
    """Whether one of the operands of a pointwise operator or reduction lies across the others."""
    return unit.name in POINTWISE | REDUCTION and _jumps(unit.signature)


def _jumps(signature: Signature | None) -> bool:
    """Whether a large argument is read with gaps in its last dimension, in another order than the others."""
    if signature is None:
        return False
    pairs = [(d, s) for d, s in zip(signature.dims, signature.strides, strict=False) if d and len(d) == len(s)]
    plain = [(d, s) for d, s in pairs if all(isinstance(n, int) for n in (*d, *s))]
    largest, strides = max(plain, key=lambda pair: prod(pair[0]), default=((), ()))
    if prod(largest) * FLOAT32.itemsize <= L1_BYTES:
        return False
    return any(_lies_across(d, s, largest, strides) for d, s in plain) or (
        is_strided(signature) and any(prod(d) * 2 >= prod(largest) and d[-1] > 1 and s[-1] > 1 for d, s in plain)
    )


def _lies_across(dims: Dims, strides: Dims, largest: Dims, along: Dims) -> bool:
    """Whether an argument that no cache holds, broadcast to the largest one, has another dimension side by side."""
    if prod(dims) * FLOAT32.itemsize <= CACHED_BYTES:
        return False
    shift = len(largest) - len(dims)
    wide = [at for at, n in enumerate(dims) if n > 1 and at + shift >= 0]
    both = [at for at in wide if strides[at] > 0 and along[at + shift] > 0]
    if len(both) < 2:
        return False
    return min(both, key=lambda at: strides[at]) != min(both, key=lambda at: along[at + shift])


def _slow(context: Context) -> Iterator[tuple[Unit, float]]:
    """The calls on operands that lie across one another, with the time of each beyond that of its bytes in order."""
    units, steps = context.free_units(_is_across), len(context.steps)
    pace = _pace(context) if units else 0.0
    for unit in units:
        moved = context.costs[context.groups.of_op[unit.row]].bytes
        roof_s = context.roof_s(moved) if moved else None
        if moved and roof_s:
            spent_s = min(usual_s(context, [unit.row]) * steps, float(context.spent_ns[unit.row]) / 1e9)
            excess_s = spent_s - max(AWAY * roof_s, pace * moved)
            if excess_s > 0:
                yield unit, excess_s


def _pace(context: Context) -> float:
    """Seconds a byte that pointwise operators on large operands in order take here: new memory has its price, too."""
    groups, found = context.groups, []
    for at, (name, signature) in enumerate(zip(groups.name, groups.signature, strict=True)):
        moved = context.costs[at].bytes or 0.0
        if moved > CACHED_BYTES and normalised(name) in POINTWISE and not _jumps(signature):
            found.append(float(np.median(context.spent_ns[groups.rows_of(at)])) / 1e9 / moved)
    return float(np.median(found)) if found else 0.0


def channels_first(context: Context) -> Iterator[Match]:
    """E09: convolutions over tensors with the channels first, and what that costs in them and in the layers between."""
    convolutions = [u for run in context.runs for u in run if u.name == "convolution" and _is_channels_first(u)]
    spent_s = context.seconds([u.row for u in convolutions]) * bare_fraction(context)
    planes, norms = _plane_rows(context, PLANES), _plane_rows(context, NORMS)
    share = spent_s + context.seconds(planes + norms) * bare_fraction(context)
    if not convolutions or share_of_step(context, share) < CONV_SHARE:
        return
    if context.trace.on_device:
        saving_s, told = _reordering(context)
    else:
        saving_s, told = _on_cpu(context, convolutions, planes, norms)
    if saving_s <= 0:
        return
    yield Match(
        rows=(),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u in convolutions})),
        key=f"{len(convolutions) // len(context.steps)}-convolutions",
        summary=(
            f"{len(convolutions) / len(context.steps):.0f} convolutions per step read tensors with the channels first "
            f"(NCHW): {told}"
        ),
        evidence=(
            f"the first reads {list(convolutions[0].dims[0])}",
            f"{format_fraction(share_of_step(context, share))} of the step",
        ),
        saving_s=saving_s,
        where="the convolutional layers and those between them",
        replacement="torch.channels_last",
        how="model = model.to(memory_format=torch.channels_last); x = x.to(memory_format=torch.channels_last)",
    )


def _is_channels_first(unit: Unit) -> bool:
    """Whether the input has four dimensions, several channels, and the pixels of one channel side by side."""
    signature = unit.signature
    if signature is None or not signature.strides or len(signature.dims[0]) != 4:
        return False
    dims = signature.dims[0]
    return dims[1] > 1 and prod(dims[2:]) > 1 and signature.strides[0] == contiguous(dims)


def _plane_rows(context: Context, names: frozenset[str]) -> list[int]:
    """The operators of these names over tensors with the channels first: the outermost of each."""
    ops, trace = context.trace.host_ops, context.trace
    wanted = trace.named(lambda name: name.removeprefix("aten::") in names)[ops.name]
    rows = np.flatnonzero(wanted & (context.groups.step_of_op >= 0)).tolist()
    outer = [row for row in rows if ops.parent[row] < 0 or not wanted[ops.parent[row]]]
    free = (row for row in outer if row not in context.claimed)
    return [row for row in free if _has_planes(trace.signatures, int(ops.signature[row]))]


def _has_planes(signatures: Sequence[Signature], at: int) -> bool:
    """Whether the first argument has four dimensions, with the pixels of one channel side by side."""
    signature = signatures[at] if at >= 0 else None
    if signature is None or not signature.strides or not signature.dims or len(signature.dims[0]) != 4:
        return False
    dims = signature.dims[0]
    return dims[1] > 1 and prod(dims[2:]) > 1 and signature.strides[0] == contiguous(dims)


def _on_cpu(
    context: Context, convolutions: Sequence[Unit], planes: Sequence[int], norms: list[int]
) -> tuple[float, str]:
    """What oneDNN's reordering of both sides takes, and what the layers between take beyond twice their bytes.

    Kernels of one pixel are plain matrix products, which reorder nothing.
    """
    steps, bare = len(context.steps), bare_fraction(context)
    wide = [u for u in convolutions if prod(u.dims[1][2:]) > 1]
    moved = sum(2 * 4 * (prod(u.dims[0]) + _result(u)) for u in wide) / steps
    reorder_s = context.roof_s(moved) or 0.0
    beyond_s = 0.0
    for row in planes:
        at = int(context.trace.host_ops.signature[row])
        size = prod(context.trace.signatures[at].dims[0])
        floor_s = AWAY * (context.roof_s(4 * 3 * size) or 0.0)
        beyond_s += max(float(context.spent_ns[row]) / 1e9 - floor_s, 0.0) / steps * bare
    slowed_s = 0.0 if context.backward_of else SLOWED * context.seconds(norms) * bare
    told = f"reordering takes {format_time(reorder_s)}"
    told += f", pooling and resizing {format_time(beyond_s)} too long" if beyond_s else ""
    spent_s = context.seconds([*(u.row for u in convolutions), *planes]) * bare
    return min(reorder_s + beyond_s - slowed_s, spent_s), told


def _result(unit: Unit) -> int:
    """Elements of a convolution's result, as if its stride were the ratio that was recorded."""
    dims, weight = unit.dims[0], unit.dims[1]
    stride = (_integers(unit, 3) or [1]) * len(dims)
    return int(dims[0] * weight[0] * prod(max(n // s, 1) for n, s in zip(dims[2:], stride, strict=False)))


def _integers(unit: Unit, argument: int) -> list[int]:
    """The recorded numbers of a list."""
    scalars = unit.signature.scalars if unit.signature else ()
    text = scalars[argument].strip("[]") if argument < len(scalars) else ""
    return [int(n) for n in text.split(",") if n.strip().lstrip("-").isdigit()]


def _reordering(context: Context) -> tuple[float, str]:
    """Time of the kernels that turn one layout into the other, per step."""
    kernels = context.trace.kernels
    named = context.trace.named(lambda name: any(word in name for word in REORDERS))[kernels.name]
    spent_s = float(kernels.duration_ns[named & (context.groups.of_kernel >= 0)].sum()) / 1e9 / len(context.steps)
    return spent_s, f"kernels that turn the layout take {format_time(spent_s)}"


def grouped(context: Context) -> Iterator[Match]:
    """E12: convolutions in groups (depthwise ones among them) that stay below a fifth of their roof."""
    found = context.free_units(lambda u: u.name == "convolution" and _groups(u) > 1)
    roofs = ((u, _conv_roof_s(context, u)) for u in found)
    slow = [(u, roof_s) for u, roof_s in roofs if roof_s and roof_s < GROUPED_ROOF * _time_s(context, u)]
    if not slow:
        return
    spent_s = sum(_time_s(context, u) for u, _ in slow) / len(context.steps)
    worst, roof_s = max(slow, key=lambda pair: _time_s(context, pair[0]))
    calls = len(slow) / len(context.steps)
    yield Match(
        rows=tuple(row for u, _ in slow for row in rows_between(context, u.row, u.row)),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u, _ in slow})),
        key=f"{_groups(worst)}-groups",
        summary=(
            f"{calls:.0f} grouped convolutions per step take {format_time(spent_s)} and stay below "
            f"{format_fraction(GROUPED_ROOF)} of their roof"
        ),
        evidence=(
            f"{list(worst.dims[0])} with {_groups(worst)} groups",
            f"{format_fraction(roof_s / _time_s(context, worst))} of its roof",
            "how much nearer another layout or other groups bring it is the library's choice of algorithm: try it",
        ),
        saving_s=None,
        where=times(calls),
        replacement="channels_last, or fewer and wider groups",
        how="model = model.to(memory_format=torch.channels_last)  # or groups=1 with fewer channels",
    )


def _time_s(context: Context, unit: Unit) -> float:
    return float(context.spent_ns[unit.row]) / 1e9 * bare_fraction(context)


def _groups(unit: Unit) -> int:
    scalars = unit.signature.scalars if unit.signature else ()
    return int(scalars[8]) if len(scalars) > 8 and scalars[8].isdigit() else 1


def _conv_roof_s(context: Context, unit: Unit) -> float | None:
    """Least time of a convolution: its arithmetic at float32's rate, or its bytes."""
    weight = unit.dims[1]
    flops = 2.0 * _result(unit) * prod(weight[1:])
    moved_s = context.roof_s(4.0 * (prod(unit.dims[0]) + _result(unit) + prod(weight)))
    peak = context.machine.ceilings.flops_per_s.get("float32")
    return max(moved_s, flops / peak) if moved_s is not None and peak else None


def untuned(context: Context) -> Iterator[Match]:
    """E10: convolutions of few sizes on a GPU, for which cuDNN can try its algorithms once."""
    convolutions = [u for run in context.runs for u in run if u.name == "convolution"]
    spent_s = context.seconds([u.row for u in convolutions])
    sizes = {u.dims[:2] for u in convolutions}
    searched = any("cudnnFind" in name or "cudnn_find" in name for name in context.trace.names)
    if searched or share_of_step(context, spent_s) < CONV_SHARE or len(sizes) * 2 > len(convolutions):
        return
    yield Match(
        rows=(),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u in convolutions})),
        summary=f"convolutions of {len(sizes)} sizes take {format_time(spent_s)} per step: cuDNN could try them once",
        evidence=(f"the same {len(sizes)} sizes in every step", "whether it does already, a trace does not show"),
        saving_s=None,
        where="the convolutional layers",
        replacement="torch.backends.cudnn.benchmark",
        how="torch.backends.cudnn.benchmark = True  # before the first step",
    )


RULES = (
    Rule(
        "E12", "grouped-convolution", "grouped convolutions far below their roof", grouped,
        trigger="a convolution with groups that stays below a fifth of its roof",
        advice="channels_last, bfloat16, or fewer and wider groups",
        saving="not known without trying: the roof is not what another layout reaches",
        cannot_show="which algorithm the library chose, and which it has for another layout",
        proof="module", about="compute", needs=("shapes",),
        example=Example("nn.Conv2d(64, 64, 3, groups=32)", "nn.Conv2d(64, 64, 3, groups=4)"),
    ),
    Rule(
        "E09", "channels-first", "convolutions with the channels first", channels_first,
        trigger="convolutions and the layers between them on NCHW tensors, a fifth of the step or more",
        advice="torch.channels_last for the model and its input",
        saving="on a CPU both reorderings of each convolution of more than one pixel and what pooling and resizing "
        "take beyond their bytes, less what norms in inference lose; on a GPU the kernels that turn the layout",
        cannot_show="how much faster the convolutions themselves become",
        proof="flag", effort="line", about="compute", needs=("shapes",), shares=True,
        example=Example(
            "model(x)",
            "model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))",
        ),
    ),
    Rule(
        "E08", "strided-access", "tensors read across their rows", strided,
        trigger="pointwise operators or reductions on operands of different order, twice the time of their bytes",
        advice="bring the operands into one order where they are made",
        saving="the time beyond that of the bytes: twice the least, or what operators in order take here",
        cannot_show="what else reads the tensor in the order it has now",
        proof="replay", about="compute", needs=("shapes",),
        example=Example("y = x + w.t()", "w_t = w.t().contiguous()  # once\ny = x + w_t"),
    ),
    Rule(
        "E10", "cudnn-benchmark", "cuDNN chooses its algorithms without trying them", untuned,
        trigger="convolutions of the same sizes in every step, a fifth of it or more, and no search in the trace",
        advice="torch.backends.cudnn.benchmark = True",
        saving="not known without trying",
        cannot_show="whether the search was made before the recording began",
        proof="flag", effort="flag", about="compute", needs=("shapes", "device work"), preview=True, shares=True,
        example=Example("model(x)", "torch.backends.cudnn.benchmark = True\nmodel(x)"),
    ),
)  # fmt: skip
