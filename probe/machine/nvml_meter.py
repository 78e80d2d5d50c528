"""What does one GPU, or one MIG slice of it, do now? NVML asked again and again, at little cost.

What a device does not support is asked once, and the reason kept in `missing`. Other refusals (a lost GPU, a driver
that is being reset) are kept in `failures` and asked again: they may pass.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from probe.machine import nvml

KIB, MIB = 1 << 10, 1 << 20
_ALL_LINKS = 0xFFFFFFFF  # scope of an NVLink field: the sum over links
_VOLATILE, _CORRECTED, _UNCORRECTED = 0, 0, 1  # nvmlEccCounterType_t, nvmlMemoryErrorType_t
_REFUSED_FOR_GOOD = ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NO_PERMISSION", "INVALID_ARGUMENT")
GPM_PERIOD_NS = 100_000_000  # GPM wants its two samples at least 100 ms apart

# Fields: number in nvml.h -> quantity, its scale to SI, the scope it is asked with. Counters become rates.
LEVELS = {186: ("power_w", 1e-3, 0), 82: ("memory_temperature_c", 1.0, 0)}
COUNTERS = {
    197: ("pcie_send_bytes_per_s", 1.0, 0),
    198: ("pcie_receive_bytes_per_s", 1.0, 0),
    138: ("nvlink_send_bytes_per_s", float(KIB), _ALL_LINKS),
    139: ("nvlink_receive_bytes_per_s", float(KIB), _ALL_LINKS),
}
# nvmlGpmMetricId_t -> quantity and scale: percent and MiB/s there.
GPM = {
    2: ("sm_active_fraction", 0.01),
    3: ("sm_occupancy_fraction", 0.01),
    4: ("integer_active_fraction", 0.01),
    5: ("tensor_active_fraction", 0.01),
    7: ("tensor_hmma_active_fraction", 0.01),
    9: ("tensor_imma_active_fraction", 0.01),
    10: ("dram_active_fraction", 0.01),
    11: ("fp64_active_fraction", 0.01),
    12: ("fp32_active_fraction", 0.01),
    13: ("fp16_active_fraction", 0.01),
    20: ("pcie_send_bytes_per_s", float(MIB)),
    21: ("pcie_receive_bytes_per_s", float(MIB)),
    60: ("nvlink_receive_bytes_per_s", float(MIB)),
    61: ("nvlink_send_bytes_per_s", float(MIB)),
}
_VALUE_OF_TYPE = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


class Meter:
    """Reads one device through an initialised pynvml. Never raises for what NVML says."""

    def __init__(self, lib: Any, handle: Any, *, instance: int | None = None, parent: Any = None) -> None:
        """`instance` and `parent`: of a MIG slice, its GPU instance and the handle of the GPU it is cut from."""
        self.missing: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.handle = handle
        self._lib = lib
        codes = {getattr(lib, f"NVML_ERROR_{name}", None) for name in _REFUSED_FOR_GOOD}
        self._for_good = {code for code in codes if code is not None}
        self._levels, self._counters = dict(LEVELS), dict(COUNTERS)
        self._before: dict[str, tuple[int, float]] = {}
        self._device, self._instance = handle if parent is None else parent, instance
        self._gpm: GpmMeter | None = None  # asked for with the first state

    def ask(self, name: str, *arguments: Any) -> Any:
        """One answer about this device; None where there is none. One clock may be refused and another not."""
        key = f"{name} {arguments[0]}" if arguments and isinstance(arguments[0], int) else name
        return None if key in self.missing else self.call(key, name, self.handle, *arguments)

    def call(self, key: str, name: str, *arguments: Any) -> Any:
        """The answer of an NVML function; a refusal is kept under `key`."""
        try:
            answer = getattr(self._lib, name)(*arguments)
        except AttributeError:
            self.missing[key] = f"this nvidia-ml-py has no {name}"
            return None
        except self._lib.NVMLError as error:
            for_good = getattr(error, "value", None) in self._for_good
            (self.missing if for_good else self.failures)[key] = nvml.words(error)
            return None
        self.failures.pop(key, None)
        return answer

    def state(self, at_ns: int) -> dict[str, float]:
        """What changes quickly: activity, clocks, power, traffic."""
        values: dict[str, float] = {}
        rates = self.ask("nvmlDeviceGetUtilizationRates")
        if rates is not None:
            values["gpu_utilisation_fraction"] = rates.gpu * 0.01
            values["memory_utilisation_fraction"] = rates.memory * 0.01
        _put(values, "sm_clock_hz", self.sm_clock_hz())
        _put(values, "memory_clock_hz", _scaled(self.ask("nvmlDeviceGetClockInfo", self._lib.NVML_CLOCK_MEM), 1e6))
        _put(values, "clocks_event_reasons", self.event_reasons())
        _put(values, "power_w", self.power_w())
        _put(values, "energy_j", _scaled(self.ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3))
        _put(values, "temperature_c", self.temperature_c())
        memory = self.ask("nvmlDeviceGetMemoryInfo")
        if memory is not None:
            values["memory_used_bytes"] = float(memory.used)
        values |= self._fields(at_ns)
        if self._gpm is None:
            self._gpm = GpmMeter(self, self._lib, self._device, self._instance)
        values |= self._gpm.read(at_ns)  # where both are there, the device's own rate over the same time
        return values

    def health(self) -> dict[str, float]:
        """What changes rarely: errors, replays, limits."""
        values: dict[str, float] = {}
        for name, kind in (("ecc_corrected_errors", _CORRECTED), ("ecc_uncorrected_errors", _UNCORRECTED)):
            _put(values, name, _scaled(self.ask("nvmlDeviceGetTotalEccErrors", kind, _VOLATILE), 1))
        _put(values, "pcie_replays", _scaled(self.ask("nvmlDeviceGetPcieReplayCounter"), 1))
        _put(values, "power_limit_w", _scaled(self.ask("nvmlDeviceGetEnforcedPowerLimit"), 1e-3))
        return values

    def sm_clock_hz(self) -> float | None:
        """The clock of the SMs now."""
        return _scaled(self.ask("nvmlDeviceGetClockInfo", self._lib.NVML_CLOCK_SM), 1e6)

    def max_sm_clock_hz(self) -> float | None:
        """The highest clock of the SMs."""
        return _scaled(self.ask("nvmlDeviceGetMaxClockInfo", self._lib.NVML_CLOCK_SM), 1e6)

    def event_reasons(self) -> int | None:
        """Why the clocks are where they are, as a mask (nvml.event_reasons has the words)."""
        mask = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        return None if mask is None else int(mask)

    def power_w(self) -> float | None:
        """Power drawn."""
        return _scaled(self.ask("nvmlDeviceGetPowerUsage"), 1e-3)

    def temperature_c(self) -> float | None:
        """Temperature of the chip; by the newer function where this driver has it."""
        sensor = self._lib.NVML_TEMPERATURE_GPU
        told = self.ask("nvmlDeviceGetTemperatureV", sensor)
        if told is None and f"nvmlDeviceGetTemperatureV {sensor}" in self.missing:
            told = self.ask("nvmlDeviceGetTemperature", sensor)
        return _scaled(told, 1)

    def processes(self) -> set[int] | None:
        """The processes with a compute context, by their numbers outside of any container."""
        listed = self.ask("nvmlDeviceGetComputeRunningProcesses")
        return None if listed is None else {process.pid for process in listed}

    def others(self) -> int | None:
        """Compute contexts but one: this process has one too, though a container may know it by another number.

        None where no process is listed at all, not even this one: then nothing is told.
        """
        listed = self.processes()
        return len(listed) - 1 if listed else None

    def busy_others(self, since_s: float) -> int | None:
        """How many other processes ran on the SMs since `since_s` (unix time), by the driver's own samples."""
        name = "nvmlDeviceGetProcessUtilization"
        if name in self.missing:
            return None
        try:
            samples = self._lib.nvmlDeviceGetProcessUtilization(self.handle, int(since_s * 1e6))
        except (self._lib.NVMLError, AttributeError) as error:  # not found: nobody ran, and the driver keeps no sample
            if getattr(error, "value", None) in self._for_good:
                self.missing[name] = nvml.words(error)
            return None
        busy = {sample.pid for sample in samples if sample.smUtil > 0}
        own = os.getpid()
        return len(busy - {own}) if own in busy | (self.processes() or set()) else max(0, len(busy) - 1)

    def _fields(self, at_ns: int) -> dict[str, float]:
        """All fields in one question. Each has its own refusal."""
        asked = {**self._levels, **self._counters}
        if not asked:
            return {}
        key = "nvmlDeviceGetFieldValues"
        answers = self.ask(key, [(number, scope) for number, (_, _, scope) in asked.items()])
        if answers is None:
            if key in self.missing:
                self._levels, self._counters = {}, {}
            return {}
        values: dict[str, float] = {}
        for answer in answers:
            name, scale, _ = asked[answer.fieldId]
            if answer.nvmlReturn in self._for_good:
                self._drop(answer.fieldId, name, answer.nvmlReturn)
            elif answer.nvmlReturn == 0:
                value = getattr(answer.value, _VALUE_OF_TYPE.get(answer.valueType, "ullVal")) * scale
                _put(values, name, value if answer.fieldId in LEVELS else self._rate(name, at_ns, value))
        return values

    def _drop(self, number: int, name: str, code: int) -> None:
        self._levels.pop(number, None)
        self._counters.pop(number, None)
        self.missing[f"{name} (field {number})"] = nvml.words(self._lib.NVMLError(code))

    def _rate(self, name: str, at_ns: int, count: float) -> float | None:
        """Counts per second since the last reading; None for the first, and where the counter was set back."""
        before = self._before.get(name)
        self._before[name] = (at_ns, count)
        if before is None or at_ns <= before[0] or count < before[1]:
            return None
        return (count - before[1]) / ((at_ns - before[0]) * 1e-9)

    def close(self) -> None:
        """Give back what was taken."""
        if self._gpm is not None:
            self._gpm.close()


class GpmMeter:
    """GPM, on Hopper and later: what the SMs, their pipes and DRAM did between two samples."""

    def __init__(self, meter: Meter, lib: Any, device: Any, instance: int | None) -> None:
        """`device` is the whole GPU; of a MIG slice `instance` is its GPU instance."""
        self._meter, self._lib, self._device, self._instance = meter, lib, device, instance
        self._wanted = dict(GPM)
        self._samples: list[Any] = []
        self._at_ns = 0
        self._begun = False
        if not self._supported():
            self._wanted = {}

    def _supported(self) -> bool:
        support = self._meter.call("GPM", "nvmlGpmQueryDeviceSupport", self._device)
        if support is None:
            return False
        if not support.isSupportedDevice:
            self._meter.missing["GPM"] = "this GPU has none (Hopper and later have)"
            return False
        self._samples = [self._meter.call("GPM", "nvmlGpmSampleAlloc") for _ in range(2)]
        return all(sample is not None for sample in self._samples)

    def read(self, at_ns: int) -> dict[str, float]:
        """Means since the last sample; nothing before GPM_PERIOD_NS have gone by."""
        if not self._wanted or (self._begun and at_ns - self._at_ns < GPM_PERIOD_NS):
            return {}
        older, newer = self._samples
        if not self._sample(newer):
            self._begun = False
            return {}
        values = self._between(older, newer) if self._begun else {}
        self._samples = [newer, older]
        self._at_ns, self._begun = at_ns, True
        return values

    def _sample(self, sample: Any) -> bool:
        if self._instance is None:
            return self._meter.call("GPM", "nvmlGpmSampleGet", self._device, sample) is not None
        return self._meter.call("GPM", "nvmlGpmMigSampleGet", self._device, self._instance, sample) is not None

    def _between(self, older: Any, newer: Any) -> dict[str, float]:
        question = self._lib.c_nvmlGpmMetricsGet_t()
        question.version = self._lib.NVML_GPM_METRICS_GET_VERSION
        question.numMetrics = len(self._wanted)
        question.sample1, question.sample2 = older, newer
        for place, number in enumerate(self._wanted):
            question.metrics[place].metricId = number
        if self._meter.call("GPM", "nvmlGpmMetricsGet", question) is None:
            return {}
        values: dict[str, float] = {}
        for place, (number, (name, scale)) in enumerate(list(self._wanted.items())):
            metric = question.metrics[place]
            if metric.nvmlReturn:
                self._meter.missing[f"{name} (GPM {number})"] = nvml.words(self._lib.NVMLError(metric.nvmlReturn))
                del self._wanted[number]
            elif math.isfinite(metric.value):
                values[name] = metric.value * scale
        return values

    def close(self) -> None:
        """Give the samples back."""
        for sample in self._samples:
            if sample is not None:
                self._meter.call("GPM", "nvmlGpmSampleFree", sample)
        self._samples, self._wanted = [], {}


class Events:
    """What the driver reports of its own accord: Xid errors of the devices that are registered."""

    def __init__(self, lib: Any, handles: Mapping[str, Any]) -> None:
        self.missing: dict[str, str] = {}
        self._lib = lib
        self._names: dict[int, str] = {}
        self._set: Any = None
        try:
            self._set = lib.nvmlEventSetCreate()
            for uuid, handle in handles.items():
                lib.nvmlDeviceRegisterEvents(handle, lib.nvmlEventTypeXidCriticalError, self._set)
                self._names[_address(handle)] = uuid
        except (lib.NVMLError, AttributeError) as error:
            self.missing["xid"] = nvml.words(error)

    def read(self) -> list[tuple[str, int]]:
        """UUID and Xid of everything since the last time; does not wait."""
        found: list[tuple[str, int]] = []
        while self._set is not None and self._names and len(found) < 100:
            try:
                told = self._lib.nvmlEventSetWait_v2(self._set, 0)
            except self._lib.NVMLError as error:
                if getattr(error, "value", None) != self._lib.NVML_ERROR_TIMEOUT:
                    self.missing["xid"] = nvml.words(error)
                    self.close()
                break
            found.append((self._names.get(_address(told.device), "unknown"), int(told.eventData)))
        return found

    def close(self) -> None:
        """Give the set back."""
        if self._set is not None:
            try:
                self._lib.nvmlEventSetFree(self._set)
            except self._lib.NVMLError as error:
                self.missing["xid"] = nvml.words(error)
            self._set = None


def _address(handle: Any) -> int:
    """The pointer behind a handle: two handles of one device are equal by it."""
    import ctypes

    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _put(values: dict[str, float], name: str, value: float | None) -> None:
    if value is not None:
        values[name] = float(value)


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale
