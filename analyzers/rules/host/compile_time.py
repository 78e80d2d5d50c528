"""H16, E11, E16: what torch.compile leaves on the host: broken graphs, compiling in the steps, many small kernels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.analyzers.operators.steps import within
from probe.analyzers.rules.aside import is_compiling
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.matching.claims import free
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.device import device_busy
from probe.intervals import EMPTY, Intervals, difference, union
from probe.trace import Int64s, Mask
from probe.units import format_fraction, format_time

REGION = "Torch-Compiled Region"
GUARDS = ("TorchDynamo Cache Lookup", "Pregraph bytecode")
COMPILING_FRACTION = 0.05  # of the step

CONVOLUTION = "aten::cudnn_convolution"
TRIED = 6  # different kernels in one convolution: cuDNN tries its algorithms

GENERATED = ("triton_poi_", "triton_per_", "triton_red_")
SHORT_NS = 5_000
MANY = 100  # per step


def breaks(context: Context) -> Iterator[Match]:
    """H16: compiled code that is entered from compiled code: the graph was broken in between."""
    trace, ops = context.trace, context.trace.host_ops
    regions = _named(context, lambda name: name.startswith(REGION)) & (context.groups.step_of_op >= 0)
    broken = regions & under(ops.parent, regions)
    count = int(broken.sum()) / len(context.steps)
    if count < 1:
        return
    marks = _named(context, lambda name: name.startswith(GUARDS)) & under(ops.parent, regions)
    rows = np.flatnonzero(broken | marks)
    spent_s = _host_s(context, rows)
    frames = sorted({trace.names[n].split(":", 1)[1].strip() for n in ops.name[broken].tolist()})
    yield Match(
        rows=free(context, rows.tolist()),
        ops=tuple(np.unique(context.groups.of_op[rows]).tolist()),
        summary=(
            f"the compiled graph is broken {times(count)}: guards and Python between the parts take "
            f"{format_time(spent_s)}, {format_fraction(spent_s / context.step_s)} of the step, and nothing is fused "
            "across them"
        ),
        evidence=(f"{REGION} inside {REGION}: {', '.join(frames[:6])}",),
        saving_s=spent_s if spent_s >= 0.005 * context.step_s else None,
        where=f"torch.compile, {times(count)}",
        replacement="one graph",
        how="torch.compile(model, fullgraph=True)  # raises where the graph breaks; TORCH_LOGS=graph_breaks lists them",
    )


def _host_s(context: Context, rows: Int64s) -> float:
    """The operators' own seconds per step in the bare step; where there is a device, no more than it idles."""
    ops = context.trace.host_ops
    recorded_s = context.recorded_s
    spent_s = float(ops.self_ns[rows].sum()) / 1e9 / len(context.steps)
    if context.trace.on_device:
        return min(spent_s, context.parts["overhead"] + context.parts["host"])
    return spent_s / recorded_s * context.step_s if recorded_s else 0.0


def compiling(context: Context) -> Iterator[Match]:
    """E11: compiling, or trying algorithms, in most of the steps."""
    yield from _recompiling(context)
    yield from _retrying(context)


def _recompiling(context: Context) -> Iterator[Match]:
    rows = np.flatnonzero(_named(context, is_compiling) & (context.groups.step_of_op >= 0))
    ops, steps = context.trace.host_ops, context.steps
    seen = np.unique(context.groups.step_of_op[rows])
    if not len(rows) or len(seen) <= len(steps) / 2:
        return
    spent = difference(within(union(ops.start_ns[rows], ops.end_ns[rows]), steps), _device(context))
    fraction = spent.length_ns / 1e9 / len(steps) / context.recorded_s
    if fraction < COMPILING_FRACTION:
        return
    compiled = _mask(len(ops), rows)
    outermost = rows[~under(ops.parent, compiled)[rows]]
    inside = np.flatnonzero(compiled | under(ops.parent, compiled))  # also operators on tensors without data
    again = len(steps) > 1
    yield Match(
        rows=free(context, inside.tolist()),
        ops=tuple(np.unique(context.groups.of_op[outermost]).tolist()),
        key="recompile",
        summary=(
            f"torch.compile compiles in {len(seen)} of {len(steps)} recorded steps, for "
            f"{format_time(fraction * context.step_s)} of {format_time(context.step_s)}"
        ),
        evidence=(
            f"{len(outermost) / len(steps):.0f} compilations per step: sizes, types or values that it guards on change",
        ),
        saving_s=fraction * context.step_s if again else None,
        where="torch.compile",
        replacement="dynamic shapes, or inputs padded to a few sizes",
        how="torch._dynamo.mark_dynamic(x, 0)  # or torch.compile(…, dynamic=True); TORCH_LOGS=recompiles says why",
    )


def _retrying(context: Context) -> Iterator[Match]:
    """cuDNN's benchmark, run again: one convolution launches many different kernels, in most of the steps."""
    trace, kernels = context.trace, context.trace.kernels
    chosen = np.flatnonzero(_kernels_of(context, CONVOLUTION))
    owners, names = kernels.op[chosen], kernels.name[chosen]
    pairs = np.unique(np.stack([owners, names]), axis=1) if len(chosen) else np.zeros((2, 0), np.int64)
    calls, counts = np.unique(pairs[0], return_counts=True)
    tried = calls[counts >= TRIED]
    seen = np.unique(context.groups.step_of_op[tried]) if len(tried) else np.zeros(0)
    if len(context.steps) < 2 or len(seen) <= len(context.steps) / 2:
        return
    rows = np.isin(kernels.op, tried)
    longest = np.zeros(len(trace.host_ops), np.int64)
    np.maximum.at(longest, kernels.op[rows], kernels.duration_ns[rows])
    spent_s = float(kernels.duration_ns[rows].sum() - longest[tried].sum()) / 1e9 / len(context.steps)
    yield Match(
        rows=free(context, tried.tolist()),
        ops=tuple(np.unique(context.groups.of_op[tried]).tolist()),
        key="cudnn",
        summary=(
            f"cuDNN tries its algorithms again {times(len(tried) / len(context.steps))}: "
            f"{format_time(spent_s)} per step"
        ),
        evidence=(f"{int(counts.max())} different kernels in one {CONVOLUTION}",),
        saving_s=spent_s,
        where=CONVOLUTION,
        replacement="inputs of a few fixed sizes",
        how="torch.backends.cudnn.benchmark = False  # or pad the inputs to a few sizes",
    )


def _kernels_of(context: Context, name: str) -> Mask:
    trace = context.trace
    named = np.append(trace.named(lambda n: n == name)[trace.host_ops.name], False)
    inside = np.append(context.groups.step_of_op >= 0, False)
    rows: Mask = named[trace.kernels.op] & inside[trace.kernels.op]
    return rows


def narrow(context: Context) -> Iterator[Match]:
    """E16: a hundred generated kernels and more per step that take no longer than their launch."""
    kernels, machine = context.trace.kernels, context.machine
    generated = context.trace.named(lambda name: name.startswith(GENERATED))[kernels.name]
    short = generated & (kernels.duration_ns < SHORT_NS) & (context.groups.of_kernel >= 0)
    count = int(short.sum()) / len(context.steps)
    if count < MANY:
        return
    launch_s = machine.ceilings.launch_s or machine.dispatch_s
    spent_s = min(count * launch_s, context.parts["overhead"])
    yield Match(
        rows=(),
        ops=tuple(np.unique(context.groups.of_kernel[short]).tolist()),
        summary=(
            f"{count:.0f} generated kernels per step run for less than {format_time(SHORT_NS / 1e9)} each: "
            f"launching them takes about {format_time(spent_s)}"
        ),
        evidence=(f"launching one takes {format_time(launch_s)}",),
        saving_s=spent_s,
        where="torch.compile",
        replacement="CUDA graphs, or kernels combined by the compiler",
        how='torch.compile(model, mode="reduce-overhead")  # or torch._inductor.config.combo_kernels = True',
    )


def _named(context: Context, wanted: object) -> Mask:
    named: Mask = context.trace.named(wanted)[context.trace.host_ops.name]  # type: ignore[arg-type]
    return named


def _mask(length: int, rows: Int64s) -> Mask:
    mask = np.zeros(length, bool)
    mask[rows] = True
    return mask


def _device(context: Context) -> Intervals:
    return device_busy(context.trace) if context.trace.on_device else EMPTY


RULES = (
    Rule(
        "E11", "compiling-in-steps", "kernels are compiled or chosen anew in the steps", compiling,
        trigger="torch.compile's own marks in most of the steps, for 5 % of their time; six and more different kernels "
        "in one cuDNN convolution",
        advice="dynamic shapes, or inputs padded to a few sizes",
        saving="the time of it",
        cannot_show="which guard fails: TORCH_LOGS=recompiles says it",
        proof="flag", effort="line", about="host",
        example=Example("torch.compile(model, dynamic=False)", "torch.compile(model, dynamic=True)"),
    ),
    Rule(
        "H16", "graph-breaks", "the compiled graph is broken", breaks,
        trigger="a compiled region inside another, once per step or more",
        advice="make it one graph: no .item(), print, or calls that cannot be traced in compiled code",
        saving="guards and Python between the parts; what fusing across them would save is not known",
        cannot_show="why the graph breaks: TORCH_LOGS=graph_breaks says it",
        proof="flag", effort="function", about="host",
        example=Example("print(x.sum().item())  # in the compiled function", "# outside of it"),
    ),
    Rule(
        "E16", "narrow-kernels", "many short generated kernels", narrow,
        trigger="100 generated kernels per step and more that take less than 5 µs",
        advice="CUDA graphs, larger regions, combined kernels",
        saving="their launches",
        cannot_show="which of them depend on each other",
        proof="flag", effort="flag", about="host", needs=("device work",), shares=True,
        example=Example("torch.compile(model)", 'torch.compile(model, mode="reduce-overhead")'),
    ),
)  # fmt: skip
