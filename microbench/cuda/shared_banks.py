"""What do shared memory bank conflicts cost, and how many banks are there, how wide?

Method: one warp follows a chain of loads whose lanes lie `stride` elements apart (latency), then all warps of a block
load or store independently (rate), for 4, 8 and 16 bytes a lane; one SM, timed by its own clock. Stride 0 is the
broadcast, in which all lanes access one element. `conflict_ways` is what 32 banks of 4 bytes would give: how many
different words of one bank a group of lanes needs (a whole warp of 4-byte accesses is one group, of 8 bytes two, of 16
bytes four); `measured_ways` is the time against that of stride 1. The banks are inferred from where the latency of
4-byte loads begins and ceases to grow with the stride.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.kernels.cuda import shared_banks as kernels
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.kernel import Kernel
from probe.kernels.cuda.memory import Memory
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.cuda.in_kernel import InKernel
from probe.microbench.harness import Effort, Timing, Variant, paced
from probe.microbench.published.verdicts import IMPLAUSIBLE
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

NAME = "shared_banks"
LANES = 32
BANKS, BANK_BYTES = 32, 4  # since Fermi (CUDA C++ Programming Guide, compute capabilities); what is expected
STRIDES = (1, 2, 3, 4, 5, 8, 16, 32, 33, 64, 0)  # elements; 64 shows that 32 was the end of the growth
QUICK_STRIDES = (1, 2, 32, 33, 64, 0)
QUICK_WIDTHS = (4, 16)
WARPS = 32  # of the block that loads or stores independently
LEAST_WINDOWS = 6
TOLERANCE = 1.03  # of bytes a cycle beyond the banks' width: both are counted in the same clock
LATENCY = (8.0, 80.0)  # cycles of a load without conflict that are plausible: 19 to 33 have been published
LEAST_GROWTH = 0.5  # of the time without conflict, for 31 further words: below, there is no conflict to be seen
GROWN_SHARE = 0.9  # of the greatest cost: from there on it no longer grows


@dataclass(frozen=True)
class Group:
    """One loop, measured with every stride."""

    access: str  # "load", "store"
    access_bytes: int
    chained: bool

    @property
    def kernel(self) -> Kernel:
        """The kernel of the loop."""
        if self.chained:
            return kernels.chain(self.access_bytes)
        return kernels.independent(self.access, self.access_bytes)

    @property
    def instruction(self) -> str:
        """What its loop holds."""
        return kernels.instruction(self.access, self.access_bytes)

    @property
    def warps(self) -> int:
        """How many access at once."""
        return 1 if self.chained else WARPS

    @property
    def title(self) -> str:
        """As a row is named, without the stride."""
        return f"{self.instruction}{' latency' if self.chained else ''}"


@dataclass(frozen=True)
class Found:
    """One stride of a group: its time, and the cycles that one access of a warp took."""

    stride: int
    timing: Timing
    params: Mapping[str, float]

    @property
    def cycles(self) -> float:
        """The least."""
        return self.params["cycles"]


@dataclass(frozen=True)
class Banks:
    """What the growth with the stride says of shared memory."""

    banks: int
    bank_bytes: int


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """One row a loop and stride: metric `latency` of a load, `time` of a warp's access among many, in s."""
    with opened(context, gpu) as bench:
        out = bench.gpu.allocate(4 * LANES * WARPS)
        banks: Banks | None = None
        for group, budget_s in paced(groups(context.quick), bench.left_s, context.clock, context.report):
            found: list[Found] = []
            proof: dict[str, object] = {}
            with bench.sparing(f"{NAME}: {group.title}"):
                function = bench.gpu.load(group.kernel)
                found, proof = _measured(bench, group, function, out, budget_s), function.proof
            if group == FIRST:
                banks = _told(bench, found)
            yield from _rows(bench, group, found, banks, proof)


FIRST = Group("load", 4, chained=True)  # tells the banks


def groups(quick: bool) -> tuple[Group, ...]:
    """The loops, that which tells the banks first."""
    widths = QUICK_WIDTHS if quick else kernels.WIDTHS
    chains = tuple(Group("load", width, chained=True) for width in widths)
    return chains + tuple(Group(access, width, chained=False) for access in ("load", "store") for width in widths)


def conflict_ways(stride: int, access_bytes: int, banks: int = BANKS, bank_bytes: int = BANK_BYTES) -> int:
    """The most words of one bank that lanes need which are served together; 1 is no conflict, and a broadcast."""
    together = LANES * 4 // access_bytes
    most = 1
    for first in range(0, LANES, together):
        starts = {lane * stride * access_bytes for lane in range(first, first + together)}
        words = {(start + byte) // bank_bytes for start in starts for byte in range(0, access_bytes, bank_bytes)}
        most = max(most, max(Counter(word % banks for word in words).values()))
    return most


def inferred(cycles: Mapping[int, float]) -> Banks | None:
    """The banks from the cycles of 4-byte loads by stride in words; None where their growth does not tell.

    Up to a stride of one bank's width nothing grows. From the stride on that puts all lanes into one bank, nothing
    grows further; that stride is all banks' width. Half as many banks of twice the width would cost the same at every
    power of two, but not at 33.
    """
    powers = sorted(stride for stride in cycles if stride > 0 and stride & (stride - 1) == 0)
    if len(powers) < 3 or powers[0] != 1:
        return None
    extra = {stride: cycles[stride] - cycles[1] for stride in powers}
    most = max(extra.values())
    if most < cycles[1] * LEAST_GROWTH:
        return None
    skewed = cycles.get(LANES + 1, cycles[1]) - cycles[1]
    half_a_way = most / (LANES - 1) / 2
    free = [stride for stride in powers if extra[stride] < half_a_way]
    full = [stride for stride in powers if extra[stride] >= GROWN_SHARE * most]
    if full[0] == powers[-1] or full[0] <= free[-1] or skewed >= half_a_way:
        return None
    return Banks(full[0] // free[-1], 4 * free[-1])


def _measured(bench: Bench, group: Group, function: Function, out: Memory, budget_s: float) -> list[Found]:
    """All strides of a group, interleaved; a stride that fails costs itself."""
    started = bench.context.clock()
    runs: list[tuple[int, InKernel, Variant]] = []
    for stride in QUICK_STRIDES if bench.context.quick else STRIDES:
        with bench.sparing(f"{NAME}: {group.title}, stride {stride}"):
            timer = InKernel(bench)
            runs.append((stride, timer, _variant(group, stride, timer, function, out)))
    left_s = max(0.0, budget_s - (bench.context.clock() - started))
    timings = bench.measure([variant for *_, variant in runs], Effort(left_s, least=LEAST_WINDOWS))
    return [Found(stride, timing, timer.params) for (stride, timer, _), timing in zip(runs, timings, strict=True)]


def _variant(group: Group, stride: int, timer: InKernel, function: Function, out: Memory) -> Variant:
    """A block on one SM; work is the accesses of all its warps."""
    stride_bytes = stride * group.access_bytes
    shared = stride_bytes * (LANES - 1) + group.access_bytes

    def launch(iterations: int, stamps: Memory) -> None:
        arguments = (stamps, out, np.int32(stride_bytes), np.int32(iterations))
        function.launch(1, LANES * group.warps, *arguments, shared=shared)

    return timer.variant(f"{group.title} stride {stride}", launch, kernels.ACCESSES * group.warps)


def _told(bench: Bench, found: Sequence[Found]) -> Banks | None:
    """The banks; a warning where they are none or others than expected."""
    banks = inferred({one.stride: one.cycles for one in found})
    if found and banks is None:
        bench.warn(f"{NAME}: the cost of a stride does not tell how many banks there are; `banks` is left open")
    elif banks and banks != Banks(BANKS, BANK_BYTES):
        bench.warn(
            f"{NAME}: {banks.banks} banks of {banks.bank_bytes} bytes were inferred; "
            f"`conflict_ways` is what {BANKS} of {BANK_BYTES} bytes would give"
        )
    return banks


def _rows(
    bench: Bench, group: Group, found: Sequence[Found], banks: Banks | None, proof: dict[str, object]
) -> Iterator[Measurement]:
    free = next((one.cycles for one in found if one.stride == 1), None)
    for one in found:
        wrong = implausible(group, one.stride, one.cycles)
        if wrong:
            bench.warn(f"{NAME}: implausible: {group.title}, stride {one.stride}: {wrong}")
        params = {
            **one.params,
            **_described(group, one.stride),
            "measured_ways": one.cycles / free if free else None,
            "banks": banks.banks if banks else None,
            "bank_bytes": banks.bank_bytes if banks else None,
        }
        pattern = f"stride {one.stride}" if one.stride else "broadcast"
        metric = "latency" if group.chained else "time"
        flags = (IMPLAUSIBLE,) if wrong else ()
        yield bench.time_row(NAME, f"{group.title} {pattern}", metric, one.timing, params, flags=flags, proof=proof)


def _described(group: Group, stride: int) -> dict[str, object]:
    """What was accessed, and what is expected of it."""
    return {
        "instruction": group.instruction,
        "access": group.access,
        "access_bytes": group.access_bytes,
        "stride": stride,
        "stride_words": stride * group.access_bytes // 4,
        "pattern": "stride" if stride else "broadcast",
        "warps": group.warps,
        "conflict_ways": conflict_ways(stride, group.access_bytes),
    }


def implausible(group: Group, stride: int, cycles: float) -> str | None:
    """Why that many cycles for a warp's access cannot be; None where they can."""
    if group.chained:
        low, high = LATENCY
        if cycles < low or (stride == 1 and cycles > high):
            return f"{cycles:.3g} cycles a dependent load; {low:g} to {high:g} are plausible without conflicts"
        return None
    moved = LANES * group.access_bytes if stride else group.access_bytes
    most = BANKS * BANK_BYTES
    if moved / cycles <= most * TOLERANCE:
        return None
    return f"{moved / cycles:.4g} bytes a cycle; {BANKS} banks of {BANK_BYTES} bytes move {most}"
