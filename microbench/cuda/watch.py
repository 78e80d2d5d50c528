"""What held while something was measured on a GPU: its clock, why that was lowered, other processes, power, heat?

NVML is asked every 20 ms by a thread of its own, so that nothing is asked between two windows: an answer may take
milliseconds. What NVML does not say is None, and nothing is concluded from it.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from probe.machine import environment, nvml
from probe.machine.nvml_meter import Meter as GpuMeter
from probe.microbench.published.verdicts import HARMLESS

PERIOD_S = 0.02
LONGEST_ANSWER_S = 5.0  # of a GPU that was lost, until its thread is left to itself
HELD_FRACTION = 0.1  # of the readings in which a reason must have been given: one among fifty explains no median
SLOW_FRACTION = 0.75  # of the maximum clock, below which nvbench discards a sample too


@dataclass(frozen=True)
class Reading:
    """What NVML said at one moment; None where it did not."""

    sm_clock_hz: float | None = None
    clocks_event_reasons: tuple[str, ...] | None = None
    power_w: float | None = None
    temperature_c: float | None = None


class Meter(Protocol):
    """Something that reads one GPU; never raises."""

    max_sm_clock_hz: float | None

    def read(self) -> Reading:
        """The state now."""

    def others(self) -> int | None:
        """How many other processes have a compute context there."""

    def busy_others(self, since: float) -> int | None:
        """How many other processes ran on the SMs since `since`, in seconds since 1970."""


@dataclass(frozen=True)
class Conditions:
    """What held during one measurement; clocks in Hz, medians over the readings unless named otherwise."""

    sm_clock_hz: float | None = None
    least_sm_clock_hz: float | None = None
    max_sm_clock_hz: float | None = None  # what this GPU can run at
    clocks_event_reasons: tuple[str, ...] | None = None  # those that held in a tenth of the readings
    other_processes: int | None = None  # with a compute context, whether they ran or not
    busy_processes: int | None = None  # of those, which ran meanwhile
    power_w: float | None = None
    temperature_c: float | None = None
    readings: int = 0

    @property
    def params(self) -> dict[str, Any]:
        """What of it stands beside a result: what is known."""
        known: dict[str, Any] = {
            "sm_clock_hz": self.sm_clock_hz,
            "clocks_event_reasons": None if self.clocks_event_reasons is None else list(self.clocks_event_reasons),
            "power_w": self.power_w,
            "temperature_c": self.temperature_c,
            "other_processes": self.other_processes,
        }
        return {name: value for name, value in known.items() if value is not None}

    @property
    def flags(self) -> tuple[str, ...]:
        """`throttled` where the clock was lowered, `contended` where another process used the GPU."""
        harmful = any(reason not in HARMLESS for reason in self.clocks_event_reasons or ())
        slow = bool(
            self.sm_clock_hz and self.max_sm_clock_hz and self.sm_clock_hz < SLOW_FRACTION * self.max_sm_clock_hz
        )
        return ("throttled",) * (harmful or slow) + ("contended",) * bool(self.busy_processes)


class NvmlMeter:
    """Reads one GPU through nvidia-ml-py."""

    def __init__(self, lib: Any, handle: Any) -> None:
        """`lib` is the initialised pynvml, `handle` one of its devices."""
        self._meter = GpuMeter(lib, handle)
        self.max_sm_clock_hz = self._meter.max_sm_clock_hz()

    def read(self) -> Reading:
        """Four questions, each of which may remain without an answer."""
        mask = self._meter.event_reasons()
        return Reading(
            sm_clock_hz=self._meter.sm_clock_hz(),
            clocks_event_reasons=None if mask is None else nvml.event_reasons(mask),
            power_w=self._meter.power_w(),
            temperature_c=self._meter.temperature_c(),
        )

    def others(self) -> int | None:
        """How many other processes have a compute context there."""
        return self._meter.others()

    def busy_others(self, since: float) -> int | None:
        """Processes with time on the SMs in the driver's own samples (several a second), without this one."""
        return self._meter.busy_others(since)


@contextmanager
def meter_of(index: int | None) -> Iterator[Meter | None]:
    """The meter of torch's `cuda:<index>`; None where NVML is missing or does not know it."""
    gpu = None if index is None else environment.nvml_gpu(index)
    if gpu is None or gpu.uuid is None:
        yield None
        return
    with nvml.opened() as lib:
        try:
            handle = lib.nvmlDeviceGetHandleByUUID(gpu.uuid)
        except lib.NVMLError:
            handle = None
        yield None if handle is None else NvmlMeter(lib, handle)


class Watch:
    """`with Watch(meter) as watch: …`; afterwards `watch.conditions` says what held. Without a meter: nothing."""

    def __init__(self, meter: Meter | None, period_s: float = PERIOD_S, now: Callable[[], float] = time.time) -> None:
        self.conditions = Conditions()
        self._meter, self._period_s, self._now = meter, period_s, now
        self._readings: list[Reading] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="probe-watch", daemon=True)
        self._since = 0.0

    def __enter__(self) -> Watch:
        self._since = self._now()
        if self._meter is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._meter is None:
            return
        self._over.set()
        self._thread.join(LONGEST_ANSWER_S)
        readings = self._readings or [self._meter.read()]
        self.conditions = summarised(readings, self._meter, self._since)

    def _sample(self) -> None:
        """The first reading after one period: until then the clock may still rise from idle."""
        assert self._meter is not None
        while not self._over.wait(self._period_s):
            self._readings.append(self._meter.read())


def summarised(readings: Sequence[Reading], meter: Meter, since: float) -> Conditions:
    """The conditions over all readings."""
    clocks = [r.sm_clock_hz for r in readings if r.sm_clock_hz]
    told = [r.clocks_event_reasons for r in readings if r.clocks_event_reasons is not None]
    given = [reason for reasons in told for reason in reasons]
    held = tuple(reason for reason in dict.fromkeys(given) if given.count(reason) >= HELD_FRACTION * len(told))
    return Conditions(
        sm_clock_hz=_median(clocks),
        least_sm_clock_hz=min(clocks, default=None),
        max_sm_clock_hz=meter.max_sm_clock_hz,
        clocks_event_reasons=held if told else None,
        other_processes=meter.others(),
        busy_processes=meter.busy_others(since),
        power_w=_median([r.power_w for r in readings if r.power_w is not None]),
        temperature_c=_median([r.temperature_c for r in readings if r.temperature_c is not None]),
        readings=len(readings),
    )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
