"""What is telemetry? What devices and the host said of themselves beside a run, sampled in time; types only.

Times are integer nanoseconds of the process's monotonic clock (`time.perf_counter_ns`), the one that steps are timed
with; `unix_ns` is the wall clock at the same moment, which traces are stamped with and which may be set meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Int64s: TypeAlias = npt.NDArray[np.int64]
Int32s: TypeAlias = npt.NDArray[np.int32]
Float64s: TypeAlias = npt.NDArray[np.float64]

CLOCK_STEP_NS = 50_000_000  # by which wall and monotonic clock may drift apart (NTP slews) before it is called a step


class InPhases(NamedTuple):
    """The annotated phases that the loop was in at one moment, from the outside in."""

    names: tuple[str, ...] = ()
    whole: int = 0  # how many of them, from the outside, were open ever since the reading before


@dataclass(frozen=True, eq=False)
class PhasesOfRows:
    """The phases of each reading; arrays [n]."""

    path: Int32s  # into paths
    whole: Int32s  # as in InPhases
    paths: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Samples:
    """What one source said, in order of time; arrays [n]. NaN: it did not say."""

    source: str  # "nvml", "dcgm", "host", "machine"
    at_ns: Int64s
    unix_ns: Int64s
    entity: Int32s  # into entities
    entities: tuple[str, ...]  # UUID of a GPU, "UUID/instance" of a MIG slice, "host"
    columns: dict[str, Float64s]  # the unit is the end of the name
    about: dict[str, Any] = field(default_factory=dict)  # how it was read, and what could not be
    phases: PhasesOfRows | None = None  # None where the loop annotated nothing

    def __len__(self) -> int:
        return len(self.at_ns)

    @property
    def clock_steps_ns(self) -> tuple[int, ...]:
        """By how much the wall clock was set while this was sampled, each time; negative: back."""
        order = np.argsort(self.at_ns, kind="stable")
        jumps = np.diff((self.unix_ns - self.at_ns)[order])
        return tuple(int(jump) for jump in jumps if abs(jump) > CLOCK_STEP_NS)


@dataclass(frozen=True)
class Window:
    """Consecutive steps of one phase, on the monotonic clock. Active steps have a window each."""

    phase: str
    first_step: int
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, eq=False)
class Telemetry:
    """All that was sampled beside one rank, and when its steps ran."""

    samples: tuple[Samples, ...] = ()
    windows: tuple[Window, ...] = ()
    warnings: tuple[str, ...] = ()

    def of(self, source: str) -> Samples | None:
        """What one source said; None where it said nothing."""
        return next((one for one in self.samples if one.source == source and len(one)), None)


@dataclass(frozen=True)
class Quantity:
    """One quantity of one device over one kind of steps; SI units, in the name."""

    name: str
    source: str
    entity: str
    window: str  # "bare": steps that nothing recorded; "recorded": the traced ones; "all": the whole run
    n: int  # readings
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PhaseUse:
    """What was sampled while one annotated phase ran."""

    name: str
    readings: int  # in which it ran, of the source that was read most often
    share_fraction: float  # of that source's readings in the same steps: of the time, as far as they tell
    quantities: tuple[Quantity, ...]  # over the readings throughout which it ran
    reason: str | None = None  # why there are none


@dataclass(frozen=True)
class SourceUse:
    """Whether a source was used, through what, and why the others were not."""

    source: str
    via: str | None  # "http://127.0.0.1:9400/metrics"; None where it was not used
    hz: float | None
    reasons: dict[str, str]  # what was not used, or is not known: why


@dataclass(frozen=True)
class Judgement:
    """What telemetry says of the run in words, with the readings behind it."""

    code: str  # "throttled", "power-capped", "low-clock", "dram-saturated", "dram-idle", "neighbours", …
    entity: str
    says: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class BoundConfidence:
    """Whether what devices and host did fits the class of the step."""

    bound: str  # the class
    says: str  # "confirmed", "contradicted" or "doubtful"
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class OperatorConfidence:
    """Whether what the device did fits the class of one operator."""

    op: int  # its index
    name: str
    bound: str  # its class
    says: str  # as of the step
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class TelemetryUse:
    """Telemetry as the analysis gives it."""

    sources: tuple[SourceUse, ...]
    quantities: tuple[Quantity, ...]
    judgements: tuple[Judgement, ...]
    bound: BoundConfidence | None = None  # None: nothing that was sampled speaks for or against it
    ops: tuple[OperatorConfidence, ...] = ()  # operators about whose class what was sampled decides
    phases: tuple[PhaseUse, ...] = ()  # what `probe.annotate` named, the longest first
