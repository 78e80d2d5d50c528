"""Are rates, pace and crossover of attention right, on a machine whose speed is known, and do both compute the same?"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils import flop_counter

from probe.errors import UnavailableError
from probe.machine.device import Cache, Device
from probe.microbench import attention, memory
from probe.microbench.attention import BOTH, FORWARD, NAIVE, SDPA, Point
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

MIB = memory.MIB
L3_BYTES = 4 * MIB  # what the scores of sequence 512 fit, and those of 1024 do not
DEVICE = Device("cpu", "x", cores=2, caches=(Cache(3, L3_BYTES, 64, 2),))
SLOW, FAST = 10e9, 40e9  # FLOP/s


class Machine:
    """A fake clock and timer: a call takes its count at FAST, naive ones whose scores exceed the cache at SLOW."""

    def __init__(self, speed: float = 1.0) -> None:
        self.now, self.speed = 0.0, speed
        self.asked: list[tuple[str, Point]] = []

    def clock(self) -> float:
        return self.now

    def calls(self, point: Point, where: str) -> dict[str, Any]:
        return {name: _Call(name, point) for name in (NAIVE, SDPA)}

    def window(self, call: Callable[[], object], calls: int) -> float:
        assert isinstance(call, _Call)
        self.asked.append((call.name, call.point))
        beyond = call.name == NAIVE and call.point.score_bytes > L3_BYTES
        seconds = calls * call.point.flops / (SLOW if beyond else FAST) / self.speed
        self.now += seconds
        return seconds


@dataclasses.dataclass
class _Call:
    name: str
    point: Point

    def __call__(self) -> tuple[torch.Tensor]:
        return (torch.ones(1),)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(attention, "calls", machine.calls)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    return machine


def _run(machine: Machine, budget_s: float = 300.0, device: Device = DEVICE, **more: Any) -> Any:
    context = Context(device, budget_s, clock=machine.clock, **more)
    return list(attention.run(context, machine)), context


def test_rates_are_those_of_the_machine(machine: Machine) -> None:
    found, context = _run(machine)
    rates = {
        (m.params["implementation"], m.params["direction"], m.params["sequence"]): m
        for m in found
        if m.metric == "flops_per_s"
    }

    assert len(rates) == 2 * 2 * len(attention.SEQUENCES)
    assert rates[SDPA, BOTH, 4096].value == pytest.approx(FAST)
    assert rates[NAIVE, FORWARD, 512].value == pytest.approx(FAST)
    assert rates[NAIVE, FORWARD, 1024].value == pytest.approx(SLOW)
    params = rates[NAIVE, BOTH, 1024].params
    assert params["time_s"]["min"] == pytest.approx(14 * 4 * 1024**2 * 64 / SLOW)
    assert params["score_bytes"] == 4 * 1024**2 * 4
    assert context.warnings == []


def test_the_crossover_lies_where_the_scores_leave_the_cache(machine: Machine) -> None:
    found, _ = _run(machine)
    crossovers = {m.params["direction"]: m for m in found if m.metric == "crossover"}

    assert set(crossovers) == {FORWARD, BOTH}
    for m in crossovers.values():
        assert (m.value, m.interval, m.unit) == (1024.0, (512.0, 1024.0), "tokens")
        assert m.params["speedup"] == pytest.approx(FAST / SLOW)
        assert m.params["last_level_cache_bytes"] == L3_BYTES


def test_without_a_crossover_the_reason_is_said(machine: Machine) -> None:
    large = dataclasses.replace(DEVICE, caches=(Cache(3, 1024 * MIB, 64, 2),))
    _, fits = _run(machine, device=large)
    _, unknown = _run(machine, device=dataclasses.replace(DEVICE, caches=()))
    small = dataclasses.replace(DEVICE, caches=(Cache(3, MIB // 8, 64, 2),))
    _, slower = _run(machine, 0.7, device=small)  # all fit the L3 of the machine, so none is faster

    assert "fit the 1 GiB of the last-level caches" in fits.warnings[0]
    assert "reports no caches" in unknown.warnings[0]
    assert "not faster" in slower.warnings[-1]


@pytest.mark.parametrize(
    ("naive", "sdpa", "first"),
    [
        ([9, 9, 9], [9, 20, 20], 1),
        ([9, 9, 9], [20, 20, 20], 1),  # the first one's scores fit
        ([9, 9, 9], [20, 20, 9], None),  # not to the end
        ([9, 9, 9], [9, 9, 20], 2),
        ([9, 9, 9], [9, 9, 9.5], None),  # within the intervals
    ],
)
def test_a_crossover_holds_for_all_longer_sequences(naive: list[float], sdpa: list[float], first: int | None) -> None:
    pairs = [(_rate(slow, size), _rate(fast, size)) for slow, fast, size in zip(naive, sdpa, (1, 8, 16), strict=True)]

    assert attention.crossover_index(pairs, 4) == first
    assert attention.crossover_index(pairs, 0) is None


def _rate(value: float, score_bytes: int) -> Measurement:
    params = {"score_bytes": score_bytes}
    interval = (value * 0.9, value * 1.1)
    return Measurement("attention", "x", "flops_per_s", "FLOP/s", value, value, value, interval, 8, params)


def test_what_takes_too_long_is_left_out_with_a_warning(machine: Machine) -> None:
    found, context = _run(machine, 30.0)

    assert max(m.params["sequence"] for m in found if m.metric == "flops_per_s") == 2048
    assert "4096 forward+backward float32 left out" in context.warnings[0]
    assert machine.now < 1.2 * 30.0
    assert min(m.n for m in found) >= attention.LEAST_WINDOWS


def test_a_slow_machine_still_measures_the_first_point_and_quick_says_nothing_of_time(machine: Machine) -> None:
    machine.speed = 1e-3
    found, context = _run(machine, 0.5, quick=True)

    assert [m.name for m in found] == ["naive forward", "sdpa forward"]
    assert all("left out" not in warning for warning in context.warnings)


def test_what_does_not_fit_in_memory_is_left_out(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 600 * MIB)
    found, context = _run(machine)

    longest = {m.params["direction"]: m.params["sequence"] for m in found if m.metric == "flops_per_s"}
    assert longest == {FORWARD: 2048, BOTH: 1024}
    assert "too little memory is free" in context.warnings[0]
    monkeypatch.setattr(memory, "free_bytes", lambda: MIB // 8)
    with pytest.raises(UnavailableError, match="too little memory"):
        _run(machine)


def test_bfloat16_only_where_there_are_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    fast = dataclasses.replace(DEVICE, isa=("avx512_bf16",))

    assert {p.dtype for p in attention.points(Context(DEVICE, 1.0))} == {"float32"}
    assert {p.dtype for p in attention.points(Context(fast, 1.0))} == {"float32", "bfloat16"}


def test_different_results_are_flagged(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Call, "__call__", lambda call: (torch.full((1,), 1.0 if call.name == NAIVE else 1.01),))
    found, context = _run(machine, 1.0)

    assert all("wrong-result" in m.flags for m in found if m.metric == "flops_per_s")
    assert "differ by 0.01" in context.warnings[0]


@pytest.mark.parametrize("direction", [FORWARD, BOTH])
def test_both_implementations_compute_attention(direction: str) -> None:
    point = Point(96, direction, "float32")
    calls = attention.calls(point, "cpu")
    results = {name: call() for name, call in calls.items()}

    assert attention.largest_difference(results[NAIVE], results[SDPA]) < attention.TOLERANCE["float32"]
    for name, found in results.items():
        for one, other in zip(found, _reference(point), strict=False):
            torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-4, msg=name)
    assert len(results[NAIVE]) == (1 if direction == FORWARD else 4)


def _reference(point: Point) -> Sequence[torch.Tensor]:
    """Output and gradients in float64, by sums written out."""
    generator = torch.Generator().manual_seed(attention.SEED)
    q, k, v, upstream = (torch.randn(point.shape, generator=generator).double() for _ in range(4))
    weights = torch.exp(torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1]))
    weights /= weights.sum(-1, keepdim=True)
    inner = torch.einsum("bhid,bhjd->bhij", upstream, v)
    scores = weights * (inner - (inner * weights).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    return (
        torch.einsum("bhij,bhjd->bhid", weights, v),
        torch.einsum("bhij,bhjd->bhid", scores, k),
        torch.einsum("bhij,bhid->bhjd", scores, q),
        torch.einsum("bhij,bhid->bhjd", weights, upstream),
    )


def test_the_count_is_torchs() -> None:
    point, both = Point(64, FORWARD, "float32"), Point(64, BOTH, "float32")
    forward = flop_counter.sdpa_flop_count(point.shape, point.shape, point.shape)
    backward = flop_counter.sdpa_backward_flop_count(point.shape, point.shape, point.shape, point.shape)

    assert point.flops == forward
    assert both.flops == forward + backward == 3.5 * forward
    assert _counted(point) == forward
    assert _counted(both) == 3 * forward  # naive keeps its scores: less than it is credited with


def _counted(point: Point) -> int:
    """What torch counts while naive runs."""
    with flop_counter.FlopCounterMode(display=False) as counter:
        attention.calls(point, "cpu")[NAIVE]()
    return counter.get_total_flops()
