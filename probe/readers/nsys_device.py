"""Which GPU does an export of Nsight Systems speak of?"""

from __future__ import annotations

import numpy as np

from probe.machine.device import Device
from probe.readers.events import NONE
from probe.readers.nsys_database import Database
from probe.trace import Int32s

_GPU = ("id", "name", "computeMajor", "computeMinor", "smCount", "totalMemory", "l2CacheSize")


def device_of(database: Database, pid: int | None, used: Int32s) -> tuple[Device, tuple[str, ...]]:
    """The GPU that ran most of the work, and a warning where the export does not say which it is."""
    gpus = database.table("TARGET_INFO_GPU", _GPU)
    unsure: tuple[str, ...] = ()
    if not gpus and not len(used):
        return Device(kind="unknown", name="unknown device"), ()
    found = _gpu_of(database, gpus, pid, used)
    if found is None:
        reason = "none is described" if not gpus else "several are described"
        unsure = (f"the export does not say which GPU ran the work ({reason}): its figures are unknown",)
        return Device(kind="cuda", name="unknown device"), unsure
    version = (found["computeMajor"], found["computeMinor"])
    return Device(
        kind="cuda",
        name=str(found["name"] or "unknown device"),
        compute_capability="{}.{}".format(*version) if all(isinstance(n, int) for n in version) else None,
        sm_count=_positive(found["smCount"]),
        memory_bytes=_positive(found["totalMemory"]),
        l2_bytes=_positive(found["l2CacheSize"]),
    ), ()


def _gpu_of(
    database: Database, gpus: list[dict[str, object]], pid: int | None, used: Int32s
) -> dict[str, object] | None:
    """The description of the GPU that the process used most; a process counts its GPUs on its own."""
    if not gpus:
        return None
    if all({**gpu, "id": None} == {**gpus[0], "id": None} for gpu in gpus):
        return gpus[0]
    known = used[used >= 0]
    most = int(np.bincount(known).argmax()) if len(known) else NONE
    told = database.table("TARGET_INFO_CUDA_DEVICE", ("gpuId", "cudaId", "pid"))
    ids = {row["gpuId"] for row in told if row["cudaId"] == most and pid in (None, row["pid"])}
    found = [gpu for gpu in gpus if gpu["id"] in ids]
    return found[0] if len(found) == 1 else None


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
