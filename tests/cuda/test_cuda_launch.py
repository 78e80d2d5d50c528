"""Does each way of getting work onto a GPU come out as a model machine has it, and does a failure cost only itself?"""

import ctypes
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda

from probe.errors import UnavailableError
from probe.kernels.cuda import cubin, empty, nvrtc, proof, sass
from probe.kernels.cuda.driver import CudaError, DeviceLost
from probe.kernels.cuda.driver_calls import DriverCall, DriverCalls
from probe.kernels.cuda.kernel import Kernel
from probe.machine.device import Device
from probe.microbench import launch as eager
from probe.microbench.cuda import launch
from probe.microbench.cuda.bench import opened
from probe.microbench.cuda.launch_ways import GRAPH_KERNELS, QUEUED_CALLS, Ways
from probe.microbench.published import references
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

EMPTY_S, SMALL_S, LAUNCH_S, COPY_S = 1e-6, 1.5e-6, 2.5e-6, 2e-6
QUERY = "launch: cuEventQuery: this CUDA driver is too old: it has no cuEventQuery; upgrade it"  # the fake has none
ARCHITECTURES = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120")


def machine(launch_s: float = LAUNCH_S) -> FakeCuda:
    """A GPU whose kernels, launches and copies take what the constants say."""
    kernels = {
        "empty": lambda grid, block, args: EMPTY_S,
        "small": lambda grid, block, args: SMALL_S,
        "hold": lambda grid, block, args: args.value(0, ctypes.c_uint64) / 1.98e9,
    }
    return FakeCuda(kernels, launch_s=launch_s, copy_s=lambda kind, n_bytes: COPY_S)


def context(fake: FakeCuda, budget_s: float = 0.1, **more: Any) -> Context:
    device = Device("cuda", "NVIDIA H200", sm_count=132)
    return Context(device, budget_s, clock=fake.clock, **more)


def rows(fake: FakeCuda, budget_s: float = 0.1, **more: Any) -> tuple[dict[str, Measurement], Context]:
    """The driver's part on the model machine, by operator."""
    asked = context(fake, budget_s, **more)
    with fake.gpu() as gpu:
        found = {m.params["operator"]: m for m in launch.driver(asked, gpu)}
    assert fake.error is None
    return found, asked


@functools.cache
def recovered() -> tuple[dict[str, Measurement], Context, FakeCuda]:
    """The driver's part on the model machine, once for all tests that only look."""
    fake = machine()
    return *rows(fake), fake


def test_a_known_machine_is_recovered() -> None:
    found, asked, _ = recovered()

    expected = {
        launch.STREAM: LAUNCH_S,  # the host is the slower one
        launch.SMALL_STREAM: LAUNCH_S,
        launch.QUEUED: EMPTY_S,  # and does not matter here
        launch.GRAPH: EMPTY_S,
        launch.SMALL_GRAPH: SMALL_S,
        launch.ONE_KERNEL: LAUNCH_S,
        launch.BETWEEN_EVENTS: EMPTY_S,
        "copy 4 B H2D": COPY_S,
        "copy 4 B D2H": COPY_S,
        "copy 4 B D2D": COPY_S,
        "cuLaunchKernel": LAUNCH_S,
        "cuGraphLaunch": LAUNCH_S,
        launch.ROUND_TRIP: LAUNCH_S + EMPTY_S,
    }
    assert {name: m.value for name, m in found.items() if name in expected} == pytest.approx(expected, rel=0.01)
    assert set(found) - set(expected) == {
        *(f"cuMemcpyAsync 4 B {way}" for way in ("H2D", "D2H", "D2D")),
        "cuEventRecord",
        "cuStreamSynchronize, idle",
    }
    assert {(m.metric, m.unit) for m in found.values()} == {("time", "s")}
    assert asked.warnings == [QUERY]


def test_a_row_says_whose_clock_it_is_by_and_how() -> None:
    found, _, _ = recovered()
    on_host = {name for name, m in found.items() if m.params["clock"] == "host"}

    assert on_host == {launch.ROUND_TRIP, *(name for name in found if name.startswith("cu"))}
    assert {m.params["clock"] for m in found.values()} == {"device", "host"}
    assert {name for name, m in found.items() if m.params["method"] == "stream"} == {launch.STREAM, launch.SMALL_STREAM}
    assert {name for name, m in found.items() if m.params["method"] == "graph"} == {launch.GRAPH, launch.SMALL_GRAPH}
    assert found[launch.GRAPH].params["kernels_a_graph"] == GRAPH_KERNELS
    assert found[launch.BETWEEN_EVENTS].params["events_s"] == 0
    assert found[launch.SMALL_STREAM].proof == found[launch.SMALL_GRAPH].proof
    assert (found[launch.SMALL_STREAM].proof or {})["instruction"] == "LDG"


def test_bare_launches_are_what_others_published_and_operators_are_not() -> None:
    found, _, _ = recovered()
    device = Device("cuda", "NVIDIA H200")
    annotated = references.annotate(list(found.values()), device, None, None)
    verdicts = {m.params["operator"]: m.verdict for m in annotated if m.reference}

    assert verdicts == {
        launch.STREAM: "as published",
        launch.SMALL_STREAM: "as published",
        launch.GRAPH: "better",
        launch.SMALL_GRAPH: "worse",
    }


def test_a_slow_host_is_flagged_and_a_fast_one_not() -> None:
    slow, _ = rows(machine(launch_s=5e-6))
    fast, _ = rows(machine(launch_s=0.2e-6))

    assert "launch-bound" in slow[launch.STREAM].flags
    assert slow[launch.QUEUED].flags == ()
    assert fast[launch.STREAM].flags == ()
    assert fast[launch.STREAM].value == pytest.approx(EMPTY_S, rel=0.01)


def test_a_host_that_is_never_in_time_is_said() -> None:
    fake = machine(launch_s=1.0)
    asked = context(fake)
    with fake.gpu() as gpu, opened(asked, gpu) as bench:
        way = Ways(bench).queued(launch.QUEUED)
        assert way.variant.window() / way.variant.work == pytest.approx(1.0, rel=0.01)

    assert asked.warnings == [
        "launch: the host did not enqueue in time: the time of queued kernels has some of the host's in it"
    ]


def test_the_small_kernel_touches_64_kib() -> None:
    _, _, fake = recovered()
    [(grid, block)] = {(call.grid, call.block) for call in fake.launches if call.name == "small"}

    assert grid[0] * block[0] * 4 * 2 == empty.SMALL_BYTES
    assert {call.grid for call in fake.launches if call.name == "empty"} == {(1, 1, 1)}


def test_no_window_fills_the_queue() -> None:
    assert QUEUED_CALLS < 1024 / 2


def test_a_quick_run_is_short() -> None:
    fake = machine()
    rows(fake, 0.05, quick=True)

    assert fake.clock() < 0.5


def test_a_failing_variant_costs_only_itself() -> None:
    fake = machine()
    fake.fail("cuGraphInstantiateWithFlags", 801)
    found, asked = rows(fake)

    assert launch.GRAPH not in found
    assert {launch.STREAM, launch.SMALL_GRAPH, launch.ROUND_TRIP} < set(found)
    assert "launch: empty kernel, graph: cuGraphInstantiateWithFlags failed" in asked.warnings[0]


def test_a_refused_call_has_a_name() -> None:
    fake = machine()
    with fake.gpu() as gpu:
        calls = DriverCalls(gpu, DriverCall("cuStreamSynchronize", (0xBAD,)), DriverCall("cuEventRecord", (0, 0)))
        with pytest.raises(CudaError, match=r"cuStreamSynchronize, cuEventRecord failed: invalid resource handle"):
            calls.run(3)
        with pytest.raises(UnavailableError, match="it has no cuNothing"):
            DriverCalls(gpu, DriverCall("cuNothing", ()))


def _operators(*names: str) -> Any:
    def operators(asked: Context) -> Iterator[Measurement]:
        for name in names:
            yield Measurement("launch", name, "time", "s", 1e-6, 1e-6, 1e-6, (1e-6, 1e-6), 1, {"operator": name})

    return operators


def test_a_lost_device_is_named_and_what_was_measured_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "operators", _operators("add"))
    fake = machine()
    fake.fail("cuLaunchKernel", 719, at=2000)
    found = []
    with fake.gpu() as gpu, pytest.raises(DeviceLost, match="the device was lost"):
        for m in launch.run(context(fake), gpu):
            found.append(m.params["operator"])

    assert found == ["add"]


def test_without_the_driver_torch_alone_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Iterator[Measurement]:
        raise UnavailableError("no NVRTC was found")
        yield

    monkeypatch.setattr(launch, "operators", _operators("add", "add_"))
    monkeypatch.setattr(launch, "driver", refuse)
    asked = Context(Device("cuda", "x"), 1.0)

    assert [m.params["operator"] for m in launch.run(asked)] == ["add", "add_"]
    assert asked.warnings == ["launch: what came until then is kept: no NVRTC was found"]


def test_without_torch_the_driver_alone_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(asked: Context) -> Iterator[Measurement]:
        raise RuntimeError("CUDA error: no kernel image\nmore")
        yield

    monkeypatch.setattr(launch, "operators", refuse)
    fake = machine()
    asked = context(fake)
    with fake.gpu() as gpu:
        found = {m.params["operator"] for m in launch.run(asked, gpu)}

    assert launch.STREAM in found
    assert asked.warnings[0] == "launch: what came until then is kept: CUDA error: no kernel image"


def test_nothing_at_all_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "operators", _operators())
    with pytest.raises(UnavailableError, match=r"nothing could be launched: .* is no CUDA device"):
        list(launch.run(Context(Device("rocm", "MI300X"), 1.0)))


def test_both_halves_share_the_budget_and_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets, reports = [], []

    def half(asked: Context, gpu: object = None) -> Iterator[Measurement]:
        budgets.append(asked.budget_s)
        asked.report(0.0)
        asked.report(1.0)
        yield from _operators("x")(asked)

    monkeypatch.setattr(launch, "operators", half)
    monkeypatch.setattr(launch, "driver", half)
    list(launch.run(Context(Device("cuda", "x"), 10.0, report=reports.append)))

    assert budgets == pytest.approx([4.0, 6.0])
    assert reports == pytest.approx([0.0, 0.4, 0.4, 1.0])


# ---- torch's operators on a GPU, with the CPU's tensors and an injected timer


class FakeTimer:
    """Calls once, and says that each call took a microsecond; notes how often it was asked for one."""

    def __init__(self) -> None:
        self.now, self.windows = 0.0, 0

    def window(self, call: Any, calls: int) -> float:
        call()
        self.windows += 1
        self.now += calls * 1e-6
        return calls * 1e-6


def test_operators_of_a_gpu_say_whose_clock_they_are_by(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = FakeTimer()
    asked = Context(Device("cuda", "x"), 0.2, index=0, clock=lambda: timer.now)
    on_cpu = eager.calls("cpu") | {eager.ENQUEUED: lambda: torch.add(torch.ones(1), torch.ones(1))}
    monkeypatch.setattr(eager, "calls", lambda where: on_cpu)
    found = {m.params["operator"]: m for m in eager.run(asked, timer)}

    assert found[eager.CEILING].params["clock"] == "device"
    assert found[eager.ENQUEUED].params["clock"] == found[eager.PYTHON].params["clock"] == "host"
    assert eager.COMPILED not in found


def test_the_first_call_on_a_gpu_is_not_timed() -> None:
    class Loading(FakeTimer):
        """The first call takes as long as loading its kernel does."""

        def window(self, call: Any, calls: int) -> float:
            seconds = super().window(call, calls)
            return 0.3 if self.windows == 1 else seconds

    on_gpu = Context(Device("cuda", "x"), 0.2, index=0)
    variant = eager._variant(on_gpu, eager.CEILING, lambda: None, Loading())

    assert variant.work == pytest.approx(eager.CUDA_WINDOW_S / 1e-6, rel=0.01)


# ---- what is launched


@pytest.mark.parametrize("kernel", empty.KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_are_as_claimed(architecture: str, kernel: Kernel) -> None:
    try:
        code = nvrtc.cubin(kernel.source, architecture, kernel.defines)
    except UnavailableError as reason:
        pytest.skip(str(reason))
    claim = kernel.claim_for(nvrtc.number_of(architecture))
    found = sass.of(code, kernel.name)

    assert proof.check(claim, found) == ()
    assert cubin.local_bytes(code, kernel.name) == 0
    if kernel is empty.HOLD:
        assert proof.count(claim.main, proof.innermost_loop(found)) == 1


@pytest.mark.gpu
def test_a_real_gpu_launches() -> None:
    found = {m.params["operator"]: m for m in launch.run(Context(Device("cuda", "x"), 2.0, quick=True, index=0))}
    seconds = {name: m.value for name, m in found.items()}

    assert 1e-7 < seconds[launch.GRAPH] < seconds[launch.STREAM] * 1.5 < 1e-4
    assert seconds[launch.QUEUED] <= seconds[launch.STREAM] * 1.5
    assert seconds["cuEventQuery"] < seconds[launch.ROUND_TRIP]
    assert seconds["cuLaunchKernel"] <= seconds[eager.CEILING] * 1.5
