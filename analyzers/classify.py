"""What bounds an operator, with the evidence; "unknown" with its reason where the evidence does not decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from probe.analyzers.cost_models import Cost
from probe.analyzers.gpu.kernel_evidence import MOST, Cause, KernelRuns, causes
from probe.analyzers.gpu.kernel_names import moves_bytes
from probe.analyzers.operators.strides import is_strided
from probe.analyzers.roofline import NEAR_FRACTION, Placement, evidence
from probe.analyzers.shown_rates import ShownRates
from probe.machine.device import Ceilings, Device
from probe.results.analysis import Bound
from probe.trace import Signature
from probe.units import format_time

# An operator is "far longer than dispatch" from here on: a handful of dispatches fits into its time.
DISPATCHES = 5.0
# A wrapper that spends this many dispatches outside what it calls runs Python, not torch's dispatcher.
PYTHON_DISPATCHES = 20.0
# On a CPU an operator below this share of its roof gets a word about what a trace cannot show.
FAR_FRACTION = 0.05
# Fewer kernels than this many launch costs long are launch-bound whatever they do.
LAUNCHES = 2.0
# Published peaks are reached by no kernel: near are also those that reach this share of the highest rate in the trace.
# Measured ceilings are what kernels reach, so nothing has to stand in for them.
SHOWN_FRACTION = 0.4
SHOWN_LEAST = 0.15  # of the peak
MOSTLY = 0.9  # of an operator's device time in kernels that move data: then it is bound by that
# A pointwise operator whose intensity is below this share of the ridge point waits for its bytes, however far from the
# roof it stays: its arithmetic would have to run ten times further below its own.
FAR_FROM_RIDGE = 0.1
TOLD = 0.05  # of an operator's time: causes for less are not told

_UNKNOWN = Device("unknown", "unknown device")


@dataclass(frozen=True)
class Machine:
    """What the classes are judged against."""

    ceilings: Ceilings
    dispatch_s: float  # host time of dispatching one operator
    on_device: bool  # the times are a GPU's
    device: Device = _UNKNOWN
    threads: int | None = None  # CPU: torch's own, where the run says so
    cores: int | None = None
    shown: ShownRates = field(default_factory=ShownRates)


@dataclass(frozen=True)
class Class:
    """A bound class with its finer cause and the figures that decided."""

    bound: Bound
    limiter: str | None
    evidence: tuple[str, ...]


def classify(
    cost: Cost, placement: Placement, time_s: float, machine: Machine, *, mean_s: float | None = None,
    runs: Sequence[KernelRuns] = (), copied_fraction: float = 0.0, signature: Signature | None = None,
) -> Class:  # fmt: skip
    """The class of an operator whose one call takes `time_s` on the device where there is one, else on the host.

    mean_s: time of a mean call, for the figures, where `time_s` is that of a typical one.
    runs: the kernels of all calls; copied_fraction: the share of the device time in copies from or to the host.
    """
    by_kind = _by_kind(cost, time_s, machine)
    if by_kind is not None:
        return by_kind
    if time_s <= 0:
        return Class("overhead", "dispatch", ("took less than the trace resolves",))
    if machine.on_device and copied_fraction >= MOST:
        return _over_the_bus(cost, time_s, machine)
    if machine.on_device:
        return _on_device(cost, placement, time_s, machine, runs, signature)
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
        return Class(_as_bound(placement.side), "single-thread", (*figures, idle))
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


def _as_bound(side: str) -> Bound:
    return "compute" if side == "compute" else "memory"


def _over_the_bus(cost: Cost, time_s: float, machine: Machine) -> Class:
    """A copy between host and device: the bus between them is the roof, and no benchmark of it is asked for here."""
    launch_s = machine.ceilings.launch_s or 0.0
    if time_s <= LAUNCHES * launch_s:
        return Class("overhead", "copy", (f"{format_time(time_s)} a copy, about as long as starting one",))
    moved = cost.bytes / 2 / time_s if cost.bytes else None
    rate = (f"{moved / 1e9:.3g} GB/s between host and device",) if moved else ()
    return Class("host", "copy", (*rate, "copies between host and device: the bus is their roof, not the memory"))


def _on_device(
    cost: Cost, placement: Placement, time_s: float, machine: Machine, runs: Sequence[KernelRuns],
    signature: Signature | None,
) -> Class:  # fmt: skip
    """Compute or memory near a roof; overhead for tiny kernels; latency only with kernel evidence for it."""
    small_s = LAUNCHES * (machine.ceilings.launch_s or 0.0)
    roof_s = placement.roof_s
    found = causes(runs, machine.device, small_s)
    if roof_s is None or roof_s < time_s / 2:
        small = _small_kernels(found, runs, time_s, small_s, machine)
        if small is not None:
            return small
    decided = placement.decided(time_s) and roof_s is not None
    figures = tuple(evidence(placement, time_s))
    if decided and roof_s is not None and roof_s / time_s >= NEAR_FRACTION:
        return _near(placement.side, placement, figures)
    shown = machine.shown.share(cost, placement, time_s) if machine.ceilings.origin != "measured" else None
    if shown is not None and shown.fraction >= SHOWN_FRACTION and _possible(shown.side, placement, time_s):
        return _near(shown.side, placement, (*figures, shown.text))
    if decided:
        return _far(found, figures, signature, moves=_moves(cost, placement))
    if shown is not None and shown.fraction < NEAR_FRACTION:  # so it is far below the roof, wherever that is
        return _far(found, (*figures, shown.text), signature)
    return _moving(runs, cost) or _undecided(cost, placement)


def _moving(runs: Sequence[KernelRuns], cost: Cost) -> Class | None:
    """Memory where the names of the kernels say that they do little but move data; how fast they could is not known."""
    told = [(run.seconds, why) for run in runs if (why := moves_bytes(run.name)) is not None]
    total = sum(run.seconds for run in runs)
    if not told or sum(seconds for seconds, _ in told) < MOSTLY * total:
        return None
    sizes = cost.reason or "no ceiling for its memory traffic"
    return Class("memory", None, (f"{sizes}: how near it comes to one is not known", f"its kernels: {max(told)[1]}"))


def _small_kernels(
    found: Sequence[Cause], runs: Sequence[KernelRuns], time_s: float, small_s: float, machine: Machine
) -> Class | None:
    """Overhead where most of the time goes into kernels about as long as their launch."""
    launch = f"launching one takes {format_time(machine.ceilings.launch_s)}"
    if not runs:
        return Class("overhead", "small-kernel", (f"{format_time(time_s)}, {launch}",)) if time_s <= small_s else None
    share = sum(cause.share for cause in found if cause.limiter == "small-kernel")
    each_s = sum(run.seconds for run in runs) / max(sum(run.launches for run in runs), 1)
    if share < MOST and each_s > small_s:
        return None
    return Class("overhead", "small-kernel", (f"{format_time(each_s)} a kernel, {launch}",))


def _near(side: str, placement: Placement, figures: tuple[str, ...]) -> Class:
    """The class of what is as fast as the roof on its side lets it be."""
    if side == "compute":
        return Class("compute", _arithmetic(placement), figures)
    return Class("memory", (placement.level or "dram").lower(), figures)


def _possible(side: str, placement: Placement, time_s: float) -> bool:
    """Whether a call that comes close to the fastest of the trace is not too far below the roof for that to matter."""
    roof_s = placement.compute_s if side == "compute" else placement.memory_s
    return roof_s is None or roof_s >= SHOWN_LEAST * time_s


def _moves(cost: Cost, placement: Placement) -> bool:
    """Whether an operator cannot but wait for its bytes: pointwise, of known sizes, far on that side of the ridge."""
    intensity, ridge = placement.intensity, placement.ridge_point
    return (
        cost.kind == "pointwise" and intensity is not None and ridge is not None and intensity < FAR_FROM_RIDGE * ridge
    )


def _far(
    found: Sequence[Cause], figures: tuple[str, ...], signature: Signature | None, *, moves: bool = False
) -> Class:
    """What is far below every roof: latency where the kernels show why, for most of their time."""
    explained = [cause for cause in found if cause.limiter != "small-kernel"]
    if explained and sum(cause.share for cause in found) >= MOST:
        first = explained[0]
        others = tuple(f"{c.share:.0%} of its time: {c.text}" for c in explained[1:] if c.share >= TOLD)
        said = first.text if first.share > 0.9 else f"{first.share:.0%} of its time: {first.text}"
        bound: Bound = "memory" if first.limiter == "copy" else "latency"
        return Class(bound, first.limiter, (*figures, said, *others))
    if signature is not None and is_strided(signature):
        return Class("latency", "strided-access", (*figures, "an argument is not contiguous"))
    if moves:
        told = "far below that rate, and the launch does not show why; its arithmetic is farther still from its own"
        return Class("memory", None, (*figures, told))
    return Class("unknown", None, (*figures, "far below every roof, and the launch does not show why"))


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
