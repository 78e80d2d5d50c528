"""Are published values found for the right device, none for one that was not looked up, and is the verdict right?"""

import dataclasses

import pytest

from probe.machine.device import Device
from probe.microbench.published import cpu as published_cpu
from probe.microbench.published import gpu as published_gpu
from probe.microbench.published import references, verdicts
from probe.results.measurement import Measurement, Reference

CPUINFO = "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nstepping\t: {stepping}\n"
UNITS = {"latency": "s", "time": "s", "bandwidth": "B/s", "busbw": "B/s", "flops_per_s": "FLOP/s"}
METRICS = {
    "cache_latency": "latency",
    "matmul": "flops_per_s",
    "memory_bandwidth": "bandwidth",
    "launch": "time",
    "collectives": "busbw",
}


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping", "expected"),
    [
        ("AuthenticAMD", 0x17, 0x01, 2, published_cpu.ZEN1),
        ("AuthenticAMD", 0x17, 0x31, 0, published_cpu.ZEN2),
        ("AuthenticAMD", 0x19, 0x01, 1, published_cpu.ZEN3),
        ("AuthenticAMD", 0x19, 0x11, 1, published_cpu.ZEN4),
        ("AuthenticAMD", 0x1A, 0x02, 1, None),
        ("GenuineIntel", 6, 0x55, 4, published_cpu.SKYLAKE_SP),
        ("GenuineIntel", 6, 0x55, 7, published_cpu.CASCADE_LAKE),
        ("GenuineIntel", 6, 0x8F, 8, published_cpu.SAPPHIRE),
        ("GenuineIntel", 6, 0x6A, 6, None),
        ("HygonGenuine", 0x18, 0, 1, None),
    ],
)
def test_families(vendor: str, family: int, model: int, stepping: int, expected: object) -> None:
    text = CPUINFO.format(vendor=vendor, family=family, model=model, stepping=stepping)

    assert published_cpu.family(text) is expected


def test_no_family_without_the_fields() -> None:
    assert published_cpu.family("") is None
    assert published_cpu.family("CPU implementer\t: 0x41\n") is None


def _measurement(suite: str, value: float = 1.0, flags: tuple[str, ...] = (), **params: object) -> Measurement:
    metric = METRICS[suite]
    return Measurement(suite, "x", metric, UNITS[metric], value, value, value, (value, value), 8, dict(params), flags)


def _on_gpu(name: str, measurement: Measurement) -> Measurement:
    [found] = references.annotate([measurement], Device("cuda", name), None, None)
    return found


def _range(measurement: Measurement) -> tuple[float, float] | None:
    reference = measurement.reference
    return (reference.low, reference.high) if reference else None


def test_cycles_become_seconds_and_rates_of_all_cores() -> None:
    device = Device("cpu", "x", cores=4, physical_cores=2)
    measured = [
        _measurement("cache_latency", level="L2"),
        _measurement("matmul", dtype="float64"),
        _measurement("matmul", dtype="bfloat16"),
        _measurement("memory_bandwidth", kernel="triad", level="L1", threads=1),
        _measurement("memory_bandwidth", kernel="copy", level="L1", threads=1),
        _measurement("memory_bandwidth", kernel="triad", level="DRAM", threads=1),
    ]
    found = references.annotate(measured, device, published_cpu.ZEN2, 2e9)
    values = [m.reference.high if m.reference else None for m in found]

    assert values == [pytest.approx(6.5e-9), pytest.approx(64e9), None, pytest.approx(192e9), None, None]
    assert found[0].reference is not None
    assert found[0].reference.source == f"AMD Zen 2, {published_cpu.ROME}"


def test_both_ends_of_one_source_are_one_source() -> None:
    [found] = references.annotate([_measurement("cache_latency", level="L1")], Device("cpu", "x"),
                                  published_cpu.ZEN3, 2e9)  # fmt: skip

    assert _range(found) == (pytest.approx(2e-9), pytest.approx(2.5e-9))
    assert found.reference is not None
    assert found.reference.source == f"AMD Zen 3, {published_cpu.SOG_ZEN3}"


def test_an_unknown_core_has_no_references() -> None:
    measured = (_measurement("cache_latency", level="L1"),)

    assert references.annotate(measured, Device("cpu", "x"), None, 2e9) == measured
    assert references.annotate(measured, Device("cpu", "x"), published_cpu.ZEN2, None) == measured


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 271.2),
        ("NVIDIA A100 80GB PCIe", None),  # MAMF has the SXM form only
        ("NVIDIA H100 80GB HBM3", 794.5),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", 794.5),
        ("NVIDIA GH200 480GB", 828.6),
        ("NVIDIA B200", 1745.0),
        ("NVIDIA GB200", 1822.0),
        ("NVIDIA B300 SXM6 AC", 1769.0),
        ("Tesla T4", None),
    ],
)
def test_products_by_the_form_of_the_gpu(name: str, teraflops: float | None) -> None:
    found = _on_gpu(name, _measurement("matmul", dtype="bfloat16"))

    assert _range(found) == (None if teraflops is None else (teraflops * 1e12, teraflops * 1e12))


def test_every_published_gpu_value_is_positive_and_has_a_source() -> None:
    values = [value for gpu in published_gpu.GPUS for published in gpu.values for value in published.values]

    assert len(values) > 60
    assert all(number > 0 and len(source) > 3 for number, source in values)


def test_a_range_over_sources_names_each_with_its_value() -> None:
    found = _on_gpu("NVIDIA H100 80GB HBM3", _measurement("cache_latency", 350e-9, level="DRAM", clock_hz=2e9))

    assert _range(found) == (pytest.approx(285e-9), pytest.approx(417e-9))  # 570 to 834 cycles
    assert found.reference is not None
    assert all(part in found.reference.source for part in ("570 cycles: CUDA Perf", "700 cycles: markdewing", "mt4g"))
    assert found.verdict == "as published"


def test_cycles_without_a_clock_give_no_reference() -> None:
    assert _on_gpu("NVIDIA H200", _measurement("cache_latency", level="L1")).reference is None
    by_cycles = _on_gpu("NVIDIA L40", _measurement("cache_latency", 18e-9, level="L1", cycles=36.0))
    assert _range(by_cycles) == (pytest.approx(18e-9), pytest.approx(18e-9))


def test_dram_values_are_not_those_of_a_cache_and_only_of_the_sizes_named() -> None:
    def low(**params: object) -> float | None:
        found = _on_gpu("NVIDIA H200", _measurement("memory_bandwidth", **params))
        return found.reference.low if found.reference else None

    assert low(kernel="triad", size_bytes=4 << 30) == 3534e9
    assert low(kernel="triad", size_bytes=1 << 20, level="L2") is None
    assert low(kernel="read", size_bytes=20_000_000, level="L2") == 9.7e12
    assert low(kernel="read", size_bytes=58_000_000, level="L2") is None


def test_an_eager_operator_is_not_compared_with_a_bare_kernel() -> None:
    assert _on_gpu("NVIDIA H200", _measurement("launch", operator="add")).reference is None
    assert _on_gpu("NVIDIA H200", _measurement("launch", 2.4e-6, method="stream")).verdict == "as published"


def test_the_best_over_sizes_belongs_to_the_best_size_alone() -> None:
    same = {"operation": "all_reduce", "ranks": 8, "backend": "nccl"}
    rates = {1 << 10: 1e9, 1 << 24: 300e9, 1 << 30: 478e9, 1 << 33: 474e9}
    measured = [_measurement("collectives", rate, size_bytes=size, **same) for size, rate in rates.items()]
    found = references.annotate(measured, Device("cuda", "NVIDIA H200"), None, None)

    assert [m.verdict for m in found] == [None, None, "as published", None]


REFERENCE = Reference(100.0, 120.0, "somebody")


def _judged(value: float, unit: str, *, spread: float = 0.0, flags: tuple[str, ...] = (), **more: object) -> object:
    half = value * spread / 2
    params: dict[str, object] = {key: more.pop(key) for key in ("clocks_event_reasons",) if key in more}
    m = Measurement("s", "x", "m", unit, value, value, value, (value - half, value + half), 8, params, flags)
    return verdicts.judge(m, REFERENCE, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "time", "rate"),
    [
        (89.0, "better", "worse"),
        (91.0, "as published", "as published"),  # 10 % below the range
        (110.0, "as published", "as published"),
        (131.0, "as published", "as published"),
        (133.0, "worse", "better"),
    ],
)
def test_the_range_and_ten_percent(value: float, time: str, rate: str) -> None:
    assert _judged(value, "s")[0] == time  # type: ignore[index]
    assert _judged(value, "B/s")[0] == rate  # type: ignore[index]


def test_what_is_not_known_well_is_not_called_worse() -> None:
    assert _judged(140.0, "s") == ("worse", "unknown")
    assert _judged(140.0, "s", spread=0.2) == ("as published", None)


@pytest.mark.parametrize(
    ("flags", "more", "because"),
    [
        ((), {}, "unknown"),
        (("contended",), {}, "contended"),
        (("emulated", "launch-bound"), {}, "launch-bound"),
        (("throttled", "contended"), {}, "throttled (reason unknown)"),
        (("contended",), {"throttled_by": ("sw_power_cap",)}, "throttled (sw_power_cap)"),
        (("contended",), {"throttled_by": ("gpu_idle",)}, "contended"),
        ((), {"clocks_event_reasons": ["hw_slowdown"], "throttled_by": ("sw_power_cap",)}, "throttled (hw_slowdown)"),
    ],
)
def test_why_it_is_worse(flags: tuple[str, ...], more: dict[str, object], because: str) -> None:
    assert _judged(50.0, "B/s", flags=flags, **more) == ("worse", because)


def test_below_a_theoretical_peak_there_is_no_verdict() -> None:
    assert _judged(95.0, "FLOP/s", peak=True) == ("as published", None)
    assert _judged(80.0, "FLOP/s", peak=True) == (None, "80 % of a theoretical peak")
    assert _judged(140.0, "FLOP/s", peak=True) == ("better", None)


def test_an_implausible_result_is_not_judged() -> None:
    assert _judged(1000.0, "B/s", flags=("implausible",)) == (None, "implausible")


def test_a_cpu_result_gets_its_verdict() -> None:
    slow = _measurement("cache_latency", 9e-9, ("contended",), level="L2")
    found = references.annotate([slow, dataclasses.replace(slow, value=6.5e-9)], Device("cpu", "x"),
                                published_cpu.ZEN2, 2e9)  # fmt: skip

    assert [(m.verdict, m.because) for m in found] == [("worse", "contended"), ("as published", None)]
    assert list(references.judged(found)) == [("as published", 1), ("worse", 1)]
