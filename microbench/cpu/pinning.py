"""On which CPU does a measurement run? On one, for as long as it lasts; the affinity is restored afterwards."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from probe.machine import cpu_info


def allowed_cpus() -> tuple[int, ...]:
    """The CPUs this process may use, ascending; where the system does not tell, they are counted from 0."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def working_cpus() -> tuple[int, ...]:
    """As many of the allowed CPUs as a container's quota pays for: more threads than that only wait for one another."""
    cpus = allowed_cpus()
    quota = cpu_info.cpu_quota(cpu_info.read_text(Path("/proc/self/cgroup")) or "")
    return cpus if quota is None else cpus[-max(1, math.ceil(quota)) :]


def pin_thread(cpu: int) -> bool:
    """Keep the calling thread on `cpu` (Linux; other systems have no such call); False where that is refused."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError:  # a container may change the set while we measure; unpinned is worse, not wrong
        return False
    return True


@contextlib.contextmanager
def pinned() -> Iterator[int]:
    """Run the block on the last allowed CPU (the first ones serve most interrupts) and restore the affinity."""
    cpus = allowed_cpus()
    pin_thread(cpus[-1])
    try:
        yield cpus[-1]
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cpus)
