"""Is the report of a run one screen of 80 columns that says what was found and what is missing?"""

import dataclasses
import io

import pytest
from golden import assert_golden
from rich.console import Console

from probe.machine.device import Ceilings, Device, Level
from probe.microbench.suites import SUITES
from probe.report.microbench import render, render_suites
from probe.results.measurement import Measurement, MicrobenchResult, Reference, Unsupported

KIB, MIB = 1 << 10, 1 << 20
DEVICE = Device("cpu", "Some CPU", cores=2, physical_cores=2, clock_hz=3.24e9)
LATENCIES = {4 * KIB: ("L1", 1.24), 64 * KIB: ("L2", 3.72), 2 * MIB: ("L3", 15.8), 256 * MIB: ("DRAM", 140.0)}
CEILINGS = Ceilings(
    "measured",
    "Some CPU",
    35.4e9,
    {"float32": 189e9, "bfloat16": 3.1e9},
    1.59e-6,
    {
        name: Level(size, ns * 1e-9, rate)
        for (size, (name, ns)), rate in zip(LATENCIES.items(), (561e9, 202e9, 180e9, 35.4e9), strict=True)
    },
    quick=True,
)


def _measured(
    suite: str, unit: str, value: float, *, n: int = 20, flags: tuple[str, ...] = (), **params: object
) -> Measurement:
    worse = value * (1.02 if unit == "s" else 0.98)
    metric = {"s": "latency", "FLOP/s": "flops_per_s"}.get(unit, "bandwidth")
    reference = Reference(value, value * 1.25, "somebody") if suite == "cache_latency" else None
    return Measurement(
        suite,
        f"{suite} x",
        metric,
        unit,
        value,
        min(value, worse),
        worse,
        (worse * 0.99, worse * 1.01),
        n,
        dict(params),
        flags,
        reference,
        verdict="as published" if reference else None,
    )


def _result() -> MicrobenchResult:
    latencies = [
        _measured("cache_latency", "s", ns * 1e-9, size_bytes=size, level=level, cycles=ns * 3.24)
        for size, (level, ns) in LATENCIES.items()
    ]
    streams = [
        _measured(
            "memory_bandwidth", "B/s", rate * threads, kernel="triad", size_bytes=size, threads=threads, level=level
        )
        for (size, (level, _)), rate in zip(LATENCIES.items(), (280e9, 101e9, 90e9, 18e9), strict=True)
        for threads in (1, 2)
    ]
    rest = [
        dataclasses.replace(
            _measured("matmul", "FLOP/s", 189e9, dtype="float32", shape=[512, 512, 512]),
            reference=Reference(250e9, 250e9, "somebody"),
            verdict="worse",
            because="throttled (sw_power_cap)",
        ),
        _measured("matmul", "FLOP/s", 3.1e9, flags=("contended", "emulated"), dtype="bfloat16", shape=[256, 1024, 256]),
        _measured("saxpy", "B/s", 59e9, implementation="machine code", threads=2, size_bytes=64 * MIB),
        _measured("saxpy", "B/s", 12e9, implementation="numpy", threads=1, size_bytes=64 * MIB),
        _measured("saxpy", "B/s", 99e9, implementation="numpy", threads=1, size_bytes=256 * KIB),
        _measured("launch", "s", 1.59e-6, n=3, operator="add"),
    ]
    unsupported = (Unsupported("tlb", "not implemented yet"), Unsupported("copies", "not implemented yet"))
    warnings = ("cache_latency: L3 looks like 4 MiB, the system reports 32 MiB", "a [bold]name[/] with \x1b markup")
    environment = {"torch": "2.13.0"}
    return MicrobenchResult(DEVICE, environment, (*latencies, *streams, *rest), CEILINGS, unsupported, warnings)


def _rendered(result: MicrobenchResult, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    render(result, Console(file=file, width=80, color_system=None))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_golden() -> None:
    assert_golden("microbench.txt", _rendered(_result()))


def test_golden_ascii() -> None:
    assert_golden("microbench_ascii.txt", _rendered(_result(), "ascii"))


def test_80_columns_and_no_control_characters() -> None:
    text = _rendered(_result())

    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert "[bold]name[/]" in text


@pytest.mark.parametrize("suite", ["cache_latency", "memory_bandwidth", "matmul", "saxpy", "launch"])
def test_a_run_of_one_suite(suite: str) -> None:
    whole = _result()
    part = dataclasses.replace(whole, measurements=tuple(m for m in whole.measurements if m.suite == suite))
    text = _rendered(part)

    assert "median" in text


def test_bandwidth_without_levels_is_by_size() -> None:
    streams = [
        _measured("memory_bandwidth", "B/s", 4e12, kernel=kernel, size_bytes=1 << 30, threads=None)
        for kernel in ("copy", "triad")
    ]
    result = MicrobenchResult(Device("cuda", "Some GPU", sm_count=132), {}, tuple(streams), Ceilings("measured", "x"))
    text = _rendered(result)

    assert "1 GiB copy" in text
    assert "132 SMs" in text


def test_a_suite_without_rows_of_its_own() -> None:
    curve = [_measured("warp_speed", "B/s", 1e9 * (i + 1), size_bytes=KIB << i, engine="left") for i in range(5)]
    others = [dataclasses.replace(_measured("doors", "s", 1e-3), name=f"doors {i} " + "long " * 9) for i in range(11)]
    whole = _result()
    text = _rendered(dataclasses.replace(whole, measurements=(*whole.measurements, *curve, *others)))

    assert text.count("5.00 GB/s") == 1  # the best of the curve, and no other point of it
    assert "4.00 GB/s" not in text
    assert "  3 more" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_what_cannot_be_true_is_not_shown_as_a_levels_best() -> None:
    rows = [
        _measured("memory_bandwidth", "B/s", 9e12, kernel="copy", size_bytes=KIB, threads=1, level="L1",
                  flags=("implausible",)),
        _measured("memory_bandwidth", "B/s", 2e11, kernel="add", size_bytes=KIB, threads=1, level="L1"),
    ]  # fmt: skip
    text = _rendered(MicrobenchResult(DEVICE, {}, tuple(rows), Ceilings("measured", "x")))

    assert "L1 add" in text
    assert "L1 copy" not in text


def test_latencies_without_levels_are_shown_all_the_same() -> None:
    rows = [_measured("cache_latency", "s", 1e-9 * (i + 1), size_bytes=KIB << i) for i in range(4)]
    text = _rendered(MicrobenchResult(Device("cuda", "Some GPU"), {}, tuple(rows), Ceilings("measured", "x")))

    assert "1.00 ns" in text


def test_an_implausible_row_says_so() -> None:
    whole = _result()
    rows = [dataclasses.replace(m, flags=("implausible",), verdict=None) for m in whole.measurements[:1]]
    text = _rendered(dataclasses.replace(whole, measurements=tuple(rows)))

    assert "implausible" in text
    assert "as published" not in text


def test_nothing_measured() -> None:
    assert "No roofline" in _rendered(MicrobenchResult(DEVICE, {}, (), Ceilings("measured", "x")))


def test_the_list_of_suites_names_all() -> None:
    file = io.StringIO()
    render_suites(SUITES, Console(file=file, width=80))

    assert all(name in file.getvalue() for name in SUITES)
