"""The object of `probe analyze`: types only (schema probe.analysis/1). A field's name is its JSON key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from probe.machine.device import Ceilings, DeviceKind
from probe.results.cost import Cost
from probe.results.findings import Finding
from probe.results.memory_use import Memory
from probe.results.multirank import ClockOffset, CollectiveRow, Rank, Straggler
from probe.results.scaling import Scaling
from probe.results.serving import ServingUse
from probe.results.telemetry import TelemetryUse
from probe.schema import to_jsonable

SCHEMA = "probe.analysis/1"

Bound = Literal["compute", "memory", "latency", "overhead", "communication", "host", "unknown"]
PARTS = ("compute", "memory", "latency", "overhead", "communication", "host", "idle", "unknown")
# Why nothing runs: the loop waits for data; the host waits for the device and has to fill its queue again; memory is
# taken from or given back to the driver; the host dispatches; Python; operators that compute on the host; the queue
# holds work that has not started; the step's work is done; no cause was found.
IDLE_CAUSES = (
    "loader", "sync", "allocator", "launch", "python", "operators", "queue", "end_of_step", "unknown"
)  # fmt: skip
# What the critical path is made of: device work, the way to it and its queue, and the host's time.
PATH_KINDS = (
    "kernels", "communication", "copies", "queue", "launch", "sync", "allocator", "loader", "operators", "python"
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where the figures come from."""

    path: str
    kind: Literal["run", "kineto", "nsys", "snapshot"]
    device: str | None
    device_kind: DeviceKind
    ranks: int
    torch: str | None
    tags: dict[str, str]


@dataclass(frozen=True)
class TraceQuality:
    """What of the trace stands behind the figures."""

    included: int
    excluded: int
    reasons: tuple[str, ...]
    known_cost_fraction: float | None = None  # of device time (CPU: self time), in operators whose cost is known


@dataclass(frozen=True)
class Throughput:
    """What the user's loop got through; None where `step()` was not told."""

    samples_per_s: float | None
    tokens_per_s: float | None


@dataclass(frozen=True)
class StepTimes:
    """Step times in seconds. `bare`: steps that ran without the profiler; `profiled`: those it recorded."""

    n: int
    mean_s: float | None
    p50_s: float | None
    p95_s: float | None
    bare_mean_s: float | None
    profiled_mean_s: float | None
    throughput: Throughput


@dataclass(frozen=True)
class Utilisation:
    """Ratios between 0 and 1; None where not known."""

    device_busy_fraction: float | None
    mfu_fraction: float | None = None
    hfu_fraction: float | None = None
    mbu_fraction: float | None = None


@dataclass(frozen=True)
class KernelUse:
    """One kernel that an operator launched; calls and seconds per step."""

    name: str
    calls: float
    device_s: float


@dataclass(frozen=True)
class Operator:
    """All calls of one operator with the same arguments; calls and seconds per step."""

    index: int
    name: str
    shapes: str | None  # "[64, 512] × [512, 512]"; None where not recorded
    dtypes: str | None
    calls: float
    self_s: float  # host time outside the operators it calls
    device_s: float  # time of the device work it launched itself
    spread_s: float | None  # of the time that counts, highest step less lowest; None with one step
    share_fraction: float  # of the step
    flops: float | None
    bytes: float | None
    intensity: float | None
    achieved_flops_per_s: float | None
    achieved_bytes_per_s: float | None
    roof_fraction: float | None
    bound: Bound
    limiter: str | None
    evidence: tuple[str, ...]
    recoverable_s: float | None
    module: str | None
    kernels: tuple[KernelUse, ...]
    source: str | None = None  # line of the program that calls it, where stacks were recorded


@dataclass(frozen=True)
class PrecisionGain:
    """The step's gain if all operators that run in one type ran in another; `saving_s` is per step, by their roofs."""

    ops: tuple[int, ...]
    before: str
    after: str
    saving_s: float


@dataclass(frozen=True)
class Fix:
    """One change of the plan, and what the step takes once it and all before it are made."""

    id: str  # of the finding
    effort: str
    step_after_s: float
    cumulative_saving_fraction: float  # of the step as it is


@dataclass(frozen=True)
class Loop:
    """Which loop is the problem: the kernels, the training job around them, or the product that calls them."""

    name: Literal["kernel", "training", "product"]
    gauge: str  # what says so
    value_fraction: float  # of the step
    evidence: str
    next_step: str


@dataclass(frozen=True)
class Analysis:
    """What one run or trace says."""

    source: Source
    quality: TraceQuality
    ceilings: Ceilings | None
    steps: StepTimes
    bound: Bound
    time_s: dict[str, float | None]
    time_interval_s: dict[str, tuple[float, float] | None]
    utilisation: Utilisation
    ops: tuple[Operator, ...]
    findings: tuple[Finding, ...]
    ranks: tuple[Rank, ...]
    memory: Memory | None
    warnings: tuple[str, ...]
    recorded: tuple[str, ...] = ()  # what the profiler was asked for and gave, in words
    not_recorded: tuple[str, ...] = ()  # what is missing, each with the option that records it
    collectives: tuple[CollectiveRow, ...] = ()  # per kind, size and group size, where any were recorded
    clocks: tuple[ClockOffset, ...] = ()  # of the ranks against each other
    stragglers: tuple[Straggler, ...] = ()  # ranks that the others wait for, by more than clocks and chance explain
    scaling: Scaling | None = None  # over jobs of several sizes, where more than one was given
    idle_s: dict[str, float] = field(default_factory=dict)  # per step, what nothing runs for, by IDLE_CAUSES
    critical_path_s: dict[str, float] = field(default_factory=dict)  # per step, the longest chain of waits
    fixes: tuple[Fix, ...] = ()  # the findings that save time, the most for the least effort first
    kernel_time_s: dict[str, float] = field(default_factory=dict)  # per step, by what the kernels do (kernel_time.KEYS)
    telemetry: TelemetryUse | None = None  # what device and host did beside the run, where that was sampled
    precision: tuple[PrecisionGain, ...] = ()  # what narrower element types would gain by the roofs, most first
    cost: Cost | None = None  # energy and money of a step
    loop: Loop | None = None  # which of the three loops is the problem; None where that cannot be told
    serving: ServingUse | None = None  # requests, latencies, prefill and decode, where the program is a server
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the contract, as plain dicts, lists and numbers."""
        content: dict[str, Any] = to_jsonable(self)
        return {"schema": content.pop("schema"), **content}

    def to_pandas(self) -> Any:
        """The operators as a pandas DataFrame, one row each, in the order of the report."""
        import pandas as pd

        rows = [{k: v for k, v in to_jsonable(op).items() if k != "kernels"} for op in self.ops]
        return pd.DataFrame(rows)
