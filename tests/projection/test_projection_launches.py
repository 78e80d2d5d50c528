"""Fused, replaced, or launched as a graph: each takes away what it says, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import Event, kernel, launch, op, shapes, step, write
from places import SAMPLES

import probe
from probe import cli
from probe.analyzers.critical_path.replay import Changes, Replay
from probe.analyzers.operators.steps import recorded_steps
from probe.analyzers.projection.graph_launch import Launching, as_graphs, graphs_a_step
from probe.analyzers.what_if import WhatIf
from probe.errors import UsageError
from probe.projecting.whatif import WhatIf as Answer
from probe.readers.kineto import read

H100 = [{"id": 0, "name": "NVIDIA H100 80GB HBM3", "computeMajor": 9, "computeMinor": 0, "numSms": 132}]
SIZE = [1 << 26]  # float32: 80 µs to read and 80 to write at 3.35 TB/s
FREE = Launching(0.0, 0.0, 0.0)


def steps(folder: Path, *, calls: int = 4, apart: float = 100, wait_after: int = -1) -> Path:
    """Two steps of short kernels that the host launches one at a time; wait_after: a synchronisation in between."""
    events: list[Event] = []
    for n in range(2):
        begun = n * 2_000
        events.append(step(n, begun, 1_900))
        for call in range(calls):
            at, number = begun + 50 + call * apart, 100 * n + call + 1
            events += [op("aten::mul", at, 40, **shapes([64], [64])), launch(number, at + 10, 5)]
            events.append(kernel("mul", at + 20, 10, number))
            if call == wait_after:
                events.append(launch(90 + 100 * n, at + 45, 10, name="cudaDeviceSynchronize"))
        events.append(launch(95 + 100 * n, begun + 1_000, 10, name="cudaDeviceSynchronize"))
    return write(folder, events, deviceProperties=H100)


def graphed_us(source: Path, costs: Launching = FREE) -> float:
    trace = read(source)
    found = WhatIf(trace, recorded_steps(trace))
    return Replay(trace, as_graphs(trace, found.graph, costs)).step_s(Changes()) * 1e6


def test_a_graph_takes_the_time_between_launches_out_and_keeps_what_is_around(tmp_path: Path) -> None:
    """50 µs before the first operator and 10 in it, 4 kernels of 10 µs; from the last launch on as it was."""
    source = steps(tmp_path)
    trace = read(source)
    recorded = WhatIf(trace, recorded_steps(trace)).recorded_s * 1e6
    from_first_to_last = 3 * 100 + 5
    assert graphed_us(source) == pytest.approx(recorded - from_first_to_last, abs=1)


def test_what_a_graph_costs_is_counted(tmp_path: Path) -> None:
    source = steps(tmp_path)
    assert graphed_us(source, Launching(7e-6, 1e-6, 0)) == pytest.approx(graphed_us(source) + 7 + 4, abs=0.1)


def test_gaps_between_kernels_count_where_the_device_sets_the_pace(tmp_path: Path) -> None:
    events = [step(0, 0, 1000)]
    for call in range(4):
        events += [op("aten::mul", 10 + 5 * call, 4), launch(call + 1, 10 + 5 * call, 2)]
        events.append(kernel("mul", 40 + 202 * call, 200, call + 1))
    events.append(launch(9, 40, 900, name="cudaDeviceSynchronize"))
    source = write(tmp_path, events, deviceProperties=H100)
    saved = graphed_us(source) - graphed_us(source, Launching(0, 0, 1e-6))
    assert saved == pytest.approx(-3, abs=0.1)
    wide = graphed_us(source, Launching(0, 0, 50e-6))
    assert wide == pytest.approx(graphed_us(source) + 3 * 2, abs=0.1)  # no slower than they followed each other


def test_a_wait_for_the_device_ends_a_graph(tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    whole, parted = steps(tmp_path), steps(tmp_path / "cut", wait_after=1)
    counts = []
    for source in (whole, parted):
        trace = read(source)
        counts.append(graphs_a_step(trace, WhatIf(trace, recorded_steps(trace)).graph))
    assert counts == [1.0, 2.0]
    assert graphed_us(parted) > graphed_us(whole) + 40  # the host's way to the next launch stays


def chain(
    folder: Path, *, names: tuple[str, ...] = ("aten::silu", "aten::mm", "aten::mul"), training: bool = False
) -> Path:
    """A step of silu, a small product that has nothing to do with it, and mul of silu's result, twice as marked."""
    inputs = {"aten::silu": (SIZE,), "aten::mm": ([64, 64], [64, 64]), "aten::mul": (SIZE, SIZE), "aten::sum": ([3],)}
    took = {"aten::silu": 200, "aten::mm": 20, "aten::mul": 300, "aten::sum": 5}
    events: list[Event] = []
    for n in range(2):
        at = n * 2_000
        events.append(step(n, at, 1_900))
        begun = at + 100
        for place, name in enumerate(names):
            number = 10 * n + place + 1
            events += [op(name, at + 10 * place, 8, **shapes(*inputs[name])), launch(number, at + 10 * place + 1, 3)]
            events.append(kernel(name[6:], begun, took[name], number))
            begun += took[name]
        events.append(launch(10 * n + 9, at + 60, 1_500, name="cudaDeviceSynchronize"))
    return write(folder, events, deviceProperties=H100)


def test_a_fused_chain_neither_writes_nor_reads_what_is_between(tmp_path: Path) -> None:
    """silu moves 2 and mul 3 tensors; as one they move 3."""
    found = probe.whatif(chain(tmp_path), fuse=[("aten::silu", "aten::mul")]).targets[0]
    rows = {row.name: row for row in found.ops}
    both = rows["aten::silu"].after_s + rows["aten::mul"].after_s
    assert both == pytest.approx(500e-6 * 3 / 5, rel=0.02)
    assert rows["aten::silu"].why == "fused" and rows["aten::mm"].after_s == rows["aten::mm"].before_s
    assert found.speedup > 1
    assert found.step_s == pytest.approx((1_900 - 200) * 1e-6, abs=10e-6)
    low, high = found.interval_s
    assert low <= found.step_s <= high
    assert rows["aten::mul"].interval_s[1] > rows["aten::mul"].after_s  # where only the read falls away


@pytest.mark.parametrize(
    ("fuse", "said"),
    [
        ("aten::mul,aten::silu", "in no step do these follow each other"),
        ("aten::mm,aten::mul", "reads nothing that aten::mm before it writes"),
        ("aten::silu", "name two operators or more"),
        ("aten::silu,", "name two operators or more"),
        ("aten::silu,aten::gone", "no operator of that index or name"),
    ],
)
def test_what_is_no_chain_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fuse: str, said: str
) -> None:
    assert cli.main(["whatif", str(chain(tmp_path)), "--fuse", fuse]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


def test_one_call_is_fused_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fused already by another"):
        probe.whatif(chain(tmp_path), fuse=[("aten::silu", "aten::mul"), ("aten::silu", "aten::mul")])


def test_operators_far_apart_are_no_chain(tmp_path: Path) -> None:
    names = ("aten::silu", *["aten::mm"] * 5, "aten::mul")
    with pytest.raises(UsageError, match="in no step"):
        probe.whatif(chain(tmp_path, names=names), fuse=[("aten::silu", "aten::mul")])


@pytest.mark.parametrize(("told", "after_us"), [("4x", 75), ("60us", 60), ("0.06ms", 60), ("6e-5s", 60)])
def test_an_operator_is_replaced_by_what_is_told_of_another(tmp_path: Path, told: str, after_us: float) -> None:
    found = probe.whatif(chain(tmp_path), replace={"aten::mul": told}).targets[0]
    row = next(row for row in found.ops if row.name == "aten::mul")
    assert row.after_s == pytest.approx(after_us * 1e-6)
    assert found.step_s == pytest.approx((1_900 - 300 + after_us) * 1e-6, abs=1e-6)


@pytest.mark.parametrize("told", ["", "2", "-1x", "0x", "nanx", "1e999x", "x", "fast", "1..2ms"])
def test_absurd_replacements_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], told: str) -> None:
    assert cli.main(["whatif", str(chain(tmp_path)), "--replace", f"aten::mul={told}"]) == 2
    said = capsys.readouterr().err
    assert "say how many times as fast" in said and len(said.splitlines()) == 1


def test_an_operator_is_asked_for_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of --roof, --remove and --replace"):
        probe.whatif(chain(tmp_path), roof=["aten::mul"], replace={"aten::mul": "2x"})


def test_all_of_it_at_once_prints_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--onto", "H200", "--fuse", "aten::silu,aten::mul", "--graph", "--replace", "aten::mm=2x"]
    assert cli.main(["whatif", str(chain(tmp_path)), *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [one] = found["targets"]
    assert one["changed"][-1] == "launched as one CUDA graph"
    assert "aten::silu,aten::mul fused" in one["changed"]
    assert any("no graph was held against a measurement" in text for text in found["warnings"])
    assert sum(one["time_s"][part] for part in one["time_s"] if part != "step") == pytest.approx(one["step_s"])


def test_scripts_get_tables_and_text(tmp_path: Path) -> None:
    found = probe.whatif(chain(tmp_path), onto="all")
    assert isinstance(found, Answer) and found.to_json()["schema"] == "probe.whatif/1"
    assert len(found.to_pandas()) == len(found.targets)
    assert "H200" in str(found) and found._repr_html_().startswith("<pre>")


def test_a_cpu_launches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = SAMPLES / "transformer_step"
    assert cli.main(["whatif", str(sample), "--graph"]) == 2
    told = capsys.readouterr().err
    assert "was recorded on a CPU" in told and len(told.splitlines()) == 1
