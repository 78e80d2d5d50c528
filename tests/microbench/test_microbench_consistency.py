"""Is each impossible result found, by the law it breaks, and does no honest one break any? Made by hand."""

import dataclasses
import json
import math

import pytest
from places import ROOT

from probe.machine.device import Cache, Device
from probe.microbench import consistency
from probe.microbench.consistency import check, plausible
from probe.microbench.published import cpu as published_cpu
from probe.results.measurement import Measurement

RESULTS = ROOT / "microbench" / "results"
CPU = Device("cpu", "x", cores=2, physical_cores=2, caches=(Cache(1, 32768, 64, 1),))
GPU = Device("cuda", "NVIDIA H200", sm_count=132, l2_bytes=60 << 20)
CLOCK_HZ = 3e9
NS = 1e-9


def _row(
    suite: str, metric: str, unit: str, value: float, flags: tuple[str, ...] = (), **params: object
) -> Measurement:
    name = f"{suite} {' '.join(str(v) for v in params.values())}"
    proof = params.pop("proof", None)
    assert proof is None or isinstance(proof, dict)
    return Measurement(suite, name, metric, unit, value, value, value, (value, value), 8, params, flags, proof=proof)


def _latency(level: str, value: float, *flags: str, **params: object) -> Measurement:
    return _row("cache_latency", "latency", "s", value, flags, level=level, **params)


def _stream(level: str, value: float, *flags: str, **params: object) -> Measurement:
    params = {"kernel": "triad", "threads": 1, "level": level, **params}
    return _row("memory_bandwidth", "bandwidth", "B/s", value, flags, **params)


def _product(dtype: str, value: float, **params: object) -> Measurement:
    return _row("matmul", "flops_per_s", "FLOP/s", value, dtype=dtype, **params)


HONEST = (
    _latency("L1", 1.3 * NS, clock_hz=CLOCK_HZ),
    _latency("L2", 4 * NS),
    _latency("L3", 16 * NS),
    _latency("DRAM", 140 * NS),
    _stream("L1", 250e9),
    _stream("L2", 100e9),
    _stream("L3", 60e9),
    _stream("DRAM", 25e9),
    _stream("DRAM", 22e9, kernel="copy", size_bytes=1 << 28),
    _stream("DRAM", 24e9, kernel="read", size_bytes=1 << 28),
    _product("float32", 180e9, threads=2, proof={"fma_loop_flops_per_s_per_core": 95e9}),
    _product("float64", 90e9, threads=2),
    _row("launch", "time", "s", 1.6e-6, operator="add"),
    _row("launch", "time", "s", 40 * NS, operator="python call"),
    _row("saxpy", "bandwidth", "B/s", 150e9, threads=1, implementation="machine code"),
)


def _broken(*rows: Measurement, device: Device = CPU) -> tuple[list[str], tuple[str, ...]]:
    """The names of the implausible ones among `rows`, and the warnings."""
    core = published_cpu.ZEN3 if device.kind == "cpu" else None
    checked = check(rows, device, core, CLOCK_HZ if device.kind == "cpu" else None)
    return [m.name for m in checked.measurements if "implausible" in m.flags], checked.warnings


def test_honest_results_break_no_law() -> None:
    assert _broken(*HONEST) == ([], ())


def test_a_recorded_run_breaks_no_law() -> None:
    content = json.loads((RESULTS / "amd_epyc_zen3_2_cores.json").read_text())
    known = {field.name for field in dataclasses.fields(Measurement)} - {"reference", "flags", "interval"}
    rows = [
        Measurement(**{k: v for k, v in m.items() if k in known}, interval=(m["interval"][0], m["interval"][1]),
                    flags=tuple(m["flags"]))
        for m in content["measurements"]
    ]  # fmt: skip
    device = Device("cpu", "x", cores=2, physical_cores=2, caches=(Cache(1, 32768, 64, 1),))

    assert check(rows, device, published_cpu.ZEN3, content["device"]["clock_hz"]).warnings == ()


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_nothing_takes_no_time(value: float) -> None:
    row = _row("storage", "bandwidth", "B/s", value)

    assert _broken(row)[0] == [row.name]


@pytest.mark.parametrize(("clock", "device"), [(12e9, CPU), (0.2e9, CPU), (5e9, GPU), (0.01e9, GPU)])
def test_a_clock_that_no_chip_has(clock: float, device: Device) -> None:
    row = _latency("L1", 1.3 * NS, clock_hz=clock)

    names, [warning] = _broken(row, device=device)
    assert names == [row.name]
    assert "clock" in warning


def test_a_disturbed_clock_is_not_the_latencys_fault() -> None:
    disturbed = _latency("DRAM", 160 * NS, clock_hz=0.3e9)

    assert _broken(*HONEST, disturbed) == ([], ())


def test_a_clock_that_no_chip_has_bounds_nothing() -> None:
    honest, impossible = _stream("L1", 250e9), _stream("L1", 900e9)

    assert check([honest], CPU, published_cpu.ZEN3, 0.2e9).warnings == ()
    assert check([impossible], CPU, published_cpu.ZEN3, 0.6e9).warnings != ()


def test_a_level_behind_another_answers_later() -> None:
    l1, l2, l3 = _latency("L1", 4 * NS), _latency("L2", 1.3 * NS), _latency("L3", 16 * NS)

    names, [warning] = _broken(l1, l2, l3)
    assert names == [l1.name, l2.name]
    assert "L1 answers in 4.00 ns, L2 behind it in 1.30 ns" in warning
    assert _broken(_latency("L1", 4 * NS, "contended"), l2, l3)[0] == [l1.name]


def test_the_quickest_row_of_a_level_counts() -> None:
    disturbed = _latency("L1", 40 * NS)

    assert _broken(*HONEST, disturbed) == ([], ())


def test_bandwidth_falls_from_level_to_level() -> None:
    l2, l3 = _stream("L2", 50e9), _stream("L3", 80e9)

    names, [warning] = _broken(_stream("L1", 250e9), l2, l3)
    assert names == [l2.name, l3.name]
    assert "passes through L2" in warning
    assert _broken(_stream("L2", 50e9, "contended"), l3)[0] == [l2.name]
    assert _broken(_stream("L2", 75e9), l3) == ([], ())  # within the tolerance
    assert _broken(l2, _stream("L3", 80e9, threads=2)) == ([], ())  # others than those threads


def test_stores_past_the_caches_are_as_slow_in_any_level() -> None:
    past = [
        _stream(level, rate, kernel="write_nt", stores="non-temporal") for level, rate in (("L1", 9e9), ("L2", 20e9))
    ]

    assert _broken(*HONEST, *past) == ([], ())
    ordinary = [_stream(level, rate, kernel="w", stores="ordinary") for level, rate in (("L1", 9e9), ("L2", 20e9))]
    assert _broken(*HONEST, *ordinary)[0]


def test_wide_loads_obey_the_same_laws() -> None:
    def load(level: str, value: float, load_bytes: int) -> Measurement:
        params = {"level": level, "load_bytes": load_bytes, "threads": 1}
        return _row("vector_loads", "bandwidth", "B/s", value, **params)

    l2, l3 = load("L2", 50e9, 32), load("L3", 80e9, 32)
    assert _broken(l2, l3)[0] == [l2.name, l3.name]
    assert _broken(load("L2", 20e9, 8), l3) == ([], ())  # narrower loads are slower wherever they go
    assert _broken(load("L1", 400e9, 32))[0]


def test_no_more_bytes_than_the_pipes_are_wide() -> None:
    row = _stream("L1", 330e9)  # Zen 3: 96 bytes a cycle, 288 GB/s

    names, [warning] = _broken(row, _stream("L1", 560e9, threads=2))
    assert names == [row.name]
    assert "96 bytes a cycle" in warning
    assert check([row], CPU, None, CLOCK_HZ).warnings == ()  # pipes not known
    saxpy = _row("saxpy", "bandwidth", "B/s", 400e9, threads=1)
    assert _broken(saxpy)[0] == [saxpy.name]


def test_a_gpu_does_not_exceed_its_datasheet() -> None:
    dram = _row("memory_bandwidth", "bandwidth", "B/s", 6e12, kernel="triad", size_bytes=1 << 30)
    cached = _row("memory_bandwidth", "bandwidth", "B/s", 6e12, kernel="triad", size_bytes=20 << 20)
    product, honest = _product("bfloat16", 1400e12), _product("float16", 800e12)

    names, warnings = _broken(dram, cached, product, honest, device=GPU)
    assert names == [dram.name, product.name]
    assert all("datasheet" in warning or "H200" in warning or "white paper" in warning for warning in warnings)
    assert _broken(dram, product, device=Device("cuda", "Unheard Of")) == ([], ())


@pytest.mark.parametrize(("rate", "broken"), [(0.2e9, True), (1e9, False), (200e9, False), (300e9, True)])
def test_littles_law(rate: float, broken: bool) -> None:
    stream = _stream("DRAM", rate)

    names, warnings = _broken(_latency("DRAM", 140 * NS), stream)
    assert (names == [stream.name]) is broken
    assert any("Little's law" in warning for warning in warnings) is broken


def test_littles_law_on_a_gpu_counts_its_threads() -> None:
    latency = _latency("DRAM", 400 * NS)

    assert _broken(latency, _stream("DRAM", 4e12), device=GPU) == ([], ())
    assert _broken(latency, _stream("DRAM", 0.1e9), device=GPU)[0]


@pytest.mark.parametrize(
    ("row", "broken"),
    [
        (_product("float32", 240e9, threads=2), True),  # Zen 3: 2 cores × 32 FLOP × 3 GHz = 192 GFLOP/s
        (_product("float64", 120e9, threads=2), True),
        (_product("float32", 205e9, threads=2), False),
        (_product("bfloat16", 900e9, threads=2), False),  # units not known
    ],
)
def test_a_product_within_the_units(row: Measurement, broken: bool) -> None:
    assert bool(_broken(row)[0]) is broken


def test_a_product_within_the_loop_measured_beside_it() -> None:
    row = _product("float32", 300e9, threads=2, proof={"fma_loop_flops_per_s_per_core": 95e9})

    assert check([row], CPU, None, None).warnings
    assert not check([dataclasses.replace(row, value=230e9)], CPU, None, None).warnings


def test_an_fma_loop_within_the_pipes() -> None:
    row = _product("float32", 150e9, threads=2, proof={"fma_loop_flops_per_s_per_core": 150e9})

    names, [warning] = _broken(row)
    assert names == [row.name]
    assert "FMA loop" in warning


def test_a_copy_reads_what_it_writes() -> None:
    copy = _stream("DRAM", 40e9, kernel="copy", size_bytes=1 << 28)
    read = _stream("DRAM", 24e9, kernel="read", size_bytes=1 << 28)

    assert _broken(copy, read)[0] == [copy.name, read.name]
    assert _broken(copy, dataclasses.replace(read, flags=("contended",)))[0] == [read.name]


def test_dispatching_contains_a_call() -> None:
    call = _row("launch", "time", "s", 40 * NS, operator="python call")
    add = _row("launch", "time", "s", 10 * NS, operator="add")

    assert _broken(call, add)[0] == [add.name, call.name] or _broken(call, add)[0] == [call.name, add.name]


def test_a_law_broken_often_is_one_warning_that_counts() -> None:
    rows = [_stream("L1", rate * 1e9) for rate in (400, 500, 600)]

    _, [warning] = _broken(*rows)
    assert warning.startswith("memory_bandwidth: implausible")
    assert warning.endswith("(and 2 more like it)")


def test_ceilings_are_made_of_the_rest() -> None:
    honest, row = _stream("L1", 250e9), _stream("L1", 900e9)
    checked = check([honest, row], CPU, published_cpu.ZEN3, CLOCK_HZ)

    assert plausible(checked.measurements) == (honest,)
    assert len({m.name for m in checked.measurements}) == 1 and len(checked.measurements) == 2


def test_every_law_is_put() -> None:
    functions = {
        function
        for name, function in vars(consistency).items()
        if callable(function) and (getattr(function, "__doc__", "") or "").startswith(("Law:", "Little's law:"))
    }

    assert functions == set(consistency.LAWS)
