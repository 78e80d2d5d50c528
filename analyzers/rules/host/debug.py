"""H12: settings for finding errors that are left on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from probe.analyzers.operators.call_tree import depths, under
from probe.analyzers.operators.steps import within
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.claims import free
from probe.analyzers.rules.matching.ledger import usual_s
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.device import device_busy
from probe.intervals import difference, intersection, union
from probe.trace import Int64s, Mask
from probe.units import format_fraction, format_time

EVALUATE = "autograd::engine::evaluate_function"
CHECKS = frozenset({"aten::isnan", "aten::_is_any_true", "aten::any", "aten::item", "aten::ne"})
SEARCHES = frozenset({"isnan", "isinf", "isfinite"})
CONCLUDES = frozenset({"any", "all", "sum"})
READS = frozenset({"is_nonzero", "item"})
ANSWERS = SEARCHES | CONCLUDES | READS | {"logical_not", "bitwise_not", "gt", "logical_or", "bitwise_or"}
LONGEST = 6  # operators of a search
FEWEST = 3  # checked gradients per step
CHECKED_FRACTION = 0.5  # of the outermost functions of a backward pass
LOW = 10  # percentile of the nodes' own time that stands for what every node costs

LONG_NS = 20_000  # a kernel that runs longer is not over before an ordinary launch returns
BLOCKED = 20  # of them, at the least
BLOCKED_FRACTION = 0.95


def find(context: Context) -> Iterator[Match]:
    """One match for each setting that shows in the trace."""
    for look in (_anomaly, _searched, _blocking_launches, _deterministic):
        yield from look(context)


def _anomaly(context: Context) -> Iterator[Match]:
    """Anomaly detection: every gradient is searched for NaN, and every forward operator keeps a traceback."""
    checks = _checks(context)
    count = int(_named(context, {"aten::isnan"})[checks].sum()) / len(context.steps)
    if count < FEWEST:
        return
    ops = context.trace.host_ops
    checking_s = float((ops.end_ns - ops.start_ns)[checks].sum()) / 1e9 / len(context.steps)
    tracing_s = _tracebacks_s(context)
    recorded_s = context.recorded_s
    saving_s = min((checking_s + tracing_s) / recorded_s, 1.0) * context.step_s
    yield Match(
        rows=free(context, checks.tolist()),
        ops=tuple(np.unique(context.groups.of_op[checks]).tolist()),
        key="anomaly",
        summary=(
            f"anomaly detection is on: {count:.0f} gradients per step are searched for NaN, and each operator keeps a "
            f"traceback; about {format_time(saving_s)}, {format_fraction(saving_s / context.step_s)} of the step"
        ),
        evidence=(
            f"aten::isnan and .item() inside the functions of the backward pass: {format_time(checking_s)} per step",
            f"tracebacks in the forward pass: about {format_time(tracing_s)}",
        ),
        saving_s=saving_s,
        where="torch.autograd.set_detect_anomaly",
        replacement="no anomaly detection, except to find an error",
        how="torch.autograd.set_detect_anomaly(False)",
    )


def _checks(context: Context) -> Int64s:
    """Outermost operators with which the engine checks gradients: called by it, not by a function of the backward."""
    trace, ops = context.trace, context.trace.host_ops
    if not len(ops):
        return np.zeros(0, np.int64)
    engine = trace.named(lambda name: name.startswith(EVALUATE))[ops.name]
    checks = _named(context, CHECKS) & (ops.parent >= 0) & (context.groups.step_of_op >= 0)
    rows = np.flatnonzero(checks & engine[ops.parent])
    looked = np.unique(ops.parent[rows[_named(context, {"aten::isnan"})[rows]]])
    steps = engine & (context.groups.step_of_op >= 0)
    own = np.flatnonzero(steps & ~trace.named(lambda name: name.endswith("AccumulateGrad"))[ops.name])
    if len(looked) < CHECKED_FRACTION * len(own):
        return np.zeros(0, np.int64)
    return np.asarray(rows[np.isin(ops.parent[rows], looked)], np.int64)


def _searched(context: Context) -> Iterator[Match]:
    """Results of the forward pass searched for NaN or infinity, and the answer read: a check that the user wrote."""
    ops, trace = context.trace.host_ops, context.trace
    if not trace.named(lambda name: name.removeprefix("aten::") in SEARCHES)[ops.name].any():
        return
    outermost = np.flatnonzero((ops.parent < 0) & (context.groups.step_of_op >= 0))
    outermost = outermost[np.lexsort((ops.start_ns[outermost], ops.thread[outermost]))]
    plain = [name.removeprefix("aten::") for name in trace.names]
    words = [plain[name] for name in ops.name[outermost].tolist()]
    searches = [at for at, word in enumerate(words) if word in SEARCHES]
    found = sorted({at for first in searches for at in _search(words, first)})
    count = sum(words[at] in READS for at in found) / len(context.steps)
    if count < FEWEST:
        return
    rows = free(context, outermost[found].tolist())
    spent_s = usual_s(context, list(rows))
    yield Match(
        rows=rows,
        ops=tuple(np.unique(context.groups.of_op[list(rows)]).tolist()),
        key="searched",
        summary=(
            f"tensors are searched for NaN or infinity {count:.0f} times per step, and each answer is read before the "
            f"next layer starts: {format_time(spent_s)}"
        ),
        evidence=(" → ".join(words[at] for at in found[:LONGEST]),),
        saving_s=spent_s,
        where="the checks between the layers",
        replacement="one check of the loss, or of the gradients' norm, every so many steps",
        how="if step % 100 == 0: assert torch.isfinite(loss)  # instead of a check after each layer",
    )


def _search(words: Sequence[str], first: int) -> list[int]:
    """A search with what makes one answer of it and reads that, by their places; nothing where none is read."""
    last = next((at for at in range(first, min(first + LONGEST, len(words))) if words[at] in READS), None)
    found = list(range(first, last + 1)) if last is not None else []
    whole = {words[at] for at in found} <= ANSWERS and bool(CONCLUDES & {words[at] for at in found})
    return found if whole else []


def _named(context: Context, names: set[str] | frozenset[str]) -> Mask:
    rows: Mask = context.trace.named(names.__contains__)[context.trace.host_ops.name]
    return rows


def _tracebacks_s(context: Context) -> float:
    """What keeping tracebacks costs per step: the quickest nodes do little else, so each costs their own time."""
    ops = context.trace.host_ops
    nodes = np.isin(ops.sequence, np.fromiter(context.backward_of, np.int64, len(context.backward_of)))
    rows = np.flatnonzero(nodes & (ops.forward_thread <= 0) & (context.groups.step_of_op >= 0))
    if not len(rows):
        return 0.0
    depth = depths(ops.parent)[rows]
    innermost = rows[np.lexsort((-depth, ops.sequence[rows]))]
    innermost = innermost[np.unique(ops.sequence[innermost], return_index=True)[1]]
    each_s = float(np.percentile(ops.self_ns[innermost], LOW)) / 1e9 - context.machine.dispatch_s
    return max(each_s, 0.0) * len(innermost) / len(context.steps)


def _blocking_launches(context: Context) -> Iterator[Match]:
    """CUDA_LAUNCH_BLOCKING: each launch returns only when its kernel has ended."""
    trace = context.trace
    kernels, calls = trace.kernels, trace.runtime_calls
    rows = np.flatnonzero((kernels.launch >= 0) & (kernels.duration_ns >= LONG_NS) & (kernels.graph < 0))
    if len(rows) < BLOCKED:
        return
    blocked = calls.end_ns[kernels.launch[rows]] >= kernels.end_ns[rows]
    if blocked.mean() < BLOCKED_FRACTION:
        return
    saving_s = _overlap_s(context)
    yield Match(
        rows=(),
        ops=(),
        key="launch-blocking",
        summary=(
            f"each kernel launch waits until its kernel has ended: host and device take turns; without it the step "
            f"would be about {format_time(saving_s)} shorter"
        ),
        evidence=(f"{blocked.mean():.0%} of {len(rows)} launches return after the end of their kernel",),
        saving_s=saving_s,
        where="the environment",
        replacement="launches that do not block",
        how="unset CUDA_LAUNCH_BLOCKING",
    )


def _overlap_s(context: Context) -> float:
    """How much shorter the step is when host and device work at the same time: it takes as long as the slower."""
    trace, steps = context.trace, context.steps
    calls = trace.runtime_calls
    busy = within(device_busy(trace), steps)
    span = union(steps.start_ns, steps.end_ns)
    waiting = intersection(within(union(calls.start_ns, calls.end_ns), steps), busy)
    alone_s = difference(span, waiting).length_ns / 1e9 / len(steps)
    return max(span.length_ns / 1e9 / len(steps) - max(busy.length_ns / 1e9 / len(steps), alone_s), 0.0)


def _deterministic(context: Context) -> Iterator[Match]:
    """Deterministic algorithms: new memory is filled before it is used."""
    trace, ops = context.trace, context.trace.host_ops
    allocates = trace.named(lambda name: name.startswith(("aten::empty", "aten::new_empty")))[ops.name]
    fills = _named(context, {"aten::fill_"}) & (context.groups.step_of_op >= 0)
    rows = np.flatnonzero(fills & under(ops.parent, allocates))
    if len(rows) / len(context.steps) < FEWEST:
        return
    spent_s = context.seconds(rows.tolist())
    yield Match(
        rows=free(context, rows.tolist()),
        ops=tuple(np.unique(context.groups.of_op[rows]).tolist()),
        key="deterministic",
        summary=(
            f"deterministic algorithms are on: new memory is filled {len(rows) / len(context.steps):.0f} times per "
            f"step, {format_time(spent_s)}, and slower kernels may be in use"
        ),
        evidence=("aten::fill_ inside aten::empty",),
        saving_s=spent_s,
        where="torch.use_deterministic_algorithms",
        replacement="memory that is not filled",
        how="torch.utils.deterministic.fill_uninitialized_memory = False",
    )


RULES = (
    Rule(
        "H12", "debug-settings", "settings for finding errors are on", find,
        trigger="aten::isnan in most functions of the backward pass, or its answer read between layers; "
        "launches that return after their kernels; aten::fill_ inside aten::empty",
        advice="turn it off",
        saving="the checks and tracebacks; the time in which host and device take turns; the filling",
        cannot_show="settings that leave no operator behind",
        proof="flag", effort="flag", about="host",
        example=Example("torch.autograd.set_detect_anomaly(True)", "torch.autograd.set_detect_anomaly(False)"),
    ),
)  # fmt: skip
