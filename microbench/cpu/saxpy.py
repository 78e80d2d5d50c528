"""What does y = a x + y cost in machine code, in NumPy, in eager PyTorch and compiled?

Method: float32, one footprint that fits a core's caches and one that does not; 12 bytes an element (x read, y read, y
written). Machine code with the widest vectors the CPU has, on one thread and on all; with each narrower width, and one
element at a time, on one thread, because width is a question to one core. The `proof` is decoded from the loop's bytes.
NumPy has no such operation and makes a temporary array: the price of composing it is what is measured. PyTorch has it
in one operator (`add_` with `alpha`) and uses its threads for large arrays. `torch.compile` gets it composed, as in
NumPy, and fuses it; compiling lies outside the windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.errors import UnavailableError
from probe.kernels.cpu import machine_code, saxpy_bodies
from probe.kernels.cpu.loops import SAXPY, SAXPY_SCALAR, Function, Loops, Stream
from probe.microbench import memory
from probe.microbench.compiled_code import compiled, worth_compiling
from probe.microbench.cpu.pinning import working_cpus
from probe.microbench.cpu.team import Team
from probe.microbench.harness import Effort, Variant, measure, paced, repeats_for, timed
from probe.microbench.suite import Context, rate_measurement
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "saxpy"
SIZES = (64 * memory.MIB, 256 * memory.KIB)
ELEMENT_BYTES = 12  # moved: x read, y read, y written
SCALAR = 2.0**-30  # small, so that y stays finite however often it is added to
NARROWER = (("avx2", "fma"), ())  # instruction sets to pretend to have, so that the loops are made for less
Vector = npt.NDArray[np.float32]
Windows = Callable[[int], float]  # seconds of n passes


@dataclass(frozen=True)
class Way:
    """One way to add a x to y: its name, its threads, its windows, and what is known of the instructions."""

    name: str
    threads: int
    window_of: Windows
    proof: dict[str, Any] | None = None


def run(context: Context) -> Iterator[Measurement]:
    """One measurement a size and implementation, metric `bandwidth`, in B/s."""
    sizes = memory.affordable(SIZES, memory.free_bytes())
    for size in SIZES:
        if size not in sizes:
            _left_out(context, size)
    fused = compiled_for(context, sizes)
    with Team(working_cpus()) as team:
        for size, budget_s in paced(sizes, context.budget_s, context.clock, context.report):
            try:
                yield from _measure_size(context, team, size, budget_s, fused.get(size))
            except MemoryError:  # what was free is gone, or a limit on this process is in the way
                _left_out(context, size)


def _left_out(context: Context, size: int) -> None:
    context.warnings.append(f"saxpy: {format_bytes(size)} is left out, too little memory is free")


def compiled_for(context: Context, sizes: tuple[int, ...]) -> dict[int, Callable[..., object]]:
    """The composed operation compiled for each size; empty in a quick run and, with a warning, where that fails."""
    import torch

    if not worth_compiling(context):
        return {}
    try:
        return {size: compiled(composed, torch.ones(size // 8), torch.ones(size // 8)) for size in sizes}
    except UnavailableError as reason:
        context.warnings.append(f"saxpy: not compiled: {reason}")
        return {}


def composed(x: Any, y: Any) -> None:
    """y = a x + y on torch tensors, as one writes it: a product, then a sum."""
    y += SCALAR * x


def _measure_size(
    context: Context, team: Team, size: int, budget_s: float, fused: Callable[..., object] | None
) -> Iterator[Measurement]:
    elements = size // 8
    x, y = np.ones(elements, np.float32), np.ones(elements, np.float32)
    ways = list(implementations(context, team, x, y, fused))
    variants = [_variant(way, elements) for way in ways]
    timings = measure(variants, Effort(budget_s, least=6), context.clock)
    for timing, way in zip(timings, ways, strict=True):
        params = {"implementation": way.name, "size_bytes": size, "threads": way.threads, "dtype": "float32"}
        plural = "thread" if way.threads == 1 else "threads"
        name = f"saxpy {format_bytes(size)} {way.name} {way.threads} {plural}"
        yield rate_measurement(NAME, name, "bandwidth", "B/s", timing, params, proof=way.proof)


def _variant(way: Way, elements: int) -> Variant:
    repeats = repeats_for(way.window_of)
    return Variant(way.name, lambda: way.window_of(repeats), elements * ELEMENT_BYTES * repeats)


def implementations(
    context: Context, team: Team, x: Vector, y: Vector, fused: Callable[..., object] | None = None
) -> Iterator[Way]:
    """Each way to add a x to y; `fused` is what torch.compile made of it for arrays of this size."""
    import torch

    try:
        loops = machine_code.load(context.device.isa)
    except UnavailableError as reason:
        context.warnings.append(f"saxpy: no machine code: {reason}")
    else:
        yield from _machine_code(loops, team, x, y)
        if not context.quick:
            yield from _narrower(loops, context.device.isa, x, y)
    yield Way("numpy", 1, _repeated(lambda: np.add(y, SCALAR * x, out=y)))
    one, other, threads = torch.from_numpy(x), torch.from_numpy(y), torch.get_num_threads()
    yield Way("torch eager", threads, _repeated(lambda: other.add_(one, alpha=SCALAR)))
    if fused is not None:
        yield Way("torch.compile", threads, _repeated(lambda: fused(one, other)))


def _machine_code(loops: Loops, team: Team, x: Vector, y: Vector) -> Iterator[Way]:
    """The widest vectors, on one thread and on all."""
    loop, proof = loops.stream[SAXPY], _proof(loops, SAXPY)
    if len(team) > 1:
        yield Way("machine code", 1, _alone(loop, x, y), proof)
    yield Way("machine code", len(team), lambda n: team.run(_slice(loop, team, x, y, n)), proof)


def _narrower(widest: Loops, isa: tuple[str, ...], x: Vector, y: Vector) -> Iterator[Way]:
    """Each narrower width there are loops for, then single elements, on one thread."""
    seen = {widest.instruction_set}
    for names in NARROWER:
        loops = machine_code.load(tuple(name for name in isa if name in names))
        if loops.instruction_set not in seen:
            seen.add(loops.instruction_set)
            yield _narrow(loops.instruction_set, loops, SAXPY, x, y)
    yield _narrow("scalar", widest, SAXPY_SCALAR, x, y)


def _narrow(name: str, loops: Loops, kind: Stream, x: Vector, y: Vector) -> Way:
    return Way(f"machine code {name}", 1, _alone(loops.stream[kind], x, y), _proof(loops, kind))


def _proof(loops: Loops, kind: Stream) -> dict[str, Any]:
    """What ran: the instructions of the loop, decoded from its bytes, or why they are not known."""
    proof = {"origin": loops.origin, "instruction_set": "scalar" if kind.scalar else loops.instruction_set}
    body = loops.bodies.get(kind)
    if body is None:
        return proof | {"instruction": None, "reason": "compiled here; the compiler's choice was not read back"}
    return proof | {"instruction": saxpy_bodies.arithmetic(body), "body": list(body)}


def _alone(loop: Function, x: Vector, y: Vector) -> Windows:
    return lambda n: timed(lambda: _whole(loop, x, y, n))()


def _repeated(call: Callable[[], Any]) -> Windows:
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
