"""Are permutations single cycles, arrays where they should be, and sizes what memory allows?"""

import dataclasses
import itertools
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UnavailableError
from probe.kernels.cpu import machine_code
from probe.kernels.cpu.loops import BANDWIDTHS, Stream
from probe.machine import environment
from probe.machine.device import Cache, Device
from probe.microbench import memory
from probe.microbench.cpu import cache_latency, memory_bandwidth, pages
from probe.microbench.cpu.pinning import allowed_cpus, pinned, working_cpus
from probe.microbench.cpu.team import Team
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

CPU = Device("cpu", "x", cores=2)


@given(n=st.integers(1, 3000), seed=st.integers(0, 1000))
def test_a_permutation_is_one_cycle(n: int, seed: int) -> None:
    following = cache_latency.single_cycle(n, np.random.default_rng(seed))
    at, seen = 0, 0
    for _ in range(n):
        at = int(following[at])
        seen += 1
        if at == 0:
            break

    assert seen == n


def test_linked_lines_hold_addresses_of_lines() -> None:
    buffer = memory.Buffer(64 * memory.KIB, small_pages=True)
    cache_latency.link(buffer, 16 * memory.KIB, np.random.default_rng(0))
    words = buffer.view(np.uint64)
    linked = words[: 16 * memory.KIB // 8 : 8] - np.uint64(buffer.address)

    assert sorted(linked.tolist()) == list(range(0, 16 * memory.KIB, 64))
    assert not words[16 * memory.KIB // 8 :].any()


def test_the_same_chase_runs_on_huge_pages_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 1 MiB on small pages and for half of it on huge ones; a quick run has small pages only."""
    monkeypatch.setattr(memory, "LARGEST_BYTES", memory.MIB)
    monkeypatch.setattr(memory, "total_cache_bytes", lambda device: 0)
    monkeypatch.setattr(memory, "free_bytes", lambda: 6 * memory.MIB)
    monkeypatch.setattr(pages.Pages, "_advise", lambda self, advice: None)
    monkeypatch.setattr(pages, "switched_off", lambda setting: None)
    monkeypatch.setattr(pages, "not_huge", lambda smaps, address, size: None)
    monkeypatch.setattr(pages, "HUGE_BYTES", 4 * memory.KIB)
    found = {m.params["size_bytes"]: m.params for m in _latencies(0.2, quick=False)}
    on_huge = {size for size, params in found.items() if "huge_page_latency_s" in params}

    assert on_huge == {1 << e for e in range(12, 20)}
    assert max(found) == memory.MIB
    assert all(0 < found[size]["huge_page_latency_s"] <= found[size]["huge_page_median_s"] for size in on_huge)
    assert not any("huge_page_latency_s" in m.params for m in _latencies(0.2, quick=True))


def test_without_huge_pages_there_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LARGEST_BYTES", 8 * memory.KIB)
    monkeypatch.setattr(memory, "total_cache_bytes", lambda device: 0)
    monkeypatch.setattr(pages, "switched_off", lambda setting: "they are off")
    warnings: list[str] = []
    found = _latencies(0.02, quick=False, warnings=warnings)

    assert [m.params["page_bytes"] for m in found] == [4096, 4096]
    assert warnings == ["cache_latency: not measured on huge pages: they are off"]


def _latencies(budget_s: float, *, quick: bool, warnings: list[str] | None = None) -> list[Measurement]:
    context = Context(environment.cpu_device(), budget_s, quick=quick, warnings=[] if warnings is None else warnings)
    try:
        return list(cache_latency.run(context))
    except UnavailableError as reason:
        pytest.skip(str(reason))


def test_sizes_are_the_powers_of_two_and_reach_beyond_large_caches() -> None:
    large = Device("cpu", "x", cores=16, caches=(Cache(3, 96 * memory.MIB, 64, 8),))

    assert memory.sizes(CPU) == tuple(1 << e for e in range(12, 29))
    assert memory.sizes(CPU, coarse=True)[:3] == (4096, 16384, 65536)
    assert memory.sizes(CPU, coarse=True)[-1] == memory.LARGEST_BYTES
    assert memory.sizes(large)[-1] == 1 << 30


def test_sizes_leave_most_of_the_memory_alone() -> None:
    assert memory.affordable((1, 2, 3, 4), 12) == (1, 2, 3)
    assert memory.affordable((1, 2), None) == (1, 2)


def test_a_limit_on_this_process_counts_as_memory_that_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the system does not tell how much is used")
    used = mmap.PAGESIZE * int(statm.read_text().split()[0])
    monkeypatch.setattr(resource, "getrlimit", lambda which: (used + 64 * memory.MIB, resource.RLIM_INFINITY))
    left = memory.free_bytes()

    assert left is not None
    assert left <= 96 * memory.MIB  # what was freed since `used` was read is in it

    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert memory.address_space_left() is None


def test_memory_that_the_system_refuses_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(UnavailableError, match=r"refuses 1 MiB of memory.*Cannot allocate.*ulimit -v"):
        memory.Buffer(memory.MIB)


@pytest.mark.parametrize("arrays", [2, 3])
def test_arrays_do_not_overlap_and_fit(arrays: int) -> None:
    for size in (1024, 4096, 5000, 1 << 20):
        offsets = [*memory.array_offsets(size, arrays), memory.buffer_bytes(size)]
        gaps = np.diff(offsets)

        assert (gaps >= size // arrays).all()
        assert all(offset % memory.LINE_BYTES == 0 for offset in offsets[:-1])


def test_pinning_is_undone() -> None:
    before = allowed_cpus()
    with pytest.raises(RuntimeError), pinned() as cpu:
        if hasattr(os, "sched_getaffinity"):
            assert os.sched_getaffinity(0) == {cpu}
        raise RuntimeError

    assert allowed_cpus() == before


def test_a_team_runs_every_thread_and_raises_what_one_raised() -> None:
    seen: set[int] = set()

    def fail(thread: int) -> None:
        raise ValueError(f"thread {thread}")

    with Team(allowed_cpus()) as team:
        assert team.run(seen.add) >= 0
        assert seen == set(range(len(team)))
        with pytest.raises(ValueError, match="thread"):
            team.run(fail)
        assert team.run(seen.add) >= 0


CACHES = (
    Cache(1, 32 * memory.KIB, 64, 1),
    Cache(2, 512 * memory.KIB, 64, 1),
    Cache(3, 32 * memory.MIB, 64, 2),
)


def test_footprints_lie_between_the_capacities() -> None:
    found = memory.footprints(Device("cpu", "x", cores=2, caches=CACHES))

    assert found == (
        ("L1", 16 * memory.KIB),
        ("L2", 128 * memory.KIB),
        ("L3", 4 * memory.MIB),
        ("DRAM", 128 * memory.MIB),
    )
    assert [level for level, _ in memory.footprints(CPU)] == [None] * 4


@given(
    exponents=st.lists(st.integers(13, 31), min_size=1, max_size=3, unique=True),
    odd=st.integers(0, 7),
)
def test_a_footprint_fits_its_level_and_not_the_one_inside(exponents: list[int], odd: int) -> None:
    capacities = [(1 << e) + odd * (1 << (e - 3)) for e in sorted(exponents)]
    caches = tuple(Cache(i + 1, capacity, 64, 1) for i, capacity in enumerate(capacities))
    *inner, (name, largest) = memory.footprints(Device("cpu", "x", cores=1, caches=caches))

    assert name == "DRAM"
    assert largest >= 4 * capacities[-1]
    assert all(size < capacity for (_, size), capacity in zip(inner, capacities, strict=True))
    assert all(size > inside for (_, size), inside in zip(inner[1:], capacities, strict=False))


def test_bytes_are_counted_as_stream_counts_them_and_write_allocation_is_told() -> None:
    factors = {kind.label: memory_bandwidth.write_allocate_factor(kind) for kind in BANDWIDTHS}

    assert factors == {
        "read": 1.0,
        "write": 2.0,
        "copy": 1.5,
        "scale": 1.5,
        "add": pytest.approx(4 / 3),
        "triad": pytest.approx(4 / 3),
        "write_nt": 1.0,
        "copy_nt": 1.0,
        "triad_nt": 1.0,
    }


def _bandwidths(monkeypatch: pytest.MonkeyPatch, *, quick: bool) -> list[Measurement]:
    monkeypatch.setattr(memory, "LARGEST_BYTES", 64 * memory.KIB)
    return list(memory_bandwidth.run(Context(environment.cpu_device(), 0.05, quick=quick)))


def test_every_kernel_is_measured_with_one_thread_and_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_cache_bytes", lambda device: 0)
    found = _bandwidths(monkeypatch, quick=False)
    largest = [m for m in found if m.params["size_bytes"] == 64 * memory.KIB]

    for threads in {1, len(working_cpus())}:
        kinds = [(m.params["kernel"], m.params["stores"]) for m in largest if m.params["threads"] == threads]
        assert kinds == [(kind.label, memory_bandwidth.stores(kind)) for kind in BANDWIDTHS]
    assert len({m.name for m in found}) == len(found)
    assert all(m.value >= m.median >= m.min > 0 for m in found)


def test_a_quick_run_has_fewer_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_cache_bytes", lambda device: 0)
    names = {(m.params["kernel"], m.params["stores"]) for m in _bandwidths(monkeypatch, quick=True)}

    assert names == {(kind.label, memory_bandwidth.stores(kind)) for kind in memory_bandwidth.QUICK}


def test_a_compiler_without_stores_past_the_caches_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    device = environment.cpu_device()
    loops = machine_code.load(device.isa)
    ordinary = {kind: loop for kind, loop in loops.stream.items() if not kind.non_temporal}
    monkeypatch.setattr(machine_code, "load", lambda isa: dataclasses.replace(loops, stream=ordinary))
    monkeypatch.setattr(memory, "LARGEST_BYTES", 16 * memory.KIB)
    monkeypatch.setattr(memory, "total_cache_bytes", lambda device: 0)
    context = Context(device, 0.05, quick=True)
    found = list(memory_bandwidth.run(context))

    assert "non-temporal" not in {m.params["stores"] for m in found}
    assert any("no stores past the caches" in warning for warning in context.warnings)


@pytest.mark.parametrize("kind", BANDWIDTHS, ids=lambda kind: kind.symbol)
def test_a_window_touches_what_it_counts(kind: Stream) -> None:
    """The loops get as many elements as the bytes that are counted, inside the arrays, and aligned for any vector."""
    asked: list[tuple[int, ...]] = []
    loops = machine_code.load(environment.cpu_device().isa)

    def loop(destination: int, x: int, y: int, elements: int, repeats: int, gate: int, scalar: float) -> int:
        asked.append((destination, x, y, elements))
        return 0

    with Team(allowed_cpus()[:1]) as team:
        arrays = memory_bandwidth.Arrays(dataclasses.replace(loops, stream={kind: loop}), team, 96 * memory.KIB)
        window, counted = arrays.window_of(kind, 48 * memory.KIB)
        window(1)
    [(destination, x, y, elements)] = asked
    touched = {"read": {x}, "write": {destination}, "copy": {destination, x}, "scale": {destination, x}}
    starts = sorted(touched.get(kind.name, {destination, x, y}))

    assert len(starts) == kind.accesses
    assert counted == 8 * elements * kind.accesses
    assert all(start % 64 == 0 for start in starts)
    assert all(b - a >= 8 * elements for a, b in itertools.pairwise(starts))
    if kind.name == "read":
        assert not x <= destination < x + 8 * elements
