"""Are the TLBs of a known GPU found where they end, with what a miss costs, and are chases apart from one another?"""

from typing import Any

import numpy as np
import pytest
from cuda_machine import GIB, MIB, Machine
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UnavailableError
from probe.kernels.cuda.driver import DeviceLost
from probe.machine.device import Device
from probe.microbench.cuda import tlb
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

GPU = Device("cuda", "NVIDIA H100 80GB HBM3")
TLBS = ((32, 60.0), (256, 300.0))  # 64 MiB and 512 MiB of pages of 2 MiB


def _run(machine: Machine, quick: bool = False, **more: Any) -> tuple[list[Measurement], Context]:
    fake = machine.fake(**({"memory_bytes": 32 * GIB} | more))
    context = Context(GPU, 0.5, quick=quick, index=0, clock=fake.clock)
    with fake.gpu() as gpu:
        found = list(tlb.run(context, gpu))
    assert fake.error is None
    assert fake.allocated_bytes == 0
    return found, context


def test_reach_and_cost_of_two_tlbs_are_recovered() -> None:
    found, context = _run(Machine(tlbs=TLBS))
    reach = {(m.params["page_bytes"], m.params["step"]): m for m in found if m.metric == "reach"}
    beyond = {(m.params["page_bytes"], m.params["step"]): m for m in found if m.name.startswith("beyond")}

    assert {key: m.value for key, m in reach.items()} == {(2 * MIB, 1): 32, (2 * MIB, 2): 256, (32 * MIB, 1): 32}
    assert beyond[2 * MIB, 1].params["cycles"] == pytest.approx(60, rel=0.02)
    assert beyond[2 * MIB, 2].params["cycles"] == pytest.approx(360, rel=0.02)
    assert beyond[2 * MIB, 2].value == pytest.approx(360 / 1.5e9, rel=0.02)
    assert reach[2 * MIB, 1].params["size_bytes"] == 64 * MIB
    assert reach[2 * MIB, 1].interval == (32, 64)
    assert {m.unit for m in reach.values()} == {"pages"}
    assert all((m.proof or {})["instruction"] == "LDG.E.64.STRONG.GPU" for m in found)
    assert all("no step" in warning for warning in context.warnings)


def test_a_machine_without_misses_has_no_step_and_says_so() -> None:
    found, context = _run(Machine())

    assert {m.metric for m in found} == {"latency"}
    assert not [m for m in found if m.name.startswith("beyond")]
    assert len([warning for warning in context.warnings if "no step was seen" in warning]) == 3


def test_dense_lines_are_the_control() -> None:
    """What L2's misses cost is not the TLB's: dense lines pay it, too."""
    found, _ = _run(Machine(tlbs=TLBS))
    dense = [m for m in found if m.params.get("layout") == tlb.DENSE]

    assert len(dense) == len(tlb.line_counts(8 * GIB, MIB))
    assert [m.params["cycles"] for m in dense] == pytest.approx([200] * len(dense), rel=1e-3)
    assert all(m.params["page_bytes"] == 128 for m in dense)


def test_a_quick_run_takes_less_memory() -> None:
    found, _ = _run(Machine(), quick=True, memory_bytes=256 * GIB)

    assert max(m.params["size_bytes"] for m in found) <= tlb.MOST_BYTES_QUICK


@given(lines=st.integers(1, 600), seed=st.integers(0, 50), stride=st.sampled_from(tlb.STRIDES_BYTES))
def test_one_line_a_stride_none_of_which_is_taken(lines: int, seed: int, stride: int) -> None:
    generator = np.random.default_rng(seed)
    used = np.arange(0, 1 << 20, 128, dtype=np.uint64)[::2]
    offsets = tlb.Walk(tlb.ONE_A_PAGE, lines, stride).offsets(generator, used)

    assert sorted((offsets // np.uint64(stride)).tolist()) == list(range(lines))
    assert not (offsets % np.uint64(128)).any()
    assert not np.isin(offsets, used).any()


def test_all_sets_of_a_cache_get_their_share() -> None:
    offsets = tlb.Walk(tlb.ONE_A_PAGE, 4096, 2 * MIB).offsets(np.random.default_rng(0), np.empty(0, np.uint64))
    sets = np.bincount((offsets // np.uint64(128) % np.uint64(512)).astype(np.int64), minlength=512)

    assert sets.max() < 30  # 8 each on average; lines at the same place of each stride would all be in one


@given(st.integers(256 * MIB, 64 * GIB), st.integers(MIB, 128 * MIB))
def test_lines_fit_l2_and_memory(arena: int, l2: int) -> None:
    counts = tlb.line_counts(arena, l2)

    assert counts[0] == tlb.FEWEST_LINES
    assert counts[-1] * 128 * tlb.L2_SHARE <= l2
    assert all(walk.lines * walk.stride_bytes <= arena for count in counts for walk in tlb.walks(count, arena))


def test_memory_that_is_refused_is_halved() -> None:
    machine = Machine(tlbs=TLBS)
    fake = machine.fake(memory_bytes=32 * GIB)
    context = Context(GPU, 0.5, index=0, clock=fake.clock)
    fake.fail("cuMemAlloc_v2", 2)
    with fake.gpu() as gpu:
        found = list(tlb.run(context, gpu))

    assert max(m.params.get("size_bytes", 0) for m in found) == 4 * GIB
    assert any("8 GiB in one piece were refused" in warning for warning in context.warnings)


def test_too_little_memory_is_said() -> None:
    fake = Machine().fake(memory_bytes=512 * MIB)
    with fake.gpu() as gpu, pytest.raises(UnavailableError, match="too little"):
        list(tlb.run(Context(GPU, 1.0, index=0, clock=fake.clock), gpu))


def test_a_device_lost_in_the_middle_keeps_what_is_done() -> None:
    fake = Machine().fake(memory_bytes=32 * GIB)
    fake.fail("cuLaunchKernel", 719, at=300)
    found: list[Measurement] = []
    with fake.gpu() as gpu, pytest.raises(DeviceLost, match="a kernel failed"):
        for measurement in tlb.run(Context(GPU, 0.5, index=0, clock=fake.clock), gpu):
            found.append(measurement)

    assert found
    assert {m.metric for m in found} == {"latency"}
