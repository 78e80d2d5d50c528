"""The Nsight Compute command line for exactly the kernels of one call of an operator."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from probe.repro.recorded import KernelCount

SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "ComputeWorkloadAnalysis", "LaunchStats", "Occupancy",
            "SchedulerStats", "WarpStateStats", "SourceCounters")  # fmt: skip
WARM_UPS = 3  # calls before the profiled one: libraries load and choose in the first


def kernel_functions(kernels: Sequence[KernelCount]) -> list[str]:
    """The names by which ncu knows kernels: without return type, namespaces, template arguments and parameters."""
    return list(dict.fromkeys(filter(None, (_function(kernel.name) for kernel in kernels))))


def _function(name: str) -> str:
    plain = "".join(_outside(name.removeprefix("void ")))
    return plain.rpartition("::")[2].strip().rpartition(" ")[2]


def _outside(name: str) -> Iterator[str]:
    """The characters outside angle brackets, until the parameters begin."""
    depth = 0
    for at, letter in enumerate(name.replace("(anonymous namespace)", "anonymous")):
        if letter == "<":
            depth += 1
        elif letter == ">":
            depth -= 1
        elif letter == "(" and depth == 0 and at:
            return
        elif depth == 0:
            yield letter


def ncu_command(kernels: Sequence[KernelCount], script: str) -> str | None:
    """The command that profiles the kernels of one call of the script's operator; None where it launches none.

    ncu counts, for --launch-skip and --launch-count, only kernels that the filter lets through. The script makes its
    inputs on the host, so that these are the operator's own.
    """
    functions = kernel_functions(kernels)
    count = round(sum(kernel.calls for kernel in kernels))
    if not functions or not count:
        return None
    pattern = f"^({'|'.join(map(re.escape, functions))})$" if len(functions) > 1 else f"^{re.escape(functions[0])}$"
    words = ["ncu", "--kernel-name-base", "function", "--kernel-name", f"regex:{pattern}",
             "--launch-skip", str(WARM_UPS * count), "--launch-count", str(count)]  # fmt: skip
    words += [word for section in SECTIONS for word in ("--section", section)]
    return " ".join(map(shlex.quote, [*words, "python", script, "--once"]))


def rocprof_command(kernels: Sequence[KernelCount], script: str) -> str | None:
    """ROCm's counterpart of `ncu_command`; it has no counts, so the warm-up calls are in its output too."""
    functions = kernel_functions(kernels)
    if not functions:
        return None
    words = ["rocprofv3", "--kernel-trace", "--kernel-include-regex", "|".join(map(re.escape, functions)), "--"]
    return " ".join(map(shlex.quote, [*words, "python", script, "--once"]))
