"""Does a run keep the schema's promises, report what it cannot do, and survive an interrupt? With tiny budgets."""

import dataclasses
import json
from collections.abc import Iterator

import pytest

from probe import store
from probe.errors import UnavailableError, UsageError
from probe.machine import environment
from probe.machine.device import Cache, Device
from probe.microbench import ceilings, memory, run
from probe.microbench.run import Options
from probe.microbench.suite import Answer, Context, Suite
from probe.microbench.suites import SUITES
from probe.results.measurement import Measurement, MicrobenchResult
from probe.schema import to_jsonable

CONTRACT_SUITES = (
    "cache_latency memory_bandwidth vector_loads saxpy matmul attention register_banks shared_banks tlb launch copies "
    "collectives storage instructions"
).split()
MEASUREMENT_KEYS = (
    "suite name metric unit value min median interval n params flags reference proof verdict because samples".split()
)


@pytest.fixture(scope="module")
def result() -> Iterator[MicrobenchResult]:
    """Every suite with next to no time, and sizes up to 1 MiB."""
    patch = pytest.MonkeyPatch()
    patch.setattr(memory, "LARGEST_BYTES", 1 << 20)
    patch.setattr(memory, "total_cache_bytes", lambda device: 0)
    tiny = {
        name: dataclasses.replace(suite, answers={"cpu": dataclasses.replace(suite.answers["cpu"], quick_s=0.05)})
        if "cpu" in suite.answers
        else suite
        for name, suite in SUITES.items()
    }
    tiny["collectives"] = Suite("collectives", "?", {"cpu": Answer(lambda context: iter(()), 1, 1)})  # starts processes
    patch.setattr(run, "SUITES", tiny)
    seen: list[tuple[str, float]] = []
    yield run.measure(Options(device="cpu", quick=True), lambda suite, fraction: seen.append((suite, fraction)))
    patch.undo()
    fractions = [round(fraction, 9) for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert seen[-1][1] == pytest.approx(1.0)


def test_keys_are_those_of_the_contract(result: MicrobenchResult) -> None:
    content = json.loads(json.dumps(to_jsonable(result), allow_nan=False))

    assert content["schema"] == "probe.microbench/1"
    assert {"device", "environment", "measurements", "ceilings", "unsupported", "warnings"} <= set(content)
    assert {"kind", "name", "cores", "isa", "caches"} <= set(content["device"])
    assert {"torch", "cuda", "python", "os", "git", "clocks_event_reasons"} <= set(content["environment"])
    for measurement in content["measurements"]:
        assert list(measurement) == MEASUREMENT_KEYS
        low, high = measurement["interval"]
        assert low <= measurement["median"] <= high
    assert {"origin", "device", "dram_bytes_per_s", "flops_per_s", "launch_s", "levels"} <= set(content["ceilings"])


def test_every_suite_is_measured_or_unsupported(result: MicrobenchResult) -> None:
    measured = {m.suite for m in result.measurements} | {"collectives"}  # left out above
    unsupported = {entry.suite: entry.reason for entry in result.unsupported}

    assert sorted(measured | set(unsupported)) == sorted(CONTRACT_SUITES)
    assert not measured & set(unsupported)
    assert unsupported["register_banks"] == "there is nothing to measure on a CPU, only on a CUDA GPU"


def test_latencies_are_by_power_of_two(result: MicrobenchResult) -> None:
    found = [m for m in result.measurements if m.suite == "cache_latency"]
    sizes = [m.params["size_bytes"] for m in found]

    assert sizes == [1 << e for e in range(12, 21)]
    assert all((m.metric, m.unit) == ("latency", "s") and m.value == m.min for m in found)
    assert all(m.params["cycles"] > 0 for m in found)


def test_rates_swap_value_and_min(result: MicrobenchResult) -> None:
    rates = [m for m in result.measurements if m.unit in ("B/s", "FLOP/s")]

    assert {m.suite for m in rates} >= {"memory_bandwidth", "saxpy", "matmul", "storage"}
    assert all(m.min <= m.median <= m.value for m in rates)


def test_ceilings_follow_from_the_measurements(result: MicrobenchResult) -> None:
    derived = result.ceilings
    largest = [m for m in result.measurements if m.params.get("size_bytes") == 1 << 20 and "kernel" in m.params]

    assert derived.origin == "measured"
    assert derived.quick
    assert derived.dram_bytes_per_s in {m.value for m in largest}
    assert {"float32", "float64"} <= set(derived.flops_per_s)
    assert derived.launch_s is not None
    assert derived.levels["L1"].latency_s is not None
    assert derived.measured_at is not None


def test_bandwidth_alone_takes_its_levels_from_the_system() -> None:
    caches = (Cache(1, 32 << 10, 64, 1), Cache(2, 512 << 10, 64, 1), Cache(3, 32 << 20, 64, 2))
    device = Device("cpu", "x", cores=2, caches=caches)
    streams = [
        Measurement(
            "memory_bandwidth",
            "x",
            "bandwidth",
            "B/s",
            rate,
            rate,
            rate,
            (rate, rate),
            8,
            {"kernel": "copy", "size_bytes": size, "threads": 2},
        )
        for size, rate in ((16 << 10, 4e11), (512 << 10, 2e11), (8 << 20, 1e11), (256 << 20, 3e10))
    ]
    levels = ceilings.levels_of(streams, device)
    found = ceilings.derive(ceilings.label(streams, levels, device), levels, device, quick=False)

    assert {name: level.bytes_per_s for name, level in found.levels.items()} == {
        "L1": 4e11, "L2": 2e11, "L3": 1e11, "DRAM": 3e10
    }  # fmt: skip
    assert all(level.latency_s is None for level in found.levels.values())
    assert found.dram_bytes_per_s == 3e10


def test_links_are_the_best_bus_bandwidths_of_nccl() -> None:
    def of(ranks: int, backend: str, rate: float, metric: str = "busbw") -> Measurement:
        params = {"ranks": ranks, "nodes": 1, "backend": backend, "size_bytes": 1 << 26}
        return Measurement("collectives", "all_reduce", metric, "B/s", rate, rate, rate, (rate, rate), 8, params)

    rows = [of(8, "nccl", 4e11), of(8, "nccl", 3e11), of(2, "nccl", 1e11), of(4, "gloo", 9e8), of(8, "nccl", 9e12, "x")]
    found = ceilings.derive(rows, [], Device("cuda", "H100"), quick=False)
    assert found.link_bytes_per_s == {"8": 4e11, "2": 1e11}
    later = dataclasses.replace(found, link_bytes_per_s={"8": 5e11}, dram_bytes_per_s=1e12)
    full = dataclasses.replace(later, flops_per_s={"float32": 1e12}, launch_s=1e-6)
    assert store.combine(found, later).link_bytes_per_s == {"8": 5e11, "2": 1e11}
    assert store.combine(found, full).link_bytes_per_s == {"8": 5e11, "2": 1e11}


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean matmul"):
        run.measure(Options(suites=("matmull",), device="cpu"))


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", ""])
def test_a_device_name_that_is_none(name: str) -> None:
    with pytest.raises(UsageError, match="is not a device"):
        run.find_device(name)


def test_a_missing_device_has_exit_code_4(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(index: int = 0) -> None:
        raise UnavailableError("there is no GPU; use --device cpu")

    monkeypatch.setattr(environment, "cuda_device", none)
    with pytest.raises(UnavailableError) as raised:
        run.measure(Options(device="cuda:3"))

    assert raised.value.exit_code == 4
    assert run.find_device("auto")[0].kind == "cpu"


def _one(context: Context) -> Iterator[Measurement]:
    yield Measurement("launch", "x", "time", "s", 1e-6, 1e-6, 1e-6, (1e-6, 1e-6), 8, {"operator": "add"})


def _interrupted(context: Context) -> Iterator[Measurement]:
    yield from _one(context)
    raise KeyboardInterrupt


def _refused(context: Context) -> Iterator[Measurement]:
    raise UnavailableError("no executable memory")
    yield


def _with(monkeypatch: pytest.MonkeyPatch, *suites: Suite) -> MicrobenchResult:
    monkeypatch.setattr(run, "SUITES", {suite.name: suite for suite in suites})
    return run.measure(Options(device="cpu"))


def test_an_interrupt_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Suite("launch", "?", {"cpu": Answer(_interrupted, 1, 1)})
    second = Suite("matmul", "?", {"cpu": Answer(_one, 1, 1)})
    result = _with(monkeypatch, first, second)

    assert len(result.measurements) == 1
    assert result.ceilings.launch_s == 1e-6
    assert "interrupted in launch" in result.warnings[0]


def test_a_refused_suite_is_unsupported_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _with(monkeypatch, Suite("launch", "?", {"cpu": Answer(_refused, 1, 1)}))

    assert [(entry.suite, entry.reason) for entry in result.unsupported] == [("launch", "no executable memory")]


def test_a_suite_of_another_kind_of_device_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _with(monkeypatch, Suite("copies", "?", {"cuda": Answer(_one, 1, 1)}))

    assert result.unsupported[0].reason == "there is nothing to measure on a CPU, only on a CUDA GPU"
