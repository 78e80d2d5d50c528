"""What does y = a x + y cost in machine code, in NumPy and in eager PyTorch?

Method: float32, one footprint that fits a core's caches and one that does not; 12 bytes an element (x read, y read, y
written). NumPy has no such operation and makes a temporary array: the price of composing it is what is measured.
PyTorch has it in one operator (`add_` with `alpha`) and uses its threads for large arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.errors import UnavailableError
from probe.kernels import machine_code
from probe.kernels.loops import SAXPY, Function
from probe.measurement import Measurement
from probe.microbench import memory
from probe.microbench.harness import Effort, Variant, measure, paced, repeats_for, timed
from probe.microbench.pinning import working_cpus
from probe.microbench.suite import Context, rate_measurement
from probe.microbench.team import Team
from probe.units import format_bytes

NAME = "saxpy"
SIZES = (64 * memory.MIB, 256 * memory.KIB)
ELEMENT_BYTES = 12  # moved: x read, y read, y written
SCALAR = 2.0**-30  # small, so that y stays finite however often it is added to
Vector = npt.NDArray[np.float32]


def run(context: Context) -> Iterator[Measurement]:
    """One measurement a size and implementation, metric `bandwidth`, in B/s."""
    sizes = memory.affordable(SIZES, memory.free_bytes())
    with Team(working_cpus()) as team:
        for size, budget_s in paced(sizes, context.budget_s, context.clock, context.report):
            yield from _measure_size(context, team, size, budget_s)


def _measure_size(context: Context, team: Team, size: int, budget_s: float) -> Iterator[Measurement]:
    elements = size // 8
    x, y = np.ones(elements, np.float32), np.ones(elements, np.float32)
    variants, threads = [], []
    for name, workers, window_of in implementations(context, team, x, y):
        repeats = repeats_for(window_of)
        variants.append(_variant(name, window_of, repeats, elements))
        threads.append(workers)
    timings = measure(variants, Effort(budget_s, least=6), context.clock)
    for timing, workers in zip(timings, threads, strict=True):
        params = {"implementation": timing.name, "size_bytes": size, "threads": workers, "dtype": "float32"}
        plural = "thread" if workers == 1 else "threads"
        name = f"saxpy {format_bytes(size)} {timing.name} {workers} {plural}"
        yield rate_measurement(NAME, name, "bandwidth", "B/s", timing, params)


def _variant(name: str, window_of: Callable[[int], float], repeats: int, elements: int) -> Variant:
    return Variant(name, lambda: window_of(repeats), elements * ELEMENT_BYTES * repeats)


def implementations(
    context: Context, team: Team, x: Vector, y: Vector
) -> Iterator[tuple[str, int, Callable[[int], float]]]:
    """Name, threads and windows of n passes of each way to add a x to y."""
    import torch

    try:
        loop = machine_code.load(context.device.isa).stream[SAXPY]
    except UnavailableError as reason:
        context.warnings.append(f"saxpy: no machine code: {reason}")
    else:
        if len(team) > 1:
            yield "machine code", 1, lambda n: timed(lambda: _whole(loop, x, y, n))()
        yield "machine code", len(team), lambda n: team.run(_slice(loop, team, x, y, n))
    yield "numpy", 1, _repeated(lambda: np.add(y, SCALAR * x, out=y))
    one, other = torch.from_numpy(x), torch.from_numpy(y)
    yield "torch eager", torch.get_num_threads(), _repeated(lambda: other.add_(one, alpha=SCALAR))


def _repeated(call: Callable[[], Any]) -> Callable[[int], float]:
    def several(n: int) -> None:
        for _ in range(n):
            call()

    return lambda n: timed(lambda: several(n))()


def _whole(loop: Function, x: Vector, y: Vector, repeats: int) -> None:
    loop(y.ctypes.data, y.ctypes.data, x.ctypes.data, len(x), repeats, None, SCALAR)


def _slice(loop: Function, team: Team, x: Vector, y: Vector, repeats: int) -> Callable[[int], None]:
    """Each thread's share of the elements, in whole cache lines."""
    share = -(-len(x) // len(team) // 16) * 16

    def task(thread: int) -> None:
        first = min(len(x), thread * share)
        count = min(len(x), first + share) - first
        at_x, at_y = x.ctypes.data + 4 * first, y.ctypes.data + 4 * first
        loop(at_y, at_y, at_x, count, repeats, team.gate_address, SCALAR)

    return task
