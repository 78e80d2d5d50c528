"""What do this machine, driver, torch and permissions allow, and which step mends what does not work?

Each check is a function of `Machine` that yields `Check`s. Nothing is started, installed or created.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from probe.doctor import gpu, host, links, rights, software, storage
from probe.doctor.check import Check, Doctor, unknown
from probe.doctor.machine import Machine, look
from probe.machine import environment

Examination = Callable[[Machine], Iterator[Check]]

# (group, name under which a failure of the check itself is reported, check), in the order they are shown
CHECKS: tuple[tuple[str, str, Examination], ...] = (
    ("Software", "Python", software.python),
    ("Software", "torch", software.torch_build),
    ("Software", "torch.profiler", software.profiler),
    ("Software", "C++ compiler", software.compiler),
    ("Software", "nvcc", software.nvcc),
    ("Software", "Triton", software.triton),
    ("GPU", "NVIDIA driver", gpu.driver),
    ("GPU", "NVML", gpu.nvml),
    ("GPU", "GPU", gpu.gpus),
    ("GPU", "PCIe", gpu.pcie),
    ("GPU", "Power, clocks", gpu.power),
    ("GPU", "Peer-to-peer", links.peer_to_peer),
    ("GPU", "NVLink", links.nvlink),
    ("Permissions", "CUPTI", rights.cupti),
    ("Permissions", "GPU counters", rights.gpu_counters),
    ("Permissions", "CPU counters", rights.cpu_counters),
    ("Permissions", "Attaching (ptrace)", rights.attaching),
    ("Permissions", "DCGM", rights.dcgm),
    ("CPU and memory", "CPU", host.cpu),
    ("CPU and memory", "Instruction sets", host.isa),
    ("CPU and memory", "Caches", host.caches),
    ("CPU and memory", "CPU limits", host.limits),
    ("CPU and memory", "NUMA", host.numa),
    ("CPU and memory", "CPU frequency", host.frequency),
    ("CPU and memory", "Memory", host.memory),
    ("CPU and memory", "Huge pages", host.huge_pages),
    ("CPU and memory", "Executable memory", host.executable_memory),
    ("Storage", "Cache directory", storage.cache),
    ("Storage", "Ceilings", storage.ceilings),
    ("Storage", "Room for runs", storage.disk),
)


def examine(machine: Machine | None = None) -> Doctor:
    """Every check of `machine` (default: this one), with its environment. Never raises for what is missing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        machine = look() if machine is None else machine
        checks = tuple(check for group, name, run in CHECKS for check in guarded(group, name, run, machine))
        described = _environment(machine)
    said = tuple(dict.fromkeys(_one_line(str(warning.message)) for warning in caught))
    return Doctor(checks, described, said)


def guarded(group: str, name: str, run: Examination, machine: Machine) -> list[Check]:
    """What one check found. An unexpected error is its finding: the other checks must still be heard."""
    try:
        checks = list(run(machine))
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        checks = [unknown(name, found, "this check itself failed", "report this as a defect of probe")]
    return [replace(check, group=group, found=_one_line(check.found)) for check in checks]


def _environment(machine: Machine) -> dict[str, Any]:
    return environment.describe(machine.cuda[0] if machine.cuda else machine.cpu)


def _one_line(text: str) -> str:
    """`text` without line breaks and control characters, which names from drivers and drives may carry."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
