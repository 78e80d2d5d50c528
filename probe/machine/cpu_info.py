"""What is the CPU, and how much of it may this process use? Reads /proc and /sys; elsewhere sysctl.

Every function takes the text or the root it reads, so that a recorded machine is read like this one.
What the system does not tell is None or empty, never a guess.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from probe.machine.device import Cache

# Names as in the kernel's cpufeatures.h. Listed are those that decide a peak rate of some dtype.
X86_ISA = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "amx_fp16",
)
# The kernel's hwcap names -> what the field calls them (arch/arm64/kernel/cpuinfo.c).
ARM_ISA = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
    "svebf16": "svebf16",
    "svei8mm": "svei8mm",
    "sme": "sme",
    "sme2": "sme2",
}
# (implementer, part) of MIDR_EL1: arch/arm64/include/asm/cputype.h. aarch64 has no "model name" line.
ARM_PARTS = {
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse N1",
    ("0x41", "0xd40"): "Neoverse V1",
    ("0x41", "0xd49"): "Neoverse N2",
    ("0x41", "0xd4f"): "Neoverse V2",
    ("0x41", "0xd84"): "Neoverse V3",
    ("0x41", "0xd8e"): "Neoverse N3",
    ("0xc0", "0xac3"): "AmpereOne",
    ("0x61", "0x000"): "Apple silicon",
}


@dataclass(frozen=True)
class CpuInfo:
    """What /proc/cpuinfo says: the model, the ISA (filtered, in our order), the physical cores it lists."""

    model: str | None = None
    isa: tuple[str, ...] = ()
    physical_cores: int | None = None


def read_text(path: Path) -> str | None:
    """The stripped text of a small system file; None where it is absent, unreadable or not text."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """CPU numbers in the kernel's list format: "0-3,8" -> (0, 1, 2, 3, 8)."""
    numbers: set[int] = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        low, _, high = part.partition("-")
        numbers.update(range(int(low), int(high or low) + 1))
    return tuple(sorted(numbers))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The inverse of `parse_cpu_list`: (0, 1, 2, 3, 8) -> "0-3,8"."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def parse_cpuinfo(text: str) -> CpuInfo:
    """The model and ISA of the first processor of /proc/cpuinfo, and the physical cores of all."""
    blocks = [dict(_fields(block)) for block in text.split("\n\n") if block.strip()]
    if not blocks:
        return CpuInfo()
    merged = {key: value for block in reversed(blocks) for key, value in block.items()}
    features = set((merged.get("flags") or merged.get("Features") or "").split())
    isa = tuple(f for f in X86_ISA if f in features) if "flags" in merged else _arm_isa(features)
    cores = {(b.get("physical id"), b["core id"]) for b in blocks if "core id" in b}
    return CpuInfo(_model(merged), isa, len(cores) or None)


def _fields(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            yield key.strip(), value.strip()


def _arm_isa(features: set[str]) -> tuple[str, ...]:
    return tuple(name for hwcap, name in ARM_ISA.items() if hwcap in features)


def _model(fields: dict[str, str]) -> str | None:
    if fields.get("model name"):
        return " ".join(fields["model name"].split())
    implementer, part = fields.get("CPU implementer"), fields.get("CPU part")
    if implementer and part:
        return ARM_PARTS.get((implementer, part), f"ARM implementer {implementer} part {part}")
    return fields.get("Hardware") or fields.get("cpu")  # older ARM; POWER


def affinity() -> tuple[int, ...]:
    """The logical CPUs the scheduler may put this process on (numbers; 0..n-1 where there is no affinity)."""
    if sys.platform == "linux":
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def caches(cpu: int, root: Path = Path("/sys/devices/system/cpu")) -> tuple[Cache, ...]:
    """The data and unified caches that `cpu` sits under, innermost first; empty where the VM hides them."""
    found = [_cache(index) for index in (root / f"cpu{cpu}" / "cache").glob("index[0-9]*")]
    return tuple(sorted((c for c in found if c), key=lambda c: (c.level, c.bytes)))


def _cache(index: Path) -> Cache | None:
    kind, level, size = (read_text(index / name) for name in ("type", "level", "size"))
    line, shared = (read_text(index / name) for name in ("coherency_line_size", "shared_cpu_list"))
    if kind not in ("Data", "Unified") or not level or not size or _kibibytes(size) == 0:
        return None
    return Cache(int(level), _kibibytes(size), int(line or 64), len(parse_cpu_list(shared or "0")))


def _kibibytes(size: str) -> int:
    """Bytes in the kernel's "512K" (always K today; M is in its history)."""
    return int(size.rstrip("KM")) * (1 << 20 if size.endswith("M") else 1 << 10)


def physical_cores(cpus: Iterable[int], root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """How many physical cores the logical CPUs `cpus` are made of; None where the topology is hidden."""
    siblings = [read_text(root / f"cpu{cpu}" / "topology" / "thread_siblings_list") for cpu in cpus]
    return len(set(siblings)) if siblings and all(siblings) else None


def cpu_quota(cgroup: str, root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPU seconds per second that cgroups grant (v1 or v2, the tightest ancestor); None without a limit.

    `cgroup` is the text of /proc/self/cgroup. A quota throttles, it does not shrink the affinity.
    """
    limits = (_v2_quota(d) if v2 else _v1_quota(d) for d, v2 in cgroup_directories(cgroup, root, "cpu"))
    return min((limit for limit in limits if limit is not None), default=None)


def memory_limit_bytes(cgroup: str, root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory in bytes that cgroups grant (the tightest ancestor); None without a limit."""
    limits = [
        _limit_bytes(directory / ("memory.max" if v2 else "memory.limit_in_bytes"))
        for directory, v2 in cgroup_directories(cgroup, root, "memory")
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def cgroup_directories(cgroup: str, root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Where `controller` may be limited: (directory, is it v2), from this process's cgroup up to the root.

    In a container without a cgroup namespace the path of /proc/self/cgroup is the host's and does not exist
    under the mount; the root that does exist is then the container's own.
    """
    for line in cgroup.splitlines():
        number, names, path = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        v2 = number == "0" and not names
        if not v2 and controller not in names.split(","):
            continue
        base = root if v2 else root / names
        base = base if base.is_dir() else root / controller
        directory = base / path.strip("/")
        for candidate in (directory, *directory.parents):
            if candidate.is_dir():
                yield candidate, v2
            if candidate == base:
                break


def _v2_quota(directory: Path) -> float | None:
    quota, _, period = (read_text(directory / "cpu.max") or "max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _v1_quota(directory: Path) -> float | None:
    quota, period = (read_text(directory / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None  # -1: none


def _limit_bytes(path: Path) -> int | None:
    text = read_text(path) or ""
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None  # v1 writes "none" as about 2^63


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name ("MemTotal", "MemAvailable", …) in /proc/meminfo."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {r[0]: int(r[1]) * 1024 for r in rows if len(r) == 3 and r[2] == "kB" and r[1].isdigit()}


def memory_bytes() -> int | None:
    """Physical memory of the machine, not of the cgroup."""
    total = parse_meminfo(read_text(Path("/proc/meminfo")) or "").get("MemTotal")
    return total if total is not None else _sysctl_number("hw.memsize")


def model_name() -> str | None:
    """The CPU's name where /proc/cpuinfo has none: macOS, other systems."""
    return sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine() or None


def darwin_isa() -> tuple[str, ...]:
    """The ISA on macOS, in the names used for Linux."""
    if platform.machine() == "arm64":
        named = {"bf16": "FEAT_BF16", "i8mm": "FEAT_I8MM", "sme": "FEAT_SME", "sme2": "FEAT_SME2"}
        return ("neon", *(n for n, f in named.items() if sysctl(f"hw.optional.arm.{f}") == "1"))
    features = f"{sysctl('machdep.cpu.features')} {sysctl('machdep.cpu.leaf7_features')}".lower().split()
    named = {"sse4_2": "sse4.2", "avx": "avx1.0", **{f: f for f in ("avx2", "fma", "f16c", "avx512f")}}
    return tuple(name for name, feature in named.items() if feature in features)


def darwin_caches() -> tuple[Cache, ...]:
    """The data caches on macOS; of a heterogeneous chip those of its performance cores."""
    line = _sysctl_number("hw.cachelinesize") or 64
    found = []
    for level, name in ((1, "l1dcachesize"), (2, "l2cachesize"), (3, "l3cachesize")):
        size = _sysctl_number(f"hw.perflevel0.{name}") or _sysctl_number(f"hw.{name}")
        shared = _sysctl_number("hw.perflevel0.cpusperl2") or 1 if level == 2 else 1
        if size:
            found.append(Cache(level, size, line, shared))
    return tuple(found)


def darwin_physical_cores() -> int | None:
    """Physical cores on macOS."""
    return _sysctl_number("hw.physicalcpu")


def sysctl(name: str) -> str | None:
    """One value of macOS's sysctl; None elsewhere and where it does not exist."""
    if sys.platform != "darwin":
        return None
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=1)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _sysctl_number(name: str) -> int | None:
    text = sysctl(name) or ""
    return int(text) if text.isdigit() else None
