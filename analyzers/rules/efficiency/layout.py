"""E08, E09, E10, E12: operators slowed by how their tensors lie in memory, and convolutions that are slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from probe.analyzers.operators.strides import is_strided
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.efficiency.copies import contiguous
from probe.analyzers.rules.matching.repeats import as_recorded_s, bare_fraction, rows_between, share_of_step
from probe.analyzers.rules.matching.units import POINTWISE, REDUCTION, Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Signature
from probe.units import format_fraction, format_time

STRIDED_SHARE = 0.02  # of the step
AWAY = 2.0  # times the time of its bytes: slower operators do not use what they fetch
CONV_SHARE = 0.2  # of the step: below it no layout of the whole network is worth changing
# Layers between convolutions: vectorised over the channels of a pixel where those are last.
PLANES = frozenset(
    "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d upsample_nearest2d "
    "upsample_bilinear2d batch_norm native_batch_norm max_pool2d_with_indices_backward avg_pool2d_backward "
    "native_batch_norm_backward upsample_nearest2d_backward upsample_bilinear2d_backward "
    "_adaptive_avg_pool2d_backward".split()
)
REORDERS = ("nchwToNhwc", "nhwcToNchw", "nchw2nhwc", "nhwc2nchw", "batched_transpose")  # in kernels' names
GROUPED_ROOF = 0.2  # of which a grouped convolution stays below


def strided(context: Context) -> Iterator[Match]:
    """E08: pointwise operators and reductions on operands of which one lies across the others."""
    slow = [u for u in context.free_units(_is_across) if _excess_s(context, u) > 0]
    saving_s = sum(_excess_s(context, u) for u in slow) / len(context.steps) * bare_fraction(context)
    if share_of_step(context, saving_s) < STRIDED_SHARE:
        return
    spent_s = context.seconds([u.row for u in slow]) * bare_fraction(context)
    worst = max(slow, key=lambda u: _excess_s(context, u))
    calls = len(slow) / len(context.steps)
    assert worst.signature is not None
    yield Match(
        rows=tuple(row for u in slow for row in rows_between(context, u.row, u.row)),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u in slow})),
        key=worst.name,
        summary=(
            f"{', '.join(sorted({u.name for u in slow}))} read tensors across their rows {times(calls)}: "
            f"{format_time(spent_s)}, of which {format_time(saving_s)} more than twice what the bytes take"
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
    if signature is None or not is_strided(signature):
        return False
    pairs = [(d, s) for d, s in zip(signature.dims, signature.strides, strict=False) if d and len(d) == len(s)]
    plain = [(d, s) for d, s in pairs if all(isinstance(n, int) for n in (*d, *s))]
    largest = max((prod(d) for d, _ in plain), default=0)
    return any(prod(d) * 2 >= largest and d[-1] > 1 and s[-1] > 1 for d, s in plain)


def _excess_s(context: Context, unit: Unit) -> float:
    """Time of a call beyond twice that of its bytes, all at once."""
    moved = context.costs[context.groups.of_op[unit.row]].bytes
    roof_s = context.roof_s(moved) if moved else None
    return max(float(context.spent_ns[unit.row]) / 1e9 - AWAY * roof_s, 0.0) if roof_s else 0.0


def channels_first(context: Context) -> Iterator[Match]:
    """E09: convolutions over tensors with the channels first, and what that costs in them and in the layers between."""
    convolutions = [u for run in context.runs for u in run if u.name == "convolution" and _is_channels_first(u)]
    spent_s = context.seconds([u.row for u in convolutions]) * bare_fraction(context)
    planes = _plane_rows(context)
    share = spent_s + context.seconds(planes) * bare_fraction(context)
    if not convolutions or share_of_step(context, share) < CONV_SHARE:
        return
    if context.trace.on_device:
        saving_s, told = _reordering(context)
    else:
        saving_s, told = _on_cpu(context, convolutions, planes)
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


def _plane_rows(context: Context) -> list[int]:
    """Pooling, resizing and batch norms over tensors with the channels first: the outermost operator of each."""
    ops, trace = context.trace.host_ops, context.trace
    wanted = trace.named(lambda name: name.removeprefix("aten::") in PLANES)[ops.name]
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


def _on_cpu(context: Context, convolutions: Sequence[Unit], planes: Sequence[int]) -> tuple[float, str]:
    """What oneDNN's reordering of both sides takes, and what the layers between take beyond twice their bytes."""
    steps, bare = len(context.steps), bare_fraction(context)
    moved = sum(2 * 4 * (prod(u.dims[0]) + _result(u)) for u in convolutions) / steps
    reorder_s = context.roof_s(moved) or 0.0
    beyond_s = 0.0
    for row in planes:
        at = int(context.trace.host_ops.signature[row])
        size = prod(context.trace.signatures[at].dims[0])
        floor_s = AWAY * (context.roof_s(4 * 3 * size) or 0.0)
        beyond_s += max(float(context.spent_ns[row]) / 1e9 - floor_s, 0.0) / steps * bare
    told = f"reordering takes {format_time(reorder_s)}, pooling, resizing and norms {format_time(beyond_s)} too long"
    spent_s = context.seconds([*(u.row for u in convolutions), *planes]) * bare
    return min(reorder_s + beyond_s, spent_s), told


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
        saving="on a CPU both reorderings of each convolution and what the layers between take beyond their bytes; "
        "on a GPU the kernels that turn the layout",
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
        saving="the time beyond twice that of the bytes",
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
