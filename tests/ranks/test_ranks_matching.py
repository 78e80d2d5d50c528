"""Collectives of one rank's trace, the same ones on other ranks, and their bandwidths."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_builders import simulate, summaries, summary, trace
from real_traces import trace_in

from probe.analyzers.ranks.arrivals import arrive
from probe.analyzers.ranks.bandwidth import collective_rows
from probe.analyzers.ranks.clocks import compare_clocks
from probe.analyzers.ranks.kinds import (
    KINDS,
    is_collective_kernel,
    kind_of_call,
    kind_of_kernel,
    kind_of_operator,
)
from probe.analyzers.ranks.matching import match
from probe.analyzers.ranks.summary import summarise
from probe.bus_bandwidth import bus_factor
from probe.results.multirank import CollectiveRow, Group, RankSummary
from probe.trace import CollectiveCall

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
OLD_REDUCE = "ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)"
OLD = "ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)"


def call(kind: str = "allreduce", n: int | None = 100, out: int | None = 100, **more: object) -> CollectiveCall:
    known = {"dtype": "Float", "group": "0", "group_size": 4, "group_ranks": (0, 1, 2, 3), **more}
    return CollectiveCall(kind=kind, in_elements=n, out_elements=out, **known)  # type: ignore[arg-type]


def kinds(found: RankSummary) -> list[str]:
    return [KINDS[number] for number in found.collectives.kind]


def rows(found: list[RankSummary]) -> tuple[CollectiveRow, ...]:
    ranks = tuple(s.rank for s in found)
    meetings = match(found)
    return collective_rows(meetings, arrive(meetings, compare_clocks(meetings, ranks, (1,) * len(ranks)), ranks))


# Names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("allreduce", "all_reduce"), ("allreduce_coalesced", "all_reduce"), ("_allgather_base", "all_gather"),
        ("allgather_into_tensor_coalesced", "all_gather"), ("_reduce_scatter_base", "reduce_scatter"),
        ("reduce_scatter_tensor_coalesced", "reduce_scatter"), ("all_to_allv", "all_to_all"),
        ("alltoall_base_", "all_to_all"), ("broadcast", "broadcast"), ("_broadcast_oop", "broadcast"),
        ("_reduce_oop", "reduce"), ("reduce", "reduce"), ("gather", "gather"), ("scatter", "scatter"),
        ("barrier", "barrier"), ("send", "send_recv"), ("recvAnySource", "send_recv"), ("init", "unknown"),
        ("wait", "unknown"), ("gloo:all_reduce", "all_reduce"), ("c10d::allreduce_", "all_reduce"),
    ],
)  # fmt: skip
def test_kinds_of_backends_names(name: str, kind: str) -> None:
    assert kind_of_call(name) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (ALL_REDUCE, "all_reduce"), (OLD, "send_recv"), (OLD_REDUCE, "all_reduce"),
        ("ncclKernel_Broadcast_RING_LL_Sum_int8_t(ncclDevComm*)", "broadcast"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(x)", "reduce_scatter"),
        ("ncclDevKernel_Generic(ncclDevKernelArgsStorage<4096ul>)", "unknown"),
        ("ncclSymkDevKernel_AllGather_STMC(x)", "all_gather"),
    ],
)  # fmt: skip
def test_kinds_of_kernels_names(name: str, kind: str) -> None:
    assert is_collective_kernel(name) and kind_of_kernel(name) == kind


def test_operators_that_issue_collectives() -> None:
    assert kind_of_operator("c10d::alltoall_base_") == "all_to_all"
    assert kind_of_operator("_c10d_functional::reduce_scatter_tensor") == "reduce_scatter"
    assert kind_of_operator("aten::scatter") is None and kind_of_operator("record_param_comms") is None
    assert not is_collective_kernel("void at::native::scatter_kernel<float>()")


# One rank's trace


def test_a_summary_is_on_the_wall_clock_and_survives_pickling() -> None:
    told = trace(
        kernels=[("gemm", 0, 40, 7), (ALL_REDUCE, 30, 80, 20)], collectives=[(0, -1, 1, 12)], calls=[call()],
        steps=[(3, 0, 100)], start_unix_ns=10**18, launches=[(1, 5, 6)],
    )  # fmt: skip
    found = pickle.loads(pickle.dumps(summarise(told, 2)))
    table = found.collectives
    assert (found.rank, table.start_ns.tolist(), table.end_ns.tolist()) == (2, [10**18 + 30], [10**18 + 80])
    assert (table.in_bytes[0], table.out_bytes[0], table.sequence[0], table.step[0]) == (400, 400, 12, 3)
    assert found.groups == (Group("0", (0, 1, 2, 3), 4),) and kinds(found) == ["all_reduce"]
    steps = found.steps
    assert (steps.number[0], steps.start_ns[0], steps.end_ns[0]) == (3, 10**18, 10**18 + 100)
    assert (steps.compute_ns[0], steps.communication_ns[0]) == (40, 50)
    assert (steps.exposed_communication_ns[0], steps.idle_ns[0]) == (40, 20)


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.booleans()), max_size=12)


@settings(max_examples=60)
@given(spans, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=4))
def test_parts_of_a_step_are_those_counted_nanosecond_by_nanosecond(
    work: list[tuple[int, int, bool]], moved: list[tuple[int, int]]
) -> None:
    told = trace(
        kernels=[(ALL_REDUCE if talks else "gemm", at, at + n, 7) for at, n, talks in work],
        copies=[(at, at + n) for at, n in moved], steps=[(0, 0, 40), (1, 40, 100)],
    )  # fmt: skip
    if not told.on_device:
        return
    found = summarise(told, 0).steps
    other = {t for at, n, talks in work if not talks for t in range(at, at + n)}
    other |= {t for at, n in moved for t in range(at, at + n)}
    talking = {t for at, n, talks in work if talks for t in range(at, at + n)}
    for row, step in enumerate((range(40), range(40, 100))):
        inside = set(step)
        assert found.compute_ns[row] == len(other & inside)
        assert found.communication_ns[row] == len(talking & inside)
        assert found.exposed_communication_ns[row] == len((talking - other) & inside)
        assert found.idle_ns[row] == len(inside - talking - other)


def test_old_traces_say_the_kind_by_the_operator_and_the_order_by_the_stream() -> None:
    told = trace(
        kernels=[(OLD, 10, 20, 84), (OLD_REDUCE, 30, 40, 84), (OLD, 50, 60, 85)],
        ops=[("c10d::alltoall_base_", 0, 1, 9, -1), ("record_param_comms", 0, 2, 8, 0)], kernel_ops=[1, -1, -1],
    )  # fmt: skip
    found = summarise(told, 0)
    assert kinds(found) == ["all_to_all", "all_reduce", "send_recv"]
    assert {(g.name, g.stream) for g in found.groups} == {(None, 84), (None, 85)}
    assert found.collectives.in_bytes.tolist() == [-1, -1, -1] and not found.steps_marked


def test_where_no_operator_says_the_kind_the_backends_mark_around_the_launch_does() -> None:
    told = trace(
        kernels=[(OLD, 100, 120, 84), (OLD, 130, 150, 84)], launches=[(0, 12, 14), (1, 40, 42)],
        marks=[("nccl:all_to_all", 10, 20), ("ProfilerStep#1", 0, 90)],
    )  # fmt: skip
    assert kinds(summarise(told, 0)) == ["all_to_all", "send_recv"]


def test_a_description_on_an_operator_belongs_to_the_kernel_that_it_launched() -> None:
    told = trace(
        kernels=[("ncclDevKernel_Generic(x)", 10, 20, 84)], ops=[("record_param_comms", 0, 1, 9, -1)], kernel_ops=[0],
        calls=[call("reduce_scatter_tensor", 400, 100), call()], collectives=[(0, 0, -1, 5), (1, -1, -1, 6)],
    )  # fmt: skip
    found = summarise(told, 0)
    assert kinds(found) == ["reduce_scatter"] and found.collectives.sequence.tolist() == [5]
    assert found.collectives.in_bytes.tolist() == [1600] and found.untimed == 1


def test_calls_that_share_a_kernel_are_one_collective() -> None:
    told = trace(
        kernels=[(ALL_REDUCE, 10, 20, 84)], calls=[call(n=10, out=10), call(n=20, out=None)],
        collectives=[(0, -1, 0, 5), (1, -1, 0, 5)],
    )  # fmt: skip
    table = summarise(told, 0).collectives
    assert table.in_bytes.tolist() == [120] and table.out_bytes.tolist() == [-1]


def test_a_collective_belongs_to_the_step_that_issued_it() -> None:
    told = trace(
        kernels=[(ALL_REDUCE, 10, 20, 84), (ALL_REDUCE, 110, 150, 84)], launches=[(1, 90, 91)],
        steps=[(7, 0, 100), (8, 100, 200)],
    )  # fmt: skip
    assert summarise(told, 0).collectives.step.tolist() == [-1, 7]  # the first was launched before the recording


def test_gloo_is_timed_by_its_own_threads() -> None:
    told = trace(
        ops=[("aten::mm", 0, 0, 30, -1), ("c10d::allreduce_", 0, 30, 35, -1), ("aten::add", 0, 50, 60, -1)],
        marks=[("gloo:all_reduce", 40, 110)], steps=[(0, 0, 100), (1, 100, 120)], kind="cpu",
    )  # fmt: skip
    found = summarise(told, 1)
    table = found.collectives
    assert kinds(found) == ["all_reduce"] and (table.start_ns[0], table.end_ns[0], table.step[0]) == (40, 110, 0)
    assert found.steps.communication_ns.tolist() == [60, 10]
    assert found.steps.exposed_communication_ns.tolist() == [50, 10] and found.steps.compute_ns.tolist() == [40, 0]


def test_without_kernels_the_operators_are_timed() -> None:
    told = trace(ops=[("record_param_comms", 0, 5, 25, -1)], calls=[call()], collectives=[(0, 0, -1, 3)], kind="cpu")
    table = summarise(told, 0).collectives
    assert (table.start_ns[0], table.end_ns[0], table.sequence[0]) == (5, 25, 3)


def test_a_trace_without_anything_has_no_collectives() -> None:
    found = summarise(trace(), 0)
    assert not len(found.collectives) and found.groups == ()


def test_sends_and_receives_are_pairs() -> None:
    calls = [call("send", 10, None, peer=3), call("recv", None, 10, peer=2)]
    told = trace(kernels=[(OLD, 1, 2, 9), (OLD, 3, 4, 9)], calls=calls, collectives=[(0, -1, 0, 1), (1, -1, 1, 2)])
    assert [g.pair for g in summarise(told, 0).groups] == [(0, 3), (2, 0)]


# The same collective on other ranks


@settings(max_examples=60)
@given(st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=2, max_size=4))
def test_sequence_numbers_find_exactly_the_common_collectives(recorded: list[set[int]]) -> None:
    group = Group("0", None, 8)
    found = match(
        [summary(r, 8, [100 * s for s in sorted(own)], [100 * s + 50 for s in sorted(own)], sequence=sorted(own),
                 group=group) for r, own in enumerate(recorded)]
    )  # fmt: skip
    expected = {s: frozenset(r for r, own in enumerate(recorded) if s in own) for s in set().union(*recorded)}
    met: dict[int, set[int]] = {}
    for meeting, rank in zip(found.rows.meeting.tolist(), found.rows.rank.tolist(), strict=True):
        met.setdefault(meeting, set()).add(rank)
    assert sorted(map(sorted, met.values())) == sorted(map(sorted, expected.values()))
    assert found.unmatched == sum(len(ranks) == 1 for ranks in expected.values())
    for first, size in zip(found.first, found.size, strict=True):
        assert len(set(found.rows.start_ns[first : first + size].tolist())) == 1  # the same sequence number


def matched(found: list[RankSummary]) -> list[list[tuple[int, int]]]:
    """Rank and start of every collective that was found on two ranks."""
    meetings = match(found)
    pairs = list(zip(meetings.rows.rank.tolist(), (meetings.rows.start_ns + meetings.base_ns).tolist(), strict=True))
    spans = zip(meetings.first.tolist(), meetings.size.tolist(), strict=True)
    return [pairs[first : first + size] for first, size in spans if size > 1]


def test_a_recording_that_begins_one_collective_earlier_is_aligned_by_steps() -> None:
    early = summary(0, 2, [5, 10, 20, 30], [6, 11, 21, 31], step=[-1, 0, 0, 1])
    late = summary(1, 2, [110, 120, 130], [111, 121, 131], step=[0, 0, 1])
    assert matched([early, late]) == [[(0, 10), (1, 110)], [(0, 20), (1, 120)], [(0, 30), (1, 130)]]
    assert match([early, late]).why == ("1 of 7 because they were issued outside the marked steps",)


def test_where_two_ranks_counted_differently_nothing_is_guessed() -> None:
    some = [summary(0, 2, [10, 20, 30], [11, 21, 31], step=[0, 0, 1]), summary(1, 2, [10, 30], [11, 31], step=[0, 1])]
    assert matched(some) == [[(0, 30), (1, 30)]]
    found = match(some)
    assert found.unmatched == 3 and "different numbers" in found.why[0]
    unmarked = [summary(0, 2, [10, 20, 30], [11, 21, 31]), summary(1, 2, [10, 30], [11, 31])]
    assert matched(unmarked) == [] and match(unmarked).unmatched == 5


def test_the_majority_is_matched_without_the_rank_that_counted_differently() -> None:
    odd = [summary(r, 3, [10, 20][: 2 - (r == 1)], [11, 21][: 2 - (r == 1)]) for r in range(3)]
    assert matched(odd) == [[(0, 10), (2, 10)], [(0, 20), (2, 20)]]
    assert match(odd).unmatched == 1


def test_equal_counts_are_matched_in_order_and_by_kind() -> None:
    kinds_of = ["all_reduce", "broadcast", "all_reduce"]
    found = [summary(r, 2, [10 + r, 20, 30], [11 + r, 21, 31], kind=kinds_of) for r in range(2)]
    assert matched(found) == [[(0, 10), (1, 11)], [(0, 30), (1, 30)], [(0, 20), (1, 20)]]


def test_groups_of_one_name_and_different_ranks_are_different() -> None:
    groups = [Group("1", (0, 1), 2), Group("1", (2, 3), 2), Group("1", None, 2)]
    found = [summary(r, 4, [10], [20], group=groups[r // 2], sequence=[1]) for r in range(4)]
    assert sorted(matched(found)) == [[(0, 10), (1, 10)], [(2, 10), (3, 10)]]
    unsaid = [summary(r, 4, [10], [20], group=groups[2 * r], sequence=[1]) for r in range(2)]
    assert matched(unsaid) == [[(0, 10), (1, 10)]]  # a rank that lacks the members means the only ones known


def test_sends_without_a_peer_unknown_kinds_and_lone_ranks_are_not_matched() -> None:
    found = [summary(r, 2, [10, 20], [11, 21], kind=["send_recv", "unknown"]) for r in range(2)]
    assert matched(found) == [] and match(found).why == ("2 of 4 without a known peer",)
    pair = Group("0", None, 2, None, (0, 1))
    assert len(matched([summary(r, 2, [10], [11], kind="send_recv", group=pair) for r in range(2)])) == 1
    assert match([summary(0, 2, [10], [11])]).unmatched == 0  # its partner is not at hand


# Bandwidths


@pytest.mark.parametrize(
    ("kind", "factor"),
    [
        ("all_reduce", 1.75), ("all_gather", 0.875), ("reduce_scatter", 0.875), ("all_to_all", 0.875),
        ("gather", 0.875), ("broadcast", 1.0), ("reduce", 1.0), ("send_recv", 1.0), ("barrier", None),
    ],
)  # fmt: skip
def test_bus_factors_are_those_of_nccl_tests(kind: str, factor: float | None) -> None:
    assert bus_factor(kind, 8) == factor


@pytest.mark.parametrize(
    ("kind", "into", "out", "size"),
    [
        ("all_reduce", 800, 800, 800), ("all_gather", 100, 800, 800), ("all_gather", 100, -1, 800),
        ("reduce_scatter", 800, 100, 800), ("reduce_scatter", -1, 100, 800), ("all_to_all", 800, 800, 800),
        ("broadcast", 800, 800, 800), ("barrier", 4, 4, None), ("all_reduce", -1, -1, None),
    ],
)  # fmt: skip
def test_the_size_that_counts_is_the_whole_array(kind: str, into: int, out: int, size: int | None) -> None:
    found = []
    for rank in range(2):
        one = summary(rank, 8, [0, 1000], [100, 1100], kind=kind, group=Group("0", None, 8), sequence=[0, 1])
        one.collectives.in_bytes[:] = into
        one.collectives.out_bytes[:] = out
        found.append(one)
    (row,) = rows(found)
    assert row.message_bytes == size and row.n == 2 and row.present_ranks == 2
    assert row.algbw_bytes_per_s == (None if size is None else pytest.approx(size / 100e-9))


def test_a_collective_lasts_as_long_as_the_last_to_come_is_in_it() -> None:
    truth = simulate(0, ranks=8, node=2, collectives=50, jitter_ns=0.0, late={5: 3e5})
    (row,) = rows(summaries(truth))
    proper = (truth.ends[:, 0] - truth.starts.max(axis=1)) / 1e9  # all end at once
    assert row.duration_s == pytest.approx(np.median(proper), abs=3e-9)
    assert row.busbw_bytes_per_s == pytest.approx(4e6 / np.median(proper) * 2 * 7 / 8, rel=1e-4)
    assert row.busbw_interval_bytes_per_s is not None and row.busbw_interval_bytes_per_s[0] <= row.busbw_bytes_per_s
    spent = truth.ends - truth.starts
    assert row.imbalance == pytest.approx(np.median(spent.max(1) / spent.mean(1)), rel=1e-4)
    waits = truth.starts.max(axis=1, keepdims=True) - truth.starts
    assert row.wait_s == pytest.approx(waits.mean() / 1e9, rel=1e-3)
    assert row.notes == ()


def test_where_some_ranks_are_at_hand_together_those_collectives_count() -> None:
    """A rank alone measures its own wait with the collective."""
    group = Group("0", None, 2)
    found = [
        summary(0, 2, [0, 1000], [900, 1100], group=group, sequence=[0, 1]),
        summary(1, 2, [1050], [1100], group=group, sequence=[1]),
    ]
    (row,) = rows(found)
    assert (row.n, row.present_ranks, row.duration_s) == (1, 2, pytest.approx(50e-9))


def test_uneven_all_to_alls_count_the_mean_rank() -> None:
    found = [
        summary(r, 2, [0], [100], kind="all_to_all", group=Group("0", None, 2), size=s) for r, s in ((0, 300), (1, 500))
    ]
    assert rows(found)[0].message_bytes == 400


def test_missing_ranks_and_reduction_in_the_switch_are_noted() -> None:
    (row,) = rows([summary(0, 8, [0], [100], group=Group("0", None, 8))])
    assert row.present_ranks == 1 and "not all its ranks are at hand" in row.notes[0]
    assert row.busbw_bytes_per_s == pytest.approx(4e6 / 100e-9 * 1.75) and row.imbalance is None
    switched = [summary(r, 2, [0], [100], group=Group("0", None, 2)) for r in range(2)]
    switched[0].collectives.in_switch[:] = True
    assert "NVLS" in rows(switched)[0].notes[0]


# Traces recorded by others


def test_a_recorded_all_reduce_has_its_bandwidth(foreign_traces: Path) -> None:
    found = summarise(trace_in(foreign_traces / "a100_nccl_rank0.json.gz"), 0)
    row = next(r for r in rows([found]) if r.kind == "all_reduce" and r.message_bytes == 6637568 * 4)
    assert row.group_size == 2 and row.busbw_bytes_per_s == row.algbw_bytes_per_s
    assert row.present_ranks == 1 and row.notes and row.n == 3
    assert (found.collectives.step >= 4).all()
