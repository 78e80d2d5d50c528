"""Are windows what the device took, cold where asked, with what held beside them, and kernels' own cycles right?"""

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_cuda import Arguments, FakeCuda, Three

from probe.errors import UnavailableError
from probe.kernels.cuda.driver import DeviceLost
from probe.kernels.cuda.kernel import Kernel
from probe.kernels.cuda.memory import Memory
from probe.kernels.cuda.proof import Claim
from probe.machine.device import Device
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.cuda.in_kernel import MOST_ITERATIONS, InKernel
from probe.microbench.cuda.watch import Conditions, Reading
from probe.microbench.harness import Effort
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

GPU = Device("cuda", "NVIDIA H100 80GB HBM3")
SOURCE = """
extern "C" __global__ void work(unsigned long long *stamps, unsigned int iterations) {
    stamps[4 * blockIdx.x] = iterations;
}
"""
WORK = Kernel("work", SOURCE, Claim())
KERNEL_S = 1e-4
CLOCK_HZ = 1.5e9
CYCLES, STARTING = 100.0, 5000.0  # of an iteration; of the kernel's beginning and end


class Machine:
    """A kernel `work` of 100 cycles an iteration, counted by each block; the clock may change from launch to launch."""

    def __init__(self) -> None:
        self.launches = 0
        self.blocks = 1
        self.clock_hz = lambda launch: CLOCK_HZ
        self.slow_blocks: tuple[int, ...] = ()
        self.iterations: list[int] = []

    def work(self, grid: Three, block: Three, args: Arguments) -> float:
        self.launches += 1
        iterations = args.value(1, ctypes.c_uint32)
        self.iterations.append(iterations)
        clock_hz = self.clock_hz(self.launches)
        stamps = args.array(0, np.uint64, 4 * grid[0]).reshape(-1, 4)
        for number in range(grid[0]):
            cycles = (CYCLES * iterations + STARTING) * (3 if number in self.slow_blocks else 1)
            stamps[number] = (10**6, 10**6 + cycles, 10**9, 10**9 + round(cycles / clock_hz * 1e9))
        return (CYCLES * iterations + STARTING) / clock_hz


class Meter:
    """A GPU that runs at one clock all the time."""

    def __init__(self, clock_hz: float = CLOCK_HZ, reasons: tuple[str, ...] = (), busy: int = 0) -> None:
        self.max_sm_clock_hz: float | None = 1.98e9
        self._reading, self._busy = Reading(clock_hz, reasons, 500.0, 60.0), busy

    def read(self) -> Reading:
        return self._reading

    def others(self) -> int | None:
        return self._busy

    def busy_others(self, since: float) -> int | None:
        return self._busy


@pytest.fixture
def fake() -> Iterator[FakeCuda]:
    made = FakeCuda(otherwise_s=KERNEL_S, launch_s=5e-6)
    yield made
    if made.error is not None:
        raise made.error


@pytest.fixture
def bench(fake: FakeCuda) -> Iterator[Bench]:
    with fake.gpu() as gpu, opened(Context(GPU, 1.0, index=0, clock=fake.clock), gpu, Meter()) as made:
        yield made


def _enqueue(bench: Bench) -> Any:
    function, memory = bench.gpu.load(WORK), bench.gpu.allocate(32)
    return lambda: function.launch(1, 1, memory, np.uint32(1))


def test_a_window_is_the_time_between_two_events(bench: Bench) -> None:
    assert bench.window(_enqueue(bench), 7) == pytest.approx(
        7 * KERNEL_S + 5e-6, rel=1e-3
    )  # the first waits for its launch


def test_a_variant_fills_its_window_and_is_per_unit_of_work(bench: Bench) -> None:
    variant = bench.variant("work", _enqueue(bench), 50.0, window_s=2e-3)
    [timing] = bench.measure([variant], Effort(0.2))

    assert variant.work == pytest.approx(50 * 20, rel=0.1)
    assert timing.seconds.min == pytest.approx(KERNEL_S / 50, rel=0.01)


def test_a_cold_call_stands_alone_after_a_flush(bench: Bench, fake: FakeCuda) -> None:
    filled: list[int] = []

    def fill_s(n_bytes: int) -> float:
        filled.append(n_bytes)
        return 1e-3

    fake.fill_s = fill_s
    [timing] = bench.measure([bench.variant("work", _enqueue(bench), 1.0, cold=True)], Effort(0.02, least=8))

    assert timing.seconds.median == pytest.approx(KERNEL_S, rel=1e-3)  # the flush is not in it
    assert set(filled) == {2 * bench.gpu.l2_bytes}
    assert len(filled) == timing.seconds.n + 1  # before each window, and before the one that is not recorded


def test_a_graph_has_no_launches_in_its_time(bench: Bench, fake: FakeCuda) -> None:
    fake.otherwise_s = 1e-6
    enqueue = _enqueue(bench)
    one_by_one, replayed = bench.measure(
        [bench.variant("stream", enqueue, 1.0), bench.graph_variant("graph", enqueue, 1.0, calls=100)], Effort(0.2)
    )

    assert one_by_one.seconds.min == pytest.approx(5e-6, rel=0.05)
    assert replayed.seconds.min == pytest.approx(1e-6, rel=0.1)


def test_nothing_to_measure(bench: Bench) -> None:
    assert bench.measure([], Effort(1.0)) == []


def _row(bench: Bench, **more: Any) -> Measurement:
    [timing] = bench.measure([bench.variant("work", _enqueue(bench), 1.0)], Effort(0.05))
    return bench.time_row("launch", "work", "time", timing, {"method": "stream"}, **more)


def test_a_row_carries_what_held(bench: Bench) -> None:
    row = _row(bench, proof={"instruction": "EXIT"}, flags=("launch-bound",))

    assert row.params["method"] == "stream"
    assert row.params["sm_clock_hz"] == CLOCK_HZ
    assert row.params["power_w"] == 500.0
    assert row.proof == {"instruction": "EXIT"}
    assert row.flags == ("launch-bound",)
    assert row.value == pytest.approx(KERNEL_S, rel=0.02)


def test_a_rate_is_work_by_time(bench: Bench) -> None:
    [timing] = bench.measure([bench.variant("work", _enqueue(bench), 1000.0)], Effort(0.05))
    row = bench.rate_row("memory_bandwidth", "copy", "bandwidth", "B/s", timing, {"kernel": "copy"})

    assert row.value == pytest.approx(1000 / KERNEL_S, rel=0.02)
    assert row.params["sm_clock_hz"] == CLOCK_HZ


def test_flags_are_there_once(fake: FakeCuda) -> None:
    seconds = iter([1e-4, 2e-4] * 10_000)
    fake.kernels["work"] = lambda grid, block, args: next(seconds)
    with fake.gpu() as gpu, opened(Context(GPU, 1.0, index=0, clock=fake.clock), gpu, Meter(1e9, busy=1)) as bench:
        variant = bench.variant("work", _enqueue(bench), 1.0, cold=True)
        [timing] = bench.measure([variant], Effort(0.05))
        row = bench.time_row("launch", "work", "time", timing, {})

    assert timing.flags == ("contended",)
    assert sorted(row.flags) == ["contended", "throttled"]


def test_clocks_that_disagree_are_said_once(bench: Bench) -> None:
    [timing] = bench.measure([bench.variant("work", _enqueue(bench), 1.0)], Effort(0.05))
    bench.conditions = Conditions(sm_clock_hz=CLOCK_HZ, readings=10)
    for clock_hz in (CLOCK_HZ, CLOCK_HZ * 1.04):
        bench.time_row("tlb", "x", "latency", timing, {"clock_hz": clock_hz})
    assert bench.context.warnings == []
    for clock_hz in (CLOCK_HZ * 1.06, CLOCK_HZ * 0.9):
        bench.time_row("tlb", "x", "latency", timing, {"clock_hz": clock_hz})

    [warning] = bench.context.warnings
    assert "differ by more than 5%" in warning


def test_a_clock_read_once_or_twice_proves_nothing(bench: Bench) -> None:
    [timing] = bench.measure([bench.variant("work", _enqueue(bench), 1.0)], Effort(0.05))
    bench.conditions = Conditions(sm_clock_hz=CLOCK_HZ / 2, readings=2)
    bench.time_row("tlb", "x", "latency", timing, {"clock_hz": CLOCK_HZ})

    assert bench.context.warnings == []


def test_a_failure_costs_one_variant(bench: Bench) -> None:
    unproved = Kernel("work", SOURCE, Claim(exactly={"LDG": 7}))
    broken = Kernel("work", "this is no CUDA", Claim())
    for kernel in (unproved, broken, unproved):
        with bench.sparing("saxpy: float4"):
            bench.gpu.load(kernel)

    first, second = bench.context.warnings
    assert "LDG instead of 7" in first
    assert second.startswith("saxpy: float4: ")


def test_a_lost_device_is_not_spared(bench: Bench, fake: FakeCuda) -> None:
    enqueue = _enqueue(bench)
    fake.fail("cuLaunchKernel", 719)
    with pytest.raises(DeviceLost), bench.sparing("saxpy: float4"):
        enqueue()


def test_memory_is_taken_in_moderation(bench: Bench) -> None:
    free = bench.gpu.free_bytes()

    assert bench.affordable([free // 8, free // 4, free // 2]) == (free // 8, free // 4)


def test_what_a_bench_allocates_is_given_back(fake: FakeCuda) -> None:
    with fake.gpu() as gpu:
        with opened(Context(GPU, 1.0, index=0, clock=fake.clock), gpu) as bench:
            bench.flush()
            assert fake.allocated_bytes == 2 * gpu.l2_bytes
        assert fake.allocated_bytes == 0
    assert fake.open_handles == []


@pytest.mark.parametrize("kind", ["rocm", "cpu"])
def test_other_devices_are_refused(kind: Any) -> None:
    context = Context(Device(kind, "AMD Instinct MI300X"), 1.0, index=0)
    with pytest.raises(UnavailableError, match="MI300X is no CUDA device"), opened(context):
        pass


# ---- kernels that time themselves ------------------------------------------------------------------------------------


def _in_kernel(machine: Machine, blocks: int = 1, **more: Any) -> tuple[InKernel, float, Context]:
    fake = FakeCuda({"work": machine.work})
    context = Context(GPU, 1.0, index=0, clock=fake.clock)
    with fake.gpu() as gpu, opened(context, gpu) as bench:
        function = bench.gpu.load(WORK)
        timed = InKernel(bench, blocks, **more)

        def launch(iterations: int, stamps: Memory) -> None:
            function.launch(blocks, 1, stamps, np.uint32(iterations))

        variant = timed.variant("work", launch, work_per_iteration=10.0)
        [timing] = bench.measure([variant], Effort(0.2))
    assert fake.error is None
    return timed, timing.seconds.min, context


def test_cycles_are_counted_by_the_kernel() -> None:
    machine = Machine()
    timed, seconds, _ = _in_kernel(machine)
    iterations = machine.iterations[-1]
    expected = (CYCLES * iterations + STARTING) / (10 * iterations)

    assert timed.cycles == pytest.approx(expected)
    assert timed.clock_hz == pytest.approx(CLOCK_HZ, rel=1e-4)
    assert seconds == pytest.approx(expected / CLOCK_HZ, rel=1e-4)
    assert timed.params == {
        "cycles": timed.cycles,
        "median_cycles": timed.median_cycles,
        "clock_hz": timed.clock_hz,
    }
    assert iterations * CYCLES / CLOCK_HZ == pytest.approx(1e-3, rel=0.5)  # a window of about a millisecond


def test_a_difference_has_no_beginning_in_it() -> None:
    timed, seconds, _ = _in_kernel(Machine(), differenced=True)

    assert timed.cycles == pytest.approx(CYCLES / 10)
    assert seconds == pytest.approx(CYCLES / 10 / CLOCK_HZ, rel=1e-4)


def test_seconds_are_those_of_the_windows_own_clock() -> None:
    machine = Machine()
    machine.clock_hz = lambda launch: CLOCK_HZ if launch % 2 else CLOCK_HZ / 2
    timed, seconds, _ = _in_kernel(machine, differenced=False)

    assert timed.cycles == timed.median_cycles  # no clock is in them
    assert seconds == pytest.approx(timed.cycles / CLOCK_HZ, rel=1e-3)


def test_of_many_blocks_the_median_counts() -> None:
    machine = Machine()
    machine.slow_blocks = (0, 5)
    timed, _, _ = _in_kernel(machine, blocks=8, differenced=True)

    assert timed.cycles == pytest.approx(CYCLES / 10)


def test_the_first_window_is_not_counted() -> None:
    """As the harness does not record it."""
    machine = Machine()
    timed, _, _ = _in_kernel(machine)
    timed._windows[0] = (0.001, 1.0)

    assert timed.cycles > 1


def test_iterations_are_never_more_than_a_kernel_counts() -> None:
    fake = FakeCuda({"work": lambda grid, block, args: 1e-9})  # counts no cycles
    with fake.gpu() as gpu, opened(Context(GPU, 1.0, index=0, clock=fake.clock), gpu) as bench:
        function = bench.gpu.load(WORK)
        variant = InKernel(bench).variant("x", lambda n, s: function.launch(1, 1, s, np.uint32(n)), 1.0)

    assert variant.work <= MOST_ITERATIONS
