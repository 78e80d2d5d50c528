"""Are rates, memory, refusals and crossover of attention on a GPU right, on one whose speed and memory are known?"""

import functools
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from probe.errors import UnavailableError
from probe.machine.device import Device
from probe.microbench.attention_work import BOTH, FORWARD, NAIVE, Point
from probe.microbench.cuda import attention, attention_ways
from probe.microbench.cuda.attention_ways import TRITON, Way
from probe.microbench.cuda.torch_side import TorchSide
from probe.microbench.suite import Context
from probe.microbench.timers import HostTimer
from probe.results.measurement import Measurement

GPU = Device("cuda", "x", compute_capability="9.0")
GIB = 1 << 30
L2_BYTES = 40 << 20  # what the scores of sequence 512 fit (16 MiB), and those of 1024 do not (64 MiB)
SLOW, FAST, FASTER = 50e12, 300e12, 400e12  # FLOP/s
ENQUEUING_S = 20e-6
PROOF = {"instruction": "HGMMA", "local_bytes": 0}


def refused(*inputs: Any) -> Any:
    raise RuntimeError("No available kernel. Aborting execution.")


def of(name: str, scores: Any = "none", function: Callable[..., Any] | None = None) -> Way:
    return Way(name, function or functools.partial(_result, name), scores)


def _result(name: str, *inputs: Any) -> tuple[torch.Tensor, ...]:
    return (torch.ones(1),)


class Caller:
    """Stands for the inputs of a point."""

    def __init__(self, point: Point, where: str) -> None:
        self.point = point

    def __call__(self, function: Callable[..., Any]) -> Any:
        return function(self.point)


class Side(TorchSide):
    """A GPU on a fake clock: naive runs at SLOW where its scores leave L2, the fused ways at a rate each."""

    def __init__(self) -> None:
        self.where, self.now, self.speed = "cpu", 0.0, 1.0
        self.rates = {"sdpa flash": FAST, TRITON: FASTER, "sdpa math": SLOW / 2, NAIVE: FAST}
        self.free = 140 * GIB
        self.lost = False

    def clock(self) -> float:
        return self.now

    def window(self, call: Any, calls: int) -> float:
        point, name = call.func.point, call.args[0].args[0]
        beyond = name == NAIVE and point.score_bytes > L2_BYTES
        seconds = calls * max(ENQUEUING_S, point.flops / (SLOW if beyond else self.rates[name]) / self.speed)
        self.now += seconds
        return seconds

    def enqueuing_s(self, call: Any, calls: int) -> float:
        return calls * ENQUEUING_S

    def peak_bytes(self, call: Any) -> tuple[tuple[Any, ...], int]:
        return call(), 4 * call.func.point.score_bytes

    def release(self) -> None:
        pass

    def check(self, what: str) -> None:
        if self.lost:
            raise UnavailableError(f"{what}: the GPU answers no more")

    def triton_proof(self, point: Point) -> dict[str, Any] | None:
        return PROOF


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> Side:
    ways = (
        of(NAIVE, "own"),
        of("sdpa flash"),
        of("sdpa cudnn", function=refused),
        of("sdpa math", "float32"),
        of(TRITON),
    )
    monkeypatch.setattr(attention, "call_of", Caller)
    monkeypatch.setattr(attention, "ways", lambda: ways)
    return Side()


def run(side: Side, budget_s: float = 60.0, device: Device = GPU, **more: Any) -> tuple[list[Measurement], Context]:
    context = Context(
        device, budget_s, index=0, clock=getattr(side, "clock", None) or __import__("time").perf_counter, **more
    )
    return list(started(side, context)), context


def started(side: Side, context: Context) -> Iterator[Measurement]:
    gpu: Any = SimpleNamespace(l2_bytes=L2_BYTES, free_bytes=lambda: side.free)
    return attention.run(context, gpu, side)


def rows(found: list[Measurement]) -> dict[tuple[str, str, int], Measurement]:
    return {
        (m.params["implementation"], m.params["direction"], m.params["sequence"]): m
        for m in found
        if m.metric == "flops_per_s"
    }


def test_rates_and_what_is_told_of_them(side: Side) -> None:
    found, _ = run(side)
    by = rows(found)

    assert by["sdpa flash", BOTH, 8192].value == pytest.approx(FAST)
    assert by[TRITON, FORWARD, 16384].value == pytest.approx(FASTER)
    assert by[NAIVE, FORWARD, 2048].value == pytest.approx(SLOW)
    params = by[NAIVE, BOTH, 2048].params
    scores, tensor = 32 * 2048**2 * 2, 32 * 2048 * 128 * 2
    assert params["bytes"] == 15 * scores + 12 * tensor
    assert params["bytes_per_s"] == pytest.approx(params["bytes"] / params["time_s"]["median"])
    assert params["flops_per_byte"] == pytest.approx(7 * 2 * 32 * 2048**2 * 128 / params["bytes"])
    assert params["peak_bytes"] == 4 * scores
    assert by["sdpa flash", FORWARD, 2048].params["bytes"] == 4 * tensor
    assert by["sdpa math", FORWARD, 2048].params["bytes"] is None
    assert by[TRITON, FORWARD, 2048].proof == PROOF
    assert by["sdpa flash", FORWARD, 2048].proof is None


def test_short_sequences_are_bound_by_launching(side: Side) -> None:
    by = rows(run(side)[0])

    assert "launch-bound" in by["sdpa flash", FORWARD, 128].flags
    assert "launch-bound" not in by["sdpa flash", BOTH, 8192].flags


def test_the_crossover_is_against_the_fastest_fused_way(side: Side) -> None:
    found, _ = run(side)
    crossovers = {m.params["direction"]: m for m in found if m.metric == "crossover"}

    assert set(crossovers) == {FORWARD, BOTH}
    for m in crossovers.values():
        assert (m.value, m.interval, m.unit) == (1024.0, (512.0, 1024.0), "tokens")
        assert m.params["implementation"] == TRITON
        assert m.params["speedup"] == pytest.approx(FASTER / SLOW)


def test_what_writes_scores_stops_where_they_are_a_quarter_of_the_memory(side: Side) -> None:
    side.free = 40 * GIB
    longest: dict[tuple[str, str], int] = {}
    for name, direction, sequence in rows(run(side)[0]):
        longest[name, direction] = max(sequence, longest.get((name, direction), 0))

    assert longest[NAIVE, FORWARD] == 8192  # two matrices of 4 GiB
    assert longest[NAIVE, BOTH] == 4096
    assert longest["sdpa math", BOTH] == 4096  # four of 2 GiB in float32
    assert longest["sdpa flash", BOTH] == 16384


def test_a_refusal_costs_only_that_way_and_is_said_once(side: Side) -> None:
    found, context = run(side)

    assert {name for name, _, _ in rows(found)} == {NAIVE, "sdpa flash", "sdpa math", TRITON}
    [said] = context.warnings
    assert said == "attention: sdpa cudnn forward from sequence 128 on: No available kernel. Aborting execution."


def test_a_lost_gpu_ends_the_suite_and_keeps_what_was_measured(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(point: Point) -> Any:
        if point.sequence == 512:
            side.lost = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return (torch.ones(1),)

    breaking = functools.partial(lambda name, point: failing(point), TRITON)
    monkeypatch.setattr(attention, "ways", lambda: (of(NAIVE, "own"), of("x", function=breaking)))
    kept = []
    with pytest.raises(UnavailableError, match="answers no more"):
        for m in started(side, Context(GPU, 60.0, index=0, clock=side.clock)):
            kept.append(m)  # what comes before the error is the point
    assert {m.params["sequence"] for m in kept} == {128, 256}


def test_different_results_are_flagged(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = functools.partial(lambda name, point: (torch.full((1,), 1.2),), TRITON)
    monkeypatch.setattr(attention, "ways", lambda: (of(NAIVE, "own"), of(TRITON, function=wrong)))
    found, context = run(side)

    both = [m for (name, _, sequence), m in rows(found).items() if name == TRITON and sequence <= 4096]
    assert len(both) == 2 * 6
    assert all("wrong-result" in m.flags for m in both)
    assert not any("wrong-result" in m.flags for (name, *_), m in rows(found).items() if name == NAIVE)
    assert "triton differs by 0.2" in context.warnings[0]


def test_a_slow_gpu_leaves_out_what_takes_too_long_and_says_so(side: Side) -> None:
    side.speed = 1 / 20
    found, context = run(side, 10.0)

    assert max(sequence for _, _, sequence in rows(found)) < 16384
    assert any("16384 forward+backward left out: 6 windows" in warning for warning in context.warnings)
    assert side.now < 2.5 * 10.0


def test_a_quick_run_leaves_out_what_compiles_for_long(side: Side) -> None:
    found, _ = run(side, 4.0, quick=True)

    assert {sequence for _, _, sequence in rows(found)} <= set(attention.SEQUENCES_QUICK)
    assert (TRITON, FORWARD, 512) in rows(found)
    assert (TRITON, BOTH, 512) not in rows(found)


def test_spilling_kernels_are_warned_of(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "triton_proof", lambda point: PROOF | {"local_bytes": 8})
    assert any("spills registers" in warning for warning in run(side)[1].warnings)


def test_without_bfloat16_it_is_float16() -> None:
    turing = Device("cuda", "x", compute_capability="7.5")
    assert {point.dtype for point in attention.points(Context(turing, 1.0))} == {"float16"}
    assert {point.dtype for point in attention.points(Context(GPU, 1.0))} == {"bfloat16"}


def test_other_devices_are_refused() -> None:
    with pytest.raises(UnavailableError, match="no CUDA device"):
        list(attention.run(Context(Device("rocm", "AMD Instinct"), 1.0)))


def test_the_reason_is_what_torch_warns_of_that_backend() -> None:
    said = [
        "Memory efficient kernel not used because: (Triggered internally at sdp_utils.cpp:1)",
        "Memory Efficient attention has been runtime disabled. (Triggered internally at sdp_utils.h:2)",
        "Flash attention kernel not used because: (Triggered internally at sdp_utils.cpp:3)",
        "Flash attention only supports gpu architectures in the range [sm80, sm121]. (Triggered internally at a.cpp:4)",
    ]
    why = attention.reason(RuntimeError("No available kernel. Aborting execution.\nmore"), said)
    assert why == (
        "No available kernel. Aborting execution. "
        "Flash attention only supports gpu architectures in the range [sm80, sm121]."
    )


class Here(TorchSide):
    """This machine's CPU in a GPU's place: torch's real operators, timed by the host's clock."""

    def __init__(self) -> None:
        self.where, self.free, self._host = "cpu", GIB, HostTimer()

    def window(self, call: Any, calls: int) -> float:
        return self._host.window(call, calls)

    def enqueuing_s(self, call: Any, calls: int) -> float:
        return 0.0

    def peak_bytes(self, call: Any) -> tuple[tuple[Any, ...], int]:
        return call(), 0

    def release(self) -> None:
        pass

    def check(self, what: str) -> None:
        pass

    def triton_proof(self, point: Point) -> dict[str, Any] | None:
        return None


def test_torchs_backends_agree_and_those_that_refuse_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SEQUENCES", (16, 64))
    monkeypatch.setattr(attention, "HEADS", 2)
    monkeypatch.setattr(attention, "HEAD_DIM", 16)
    here: Any = Here()
    found, context = run(here, 0.5)

    assert {name for name, _, _ in rows(found)} == {NAIVE, "sdpa flash", "sdpa math"}
    assert not any("wrong-result" in m.flags for m in found)
    assert any("sdpa cudnn forward from sequence 16 on: No " in w for w in context.warnings)
    assert any("triton forward from sequence 16 on" in w for w in context.warnings)
    assert {m.params["direction"] for m in found} == {FORWARD, BOTH}


def test_ways_name_torchs_backends() -> None:
    assert [way.name for way in attention_ways.ways()] == [
        NAIVE, "sdpa flash", "sdpa efficient", "sdpa cudnn", "sdpa math", TRITON,
    ]  # fmt: skip
    point = Point(1024, FORWARD, "bfloat16", 1, 32, 128)
    by = {way.name: way.score_bytes(point) for way in attention_ways.ways()}
    assert by[NAIVE] == 2 * point.score_bytes
    assert by["sdpa math"] == 4 * point.score_bytes  # in float32
    assert by["sdpa flash"] == by[TRITON] == 0
    assert math.prod(point.shape) == 32 * 1024 * 128


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    from probe.machine import environment

    context = Context(environment.cuda_device(0), 8.0, index=0)
    found = list(attention.run(context))
    by = rows(found)

    assert (NAIVE, FORWARD, 1024) in by, context.warnings
    assert (TRITON, BOTH, 1024) in by, context.warnings
    assert not any("wrong-result" in m.flags for m in found), context.warnings
    proof = by[TRITON, FORWARD, 1024].proof
    assert proof is not None
    assert proof["local_bytes"] == 0
    assert by[NAIVE, FORWARD, 4096].params["peak_bytes"] > by["sdpa flash", FORWARD, 4096].params["peak_bytes"]
