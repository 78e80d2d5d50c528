"""What does NVML say about the NVIDIA GPUs? Reads once, into plain data; never raises for what is missing.

NVML's own numbering ignores CUDA_VISIBLE_DEVICES; join with torch's devices by `uuid` or `bus_id`, never by
index. What a GPU does not support is None; other refusals (a lost GPU, no permission) are in `Gpu.failures`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from probe.errors import UnavailableError

# Bits of nvmlDeviceGetCurrentClocksEventReasons, nvml.h; the words of `nvidia-smi -q -d PERFORMANCE`.
EVENT_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
# nvmlGpuP2PStatus_t
P2P_STATUS = {
    0: "ok",
    1: "chipset not supported",
    2: "GPU not supported",
    3: "topology not supported",
    4: "disabled by registry key",
    5: "not supported",
}
# nvmlGpuTopologyLevel_t, by the words of `nvidia-smi topo -m`
TOPOLOGY = {0: "same board", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
_SWITCH = 2  # NVML_NVLINK_DEVICE_TYPE_SWITCH
_READ, _NVLINK = 0, 2  # nvmlGpuP2PCapsIndex_t; nvidia-ml-py 13.615 has the first as a tuple by mistake


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML sees it now; None where it does not say."""

    index: int  # NVML's, not torch's
    name: str | None = None
    uuid: str | None = None
    bus_id: str | None = None  # "00000000:1A:00.0"
    driver: str | None = None
    compute_capability: str | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    sm_clock_hz: float | None = None
    max_sm_clock_hz: float | None = None
    clocks_event_reasons: tuple[str, ...] | None = None
    power_w: float | None = None
    power_limit_w: float | None = None  # enforced: the lowest of all limits in force
    power_default_w: float | None = None
    power_max_w: float | None = None
    pcie_generation: int | None = None  # of the link now; it drops while the GPU is idle
    pcie_generation_max: int | None = None  # what this GPU in this slot can reach
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    mig: bool | None = None
    nvlinks: tuple[str, ...] = ()  # per link: "down", "switch", or the bus id of the GPU at its other end
    failures: dict[str, str] = field(default_factory=dict)  # NVML function -> what it said

    @property
    def nvlinks_active(self) -> int:
        """How many NVLinks are up."""
        return sum(link != "down" for link in self.nvlinks)


@dataclass(frozen=True)
class Pair:
    """How two GPUs reach each other."""

    a: int
    b: int
    read: str | None  # peer-to-peer reads: "ok", or why not
    nvlink: str | None  # peer-to-peer over NVLink: "ok", or why not
    path: str | None  # nearest common ancestor over PCIe


@dataclass(frozen=True)
class System:
    """All GPUs that NVML shows, or in `unavailable` why it shows none."""

    unavailable: str | None = None
    driver: str | None = None
    cuda: str | None = None  # the newest CUDA this driver runs: "13.0"
    gpus: tuple[Gpu, ...] = ()
    pairs: tuple[Pair, ...] = ()


class NvmlError(UnavailableError):
    """NVML cannot be used: no library, no driver, or no right to talk to it."""


@contextmanager
def opened() -> Iterator[Any]:
    """The initialised `pynvml` module; NvmlError where there is none. Nests: NVML counts its users."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError as error:
        raise NvmlError("the package nvidia-ml-py is missing; pip install nvidia-ml-py") from error
    except pynvml.NVMLError as error:
        raise NvmlError(f"NVML: {words(error)}") from error
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):  # a GPU lost meanwhile must not mask what the caller found
            pynvml.nvmlShutdown()


def examine() -> System:
    """Every GPU with its state, and how each pair is connected."""
    try:
        with opened() as lib:
            return _examine(lib)
    except NvmlError as error:
        return System(unavailable=str(error))


def find(*, uuid: str | None = None, bus_id: str | None = None) -> Gpu | None:
    """The GPU with this UUID (with or without "GPU-") or PCI bus id; None where NVML knows neither."""
    try:
        with opened() as lib:
            handle = handle_of(lib, uuid, bus_id)
            return None if handle is None else read_gpu(lib, handle)
    except NvmlError:
        return None


def driver_version(lib: Any) -> str | None:
    """The version of the driver, "580.65.06"."""
    version = _ask(lib, {}, "nvmlSystemGetDriverVersion")
    return None if version is None else _text(version)


def handles(lib: Any) -> list[Any]:
    """Handles of all GPUs that answer, in NVML's order."""
    found = (_ask(lib, {}, "nvmlDeviceGetHandleByIndex", i) for i in range(_ask(lib, {}, "nvmlDeviceGetCount") or 0))
    return [handle for handle in found if handle is not None]


def mig_slices(lib: Any, handle: Any, most: int) -> list[tuple[int, Any]]:
    """The slices that a GPU is cut into: their GPU instance, and a handle each."""
    slices = []
    for index in range(min(_ask(lib, {}, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0, most)):
        found = _ask(lib, {}, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        instance = None if found is None else _ask(lib, {}, "nvmlDeviceGetGpuInstanceId", found)
        if instance is not None:
            slices.append((int(instance), found))
    return slices


def event_reasons(mask: int) -> tuple[str, ...]:
    """The words for a mask of clocks event reasons; a bit without a name is kept as hexadecimal."""
    named = [word for bit, word in EVENT_REASONS.items() if mask & bit]
    rest = mask & ~sum(EVENT_REASONS)
    return (*named, hex(rest)) if rest else tuple(named)


def read_gpu(lib: Any, handle: Any) -> Gpu:
    """Everything NVML says about one GPU now."""
    failures: dict[str, str] = {}

    def ask(name: str, *arguments: Any) -> Any:
        return _ask(lib, failures, name, handle, *arguments)

    pci, memory = ask("nvmlDeviceGetPciInfo"), ask("nvmlDeviceGetMemoryInfo")
    capability, reasons = (
        ask("nvmlDeviceGetCudaComputeCapability"),
        ask("nvmlDeviceGetCurrentClocksEventReasons"),
    )
    limits, mig = ask("nvmlDeviceGetPowerManagementLimitConstraints"), ask("nvmlDeviceGetMigMode")
    index = ask("nvmlDeviceGetIndex")
    return Gpu(
        index=-1 if index is None else index,
        name=ask("nvmlDeviceGetName"),
        uuid=ask("nvmlDeviceGetUUID"),
        bus_id=_text(pci.busId) if pci else None,
        driver=_ask(lib, failures, "nvmlSystemGetDriverVersion"),
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        memory_bytes=int(memory.total) if memory else None,
        memory_used_bytes=int(memory.used) if memory else None,
        sm_clock_hz=_scaled(ask("nvmlDeviceGetClockInfo", lib.NVML_CLOCK_SM), 1e6),
        max_sm_clock_hz=_scaled(ask("nvmlDeviceGetMaxClockInfo", lib.NVML_CLOCK_SM), 1e6),
        clocks_event_reasons=None if reasons is None else event_reasons(reasons),
        power_w=_scaled(ask("nvmlDeviceGetPowerUsage"), 1e-3),
        power_limit_w=_scaled(ask("nvmlDeviceGetEnforcedPowerLimit"), 1e-3),
        power_default_w=_scaled(ask("nvmlDeviceGetPowerManagementDefaultLimit"), 1e-3),
        power_max_w=_scaled(limits[1] if limits else None, 1e-3),
        pcie_generation=ask("nvmlDeviceGetCurrPcieLinkGeneration"),
        pcie_generation_max=ask("nvmlDeviceGetMaxPcieLinkGeneration"),
        pcie_width=ask("nvmlDeviceGetCurrPcieLinkWidth"),
        pcie_width_max=ask("nvmlDeviceGetMaxPcieLinkWidth"),
        mig=None if mig is None else bool(mig[0]),
        nvlinks=_nvlinks(lib, handle),
        failures=failures,
    )


def _examine(lib: Any) -> System:
    count = _ask(lib, {}, "nvmlDeviceGetCount") or 0
    found = [_ask(lib, {}, "nvmlDeviceGetHandleByIndex", i) for i in range(count)]
    gpus = tuple(
        Gpu(i, failures={"nvmlDeviceGetHandleByIndex": _refusal(lib, i)}) if h is None else read_gpu(lib, h)
        for i, h in enumerate(found)
    )
    known = [(i, h) for i, h in enumerate(found) if h is not None]
    pairs = tuple(_pair(lib, a, b) for n, a in enumerate(known) for b in known[n + 1 :])
    version = _ask(lib, {}, "nvmlSystemGetCudaDriverVersion_v2")
    cuda = f"{version // 1000}.{version % 1000 // 10}" if version else None
    return System(None, _ask(lib, {}, "nvmlSystemGetDriverVersion"), cuda, gpus, pairs)


def _refusal(lib: Any, index: int) -> str:
    failures: dict[str, str] = {}
    _ask(lib, failures, "nvmlDeviceGetHandleByIndex", index)
    return next(iter(failures.values()), "no handle")


def _pair(lib: Any, a: tuple[int, Any], b: tuple[int, Any]) -> Pair:
    read = _ask(lib, {}, "nvmlDeviceGetP2PStatus", a[1], b[1], _READ)
    nvlink = _ask(lib, {}, "nvmlDeviceGetP2PStatus", a[1], b[1], _NVLINK)
    path = _ask(lib, {}, "nvmlDeviceGetTopologyCommonAncestor", a[1], b[1])
    return Pair(a[0], b[0], P2P_STATUS.get(read), P2P_STATUS.get(nvlink), TOPOLOGY.get(path))


def _nvlinks(lib: Any, handle: Any) -> tuple[str, ...]:
    """The other end of every NVLink; empty for a GPU without any (its link 0 is refused)."""
    ends = []
    for link in range(lib.NVML_NVLINK_MAX_LINKS):
        state = _ask(lib, {}, "nvmlDeviceGetNvLinkState", handle, link)
        if state is None and link == 0:
            break
        if state is not None:
            ends.append(_far_end(lib, handle, link) if state else "down")
    return tuple(ends)


def _far_end(lib: Any, handle: Any, link: int) -> str:
    if _ask(lib, {}, "nvmlDeviceGetNvLinkRemoteDeviceType", handle, link) == _SWITCH:
        return "switch"
    remote = _ask(lib, {}, "nvmlDeviceGetNvLinkRemotePciInfo", handle, link)
    return _text(remote.busId) if remote else "unknown"


def handle_of(lib: Any, uuid: str | None, bus_id: str | None) -> Any:
    """A handle by UUID, then by bus id; a MIG slice's UUID leads to the GPU it is cut from."""
    names = [uuid, f"GPU-{uuid}", f"MIG-{uuid}"] if uuid else []
    for name in names:
        handle = _ask(lib, {}, "nvmlDeviceGetHandleByUUID", name)
        if handle is not None:
            whole = _ask(lib, {}, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
            return handle if whole is None else whole
    return _ask(lib, {}, "nvmlDeviceGetHandleByPciBusId", bus_id) if bus_id else None


def _ask(lib: Any, failures: dict[str, str], name: str, *arguments: Any) -> Any:
    """The answer of one NVML function; None when refused, which is noted unless it is merely unsupported."""
    try:
        return getattr(lib, name)(*arguments)
    except (lib.NVMLError_NotSupported, lib.NVMLError_FunctionNotFound):
        return None
    except lib.NVMLError as error:
        failures[name] = words(error)
        return None


def words(error: Exception) -> str:
    """What an NVML error says, in one line."""
    return " ".join(str(error).split())


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
