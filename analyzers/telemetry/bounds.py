"""Does what the device did fit the classes that the analysis gives? For the step, and for operators that decide it.

A device says how busy its parts were on average, not during which operator. But what it did in one operator's time is
at most all that it did, and at least all less what the others' time can hold: where these limits decide, the class of
the operator is confirmed or contradicted, and elsewhere nothing is said. No class and no figure is changed by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from probe.analyzers.telemetry.readings import Readings, readings_of
from probe.results.telemetry import BoundConfidence, Judgement, OperatorConfidence, Telemetry
from probe.units import format_fraction, format_time

SATURATED_FRACTION = 0.6  # DRAM's interface active while kernels run; what copies reach is about 0.8 to 0.9
UNUSED_FRACTION = 0.3
OVERLAP_FRACTION = 1.05  # kernels' times by the time in which any runs; above it some run at once, and limits fail

# Which judgement speaks for or against which class; the strongest word that was said counts.
SPEAKS = {
    ("dram-idle", "memory"): "contradicted", ("sm-idle", "compute"): "contradicted",
    ("dram-busy", "compute"): "doubtful", ("starved", "compute"): "doubtful", ("starved", "memory"): "doubtful",
    ("starved", "latency"): "doubtful", ("neighbours", "overhead"): "doubtful",
    ("device-busy", "host"): "doubtful", ("device-busy", "overhead"): "doubtful",
    ("dram-saturated", "memory"): "confirmed", ("sm-busy", "compute"): "confirmed", ("starved", "host"): "confirmed",
}  # fmt: skip
WORDS = ("contradicted", "doubtful", "confirmed")

DRAM = ("dram_active_fraction", "DRAM")
SMS = ("sm_active_fraction", "the SMs")
PIPES = (("tensor_active_fraction", "the tensor cores"), ("fp32_active_fraction", "the FP32 pipe"))


@dataclass(frozen=True)
class OperatorFacts:
    """What the analysis says of one operator; seconds of its kernels in a step."""

    index: int
    name: str
    bound: str
    device_s: float


def bound_confidence(judgements: Sequence[Judgement], bound: str) -> BoundConfidence | None:
    """Whether the class of the step gains or loses by what was sampled; None where nothing speaks of it."""
    for word in WORDS:
        spoken = [one for one in judgements if SPEAKS.get((one.code, bound)) == word]
        if spoken:
            evidence = tuple(text for one in spoken for text in (one.says, *one.evidence))
            return BoundConfidence(bound, word, evidence)
    return None


@dataclass(frozen=True)
class _Limits:
    """Between which fractions of an operator's time a part of the device was active."""

    low: float
    high: float
    says: str


def operator_confidence(
    telemetry: Telemetry, ops: Sequence[OperatorFacts], step_s: float | None, busy_s: float | None
) -> Iterator[OperatorConfidence]:
    """The operators about whose class the device decides. step_s: the bare step; busy_s: of it, while kernels run."""
    readings = _of_the_only_gpu(telemetry)
    together_s = sum(op.device_s for op in ops)
    if readings is None or not step_s or not busy_s or together_s > OVERLAP_FRACTION * busy_s:
        return
    for op in ops:
        if op.device_s > 0 and op.bound in ("memory", "compute"):
            found = _decided(op, readings, step_s, busy_s)
            if found is not None:
                yield OperatorConfidence(op.index, op.name, op.bound, *found)


def _of_the_only_gpu(telemetry: Telemetry) -> Readings | None:
    """Of several it is not known which one ran the operator."""
    for source in ("nvml", "dcgm"):
        samples = telemetry.of(source)
        if samples is not None and len(samples.entities) == 1 and {DRAM[0], SMS[0]} & set(samples.columns):
            return readings_of(samples, telemetry, 0)
    return None


def _decided(op: OperatorFacts, readings: Readings, step_s: float, busy_s: float) -> tuple[str, tuple[str, ...]] | None:
    """The word and the readings behind it; None where they leave it open."""
    dram = _limits(DRAM, op, readings, step_s, busy_s)
    if op.bound == "memory":
        if dram is not None and dram.high <= UNUSED_FRACTION:
            return "contradicted", (dram.says,)
        return ("confirmed", (dram.says,)) if dram is not None and dram.low >= SATURATED_FRACTION else None
    sms = _limits(SMS, op, readings, step_s, busy_s)
    if sms is not None and sms.high <= UNUSED_FRACTION:
        return "contradicted", (sms.says,)
    if dram is not None and dram.low >= SATURATED_FRACTION:
        return "doubtful", (dram.says,)
    pipes = (_limits(pipe, op, readings, step_s, busy_s) for pipe in PIPES)
    busy = next((pipe for pipe in pipes if pipe is not None and pipe.low >= SATURATED_FRACTION), None)
    return None if busy is None else ("confirmed", (busy.says,))


def _limits(
    what: tuple[str, str], op: OperatorFacts, readings: Readings, step_s: float, busy_s: float
) -> _Limits | None:
    """How active a part of the device can have been during the operator, by its mean over the steps."""
    name, words = what
    interval = readings.interval(name)
    if interval is None:
        return None
    low_s, high_s = (max(0.0, one) * step_s for one in interval)
    low = max(0.0, (low_s - max(0.0, busy_s - op.device_s)) / op.device_s)
    high = min(1.0, high_s / op.device_s)
    if low > high:  # more than the kernels' time can hold: the bare steps did something else than the recorded
        return None
    says = (
        f"{words} active for {format_time(low_s)} to {format_time(high_s)} of a step, in which this operator runs for "
        f"{format_time(op.device_s)}: active for {format_fraction(low)} to {format_fraction(high)} of its time"
    )
    return _Limits(low, high, says)
