"""Is bandwidth measured by kernel, size, occupancy and level, on a GPU whose rates are known? Do the kernels stream?"""

import ctypes
import dataclasses
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming_gpu import CLOCK_HZ, GIB, L2_BYTES, MIB, SM_COUNT, Model, context, needs_nvrtc

from probe.errors import UnavailableError
from probe.kernels.cuda import cubin, nvrtc, proof, sass, streams
from probe.kernels.cuda.driver import DeviceLost
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.kernel import Kernel
from probe.kernels.cuda.memory import Memory
from probe.kernels.cuda.proof import Claim
from probe.microbench import torch_bandwidth
from probe.microbench.cuda import arrays, memory_bandwidth
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

ARCHITECTURES = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120")
NAMES = [kind.name for kind in memory_bandwidth.KERNELS]


def _measured(model: Model, *, quick: bool = False, **more: Any) -> tuple[list[Measurement], Context]:
    fake = model.fake(**more)
    asked = context(fake, quick=quick)
    with fake.gpu() as gpu:
        found = list(memory_bandwidth.run(asked, gpu))
    if fake.error:
        raise fake.error
    assert fake.allocated_bytes == 0
    return found, asked


# ---- the suite


def test_every_kernel_is_measured_at_every_size_with_the_rate_of_its_level() -> None:
    found, asked = _measured(Model())
    sweep = [m for m in found if m.params["occupancy"] == "most" and m.params["level"] in ("L2", "DRAM", None)]
    by_size: dict[int, list[Measurement]] = {}
    for m in sweep:
        by_size.setdefault(m.params["size_bytes"], []).append(m)

    assert asked.warnings == []
    assert list(by_size) == [size * MIB for size in (4096, 1024, 256, 128, 64, 32, 16)]
    assert all([m.params["kernel"] for m in rows] == NAMES for rows in by_size.values())
    assert {m.params["level"] for m in by_size[32 * MIB]} == {None}
    assert all(m.value == pytest.approx(3e12, rel=0.01) for m in sweep if m.params["level"] == "DRAM")
    [read] = [m for m in by_size[16 * MIB] if m.params["kernel"] == "read"]
    assert read.params["level"] == "L2"
    assert read.value == pytest.approx(8e12, rel=0.01)
    assert len({m.name for m in found}) == len(found)
    assert {m.metric for m in found} == {"bandwidth"}


def test_results_carry_what_their_machine_code_holds() -> None:
    found, _ = _measured(Model(), quick=True)
    proofs = {(m.params["kernel"], m.params["level"]): m.proof or {} for m in found}

    assert proofs["copy", "DRAM"]["loop"]["LDG.E.128"] == 4
    assert proofs["copy", "L2"]["loop"]["LDG.E.128.STRONG.GPU"] == 4
    assert proofs["write", "DRAM"]["instruction"] == "STG.E.128"
    assert proofs["read", "shared"]["instruction"] == "LDS.128"
    assert all(p["local_bytes"] == 0 for p in proofs.values())


def test_the_curve_grows_with_the_warps_until_memory_is_the_bound() -> None:
    model = Model(latency_s=2e-6)
    fake = model.fake()
    asked = context(fake)
    with fake.gpu() as gpu:
        found = [m for m in memory_bandwidth.run(asked, gpu) if m.params["occupancy"] not in ("most",)]
    values = [m.value for m in found]

    assert [m.params["warps_per_sm"] for m in found] == [4, 8, 12, 16, 24, 32, 48, 64]
    assert values[0] == pytest.approx(SM_COUNT * 8192 / 2e-6, rel=0.01)
    assert values[1] == pytest.approx(2 * values[0], rel=0.01)
    assert values[-1] == pytest.approx(3e12, rel=0.01)
    limited = {(launch.grid[0] // SM_COUNT, launch.shared) for launch in fake.launches if launch.shared}
    assert len(limited) == 8
    for blocks, shared in limited:  # of an H100's 228 KiB no more blocks fit than are wanted
        assert blocks * (shared + 1024) <= 228 << 10 < (blocks + 1) * (shared + 1024)


def test_near_memory_is_read_by_all_sms_together() -> None:
    found, _ = _measured(Model(bytes_per_clock=128.0), quick=True)
    near = {m.params["level"]: m for m in found if m.params["level"] in ("L1", "shared")}

    assert near["L1"].value == pytest.approx(128 * CLOCK_HZ * SM_COUNT, rel=0.01)
    assert near["shared"].value == pytest.approx(near["L1"].value)
    assert near["L1"].params["size_bytes"] == 16 << 10


def test_a_quick_run_is_short_and_has_the_ends() -> None:
    fake = Model().fake()
    asked = context(fake, quick=True, budget_s=1.0)
    with fake.gpu() as gpu:
        found = list(memory_bandwidth.run(asked, gpu))

    assert {m.params["size_bytes"] for m in found} == {1 * GIB, 256 * MIB, 16 * MIB, 16 << 10}
    assert {m.params["kernel"] for m in found} == {"read", "write", "copy", "triad"}
    assert fake.host_s < 1.5


def test_sizes_without_room_are_left_out_with_a_warning() -> None:
    found, asked = _measured(Model(), free_bytes=3 * GIB)

    assert max(m.params["size_bytes"] for m in found) == 256 * MIB  # two arrays of it are a quarter at most
    assert [w for w in asked.warnings if "4 GiB left out" in w or "1 GiB left out" in w] == asked.warnings
    assert len(asked.warnings) == 2


def test_an_allocation_that_fails_goes_on_below_it() -> None:
    fake = Model().fake()
    fake.fail("cuMemAlloc_v2", 2, at=2)
    asked = context(fake)
    with fake.gpu() as gpu:
        found = list(memory_bandwidth.run(asked, gpu))

    assert max(m.params["size_bytes"] for m in found) == 1 * GIB
    assert asked.warnings == ["memory_bandwidth: 4 GiB left out: too little of the GPU's memory is free"]
    assert fake.allocated_bytes == 0


def test_without_any_room_the_suite_is_refused() -> None:
    fake = Model().fake(free_bytes=16 * MIB)
    with fake.gpu() as gpu, pytest.raises(UnavailableError, match="too little of the GPU's memory"):
        list(memory_bandwidth.run(context(fake), gpu))


def test_a_lost_device_ends_the_suite_and_keeps_what_is_done() -> None:
    fake = Model().fake()
    found: list[Measurement] = []
    with fake.gpu() as gpu, pytest.raises(DeviceLost, match="illegal address"):
        for m in memory_bandwidth.run(context(fake), gpu):
            found.append(m)
            if len(found) == 7:
                fake.fail("cuLaunchKernel", 700)

    assert len(found) == 12  # the group was measured before its first row came


def test_one_kernel_that_cannot_be_proved_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    good = streams.kernel

    def one_wrong(kind: streams.Stream, **more: Any) -> Kernel:
        made = good(kind, **more)
        return dataclasses.replace(made, claim=Claim(exactly={"LDG": 99})) if kind is streams.SCALE else made

    monkeypatch.setattr(streams, "kernel", one_wrong)
    found, asked = _measured(Model())

    assert "scale" not in {m.params["kernel"] for m in found}
    assert {"copy", "triad"} <= {m.params["kernel"] for m in found}
    assert [w for w in asked.warnings if "scale" in w and "99" in w] == asked.warnings


def test_without_kernels_torch_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise UnavailableError("no NVRTC")

    monkeypatch.setattr(arrays, "usable", refuse)
    monkeypatch.setattr(torch_bandwidth, "run", lambda asked: iter(["torch's"]))
    found, asked = _measured(Model())

    assert found == ["torch's"]
    assert asked.warnings == ["memory_bandwidth: measured with torch's operators: no NVRTC"]


def test_blocks_cover_an_array_and_stay_apart() -> None:
    fake = Model().fake()
    with fake.gpu() as gpu:
        assert arrays.in_l2(gpu) == 16 * MIB <= L2_BYTES // 2
        assert arrays.apart(1056, 1 * GIB, 16384, gpu) == 1056
        assert arrays.apart(1056, 8 * MIB, 16384, gpu) == 3 * SM_COUNT  # 512 tiles
        assert arrays.apart(1056, 1 * MIB, 16384, gpu) == 64
    once = arrays.tour(10 * 16384, 16384, 4)
    assert (once.tiles, once.iterations) == (10, 3)
    assert once.n_bytes == 12 * 16384
    assert arrays.tour(10 * 16384, 16384, 4, 100 * 16384).iterations == 25


# ---- the kernels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loops_hold_the_128_bit_accesses_that_are_counted(architecture: str) -> None:
    needs_nvrtc()
    for kernel, kind in ((streams.kernel(kind), kind) for kind in streams.STREAMS):
        code = nvrtc.cubin(kernel.source, architecture, kernel.defines)
        instructions = sass.of(code, kernel.name)
        loop = proof.innermost_loop(instructions, kernel.claim_for(90).main)

        assert proof.check(kernel.claim_for(90), instructions) == ()
        assert proof.count("LDG.E.128", loop) == proof.count("LDG", loop) == 4 * kind.reads
        assert proof.count("STG.E.128", loop) == proof.count("STG", loop) == 4 * kind.writes
        assert cubin.local_bytes(code, kernel.name) == 0


SHIM = """
#include <stddef.h>
#include <string.h>
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __align__(n) __attribute__((aligned(n)))
struct __align__(16) float4 { float x, y, z, w; };
static float4 make_float4(float x, float y, float z, float w) { float4 v = {x, y, z, w}; return v; }
static unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static float4 __ldcg(const float4 *at) { return *at; }
static struct { unsigned x; } threadIdx, blockIdx, gridDim;
extern "C" void here(unsigned block, unsigned thread, unsigned blocks)
{ blockIdx.x = block; threadIdx.x = thread; gridDim.x = blocks; }
"""
C_TYPES: dict[type, Any] = {np.uint32: ctypes.c_uint32, np.uint64: ctypes.c_uint64, np.float32: ctypes.c_float}
Launch = Any  # (kernel, blocks, threads, arrays, scalars): runs it, arrays change in place


def _on_host(folder: Path) -> Launch:
    """The kernels' source as C++, thread after thread: the same arithmetic of indices without a GPU."""

    def launch(kernel: Kernel, blocks: int, threads: int, vectors: list[Any], *scalars: Any) -> None:
        source, made = folder / "kernels.cpp", folder / f"kernels{len(list(folder.iterdir()))}.so"
        source.write_text(SHIM + kernel.source)
        defines = [f"-D{name}={value}" for name, value in kernel.defines.items()]
        options = ["-shared", "-fPIC", "-O1", "-w", "-ffp-contract=off", "-Wl,-Bsymbolic"]
        subprocess.run(["g++", *options, *defines, "-o", made, source], check=True)
        library = ctypes.CDLL(str(made))
        given = [ctypes.c_void_p(v.ctypes.data) for v in vectors] + [C_TYPES[type(s)](s.item()) for s in scalars]
        for block in range(blocks):
            for thread in range(threads):
                library.here(block, thread, blocks)
                getattr(library, kernel.name)(*given)

    return launch


def _on_gpu(gpu: Gpu) -> Launch:
    def launch(kernel: Kernel, blocks: int, threads: int, vectors: list[Any], *scalars: Any) -> None:
        held: list[Memory] = [gpu.allocate(v.nbytes) for v in vectors]
        for memory, vector in zip(held, vectors, strict=True):
            memory.write(vector)
        gpu.load(kernel).launch(blocks, threads, *held, *scalars)
        gpu.synchronise()
        for memory, vector in zip(held, vectors, strict=True):
            vector[:] = memory.read(vector.dtype, len(vector))
            memory.close()

    return launch


@pytest.fixture
def on_host(tmp_path: Path) -> Launch:
    if not shutil.which("g++"):
        pytest.skip("there is no g++")
    return _on_host(tmp_path)


@pytest.fixture
def on_gpu() -> Iterator[Launch]:
    with Gpu(0) as gpu:
        yield _on_gpu(gpu)


def _check_streams(launch: Launch, kinds: tuple[streams.Stream, ...]) -> None:
    """Five tiles, two blocks, three rounds: one tile is gone through twice, and nothing behind the last is touched."""
    tile, tiles, blocks, iterations = streams.tile_bytes(streams.FEW_THREADS) // 4, 5, 2, 3
    rng = np.random.default_rng(0)
    x, y = (rng.random(tiles * tile + 64, np.float32) for _ in range(2))
    scalar = np.float32(3)
    expected = {"copy": x, "scale": scalar * x, "add": x + y, "triad": x + scalar * y}
    turns = np.uint32(tiles), np.uint32(blocks), np.uint32(iterations)
    for kind in kinds:
        a = np.full_like(x, -1)
        sums = np.zeros(blocks * streams.FEW_THREADS, np.uint32)
        vectors = [a if kind.writes else sums, x, y][: 1 + kind.reads]
        scalars = [scalar] if kind.scaled else []
        launch(
            streams.kernel(kind, threads=streams.FEW_THREADS), blocks, streams.FEW_THREADS, vectors, *scalars, *turns
        )
        if kind.writes:
            wanted = expected.get(kind.name, np.tile(3 + np.arange(4, dtype=np.float32), len(x) // 4))
            np.testing.assert_allclose(a[: tiles * tile], wanted[: tiles * tile], rtol=1e-6, err_msg=kind.name)
            assert (a[tiles * tile :] == -1).all()
        else:
            words = x[: tiles * tile].view(np.uint32)
            twice = words[:tile]  # block 1 comes round to tile 0
            assert sums.sum(dtype=np.uint32) == words.sum(dtype=np.uint32) + twice.sum(dtype=np.uint32)


def _check_saxpy(launch: Launch, lanes: int) -> None:
    x, before = np.random.default_rng(1).random((2, 4004), np.float32)
    y = before.copy()
    launch(streams.saxpy(lanes), 2, streams.THREADS, [y, x], np.float32(2.5), np.uint64(4000 // lanes))

    np.testing.assert_allclose(y[:4000], np.float32(2.5) * x[:4000] + before[:4000], rtol=1e-6)
    np.testing.assert_array_equal(y[4000:], before[4000:])


def _check_noise(launch: Launch) -> None:
    found = np.zeros(10_000, np.float32)
    launch(streams.NOISE, 2, streams.THREADS, [found.view(np.uint32)], np.uint64(9999), np.uint32(7))

    assert found[-1] == 0
    assert (found[:-1] >= 1).all()
    assert (found[:-1] < 2).all()
    assert len(np.unique(found)) > 9900
    assert found[:-1].mean() == pytest.approx(1.5, abs=0.02)


def test_as_cpp_the_kernels_stream(on_host: Launch) -> None:
    with np.errstate(over="ignore"):
        _check_streams(on_host, streams.STREAMS)


@pytest.mark.parametrize("lanes", streams.LANES)
def test_as_cpp_saxpy_is_saxpy(on_host: Launch, lanes: int) -> None:
    _check_saxpy(on_host, lanes)


def test_as_cpp_noise_differs_from_word_to_word(on_host: Launch) -> None:
    _check_noise(on_host)


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_stream(on_gpu: Launch) -> None:
    with np.errstate(over="ignore"):
        _check_streams(on_gpu, streams.STREAMS)


@pytest.mark.gpu
@pytest.mark.parametrize("lanes", streams.LANES)
def test_on_a_gpu_saxpy_is_saxpy(on_gpu: Launch, lanes: int) -> None:
    _check_saxpy(on_gpu, lanes)


@pytest.mark.gpu
def test_on_a_gpu_noise_differs_from_word_to_word(on_gpu: Launch) -> None:
    _check_noise(on_gpu)
