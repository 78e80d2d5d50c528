"""What may be recorded? CUPTI, hardware counters of GPU and CPU, attaching to processes, and DCGM."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

from probe.collectors.dcgm import EXPORTER, URL_VARIABLE
from probe.collectors.dcgm_fields import PREFIX
from probe.collectors.prometheus import PageError, fetch
from probe.doctor.check import Check, broken, unknown, works
from probe.doctor.gpu import NO_GPU, ON_CPU
from probe.doctor.machine import CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE, Machine


def cupti(machine: Machine) -> Iterator[Check]:
    """Whether this torch can record GPU kernels."""
    means = "GPU kernels and copies on the timeline"
    if machine.torch is None or not machine.cuda:
        yield unknown("CUPTI", NO_GPU if not machine.has_nvidia else "torch uses no GPU", ON_CPU)
        return
    activities = {activity.name for activity in machine.torch.profiler.supported_activities()}
    if "CUDA" in activities:
        yield works("CUPTI", "torch.profiler records CUDA activity", means)
    else:
        remedy = "install an official torch build: https://pytorch.org/get-started/locally"
        yield broken("CUPTI", "this torch was built without it", means, remedy)


def gpu_counters(machine: Machine) -> Iterator[Check]:
    """Whether this user may read GPU hardware counters; the driver's default is administrators only.

    /proc/driver/nvidia/params shows the module option NVreg_RestrictProfilingToAdminUsers as RmProfilingAdminOnly
    (https://developer.nvidia.com/ERR_NVGPUCTRPERM).
    """
    name, means = "GPU counters", "ncu and DCGM profiling metrics; kernel times need none"
    rows = (line.partition(":") for line in (machine.read("proc/driver/nvidia/params") or "").splitlines())
    options = {key.strip(): value.strip() for key, _, value in rows}
    restricted = options.get("RmProfilingAdminOnly") or options.get("RestrictProfilingToAdminUsers")
    if restricted is None:
        yield unknown(name, "the driver does not say" if machine.has_nvidia else NO_GPU, ON_CPU)
    elif restricted == "0":
        yield works(name, "open to every user", means)
    elif machine.capable(CAP_SYS_ADMIN):
        yield works(name, "administrators only, which this process is", means)
    else:
        remedy = (
            "echo 'options nvidia NVreg_RestrictProfilingToAdminUsers=0' "
            "| sudo tee /etc/modprobe.d/nvidia-profiling.conf; then reboot"
        )
        yield broken(name, "administrators only", means, remedy)


def cpu_counters(machine: Machine) -> Iterator[Check]:
    """Whether this user may read CPU counters of their own processes (Documentation/admin-guide/perf-security)."""
    name, means = "CPU counters", "perf stat and perf record; probe does not depend on them"
    level = machine.read("proc/sys/kernel/perf_event_paranoid")
    if level is None:
        where = "this kernel has no perf events" if sys.platform == "linux" else f"not on {sys.platform}"
        yield unknown(name, where, means)
    elif int(level) <= 2 or machine.capable(CAP_PERFMON, CAP_SYS_ADMIN):
        yield works(name, f"perf_event_paranoid {level}", means)
    else:
        yield broken(name, f"perf_event_paranoid {level}", means, "sudo sysctl kernel.perf_event_paranoid=2")


def attaching(machine: Machine) -> Iterator[Check]:
    """Whether tools such as py-spy may attach to a running process of this user (Yama)."""
    name, means = "Attaching (ptrace)", "py-spy on a running process; probe does not attach"
    scope = machine.read("proc/sys/kernel/yama/ptrace_scope")
    if scope == "0" or machine.capable(CAP_SYS_PTRACE):
        yield works(name, "allowed", means)
    elif scope is None:
        yield unknown(name, "no Yama: the system's default applies", means)
    else:
        remedy = "sudo sysctl kernel.yama.ptrace_scope=0" if scope != "3" else "reboot with kernel.yama.ptrace_scope=0"
        yield unknown(name, f"ptrace_scope {scope}: only of own children", means, f"only for attaching: {remedy}")


def dcgm(machine: Machine) -> Iterator[Check]:
    """Whether DCGM can be asked: an exporter over HTTP, or the dcgmi command. Nothing is started."""
    name, means = "DCGM", "pipe and memory activity beside a run; NVML is used without it"
    url = machine.environ.get(URL_VARIABLE)
    if not url and not machine.has_nvidia:
        yield unknown(name, NO_GPU, ON_CPU)
        return
    problem = _exporter_problem(url or EXPORTER)
    command = shutil.which("dcgmi", path=machine.environ.get("PATH", os.defpath))
    if problem is None:
        yield works(name, f"dcgm-exporter at {url or EXPORTER}", means)
    elif url:
        yield broken(name, f"PROBE_DCGM_URL={url}: {problem}", means, "correct or unset PROBE_DCGM_URL")
    elif command:
        yield works(name, command, means)
    else:
        remedy = "only for more detail: run dcgm-exporter, or set PROBE_DCGM_URL to one"
        yield unknown(name, "no exporter on 127.0.0.1:9400, no dcgmi", means, remedy)


def _exporter_problem(url: str) -> str | None:
    """Why `url` does not serve DCGM metrics; None if it does. A slow server cannot hold us."""
    try:
        text = fetch(url)
    except PageError as error:
        return str(error)
    return None if PREFIX in text else "answers, but not with DCGM metrics"
