"""Do copies come out as a model machine has them, by size and direction, and does memory that is short end nothing?"""

import functools
from typing import Any

import pytest
from fake_cuda import FakeCuda

from probe.errors import UnavailableError
from probe.kernels.cuda.driver import DeviceLost
from probe.machine import environment, nvml
from probe.machine.device import Device
from probe.microbench import memory
from probe.microbench.cuda import copies, copy_ways
from probe.microbench.cuda.copy_ways import WAYS
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

CALL_S = 20e-6
BYTES_PER_S = {"H2D": 50e9, "D2H": 40e9, "D2D": 200e9, "H2H": 20e9}
SIZES = (4, 1 << 12, 1 << 16, 1 << 20, 1 << 22)
MIB = 1 << 20


def copy_s(kind: str, n_bytes: int) -> float:
    """A fixed cost and a rate."""
    return CALL_S + n_bytes / BYTES_PER_S[kind]


def machine(**more: Any) -> FakeCuda:
    """A GPU whose copies take what `copy_s` says."""
    return FakeCuda(**{"copy_s": copy_s, "attributes": {38: 256 << 10}, **more})


@pytest.fixture(autouse=True)
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that a test can copy, on a host with memory enough."""
    monkeypatch.setattr(copies, "SIZES", SIZES)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)


def run(fake: FakeCuda, budget_s: float = 0.05, **more: Any) -> tuple[list[Measurement], Context]:
    """The suite on the model machine."""
    asked = Context(Device("cuda", "x"), budget_s, clock=fake.clock, **more)
    with fake.gpu() as gpu:
        found = list(copies.run(asked, gpu))
    assert fake.error is None
    return found, asked


def by_way(found: list[Measurement], size: int, metric: str = "bandwidth") -> dict[tuple[str, str], Measurement]:
    """The rows of one size by direction and memory."""
    chosen = [m for m in found if m.metric == metric and m.params["size_bytes"] == size]
    return {(m.params["direction"], m.params["memory"]): m for m in chosen}


@functools.cache
def recovered() -> tuple[list[Measurement], Context]:
    """The suite on the model machine, once for all tests that only look."""
    return run(machine())


def test_a_known_machine_is_recovered() -> None:
    found, asked = recovered()
    largest = by_way(found, SIZES[-1])
    values = {way: m.value for way, m in largest.items()}
    each = {kind: SIZES[-1] / copy_s(kind, SIZES[-1]) for kind in BYTES_PER_S}

    expected = {
        ("H2D", "pinned"): each["H2D"],
        ("D2H", "pinned"): each["D2H"],
        ("D2D", "device"): each["D2D"],
        ("H2D", "pageable"): each["H2D"],
        ("D2H", "pageable"): each["D2H"],
        ("H2D and D2H", "pinned"): 2 * each["D2H"],  # until the slower one is done
    }
    assert values == pytest.approx(expected, rel=0.01)
    assert {m.params["traffic_factor"] for way, m in largest.items() if way[0] != "D2D"} == {1}
    assert largest["D2D", "device"].params["traffic_factor"] == 2
    assert {m.params["bytes_counted"] for m in found} == {"copied"}
    assert asked.warnings == []


def test_every_size_and_way_has_a_row_the_largest_first() -> None:
    found, _ = recovered()
    rates = [m for m in found if m.metric == "bandwidth"]

    assert list(dict.fromkeys(m.params["size_bytes"] for m in rates)) == sorted(SIZES, reverse=True)
    assert len(rates) == len(SIZES) * len(WAYS) - 3  # both at once only where two streams are worth it
    assert {m.params["clock"] for m in rates if m.params["memory"] == "pageable"} == {"host"}
    assert {m.params["clock"] for m in rates if m.params["memory"] != "pageable"} == {"device"}


def test_latency_is_one_copy_and_the_wait_beside_the_line() -> None:
    found, _ = recovered()
    latencies = [m for m in found if m.metric == "latency"]

    assert len(latencies) == len(WAYS) - 1
    for m in latencies:
        assert m.value == pytest.approx(CALL_S, rel=0.01)
        assert m.params["alpha_s"] == pytest.approx(CALL_S, rel=0.01)
        assert m.params["beta_bytes_per_s"] == pytest.approx(BYTES_PER_S[m.params["direction"]], rel=0.01)
        assert (m.params["size_bytes"], m.params["clock"], m.unit) == (4, "host", "s")


def test_what_no_line_describes_gets_none() -> None:
    jumps = machine(copy_s=lambda kind, n_bytes: CALL_S if n_bytes % 3 == 1 else 100 * CALL_S)
    found, _ = run(jumps, 0.01)

    assert all("alpha_s" not in m.params for m in found if m.metric == "latency")


def test_sizes_are_from_4_b_to_1_gib() -> None:
    sizes = tuple(4**k for k in range(1, 16))

    assert (sizes[0], sizes[-1]) == (4, 1 << 30)
    assert set(copies.QUICK) < {*sizes, 1 << 26}
    assert copies.sizes_of(Context(Device("cuda", "x"), 1.0, quick=True)) == copies.QUICK


def test_a_quick_run_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "QUICK", copies.QUICK[:3])
    fake = machine()
    found, _ = run(fake, 0.05, quick=True)

    assert fake.clock() < 0.4
    assert {m.params["size_bytes"] for m in found} == set(copies.QUICK)


# ---- memory


@pytest.mark.parametrize("function", ["cuMemAlloc_v2", "cuMemHostAlloc"])
def test_memory_that_is_refused_leaves_the_sizes_below(function: str) -> None:
    fake = machine()
    fake.fail(function, 2, at=2)
    found, asked = run(fake)

    assert max(m.params["size_bytes"] for m in found) == SIZES[-2]
    assert asked.warnings == [
        f"copies: sizes above 1 MiB are left out: {function} failed: out of memory (CUDA_ERROR_OUT_OF_MEMORY); "
        "end other processes on this device, or measure less"
    ]


def test_no_more_than_a_quarter_of_what_is_free_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    small = machine(memory_bytes=20 * MIB)
    found, asked = run(small)
    assert max(m.params["size_bytes"] for m in found) == MIB
    assert asked.warnings == ["copies: sizes above 1 MiB are left out: too little memory is free"]

    monkeypatch.setattr(memory, "free_bytes", lambda: 3 * 4 * (1 << 16))
    found, _ = run(machine())
    assert max(m.params["size_bytes"] for m in found) == 1 << 16


def test_no_memory_at_all_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    with pytest.raises(UnavailableError, match="not even 4 B could be allocated: too little memory is free"):
        run(machine())


def test_everything_is_given_back() -> None:
    fake = machine()
    with fake.gpu() as gpu:
        list(copies.run(Context(Device("cuda", "x"), 0.01, clock=fake.clock), gpu))
        assert fake.allocated_bytes == 0
    fake = machine()
    fake.fail("cuMemHostAlloc", 2, at=2)
    with fake.gpu() as gpu:
        with pytest.raises(UnavailableError):
            copy_ways.Buffers(gpu, MIB)
        assert fake.allocated_bytes == 0


# ---- what goes wrong


def test_a_lost_device_is_named_and_what_was_measured_is_kept() -> None:
    fake = machine()
    fake.fail("cuMemcpyAsync", 719, at=3000)
    found = []
    with fake.gpu() as gpu, pytest.raises(DeviceLost, match="the device was lost"):
        for m in copies.run(Context(Device("cuda", "x"), 0.05, clock=fake.clock), gpu):
            found.append(m.params["size_bytes"])

    assert found
    assert set(found) < set(SIZES)


def test_a_way_that_is_refused_costs_only_itself() -> None:
    fake = machine()
    fake.fail("cuStreamWaitEvent", 801, at=1)
    found, asked = run(fake)

    assert ("H2D and D2H", "pinned") not in by_way(found, SIZES[-1])
    assert ("H2D and D2H", "pinned") in by_way(found, SIZES[-2])
    assert len(by_way(found, SIZES[-1])) == len(WAYS) - 1
    assert asked.warnings[0].startswith("copies: H2D and D2H pinned 4 MiB: cuStreamWaitEvent failed")


def test_copies_that_do_not_copy_are_flagged() -> None:
    class Losing(FakeCuda):
        """The copy within the device does nothing."""

        def _copy(self, to: int, source: int, size: int, stream: int) -> int:
            if self._kind(to, size) == self._kind(source, size) == "D":
                source = to
            return super()._copy(to, source, size, stream)

    found, asked = run(Losing(copy_s=copy_s))

    assert all("wrong-result" in m.flags for m in found)
    assert "bytes came back from the GPU other than they were sent" in asked.warnings[0]


# ---- what the way between could carry


def test_pcie_links_carry_what_their_generation_says() -> None:
    assert copies.link_bytes_per_s(3, 16) == pytest.approx(15.75e9, rel=0.001)
    assert copies.link_bytes_per_s(4, 16) == pytest.approx(31.5e9, rel=0.001)
    assert copies.link_bytes_per_s(5, 16) == pytest.approx(63.0e9, rel=0.001)
    assert copies.link_bytes_per_s(1, 1) == pytest.approx(0.25e9)
    assert copies.link_bytes_per_s(17, 16) is None


def _shown(monkeypatch: pytest.MonkeyPatch, *links: tuple[int | None, int | None]) -> None:
    """NVML shows these links one after the other, and the last one from then on."""
    left = list(links)

    def gpu(index: int) -> nvml.Gpu:
        generation, width = left.pop(0) if len(left) > 1 else left[0]
        return nvml.Gpu(0, pcie_generation=generation, pcie_width=width)

    monkeypatch.setattr(environment, "nvml_gpu", gpu)


def _with_link(fake: FakeCuda) -> tuple[list[Measurement], Context]:
    return run(fake, index=0)


def test_rates_stand_beside_the_links(monkeypatch: pytest.MonkeyPatch) -> None:
    _shown(monkeypatch, (5, 16))
    found, asked = _with_link(machine())
    pinned, both, within = (
        by_way(found, SIZES[-1])[way].params
        for way in (("H2D", "pinned"), ("H2D and D2H", "pinned"), ("D2D", "device"))
    )

    assert (pinned["pcie_generation"], pinned["pcie_width"]) == (5, 16)
    assert pinned["theoretical_bytes_per_s"] == pytest.approx(63.0e9, rel=0.001)
    assert pinned["theoretical_fraction"] == pytest.approx(SIZES[-1] / copy_s("H2D", SIZES[-1]) / 63.0e9, rel=0.01)
    assert both["theoretical_bytes_per_s"] == pytest.approx(126.0e9, rel=0.001)
    assert within["theoretical_bytes_per_s"] == pytest.approx(2 * 2.619e9 * 5120 / 8 / 2)
    assert "pcie_width" not in within
    assert asked.warnings == []


def test_a_copy_that_fits_in_l2_is_not_compared_with_the_memory() -> None:
    found, _ = run(machine(attributes={38: 50 * MIB}))

    assert "theoretical_bytes_per_s" not in by_way(found, SIZES[-1])["D2D", "device"].params


def test_a_link_that_fell_asleep_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LINK_FROM_BYTES", 0)
    _shown(monkeypatch, (5, 16), (1, 16))
    found, _ = _with_link(machine())

    assert {m.params["pcie_generation"] for m in found if "pcie_generation" in m.params} == {5}


@pytest.mark.parametrize("link", [(None, None), (5, None), (17, 16)])
def test_what_nvml_does_not_say_is_absent(monkeypatch: pytest.MonkeyPatch, link: tuple[int | None, int | None]) -> None:
    _shown(monkeypatch, link)
    found, _ = _with_link(machine())

    assert not any("pcie_generation" in m.params for m in found)


def test_a_host_that_is_reached_otherwise_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _shown(monkeypatch, (3, 16))
    found, asked = _with_link(machine())

    assert "theoretical_fraction" not in by_way(found, SIZES[-1])["H2D", "pinned"].params
    assert asked.warnings == ["copies: faster than the PCIe link that NVML shows, so the host is reached another way"]


@pytest.mark.gpu
def test_a_real_gpu_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = list(copies.run(Context(environment.cuda_device(0), 3.0, quick=True, index=0)))
    largest = {way: m.value for way, m in by_way(found, copies.QUICK[-1]).items()}

    assert not any(m.flags == ("wrong-result",) for m in found)
    assert 1e9 < largest["H2D", "pageable"] < largest["H2D", "pinned"] * 1.2
    assert largest["D2D", "device"] > largest["H2D", "pinned"]
