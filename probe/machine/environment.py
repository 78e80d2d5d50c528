"""Which machine and software does a result come from? The device, and the surroundings recorded with it.

Nothing is imported or opened until a function is called, and what is absent is None. The host's name is
recorded only on request: results are passed on.
"""

from __future__ import annotations

import os
import platform
import subprocess
import warnings
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from probe.errors import UnavailableError
from probe.machine import cpu_info, nvml
from probe.machine.device import Device

# Settings that change how fast the same program runs; recorded where set, to tell two results apart.
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_PROC_BIND",
    "KMP_AFFINITY",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "NVIDIA_TF32_OVERRIDE",
)


def cpu_device() -> Device:
    """This machine's CPU; `cores` counts the affinity mask, whatever a cgroup quota grants."""
    info = cpu_info.parse_cpuinfo(cpu_info.read_text(Path("/proc/cpuinfo")) or "")
    cpus = cpu_info.affinity()
    return Device(
        kind="cpu",
        name=info.model or cpu_info.model_name() or "unknown CPU",
        cores=len(cpus),
        physical_cores=cpu_info.physical_cores(cpus) or cpu_info.darwin_physical_cores(),
        isa=info.isa or cpu_info.darwin_isa(),
        caches=cpu_info.caches(cpus[0]) or cpu_info.darwin_caches(),
        memory_bytes=cpu_info.memory_bytes(),
    )


def cuda_device(index: int = 0) -> Device:
    """Device `cuda:<index>` as torch numbers it; driver and maximum SM clock are NVML's, matched by UUID.

    Raises UnavailableError with the remedy where torch cannot use a GPU or has none of that number.
    """
    torch = usable_cuda()
    count = torch.cuda.device_count()
    if not 0 <= index < count:
        last = f" … cuda:{count - 1}" if count > 1 else ""
        raise UnavailableError(f"there is no cuda:{index}; this process sees {count} GPU(s): use cuda:0{last}")
    properties = torch.cuda.get_device_properties(index)
    gpu = nvml_gpu(index)
    rate_khz = getattr(properties, "clock_rate", None)  # torch >= 2.10; NVML's is the same limit
    clock_hz = gpu.max_sm_clock_hz if gpu else rate_khz * 1e3 if rate_khz else None
    return Device(
        kind="rocm" if torch.version.hip else "cuda",
        name=properties.name,
        compute_capability=f"{properties.major}.{properties.minor}",
        sm_count=properties.multi_processor_count,
        clock_hz=clock_hz,
        l2_bytes=getattr(properties, "L2_cache_size", None),
        memory_bytes=properties.total_memory,
        driver=gpu.driver if gpu else None,
    )


def usable_cuda() -> ModuleType:
    """torch, where it can run on a GPU; otherwise UnavailableError saying why not and what to do."""
    torch = import_torch()
    if torch is None:
        raise UnavailableError("torch cannot be imported; install it: pip install torch")
    if not (torch.version.cuda or torch.version.hip):
        raise UnavailableError(
            f"torch {torch.__version__} is built for the CPU only; "
            "install a CUDA build (https://pytorch.org/get-started/locally), or use --device cpu"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        said = " ".join(str(caught[0].message).split()) if caught else "no GPU is visible to it"
        raise UnavailableError(f"torch {torch.__version__} cannot use a GPU: {said}; see `probe doctor`")
    return torch


def import_torch() -> ModuleType | None:
    """torch, or None where it is not installed or does not load."""
    return load_torch()[0]


def load_torch() -> tuple[ModuleType | None, str | None]:
    """(torch, None), or (None, why it cannot be imported)."""
    try:
        import torch
    except ImportError as error:
        return None, "not installed" if error.name == "torch" else f"does not load: {error}"
    except (OSError, RuntimeError, AttributeError) as error:  # libraries missing, or not made for each other
        return None, f"does not load: {error}"
    return torch, None


def nvml_gpu(index: int) -> nvml.Gpu | None:
    """What NVML knows of torch's `cuda:<index>`: CUDA_VISIBLE_DEVICES renumbers only torch's devices."""
    torch = import_torch()
    if torch is None:
        return None
    properties = torch.cuda.get_device_properties(index)
    uuid = str(getattr(properties, "uuid", "") or "") or None  # torch >= 2.4
    bus = getattr(properties, "pci_bus_id", None)  # torch >= 2.9
    domain, slot = getattr(properties, "pci_domain_id", 0), getattr(properties, "pci_device_id", 0)
    bus_id = None if bus is None else f"{domain:08X}:{bus:02X}:{slot:02X}.0"
    return nvml.find(uuid=uuid, bus_id=bus_id)


def describe(device: Device | None = None, *, cuda_index: int = 0, hostname: bool = False) -> dict[str, Any]:
    """The surroundings of a result as plain JSON values; `cuda_index` is torch's number of a GPU."""
    torch = import_torch()
    gpu = nvml_gpu(cuda_index) if device is not None and device.kind == "cuda" else None
    described: dict[str, Any] = {
        "probe": _version("torch-probe"),
        "torch": str(torch.__version__) if torch else None,
        "cuda": torch.version.cuda if torch else None,
        "hip": torch.version.hip if torch else None,
        "driver": gpu.driver if gpu else None,
        "python": platform.python_version(),
        "os": operating_system(),
        "git": git_state(),
        "clocks_event_reasons": list(gpu.clocks_event_reasons)
        if gpu and gpu.clocks_event_reasons is not None
        else None,
        "threads": torch.get_num_threads() if torch else None,
        "affinity": cpu_info.format_cpu_list(cpu_info.affinity()),
        "cpu_quota": cpu_info.cpu_quota(cpu_info.read_text(Path("/proc/self/cgroup")) or ""),
        "cpu_governor": cpu_governor(),
        "load_average": load_average(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    return described | ({"hostname": platform.node()} if hostname else {})


def operating_system() -> str:
    """Distribution, kernel, architecture: "Ubuntu 24.04.2 LTS, Linux 6.8.0-45-generic x86_64"."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:  # macOS, Windows
        name = None
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{name}, {kernel}" if name else kernel


def git_state(directory: Path | None = None, timeout_s: float = 2.0) -> dict[str, Any] | None:
    """{"commit", "dirty"} of the repository around `directory` (default: the current); None outside any.

    `dirty` is about tracked files. Takes no lock and starts no hook, so it cannot disturb a running git.
    """
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "status"]
    options = ["--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules"]
    try:
        done = subprocess.run(
            command + options, cwd=directory, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_git_status(done.stdout) if done.returncode == 0 else None


def parse_git_status(text: str) -> dict[str, Any] | None:
    """The commit and whether tracked files differ from it, in `git status --porcelain=v2 --branch`."""
    lines = text.splitlines()
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    if oid is None or oid == "(initial)":
        return None
    return {"commit": oid, "dirty": any(not line.startswith("#") for line in lines)}


def cpu_governor(root: Path = Path("/sys/devices/system/cpu")) -> str | None:
    """The frequency governor of the first CPU ("performance", "powersave", …); None in most VMs."""
    return cpu_info.read_text(root / "cpu0" / "cpufreq" / "scaling_governor")


def load_average() -> list[float] | None:
    """Runnable tasks averaged over 1, 5 and 15 minutes: who else was using the machine."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
