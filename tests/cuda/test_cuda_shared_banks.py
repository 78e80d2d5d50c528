"""Do the loops hold accesses alone, are a known GPU's banks found, and does what fails cost only itself?"""

import ctypes
import dataclasses
import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_listing import ARCHITECTURES, compiled, listings, mnemonics
from fake_cuda import Arguments, FakeCuda, Three
from hypothesis import given
from hypothesis import strategies as st

from probe.kernels.cuda import nvrtc, proof, sass
from probe.kernels.cuda import shared_banks as kernels
from probe.kernels.cuda.driver import DeviceLost
from probe.machine.device import Device
from probe.microbench.cuda import shared_banks
from probe.microbench.cuda.shared_banks import Banks, Group, conflict_ways, inferred
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

GPU = Device("cuda", "NVIDIA H100 80GB HBM3")
CLOCK_HZ = 1.5e9
LANES = 32


# ---- machine code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loops_hold_the_accesses_and_a_counter(architecture: str) -> None:
    for kernel in kernels.KERNELS:
        code = compiled(kernel, architecture)
        instructions = sass.of(code, kernel.name)
        claim = kernel.claim_for(nvrtc.number_of(architecture))
        assert proof.check(claim, instructions) == (), kernel.title
        loop = [i.mnemonic for i in proof.innermost_loop(instructions, claim.main)]
        assert loop.count(claim.main) == kernels.ACCESSES
        assert len(loop) <= kernels.ACCESSES + 5, loop  # counter, comparison, branch


@pytest.mark.parametrize("architecture", ("sm_75", "sm_90a", "sm_120"))
def test_the_disassembler_sees_the_same_accesses_and_a_chain_through_them(architecture: str, tmp_path: Path) -> None:
    *plain, chain = listings([*kernels.KERNELS, kernels.chain(4)], architecture, tmp_path)
    for kernel, lines in zip(kernels.KERNELS, plain, strict=True):
        access, _, width = kernel.label.partition(".")
        with_width = [m for m in mnemonics(lines) if m.startswith(access)]
        assert sum(m.replace(".U", "") == kernel.label for m in with_width) >= kernels.ACCESSES, kernel.title
        assert sum(width in m.split(".") for m in with_width) == len(with_width) or not width

    loads = [line.replace(",", " ").split() for line in chain if line.startswith("LDS")]
    assert len(loads) == kernels.ACCESSES
    for before, after in itertools.pairwise(loads):  # each loads the address of the next
        assert after[2] == f"[{before[1]}]"


def test_loads_that_the_compiler_may_drop_are_refused() -> None:
    """Without `volatile` nothing needs the loads: the claim must find them gone."""
    kernel = kernels.independent("load", 8)
    weak = dataclasses.replace(kernel, source=kernel.source.replace("ld.volatile", "ld"))
    wrong = proof.check(weak.claim_for(90), sass.of(compiled(weak, "sm_90a"), weak.name))
    assert any("LDS.64 instead of 64" in sentence for sentence in wrong)


# ---- what is expected ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access_bytes", "stride", "ways"),
    [
        (4, 0, 1), (4, 1, 1), (4, 2, 2), (4, 3, 1), (4, 4, 4), (4, 5, 1), (4, 8, 8), (4, 16, 16), (4, 32, 32),
        (4, 33, 1), (4, 64, 32), (8, 0, 1), (8, 1, 1), (8, 2, 2), (8, 3, 1), (8, 16, 16), (8, 33, 1), (16, 0, 1),
        (16, 1, 1), (16, 2, 2), (16, 3, 1), (16, 8, 8), (16, 32, 8),
    ],
)  # fmt: skip
def test_ways_of_the_strides(access_bytes: int, stride: int, ways: int) -> None:
    assert conflict_ways(stride, access_bytes) == ways


@given(st.integers(1, 200))
def test_ways_of_words_are_the_common_factor_with_the_banks(stride: int) -> None:
    assert conflict_ways(stride, 4) == math.gcd(stride, 32)


@given(st.sampled_from(((8, 4), (16, 4), (32, 4), (32, 8))), st.floats(10, 50), st.floats(1, 4))
def test_banks_are_inferred_from_what_they_cost(shape: tuple[int, int], base: float, way: float) -> None:
    found = inferred(_costs(*shape, base, way))
    assert found == Banks(*shape) or (found is None and 20 * way < base)


@given(st.floats(10, 50), st.floats(2, 4))
def test_wider_and_fewer_banks_are_not_taken_for_those_whose_powers_of_two_cost_the_same(
    base: float, way: float
) -> None:
    assert inferred(_costs(16, 8, base, way)) is None


def _costs(banks: int, bank_bytes: int, base: float, way: float) -> dict[int, float]:
    strides = (33, *(1 << e for e in range(10)))
    return {s: base + way * _passes(4 * s, 4, banks, bank_bytes) for s in strides}


def test_banks_are_left_open_where_the_growth_does_not_tell() -> None:
    assert inferred({}) is None
    assert inferred({1: 20.0, 2: 22.0, 4: 26.0, 8: 34.0, 16: 50.0, 32: 82.0}) is None  # where does it end?
    assert inferred({1: 20.0, 2: 20.1, 4: 20.0, 8: 20.3, 16: 20.0, 32: 20.2, 64: 20.1}) is None  # no conflict
    assert inferred({1: 20.0, 2: 22.0, 4: 26.0, 8: 34.0, 16: 50.0, 32: 82.0, 64: 82.0}) == Banks(32, 4)


# ---- the suite on a known GPU ----------------------------------------------------------------------------------------


def _passes(stride_bytes: int, access_bytes: int, banks: int, bank_bytes: int) -> int:
    """How often shared memory is asked for one access of a warp: words of a bank, one group of lanes after another."""
    if stride_bytes == 0:
        return 1
    total, together = 0, LANES * 4 // access_bytes
    for first in range(0, LANES, together):
        by_bank: dict[int, set[int]] = {}
        for lane in range(first, first + together):
            for byte in range(access_bytes):
                word = (lane * stride_bytes + byte) // bank_bytes
                by_bank.setdefault(word % banks, set()).add(word)
        total += max(len(words) for words in by_bank.values())
    return total


@dataclass
class Machine:
    """Shared memory of `banks`; a load answers after `latency` cycles, and `way` later for each further pass."""

    banks: int = 32
    bank_bytes: int = 4
    latency: float = 23.0
    way: float = 2.0
    a_pass: float = 1.0  # cycles
    strides: set[tuple[str, int, int]] = field(default_factory=set)  # kernel, bytes from lane to lane, bytes a lane

    def fake(self) -> FakeCuda:
        """The driver of this machine."""
        names = ("shared_load_chain", "shared_loads", "shared_stores")
        fake = FakeCuda(memory_bytes=1 << 24)
        fake.kernels.update({name: self._answer(fake, name) for name in names})
        return fake

    def _answer(self, fake: FakeCuda, name: str) -> Any:
        def answer(grid: Three, block: Three, args: Arguments) -> float:
            stride_bytes, loops = (args.value(i, ctypes.c_int32) for i in (2, 3))
            access_bytes = fake.launches[-1].shared - (LANES - 1) * stride_bytes
            self.strides.add((name, stride_bytes, access_bytes))
            passes = _passes(stride_bytes, access_bytes, self.banks, self.bank_bytes)
            chained = name == "shared_load_chain"
            one = self.latency + self.way * (passes - 1) if chained else self.a_pass * passes * block[0] / LANES
            cycles = round(loops * kernels.ACCESSES * one) + 40
            ns = round(cycles / CLOCK_HZ * 1e9)
            args.array(0, np.uint64, 4)[:] = (1000, 1000 + cycles, 5_000_000, 5_000_000 + ns)
            return float(cycles / CLOCK_HZ)

        return answer


def _run(machine: Machine, quick: bool = False, **failing: Any) -> tuple[list[Measurement], Context]:
    fake = machine.fake()
    for function, (code, at) in failing.items():
        fake.fail(function, code, at)
    context = Context(GPU, 5.0, quick=quick, index=0, clock=fake.clock)
    with fake.gpu() as gpu:
        found = list(shared_banks.run(context, gpu))
    assert fake.error is None
    assert fake.allocated_bytes == 0
    return found, context


def _by(found: list[Measurement], title: str) -> dict[int, Measurement]:
    return {m.params["stride"]: m for m in found if m.name.rsplit(" ", 2 if "stride" in m.name else 1)[0] == title}


def test_a_known_gpu_is_recovered() -> None:
    machine = Machine()
    found, context = _run(machine)

    assert context.warnings == []
    assert len(found) == 9 * len(shared_banks.STRIDES) == len({m.name for m in found})
    assert all(m.flags == () and m.unit == "s" for m in found)
    assert {(m.params["banks"], m.params["bank_bytes"]) for m in found} == {(32, 4)}
    latency, loads, stores = (_by(found, title) for title in ("LDS latency", "LDS", "STS.128"))
    for stride in shared_banks.STRIDES:
        ways = conflict_ways(stride, 4)
        assert latency[stride].params["cycles"] == pytest.approx(23 + 2 * (ways - 1), rel=1e-3)
        assert loads[stride].params["cycles"] == pytest.approx(ways, rel=1e-3)
        assert loads[stride].params["measured_ways"] == pytest.approx(ways, rel=1e-3)
        assert loads[stride].params["clock_hz"] == pytest.approx(CLOCK_HZ, rel=1e-3)
        assert loads[stride].value == pytest.approx(ways / CLOCK_HZ, rel=2e-3)
    assert stores[1].params["cycles"] == pytest.approx(4, rel=1e-3)  # 512 bytes at 128 a cycle
    assert stores[2].params["measured_ways"] == pytest.approx(2, rel=1e-3)
    assert stores[2].params["stride_words"] == 8
    assert {m.metric for m in found if "latency" in m.name} == {"latency"}
    assert {m.metric for m in found if "latency" not in m.name} == {"time"}


def test_each_row_says_what_its_loop_holds() -> None:
    found, _ = _run(Machine(), quick=True)

    for m in found:
        assert m.proof is not None
        assert m.proof["instruction"] == m.params["instruction"] == m.name.split()[0]
        assert m.proof["loop"][m.params["instruction"]] == kernels.ACCESSES


def test_every_access_stays_within_its_shared_memory_and_is_aligned() -> None:
    machine = Machine()
    _run(machine)

    assert {access for _, _, access in machine.strides} == {4, 8, 16}
    assert all(stride % access == 0 for _, stride, access in machine.strides)


def test_a_quick_run_tells_the_banks_too() -> None:
    found, context = _run(Machine(), quick=True)

    assert {m.params["stride"] for m in found} == set(shared_banks.QUICK_STRIDES)
    assert {(m.params["banks"], m.params["bank_bytes"]) for m in found} == {(32, 4)}
    assert context.warnings == []


def test_other_banks_are_found_and_said() -> None:
    found, context = _run(Machine(banks=16))

    assert {(m.params["banks"], m.params["bank_bytes"]) for m in found} == {(16, 4)}
    assert context.warnings[0].startswith("shared_banks: 16 banks of 4 bytes were inferred")


def test_memory_without_conflicts_leaves_the_banks_open() -> None:
    found, context = _run(Machine(way=0.0), quick=True)

    assert {m.params["banks"] for m in found} == {None}
    assert "does not tell how many banks" in context.warnings[0]


def test_what_the_banks_cannot_move_is_flagged() -> None:
    found, context = _run(Machine(a_pass=0.5), quick=True)
    flagged = {(m.name, m.flags) for m in found if m.flags}

    assert ("LDS stride 1", ("implausible",)) in flagged
    assert not any("latency" in name for name, _ in flagged)
    assert any("256 bytes a cycle; 32 banks of 4 bytes move 128" in warning for warning in context.warnings)


def test_a_latency_that_no_load_has_is_flagged() -> None:
    found, _ = _run(Machine(latency=2.0, way=1.0), quick=True)
    assert _by(found, "LDS latency")[1].flags == ("implausible",)
    found, _ = _run(Machine(latency=300.0, way=12.0), quick=True)
    assert _by(found, "LDS latency")[1].flags == ("implausible",)


def test_a_loop_that_does_not_load_costs_only_its_own_rows() -> None:
    found, context = _run(Machine(), cuModuleLoadData=(1, 4))

    assert len(found) == 8 * len(shared_banks.STRIDES)
    assert not _by(found, "LDS")
    assert len(context.warnings) == 1
    assert context.warnings[0].startswith("shared_banks: LDS: ")


def test_a_stride_that_does_not_run_costs_only_itself() -> None:
    found, context = _run(Machine(), cuLaunchKernel=(1, 1))

    assert len(found) == 9 * len(shared_banks.STRIDES) - 1
    assert len(context.warnings) == 2  # the stride, and the banks that cannot be told without it
    assert context.warnings[0].startswith("shared_banks: LDS latency, stride 1: ")


def test_a_lost_device_ends_the_suite_and_keeps_what_was_measured() -> None:
    fake = Machine().fake()
    context = Context(GPU, 5.0, quick=True, index=0, clock=fake.clock)
    found: list[Measurement] = []
    with fake.gpu() as gpu:
        rows = shared_banks.run(context, gpu)
        found.extend(next(rows) for _ in range(len(shared_banks.QUICK_STRIDES)))
        fake.fail("cuLaunchKernel", 719, 5)
        with pytest.raises(DeviceLost):
            found.extend(rows)
    assert [m.name for m in found][:1] == ["LDS latency stride 1"]
    assert len(found) == len(shared_banks.QUICK_STRIDES)


def test_the_group_that_tells_the_banks_comes_first() -> None:
    for quick in (False, True):
        assert shared_banks.groups(quick)[0] == shared_banks.FIRST == Group("load", 4, chained=True)


@pytest.mark.gpu
def test_a_real_gpu_has_thirty_two_banks_of_four_bytes() -> None:
    context = Context(Device("cuda", "the GPU here"), 8.0, index=0)
    found = list(shared_banks.run(context))

    assert {(m.params["banks"], m.params["bank_bytes"]) for m in found} == {(32, 4)}, context.warnings
    assert not [m.name for m in found if "implausible" in m.flags], context.warnings
    loads = _by(found, "LDS")
    assert loads[32].params["measured_ways"] == pytest.approx(32, rel=0.1)
    assert loads[33].params["measured_ways"] == pytest.approx(1, rel=0.1)
