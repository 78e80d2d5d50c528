"""Do ranks decide alike, are results checked, and is the line the data's?"""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.bus_bandwidth import bus_factor
from probe.errors import UnavailableError
from probe.launchers import LaunchedRank, launched_rank
from probe.machine.device import Device
from probe.microbench.collectives import collectives, operations
from probe.microbench.collectives.alpha_beta import longest_line
from probe.microbench.collectives.operations import OPERATIONS, Buffers
from probe.microbench.collectives.rank_processes import RankFailed
from probe.microbench.collectives.ranks import buffers_of
from probe.microbench.collectives.sweep import (
    LEAST_ROUNDS,
    Group,
    Message,
    Note,
    Plan,
    Point,
    expected_s,
    ladder,
    sweep,
)
from probe.microbench.suite import Context

CPU = Device("cpu", "x", cores=2)
GROUP = Group(2, 1, "gloo")
ALPHA_S, BYTES_PER_S = 5e-5, 1e9


# ---- bandwidths and lines


def test_bus_factors_are_nccl_tests() -> None:
    by_hand = {"all_reduce": 1.5, "all_gather": 0.75, "reduce_scatter": 0.75, "all_to_all": 0.75}

    for name in OPERATIONS:
        assert bus_factor(name, 4) == by_hand.get(name, 1.0)
    assert bus_factor("barrier", 4) is None
    assert bus_factor("all_reduce", None) is None


@given(alpha=st.floats(1e-6, 1e-2), rate=st.floats(1e6, 1e12))
def test_a_line_is_found_again(alpha: float, rate: float) -> None:
    sizes = [4**k for k in range(2, 22)]
    line = longest_line(sizes, [alpha + size / rate for size in sizes])

    if line is None:  # the bandwidth is so high that no size here shows it
        assert sizes[-1] / rate < alpha * 1.0001
    else:
        assert line.alpha_s == pytest.approx(alpha, rel=1e-6)
        assert line.beta_bytes_per_s == pytest.approx(rate, rel=1e-6)
        assert line.sizes == len(sizes)


def test_a_line_ends_where_the_bandwidth_changes() -> None:
    sizes = [4**k for k in range(2, 15)]
    seconds = [ALPHA_S + size / (BYTES_PER_S if size <= 4**11 else BYTES_PER_S / 20) for size in sizes]
    line = longest_line(sizes, seconds)

    assert line is not None
    assert sizes[line.sizes - 1] == 4**11
    assert line.alpha_s == pytest.approx(ALPHA_S)


@pytest.mark.parametrize(
    "seconds",
    [
        [1e-4, 9e-4, 1e-4, 9e-4, 1e-4, 9e-4, 1e-4],  # no line
        [1e-4] * 7,  # never a transfer to be seen
        [4e-4, 3e-4, 2e-4, 1e-4, 1e-4, 1e-4, 1e-4],  # faster with size
    ],
)
def test_what_no_line_describes_gets_none(seconds: list[float]) -> None:
    assert longest_line([8 * 4**k for k in range(7)], seconds) is None


def test_three_sizes_are_no_evidence() -> None:
    sizes = [8, 1 << 20, 1 << 30]

    assert longest_line(sizes, [ALPHA_S + size / BYTES_PER_S for size in sizes]) is None


# ---- what is sent and what must come


@given(ranks=st.integers(1, 600), coarse=st.booleans())
def test_sizes_ascend_and_divide_among_the_ranks(ranks: int, coarse: bool) -> None:
    sizes = ladder(ranks, coarse=coarse)

    assert list(sizes) == sorted(set(sizes))
    assert all(size % (4 * ranks) == 0 and size > 0 for size in sizes)


def test_two_ranks_exchange_8_bytes_to_1_gib() -> None:
    assert ladder(2, coarse=False)[0] == 8
    assert ladder(2, coarse=False)[-1] == 1 << 30


def _outputs(name: str, inputs: list[Any]) -> list[Any]:
    """Each rank's output by the operation's definition, in numpy."""
    ranks, part = len(inputs), len(inputs[0]) // len(inputs)
    parts = [slice(rank * part, (rank + 1) * part) for rank in range(ranks)]
    total = np.sum(inputs, axis=0)
    outputs: dict[str, list[Any]] = {
        "all_reduce": [total] * ranks,
        "all_gather": [np.concatenate([given[:part] for given in inputs])] * ranks,
        "reduce_scatter": [total[own] for own in parts],
        "broadcast": [inputs[0]] * ranks,
        "all_to_all": [np.concatenate([given[own] for given in inputs]) for own in parts],
        "send_recv": [inputs[rank - 1] for rank in range(ranks)],
    }
    return outputs[name]


def _buffers(rank: int, ranks: int, elements: int) -> Buffers:
    import torch

    return Buffers(rank, ranks, torch.zeros(elements), torch.full((elements,), operations.UNWRITTEN))


def _all_ranks(name: str, ranks: int, elements: int) -> list[Buffers]:
    """Every rank's buffers after the operation, done in numpy."""
    import torch

    group = [_buffers(rank, ranks, elements) for rank in range(ranks)]
    inputs = []
    for buffers in group:
        content = operations.written(name, buffers)
        content.write()
        filled = np.zeros(elements, np.float32)
        filled[: content.tensor.numel()] = content.tensor.numpy()
        inputs.append(filled)
    for buffers, output in zip(group, _outputs(name, inputs), strict=True):
        buffers.target[: len(output)] = torch.from_numpy(output)
    return group


def _right(name: str, buffers: Buffers) -> bool:
    return all(content.is_there() for content in operations.expected(name, buffers))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("ranks", "elements"), [(2, 2), (3, 3), (2, 1 << 10), (3, 3 << 16), (2, operations.BLOCK * 3)])
def test_expected_outputs_are_the_definitions(name: str, ranks: int, elements: int) -> None:
    assert all(_right(name, buffers) for buffers in _all_ranks(name, ranks, elements))


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_wrong_element_or_exchanged_parts_show(name: str) -> None:
    last = 0 if name == "reduce_scatter" else 1  # its output is the first part of the target
    for buffers in _all_ranks(name, 2, 1 << 18):
        right = buffers.target.clone()
        buffers.target[last * buffers.part + buffers.part - 1] += 1
        assert not _right(name, buffers)
        buffers.target.copy_(right.roll(buffers.part))
        assert not _right(name, buffers)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_does_nothing_is_wrong(name: str) -> None:
    wrong = [not operations.runs_right(name, _buffers(rank, 2, 1 << 10), lambda: None) for rank in range(2)]

    assert wrong == [name != "broadcast", True]  # the root of a broadcast has its output before


# ---- the sweep, on a fake clock


@dataclass
class FakeClock:
    """Time that passes only when an operation takes some."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeOperation:
    """Takes alpha + size / bandwidth."""

    peers: "FakePeers"
    name: str
    size: int

    def runs_right(self) -> bool:
        if self.name in self.peers.refused:
            raise RuntimeError(f"no {self.name} here\nC++ stack")
        self.window(1)
        return self.name not in self.peers.wrong

    def window(self, calls: int) -> float:
        seconds = calls * self.peers.slowness * (ALPHA_S + self.size / BYTES_PER_S)
        self.peers.clock.now += seconds
        return seconds


@dataclass
class FakePeers:
    """A rank alone, or one of several that meet in `exchange`."""

    group: Group = GROUP
    rank: int = 0
    memory_bytes: float = math.inf
    breaks_at: float = math.inf
    slowness: float = 1.0
    refused: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    clock: FakeClock = field(default_factory=FakeClock)
    exchange: "Exchange | None" = None

    def worst(self, values: Sequence[float]) -> list[float]:
        return list(values) if self.exchange is None else self.exchange.worst(self.rank, values)

    def most_bytes(self) -> float:
        return self.memory_bytes

    def prepare(self, names: Sequence[str], size_bytes: int) -> Mapping[str, FakeOperation]:
        if size_bytes >= self.breaks_at:
            raise MemoryError
        return {name: FakeOperation(self, name, size_bytes) for name in names}


class Exchange:
    """Where threads that play ranks agree on the worst of their values."""

    def __init__(self, ranks: int) -> None:
        self._values: list[list[float]] = [[] for _ in range(ranks)]
        self._barrier = threading.Barrier(ranks, timeout=20)

    def worst(self, rank: int, values: Sequence[float]) -> list[float]:
        self._values[rank] = list(values)
        self._barrier.wait()
        agreed = [max(column) for column in zip(*self._values, strict=True)]
        self._barrier.wait()
        return agreed


def _sweep(peers: FakePeers, budget_s: float = 1e3, names: tuple[str, ...] = OPERATIONS) -> list[Message]:
    return list(sweep(peers, Plan(names, False, budget_s), peers.clock))


def _points(messages: Sequence[Message]) -> list[Point]:
    return [message for message in messages if isinstance(message, Point)]


def _notes(messages: Sequence[Message]) -> list[str]:
    return [message.text for message in messages if isinstance(message, Note)]


def test_every_operation_is_timed_at_every_size() -> None:
    messages = _sweep(FakePeers())
    points = _points(messages)

    assert {(point.operation, point.size_bytes) for point in points} == {
        (name, size) for name in OPERATIONS for size in ladder(2, coarse=False)
    }
    assert not _notes(messages)
    for point in points:
        assert point.right and len(point.seconds) >= LEAST_ROUNDS
        assert point.seconds == pytest.approx([ALPHA_S + point.size_bytes / BYTES_PER_S] * len(point.seconds))


def test_sizes_that_memory_has_no_room_for_are_left_out_and_said() -> None:
    for peers in (FakePeers(memory_bytes=1 << 21), FakePeers(breaks_at=(1 << 21) + 1)):
        messages = _sweep(peers)

        assert max(point.size_bytes for point in _points(messages)) == 1 << 21
        (note,) = _notes(messages)
        assert note.startswith("sizes from 8 MiB up are left out") and "memory" in note


def test_torch_without_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        buffers_of(0, 2, 1 << 60, "cpu")


def test_a_sweep_keeps_to_its_time_and_says_what_is_missing() -> None:
    peers = FakePeers()
    messages = _sweep(peers, budget_s=2.0)

    assert peers.clock.now < 2.5
    assert max(point.size_bytes for point in _points(messages)) >= 1 << 21
    assert max(point.size_bytes for point in _points(messages)) < 1 << 30
    assert "of the suite's time are left" in _notes(messages)[-1]


def test_what_the_next_size_takes_follows_the_last_two() -> None:
    assert expected_s([], 8) == 0
    assert expected_s([(8, 1e-4)], 4096) == 1e-4
    assert expected_s([(8, 1.0), (1008, 2.0), (2008, 4.0)], 4008) == pytest.approx(8.0)
    assert expected_s([(8, 2e-4), (32, 1e-4)], 128) == 1e-4  # noise is no reason to expect less


def test_a_short_time_ends_a_sweep_at_large_sizes_not_at_small_ones() -> None:
    peers = FakePeers()
    points = _points(list(sweep(peers, Plan(("all_reduce",), True, 0.3), peers.clock)))

    assert {point.size_bytes for point in points} == set(ladder(2, coarse=True))


def test_a_wrong_result_is_kept_and_marked() -> None:
    messages = _sweep(FakePeers(wrong=("all_gather",)))

    assert {point.operation for point in _points(messages) if not point.right} == {"all_gather"}
    assert all("all_gather" in note and "wrong result" in note for note in _notes(messages))
    assert len(_notes(messages)) == len(ladder(2, coarse=False))


def test_an_operation_the_backend_lacks_is_left_out_once() -> None:
    messages = _sweep(FakePeers(refused=("reduce_scatter",)))

    assert {point.operation for point in _points(messages)} == set(OPERATIONS) - {"reduce_scatter"}
    assert _notes(messages) == ["reduce_scatter is left out from 8 B up: no reduce_scatter here"]


def test_ranks_of_different_speed_memory_and_luck_decide_alike() -> None:
    exchange = Exchange(3)
    group = Group(3, 1, "gloo")
    peers = [
        FakePeers(group, 0, exchange=exchange),
        FakePeers(group, 1, slowness=3.0, wrong=("broadcast",), exchange=exchange),
        FakePeers(group, 2, memory_bytes=9e7, refused=("all_to_all",), exchange=exchange),
    ]
    said: list[list[Message]] = [[], [], []]

    def play(peer: FakePeers) -> None:
        said[peer.rank] = _sweep(peer, 5.0)

    threads = [threading.Thread(target=play, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert _points(said[0]) == _points(said[1]) == _points(said[2]) != []
    point = _points(said[0])[0]
    assert min(point.seconds) == pytest.approx(3 * (ALPHA_S + point.size_bytes / BYTES_PER_S))  # the slowest rank's
    assert {p.operation for p in _points(said[0]) if not p.right} == {"broadcast"}
    assert "all_to_all" not in {p.operation for p in _points(said[0])}


# ---- messages as measurements


def _context(**more: Any) -> Context:
    return Context(CPU, 1.5, quick=True, **more)


def _said(names: tuple[str, ...] = ("all_reduce",), group: Group = GROUP) -> Iterator[Message]:
    yield from sweep(peers := FakePeers(group), Plan(names, False, 1e3), peers.clock)


def test_busbw_and_algbw_follow_from_time_and_size() -> None:
    group = Group(4, 2, "gloo")
    found = list(collectives.measurements(_context(), _said(group=group)))
    largest = max((m for m in found if m.metric == "busbw"), key=lambda m: m.params["size_bytes"])
    seconds = ALPHA_S + (1 << 30) / BYTES_PER_S

    assert largest.params["time_s"]["min"] == pytest.approx(seconds)
    assert largest.params["algbw_bytes_per_s"] == pytest.approx((1 << 30) / seconds)
    assert largest.value == pytest.approx(1.5 * (1 << 30) / seconds)
    assert largest.unit == "B/s" and largest.name == "all_reduce" and largest.flags == ()
    assert (largest.params["ranks"], largest.params["nodes"], largest.params["backend"]) == (4, 2, "gloo")


def test_each_operation_has_one_latency() -> None:
    found = [m for m in collectives.measurements(_context(), _said(OPERATIONS)) if m.metric == "latency"]

    assert [m.name for m in found] == list(OPERATIONS)
    for measurement in found:
        assert measurement.value == pytest.approx(ALPHA_S)
        assert measurement.median == pytest.approx(ALPHA_S)
        assert measurement.params["beta_bytes_per_s"] == pytest.approx(BYTES_PER_S)
        assert measurement.params["fit"]["worst_error_fraction"] < 1e-6


def test_no_latency_is_made_up() -> None:
    context = _context()
    messages = [GROUP, *(Point("broadcast", 8 * 4**k, (1e-3, 1e-3 * (1 + k % 2 * 9)), True) for k in range(3))]
    found = list(collectives.measurements(context, iter(messages)))

    assert {m.metric for m in found} == {"busbw"}
    assert "no latency is given for broadcast" in context.warnings[0]


def test_a_wrong_result_is_flagged_and_not_fitted() -> None:
    context = _context()
    points = [Point("broadcast", 8 * 4**k, (1e-4,) * 6, right=False) for k in range(9)]
    found = list(collectives.measurements(context, iter([GROUP, *points])))

    assert all("wrong-result" in m.flags for m in found)
    assert {m.metric for m in found} == {"busbw"}


def test_what_was_measured_before_a_failure_is_kept() -> None:
    def broken(points: int) -> Iterator[Message]:
        yield GROUP
        yield from (Point("broadcast", 8 << k, (1e-4,) * 6, right=True) for k in range(points))
        raise RankFailed("rank 1 was ended by signal 9")

    context = _context()

    assert len(list(collectives.measurements(context, broken(2)))) == 2
    assert "rank 1 was ended by signal 9; what was measured until then is kept" in context.warnings[0]
    with pytest.raises(UnavailableError, match="rank 1 was ended by signal 9"):
        list(collectives.measurements(context, broken(0)))


def test_one_cpu_is_told_apart_from_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "working_cpus", lambda: (0,))
    with pytest.raises(UnavailableError, match="one CPU"):
        collectives.ranks_of(_context())
    monkeypatch.setattr(collectives, "working_cpus", lambda: tuple(range(64)))
    assert collectives.ranks_of(_context()) == collectives.MOST_CPU_RANKS


# ---- launchers


def test_launchers_say_which_rank_this_is() -> None:
    slurm = {
        "SLURM_PROCID": "5",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    }
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}

    assert launched_rank({}) == LaunchedRank()
    assert launched_rank(torchrun) == LaunchedRank(3, 4, 1, 2)
    assert launched_rank(slurm) == LaunchedRank(5, 8, 1, 0)
    assert launched_rank(torchrun | slurm) == LaunchedRank(3, 4, 1, 2)
    assert launched_rank({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == LaunchedRank()  # sbatch's script
    assert launched_rank({"RANK": "4", "WORLD_SIZE": "4"}) == LaunchedRank()


def test_launched_ranks_must_know_where_to_meet() -> None:
    place = LaunchedRank(1, 4)

    assert collectives.meeting_of(place, {"MASTER_ADDR": "node1", "MASTER_PORT": "1"}) == "env://"
    assert collectives.meeting_of(place, {"MASTER_ADDR": "node1"}) == "tcp://node1:29500"
    with pytest.raises(UnavailableError, match="export MASTER_ADDR"):
        collectives.meeting_of(place, {})
