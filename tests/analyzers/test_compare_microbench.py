"""Two files of microbenchmarks: what is matched with what, which way is faster, what is noise."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from golden import assert_golden
from places import ROOT, SAMPLES

from probe.analyzers.compare.microbench import compare_microbench
from probe.errors import InputError, UsageError
from probe.examine.sides import compare
from probe.machine.device import Ceilings, Device
from probe.report.compare import as_text
from probe.report.compare_html import fragment
from probe.report.compare_markdown import render
from probe.results.comparison import Comparison, Row, Suite
from probe.results.measurement import Measurement, MicrobenchResult
from probe.schema import to_jsonable

CPU = Device(kind="cpu", name="Test CPU", cores=2, clock_hz=3.0e9)
STORED = ROOT / "microbench" / "results" / "amd_epyc_zen3_2_cores.json"


def latency(size: int, best: float, median: float | None = None, **more: Any) -> Measurement:
    typical = median or best * 1.001
    flags = ("contended",) if typical > 1.05 * best else ()
    params = {"size_bytes": size, "cycles": best * 3e9, "clock_hz": 3e9 + size, "cpu": 1, "level": "L1"}
    return Measurement(
        "cache_latency", f"latency {size}", "latency", "s", best, best, typical, (typical, typical * 1.001), 20,
        params, flags, **more,
    )  # fmt: skip


def bandwidth(kernel: str, threads: int, best: float, spread: float = 1.001) -> Measurement:
    plural = "thread" if threads == 1 else "threads"
    middle = best / spread
    return Measurement(
        "memory_bandwidth", f"{kernel} 4 KiB {threads} {plural}", "bandwidth", "B/s", best, middle / 2, middle,
        (middle / 1.0001, middle), 30, {"kernel": kernel, "size_bytes": 4096, "threads": threads},
    )  # fmt: skip


def product(dtype: str, best: float, shape: list[int], suite: str = "matmul") -> Measurement:
    params = {"dtype": dtype, "shape": shape, "threads": 2, "shapes_tried": 13}
    return Measurement(
        suite, f"{suite} {dtype}", "flops_per_s", "FLOP/s", best, best / 2, best / 1.001,
        (best / 1.002, best / 1.0005), 14, params,
    )  # fmt: skip


def result(*measurements: Measurement, device: Device = CPU, **environment: Any) -> MicrobenchResult:
    return MicrobenchResult(device, {"torch": "2.13.0", **environment}, measurements, Ceilings("measured", device.name))


def compared(base: MicrobenchResult, new: MicrobenchResult) -> Comparison:
    return compare_microbench(base, new, ("base.json", "new.json"))


def row_of(found: Comparison, name: str) -> Row:
    [row] = [row for row in found.rows if row.name.startswith(name)]
    return row


def test_above_one_is_faster_for_times_and_for_rates() -> None:
    base = result(latency(4096, 2e-9), bandwidth("copy", 1, 1e11), product("float32", 2e11, [64]))
    new = result(latency(4096, 1e-9), bandwidth("copy", 1, 2e11), product("float32", 1e11, [64]))
    found = compared(base, new)
    assert row_of(found, "latency").ratio == pytest.approx(2.0)
    assert row_of(found, "copy").ratio == pytest.approx(2.0)
    assert row_of(found, "matmul").ratio == pytest.approx(0.5)
    assert [row.verdict for row in found.rows] == ["faster", "faster", "slower"]
    assert found.ratio == pytest.approx(2 ** (1 / 3))


def test_a_file_compared_with_itself_has_no_difference() -> None:
    found = compare(STORED, STORED)
    assert (found.verdict, found.ratio, found.changes) == ("~", 1.0, ())
    assert {row.verdict for row in found.rows} == {"~"}
    assert len(found.rows) == len(json.loads(STORED.read_text())["measurements"])


def test_everything_a_tenth_faster_on_a_quiet_machine() -> None:
    base = result(*(latency(2**k, 1.1e-9) for k in range(12, 20)), *(bandwidth("copy", t, 1e11) for t in (1, 2)))
    new = result(*(latency(2**k, 1.0e-9) for k in range(12, 20)), *(bandwidth("copy", t, 1.1e11) for t in (1, 2)))
    found = compared(base, new)
    assert {row.verdict for row in found.rows} == {"faster"}
    assert (found.verdict, found.ratio) == ("faster", pytest.approx(1.1))


def test_a_contended_row_is_noise_unless_it_is_beyond_contention() -> None:
    base = result(latency(4096, 1.0e-9, median=1.5e-9))
    inside, beyond = compared(base, result(latency(4096, 0.9e-9))), compared(base, result(latency(4096, 0.5e-9)))
    assert (inside.rows[0].verdict, inside.rows[0].reason) == ("~", "BASE contended")
    assert beyond.rows[0].verdict == "faster"


def test_a_row_is_noise_where_the_rest_of_its_suite_is_moved_further() -> None:
    """A neighbour that was there during the whole of one row leaves it a short range in the wrong place."""
    busy = [latency(2**k, 1.0e-9, median=1.6e-9) for k in range(13, 20)]
    found = compared(result(latency(4096, 1.0e-9), *busy), result(latency(4096, 1.2e-9), *busy))
    assert (row_of(found, "latency 4096").verdict, row_of(found, "latency 4096").interval) == (
        "~", pytest.approx((1 / 1.2 / 1.002001, 1.002001 / 1.2)),
    )  # fmt: skip
    quiet = [latency(2**k, 1.0e-9) for k in range(13, 20)]
    found = compared(result(latency(4096, 1.0e-9), *quiet), result(latency(4096, 1.2e-9), *quiet))
    assert row_of(found, "latency 4096").verdict == "slower"


def test_what_one_side_lacks_is_new_or_gone() -> None:
    found = compared(result(latency(4096, 1e-9), latency(8192, 1e-9)), result(latency(8192, 1e-9), latency(64, 1e-9)))
    assert [(r.name, r.verdict, r.ratio) for r in found.rows] == [
        ("latency 4096", "gone", None), ("latency 8192", "~", 1.0), ("latency 64", "new", None),
    ]  # fmt: skip
    suite = found.parts["cache_latency"]
    assert isinstance(suite, Suite)
    assert (suite.noise, suite.new, suite.gone) == (1, 1, 1)
    assert suite.noise_fraction == 0.01


def test_all_threads_of_one_machine_are_all_threads_of_another() -> None:
    base = result(bandwidth("copy", 1, 1e10), bandwidth("copy", 2, 2e10))
    new = result(bandwidth("copy", 1, 1e10), bandwidth("copy", 64, 2e11), device=Device(kind="cpu", name="Big CPU"))
    found = compared(base, new)
    assert [(r.name, r.ratio) for r in found.rows] == [
        ("copy 4 KiB 1 thread", pytest.approx(1.0)),
        ("copy 4 KiB 2 threads → copy 4 KiB 64 threads", pytest.approx(10.0)),
    ]
    assert any("BASE ran on Test CPU, NEW on Big CPU" in warning for warning in found.warnings)
    assert found.changes[0].what == "device"


def test_the_best_shape_is_an_answer_for_products_and_a_question_elsewhere() -> None:
    products = compared(result(product("float32", 1e11, [64])), result(product("float32", 1e11, [128])))
    assert [row.verdict for row in products.rows] == ["~"]
    others = compared(
        result(product("float32", 1e11, [64], "attention")), result(product("float32", 1e11, [128], "attention"))
    )
    assert [row.verdict for row in others.rows] == ["gone", "new"]


def test_rows_that_look_alike_are_matched_in_their_order() -> None:
    twice = [latency(4096, 1e-9), latency(4096, 3e-9)]
    assert [row.ratio for row in compared(result(*twice), result(*twice)).rows] == [1.0, 1.0]


def test_a_unit_without_a_direction_has_no_verdict() -> None:
    reach = dataclasses.replace(latency(4096, 1e6), unit="entries")
    found = compared(result(reach), result(dataclasses.replace(reach, value=2e6)))
    assert (found.rows[0].verdict, found.rows[0].ratio) == ("~", None)
    assert "neither faster nor slower" in (found.rows[0].reason or "")
    assert found.verdict == "~"


def test_one_sample_decides_nothing() -> None:
    once = dataclasses.replace(latency(4096, 1e-9), n=1)
    found = compared(result(latency(4096, 9e-9)), result(once))
    assert (found.rows[0].verdict, found.rows[0].reason) == ("~", "no interval: one sample of NEW")


def test_what_else_changed_is_told_the_weighty_things_first() -> None:
    base = result(
        latency(4096, 1e-9), git={"commit": "a" * 40, "dirty": False}, python="3.11.7", load_average=[1, 1, 1]
    )
    other = dataclasses.replace(CPU, driver="580.1", clock_hz=2.0e9)
    new = dataclasses.replace(
        result(latency(4096, 1e-9), device=other, git={"commit": "b" * 40, "dirty": True}, python="3.11.8",
               load_average=[1.5, 1, 1], variables={"OMP_NUM_THREADS": "1"}),
    )  # fmt: skip
    told = [(c.what, c.base, c.new) for c in compared(base, new).changes]
    assert told == [
        ("driver", "–", "580.1"), ("clock", "3.00 GHz", "2.00 GHz"), ("git", "a" * 10, "b" * 10 + " with changes"),
        ("python", "3.11.7", "3.11.8"), ("OMP_NUM_THREADS", "–", "1"),
    ]  # fmt: skip


@pytest.fixture
def found() -> Comparison:
    base = result(
        *(latency(2**k, k * 1e-10) for k in range(12, 18)), latency(2**20, 2e-8, median=3e-8),
        bandwidth("copy", 1, 1e11), bandwidth("copy", 2, 2e11), bandwidth("<b>x</b>|y\x1b[31m", 1, 1e11),
        product("float32", 2e11, [64]), torch="2.12.0",
    )  # fmt: skip
    new = result(
        *(latency(2**k, k * 0.8e-10) for k in range(12, 18)),
        bandwidth("copy", 1, 0.7e11), bandwidth("copy", 2, 2.6e11), bandwidth("<b>x</b>|y\x1b[31m", 1, 2e11),
        product("float32", 2.001e11, [128]), product("bfloat16", 4e11, [64]),
    )  # fmt: skip
    return compared(base, dataclasses.replace(new, warnings=("the machine was busy",)))


def test_terminal(found: Comparison) -> None:
    text = as_text(found)
    assert_golden("compare_microbench.txt", text)
    assert "\x1b" not in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_markdown(found: Comparison) -> None:
    text = render(found)
    assert_golden("compare_microbench.md", text)
    assert "<b>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "benchmark" not in line]
    assert all(line.replace("\\|", "").count("|") in (4, 6, 10) for line in rows)


def test_notebook(found: Comparison) -> None:
    html = fragment(found)
    assert "<b>x" not in html and "&lt;b&gt;x" in html
    assert html.count("<tr") == 1 + sum(row.verdict != "~" for row in found.rows)


def test_json_is_that_of_the_contract(found: Comparison) -> None:
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert next(iter(content)) == "schema"
    assert {"schema", "kind", "base", "new", "verdict", "ratio", "interval", "rows", "parts", "warnings"} <= set(
        content
    )
    assert (content["schema"], content["kind"], content["base"]) == ("probe.compare/1", "microbench", "base.json")
    assert {"name", "shapes", "base", "new", "unit", "ratio", "interval", "verdict"} <= set(content["rows"][0])
    assert {row["verdict"] for row in content["rows"]} == {"faster", "slower", "~", "new", "gone"}


def test_pandas_has_the_rows(found: Comparison) -> None:
    assert list(found.to_pandas()["name"]) == [row.name for row in found.rows]


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(to_jsonable(content)))
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"schema": "probe.microbench/2"}, ["probe.microbench/2", "update torch-probe"]),
        ({"schema": "probe.ceilings/1"}, ["probe.ceilings/1", "probe run microbench -o"]),
        ({"schema": "probe.microbench/1", "device": 3}, ["damaged", "measure again"]),
        ('{"schema": "probe.microbench/1", "device": {', ["not whole JSON", "measure again"]),
    ],
)
def test_a_file_that_is_no_good_is_told_in_one_line(tmp_path: Path, content: Any, words: list[str]) -> None:
    bad = write(tmp_path / "bad.json", content)
    with pytest.raises(InputError) as caught:
        compare(STORED, bad)
    assert "\n" not in str(caught.value) and str(bad) in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_a_run_and_microbenchmarks_do_not_compare(tmp_path: Path) -> None:
    run = SAMPLES / "starved_loader"
    with pytest.raises(UsageError, match=r"a run or trace, .* microbenchmarks: they cannot be compared"):
        compare(run, STORED)
