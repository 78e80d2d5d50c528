"""Is the chase one line a page, on the pages it says, and are the steps of a known TLB found where they are?"""

import dataclasses
import itertools
import mmap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UnavailableError
from probe.machine import environment
from probe.microbench.cpu import pages, tlb
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

SMAPS = """\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Size:               4096 kB
AnonHugePages:      2048 kB
VmFlags: rd wr mr mw me ac sd hg
7f0000400000-7f0000800000 rw-p 00000000 00:00 0          [anon: other]
Size:               4096 kB
AnonHugePages:      4096 kB
"""
CYCLE_S = 0.25e-9


@given(count=st.integers(1, 1000), seed=st.integers(0, 100), huge=st.booleans())
def test_each_page_has_one_line_and_each_set_its_share(count: int, seed: int, huge: bool) -> None:
    page = tlb.HUGE_BYTES if huge else tlb.SMALL_BYTES
    offsets = tlb.one_a_page(count, np.random.default_rng(seed), page)

    assert (offsets // np.uint64(page)).tolist() == list(range(count))
    assert not (offsets % np.uint64(64)).any()
    filled = np.bincount((offsets % np.uint64(4096) // np.uint64(64)).astype(np.int64), minlength=64)
    assert filled.max() - filled.min() <= 1


def test_places_are_not_tied_to_the_number_of_the_page() -> None:
    """Sets of a second-level cache are chosen by bits of both; tied, they would be used in part only."""
    offsets = tlb.one_a_page(4096, np.random.default_rng(0))
    sets = np.unique(offsets // np.uint64(64) % np.uint64(1024))

    assert len(sets) > 900  # of 1024; places that repeat with the page's number reach 64


@pytest.mark.parametrize("count", [16, 100, 1000])
def test_every_chase_visits_each_of_its_lines_once_and_closes(count: int) -> None:
    ground = tlb.Ground(count, 32, np.random.default_rng(0), [])
    chases = list(ground.chases(count))
    layouts = [(chase.layout, chase.page_bytes) for chase in chases]
    words = {chase: _memory(ground, chase) for chase in chases}

    assert layouts[0] == (tlb.ONE_A_PAGE, tlb.SMALL_BYTES)
    assert layouts[1][0] == tlb.DENSE
    for chase in chases:
        at, seen = chase.start, set()
        for _ in range(count):
            seen.add(at)
            at = int(words[chase].words[(at - words[chase].address) // 8])
        assert at == chase.start
        assert len(seen) == count
        spanned = {address // chase.stride_bytes for address in seen}
        assert len(spanned) == count  # one in each stride


def _memory(ground: tlb.Ground, chase: tlb.Chase) -> pages.Pages:
    candidates = [ground._small, ground._dense, ground._huge]
    return next(p for p in candidates if p is not None and 0 <= chase.start - p.address < p.words.nbytes)


def test_a_window_times_its_loads_after_a_lap() -> None:
    calls: list[tuple[int, int]] = []

    def chase(at: int, n: int) -> int:
        calls.append((at, n))
        return at + 1

    loops: Any = SimpleNamespace(chase=chase, unroll=32)
    variant = tlb.Chase(tlb.DENSE, 1000, 100, 64, 4096).variant(loops)
    calls.clear()
    variant.window()

    assert calls == [(1000, 4), (1001, variant.work // 32)]  # 4 × 32 loads reach all 100 lines


@pytest.mark.parametrize(
    ("layout", "stride", "page", "pages"),
    [
        (tlb.ONE_A_PAGE, 4096, 4096, 1000),
        (tlb.DENSE, 64, 4096, 16),
        (tlb.DENSE, 64, tlb.HUGE_BYTES, 1),
        (tlb.ON_HUGE, 4096, tlb.HUGE_BYTES, 2),
        (tlb.ONE_A_PAGE, tlb.HUGE_BYTES, tlb.HUGE_BYTES, 1000),
    ],
)
def test_params_count_the_pages_that_are_touched(layout: str, stride: int, page: int, pages: int) -> None:
    params = tlb.Chase(layout, 0, 1000, stride, page).params

    assert params["pages"] == pages
    assert params["size_bytes"] == 1000 * stride
    assert params["huge"] is (page == tlb.HUGE_BYTES)


def test_counts_follow_the_free_memory() -> None:
    everything = tlb.affordable_counts(None, coarse=False)

    assert tlb.affordable_counts(None, coarse=True) == (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    assert everything[:5] == (16, 24, 32, 48, 64)
    assert everything[-2:] == (24576, 32768)
    assert tlb.affordable_counts(16 << 20, coarse=False)[-1] == 1024  # a quarter of 16 MiB
    with pytest.raises(UnavailableError, match="memory"):
        tlb.affordable_counts(4096, coarse=False)


def test_the_kernel_is_asked_whether_the_pages_are_huge() -> None:
    assert pages.huge_bytes(SMAPS, 0x7F0000000000) == 2 << 20
    assert pages.huge_bytes(SMAPS, 0x7F0000400000) == 4 << 20
    assert pages.huge_bytes(SMAPS, 0x1000) is None
    assert pages.not_huge(SMAPS, 0x7F0000400000, 4 << 20) is None
    assert "2 MiB of 4 MiB" in str(pages.not_huge(SMAPS, 0x7F0000000000, 4 << 20))
    assert "AnonHugePages" in str(pages.not_huge("", 0x7F0000000000, 4 << 20))


def test_a_switch_that_is_off_is_named() -> None:
    assert pages.switched_off("always [madvise] never") is None
    assert pages.switched_off("[always] madvise never") is None
    assert "transparent huge pages are off" in str(pages.switched_off("always madvise [never]"))
    assert "no transparent huge pages" in str(pages.switched_off(None))


def test_memory_without_huge_pages_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages.cpu_info, "read_text", lambda path: "always madvise [never]")
    warnings: list[str] = []
    ground = tlb.Ground(64, 64, np.random.default_rng(0), warnings)

    assert [chase.layout for chase in ground.chases(64)] == [tlb.ONE_A_PAGE, tlb.DENSE]
    assert len(warnings) == 1
    assert "transparent huge pages are off" in warnings[0]


def model(
    lines: int, layout: str, page_bytes: int, entries: tuple[int, int], costs: tuple[float, float], split: bool
) -> float:
    """Cycles of a load by a processor with two TLBs and one cache step; `split`: huge pages count as small ones."""
    cached = 4.0 if lines <= 512 else 12.0
    stride = {tlb.ONE_A_PAGE: page_bytes, tlb.DENSE: 64, tlb.ON_HUGE: 4096}[layout]
    pages = -(-lines * stride // (4096 if split else page_bytes))
    missed = min(pages, lines)
    return cached + (0 if missed <= entries[0] else costs[0] if missed <= entries[1] else costs[1])


def sweep(
    counts: tuple[int, ...], entries: tuple[int, int], costs: tuple[float, float], *, split: bool = False
) -> list[Measurement]:
    """What `run` would measure on the processor of `model`."""
    kinds = [
        (tlb.ONE_A_PAGE, 4096),
        (tlb.DENSE, tlb.HUGE_BYTES),
        (tlb.ON_HUGE, tlb.HUGE_BYTES),
        (tlb.ONE_A_PAGE, tlb.HUGE_BYTES),
    ]
    found = []
    for lines, (layout, page) in itertools.product(counts, kinds):
        seconds = model(lines, layout, page, entries, costs, split) * CYCLE_S
        params = {"lines": lines, "layout": layout, "page_bytes": page, "huge": page > 4096, "clock_hz": 1 / CYCLE_S}
        found.append(Measurement("tlb", "x", "latency", "s", seconds, seconds, seconds, (seconds, seconds), 9, params))
    return found


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("entries", [(64, 2048), (64, 1536), (48, 1024), (96, 2048)])
def test_the_steps_of_a_known_processor_are_found(coarse: bool, entries: tuple[int, int]) -> None:
    counts = tlb.affordable_counts(None, coarse=coarse)
    found = list(tlb.summary(sweep(counts, entries, (7, 40)), []))
    small = [m for m in found if m.params["page_bytes"] == 4096]
    reach, added, more_reach, more_added = small

    for measured, true in ((reach, entries[0]), (more_reach, entries[1])):
        low, high = measured.interval
        assert measured.unit == "pages"
        assert low <= true < high
        assert measured.value == max(count for count in counts if count <= true)
    assert added.value == pytest.approx(7 * CYCLE_S)
    assert more_added.value == pytest.approx(40 * CYCLE_S)
    assert added.params["cycles"] == pytest.approx(7)
    assert [m.params["step"] for m in small] == [1, 1, 2, 2]


def test_what_is_derived_from_disturbed_chases_says_so() -> None:
    counts = tlb.affordable_counts(None, coarse=True)
    found = [
        dataclasses.replace(m, flags=("contended",))
        if m.params["lines"] == 1024 and m.params["layout"] == tlb.DENSE
        else m
        for m in sweep(counts, (64, 2048), (7, 40))
    ]
    small = [m for m in tlb.summary(found, []) if m.params["page_bytes"] == 4096]
    flags = {(m.metric, m.params["step"]): m.flags for m in small}

    assert flags == {("reach", 1): (), ("latency", 1): ("contended",), ("reach", 2): (), ("latency", 2): ()}


def test_a_short_climb_is_not_a_level() -> None:
    counts = tlb.affordable_counts(None, coarse=False)
    found = sweep(counts, (64, 2048), (7, 120))
    shift = {1536: 25, 2048: 55}
    climbing = [
        _slower(m, shift[m.params["lines"]])
        if m.params["lines"] in shift and m.params["layout"] == tlb.ONE_A_PAGE
        else m
        for m in found
    ]
    reach = [m for m in tlb.summary(climbing, []) if m.metric == "reach" and m.params["page_bytes"] == 4096]

    assert [m.value for m in reach] == [64, 1024]
    assert reach[1].interval == (1024, 3072)


def test_page_tables_that_leave_the_caches_are_no_third_tlb() -> None:
    counts = tlb.affordable_counts(None, coarse=False)
    found = [
        _slower(m, 400) if m.params["lines"] >= 8192 and m.params["layout"] == tlb.ONE_A_PAGE else m
        for m in sweep(counts, (64, 2048), (7, 40))
    ]
    small = [m for m in tlb.summary(found, []) if m.params["page_bytes"] == 4096]

    assert [m.params["step"] for m in small] == [1, 1, 2, 2]
    assert small[-1].params["to_lines"] < 8192
    assert small[-1].value == pytest.approx(40 * CYCLE_S)


def _slower(m: Measurement, cycles: float) -> Measurement:
    seconds = m.value + cycles * CYCLE_S
    return Measurement(m.suite, m.name, m.metric, m.unit, seconds, seconds, seconds, (seconds, seconds), 9, m.params)


def test_a_flat_curve_has_no_steps_and_says_so() -> None:
    warnings: list[str] = []
    found = list(tlb.summary(sweep((16, 32, 64, 128, 256), (1 << 20, 1 << 21), (7, 40)), warnings))

    assert found == []
    assert len(warnings) == 2
    assert all("no step" in warning for warning in warnings)


def test_huge_pages_that_are_kept_as_small_ones_are_noticed() -> None:
    counts = tlb.affordable_counts(None, coarse=False)
    kept: list[str] = []
    whole: list[str] = []
    list(tlb.summary(sweep(counts, (64, 2048), (7, 40), split=True), kept))
    list(tlb.summary(sweep(counts, (64, 2048), (7, 40)), whole))

    assert [warning for warning in kept if "keeps them as small" in warning]
    assert whole == []


def test_the_suite_measures_each_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlb, "MOST_PAGES_QUICK", 64)
    context = Context(environment.cpu_device(), 0.01, quick=True)
    found = list(tlb.run(context))
    points = [m for m in found if m.metric == "latency" and "layout" in m.params]

    assert {m.params["lines"] for m in points} == {16, 32, 64}
    assert {tlb.ONE_A_PAGE, tlb.DENSE} <= {m.params["layout"] for m in points}
    assert all(0 < m.value <= m.median and m.unit == "s" for m in points)
    assert all(m.params["cycles"] > 1 for m in points)  # no load is answered within a cycle


def test_other_pages_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "PAGESIZE", 65536)
    with pytest.raises(UnavailableError, match="64 KiB"):
        next(tlb.run(Context(environment.cpu_device(), 1.0)))
