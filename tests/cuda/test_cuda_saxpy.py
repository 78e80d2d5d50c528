"""Are all ways to add a x to y timed alike, checked, and compared in pairs, and does each failure cost itself only?"""

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming_gpu import GIB, MIB, Model, context

from probe.errors import UnavailableError
from probe.kernels.cuda import streams
from probe.kernels.cuda.driver import DeviceLost
from probe.kernels.cuda.gpu import Gpu
from probe.microbench.cuda import cublas, saxpy
from probe.microbench.cuda.bench import Bench
from probe.microbench.cuda.cublas import Cublas
from probe.microbench.cuda.saxpy import Call, Implementation, Vectors
from probe.microbench.cuda.torch_stream import TorchStream
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

SIZES = (2 * GIB, 256 * MIB, 16 * MIB)
Make = Callable[[Bench, Vectors], Call]


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Make]:
    """What is measured beside the own kernels: by default nothing."""
    found: dict[str, Make] = {}

    def made(bench: Bench, stack: contextlib.ExitStack) -> list[Implementation]:
        return [Implementation(name, lambda v, make=make: make(bench, v), {}) for name, make in found.items()]  # type: ignore[misc]

    monkeypatch.setattr(saxpy, "libraries", made)
    return found


def half_as_fast(bench: Bench, v: Vectors) -> Call:
    """Launches the kernel, and one that takes as long."""
    once = saxpy._own(bench.gpu, 2, bench.gpu.load(streams.saxpy(2))).make(v)
    other = bench.gpu.load(streams.kernel(streams.COPY))
    nothing = np.uint32(1), np.uint32(0), np.uint32(0)

    def call() -> None:
        once()
        other.launch(1, streams.THREADS, v.y, v.x, *nothing)

    return call


def _measured(model: Model, *, quick: bool = False, **more: Any) -> tuple[list[Measurement], Context]:
    fake = model.fake(**more)
    fake.kernels["copy"] = lambda grid, block, args: model.saxpy_s
    asked = context(fake, quick=quick)
    with fake.gpu() as gpu:
        found = list(saxpy.run(asked, gpu))
    if fake.error:
        raise fake.error
    assert fake.allocated_bytes == 0
    return found, asked


# ---- the suite


def test_every_width_is_measured_at_every_size(libraries: dict[str, Make]) -> None:
    found, asked = _measured(Model(sizes=SIZES))
    rows = {(m.params["size_bytes"], m.params["implementation"]): m for m in found}

    assert asked.warnings == []
    assert list(rows) == [(size, name) for size in SIZES for name in ("32-bit", "64-bit", "128-bit")]
    assert {m.params["method"] for (size, _), m in rows.items() if size == 16 * MIB} == {"graph"}
    assert {m.params["level"] for (size, _), m in rows.items() if size > 16 * MIB} == {"DRAM"}
    assert rows[256 * MIB, "64-bit"].value == pytest.approx(32 * MIB * 12 / 1e-4, rel=0.02)
    assert [(m.proof or {})["instruction"] for m in found[:3]] == ["LDG.E", "LDG.E.64", "LDG.E.128"]
    assert all(m.flags == () for m in found)


def test_the_question_to_cublas_is_answered_in_pairs(libraries: dict[str, Make]) -> None:
    libraries["cuBLAS"] = half_as_fast
    found, _ = _measured(Model(sizes=SIZES))
    answers = [m for m in found if m.metric == "speedup"]

    assert [m.name for m in answers] == [f"128-bit against cuBLAS {size}" for size in ("2 GiB", "256 MiB", "16 MiB")]
    for m in answers:
        assert m.value == m.median == pytest.approx(2, rel=0.02)
        assert m.interval[0] <= m.median <= m.interval[1]
        assert m.n == len(m.samples) >= 6
        assert m.unit == "ratio"


def test_a_pair_is_of_the_windows_that_ran_in_turn() -> None:
    from probe.microbench.harness import Timing
    from probe.stats import summarise

    model = Model(sizes=SIZES)
    fake = model.fake()
    own, other = [1.0, 2.0, 4.0], [3.0, 6.0, 12.0]  # the clock fell by half from each pair to the next
    with fake.gpu() as gpu:
        found = saxpy.speedup(
            Bench(context(fake), gpu),
            Timing("128-bit", summarise(own), tuple(own)),
            Timing("cuBLAS", summarise(other), tuple(other)),
            {"size_bytes": 16 * MIB},
        )

    assert found.samples == (3, 3, 3)
    assert found.interval == (3, 3)


def test_a_wrong_result_is_flagged(libraries: dict[str, Make]) -> None:
    found, asked = _measured(Model(sizes=SIZES, broken=True), quick=True)

    assert {m.flags for m in found} == {("wrong-result",)}
    assert any("128-bit is off by up to" in warning for warning in asked.warnings)


def test_a_way_that_fails_costs_only_itself(libraries: dict[str, Make]) -> None:
    def refuses(bench: Bench, v: Vectors) -> Call:
        raise UnavailableError("no compiler")

    def breaks(bench: Bench, v: Vectors) -> Call:
        def call() -> None:
            raise UnavailableError("RuntimeError: it fell over")

        return call

    libraries |= {"torch.compile": refuses, "Triton": breaks, "torch eager": half_as_fast}
    found, asked = _measured(Model(sizes=SIZES), quick=True)

    assert {m.params["implementation"] for m in found} == {"32-bit", "64-bit", "128-bit", "torch eager"}
    assert "saxpy: torch.compile, 256 MiB: no compiler" in asked.warnings
    assert "saxpy: Triton, 16 MiB: RuntimeError: it fell over" in asked.warnings
    assert len(asked.warnings) == 4


def test_without_torch_and_cublas_the_own_kernels_remain() -> None:
    found, asked = _measured(Model(sizes=SIZES), quick=True)

    assert len(found) == 6
    assert any(w.startswith("saxpy: torch: this torch cannot use the GPU") for w in asked.warnings)
    assert any(w.startswith("saxpy: cuBLAS: no cuBLAS (libcublas.so.") for w in asked.warnings)


def test_a_quick_run_is_short(libraries: dict[str, Make]) -> None:
    fake = Model(sizes=SIZES).fake()
    asked = context(fake, quick=True, budget_s=1.0)
    with fake.gpu() as gpu:
        found = list(saxpy.run(asked, gpu))

    assert {m.params["size_bytes"] for m in found} == {256 * MIB, 16 * MIB}
    assert fake.host_s < 1.5


def test_sizes_without_room_are_left_out(libraries: dict[str, Make]) -> None:
    found, asked = _measured(Model(sizes=SIZES), free_bytes=2 * GIB)

    assert {m.params["size_bytes"] for m in found} == {256 * MIB, 16 * MIB}
    assert asked.warnings == ["saxpy: 2 GiB left out: too little of the GPU's memory is free"]


def test_a_lost_device_ends_the_suite_and_keeps_what_is_done(libraries: dict[str, Make]) -> None:
    fake = Model(sizes=SIZES).fake()
    found: list[Measurement] = []
    with fake.gpu() as gpu, pytest.raises(DeviceLost):
        for m in saxpy.run(context(fake), gpu):
            found.append(m)
            if len(found) == 1:
                fake.fail("cuLaunchKernel", 700)

    assert {m.params["size_bytes"] for m in found} == {2 * GIB}
    assert len(found) == 3


# ---- cuBLAS and torch

FAKE_CUBLAS = r"""
#include <stddef.h>
static int calls[8];
static void *stream; static int mode = -1, fails_at = -1, elements; static float alpha;
static int did(int what) { calls[what]++; return what == fails_at ? 8 : 0; }
int fake_calls(int what) { return calls[what]; }
void fake_reset(int at) { for (int i = 0; i < 8; i++) calls[i] = 0; fails_at = at; mode = -1; stream = NULL; }
void *fake_stream(void) { return stream; }
int fake_mode(void) { return mode; }
int fake_elements(void) { return elements; }
float fake_alpha(void) { return alpha; }
int cublasCreate_v2(void **handle) { *handle = calls; return did(0); }
int cublasDestroy_v2(void *handle) { return did(1); }
int cublasGetProperty(int type, int *value) { *value = 13 - 6 * type; return did(2); }
int cublasSetStream_v2(void *handle, void *s) { stream = s; return did(3); }
int cublasSetPointerMode_v2(void *handle, int m) { mode = m; return did(4); }
int cublasSaxpy_v2(void *handle, int n, const float *a, const float *x, int incx, float *y, int incy)
{
    elements = n; alpha = *a;
    for (int i = 0; i < n; i++) y[i * incy] += *a * x[i * incx];
    return did(5);
}
"""
CREATE, DESTROY, SET_STREAM, SAXPY = 0, 1, 3, 5


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the fake cuBLAS with")
    folder = tmp_path_factory.mktemp("cublas")
    source, made = folder / "cublas.c", folder / "libcublas.so.13"
    source.write_text(FAKE_CUBLAS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    return made


@pytest.fixture
def seen(library: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(library))
    found.fake_stream.restype, found.fake_alpha.restype = ctypes.c_void_p, ctypes.c_float
    found.fake_reset(-1)
    return found


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with Model().fake().gpu() as gpu:
        yield gpu


def test_cublas_adds_on_the_gpus_own_stream(gpu: Gpu, library: Path, seen: ctypes.CDLL) -> None:
    x, y = np.arange(10, dtype=np.float32), np.ones(10, np.float32)
    with Cublas(gpu, (str(library),)) as handle:
        handle.saxpy(10, 2.5, x.ctypes.data, y.ctypes.data)
        assert handle.version == "13.7.1"

    assert seen.fake_stream() == gpu.own_stream.handle.value
    assert seen.fake_mode() == 0  # CUBLAS_POINTER_MODE_HOST
    assert (seen.fake_elements(), seen.fake_alpha()) == (10, 2.5)
    assert y.tolist() == [1 + 2.5 * i for i in range(10)]
    assert seen.fake_calls(DESTROY) == 1


@pytest.mark.parametrize(
    ("at", "function", "destroyed"), [(CREATE, "cublasCreate_v2", 0), (SET_STREAM, "cublasSetStream_v2", 1)]
)
def test_a_status_becomes_a_sentence(
    gpu: Gpu, library: Path, seen: ctypes.CDLL, at: int, function: str, destroyed: int
) -> None:
    seen.fake_reset(at)
    with pytest.raises(UnavailableError, match=rf"{function} failed: the library has no code for this GPU \(8\)"):
        Cublas(gpu, (str(library),))
    assert seen.fake_calls(DESTROY) == destroyed


def test_a_failing_call_of_cublas_is_refused(gpu: Gpu, library: Path, seen: ctypes.CDLL) -> None:
    x = np.ones(4, np.float32)
    with Cublas(gpu, (str(library),)) as handle:
        seen.fake_reset(SAXPY)
        with pytest.raises(UnavailableError, match="cublasSaxpy_v2 failed"):
            handle.saxpy(4, 1.0, x.ctypes.data, x.ctypes.data)
        with pytest.raises(UnavailableError, match="at most 2147483647"):
            handle.saxpy(2**31, 1.0, x.ctypes.data, x.ctypes.data)


def test_the_cublas_of_torchs_cuda_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert next(cublas.names()) == "libcublas.so.12"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert tuple(cublas.names()) == cublas.SONAMES


def test_a_torch_without_cuda_is_refused(gpu: Gpu) -> None:
    with pytest.raises(UnavailableError, match="install one built for CUDA"):
        TorchStream(gpu, 0)


def _shared_with_torch(array: Any, device: object) -> Any:
    """What torch makes of an array of a device, here of memory of this process."""
    import torch

    told = array.__cuda_array_interface__
    values = (ctypes.c_float * told["shape"][0]).from_address(told["data"][0])
    return torch.from_numpy(np.frombuffer(values, told["typestr"]))


def test_torch_works_on_the_gpus_arrays_and_stream(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    streams_used: list[object] = []

    def on(stream: object) -> contextlib.AbstractContextManager[None]:
        streams_used.append(stream)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: handle)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch, "as_tensor", _shared_with_torch)
    where = TorchStream(gpu, 0)
    vectors = Vectors(gpu.allocate(4096), gpu.allocate(4096), 1024)
    for piece in (vectors.x, vectors.y):
        piece.write(np.ones(1024, np.float32))
    saxpy._eager(where).make(vectors)()

    assert vectors.y.read(np.float32, 1024).tolist() == [1 + saxpy.SCALAR] * 1024
    assert streams_used == [gpu.own_stream.handle.value]
    with pytest.raises(UnavailableError, match="ZeroDivisionError: division by zero"):
        where.enqueuing(lambda: 1 / 0)()


# ---- on a GPU


@pytest.mark.gpu
def test_on_a_gpu_every_library_adds_a_x_to_y_on_one_stream() -> None:
    from probe.machine import environment

    asked = Context(environment.cuda_device(0), 20.0, index=0)
    x = np.random.default_rng(0).random(1 << 20, np.float32) + 1
    with Gpu(0) as gpu, contextlib.ExitStack() as stack:
        found = saxpy.libraries(Bench(asked, gpu), stack)
        vectors = Vectors(gpu.allocate(x.nbytes), gpu.allocate(x.nbytes), len(x))
        vectors.x.write(x)
        for one in found:
            vectors.y.write(x)
            one.make(vectors)()
            seen = vectors.y.read(np.float32, len(x))
            assert not np.array_equal(seen, x), one.name
            np.testing.assert_allclose(seen, x + np.float32(saxpy.SCALAR) * x, rtol=0, atol=3e-7, err_msg=one.name)

    assert {"torch eager", "cuBLAS"} <= {one.name for one in found}, asked.warnings


@pytest.mark.gpu
def test_on_a_gpu_libraries_can_be_captured() -> None:
    from probe.machine import environment

    asked = Context(environment.cuda_device(0), 20.0, index=0)
    with Gpu(0) as gpu, contextlib.ExitStack() as stack:
        found = saxpy.libraries(Bench(asked, gpu), stack)
        vectors = Vectors(gpu.allocate(4096), gpu.allocate(4096), 1024)
        ones = np.ones(1024, np.float32)
        vectors.x.write(ones)
        for one in found:
            call = one.make(vectors)
            call()
            gpu.synchronise()
            graph = gpu.capture(call)
            vectors.y.write(ones)
            graph.launch()
            assert (vectors.y.read(np.float32, 1024) > 1).all(), one.name
