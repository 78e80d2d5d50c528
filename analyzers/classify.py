"""What bounds an operator, with the evidence; "unknown" with its reason where the evidence does not decide."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from probe.analysis import Bound
from probe.analyzers.cost_models import Cost
from probe.analyzers.roofline import NEAR_FRACTION, Placement, evidence
from probe.device import Ceilings
from probe.trace import Dims, LaunchShape, Signature
from probe.units import format_time

# An operator is "far longer than dispatch" from here on: a handful of dispatches fits into its time.
DISPATCHES = 5.0
# A wrapper that spends this many dispatches outside what it calls runs Python, not torch's dispatcher.
PYTHON_DISPATCHES = 20.0
# On a CPU an operator below this share of its roof gets a word about what a trace cannot show.
FAR_FRACTION = 0.05
# Fewer kernels than this many launch costs long are launch-bound whatever they do.
LAUNCHES = 2.0
# Occupancy below which too few warps are resident to hide a memory access (Little's law on every generation).
LOW_OCCUPANCY = 0.25


@dataclass(frozen=True)
class Machine:
    """What the classes are judged against."""

    ceilings: Ceilings
    dispatch_s: float  # host time of dispatching one operator
    on_device: bool  # the times are a GPU's
    sm_count: int | None = None
    threads: int | None = None  # CPU: torch's own, where the run says so
    cores: int | None = None


@dataclass(frozen=True)
class Class:
    """A bound class with its finer cause and the figures that decided."""

    bound: Bound
    limiter: str | None
    evidence: tuple[str, ...]


def classify(
    cost: Cost, placement: Placement, time_s: float, machine: Machine, *, mean_s: float | None = None,
    kernels: float = 1.0, shape: LaunchShape | None = None, signature: Signature | None = None,
) -> Class:  # fmt: skip
    """The class of an operator whose one call takes `time_s` on the device where there is one, else on the host.

    mean_s: time of a mean call, for the figures, where `time_s` is that of a typical one.
    kernels: how many kernels one call launches; shape: that of the one that takes longest, where recorded.
    """
    by_kind = _by_kind(cost, time_s, machine)
    if by_kind is not None:
        return by_kind
    if time_s <= 0:
        return Class("overhead", "dispatch", ("took less than the trace resolves",))
    if machine.on_device:
        return _on_device(cost, placement, time_s, machine, kernels, shape)
    return _on_cpu(cost, placement, time_s, mean_s or time_s, machine, signature)


def _by_kind(cost: Cost, time_s: float, machine: Machine) -> Class | None:
    """Classes that follow from what an operator is."""
    match cost.kind:
        case "collective":
            return Class("communication", None, ("a collective or point-to-point transfer",))
        case "host":
            return Class("host", "loader", ("waits for the data loader",))
        case "sync":
            return Class("overhead", "sync", ("the host waits for a value",))
        case "view" | "wrapper" if machine.on_device:
            return Class("unknown", None, ("device work under an operator that is not known to do any",))
        case "view":
            return Class("overhead", "dispatch", ("moves no data",))
        case "wrapper":
            if time_s > PYTHON_DISPATCHES * machine.dispatch_s:
                return Class("host", "python", (f"{format_time(time_s)} a call outside the operators it calls",))
            return Class("overhead", "dispatch", ("only calls other operators",))
    return None


def _on_cpu(
    cost: Cost, placement: Placement, time_s: float, mean_s: float, machine: Machine, signature: Signature | None
) -> Class:
    """Compute or memory by intensity for an operator far longer than dispatch, else overhead."""
    roof_s = placement.roof_s
    short = time_s <= DISPATCHES * machine.dispatch_s
    if short and (roof_s is None or roof_s < time_s / 2):
        against = f"{format_time(time_s)} a call, dispatching one takes {format_time(machine.dispatch_s)}"
        return Class("overhead", "dispatch", (against,))
    if not placement.decided(time_s):
        return _undecided(cost, placement)
    figures = tuple(evidence(placement, mean_s))
    if roof_s is not None and roof_s < FAR_FRACTION * time_s:
        figures += ("far below its roof: too few threads, threads that wait for each other, or a busy machine",)
    idle = _idle_cores(machine, roof_s or 0.0, time_s)
    if idle is not None:
        return Class(_as_bound(placement), "single-thread", (*figures, idle))
    if placement.side == "compute":
        return Class("compute", _arithmetic(placement), figures)
    if signature is not None and is_strided(signature):
        return Class("memory", "strided-access", (*figures, "an argument is not contiguous"))
    return Class("memory", (placement.level or "dram").lower(), figures)


def _idle_cores(machine: Machine, roof_s: float, time_s: float) -> str | None:
    """What to say where torch used some of the cores and the operator is as far from the roof as that explains."""
    if not machine.threads or not machine.cores or machine.threads >= machine.cores:
        return None
    explained = roof_s / time_s <= 1.1 * machine.threads / machine.cores
    return f"torch ran on {machine.threads} of {machine.cores} cores" if explained else None


def _as_bound(placement: Placement) -> Bound:
    return "compute" if placement.side == "compute" else "memory"


def _on_device(
    cost: Cost, placement: Placement, time_s: float, machine: Machine, kernels: float, shape: LaunchShape | None
) -> Class:
    """Compute or memory near a roof; overhead for tiny kernels; latency only with kernel evidence for it."""
    launch_s = machine.ceilings.launch_s or 0.0
    roof_s = placement.roof_s
    each_s = time_s / max(kernels, 1.0)
    if each_s <= LAUNCHES * launch_s and (roof_s is None or roof_s < time_s / 2):
        against = f"{format_time(each_s)} a kernel, launching one takes {format_time(launch_s)}"
        return Class("overhead", "small-kernel", (against,))
    if not placement.decided(time_s) or roof_s is None:
        return _undecided(cost, placement)
    figures = tuple(evidence(placement, time_s))
    if roof_s / time_s >= NEAR_FRACTION:
        if placement.side == "compute":
            return Class("compute", _arithmetic(placement), figures)
        return Class("memory", (placement.level or "dram").lower(), figures)
    limiter, reason = _latency(shape, machine.sm_count)
    if limiter is not None:
        return Class("latency", limiter, (*figures, reason))
    return Class("unknown", None, (*figures, "far below every roof, and the launch does not show why"))


def _latency(shape: LaunchShape | None, sm_count: int | None) -> tuple[str | None, str]:
    """Kernel evidence for latency: too few blocks to fill the device, or too few warps to hide an access."""
    if shape is None:
        return None, ""
    blocks = prod(max(extent, 1) for extent in shape.grid)
    if shape.grid and sm_count and blocks < sm_count:
        return "low-occupancy", f"{blocks} blocks for {sm_count} SMs"
    occupancy = shape.theoretical_occupancy_fraction
    if occupancy is not None and occupancy < LOW_OCCUPANCY:
        return "low-occupancy", f"theoretical occupancy {occupancy:.0%}"
    return None, ""


def _undecided(cost: Cost, placement: Placement) -> Class:
    if cost.reason:
        return Class("unknown", None, (cost.reason,))
    if placement.peak_flops_per_s is None and placement.flops:
        return Class("unknown", None, (f"no ceiling for {placement.dtype}",))
    return Class("unknown", None, ("no ceiling for its memory traffic",))


def _arithmetic(placement: Placement) -> str:
    """The unit that an arithmetic-bound operator is limited by."""
    if placement.dtype in ("tf32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8"):
        return "tensor-core"
    return "fp64" if placement.dtype == "float64" else "fp32"


def is_strided(signature: Signature) -> bool:
    """Whether an argument has gaps between its elements, or two of the same sizes lie in different orders."""
    laid_out = [
        (dims, strides)
        for dims, strides in zip(signature.dims, signature.strides, strict=False)
        if len(dims) == len(strides) and all(isinstance(n, int) for n in (*dims, *strides))
    ]
    orders: dict[Dims, set[tuple[int, ...]]] = {}
    for dims, strides in laid_out:
        if 0 not in strides:
            moving = [axis for axis, size in enumerate(dims) if size > 1]
            orders.setdefault(dims, set()).add(tuple(sorted(moving, key=lambda axis, s=strides: s[axis])))  # type: ignore[misc]
    return any(_has_gaps(*one) for one in laid_out) or any(len(found) > 1 for found in orders.values())


def _has_gaps(dims: Dims, strides: Dims) -> bool:
    """Whether the elements leave memory between them unused; broadcast dimensions (stride 0) take none."""
    expected = 1
    for stride, size in sorted(pair for pair in zip(strides, dims, strict=True) if pair[1] > 1 and pair[0] != 0):
        if stride != expected:
            return True
        expected = stride * size
    return False
