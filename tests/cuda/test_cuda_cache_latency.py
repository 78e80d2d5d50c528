"""Are the levels of a known GPU found with their latencies, and does what fails cost only itself?"""

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
from cuda_machine import KIB, MIB, Machine
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UnavailableError
from probe.kernels.cuda import chase, nvrtc, proof, sass
from probe.kernels.cuda.driver import DeviceLost
from probe.machine import environment
from probe.machine.device import Device
from probe.microbench.cuda import cache_latency, l2_map, levels
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

GPU = Device("cuda", "NVIDIA H100 80GB HBM3")


def _run(
    machine: Machine, budget_s: float = 5.0, quick: bool = False, **more: Any
) -> tuple[list[Measurement], Context]:
    fake = machine.fake(**({"memory_bytes": 256 * MIB} | more))
    context = Context(GPU, budget_s, quick=quick, index=0, clock=fake.clock)
    with fake.gpu() as gpu:
        found = list(cache_latency.run(context, gpu))
    assert fake.error is None
    assert fake.allocated_bytes == 0
    return found, context


@functools.cache
def _plain() -> tuple[list[Measurement], Context]:
    """What is found on the machine as it is."""
    return _run(Machine())


def _sweep(found: list[Measurement]) -> dict[int, Measurement]:
    return {m.params["size_bytes"]: m for m in levels.sweep(found)}


def test_a_known_machine_is_recovered() -> None:
    found, context = _plain()
    sweep = _sweep(found)

    assert list(sweep) == [1 << e for e in range(12, 24)]  # 4 KiB to 8 × 1 MiB
    assert {size: m.params["level"] for size, m in sweep.items()} == {
        **{1 << e: "L1" for e in range(12, 18)},
        **{1 << e: "L2" for e in range(18, 21)},
        2 * MIB: None,
        4 * MIB: "DRAM",
        8 * MIB: "DRAM",
    }
    for size, cycles in ((4 * KIB, 33), (128 * KIB, 33), (256 * KIB, 200), (MIB, 200), (4 * MIB, 600), (8 * MIB, 600)):
        assert sweep[size].params["cycles"] == pytest.approx(cycles, rel=1e-3)
        assert sweep[size].value == pytest.approx(cycles / 1.5e9, rel=2e-3)
        assert sweep[size].params["clock_hz"] == pytest.approx(1.5e9, rel=1e-3)
    assert context.warnings == []
    assert {(m.metric, m.unit, m.suite) for m in found} == {("latency", "s", "cache_latency")}
    assert all(m.flags == () for m in found)


def test_plateaus_have_capacities_and_latencies() -> None:
    found, _ = _plain()
    plateaus = levels.find(found, MIB)

    assert [(p.name, p.capacity_bytes) for p in plateaus] == [("L1", 128 * KIB), ("L2", MIB), ("DRAM", None)]
    assert [p.latency_s for p in plateaus] == pytest.approx([33 / 1.5e9, 200 / 1.5e9, 600 / 1.5e9], rel=2e-3)


def test_the_largest_sizes_are_chased_after_a_flush() -> None:
    """The model answers with a mixture where L2 was neither warmed nor overwritten."""
    sweep = _sweep(_plain()[0])

    assert [m.params["warmed"] for m in sweep.values()] == [size < 4 * MIB for size in sweep]
    assert sweep[2 * MIB].params["cycles"] == pytest.approx(400, rel=1e-3)  # half of it is in L2


def test_what_the_machine_code_holds_stands_beside_each_row() -> None:
    found, _ = _plain()
    instructions = {(m.params["load"], (m.proof or {})["instruction"]) for m in found}

    assert instructions == {
        ("ld.global", "LDG.E.64"),
        ("ld.global.cg", "LDG.E.64.STRONG.GPU"),
        ("ld.global.cg, one line", "LDG.E.64.STRONG.GPU"),
        ("ld.shared", "LDS"),
    }


def test_shared_memory_and_l2_past_l1() -> None:
    found, _ = _plain()
    [shared] = [m for m in found if m.params.get("level") == "shared"]
    [past_l1] = [m for m in found if m.params["load"] == "ld.global.cg"]  # 2 MiB is no quarter of this L2

    assert shared.params["cycles"] == pytest.approx(23, rel=1e-3)
    assert (past_l1.params["size_bytes"], past_l1.params["level"]) == (256 * KIB, "L2")
    assert past_l1.params["cycles"] == pytest.approx(200, rel=1e-3)


def test_one_kind_of_distance_is_not_split() -> None:
    found, _ = _plain()
    [row] = [m for m in found if m.name.startswith("L2")]

    assert row.params["per_sm_cycles"] == [200.0 + sm for sm in range(12)]
    assert (row.params["near_cycles"], row.params["far_cycles"]) == (None, None)
    assert row.min == pytest.approx(200 / 1.5e9, rel=1e-3)
    assert row.n == 12


def test_near_and_far_lines_are_told_apart() -> None:
    found, _ = _run(Machine(far=400))
    by_name = {m.name: m for m in found}
    row, near, far = by_name["L2 by SM"], by_name["L2, near lines"], by_name["L2, far lines"]

    assert row.params["near_cycles"] == pytest.approx(205.5, abs=2)
    assert row.params["far_cycles"] == pytest.approx(405.5, abs=2)
    assert (near.params["level"], far.params["level"]) == ("L2", "L2 far")
    assert far.params["cycles"] == pytest.approx(row.params["far_cycles"])
    assert near.value == pytest.approx(row.params["near_cycles"] / 1.5e9, rel=1e-3)
    assert near.n + far.n == 12 * l2_map.LINES


def test_an_sm_that_no_block_finds_is_none() -> None:
    [row] = [m for m in _run(Machine(unreached=(3, 7)))[0] if m.name == "L2 by SM"]

    assert [sm for sm, cycles in enumerate(row.params["per_sm_cycles"]) if cycles is None] == [3, 7]
    assert row.n == 10


def test_a_map_without_any_sm_costs_only_itself() -> None:
    found, context = _run(Machine(unreached=tuple(range(12))))

    assert len(_sweep(found)) == 12
    assert any("no block was run on the SM" in warning for warning in context.warnings)


@given(st.integers(0, 1000), st.floats(0, 0.05), st.booleans())
def test_a_split_needs_two_heaps(seed: int, noise: float, two: bool) -> None:
    generator = np.random.default_rng(seed)
    near = generator.random((24, 32)) < 0.5
    cycles = np.where(near, 200.0, 400.0 if two else 200.0) * (1 + noise * generator.standard_normal((24, 32)))
    kinds = l2_map.split(cycles)

    assert (kinds is not None) == two
    if kinds:
        assert kinds.near == pytest.approx(200, rel=0.05)
        assert kinds.far == pytest.approx(400, rel=0.05)
        assert ((cycles < kinds.boundary) == near).all()


def test_an_even_spread_from_sm_to_sm_is_no_two_kinds() -> None:
    """222 to 339 cycles by SM, as was published for an L40."""
    assert l2_map.split(np.linspace(222, 339, 142 * 32).reshape(142, 32)) is None


def test_a_quick_run_has_fewer_sizes_and_the_promised_ones() -> None:
    sweep = _sweep(_run(Machine(), quick=True)[0])

    assert len(sweep) == 7
    assert {4 * KIB, 16 * KIB, 256 * KIB, 4 * MIB, 8 * MIB} <= set(sweep)


@given(st.integers(1, 256 * MIB), st.booleans())
def test_sizes_are_powers_of_two_from_4_kib_to_far_beyond_l2(l2_bytes: int, coarse: bool) -> None:
    sizes = cache_latency.sizes(max(l2_bytes, 512 * KIB), coarse=coarse)

    assert {4 * KIB, 16 * KIB, 256 * KIB} <= set(sizes)
    assert all(size & (size - 1) == 0 for size in sizes)
    assert sizes[-1] >= 8 * l2_bytes


def test_sizes_that_do_not_fit_are_left_out() -> None:
    found, context = _run(Machine(), memory_bytes=16 * MIB)  # a quarter: 4 MiB

    assert max(_sweep(found)) == 4 * MIB
    assert any("8 MiB on are left out" in warning for warning in context.warnings)


def test_memory_that_is_refused_leaves_the_sizes_below() -> None:
    machine = Machine()
    fake = machine.fake(memory_bytes=256 * MIB)
    context = Context(GPU, 0.5, index=0, clock=fake.clock)
    fake.fail("cuMemAlloc_v2", 2)
    with fake.gpu() as gpu:
        found = list(cache_latency.run(context, gpu))

    assert max(_sweep(found)) == 4 * MIB
    assert any("left out" in warning for warning in context.warnings)


def test_a_share_of_l1_that_is_refused_is_a_warning() -> None:
    fake = Machine().fake(memory_bytes=256 * MIB)
    context = Context(GPU, 0.5, quick=True, index=0, clock=fake.clock)
    fake.fail("cuFuncSetAttribute", 801)
    with fake.gpu() as gpu:
        found = list(cache_latency.run(context, gpu))

    assert _sweep(found)[4 * KIB].params["level"] == "L1"
    assert any("share that the driver chooses" in warning for warning in context.warnings)


def test_too_little_memory_is_said() -> None:
    fake = Machine().fake(memory_bytes=8 * KIB)
    with fake.gpu() as gpu, pytest.raises(UnavailableError, match="too little"):
        list(cache_latency.run(Context(GPU, 1.0, index=0, clock=fake.clock), gpu))


def test_a_device_lost_in_the_middle_keeps_what_is_done() -> None:
    fake = Machine().fake(memory_bytes=256 * MIB)
    context = Context(GPU, 0.5, index=0, clock=fake.clock)
    fake.fail("cuLaunchKernel", 700, at=200)
    found: list[Measurement] = []
    with fake.gpu() as gpu, pytest.raises(DeviceLost, match="illegal address"):
        for measurement in cache_latency.run(context, gpu):
            found.append(measurement)

    assert 0 < len(found) < 12
    assert {m.params["level"] for m in found} <= {"DRAM", None, "L2"}


def test_a_kernel_that_is_not_as_claimed_costs_only_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(chase.SHARED, claim=chase.SHARED.claim_for(90).with_(exactly={"LDS": 31}))
    monkeypatch.setattr(chase, "SHARED", wrong)
    found, context = _run(Machine())

    assert "shared" not in {m.params.get("level") for m in found}
    assert len(_sweep(found)) == 12
    assert any("32 LDS instead of 31" in warning for warning in context.warnings)


def test_a_disturbed_window_does_not_move_the_cycles() -> None:
    machine = Machine(jitter=lambda launch: 1.5 if launch % 3 == 0 else 1.0)
    sweep = _sweep(_run(machine)[0])

    assert sweep[4 * KIB].params["cycles"] == pytest.approx(33, rel=1e-3)
    assert sweep[4 * KIB].params["level"] == "L1"


def test_a_timer_that_stands_still_is_said() -> None:
    found, context = _run(Machine(timer_runs=False))

    assert _sweep(found)[4 * KIB].value == pytest.approx(33 / 1.5e9, rel=1e-3)  # at the highest clock
    assert any("timer does not run" in warning for warning in context.warnings)


def test_levels_of_a_curve_with_a_slow_part_of_l2_and_a_climb() -> None:
    rows = [_row(4 * KIB << i, cycles) for i, cycles in enumerate([33, 33, 33, 33, 33, 33, 110, 260, 261, 262, 480])]
    beyond = [_row(64 * MIB, 700, warmed=False)]
    named = {m.params["size_bytes"]: m.params["level"] for m in levels.labelled([*rows, *beyond], 6 * MIB)}

    assert [named[4 * KIB << i] for i in range(11)] == ["L1"] * 6 + [None] + ["L2"] * 3 + ["L2 far"]
    assert named[64 * MIB] == "DRAM"


def test_levels_of_nothing_and_of_little() -> None:
    assert levels.find([], MIB) == ()
    assert [p.name for p in levels.find([_row(4 * KIB, 33)], MIB)] == ["L1"]
    assert [p.name for p in levels.find([_row(4 * KIB, 250)], None)] == ["L2"]


def _row(size: int, cycles: float, warmed: bool = True) -> Measurement:
    seconds = cycles / 1e9
    params = {"size_bytes": size, "cycles": cycles, "load": "ld.global", "warmed": warmed}
    return Measurement("cache_latency", "x", "latency", "s", *(seconds,) * 3, (seconds, seconds), 8, params)


ARCHITECTURES = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", [chase.THROUGH_L1, chase.PAST_L1, chase.SHARED], ids=lambda k: k.name)
def test_each_load_needs_the_one_before(architecture: str, kernel: Any) -> None:
    """Beyond the claim: the address of each load in the timed loop is what the load before it brought."""
    code = nvrtc.cubin(kernel.source, architecture, kernel.defines)
    instructions = sass.of(code, kernel.name)
    mnemonic = kernel.claim.main
    loop = [i for i in proof.innermost_loop(instructions, mnemonic) if i.mnemonic.startswith(mnemonic)]

    assert len(loop) == chase.HOPS
    assert [i.ra for i in loop] == [loop[-1].rd, *(i.rd for i in loop[:-1])]


@pytest.mark.gpu
def test_a_real_gpu_has_levels_in_order() -> None:
    context = Context(environment.cuda_device(0), 10.0, index=0)
    found = list(cache_latency.run(context))
    latency = {p.name: p.latency_s for p in levels.find(found, context.device.l2_bytes)}

    assert latency["L1"] < latency["L2"] < latency["DRAM"]
    assert all(m.proof for m in found)
