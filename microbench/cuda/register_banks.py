"""What does it cost that an instruction's operands lie in one register bank, how many banks are there, what helps?

Method: a loop of 512 FFMA (or IADD3) whose machine code is composed word by word, so that the sources' register numbers
modulo 8, the `.reuse` flags and the stall count are those asked for, on one SM, by clock64; two iteration counts are
differenced. Cycles are those an instruction takes of one of the SM's four schedulers; with 4 warps each has one, with 1
three are idle. The loop's counter and branch are in them, a percent or two. Which patterns cost alike tells the number
of banks (`bank_count`); where nothing explains the times, it is undetermined and a warning says why.

Beside it: the gain of `.reuse`, a constant as an operand, two cycles between instructions instead of one, 1 to 16
warps, and the same index arithmetic in the uniform and in the vector datapath.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.kernels.cuda import nvrtc, recompose, uniform_path
from probe.kernels.cuda import register_banks as kernels
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.gpu import Gpu, UnprovedError
from probe.kernels.cuda.memory import Memory
from probe.kernels.cuda.recompose import FFMA, FFMA_CONSTANT, IADD3, Block, Operation
from probe.kernels.cuda.register_banks import A, B, C, Variant
from probe.microbench.cuda import bank_count
from probe.microbench.cuda.bank_count import Banks, Residues
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.cuda.in_kernel import InKernel
from probe.microbench.harness import Effort, paced
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

NAME = "register_banks"
WINDOW_S = 0.3e-3  # of the shorter of the two launches that are differenced: several hundred thousand cycles
SCHEDULERS = 4  # of an SM, Volta to Blackwell
WARP = 32
WARPS = (1, 4, 8, 16)
ALONE = 4  # warps: one for each scheduler
CONFLICT, FREE = (0, 0, 0), (0, 1, 2)  # for every number of banks: all sources in one, and as few as can be
PAIRS = ((0, 0, 1), (0, 1, 0), (1, 0, 0))
IMPLAUSIBLE_FRACTION = 0.02  # faster than the units can be by more than this
REACHED_FRACTION = 0.10  # within this of the issue floor the loop is limited by nothing else
# Cycles a scheduler takes to issue one warp's instruction, by compute capability: 2 where it has 16 lanes for it (64
# results per clock cycle and SM). 1 where not listed: no scheduler issues more than one a cycle.
FLOORS = {
    "FFMA": {70: 2, 72: 2, 75: 2, 80: 2},
    "IADD3": {70: 2, 72: 2, 75: 2, 80: 2, 86: 2, 87: 2, 89: 2, 90: 2},
}


@dataclass(frozen=True)
class Case:
    """One variant at one occupancy; `operands` names it as others publish it."""

    variant: Variant
    warps: int = ALONE
    operands: str | None = None

    @property
    def name(self) -> str:
        """FFMA R0 R1 R2, 4 warps."""
        v = self.variant
        held = f" {_letters(v.held)} held" if v.held != v.reuse else ""
        stall = f", stall {v.stall}" if v.stall != 1 else ""
        what = f" {self.operands}" if self.operands else ""
        return f"{v.operation.name}{what} {v.pattern}{held}, {_counted(self.warps)}{stall}"

    @property
    def params(self) -> dict[str, Any]:
        """What a reader must know to repeat it."""
        v = self.variant
        params = {
            "instruction": v.operation.name,
            "pattern": v.pattern,
            "warps": self.warps,
            "stall": v.stall,
            "held": _letters(v.held),
            "reuse": _letters(v.reuse),
            "constant": v.operation.constant is not None,
        }
        return {**params, "operands": self.operands} if self.operands else params

    @property
    def plain(self) -> bool:
        """Whether every source is fetched for every instruction."""
        return not self.variant.held and self.variant.operation.constant is None


@dataclass(frozen=True)
class Group:
    """Cases that are measured in turn; where it `counts_banks`, those without `.reuse` tell their number."""

    title: str
    cases: tuple[Case, ...]
    counts_banks: bool = False


@dataclass(frozen=True)
class Indices:
    """Index arithmetic in either datapath, by so many warps."""

    warps: int


@dataclass(frozen=True)
class Result:
    """One case: its row, and the median cycles of an instruction."""

    case: Case
    row: Measurement
    cycles: float


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """Rows of metric `time` (s, with `cycles`) by pattern; `speedup` of remapping and of `.reuse`; `banks` where known.

    Raises UnavailableError before Volta, where machine code is another, and where the loop cannot be proved.
    """
    with opened(context, gpu) as bench:
        loop = Loop(bench)
        fastest: dict[str, float] = {}
        steps: list[Group | Indices] = [*groups(context.quick), *indices(bench)]
        for step, budget_s in paced(steps, bench.left_s, context.clock, context.report):
            if isinstance(step, Indices):
                yield from _datapaths(bench, loop.sink, step.warps, budget_s)
                continue
            results = _measure(bench, loop, step.cases, budget_s)
            yield from _told(bench, step, results)
            for result in results:
                key = result.case.variant.operation.name
                fastest[key] = min(result.cycles, fastest.get(key, result.cycles))
        _check_floors(bench, fastest)


def groups(quick: bool) -> Iterator[Group]:
    """What is measured, in order: what others publish first, then what tells the banks, then what modifies it."""
    yield Group("as published", tuple(_as_published()))
    if quick:
        yield _sweep(FFMA, ALONE, few=True)
        yield Group("reuse", tuple(_reuse(ALONE, (CONFLICT,))))
        return
    yield _sweep(FFMA, ALONE)
    yield _sweep(IADD3, ALONE, few=True)
    for warps in WARPS:
        if warps != ALONE:
            yield _sweep(FFMA, warps, few=True)
    yield _sweep(FFMA, ALONE, few=True, stall=2)
    yield Group("stall 2", tuple(Case(Variant(r, stall=2), w) for w in (1, 8, 16) for r in (CONFLICT, *PAIRS, FREE)))
    for warps in (ALONE, 16):
        yield Group(f"reuse, {warps} warps", tuple(_reuse(warps, (CONFLICT, *PAIRS[:2], FREE))))
        constants = tuple(Case(Variant(r, FFMA_CONSTANT), warps) for r in ((0, 0, 0), (0, 0, 1)))
        yield Group(f"a constant, {warps} warps", constants)


def indices(bench: Bench) -> Iterator[Indices]:
    """What is measured of the uniform datapath; none, with a warning, before Turing."""
    major, minor = bench.gpu.capability
    if 10 * major + minor < uniform_path.FIRST:
        bench.warn(f"{NAME}: {bench.gpu.name} has no uniform datapath, Turing is the first with one")
        return
    for warps in (ALONE,) if bench.context.quick else (ALONE, WARPS[-1]):
        yield Indices(warps)


def _as_published() -> Iterator[Case]:
    """One warp, as sjfeng1999's gpu-arch-microbenchmark has it: operands in conflict, free, and reused."""
    for operation in (FFMA, IADD3):
        yield Case(Variant(CONFLICT, operation), 1, "conflict")
        yield Case(Variant(FREE, operation), 1, "free")
        yield Case(Variant(CONFLICT, operation, held=A | B, reuse=A | B), 1, "reuse")


def _sweep(operation: Operation, warps: int, *, few: bool = False, stall: int = 1) -> Group:
    """All patterns, or the `few` with the first source in residue 0: bank numbers are only names. One without reads."""
    patterns = [r for r in kernels.residues() if not few or r[0] == 0 or max(r) >= 4]
    cases = [Case(Variant(residues, operation, stall=stall), warps) for residues in patterns]
    cases.append(Case(Variant(CONFLICT, operation, held=A | B | C, reuse=A | B | C, stall=stall), warps))
    title = f"{operation.name}, {_counted(warps)}" + (f", stall {stall}" if stall != 1 else "")
    return Group(title, tuple(cases), counts_banks=True)


def _reuse(warps: int, patterns: Sequence[Residues]) -> Iterator[Case]:
    """The same registers in every instruction, without and with `.reuse`; what the sweeps have is left out."""
    for residues, held in itertools.product(patterns, (A, A | B, A | B | C)):
        yield Case(Variant(residues, held=held), warps)
        if (residues, held) != (CONFLICT, A | B | C):
            yield Case(Variant(residues, held=held, reuse=held), warps)


class Loop:
    """The compiled loop, and its variants loaded on the device."""

    def __init__(self, bench: Bench) -> None:
        """Raises UnavailableError where no pool of registers gives a loop as claimed."""
        self._bench = bench
        self.block, self._compiled = _compiled(bench.gpu)
        self.sink: Memory = bench.gpu.allocate(4 * kernels.THREADS)
        self._functions: dict[Variant, Function] = {}

    def function(self, variant: Variant) -> Function:
        """The variant's machine code on the device; RecomposeError where the loop has too few registers for it."""
        if variant not in self._functions:
            code = kernels.recomposed(self.block, variant)
            proof = kernels.proof(self.block, variant, self._compiled)
            self._functions[variant] = self._bench.gpu.load_cubin(code, kernels.NAME, proof)
        return self._functions[variant]


def _compiled(gpu: Gpu) -> tuple[Block, dict[str, object]]:
    """The block to write variants into, and the proof of the kernel around it, with the largest pool that works."""
    for pool in kernels.POOLS:
        kernel = kernels.kernel(pool)
        try:
            proof = gpu.load(kernel).proof
        except UnprovedError:
            if pool == kernels.POOLS[-1]:
                raise
            continue
        cubin = nvrtc.cubin(kernel.source, gpu.architecture, kernel.defines, driver=gpu.driver.version)
        return recompose.block(cubin, kernel.name), proof
    raise AssertionError("there is at least one pool")


def _launcher(function: Function, sink: Memory, warps: int, *more: np.generic) -> Callable[[int, Memory], None]:
    def launch(iterations: int, stamps: Memory) -> None:
        function.launch(1, WARP * warps, stamps, sink, np.uint32(iterations), np.float32(1), *more)

    return launch


def _per_scheduler(instructions: int, warps: int) -> float:
    """How many instructions of an iteration the scheduler with the most warps issues."""
    return instructions * max(1, warps // SCHEDULERS)


def _measure(bench: Bench, loop: Loop, cases: Sequence[Case], budget_s: float) -> list[Result]:
    """The cases in turn; one that cannot be loaded costs only itself."""
    started = bench.context.clock()
    timed: list[tuple[Case, InKernel, Function]] = []
    variants = []
    for case in cases:
        with bench.sparing(f"{NAME}: {case.name}"):
            function, own = loop.function(case.variant), InKernel(bench, differenced=True, window_s=WINDOW_S)
            launch = _launcher(function, loop.sink, case.warps)
            variants.append(own.variant(case.name, launch, _per_scheduler(kernels.INSTRUCTIONS, case.warps)))
            timed.append((case, own, function))
    left_s = max(0.0, budget_s - (bench.context.clock() - started))
    results = []
    for (case, own, function), timing in zip(timed, bench.measure(variants, Effort(left_s)), strict=True):
        params = {**case.params, **own.params}
        flags = ("implausible",) if own.cycles < floor(bench.gpu, case) * (1 - IMPLAUSIBLE_FRACTION) else ()
        row = bench.time_row(NAME, case.name, "time", timing, params, flags=flags, proof=function.proof)
        results.append(Result(case, row, own.median_cycles))
    return results


def floor(gpu: Gpu, case: Case) -> int:
    """Cycles below which no instruction of the case can be issued."""
    number = 10 * gpu.capability[0] + gpu.capability[1]
    lanes = FLOORS[case.variant.operation.name].get(number, 1)
    return max(lanes, case.variant.stall if case.warps <= SCHEDULERS else 1)


def _told(bench: Bench, group: Group, results: Sequence[Result]) -> Iterator[Measurement]:
    """The group's rows, what follows from them first."""
    by_operands = {(r.case.variant.operation.name, r.case.operands): r.row for r in results if r.case.operands}
    for instruction in dict.fromkeys(name for name, _ in by_operands):
        for better, what in (("free", "remapped"), ("reuse", "reused")):
            pair = by_operands.get((instruction, "conflict")), by_operands.get((instruction, better))
            if pair[0] is not None and pair[1] is not None:
                yield _speedup(f"{instruction} {what}", pair[0], pair[1], instruction)
    banks = _banks(bench, group, results) if group.counts_banks else None
    if banks is not None and banks.count is not None and results:
        yield _bank_row(group, banks, results)
    for result in results:
        yield result.row if banks is None else _placed(result, banks)


def _banks(bench: Bench, group: Group, results: Sequence[Result]) -> Banks:
    """The number of banks from the group's times; a warning where it is not known."""
    usable = [r for r in results if "implausible" not in r.row.flags]
    plain = {r.case.variant.residues: r.cycles for r in usable if r.case.plain}
    banks = bank_count.infer(plain, min((r.cycles for r in usable), default=0.0))
    if banks.count is None:
        bench.warn(f"{NAME}: the number of banks is undetermined ({group.title}): {banks.because}")
    return banks


def _bank_row(group: Group, banks: Banks, results: Sequence[Result]) -> Measurement:
    """The number of banks; `n` is the number of patterns it stands on."""
    assert banks.count is not None
    variant, count = results[0].case.variant, float(banks.count)
    params = {
        "instruction": variant.operation.name,
        "warps": results[0].case.warps,
        "stall": variant.stall,
        "reads_per_bank_per_cycle": banks.ports,
        "conflict_cycles": banks.conflict_cycles,
        "cycles_by_sharing": {c.name: c.median for c in banks.classes},
        "because": banks.because,
    }
    n = sum(r.case.plain for r in results)
    proof = results[0].row.proof
    return Measurement(
        NAME, f"{group.title}: banks", "banks", "banks", count, count, count, (count, count), n, params, proof=proof
    )


def _placed(result: Result, banks: Banks) -> Measurement:
    """The row with how many of its reads go to the bank with the most, where the number of banks is known."""
    if banks.count is None:
        return result.row
    reads = [r % banks.count for r in result.case.variant.reads]
    most = max((reads.count(bank) for bank in set(reads)), default=0)
    return dataclasses.replace(result.row, params={**result.row.params, "most_reads_of_a_bank": most})


def _speedup(name: str, slow: Measurement, fast: Measurement, instruction: str) -> Measurement:
    """How many times faster `fast` is; medians, and the interval that theirs allow."""
    low, high = slow.interval[0] / fast.interval[1], slow.interval[1] / fast.interval[0]
    ratio, best = slow.median / fast.median, slow.value / fast.value
    params = {"instruction": instruction, "from": slow.params["pattern"], "to": fast.params["pattern"]}
    flags = tuple(dict.fromkeys((*slow.flags, *fast.flags)))
    return Measurement(
        NAME, name, "speedup", "ratio", best, min(best, low), ratio, (low, high), min(slow.n, fast.n), params, flags
    )


def _check_floors(bench: Bench, fastest: dict[str, float]) -> None:
    """Warn where no variant of an instruction comes near the rate its units have: then something else is in the way."""
    for instruction, cycles in fastest.items():
        least = floor(bench.gpu, Case(Variant(FREE, FFMA if instruction == FFMA.name else IADD3)))
        if cycles > least * (1 + REACHED_FRACTION):
            bench.warn(
                f"{NAME}: no variant of {instruction} reaches the issue floor of {least} cycles, the fastest takes "
                f"{cycles:.2f}: more than operands limits it"
            )


def _datapaths(bench: Bench, sink: Memory, warps: int, budget_s: float) -> Iterator[Measurement]:
    """FFMA with index arithmetic in either datapath and without any; time an FFMA."""
    started = bench.context.clock()
    timed: list[tuple[str, InKernel, Function]] = []
    variants = []
    for datapath in uniform_path.DATAPATHS:
        with bench.sparing(f"{NAME}: datapath {datapath}"):
            function = bench.gpu.load(uniform_path.kernel(datapath))
            own = InKernel(bench, differenced=True, window_s=WINDOW_S)
            launch = _launcher(function, sink, warps, np.uint32(3), np.uint32(5))
            variants.append(own.variant(datapath, launch, _per_scheduler(uniform_path.FFMA, warps)))
            timed.append((datapath, own, function))
    left_s = max(0.0, budget_s - (bench.context.clock() - started))
    for (datapath, own, function), timing in zip(timed, bench.measure(variants, Effort(left_s)), strict=True):
        operations = 0 if datapath == uniform_path.NONE else uniform_path.INDEX_OPERATIONS
        params = {"datapath": datapath, "warps": warps, "ffma": uniform_path.FFMA, "index_operations": operations}
        name = f"FFMA, indices: {datapath}, {_counted(warps)}"
        yield bench.time_row(NAME, name, "time", timing, {**params, **own.params}, proof=function.proof)


def _letters(mask: int) -> str:
    """The sources of a mask: AB; empty for none."""
    return "".join(letter for letter, bit in zip("ABC", kernels.SLOTS, strict=True) if mask & bit)


def _counted(warps: int) -> str:
    return f"{warps} warp" + "s" * (warps != 1)
