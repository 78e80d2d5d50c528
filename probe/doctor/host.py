"""What can the CPU and memory do? Model, ISA, caches, limits, NUMA, frequency, huge pages, executable memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from collections.abc import Iterator

from probe.doctor.check import Check, broken, unknown, works
from probe.doctor.machine import Machine
from probe.kernels.cpu import machine_code
from probe.machine import cpu_info
from probe.units import format_bytes, significant

ENOUGH_MEMORY_BYTES = 1 << 30  # the bandwidth suite: three arrays of 256 MiB


def cpu(machine: Machine) -> Iterator[Check]:
    """The model and how many of its cores this process may use."""
    device = machine.cpu
    physical = f", {device.physical_cores} physical" if device.physical_cores else ""
    of_all = f" of {os.cpu_count()}" if os.cpu_count() != device.cores else ""
    found = f"{device.name}, {device.cores}{of_all} logical CPUs{physical}"
    yield works("CPU", found, "ceilings are stored per CPU model and number of CPUs")


def isa(machine: Machine) -> Iterator[Check]:
    """The instruction sets that set peak rates, and which of them torch uses."""
    means = "sets the peak rate of each dtype"
    if not machine.cpu.isa:
        yield unknown("Instruction sets", "not readable on this system", means)
        return
    found = " ".join(machine.cpu.isa)
    forced = machine.environ.get("ATEN_CPU_CAPABILITY")
    if forced:
        means = f"ATEN_CPU_CAPABILITY={forced} holds torch back"
        yield broken("Instruction sets", found, means, "unset ATEN_CPU_CAPABILITY")
    else:
        used = machine.torch.backends.cpu.get_cpu_capability() if machine.torch else None
        yield works("Instruction sets", found, f"torch uses {used}" if used else means)


def caches(machine: Machine) -> Iterator[Check]:
    """The data caches as the system reports them."""
    if not machine.cpu.caches:
        yield unknown("Caches", "the system or its VM does not tell them", "probe run microbench measures them")
        return
    sizes = (
        f"L{c.level} {format_bytes(c.bytes)}" + (f" per {c.shared_by} CPUs" if c.shared_by > 1 else "")
        for c in machine.cpu.caches
    )
    yield works("Caches", ", ".join(sizes), "as the system says; probe run microbench measures them")


def limits(machine: Machine) -> Iterator[Check]:
    """Whether as many threads run as there are CPUs: affinity, cgroup quota, torch's threads."""
    cores = machine.cpu.cores or 1
    quota = cpu_info.cpu_quota(machine.read("proc/self/cgroup") or "", machine.root / "sys/fs/cgroup")
    threads = machine.torch.get_num_threads() if machine.torch else None
    found = f"affinity {cpu_info.format_cpu_list(cpu_info.affinity())}"
    found += f", cgroup quota {significant(quota)} CPUs" if quota else ", no cgroup quota"
    found += f", {threads} torch thread{'s' * (threads != 1)}" if threads else ""
    allowed = max(1, int(min(quota or cores, cores)))
    if threads and threads > allowed:
        remedy = f"export OMP_NUM_THREADS={allowed}, or raise the limit"
        yield broken("CPU limits", found, "more threads than CPUs: they are throttled in the middle of work", remedy)
    else:
        yield works("CPU limits", found, "what this process may use")


def numa(machine: Machine) -> Iterator[Check]:
    """The NUMA nodes, and on how many of them this process may run."""
    directories = sorted((machine.root / "sys/devices/system/node").glob("node[0-9]*"))
    nodes = {d.name: set(cpu_info.parse_cpu_list(cpu_info.read_text(d / "cpulist") or "")) for d in directories}
    mine = [name for name, cpus in nodes.items() if cpus & set(cpu_info.affinity())]
    if not nodes:
        yield unknown("NUMA", "the system shows no nodes", "memory is equally near to every CPU")
    elif len(mine) <= 1:
        yield works(
            "NUMA",
            "one node" if len(nodes) == 1 else f"{len(nodes)} nodes, this process on one of them",
            "memory is equally near to every CPU",
        )
    else:
        node = mine[0].removeprefix("node")
        remedy = f"where one node is enough: numactl --cpunodebind={node} --membind={node} …"
        found = f"{len(nodes)} nodes, this process on {len(mine)}"
        yield unknown("NUMA", found, "far memory is slower, and runs differ by where they land", remedy)


def frequency(machine: Machine) -> Iterator[Check]:
    """The frequency governor and turbo; in most VMs the host decides."""
    name, means = "CPU frequency", "a governor that saves power measures low and unsteady"
    root = "sys/devices/system/cpu"
    governor = machine.read(f"{root}/cpu0/cpufreq/scaling_governor")
    if governor is None:
        yield unknown(name, "not visible; in a VM the host decides", means)
        return
    scaling = machine.read(f"{root}/cpu0/cpufreq/scaling_driver") or ""
    found = f"governor {governor}" + (f" ({scaling})" if scaling else "") + _turbo(machine, root)
    # intel_pstate and amd-pstate-epp raise the clock under load with their `powersave`; acpi-cpufreq's never does.
    if governor == "powersave" and "pstate" not in scaling:
        yield broken(name, found, "the CPU stays at its lowest clock", "sudo cpupower frequency-set -g performance")
    else:
        yield works(name, found, means)


def _turbo(machine: Machine, root: str) -> str:
    disabled, boost = machine.read(f"{root}/intel_pstate/no_turbo"), machine.read(f"{root}/cpufreq/boost")
    if disabled is None and boost is None:
        return ""
    return ", turbo off" if disabled == "1" or boost == "0" else ", turbo on"


def huge_pages(machine: Machine) -> Iterator[Check]:
    """Transparent huge pages: without them large arrays miss the TLB."""
    name, means = "Huge pages", "large arrays in 2 MiB pages miss the TLB less"
    text = machine.read("sys/kernel/mm/transparent_hugepage/enabled") or ""
    mode = text[text.find("[") + 1 : text.find("]")] if "[" in text else None
    if mode is None:
        yield unknown(name, "not visible on this system", means)
    elif mode == "never":
        remedy = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        yield broken(name, "transparent huge pages: never", means, remedy)
    else:
        yield works(name, f"transparent huge pages: {mode}", means)


def executable_memory(machine: Machine) -> Iterator[Check]:
    """Whether a page may be made executable once it is written, which the CPU microbenchmarks need."""
    name, means = "Executable memory", "the CPU microbenchmarks run their own machine code"
    if not hasattr(mmap, "PROT_EXEC"):
        yield unknown(name, f"cannot be asked on {platform.system()}", means)
        return
    try:
        machine_code.function(b"\0", ctypes.CFUNCTYPE(None))  # never called; never writable and executable at once
    except OSError as error:
        remedy = "allow it for this process (SELinux: sudo setsebool -P deny_execmem 0)"
        yield broken(name, f"refused: {os.strerror(error.errno or 0)}", means, remedy)
    else:
        yield works(name, "allowed", means)


def memory(machine: Machine) -> Iterator[Check]:
    """Memory of the machine, what is free, and what cgroups grant."""
    rows = cpu_info.parse_meminfo(machine.read("proc/meminfo") or "")
    total, free = rows.get("MemTotal") or machine.cpu.memory_bytes, rows.get("MemAvailable")
    granted = cpu_info.memory_limit_bytes(machine.read("proc/self/cgroup") or "", machine.root / "sys/fs/cgroup")
    limited = granted is not None and (total is None or granted < total)
    found = f"{format_bytes(total)}, {format_bytes(free)} available"
    found += f", cgroup limit {format_bytes(granted)}" if limited else ""
    least = min((b for b in (free, granted) if b is not None), default=None)
    if least is None:
        yield unknown("Memory", found, "how much is free is not visible")
    elif least < ENOUGH_MEMORY_BYTES:
        remedy = "close other programs, or raise the limit"
        yield broken("Memory", found, f"the bandwidth suite needs {format_bytes(ENOUGH_MEMORY_BYTES)}", remedy)
    else:
        yield works("Memory", found, "bounds the size of what can be measured")
