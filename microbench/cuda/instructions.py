"""How long does an instruction take, and how many can run?

Method: loops of nothing but one instruction, proved in the machine code, on one SM, timed by its own clock. Latency:
one warp, one chain in which each needs the result of the one before. Rate: several chains a thread and several warps;
the best of the sweep counts. `per_clock` is lanes (of mma: multiply-adds) that the SM finished in a cycle, beside
`limit_per_clock`, the most there is. Results that cannot be are flagged, not explained away.

The mma.sync rows are what warps reach on registers. On Hopper the tensor cores' full rate needs wgmma (its row is there
for bfloat16), on data-centre Blackwell tcgen05, which is not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.kernels.cuda import instructions, mma
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.gpu import Gpu, UnprovedError
from probe.kernels.cuda.instructions import CHAINS, Operation
from probe.kernels.cuda.memory import Memory
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.cuda.in_kernel import InKernel
from probe.microbench.cuda.instruction_limits import LANES, Limit, limit_of
from probe.microbench.harness import Effort, Timing, Variant, paced
from probe.microbench.published.verdicts import IMPLAUSIBLE
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

NAME = "instructions"
WARPS = (4, 8, 16, 32)  # of the one block; an SM has four schedulers
QUICK_CHAINS, QUICK_WARPS = (4,), (8, 32)
LEAST_WINDOWS = 6
MOST_THREADS = 1024


@dataclass(frozen=True)
class Setting:
    """How many chains a thread has (of wgmma: products under way), and how many warps run."""

    chains: int
    warps: int


@dataclass(frozen=True)
class Found:
    """One setting, its time, and the cycles from one operation to the next on the SM."""

    setting: Setting
    timing: Timing
    params: dict[str, float]
    proof: dict[str, object]

    @property
    def cycles(self) -> float:
        """The least."""
        return self.params["cycles"]


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """Two rows an instruction, in s: metric `latency` of a dependent one, `time` of one among many on an SM."""
    with opened(context, gpu) as bench:
        out = bench.gpu.allocate(4 * MOST_THREADS)
        number = architecture_number(bench.gpu)
        for sentence in left_out(number):
            bench.warn(f"{NAME}: {sentence}")
        for operation, budget_s in paced(operations(number), bench.left_s, context.clock, context.report):
            found: list[Found] = []
            with bench.sparing(f"{NAME}: {operation.name}"):
                found = _measured(bench, operation, out, budget_s)
            yield from _rows(bench, operation, found)


def architecture_number(gpu: Gpu) -> int:
    """90 for compute capability 9.0."""
    return 10 * gpu.capability[0] + gpu.capability[1]


def operations(number: int) -> tuple[Operation, ...]:
    """What an architecture has instructions of its own for."""
    every = (*instructions.OPERATIONS, *mma.OPERATIONS, mma.WGMMA)
    return tuple(operation for operation in every if operation.native(number))


def left_out(number: int) -> tuple[str, ...]:
    """Which products are not measured although a program can ask for them, and why."""
    offered = {operation.dtype for operation in mma.OPERATIONS if operation.first <= number}
    native = {operation.dtype for operation in mma.OPERATIONS if operation.native(number)}
    return tuple(
        f"mma.sync of {dtype} is left out: the tensor cores of sm_{number} have no instruction of their own for it, "
        "and the compiler composes it of others"
        for dtype in sorted(offered - native)
    )


def settings(operation: Operation, quick: bool) -> tuple[Setting, ...]:
    """The latency's setting first, then the sweep of the rate."""
    if operation is mma.WGMMA:
        return tuple(Setting(chains, operation.most_threads // LANES) for chains in mma.UNDER_WAY)
    most = operation.most_threads // LANES
    warps = sorted({min(n, most) for n in (QUICK_WARPS if quick else WARPS)})
    return (Setting(1, 1), *(Setting(c, w) for c in (QUICK_CHAINS if quick else CHAINS) for w in warps))


def _measured(bench: Bench, operation: Operation, out: Memory, budget_s: float) -> list[Found]:
    """All settings, interleaved; one that fails costs itself."""
    started = bench.context.clock()
    runs: list[tuple[Setting, InKernel, Variant, dict[str, object]]] = []
    for setting in settings(operation, bench.context.quick):
        with bench.sparing(f"{NAME}: {operation.name}, {setting.chains} chains, {setting.warps} warps"):
            function = _proved(bench.gpu, operation, setting.chains)
            timer = InKernel(bench)
            runs.append((setting, timer, _variant(operation, setting, timer, function, out), function.proof))
    left_s = max(0.0, budget_s - (bench.context.clock() - started))
    timings = bench.measure([variant for _, _, variant, _ in runs], Effort(left_s, least=LEAST_WINDOWS))
    return [
        Found(setting, timing, timer.params, proof)
        for (setting, timer, _, proof), timing in zip(runs, timings, strict=True)
    ]


def _proved(gpu: Gpu, operation: Operation, chains: int) -> Function:
    """The loaded kernel; UnprovedError where its loop does not hold the instruction as often as it is counted."""
    function = gpu.load(operation.kernel(chains))
    wrong = operation.wrong_in_loop(function.proof)
    if wrong:
        raise UnprovedError(f"the kernel was not run: {wrong}")
    return function


def _variant(operation: Operation, setting: Setting, timer: InKernel, function: Function, out: Memory) -> Variant:
    """One block; work is the operations of all its warps (of wgmma: of its one group of four)."""

    def launch(iterations: int, stamps: Memory) -> None:
        function.launch(1, LANES * setting.warps, stamps, out, np.int32(iterations))

    groups = 1 if operation is mma.WGMMA else setting.warps
    name = f"{operation.name} {setting.chains} × {setting.warps}"
    return timer.variant(name, launch, operation.operations * groups)


def _rows(bench: Bench, operation: Operation, found: Sequence[Found]) -> Iterator[Measurement]:
    """The latency, and the best of the sweep."""
    alone = settings(operation, bench.context.quick)[0]
    limit = limit_of(operation.kind, bench.gpu.capability)
    work = operation.macs or LANES
    latency = next((one for one in found if one.setting == alone), None)
    if latency is not None:
        yield _row(bench, operation, latency, "latency", limit.wrong_latency(latency.cycles, work), {})
    sweep = [one for one in found if one.setting != alone]
    if sweep:
        best = min(sweep, key=lambda one: one.cycles)
        params = _rate_params(operation, limit, work / best.cycles, sweep)
        yield _row(bench, operation, best, "time", limit.wrong_rate(work / best.cycles), params)


def _rate_params(operation: Operation, limit: Limit, per_clock: float, sweep: Sequence[Found]) -> dict[str, Any]:
    """The rate of one SM, the most there is, and what each setting took in cycles."""
    flops = {"flops_per_clock": 2 * per_clock} if operation.matrix else {}
    return {
        "per_clock": per_clock,
        "limit_per_clock": limit.a_cycle,
        "limit_source": limit.source,
        **flops,
        "sweep": [{"chains": f.setting.chains, "warps": f.setting.warps, "cycles": f.cycles} for f in sweep],
    }


def _row(
    bench: Bench, operation: Operation, found: Found, metric: str, wrong: str | None, more: dict[str, Any]
) -> Measurement:
    if wrong:
        bench.warn(f"{NAME}: implausible: {operation.name}: {wrong}")
    params = {
        **found.params,
        "instruction": operation.name,
        "dtype": operation.dtype or None,
        "shape": operation.shape or None,
        "chains": found.setting.chains,
        "warps": found.setting.warps,
        **more,
    }
    name = f"{operation.name} {'latency' if metric == 'latency' else 'rate'}"
    flags = (IMPLAUSIBLE,) if wrong else ()
    return bench.time_row(NAME, name, metric, found.timing, params, flags=flags, proof=found.proof)
