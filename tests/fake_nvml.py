"""Which GPUs does a test pretend to have? Builds tests/fake_nvml.c and writes its state file."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("fake_nvml.c")

# An idle H100 SXM, as nvidia-smi -q shows it.
H100: Mapping[str, Any] = {
    "name": "NVIDIA H100 80GB HBM3",
    "compute_capability": 90,
    "memory_bytes": 85899345920,
    "sm_clock_mhz": 345,
    "max_sm_clock_mhz": 1980,
    "clocks_event_reasons": 0x1,
    "power_mw": 70000,
    "power_limit_mw": 700000,
    "power_default_mw": 700000,
    "power_max_mw": 700000,
    "pcie_generation": 5,
    "pcie_generation_max": 5,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "mig": 0,
    "nvlinks": 18,
    "nvlink_peer": "switch",
}
CONNECTED = {"read": 0, "nvlink": 0, "path": 50}


def build(directory: Path) -> Path | None:
    """The compiled fake, named as the real one; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = directory / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, "-o", library, SOURCE], check=True)
    return library


def state(*gpus: Mapping[str, Any], pair: Mapping[str, int] = CONNECTED, **more: Any) -> str:
    """The state file of `gpus` on top of H100's; `more` are whole keys, with __ for the dot: system__cuda=12040."""
    rows = {"system.driver": "580.65.06", "system.cuda": 13000, "system.gpus": len(gpus)}
    for index, gpu in enumerate(gpus):
        own = {"uuid": f"GPU-{index:08d}-0000", "bus_id": f"00000000:{0x1A + index:02X}:00.0"}
        rows |= {f"gpu{index}.{key}": value for key, value in (H100 | own | gpu).items() if value is not None}
        rows |= {f"pair{index}.{b}.{key}": v for b in range(index + 1, len(gpus)) for key, v in pair.items()}
    rows |= {key.replace("__", "."): value for key, value in more.items()}
    return "".join(f"{key} {value}\n" for key, value in rows.items())


@contextmanager
def loaded(monkeypatch: Any, library: Path, state_file: Path) -> Iterator[None]:
    """nvidia-ml-py in this process talks to the fake; undone afterwards, with its cache of function pointers."""
    import pynvml

    with monkeypatch.context() as patch:
        patch.setenv("FAKE_NVML_STATE", str(state_file))
        patch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        yield
