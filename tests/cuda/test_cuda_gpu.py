"""What a suite does with a device: load proved kernels, launch, copy, capture, time, and hear of failures."""

import ctypes
import threading

import numpy as np
import pytest
from fake_cuda import L2_BYTES, MAJOR, MINOR, Arguments, FakeCuda, Three

from probe.errors import UnavailableError
from probe.kernels.cuda import nvrtc
from probe.kernels.cuda.driver import CudaError, DeviceLost, OutOfMemory
from probe.kernels.cuda.gpu import Gpu, UnprovedError
from probe.kernels.cuda.kernel import Kernel, source_text
from probe.kernels.cuda.proof import Claim

SOURCE = """
extern "C" __global__ void scale(float *out, const float *in, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i] * factor;
}
"""
SCALE = Kernel("scale", SOURCE, Claim(at_least={"LDG.E": 1, "STG.E": 1}, main="LDG.E"))


def scale(grid: Three, block: Three, args: Arguments) -> float:
    n = args.value(3, ctypes.c_int32)
    args.array(0, np.float32, n)[:] = args.array(1, np.float32, n) * args.value(2, ctypes.c_float)
    return 1e-3


def test_the_device_is_described(fake_gpu: Gpu) -> None:
    assert fake_gpu.name == "NVIDIA H100 80GB HBM3"
    assert (fake_gpu.capability, fake_gpu.architecture) == ((9, 0), "sm_90a")
    assert (fake_gpu.sm_count, fake_gpu.threads_per_sm, fake_gpu.l2_bytes) == (132, 2048, 50 << 20)
    assert (fake_gpu.shared_bytes_per_sm, fake_gpu.shared_bytes_per_block) == (228 << 10, 227 << 10)
    assert (fake_gpu.clock_hz, fake_gpu.memory_clock_hz, fake_gpu.bus_width_bits) == (1.98e9, 2.619e9, 5120)
    assert fake_gpu.memory_bytes == 1 << 30


def test_an_attribute_that_the_driver_does_not_know_is_zero() -> None:
    fake = FakeCuda()
    del fake.attributes[L2_BYTES]
    with fake.gpu() as gpu:
        assert gpu.l2_bytes == 0


@pytest.mark.parametrize("index", [-1, 2])
def test_no_such_device(index: int) -> None:
    with pytest.raises(UnavailableError, match=f"no CUDA device cuda:{index} .there are 2, numbered from cuda:0"):
        FakeCuda(devices=2).gpu(index)


def test_a_kernel_is_compiled_proved_loaded_and_launched() -> None:
    fake = FakeCuda({"scale": scale})
    with fake.gpu() as gpu:
        function = gpu.load(SCALE)
        source, target = gpu.allocate(400), gpu.allocate(400)
        source.write(np.arange(100, dtype=np.float32))
        before, after = gpu.event(), gpu.event()
        before.record()
        function.launch(4, (32, 1), target, source, np.float32(2), np.int32(100))
        after.record()
        after.synchronise()
        assert after.seconds_since(before) == pytest.approx(1e-3, rel=1e-6)
        assert target.read(np.float32, 100).tolist() == [2.0 * i for i in range(100)]
        assert target.read(np.float32, 2, offset_bytes=40).tolist() == [20.0, 22.0]
    (launch,) = fake.launches
    assert (launch.name, launch.grid, launch.block, launch.shared) == ("scale", (4, 1, 1), (32, 1, 1), 0)
    assert fake.error is None


def test_a_function_carries_its_proof_and_resources(fake_gpu: Gpu) -> None:
    function = fake_gpu.load(SCALE)
    assert function.proof["instruction"] == "LDG.E"
    assert function.proof["architecture"] == "sm_90a"
    assert function.proof["registers"] == function.registers > 0
    assert function.local_bytes == function.shared_bytes == function.proof["local_bytes"] == 0
    assert str(function.proof["compiler"]).startswith("NVRTC ")
    assert fake_gpu.load(SCALE) is function


def test_everything_is_given_back() -> None:
    fake = FakeCuda({"scale": scale})
    with fake.gpu() as gpu:
        function = gpu.load(SCALE)
        memory, _, _ = gpu.allocate(100), gpu.allocate_host(100), gpu.stream()
        gpu.capture(lambda: function.launch(1, 1, memory, memory, np.float32(1), np.int32(1)))
        gpu.event()
        with gpu.allocate(50) as short:
            assert fake.allocated_bytes == 150
        assert fake.allocated_bytes == 100
        short.close()
    assert fake.allocated_bytes == 0
    assert fake.open_handles == []
    assert fake.called["cuDevicePrimaryCtxRelease_v2"] == 1
    gpu.close()
    assert fake.called["cuDevicePrimaryCtxRelease_v2"] == 1


def test_a_claim_that_fails_stops_the_kernel(fake_gpu: Gpu) -> None:
    wide = Kernel("scale", SOURCE, Claim(exactly={"LDG.E.128": 4}), label="width 16")
    said = (
        r"scale, width 16: NVRTC .* made other machine code for sm_90a than .* was not run: 0 LDG.E.128 instead of 4$"
    )
    with pytest.raises(UnprovedError, match=said):
        fake_gpu.load(wide)


def test_a_claim_may_depend_on_the_architecture() -> None:
    asked = []

    def claim(architecture: int) -> Claim:
        asked.append(architecture)
        return Claim()

    with FakeCuda(attributes={MAJOR: 10, MINOR: 3}).gpu() as gpu:
        gpu.load(Kernel("scale", SOURCE, claim))
        assert gpu.architecture == "sm_103a"
    assert asked == [103]


def test_a_kernel_for_newer_devices_is_not_compiled(fake_gpu: Gpu) -> None:
    newer = Kernel("scale", "#error", Claim(), first=100)
    with pytest.raises(UnavailableError, match="scale needs sm_100 or later; NVIDIA H100 80GB HBM3 is sm_90"):
        fake_gpu.load(newer)


def test_a_source_that_this_nvrtc_refuses_is_one_line(fake_gpu: Gpu) -> None:
    newer = Kernel("scale", SOURCE + "\n#error from the future\n", Claim())
    with pytest.raises(
        UnavailableError, match=r"scale does not compile here: NVRTC .*from the future.*upgrade"
    ) as raised:
        fake_gpu.load(newer)
    assert "\n" not in str(raised.value)


def test_code_that_the_driver_refuses_names_both_versions() -> None:
    fake = FakeCuda()
    with fake.gpu() as gpu:
        fake.fail("cuModuleLoadData", 209)
        with pytest.raises(
            UnavailableError, match=r"driver \(CUDA 13.0\) refuses code for sm_90a by NVRTC 13"
        ) as raised:
            gpu.load(SCALE)
        assert "upgrade the driver" in str(raised.value)


def test_recomposed_code_is_loaded_as_given(fake_gpu: Gpu) -> None:
    code = nvrtc.cubin(SOURCE, fake_gpu.architecture)
    function = fake_gpu.load_cubin(code, "scale", {"instruction": "mine"})
    assert function.proof == {"instruction": "mine"}
    with pytest.raises(CudaError, match="named symbol not found"):
        fake_gpu.load_cubin(code, "absent", {})


@pytest.mark.parametrize("wrong", [3, 3.0, True, "3", None])
def test_numbers_without_a_size_are_refused(fake_gpu: Gpu, wrong: object) -> None:
    function, memory = fake_gpu.load(SCALE), fake_gpu.allocate(4)
    with pytest.raises(TypeError, match="pass memory or a numpy scalar"):
        function.launch(1, 1, memory, memory, np.float32(1), wrong)  # type: ignore[arg-type]  # the error itself


def test_arguments_of_other_sizes_are_refused(fake_gpu: Gpu) -> None:
    """They would be read beyond their end, or as another number."""
    function, memory = fake_gpu.load(SCALE), fake_gpu.allocate(4)
    with pytest.raises(TypeError, match=r"scale has parameters of \(8, 8, 4, 4\) bytes, not \(8, 8, 4, 8\)"):
        function.launch(1, 1, memory, memory, np.float32(1), np.int64(1))
    with pytest.raises(TypeError, match="not \\(8, 8, 4\\)"):
        function.launch(1, 1, memory, memory, np.float32(1))


def test_a_launch_that_cannot_run_is_refused(fake_gpu: Gpu) -> None:
    function, memory = fake_gpu.load(SCALE), fake_gpu.allocate(4)
    with pytest.raises(CudaError, match="invalid argument"):
        function.launch(1, 2048, memory, memory, np.float32(1), np.int32(1))


def test_shared_memory_beyond_48_kib_is_asked_for() -> None:
    fake = FakeCuda()
    with fake.gpu() as gpu:
        function, memory = gpu.load(SCALE), gpu.allocate(4)
        arguments = (memory, memory, np.float32(1), np.int32(1))
        with pytest.raises(CudaError, match="invalid argument"):
            function.launch(1, 1, *arguments, shared=100 << 10)
        function.allow_shared(100 << 10)
        function.launch(1, 1, *arguments, shared=100 << 10)
        assert fake.launches[-1].shared == 100 << 10
        assert function.blocks_per_sm(128, 100 << 10) == 2
        assert function.blocks_per_sm(1024) == 2


@pytest.mark.parametrize(
    ("n_bytes", "carveout", "per_cent"), [(0, None, 0), (113 << 10, None, 50), (227 << 10, None, 100), (0, 100, 100)]
)
def test_the_carveout_fits_the_shared_memory(n_bytes: int, carveout: int | None, per_cent: int) -> None:
    fake = FakeCuda()
    with fake.gpu() as gpu:
        gpu.load(SCALE).allow_shared(n_bytes, carveout)
        assert fake.function("scale").attributes[9] == per_cent


def test_memory_is_filled_written_and_read(fake_gpu: Gpu) -> None:
    memory = fake_gpu.allocate(64)
    memory.fill(0xFF)
    memory.write(np.arange(6, dtype=np.int16)[::2], offset_bytes=8)
    found = memory.read(np.int16, 8)
    assert found.tolist() == [-1, -1, -1, -1, 0, 2, 4, -1]
    with pytest.raises(ValueError, match="128 bytes at 0 do not lie within 64 bytes"):
        memory.read(np.int64, 16)
    with pytest.raises(ValueError, match="4 bytes at -4"):
        memory.write(np.zeros(1, np.int32), offset_bytes=-4)


def test_copies_between_all_kinds_of_memory(fake_gpu: Gpu) -> None:
    host, device, other = fake_gpu.allocate_host(64), fake_gpu.allocate(64), fake_gpu.allocate(64)
    host.array(np.int32)[:] = np.arange(16)
    fake_gpu.copy(device, host, 64)
    fake_gpu.copy(other.address, device.address + 32, 32)
    host.array(np.uint8)[:] = 0
    fake_gpu.copy(host, other, 32)
    fake_gpu.synchronise()
    assert host.array(np.int32)[:8].tolist() == list(range(8, 16))


def test_out_of_memory_is_its_own_error() -> None:
    fake = FakeCuda(memory_bytes=1000, free_bytes=600)
    with fake.gpu() as gpu:
        assert gpu.free_bytes() == 600
        first = gpu.allocate(500)
        assert gpu.free_bytes() == 100
        with pytest.raises(OutOfMemory, match=r"out of memory .*end other processes"):
            gpu.allocate(101)
        first.close()
        gpu.allocate(600)
        fake.fail("cuMemHostAlloc", 2)
        with pytest.raises(OutOfMemory):
            gpu.allocate_host(100)


def test_streams_overlap_and_wait_for_each_other() -> None:
    fake = FakeCuda(copy_s=lambda kind, n_bytes: {"H2D": 2.0, "D2H": 3.0}[kind])
    with fake.gpu() as gpu:
        host, one, two, other = gpu.allocate_host(8), gpu.allocate(8), gpu.allocate(8), gpu.stream()
        start, end = gpu.event(), gpu.event()
        start.record()
        gpu.copy(one, host, 8)
        gpu.copy(host, two, 8, stream=other)
        other_done = gpu.event()
        other_done.record(other)
        gpu.own_stream.wait(other_done)
        end.record()
        end.synchronise()
        assert end.seconds_since(start) == pytest.approx(3.0)
        assert fake.clock() == pytest.approx(3.0)


def test_a_graph_runs_when_it_is_launched() -> None:
    fake = FakeCuda({"scale": scale}, launch_s=1e-4)
    with fake.gpu() as gpu:
        function, source, target = gpu.load(SCALE), gpu.allocate(4), gpu.allocate(4)
        source.write(np.float32([5]))
        target.fill(0)

        def enqueue() -> None:
            for factor in (2, 3):
                function.launch(1, 1, target, source, np.float32(factor), np.int32(1))

        graph = gpu.capture(enqueue)
        assert target.read(np.float32, 1).tolist() == [0]
        start, end = gpu.event(), gpu.event()
        start.record()
        graph.launch()
        end.record()
        end.synchronise()
        assert end.seconds_since(start) == pytest.approx(2e-3 + 1e-4)
        assert target.read(np.float32, 1).tolist() == [15]


def test_an_error_while_capturing_ends_the_capture() -> None:
    fake = FakeCuda({"scale": scale})
    with fake.gpu() as gpu:
        memory = gpu.allocate(4)

        def enqueue() -> None:
            memory.fill(1)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            gpu.capture(enqueue)
        memory.fill(7)
        assert memory.read(np.uint8, 1).tolist() == [7]
    assert fake.open_handles == []


def test_a_device_that_is_lost_in_mid_run_is_named_and_closing_is_quiet() -> None:
    fake = FakeCuda()
    with fake.gpu() as gpu:
        function, memory = gpu.load(SCALE), gpu.allocate(4)
        fake.fail("cuStreamSynchronize", 719)
        function.launch(1, 1, memory, memory, np.float32(1), np.int32(1))
        with pytest.raises(DeviceLost, match="the device was lost: cuStreamSynchronize reports a kernel failed"):
            memory.read(np.float32, 1)
        with pytest.raises(DeviceLost):
            gpu.allocate(4)


def test_the_first_error_is_the_one_to_tell() -> None:
    fake = FakeCuda()
    gpu = fake.gpu()
    with pytest.raises(ZeroDivisionError), gpu, gpu.allocate(8):
        fake.lost = 700
        _ = 1 / 0


def test_every_call_makes_the_context_current() -> None:
    """torch may have made another device's current meanwhile, and each thread has its own."""
    fake = FakeCuda()
    with fake.gpu() as gpu:
        memory = gpu.allocate(4)
        before = fake.called["cuCtxSetCurrent"]
        worker = threading.Thread(target=memory.fill)
        worker.start()
        worker.join()
        gpu.synchronise()
        assert fake.called["cuCtxSetCurrent"] == before + 2


def test_a_kernel_function_that_raises_is_not_lost() -> None:
    """What goes wrong in a test's own kernel cannot pass through C; it is kept."""

    def broken(grid: Three, block: Three, args: Arguments) -> float:
        raise LookupError("in the test's kernel")

    fake = FakeCuda({"scale": broken})
    with fake.gpu() as gpu:
        function, memory = gpu.load(SCALE), gpu.allocate(4)
        with pytest.raises(DeviceLost):
            function.launch(1, 1, memory, memory, np.float32(1), np.int32(1))
    assert isinstance(fake.error, LookupError)


def test_sources_lie_beside_the_code() -> None:
    assert "__global__" in source_text("empty.cu")


@pytest.mark.gpu
def test_on_a_device_the_numbers_come_out() -> None:
    """The same steps on a real device: compile, prove, launch, capture, time."""
    with Gpu(0) as gpu:
        assert gpu.sm_count > 0
        assert 0 < gpu.free_bytes() <= gpu.memory_bytes
        function = gpu.load(SCALE)
        n = 1 << 20
        source, target = gpu.allocate(4 * n), gpu.allocate(4 * n)
        values = np.arange(n, dtype=np.float32)
        source.write(values)
        arguments = (target, source, np.float32(2), np.int32(n))
        function.launch(n // 256, 256, *arguments)
        assert np.array_equal(target.read(np.float32, n), 2 * values)
        target.fill(0)
        graph = gpu.capture(lambda: function.launch(n // 256, 256, *arguments))
        assert not target.read(np.float32, n).any()
        start, end = gpu.event(), gpu.event()
        start.record()
        graph.launch()
        end.record()
        end.synchronise()
        assert 0 < end.seconds_since(start) < 1
        assert np.array_equal(target.read(np.float32, n), 2 * values)
        assert function.blocks_per_sm(256) >= 1
        function.allow_shared(0)
        host = gpu.allocate_host(4 * n)
        gpu.copy(host, target, 4 * n)
        gpu.synchronise()
        assert np.array_equal(host.array(np.float32), 2 * values)
        with pytest.raises(OutOfMemory):
            gpu.allocate(2 * gpu.memory_bytes)


@pytest.mark.gpu
def test_a_device_takes_recomposed_code() -> None:
    """The driver loads a cubin whose machine code was replaced by the same words, and it still runs."""
    from probe.kernels.cuda import cubin, sass

    with Gpu(0) as gpu:
        code = nvrtc.cubin(SOURCE, gpu.architecture, driver=gpu.driver.version)
        again = cubin.with_text(code, "scale", sass.encode(sass.of(code, "scale")))
        function = gpu.load_cubin(again, "scale", {})
        memory = gpu.allocate(4)
        memory.write(np.float32([3]))
        function.launch(1, 1, memory, memory, np.float32(2), np.int32(1))
        assert memory.read(np.float32, 1).tolist() == [6]
