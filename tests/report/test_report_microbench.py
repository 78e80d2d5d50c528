"""Is the report of a run one screen of 80 columns that says what was found and what is missing?"""

import dataclasses
import io

import pytest
from golden import assert_golden
from measured_machine import DEVICE, KIB, timed, whole_result
from rich.console import Console

from probe.machine.device import Ceilings, Device
from probe.microbench.suites import SUITES
from probe.report.microbench import render, render_suites
from probe.results.measurement import MicrobenchResult


def _rendered(result: MicrobenchResult, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    render(result, Console(file=file, width=80, color_system=None))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_golden() -> None:
    assert_golden("microbench.txt", _rendered(whole_result()))


def test_golden_ascii() -> None:
    assert_golden("microbench_ascii.txt", _rendered(whole_result(), "ascii"))


def test_80_columns_and_no_control_characters() -> None:
    text = _rendered(whole_result())

    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert "[bold]name[/]" in text


@pytest.mark.parametrize("suite", ["cache_latency", "memory_bandwidth", "matmul", "saxpy", "launch"])
def test_a_run_of_one_suite(suite: str) -> None:
    whole = whole_result()
    part = dataclasses.replace(whole, measurements=tuple(m for m in whole.measurements if m.suite == suite))
    text = _rendered(part)

    assert "median" in text


def test_bandwidth_without_levels_is_by_size() -> None:
    streams = [
        timed("memory_bandwidth", "B/s", 4e12, kernel=kernel, size_bytes=1 << 30, threads=None)
        for kernel in ("copy", "triad")
    ]
    result = MicrobenchResult(Device("cuda", "Some GPU", sm_count=132), {}, tuple(streams), Ceilings("measured", "x"))
    text = _rendered(result)

    assert "1 GiB copy" in text
    assert "132 SMs" in text


def test_a_suite_without_rows_of_its_own() -> None:
    curve = [timed("warp_speed", "B/s", 1e9 * (i + 1), size_bytes=KIB << i, engine="left") for i in range(5)]
    others = [dataclasses.replace(timed("doors", "s", 1e-3), name=f"doors {i} " + "long " * 9) for i in range(11)]
    whole = whole_result()
    text = _rendered(dataclasses.replace(whole, measurements=(*whole.measurements, *curve, *others)))

    assert text.count("5.00 GB/s") == 1  # the best of the curve, and no other point of it
    assert "4.00 GB/s" not in text
    assert "  3 more" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_what_cannot_be_true_is_not_shown_as_a_levels_best() -> None:
    rows = [
        timed("memory_bandwidth", "B/s", 9e12, kernel="copy", size_bytes=KIB, threads=1, level="L1",
                  flags=("implausible",)),
        timed("memory_bandwidth", "B/s", 2e11, kernel="add", size_bytes=KIB, threads=1, level="L1"),
    ]  # fmt: skip
    text = _rendered(MicrobenchResult(DEVICE, {}, tuple(rows), Ceilings("measured", "x")))

    assert "L1 add" in text
    assert "L1 copy" not in text


def test_latencies_without_levels_are_shown_all_the_same() -> None:
    rows = [timed("cache_latency", "s", 1e-9 * (i + 1), size_bytes=KIB << i) for i in range(4)]
    text = _rendered(MicrobenchResult(Device("cuda", "Some GPU"), {}, tuple(rows), Ceilings("measured", "x")))

    assert "1.00 ns" in text


def test_an_implausible_row_says_so() -> None:
    whole = whole_result()
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
