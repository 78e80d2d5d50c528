"""What do the GPUs of this rank do, by NVML? Joined by UUID; a GPU that is cut by MIG is read slice by slice."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from probe.collectors.sampling import NotAvailable, Row, Tick
from probe.errors import UnavailableError
from probe.machine import environment, nvml
from probe.machine.nvml_meter import Events, Meter

RARELY_NS = 1_000_000_000  # between two readings of what changes rarely
MOST_GPUS = 16
MOST_SLICES = 16


class NvmlSource:
    """The GPUs that torch calls cuda:<n>; all that NVML shows where none are named."""

    name = "nvml"
    in_driver = True

    def __init__(self, gpus: tuple[int, ...] | None = None) -> None:
        self.via: str | None = None
        self.missing: dict[str, str] = {}
        self._gpus = gpus
        self._stack = ExitStack()
        self._meters: dict[str, Meter] = {}  # by UUID, of a slice by that of its GPU and its instance
        self._whole: dict[str, Meter] = {}
        self._told: dict[str, dict[str, Any]] = {}  # what does not change
        self._events: Events | None = None
        self._rarely_ns = 0
        self._rarely_unix_s = time.time()

    def open(self) -> None:
        try:
            lib = self._stack.enter_context(nvml.opened())
        except UnavailableError as error:
            raise NotAvailable(str(error)) from error
        for handle in self._handles(lib):
            self._add(lib, handle)
        if not self._meters:
            self._stack.close()
            raise NotAvailable("NVML shows no GPU of this process")
        version = nvml.driver_version(lib)
        self.via = f"nvidia-ml-py, driver {version}" if version else "nvidia-ml-py"
        self._events = Events(lib, {uuid: meter.handle for uuid, meter in self._whole.items()})

    def _handles(self, lib: Any) -> Iterator[Any]:
        if self._gpus is None:
            yield from nvml.handles(lib)[:MOST_GPUS]
            return
        for index in self._gpus[:MOST_GPUS]:
            gpu = environment.nvml_gpu(index)
            handle = None if gpu is None else nvml.handle_of(lib, gpu.uuid, gpu.bus_id)
            if handle is None:
                self.missing[f"cuda:{index}"] = "NVML does not know it"
            else:
                yield handle

    def _add(self, lib: Any, handle: Any) -> None:
        gpu = nvml.read_gpu(lib, handle)
        uuid = gpu.uuid or f"GPU {gpu.index}"
        for name, reason in gpu.failures.items():
            self.missing[f"{uuid}: {name}"] = reason
        self._told[uuid] = {
            "name": gpu.name, "index": gpu.index, "bus_id": gpu.bus_id, "memory_bytes": gpu.memory_bytes,
            "max_sm_clock_hz": gpu.max_sm_clock_hz, "power_limit_w": gpu.power_limit_w,
            "power_default_w": gpu.power_default_w, "mig": gpu.mig,
        }  # fmt: skip
        self._whole[uuid] = self._meters[uuid] = Meter(lib, handle)
        if gpu.mig:
            for instance, slice_handle in nvml.mig_slices(lib, handle, MOST_SLICES):
                self._meters[f"{uuid}/{instance}"] = Meter(lib, slice_handle, instance=instance, parent=handle)

    def rest(self) -> None:
        return None

    def read(self, tick: Tick) -> Iterable[Row]:
        rarely = tick.at_ns - self._rarely_ns >= RARELY_NS
        xids = dict(self._events.read()) if self._events is not None and rarely else {}
        for uuid, meter in self._meters.items():
            values = meter.state(tick.at_ns)
            if rarely:
                values |= meter.health() | self._processes(meter)
            if uuid in xids:
                values["xid"] = float(xids[uuid])
            values["refused_questions"] = float(len(meter.failures))
            yield uuid, values
        if rarely:
            self._rarely_ns, self._rarely_unix_s = tick.at_ns, time.time()

    def _processes(self, meter: Meter) -> dict[str, float]:
        told = {"other_processes": meter.others(), "busy_other_processes": meter.busy_others(self._rarely_unix_s)}
        return {name: float(count) for name, count in told.items() if count is not None}

    def about(self) -> dict[str, Any]:
        """What does not change, and what each device refuses."""
        refused = {uuid: {**meter.missing, **meter.failures} for uuid, meter in list(self._meters.items())}
        events = {} if self._events is None else dict(self._events.missing)
        return {"gpus": dict(self._told), "refused": refused, "events": events}

    def close(self) -> None:
        for meter in self._meters.values():
            meter.close()
        if self._events is not None:
            self._events.close()
        self._stack.close()

    def forget(self) -> None:
        self._stack.pop_all()  # the child must not shut the parent's NVML down
