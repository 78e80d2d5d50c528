"""Does the search for a GPU's best product keep to memory and time, and does each format's failure cost only itself?

On the CPU's tensors, with an injected timer: what is asked of torch is real, the device is not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from probe.errors import UnavailableError
from probe.machine.device import Device
from probe.microbench import matmul, precisions, timers
from probe.microbench.cuda import matmul_shapes
from probe.microbench.cuda.matmul_shapes import Limits
from probe.microbench.cuda.watch import Reading
from probe.microbench.precisions import COLUMNS, ROWS, Precision, Shape
from probe.microbench.suite import Context

SHAPES: tuple[Shape, ...] = ((32, 32, 32), (64, 64, 64), (96, 96, 96), (128, 128, 128))
RATE = 1e9
ENQUEUE_S = 1e-6


class FakeTimer:
    """Says that each call took what its result's size means at `rate`; its clock runs on by that."""

    def __init__(self, rate: Callable[[Any], float] = lambda out: RATE) -> None:
        self._rate = rate
        self.now = 0.0
        self.windows: list[tuple[int, int]] = []  # rows of the result, calls

    def window(self, call: Callable[[], object], calls: int) -> float:
        out: Any = call()
        self.windows.append((out.shape[0], calls))
        seconds = calls * 2 * out.shape[0] ** 3 / self._rate(out)
        self.now += seconds
        return seconds


class Meter:
    """Reads a GPU that was slowed by its power limit."""

    max_sm_clock_hz = 1.98e9

    def read(self) -> Reading:
        return Reading(1.4e9, ("sw_power_cap",), 700.0, 60.0)

    def others(self) -> int | None:
        return 0

    def busy_others(self, since: float) -> int | None:
        return 0


class FakeEnqueueTimer:
    """The host needs a microsecond a call."""

    def __init__(self, index: int) -> None:
        assert index == 0

    def window(self, call: Callable[[], object], calls: int) -> float:
        return ENQUEUE_S * calls


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU whose tensors are the CPU's, with a GiB for the search and no NVML.

    Its products are computed by one thread: several spin while they wait for each other on a busy machine.
    """

    @contextmanager
    def no_meter(index: int | None) -> Iterator[None]:
        yield None

    monkeypatch.setattr(matmul, "torch_device", lambda context: "cpu")
    monkeypatch.setattr(matmul, "meter_of", no_meter)
    monkeypatch.setattr(matmul, "EnqueueTimer", FakeEnqueueTimer)
    monkeypatch.setattr(matmul, "rounds_to_tf32", lambda where: torch.get_float32_matmul_precision() == "high")
    monkeypatch.setattr(matmul_shapes, "room_bytes", lambda index: 1 << 30)
    monkeypatch.setattr(matmul_shapes, "give_back", lambda: None)
    monkeypatch.setattr(matmul_shapes, "SHAPES", SHAPES)
    monkeypatch.setattr(matmul_shapes, "QUICK", SHAPES[:2])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def context(timer: FakeTimer, budget_s: float = 0.4, capability: str = "9.0", **more: Any) -> Context:
    device = Device("cuda", "x", compute_capability=capability)
    return Context(device, budget_s, index=0, clock=lambda: timer.now, **more)


def run(timer: FakeTimer, **more: Any) -> tuple[dict[str, Any], Context]:
    asked = context(timer, **more)
    return {m.params["dtype"]: m for m in matmul.run(asked, timer)}, asked


def test_every_format_has_its_best_rate() -> None:
    found, asked = run(FakeTimer(lambda out: RATE * (2 if out.shape[0] == 96 else 1)))

    assert set(found) == set(precisions.CUDA_PRECISIONS)
    assert [m.value for m in found.values()] == pytest.approx([2 * RATE] * 7)
    assert {tuple(m.params["shape"]) for m in found.values()} == {(96, 96, 96)}
    assert asked.warnings == []
    assert {m.params["threads"] for m in found.values()} == {None}


def test_the_other_layout_is_measured_where_there_is_a_choice() -> None:
    """The fake torch is faster where the second matrix lies by columns."""
    seen: dict[int, str] = {}
    real = precisions.product

    def product(precision: Precision, shape: Shape, where: str, layout: str = ROWS) -> Callable[[], object]:
        call = real(precision, shape, where, layout)
        out = call()
        seen[out.data_ptr()] = layout  # type: ignore[attr-defined]
        return lambda: out

    timer = FakeTimer(lambda out: RATE * (1.5 if seen[out.data_ptr()] == COLUMNS else 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul, "product", product)
        found, _ = run(timer)

    assert {name: m.params["layout"] for name, m in found.items()} == dict.fromkeys(found, COLUMNS)
    assert found["bfloat16"].value == pytest.approx(1.5 * RATE)


@pytest.mark.parametrize("layout", [ROWS, COLUMNS])
@pytest.mark.parametrize("name", ["float64", "float32", "tf32", "bfloat16", "float16", "int8", "float8_e4m3fn"])
def test_products_are_right_in_each_layout(name: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operands are caught on their way to torch and multiplied in float64."""
    caught: list[Any] = []
    for api in ("mm", "_int_mm", "_scaled_mm"):
        real = getattr(torch, api)

        def catch(a: Any, b: Any, real: Any = real, **more: Any) -> Any:
            caught[:] = [a, b]
            return real(a, b, **more)

        monkeypatch.setattr(torch, api, catch)
    result: Any = precisions.product(Precision(name), (32, 64, 48), "cpu", layout)()
    a, b = (operand.double() for operand in caught)

    torch.testing.assert_close(result.double(), a @ b, rtol=0.02, atol=0.3)
    assert len(a.unique()) > 50  # not zeros
    by_columns = caught[1].stride() == (1, 64)
    assert by_columns == (layout == COLUMNS or name == "float8_e4m3fn")


def test_an_output_is_handed_over_where_torch_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, layout in (("bfloat16", ROWS), ("int8", COLUMNS), ("float8_e4m3fn", COLUMNS)):
        call = precisions.product(Precision(name), (32, 32, 32), "cpu", layout)
        assert call().data_ptr() == call().data_ptr()  # type: ignore[attr-defined]

    def old(a: Any, b: Any, **more: Any) -> tuple[Any, Any]:
        if "out" in more:
            raise TypeError("_scaled_mm(): argument 'out' must be tuple of Tensors, not Tensor")
        return (torch.mm(a.float(), b.float()), None)

    monkeypatch.setattr(torch, "_scaled_mm", old)
    assert isinstance(precisions.product(Precision("float8_e4m3fn"), (32, 32, 32), "cpu")(), tuple)


# ---- memory and time


def test_shapes_that_do_not_fit_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    double = Precision("float64")
    monkeypatch.setattr(matmul_shapes, "room_bytes", lambda index: double.memory_bytes(SHAPES[1]))
    timer = FakeTimer()

    assert [c.shape for c in matmul.screen(context(timer), timer, double, SHAPES, 1.0)] == list(SHAPES[:2])


def test_no_room_at_all_costs_a_format_and_all_formats_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_shapes, "room_bytes", lambda index: Precision("int8").memory_bytes(SHAPES[0]))
    found, asked = run(FakeTimer())
    assert set(found) == {"int8"}
    assert "matmul: float64 failed: too little memory is free for the smallest shape" in asked.warnings[4]

    monkeypatch.setattr(matmul_shapes, "room_bytes", lambda index: 0)
    with pytest.raises(UnavailableError, match=r"no matrix product ran on x: .*too little memory"):
        run(FakeTimer())


def test_memory_counts_the_random_numbers_before_they_are_converted() -> None:
    m, k, n = shape = (100, 200, 300)

    assert Precision("bfloat16").memory_bytes(shape) == (m * k + k * n) * (2 + 4) + m * n * 2
    assert Precision("float8_e4m3fn").memory_bytes(shape) == (m * k + k * n) * (1 + 4) + m * n * 2
    assert Precision("int8").memory_bytes(shape) == (m * k + k * n) + m * n * 4


def test_finalists_fit_in_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    single = Precision("float32")
    timer = FakeTimer()
    candidates = matmul.screen(context(timer), timer, single, SHAPES, 1.0)[-3:]
    largest = single.memory_bytes(SHAPES[-1])
    monkeypatch.setattr(matmul_shapes, "room_bytes", lambda index: 2 * largest)
    assert len(matmul._ways(context(timer), single, candidates)) < 2 * len(candidates)

    monkeypatch.setattr(matmul_shapes, "room_bytes", lambda index: 1)
    assert len(matmul._ways(context(timer), single, candidates)) == 1


def test_a_product_that_will_take_too_long_is_not_begun() -> None:
    timer = FakeTimer(lambda out: 2 * 96**3 / matmul.LONGEST_S * 0.9)  # that of 96 would take a little too long
    found = matmul.screen(context(timer), timer, Precision("float32"), SHAPES, 1.0)

    assert [c.shape[0] for c in found] == [32, 64]
    assert max(rows for rows, _ in timer.windows) == 64


def test_out_of_memory_in_the_middle_keeps_what_fits() -> None:
    def rate(out: Any) -> float:
        if out.shape[0] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return RATE * float(out.shape[0])

    found, asked = run(FakeTimer(rate))

    assert {tuple(m.params["shape"]) for m in found.values()} == {(64, 64, 64)}
    assert asked.warnings == []


def test_a_window_on_a_gpu_is_long_against_what_begins_it() -> None:
    timer = FakeTimer()
    matmul.screen(context(timer), timer, Precision("float32"), SHAPES[:1], 1.0)
    rows, calls = timer.windows[-1]

    assert calls * 2 * rows**3 / RATE == pytest.approx(matmul_shapes.WINDOW_S, rel=0.05)


def test_the_first_product_is_not_timed() -> None:
    class Loading(FakeTimer):
        """The first call loads a library."""

        def window(self, call: Callable[[], object], calls: int) -> float:
            seconds = super().window(call, calls)
            return 0.5 if len(self.windows) == 1 else seconds

    timer = Loading()
    [candidate] = matmul.screen(context(timer), timer, Precision("float32"), SHAPES[:1], 1.0)

    assert candidate.calls > 100


def test_a_quick_run_tries_fewer_shapes_and_is_short() -> None:
    timer = FakeTimer()
    found, _ = run(timer, budget_s=0.5, quick=True)

    assert {m.params["shapes_tried"] for m in found.values()} == {2}
    assert timer.now < 1.5


def test_whole_waves_divide_among_the_sms() -> None:
    for sms in (132, 108, 148):
        [(m, k, n)] = matmul_shapes.whole_waves(sms)
        assert (m // 128) * (n // 256) == 4 * sms
        assert not m % 16 and not k % 16
    assert matmul_shapes.whole_waves(142) == ()
    assert matmul_shapes.whole_waves(None) == ()
    assert not Limits(1e-2, 0.1).too_long((9999, 9999, 9999), 1.0)  # a CPU's search foresees nothing


# ---- what goes wrong, and what stands beside a rate


def test_each_failure_costs_only_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nmore")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    found, asked = run(FakeTimer())

    assert set(precisions.CUDA_PRECISIONS) - set(found) == {"int8", "float8_e4m3fn"}
    assert asked.warnings == [
        "matmul: float8_e4m3fn failed: CUBLAS_STATUS_NOT_SUPPORTED",
        "matmul: int8 failed: CUBLAS_STATUS_NOT_SUPPORTED",
    ]


def test_a_lost_device_is_named_and_memory_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(matmul_shapes, "give_back", lambda: given_back.append(1))
    lost = FakeTimer()

    def final(*arguments: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure\nCompile with …")

    monkeypatch.setattr(matmul, "final", final)
    with pytest.raises(
        UnavailableError, match=r"no matrix product ran on x: .* CUDA error: unspecified launch failure$"
    ):
        run(lost)

    assert given_back == [1]


def test_a_format_that_fails_in_the_end_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    real = matmul.final

    def final(asked: Context, timer: Any, precision: Precision, *more: Any) -> Any:
        if precision.name == "float16":
            raise RuntimeError("CUDA error: out of memory")
        return real(asked, timer, precision, *more)

    monkeypatch.setattr(matmul, "final", final)
    found, asked = run(FakeTimer())

    assert set(precisions.CUDA_PRECISIONS) - set(found) == {"float16"}
    assert asked.warnings == ["matmul: float16 failed: CUDA error: out of memory"]


@pytest.mark.parametrize(("rounds", "lost", "does"), [(True, "float32", "rounds to"), (False, "tf32", "does not use")])
def test_arithmetic_that_is_overruled_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, rounds: bool, lost: str, does: str
) -> None:
    monkeypatch.setattr(matmul, "rounds_to_tf32", lambda where: rounds)
    found, asked = run(FakeTimer())

    assert set(precisions.CUDA_PRECISIONS) - set(found) == {lost}
    assert asked.warnings == [
        f"matmul: {lost} failed: torch.mm {does} TF32 whatever torch is told; unset NVIDIA_TF32_OVERRIDE"
    ]


def test_rounding_to_tf32_shows_in_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not precisions.rounds_to_tf32("cpu")
    real = torch.mm

    def rounded(a: Any, b: Any) -> Any:
        def tf32(x: Any) -> Any:
            return (x.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)

        return real(tf32(a), tf32(b))

    monkeypatch.setattr(torch, "mm", rounded)
    assert precisions.rounds_to_tf32("cpu")


def test_the_clock_and_the_power_stand_beside_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def meter(index: int | None) -> Iterator[Meter]:
        yield Meter()

    monkeypatch.setattr(matmul, "meter_of", meter)
    found, _ = run(FakeTimer())
    params = found["bfloat16"].params

    assert (params["sm_clock_hz"], params["power_w"], params["clocks_event_reasons"]) == (
        1.4e9,
        700.0,
        ["sw_power_cap"],
    )
    assert "throttled" in found["bfloat16"].flags


def test_a_best_product_shorter_than_enqueuing_it_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_shapes, "SHAPES", SHAPES[:1])
    short, _ = run(FakeTimer(lambda out: 2 * 32**3 / (1.5 * ENQUEUE_S)))
    long, _ = run(FakeTimer(lambda out: 2 * 32**3 / (3 * ENQUEUE_S)))

    assert all("launch-bound" in m.flags for m in short.values())
    assert not any("launch-bound" in m.flags for m in long.values())


def test_a_cool_screening_is_no_result() -> None:
    """The first windows of each format run at a clock that the power limit does not allow for long."""

    class Warming(FakeTimer):
        def window(self, call: Callable[[], object], calls: int) -> float:
            return super().window(call, calls) * (1.0 if len(self.windows) < 60 else 1.3)

    timer = Warming()
    asked, half = context(timer), Precision("float16")
    screened = matmul.screen(asked, timer, half, SHAPES[:1], 0.1)
    while len(timer.windows) < 60:
        timer.window(lambda: torch.empty(32, 32), 1)

    assert matmul.final(asked, timer, half, screened, 0.5).value == pytest.approx(RATE / 1.3)


def test_a_rocm_device_is_asked_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[int | None] = []

    @contextmanager
    def meter(index: int | None) -> Iterator[None]:
        asked_for.append(index)
        yield None

    monkeypatch.setattr(matmul, "meter_of", meter)
    timer = FakeTimer()
    device = Device("rocm", "x", compute_capability="9.0")
    assert list(matmul.run(Context(device, 0.5, index=0, clock=lambda: timer.now), timer))
    assert asked_for == [None]


# ---- timers


def test_enqueuing_is_timed_with_a_queue_that_never_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    in_queue = 0

    class Cuda:
        """Counts what is enqueued until somebody waits."""

        @staticmethod
        @contextmanager
        def device(index: int) -> Iterator[None]:
            yield

        @staticmethod
        def synchronize() -> None:
            nonlocal in_queue
            in_queue = 0

    def call() -> None:
        nonlocal in_queue
        in_queue += 1
        assert in_queue <= timers.MOST_QUEUED

    monkeypatch.setattr(torch, "cuda", Cuda)

    assert timers.EnqueueTimer(0).window(call, 1000) > 0


@pytest.mark.gpu
def test_a_real_gpu_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    from probe.machine import environment

    asked = Context(environment.cuda_device(0), 4.0, quick=True, index=0)
    found = {m.params["dtype"]: m.value for m in matmul.run(asked)}

    assert found["float32"] > 1e11
    assert found["float16"] > found["float32"] * 0.9
