"""Do the GPUs work at full speed? Driver, NVML, and of each GPU its state, PCIe link, power cap and clocks."""

from __future__ import annotations

from collections.abc import Iterator

from probe.doctor.check import Check, broken, unknown, works
from probe.doctor.machine import Machine
from probe.machine.nvml import Gpu
from probe.units import format_bytes, format_si

NO_GPU = "no NVIDIA GPU here"
ON_CPU = "probe works without one; what needs a GPU is left out"
INSTALL_DRIVER = "install the NVIDIA driver (https://www.nvidia.com/drivers) and reboot"
PASS_GPUS = "start the container with its GPUs: docker run --gpus all …"
# What slows the clocks down, what that means, and what mends it; other event reasons are part of normal work.
SLOWDOWNS = {
    "hw_thermal_slowdown": ("too hot", "improve the cooling: fans, airflow, dust"),
    "sw_thermal_slowdown": ("too hot", "improve the cooling: fans, airflow, dust"),
    "hw_power_brake_slowdown": ("the power supply signals overload", "check the power supply and its cables"),
    "hw_slowdown": ("slowed down by the hardware (heat or power)", "check cooling and power supply"),
}


def driver(machine: Machine) -> Iterator[Check]:
    """Whether the kernel has a driver for the GPUs that are on the bus."""
    version = machine.nvml.driver or _version_of(machine.read("proc/driver/nvidia/version"))
    means = "the driver sets the newest CUDA that can run"
    if version:
        runs = f", runs CUDA {machine.nvml.cuda} and older" if machine.nvml.cuda else ""
        yield works("NVIDIA driver", version + runs, means)
    elif machine.nvidia_on_pci:
        seen = f"none loaded; NVIDIA GPUs on the PCI bus: {len(machine.nvidia_on_pci)}"
        yield broken("NVIDIA driver", seen, means, INSTALL_DRIVER)
    else:
        yield unknown("NVIDIA driver", NO_GPU, ON_CPU)


def _version_of(text: str | None) -> str | None:
    """The version in /proc/driver/nvidia/version: "NVRM version: NVIDIA UNIX … Kernel Module  580.65.06  Sun …"."""
    words = (text or "").split()
    return next((w for w in words if w[0].isdigit() and "." in w), None)


def nvml(machine: Machine) -> Iterator[Check]:
    """Whether NVML answers."""
    means = "names, clocks, power and links come from it"
    reason = machine.nvml.unavailable
    if reason is None and machine.nvml.gpus:
        yield works("NVML", f"answers; GPUs: {len(machine.nvml.gpus)}", means)
    elif reason is None:
        yield broken("NVML", "answers, but shows no GPU", means, PASS_GPUS)
    elif not machine.has_nvidia:
        yield unknown("NVML", NO_GPU, ON_CPU)
    else:
        yield broken("NVML", reason, means, _nvml_remedy(machine, reason))


def _nvml_remedy(machine: Machine, reason: str) -> str:
    if "nvidia-ml-py" in reason:
        return "pip install nvidia-ml-py"
    if "ersion mismatch" in reason:
        return "reboot: the driver was updated while its old kernel module is still loaded"
    if "Permission" in reason:
        return "give this user access to /dev/nvidia*, or start the container with --gpus all"
    return PASS_GPUS if machine.driver_loaded else INSTALL_DRIVER


def gpus(machine: Machine) -> Iterator[Check]:
    """Each GPU: does it answer, and can this torch run on it?"""
    if not machine.nvml.gpus:
        found = ("there is one, but NVML shows none", "nothing can be said of it", "mend NVML first")
        yield unknown("GPU", *(found if machine.has_nvidia else (NO_GPU, ON_CPU)))
    for gpu in machine.nvml.gpus:
        yield _gpu(machine, gpu)


def _gpu(machine: Machine, gpu: Gpu) -> Check:
    name = f"GPU {gpu.index}"
    lost = next(iter(gpu.failures.values()), None)
    if lost:
        return broken(name, f"{gpu.name or 'a GPU'}: {lost}", "it fell off the bus, or hangs", _mend_gpu(lost))
    used = f", {format_bytes(gpu.memory_used_bytes)} in use" if gpu.memory_used_bytes else ""
    found = f"{gpu.name}, sm_{(gpu.compute_capability or '?').replace('.', '')}"
    found += f", {format_bytes(gpu.memory_bytes)}{used}" + (", split by MIG" if gpu.mig else "")
    number = machine.visible.get(gpu.uuid or "")
    if number is None:
        return _unseen(machine, name, found)
    architectures = machine.torch.cuda.get_arch_list() if machine.torch else []
    if not runs_on(architectures, gpu.compute_capability):
        remedy = "install a torch build for this GPU: https://pytorch.org/get-started/locally"
        return broken(name, found, f"this torch has no kernels for it (only {', '.join(architectures)})", remedy)
    return works(name, found, f"torch calls it cuda:{number}")


def _mend_gpu(lost: str) -> str:
    if "Permission" in lost:
        return "give this user access to /dev/nvidia*"
    return "reboot; the cause is in: sudo dmesg | grep -i xid"


def _unseen(machine: Machine, name: str, found: str) -> Check:
    """A GPU that torch does not use: hidden on purpose, or because of what the torch check reports."""
    hidden = machine.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and (machine.cuda or machine.hides_gpus):
        means = f"hidden from this process by CUDA_VISIBLE_DEVICES={hidden!r}"
        return unknown(name, found, means, "to use it: unset CUDA_VISIBLE_DEVICES")
    return unknown(name, found, "torch does not use it", "mend torch first")


def runs_on(architectures: list[str], capability: str | None) -> bool:
    """Whether a torch build runs on a GPU: SASS for an older minor of the same major, or PTX of anything older.

    Unknown (an empty list, no capability) counts as yes.
    """
    if not architectures or not capability:
        return True
    major, minor = (int(part) for part in capability.split("."))
    for architecture in architectures:
        kind, _, number = architecture.rstrip("abcdef").partition("_")
        built = divmod(int(number), 10) if number.isdigit() else (0, 0)
        if kind == "compute" and built <= (major, minor):
            return True
        if kind == "sm" and built[0] == major and built[1] <= minor:
            return True
    return False


def pcie(machine: Machine) -> Iterator[Check]:
    """Each GPU's PCIe link against what GPU and slot can do. The generation drops while a GPU is idle."""
    if not machine.nvml.gpus:
        yield unknown("PCIe", NO_GPU, ON_CPU)
    for gpu in machine.nvml.gpus:
        name, means = f"PCIe {gpu.index}", "bounds copies between host and GPU"
        generation, width = gpu.pcie_generation, gpu.pcie_width
        if None in (generation, width, gpu.pcie_generation_max, gpu.pcie_width_max):
            yield unknown(name, "the GPU does not say (some VMs and integrated GPUs)", means)
            continue
        found = f"gen {generation} ×{width} of gen {gpu.pcie_generation_max} ×{gpu.pcie_width_max}"
        idle = "gpu_idle" in (gpu.clocks_event_reasons or ())
        if width != gpu.pcie_width_max:
            yield broken(name, found, "fewer lanes than it could have", "reseat the GPU, or move it to a full slot")
        elif generation != gpu.pcie_generation_max and not idle:
            remedy = "set the slot's PCIe generation to automatic in the BIOS; check riser cables"
            yield broken(name, found, "slower than it could be, though not idle", remedy)
        else:
            yield works(name, found + (", idle" if generation != gpu.pcie_generation_max else ""), means)


def power(machine: Machine) -> Iterator[Check]:
    """Each GPU's power cap against its default, and what holds its clocks back now."""
    if not machine.nvml.gpus:
        yield unknown("Power, clocks", NO_GPU, ON_CPU)
    for gpu in machine.nvml.gpus:
        yield _power(gpu)


def _power(gpu: Gpu) -> Check:
    name, means = f"Power, clocks {gpu.index}", "cap and clocks bound every measured rate"
    limit, default, reasons = gpu.power_limit_w, gpu.power_default_w, gpu.clocks_event_reasons
    parts = [_cap(gpu), _clock(gpu), ", ".join(reasons or ()).replace("_", " ")]
    found = "; ".join(filter(None, parts))
    if not found:
        return unknown(name, "the GPU does not say", means)
    for reason, (what, remedy) in SLOWDOWNS.items():  # the specific ones come first
        if reason in (reasons or ()):
            return broken(name, found, what, remedy)
    if limit is not None and default is not None and limit < default * 0.99:
        return broken(name, found, "capped below its default", f"sudo nvidia-smi -i {gpu.index} -pl {default:.0f}")
    if "applications_clocks_setting" in (reasons or ()):
        return broken(name, found, "its clocks were fixed by hand", f"sudo nvidia-smi -i {gpu.index} -rac")
    return works(name, found, means)


def _cap(gpu: Gpu) -> str:
    if gpu.power_limit_w is None:
        return ""
    default = f" of {gpu.power_default_w:.0f} W" if gpu.power_default_w is not None else ""
    highest = f" (at most {gpu.power_max_w:.0f} W)" if gpu.power_max_w not in (None, gpu.power_default_w) else ""
    return f"cap {gpu.power_limit_w:.0f} W{default}{highest}"


def _clock(gpu: Gpu) -> str:
    if gpu.sm_clock_hz is None or gpu.max_sm_clock_hz is None:
        return ""
    return f"clock {format_si(gpu.sm_clock_hz, 'Hz')} of {format_si(gpu.max_sm_clock_hz, 'Hz')}"
