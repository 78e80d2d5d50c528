"""Are loads and stores of each width measured from L2 and DRAM, full and low, and do the loops hold nothing else?"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from streaming_gpu import GIB, MIB, SM_COUNT, Model, context, needs_nvrtc

from probe.kernels.cuda import cubin, loads, nvrtc, proof, sass
from probe.kernels.cuda.driver import DeviceLost
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.kernel import Kernel
from probe.microbench.cuda import vector_loads
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

ARCHITECTURES = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120")
SUFFIXES = {4: "E", 8: "E.64", 16: "E.128", 32: "E.ENL2.256"}
SIZES = (1 * GIB, 16 * MIB)
Rows = dict[tuple[str, str, int, str], Measurement]


def _measured(model: Model, *, quick: bool = False, **more: Any) -> tuple[Rows, Context]:
    fake = model.fake(**more)
    asked = context(fake, quick=quick)
    with fake.gpu() as gpu:
        found = list(vector_loads.run(asked, gpu))
    if fake.error:
        raise fake.error
    assert fake.allocated_bytes == 0
    assert len({m.name for m in found}) == len(found)
    return {(m.params["kernel"], m.params["level"], _width(m), m.params["occupancy"]): m for m in found}, asked


@functools.cache
def _plain() -> tuple[Rows, Context]:
    """What is found on the model machine, once for all tests that only look."""
    return _measured(Model(sizes=SIZES))


def _width(m: Measurement) -> int:
    return int(m.params.get("load_bytes") or m.params["store_bytes"])


# ---- the suite


def test_rates_are_those_of_the_level_or_of_what_is_under_way() -> None:
    found, asked = _plain()

    assert asked.warnings == []
    assert found["load", "DRAM", 16, "full"].value == pytest.approx(3e12, rel=0.01)
    assert found["store", "L2", 16, "full"].value == pytest.approx(8e12, rel=0.01)
    for width in (4, 8, 16):
        bound = SM_COUNT * loads.tile_bytes(width) / 600e-9
        assert found["load", "L2", width, "low"].value == pytest.approx(min(bound, 8e12), rel=0.01)
        assert found["load", "DRAM", width, "low"].value == pytest.approx(min(bound, 3e12), rel=0.01)


def test_the_point_that_others_published_is_there() -> None:
    found, _ = _plain()
    point = found["load", "DRAM", 16, "64 blocks"]

    assert (point.params["blocks"], point.params["threads_per_block"]) == (64, 256)
    assert point.value == pytest.approx(64 * loads.tile_bytes(16) / 600e-9, rel=0.01)
    assert ("store", "DRAM", 16, "64 blocks") not in found


def test_wider_accesses_take_fewer_instructions_a_byte() -> None:
    found, _ = _measured(Model(sizes=SIZES), quick=True)
    by_width = [found["load", "L2", width, "full"] for width in (4, 8, 16)]
    counted = [m.params["instructions_per_byte"] for m in by_width]

    assert counted == sorted(counted, reverse=True)
    assert counted[0] > 2 * counted[-1]
    for m, width in zip(by_width, (4, 8, 16), strict=True):
        assert m.proof is not None
        assert m.proof["instruction"] == f"LDG.{SUFFIXES[width]}"
        assert counted[by_width.index(m)] == sum(m.proof["loop"].values()) / (4 * width)


def test_all_widths_work_with_as_many_threads() -> None:
    found, _ = _plain()
    for level in ("L2", "DRAM"):
        for occupancy in ("full", "low"):
            assert len({m.params["threads"] for key, m in found.items() if key[1::2] == (level, occupancy)}) == 1
    assert {m.params["warps_per_sm"] for key, m in found.items() if key[3] == "low"} == {8}


def test_256_bits_are_there_since_sm_100_only() -> None:
    model = Model(sizes=SIZES)
    with model.fake().gpu() as gpu:
        assert {width for _, width in vector_loads.kernels(gpu, quick=True)} == {4, 8, 16}
    blackwell = model.fake(attributes={75: 10, 76: 0})
    with blackwell.gpu() as gpu:
        found = vector_loads.kernels(gpu, quick=False)
        assert {width for _, width in found} == {4, 8, 16, 32}
        assert gpu.load(found["load", 32]).proof["instruction"] == "LDG.E.ENL2.256"


def test_a_quick_run_is_short_and_leaves_stores_out() -> None:
    fake = Model(sizes=SIZES).fake()
    asked = context(fake, quick=True, budget_s=1.0)
    with fake.gpu() as gpu:
        found = list(vector_loads.run(asked, gpu))

    assert {m.params["kernel"] for m in found} == {"load"}
    assert len(found) == 2 * 2 * 3
    assert fake.host_s < 1.5


def test_dram_is_smaller_where_memory_is_short() -> None:
    found, _ = _measured(Model(sizes=(256 * MIB, 16 * MIB)), free_bytes=1200 * MIB)

    assert {m.params["size_bytes"] for m in found.values()} == {256 * MIB, 16 * MIB}
    assert found["load", "DRAM", 16, "full"].params["size_bytes"] == 256 * MIB


def test_an_allocation_that_fails_leaves_what_fits() -> None:
    fake = Model(sizes=SIZES).fake()
    fake.fail("cuMemAlloc_v2", 2)
    asked = context(fake)
    with fake.gpu() as gpu:
        found = list(vector_loads.run(asked, gpu))

    assert {m.params["level"] for m in found} == {"L2"}
    assert asked.warnings == ["vector_loads: 1 GiB left out: too little of the GPU's memory is free"]


def test_a_lost_device_ends_the_suite_and_keeps_what_is_done() -> None:
    fake = Model(sizes=SIZES).fake()
    found: list[Measurement] = []
    with fake.gpu() as gpu, pytest.raises(DeviceLost):
        for m in vector_loads.run(context(fake), gpu):
            found.append(m)
            if len(found) == 1:
                fake.fail("cuLaunchKernel", 719)

    assert {m.params["occupancy"] for m in found} == {"full"}
    assert len(found) == 6


# ---- the kernels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loops_hold_accesses_of_one_width_only(architecture: str) -> None:
    needs_nvrtc()
    for width in loads.widths(nvrtc.number_of(architecture)):
        for kernel, kind in ((loads.load(width), "LDG"), (loads.store(width), "STG")):
            code = nvrtc.cubin(kernel.source, architecture, kernel.defines)
            instructions = sass.of(code, kernel.name)
            loop = proof.innermost_loop(instructions, kernel.claim_for(90).main)
            memory = [i.mnemonic for i in loop if i.base in ("LDG", "STG", "LDS", "STS", "LDL", "STL", "LD", "ST")]

            assert proof.check(kernel.claim_for(90), instructions) == (), kernel.title
            assert len(memory) == 4
            assert all(proof.covers(f"{kind}.{SUFFIXES[width]}", name) for name in memory)
            assert (len({name.count(".128") + 2 * name.count("256") for name in memory})) == 1
            assert cubin.local_bytes(code, kernel.name) == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shared_memory_and_l1_are_read_in_the_loop(architecture: str) -> None:
    needs_nvrtc()
    number = nvrtc.number_of(architecture)
    shared = "LDS.128" if number >= 80 else "LDS.U.128"
    for kernel, name in ((loads.SHARED, shared), (loads.load(16, past_l1=False), "LDG.E.128")):
        instructions = sass.of(nvrtc.cubin(kernel.source, architecture, kernel.defines), kernel.name)
        loop = proof.innermost_loop(instructions, name)

        assert proof.check(kernel.claim_for(number), instructions) == ()
        assert proof.count(name, loop) == 4
        assert not any("STRONG" in i.mnemonic for i in loop)


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with Gpu(0) as gpu:
        yield gpu


def _kernels(gpu: Gpu, made: Any) -> list[tuple[int, Kernel]]:
    return [(w, made(w)) for w in loads.widths(10 * gpu.capability[0] + gpu.capability[1])]


@pytest.mark.gpu
def test_on_a_gpu_loads_read_every_word(gpu: Gpu) -> None:
    tiles, blocks, iterations = 5, 2, 3  # tile 0 comes twice
    for width, kernel in _kernels(gpu, loads.load):
        tile = loads.tile_bytes(width) // 4
        words = np.random.default_rng(width).integers(0, 2**32, tiles * tile, np.uint32)
        x, sums = gpu.allocate(words.nbytes), gpu.allocate(4 * blocks * loads.THREADS)
        x.write(words)
        turns = np.uint32(tiles), np.uint32(blocks), np.uint32(iterations)
        gpu.load(kernel).launch(blocks, loads.THREADS, sums, x, *turns)
        found = sums.read(np.uint32, blocks * loads.THREADS)

        expected = int(words.sum(dtype=np.uint64)) + int(words[:tile].sum(dtype=np.uint64))
        assert int(found.sum(dtype=np.uint64)) % 2**32 == expected % 2**32


@pytest.mark.gpu
def test_on_a_gpu_stores_write_every_word_and_no_other(gpu: Gpu) -> None:
    tiles, blocks = 5, 2
    for width, kernel in _kernels(gpu, loads.store):
        count = tiles * loads.tile_bytes(width) // 4
        a = gpu.allocate(4 * count + 1024)
        a.fill(0xFF)
        turns = np.uint32(tiles), np.uint32(blocks), np.uint32(3)
        gpu.load(kernel).launch(blocks, loads.THREADS, a, np.uint32(1000), *turns)
        found = a.read(np.uint32, count + 256)

        assert (found[:count] == 1000 + np.arange(count) % (width // 4)).all()
        assert (found[count:] == 0xFFFFFFFF).all()


@pytest.mark.gpu
def test_on_a_gpu_shared_memory_is_read_again_and_again(gpu: Gpu) -> None:
    words = np.random.default_rng(0).integers(0, 2**32, loads.SHARED_BYTES // 4, np.uint32)
    x, sums = gpu.allocate(words.nbytes), gpu.allocate(4 * loads.THREADS)
    x.write(words)
    gpu.load(loads.SHARED).launch(1, loads.THREADS, sums, x, np.uint32(3))
    found = sums.read(np.uint32, loads.THREADS)

    assert int(found.sum(dtype=np.uint64)) % 2**32 == 3 * int(words.sum(dtype=np.uint64)) % 2**32
