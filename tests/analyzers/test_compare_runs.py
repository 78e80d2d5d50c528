"""Two runs or traces: steps, parts and operators, against figures added up by hand."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from builders import GPU, kernel, launch, op, shapes, step, write
from command_lines import Ran
from golden import assert_golden
from places import SAMPLES

from probe import cli
from probe.analyzers.compare.operators import PerStep, operator_rows
from probe.analyzers.compare.runs import Recorded, compare_runs
from probe.cli import compare as command
from probe.errors import ProbeError
from probe.examine.sides import compare
from probe.machine.device import Device
from probe.report.compare import as_text
from probe.report.compare_html import fragment
from probe.report.compare_markdown import render
from probe.results.comparison import Comparison, Part, Row
from probe.runs import run

CPU = Device(kind="cpu", name="Test CPU", cores=4)
MM, ADD = ("aten::mm", "[4, 8] × [8, 4]", "float"), ("aten::add", "[4, 4]", "float")


def steps_of(mm: Sequence[float], add: Sequence[float], rest: float = 10.0) -> list[Any]:
    """CPU steps of a product and a sum, in microseconds, with `rest` of each outside operators."""
    events, at = [], 0.0
    for number, (product, total) in enumerate(zip(mm, add, strict=True)):
        events += [
            step(number, at, product + total + rest),
            op("aten::mm", at + 1, product, **shapes([4, 8], [8, 4])),
            op("aten::add", at + 2 + product, total, **shapes([4, 4])),
        ]
        at += product + total + rest
    return events


def row_of(found: Comparison, name: str) -> Row:
    [row] = [row for row in found.rows if row.name == name]
    return row


def table(seconds: dict[Any, Sequence[float]], on_device: bool = False) -> PerStep:
    """What per_step makes of a trace, with steps as long as their operators."""
    columns = {key: np.array(values) for key, values in seconds.items()}
    step_s = np.sum(list(columns.values()), axis=0)
    return PerStep(columns, dict.fromkeys(columns, 1.0), step_s, on_device, True)


def test_operators_per_step_are_compared(tmp_path: Path) -> None:
    base = write(tmp_path, steps_of([100, 102, 98, 101, 99, 100], [50] * 6), "base.json")
    new = write(tmp_path, steps_of([50, 51, 49, 50, 50, 50], [50] * 6), "new.json")
    found = compare(base, new)
    product, total = row_of(found, "aten::mm"), row_of(found, "aten::add")
    assert (product.base, product.new) == (pytest.approx(100e-6), pytest.approx(50e-6))
    assert product.delta == pytest.approx(-50e-6)
    assert product.ratio == pytest.approx(2.0)
    assert product.interval == (pytest.approx(98 / 51), pytest.approx(102 / 49))
    assert (product.verdict, product.shapes, product.dtypes) == ("faster", "[4, 8] × [8, 4]", "float")
    assert (total.verdict, total.delta) == ("~", pytest.approx(0.0))
    assert found.rows[0] is product
    assert (found.kind, found.verdict, found.ratio) == ("run", "faster", pytest.approx(160 / 110))
    assert found.explained is not None
    assert (found.explained.operators, found.explained.share_fraction) == (1, pytest.approx(1.0))


def test_parts_add_up_to_the_step(tmp_path: Path) -> None:
    base = write(tmp_path, steps_of([100] * 6, [50] * 6), "base.json")
    new = write(tmp_path, steps_of([100] * 6, [50] * 6, rest=200.0), "new.json")
    found = compare(base, new)
    parts = {name: part for name, part in found.parts.items() if isinstance(part, Part)}
    assert sum(p.delta_s or 0.0 for name, p in parts.items() if name != "step") == pytest.approx(parts["step"].delta_s)
    assert parts["step"].delta_s == pytest.approx(190e-6)
    assert found.verdict == "slower"
    assert found.explained is None
    assert "no operator explains it" in as_text(found)


def test_one_step_decides_nothing(tmp_path: Path) -> None:
    base = write(tmp_path, steps_of([100], [50]), "base.json")
    found = compare(base, write(tmp_path, steps_of([10], [50]), "new.json"))
    assert (found.verdict, found.interval) == ("~", None)
    assert found.reason == "no interval: one sample of BASE and NEW"
    assert {row.verdict for row in found.rows} == {"~"}
    assert any("one step was recorded" in warning for warning in found.warnings)
    assert as_text(found).splitlines()[2].startswith("Whether NEW is faster cannot be told: no interval")


def test_operators_on_one_side_are_new_or_gone(tmp_path: Path) -> None:
    base = write(tmp_path, steps_of([100] * 6, [50] * 6), "base.json")
    other = [e | {"name": "aten::bmm"} if e["name"] == "aten::mm" else e for e in steps_of([100] * 6, [50] * 6)]
    found = compare(base, write(tmp_path, other, "new.json"))
    assert {row.name: row.verdict for row in found.rows} == {"aten::mm": "gone", "aten::bmm": "new", "aten::add": "~"}
    assert row_of(found, "aten::mm").delta == pytest.approx(-100e-6)
    assert row_of(found, "aten::bmm").delta == pytest.approx(100e-6)
    assert found.verdict == "~"


def test_an_operator_that_some_steps_lack_is_not_judged() -> None:
    [row] = operator_rows(table({MM: [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]}), table({MM: [9.0] * 6}))
    assert (row.verdict, row.reason, row.base) == ("~", "it does not run in every step", pytest.approx(0.5))


def test_host_times_have_a_higher_floor_than_device_times() -> None:
    base, new = {MM: [1.03] * 6}, {MM: [1.0] * 6}
    assert operator_rows(table(base), table(new))[0].verdict == "~"
    assert operator_rows(table(base, on_device=True), table(new, on_device=True))[0].verdict == "faster"


def test_three_steps_give_wide_intervals() -> None:
    spread = {MM: [0.9, 1.0, 1.1]}
    assert operator_rows(table(spread), table({MM: [0.7, 0.75, 0.8]}))[0].verdict == "~"
    assert operator_rows(table(spread), table({MM: [0.09, 0.10, 0.11]}))[0].verdict == "faster"


def recorded(bare_ms: Sequence[float], load: float | None = None, **more: Any) -> Recorded:
    environment = {"load_average": [load, load, load]} if load is not None else {}
    return Recorded("runs/x", "run", CPU, "2.13.0", bare_s=np.array(bare_ms) / 1e3, environment=environment, **more)


QUIET, SLOW = [10.0, 10.1, 9.9, 10.0, 10.2, 9.8, 10.0], [13.0, 13.1, 12.9, 13.0, 13.2, 12.8, 13.0]


def test_steps_are_compared_by_their_medians() -> None:
    found = compare_runs(recorded(QUIET), recorded(SLOW))
    assert (found.verdict, found.ratio) == ("slower", pytest.approx(10 / 13))
    assert found.interval == (pytest.approx(9.8 / 13.2), pytest.approx(10.2 / 12.8))
    assert (found.sides.new.steps, found.sides.new.n) == ("bare", 7)
    assert sum("has no trace" in warning for warning in found.warnings) == 2


def test_a_busy_cpu_makes_a_small_change_noise() -> None:
    found = compare_runs(recorded(QUIET, load=6.0), recorded(SLOW, load=0.1))
    assert (found.verdict, found.reason) == ("~", "within the noise of 1.50×")
    assert any("BASE ran on a busy machine, load 6.00 on 4 cores" in warning for warning in found.warnings)
    assert compare_runs(recorded(QUIET, load=3.9), recorded(SLOW, load=0.1)).verdict == "slower"


def test_steps_of_other_work_are_told() -> None:
    found = compare_runs(recorded(QUIET, samples=64.0), recorded(SLOW, samples=128.0))
    assert any("64 samples in BASE, 128 in NEW" in warning for warning in found.warnings)
    assert [(c.what, c.base, c.new) for c in found.changes] == [("samples a step", "64", "128")]


def test_too_few_bare_steps_are_not_compared_with_profiled_ones() -> None:
    profiled = table({MM: [10e-3] * 6})
    found = compare_runs(recorded(QUIET[:3], table=profiled), recorded(SLOW, table=profiled))
    assert (found.sides.base.steps, found.verdict) == ("profiled", "~")
    assert any("BASE has fewer than 6 steps without it" in warning for warning in found.warnings)


def test_a_run_compared_with_itself_has_no_difference() -> None:
    found = compare(SAMPLES / "starved_loader", SAMPLES / "starved_loader")
    assert (found.verdict, found.ratio, found.changes) == ("~", 1.0, ())
    assert {row.verdict for row in found.rows} == {"~"}


def slowed(tmp_path: Path, factor: float, name: str = "slowed") -> Path:
    """The starved sample with every step longer by `factor`, on a quiet machine."""
    folder = tmp_path / name
    shutil.copytree(SAMPLES / "starved_loader", folder)
    content = json.loads((folder / "run.json").read_text())
    content["environment"]["load_average"] = [0.1, 0.1, 0.1]
    content["steps"]["durations_ns"] = [round(ns * factor) for ns in content["steps"]["durations_ns"]]
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_the_bare_steps_of_runs_decide(tmp_path: Path) -> None:
    found = compare(slowed(tmp_path, 1.0, "base"), slowed(tmp_path, 1.3, "new"))
    assert (found.verdict, found.ratio) == ("slower", pytest.approx(1 / 1.3, rel=1e-6))
    assert {row.verdict for row in found.rows} == {"~"}


def test_a_run_without_a_trace_still_has_steps(tmp_path: Path) -> None:
    folder = slowed(tmp_path, 1.3)
    for cycle in run.load(folder).traces:
        cycle[2].unlink()
    found = compare(slowed(tmp_path, 1.0, "base"), folder)
    assert (found.verdict, found.rows) == ("slower", ())
    assert any("NEW has no trace" in warning for warning in found.warnings)
    assert "1.30× slower" in as_text(found)


def test_a_directory_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProbeError) as caught:
        compare(SAMPLES / "starved_loader", tmp_path / "nowhere")
    assert "nowhere" in str(caught.value) and "\n" not in str(caught.value)


def gpu_trace(tmp_path: Path, name: str, scale: float) -> Path:
    """Six steps on a GPU whose product takes `scale` times as long."""
    events: list[Any] = []
    for n in range(6):
        at, took = 200.0 * n, 60 * scale + n
        events += [
            step(n, at, 100 + 60 * scale), op("aten::mm", at + 5, 20, **shapes([4, 8], [8, 4])),
            launch(2 * n + 1, at + 10), kernel("sgemm", at + 20, took, 2 * n + 1),
            op("aten::[x](y)|<i>", at + 40, 10, **shapes([4, 4])), launch(2 * n + 2, at + 42),
            kernel("void add<float>(int)", at + 22 + took, 10, 2 * n + 2),
        ]  # fmt: skip
    return write(tmp_path, events, name, deviceProperties=GPU)


def test_device_time_counts_where_there_is_a_device(tmp_path: Path) -> None:
    found = compare(gpu_trace(tmp_path, "base.json", 1.0), gpu_trace(tmp_path, "new.json", 0.5))
    product = row_of(found, "aten::mm")
    assert (product.base, product.new) == (pytest.approx(62.5e-6), pytest.approx(32.5e-6))
    assert (product.verdict, product.base_calls) == ("faster", 1.0)


def test_a_device_and_none_compare_with_a_warning(tmp_path: Path) -> None:
    found = compare(write(tmp_path, steps_of([100] * 6, [50] * 6), "cpu.json"), gpu_trace(tmp_path, "gpu.json", 1.0))
    assert any("only one of them recorded a device" in warning for warning in found.warnings)
    assert any("BASE ran on" in warning for warning in found.warnings)


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    monkeypatch.chdir(tmp_path)
    gpu_trace(tmp_path, "base.json", 1.0), gpu_trace(tmp_path, "new.json", 0.5)
    return compare("base.json", "new.json")


def test_terminal(found: Comparison) -> None:
    text = as_text(found)
    assert_golden("compare_run.txt", text)
    assert str(found) == text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_markdown(found: Comparison) -> None:
    text = render(found)
    assert_golden("compare_run.md", text)
    assert "<i>" not in text


def test_notebook(found: Comparison) -> None:
    html = fragment(found)
    assert "<i>" not in html and "&lt;i&gt;" in html
    assert found._repr_html_() == html  # type: ignore[attr-defined]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `probe compare …` in-process."""
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command("compare")(command.command)
    monkeypatch.setattr(cli, "app", app)

    def run_it(*arguments: Any) -> Ran:
        code = cli.main(["compare", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run_it


def test_the_command_prints_one_object(call: Any, tmp_path: Path) -> None:
    base, new = gpu_trace(tmp_path, "base.json", 0.5), gpu_trace(tmp_path, "new.json", 1.0)
    ran = call(base, new, "--json", "--md", tmp_path / "report.md")
    assert (ran.code, ran.err) == (0, "")  # slower, and yet 0: gates are another command
    assert (ran.json["schema"], ran.json["kind"], ran.json["verdict"]) == ("probe.compare/1", "run", "slower")
    assert {"name", "shapes", "base", "new", "unit", "ratio", "interval", "verdict"} <= set(ran.json["rows"][0])
    assert "slower" in (tmp_path / "report.md").read_text()


def test_the_command_reports_without_colour_codes(call: Any, tmp_path: Path) -> None:
    base = gpu_trace(tmp_path, "base.json", 1.0)
    ran = call(base, base)
    assert ran.code == 0 and "\x1b" not in ran.out
    assert "No difference beyond noise" in ran.out


def test_mistakes_are_one_line(call: Any, tmp_path: Path) -> None:
    base = gpu_trace(tmp_path, "base.json", 1.0)
    stored = SAMPLES.parent / "microbench" / "results" / "amd_epyc_zen3_2_cores.json"
    call(base, stored).assert_one_line(2, "cannot be compared", "two runs or traces")
    call(base, tmp_path / "nowhere.json").assert_one_line(2, "nowhere.json")
    call(base).assert_one_line(2, "NEW")
