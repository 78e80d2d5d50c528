"""Are the levels of the memory hierarchy found in curves of latency against size?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.machine.device import Cache, Device
from probe.microbench import plateaus
from probe.microbench.ceilings import level_of
from probe.microbench.plateaus import Plateau

KIB, MIB = 1 << 10, 1 << 20
SIZES = [1 << e for e in range(12, 29)]
CACHES = (Cache(1, 32 * KIB, 64, 1), Cache(2, 512 * KIB, 64, 1), Cache(3, 32 * MIB, 64, 4))


def _steps(*steps: tuple[int, float]) -> list[float]:
    """The latency of each size: that of the first capacity it fits in."""
    return [next(ns * 1e-9 for capacity, ns in steps if size <= capacity) for size in SIZES]


SERVER = _steps((32 * KIB, 1.3), (512 * KIB, 4.5), (16 * MIB, 16), (1 << 60, 110))


def test_clean_steps() -> None:
    found = plateaus.find(SIZES, SERVER)

    assert [p.name for p in found] == ["L1", "L2", "L3", "DRAM"]
    assert [p.capacity_bytes for p in found] == [32 * KIB, 512 * KIB, 16 * MIB, None]
    assert [p.latency_s for p in found] == pytest.approx([1.3e-9, 4.5e-9, 16e-9, 110e-9])


@given(seed=st.integers(0, 10_000))
def test_noise_upward_moves_no_level_by_more_than_one_size(seed: int) -> None:
    generator = np.random.default_rng(seed)
    noisy = np.asarray(SERVER) * (1 + generator.exponential(0.05, len(SIZES)))
    found = plateaus.find(SIZES, list(noisy))

    assert [p.name for p in found] == ["L1", "L2", "L3", "DRAM"]
    for plateau, capacity in zip(found, (32 * KIB, 512 * KIB, 16 * MIB), strict=False):
        assert plateau.capacity_bytes is not None
        assert capacity / 2 <= plateau.capacity_bytes <= 2 * capacity


def test_a_disturbed_size_is_no_level() -> None:
    disturbed = list(SERVER)
    disturbed[1] *= 10

    assert plateaus.find(SIZES, disturbed) == plateaus.find(SIZES, SERVER)


def test_a_measured_curve_of_a_shared_machine() -> None:
    """Zen 3 in a virtual machine, 4 KiB pages: neighbours leave 8 of the 32 MiB of L3, and the TLB slopes the rest."""
    ns = [1.23, 1.24, 1.24, 1.24, 3.72, 3.72, 4.16, 7.87, 13.19, 15.33, 16.17, 19.79, 91, 116, 128, 139, 144]
    found = plateaus.find(SIZES, [value * 1e-9 for value in ns])

    assert [p.name for p in found] == ["L1", "L2", "L3", "DRAM"]
    assert [plateaus.capacity(p, CACHES) for p in found] == [32 * KIB, 512 * KIB, 8 * MIB, None]
    [sentence] = plateaus.disagreements(found, CACHES)
    assert "L3 looks like 8 MiB, the system reports 32 MiB" in sentence


def test_two_levels_and_dram() -> None:
    found = plateaus.find(SIZES, _steps((64 * KIB, 1.5), (2 * MIB, 8), (1 << 60, 130)))

    assert [p.name for p in found] == ["L1", "L2", "DRAM"]


def test_sizes_that_never_leave_the_caches() -> None:
    found = plateaus.find(SIZES[:8], _steps((32 * KIB, 1.3), (1 << 60, 4.5))[:8])

    assert [p.name for p in found] == ["L1", "L2"]


def test_few_and_no_sizes() -> None:
    assert plateaus.find([], []) == ()
    assert [p.name for p in plateaus.find([4 * KIB], [1e-9])] == ["L1"]


def test_the_level_of_a_footprint() -> None:
    device = Device("cpu", "x", cores=4, caches=CACHES)
    found = plateaus.find(SIZES, SERVER)

    assert level_of(16 * KIB, 1, found, device) == "L1"
    assert level_of(64 * KIB, 4, found, device) == "L1"
    assert level_of(32 * KIB, 1, found, device) is None
    assert level_of(256 * KIB, 1, found, device) == "L2"
    assert level_of(16 * MIB, 4, found, device) == "L3"
    assert level_of(64 * MIB, 1, found, device) is None
    assert level_of(256 * MIB, 4, found, device) == "DRAM"
    assert level_of(4 * KIB, 1, (), device) is None


def test_what_the_system_reports_is_only_a_check() -> None:
    plateau = Plateau("L1", (4 * KIB, 32 * KIB), 1e-9)

    assert plateaus.capacity(plateau, ()) == 32 * KIB
    assert plateaus.capacity(plateau, (Cache(1, 48 * KIB, 64, 1),)) == 48 * KIB
    assert plateaus.capacity(plateau, (Cache(1, 256 * KIB, 64, 1),)) == 32 * KIB
