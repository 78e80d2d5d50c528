"""Who waits for whom: ranks compared on one clock, stragglers only where clocks and chance allow the word."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_builders import simulate, summaries, summary

from probe.analyzers.ranks.arrivals import median_of_others
from probe.analyzers.ranks.compare import beyond_the_others, compare_ranks
from probe.analyzers.ranks.summary import summarise
from probe.errors import UsageError
from probe.results.multirank import Group, RanksAnalysis
from probe.schema import to_jsonable

PER_STEP = 10


def test_the_late_rank_is_named_and_those_with_wrong_clocks_are_not() -> None:
    truth = simulate(0, late={17: 9e5})
    found = compare_ranks(summaries(truth, per_step=PER_STEP))
    assert [s.rank for s in found.stragglers] == [17]
    straggler, late = found.stragglers[0], truth.true_late_ns * PER_STEP / 1e9
    assert straggler.late_s == pytest.approx(late[17], rel=0.02)
    assert straggler.late_interval_s[0] < late[17] < straggler.late_interval_s[1]
    second = np.sort(truth.starts, axis=1)[:, -2]
    delay = np.maximum(truth.starts[:, 17] - second, 0).mean() * PER_STEP / 1e9
    assert straggler.delay_s == pytest.approx(delay, rel=0.02)
    assert int(np.argmax((truth.seen_starts - truth.seen_starts[:, [0]]).mean(axis=0))) != 17


def test_lateness_and_waits_of_every_rank_are_those_that_happened() -> None:
    truth = simulate(3, ranks=16, node=4, late={2: 4e5, 9: 6e5})
    found = compare_ranks(summaries(truth, per_step=PER_STEP))
    late = truth.true_late_ns * PER_STEP / 1e9
    waits = (truth.starts.max(axis=1, keepdims=True) - truth.starts).mean(axis=0) * PER_STEP / 1e9
    held = 0
    for rank in found.ranks:
        low, high = rank.late_interval_s or (1.0, 0.0)
        held += low <= late[rank.rank] <= high
        assert rank.late_s == pytest.approx(late[rank.rank], abs=2e-4)
        assert rank.wait_s == pytest.approx(waits[rank.rank], abs=2e-4)
    assert held == 16  # the interval also has room for chance, which is not in what happened
    assert {s.rank for s in found.stragglers} == {2, 9}


def test_waits_are_exact_where_clocks_agree() -> None:
    starts = np.array([[0, 40, 10], [200, 210, 290], [400, 400, 400]])
    ends = starts.max(axis=1, keepdims=True) + np.full((1, 3), 50)
    found = compare_ranks([summary(r, 3, starts[:, r], ends[:, r], step=[0, 1, 1]) for r in range(3)])
    table = found.arrivals
    for rank in range(3):
        own = table.where(table.rank == rank)
        assert own.wait_ns.tolist() == (starts.max(axis=1) - starts[:, rank]).tolist()
        others = np.median(np.delete(starts, rank, axis=1), axis=1)
        assert own.late_ns.tolist() == (starts[:, rank] - others).tolist()
    assert found.ranks[0].wait_s == pytest.approx((40 + 90 + 0) / 2 * 1e-9)
    assert table.delay_ns.sum() == 30 + 80


def test_time_in_which_two_collectives_wait_counts_once() -> None:
    """Two groups at once: rank 1 comes to both 40 ns late, 10 ns apart; rank 0 waits for 50 ns and not for 80."""
    groups = [Group("a", (0, 1), 2), Group("b", (0, 1), 2)]
    early, late = [0, 10, 500], [40, 50, 500]
    found = compare_ranks(
        [summary(r, 2, starts, [100, 110, 550], groups=groups, of=[0, 1, 0], sequence=[0, 0, 1], step=[0, 0, 0])
         for r, starts in enumerate((early, late))]
    )  # fmt: skip
    assert found.ranks[0].wait_s == pytest.approx(50e-9) and found.ranks[1].wait_s == 0
    assert (found.ranks[0].late_s, found.ranks[1].late_s) == (pytest.approx(-50e-9), pytest.approx(50e-9))
    assert sorted(found.arrivals.wait_ns.tolist()) == [0, 0, 0, 0, 40, 40]


def test_arrivals_on_clocks_that_drift_are_those_that_happened() -> None:
    truth = simulate(1, 4, 4000, 1, drift_ppm=50.0, late={3: 1e5})
    table = compare_ranks(summaries(truth, per_step=100)).arrivals
    for rank in range(4):
        others = np.median(np.delete(truth.starts, rank, axis=1), axis=1)
        error = table.late_ns[table.rank == rank] - (truth.starts[:, rank] - others)
        assert np.abs(error).max() < 10_000  # 50 ppm over 18 s are 900 µs


def test_a_collective_across_clocks_that_cannot_be_compared_has_no_waits() -> None:
    """Two pairs with a clock each; an all-to-all of all four does not join them."""
    truth = simulate(0, ranks=4, node=2, collectives=40)
    groups = (Group("a", (0, 1), 2), Group("b", (2, 3), 2), Group("all", (0, 1, 2, 3), 4))
    kinds = ["all_to_all" if k % 4 == 0 else "all_reduce" for k in range(40)]
    found = compare_ranks(
        [summary(r, 4, truth.seen_starts[:, r], truth.seen_ends[:, r], kind=kinds, groups=groups, step=np.arange(40),
                 of=[2 if k == "all_to_all" else r // 2 for k in kinds], sequence=np.arange(40)) for r in range(4)]
    )  # fmt: skip
    assert [o.reference for o in found.offsets] == [0, 0, 2, 2]
    assert len(found.arrivals) == 30 * 4 and set(found.arrivals.kind.tolist()) == {0}


@pytest.mark.parametrize(
    ("intervals", "named"),
    [
        ([(-1.0, 3.0), (-9.0, -5.0)], []),  # above the other, but perhaps not late at all
        ([(1.0, 3.0), (-3.0, -1.0)], [0]),
        ([(1.0, 3.0), (0.5, 1.5), (-3.0, 0.0), (-3.0, 0.0)], [0, 1]),
        ([(1.0, 3.0), (1.0, 2.0), (-3.0, 1.5)], []),
        ([(5.0, 6.0), (5.0, 6.0), (-1.0, 1.0)], []),  # more than half: then the third is early
    ],
)
def test_late_are_those_beyond_zero_and_beyond_the_others(
    intervals: list[tuple[float, float]], named: list[int]
) -> None:
    assert beyond_the_others(list(enumerate(intervals))) == named


@settings(max_examples=100)
@given(st.lists(st.lists(st.integers(-50, 50), min_size=2, max_size=7), min_size=1, max_size=5))
def test_the_median_of_the_others_is_that_of_numpy(runs: list[list[int]]) -> None:
    size = np.array([len(run) for run in runs])
    values = np.array([v for run in runs for v in sorted(run)])
    found = median_of_others(values, np.cumsum(size) - size, size)
    expected = [np.floor(np.median(np.delete(sorted(run), i))) for run in runs for i in range(len(run))]
    assert found.tolist() == expected


@pytest.mark.parametrize("seed", range(8))
def test_nobody_is_named_where_nobody_is_late(seed: int) -> None:
    found = compare_ranks(summaries(simulate(seed, ranks=16, node=4)))
    assert found.stragglers == () and not any("straggler" in text for text in found.warnings)


def test_nobody_is_named_where_the_clocks_do_not_allow_it() -> None:
    """Three collectives leave the clocks open by a millisecond and more; the rank is late by less."""
    truth = simulate(1, ranks=4, node=1, collectives=3, late={2: 4e5})
    found = compare_ranks(summaries(truth, per_step=3, step_s=0.01))
    assert found.stragglers == ()
    assert any("no straggler is named: clocks" in text and "whether rank 2 is one" in text for text in found.warnings)
    low, high = found.ranks[2].late_interval_s or (0.0, 0.0)
    assert low < 0 < high


def test_a_rank_that_is_late_by_nothing_of_the_step_is_not_named() -> None:
    truth = simulate(0, ranks=8, node=2, late={5: 9e5})
    assert [s.rank for s in compare_ranks(summaries(truth, step_s=0.05)).stragglers] == [5]
    assert compare_ranks(summaries(truth, step_s=5.0)).stragglers == ()


def test_two_of_many_ranks_are_compared_with_a_warning() -> None:
    found = compare_ranks([s for s in summaries(simulate(0, ranks=128, collectives=50)) if s.rank in (0, 9)])
    assert found.world_size == 128 and len(found.missing) == 126 and 9 not in found.missing
    assert any("2 of 128 ranks are at hand (not rank 1–8, 10–127)" in text for text in found.warnings)
    assert found.collectives[0].notes and found.collectives[0].busbw_bytes_per_s is not None


def test_ranks_given_twice_count_once() -> None:
    whole = summaries(simulate(0, ranks=2, collectives=20))
    found = compare_ranks([whole[1], *whole, replace(whole[0], path="again.json")])
    assert [r.rank for r in found.ranks] == [0, 1] and found.matched == 20
    assert any("rank 0 is there twice" in text and "again.json is not" in text for text in found.warnings)


def test_means_are_of_the_steps_that_all_recorded() -> None:
    whole = summaries(simulate(0, ranks=2, collectives=40))
    cut = whole[1].steps.number >= 2
    shorter = replace(
        whole[1],
        steps=whole[1].steps.where(cut),
        collectives=whole[1].collectives.where(whole[1].collectives.step >= 2),
    )
    longer = replace(whole[0].steps, end_ns=whole[0].steps.end_ns + np.array([10**9, 0, 0, 0]))
    found = compare_ranks([replace(whole[0], steps=longer), shorter])
    assert found.ranks[0].step_s == pytest.approx(0.05)
    assert any("rank 0 recorded steps that others did not" in text for text in found.warnings)
    assert any("20 of 60 because the others did not record them" in text for text in found.warnings)
    assert found.unmatched == 20


def test_ranks_of_different_jobs_and_unmarked_steps_are_said() -> None:
    one, two = (summary(r, w, [0, 10], [5, 15], group=Group("0", None, 2)) for r, w in ((0, 2), (3, 4)))
    found = compare_ranks([one, two])
    assert any("different jobs" in text for text in found.warnings)
    assert any("steps are not marked on rank 0, 3" in text for text in found.warnings)


def test_a_rank_that_cannot_be_compared_has_no_lateness_and_it_is_said() -> None:
    whole = summaries(simulate(0, ranks=3, node=1, collectives=50))
    apart = replace(whole[2], groups=(Group("other", (2, 7), 2),))
    found = compare_ranks([*whole[:2], apart])
    assert (found.ranks[2].wait_s, found.ranks[2].late_s, found.ranks[2].late_interval_s) == (None, None, None)
    assert found.offsets[2].offset_s is None
    assert any("clock of rank 2 cannot be compared" in text for text in found.warnings)


def test_no_ranks_are_an_error_and_one_is_not() -> None:
    with pytest.raises(UsageError, match="no ranks"):
        compare_ranks([])
    found = compare_ranks([summary(0, 1, [], [], step=[])])
    assert found.ranks[0].wait_s is None and found.collectives == () and found.matched == 0


def test_computation_is_a_mean_over_steps() -> None:
    whole = summary(0, 1, [0, 20], [10, 30], step=[0, 1])
    compute = np.array([10_000_000, 30_000_000])
    found = compare_ranks([replace(whole, steps=replace(whole.steps, compute_ns=compute))])
    assert found.ranks[0].compute_s == pytest.approx(0.02)


def test_keys_carry_their_units_and_are_si() -> None:
    truth = simulate(2, 2, 4000, 1, drift_ppm=2.0, pause_ns=30e6)
    found = compare_ranks(summaries(truth))
    rank, clock, row = (to_jsonable(one[1 % len(one)]) for one in (found.ranks, found.offsets, found.collectives))
    assert set(rank) == {
        "rank", "step_s", "communication_s", "exposed_communication_s", "wait_s", "late_s", "late_interval_s",
        "compute_s",
    }  # fmt: skip
    assert set(clock) == {
        "rank", "reference", "offset_s", "interval_s", "bounds_s", "n", "drift_fraction", "drift_error_fraction",
        "reason",
    }  # fmt: skip
    assert clock["offset_s"] == pytest.approx(truth.offset_ns[1] / 1e9, abs=20e-6)
    assert clock["interval_s"][0] <= clock["offset_s"] <= clock["interval_s"][1]
    assert clock["bounds_s"][0] <= clock["interval_s"][0] and clock["interval_s"][1] <= clock["bounds_s"][1]
    assert clock["drift_fraction"] == pytest.approx(truth.drift[1], abs=5 * clock["drift_error_fraction"] + 1e-8)
    assert row["kind"] == "all_reduce" and row["median_over_min"] == pytest.approx(row["duration_s"] / row["min_s"])


# Traces recorded by others


def compared(folder: Path) -> RanksAnalysis:
    from probe.readers.kineto import read

    traces = [read(path) for path in sorted(folder.glob("*.json.gz"))]
    return compare_ranks([summarise(t, t.rank or 0) for t in traces])


def test_ranks_of_one_host_have_one_clock(foreign_traces: Path) -> None:
    found = compared(foreign_traces / "v100_dlrm_4_of_8_ranks")
    assert found.matched == 8 and found.unmatched == 0 and found.missing == (4, 5, 6, 7)
    for offset in found.offsets:
        low, high = offset.bounds_s or (1.0, 0.0)
        assert low <= 0 <= high and abs(offset.offset_s or 0.0) < 20e-6
    assert found.stragglers == ()  # three all-reduces in one step do not tell


def test_two_ranks_of_128_are_read_and_what_is_missing_is_said(foreign_traces: Path) -> None:
    found = compared(foreign_traces / "two_of_128_ranks")
    assert found.world_size == 128 and any("2 of 128 ranks" in text for text in found.warnings)
    assert all(rank.exposed_communication_s is not None for rank in found.ranks)
