"""Are permutations single cycles, arrays where they should be, and sizes what memory allows?"""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.device import Cache, Device
from probe.microbench import cache_latency, memory
from probe.microbench.pinning import allowed_cpus, pinned
from probe.microbench.team import Team

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


def test_sizes_are_the_powers_of_two_and_reach_beyond_large_caches() -> None:
    large = Device("cpu", "x", cores=16, caches=(Cache(3, 96 * memory.MIB, 64, 8),))

    assert memory.sizes(CPU) == tuple(1 << e for e in range(12, 29))
    assert memory.sizes(CPU, coarse=True)[:3] == (4096, 16384, 65536)
    assert memory.sizes(CPU, coarse=True)[-1] == memory.LARGEST_BYTES
    assert memory.sizes(large)[-1] == 1 << 30


def test_sizes_leave_most_of_the_memory_alone() -> None:
    assert memory.affordable((1, 2, 3, 4), 12) == (1, 2, 3)
    assert memory.affordable((1, 2), None) == (1, 2)


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
