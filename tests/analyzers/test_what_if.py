"""A saving is what the step gets shorter by: what hides behind something else saves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import GPU, Event, kernel, launch, op, step, write
from hypothesis import given, settings
from hypothesis import strategies as st
from real_traces import trace_in

from probe.analyzers.critical_path.accuracy import replay_accuracy
from probe.analyzers.critical_path.graph import build
from probe.analyzers.critical_path.replay import Changes, Replay
from probe.analyzers.operators.steps import recorded_steps
from probe.analyzers.plan_of_fixes import plan
from probe.analyzers.what_if import WhatIf, step_time
from probe.readers.kineto import read
from probe.results.findings import Finding
from probe.trace import Trace


def asked(folder: Path, events: list[Event]) -> WhatIf:
    trace = read(write(folder, events, deviceProperties=GPU))
    return WhatIf(trace, recorded_steps(trace))


def row(trace: Trace, name: str) -> int:
    return int(np.flatnonzero(trace.host_ops.name == trace.names.index(name))[0])


def saved_us(what_if: WhatIf, name: str, fraction: float = 1.0, *, host: bool = True) -> float:
    return round(what_if.step_saving_s([row(what_if.trace, name)], fraction, host=host) * 1e6, 3)


def on_one_stream() -> list[Event]:
    """10 µs of host work, then 100 µs of kernels that the host waits for."""
    return [
        step(1, 0, 130),
        op("aten::mm", 0, 5),
        launch(1, 2, 2),
        op("aten::add", 6, 4),
        launch(2, 8, 1),
        launch(3, 12, 108, name="cudaDeviceSynchronize"),
        kernel("gemm", 5, 80, 1),
        kernel("add", 85, 30, 2),
    ]


def test_work_that_the_step_waits_for_saves_its_own_time(tmp_path: Path) -> None:
    what_if = asked(tmp_path, on_one_stream())
    assert what_if.recorded_s == pytest.approx(130e-6)
    assert saved_us(what_if, "aten::add") == 30
    assert saved_us(what_if, "aten::add", 0.5) == 15
    assert saved_us(what_if, "aten::mm", host=False) == 85 - (8 + 3)  # then the second kernel waits for its launch
    assert what_if.saving_s({}) == 0


def test_single_kernels_can_be_changed(tmp_path: Path) -> None:
    trace = asked(tmp_path, on_one_stream()).trace
    assert step_time(trace, Changes()) == pytest.approx(130e-6)
    assert step_time(trace, Changes(kernels={1: 2.0})) == pytest.approx(160e-6)


def test_a_kernel_behind_another_stream_saves_nothing(tmp_path: Path) -> None:
    events = [*on_one_stream(), op("aten::hidden", 10, 2), launch(4, 10, 1), kernel("hidden", 20, 60, 4, stream=9)]
    what_if = asked(tmp_path, events)
    assert saved_us(what_if, "aten::hidden", host=False) == 0
    assert what_if.cap(60e-6, [row(what_if.trace, "aten::hidden")], 60e-6) == pytest.approx(2e-6, abs=2e-6)


def test_kernels_of_a_step_that_dispatches_save_nothing_but_their_dispatch(tmp_path: Path) -> None:
    events = [step(1, 0, 100)]
    for n in range(5):
        events += [op(f"aten::op{n}", 20 * n, 18), launch(n + 1, 20 * n + 5, 5), kernel("k", 20 * n + 8, 9, n + 1)]
    what_if = asked(tmp_path, events)
    assert saved_us(what_if, "aten::op2", host=False) == 0
    assert saved_us(what_if, "aten::op2") == 18


def test_nested_operators_are_taken_once(tmp_path: Path) -> None:
    events = [step(1, 0, 100), op("aten::outer", 10, 50), op("aten::inner", 20, 20), op("aten::last", 70, 10)]
    what_if = asked(tmp_path, events)
    both = {row(what_if.trace, "aten::outer"): 0.0, row(what_if.trace, "aten::inner"): 0.0}
    assert what_if.saving_s(both) == pytest.approx(50e-6)
    assert saved_us(what_if, "aten::inner", 0.5) == 10


def test_what_a_worker_does_counts_where_the_main_thread_waits(tmp_path: Path) -> None:
    turns = [op("aten::fwd", 0, 10), op("aten::bwd", 12, 60, tid=2), op("aten::step", 75, 20)]
    assert saved_us(asked(tmp_path, [step(1, 0, 100), *turns]), "aten::bwd") == 60
    meanwhile = [op("aten::fwd", 0, 95), op("aten::bwd", 12, 60, tid=2)]
    assert saved_us(asked(tmp_path, [step(1, 0, 100), *meanwhile]), "aten::bwd") == 0


def test_a_loop_that_runs_ahead_is_the_devices(tmp_path: Path) -> None:
    """Marks of 20 µs, kernels of 100 µs: only kernels save, until the host is the slower one."""
    events = [launch(99, 70, 250, name="cudaDeviceSynchronize")]
    for n in range(3):
        events += [step(n, 20 * n, 20), op(f"aten::op{n}", 20 * n + 2, 6), launch(n, 20 * n + 5)]
        events += [kernel("k", 10 + 100 * n, 100, n)]
    what_if = asked(tmp_path, events)
    assert what_if.recorded_s == pytest.approx(310e-6 / 3)
    halved = what_if.step_s(Changes(kernels=dict.fromkeys(range(3), 0.5)))
    assert halved == pytest.approx(160e-6 / 3)
    assert what_if.step_s(Changes(kernels=dict.fromkeys(range(3), 0.0))) == pytest.approx(20e-6)


def test_a_cap_leaves_what_no_operator_holds(tmp_path: Path) -> None:
    what_if = asked(tmp_path, on_one_stream())
    assert what_if.cap(None, [0], 1.0) is None
    assert what_if.cap(1e-3, [], 1.0) == 1e-3
    assert what_if.cap(1e-3, [0], 0.0) == 1e-3
    assert what_if.cap(20e-6, [row(what_if.trace, "aten::add")], 30e-6) == pytest.approx(20e-6)


def test_a_long_recording_is_answered_from_its_middle(tmp_path: Path) -> None:
    """The steps in the middle stand for all: the same answer within the rounding of whole steps."""
    events: list[Event] = []
    for n in range(40):
        at = 100 * n
        events += [step(n, at, 100), op("aten::mm", at, 20), launch(2 * n, at + 5), kernel("k", at + 10, 60, 2 * n)]
        events += [launch(2 * n + 1, at + 30, 60, name="cudaStreamSynchronize")]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    graph = build(trace, recorded_steps(trace))
    halved = Changes(kernels=dict.fromkeys(range(40), 0.5))
    whole, middle = Replay(trace, graph), Replay(trace, graph, most_nodes=60)
    assert whole.step_s(halved) == pytest.approx(70e-6)
    assert middle.step_s(halved) == pytest.approx(70e-6, rel=0.02)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20), st.integers(1, 2)), min_size=1, max_size=10),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 40), st.integers(1, 3)), min_size=1, max_size=10),
    st.floats(0, 1),
)
def test_less_work_never_takes_longer(tmp_path_factory, calls, work, kept: float) -> None:  # type: ignore[no-untyped-def]
    """And what is saved is never more than what was taken away."""
    events = [step(1, 0, 150)]
    events += [launch(n, s, d, name=("cudaLaunchKernel", "cudaStreamSynchronize")[k - 1]) for n, (s, d, k) in
               enumerate(calls)]  # fmt: skip
    events += [kernel("k", s, d, n, stream=k) for n, (s, d, k) in enumerate(work)]
    what_if = asked(tmp_path_factory.mktemp("less"), events)
    rows = range(len(what_if.trace.kernels))
    taken = float(what_if.trace.kernels.duration_ns.sum()) / 1e9 * (1 - kept)
    after = what_if.step_s(Changes(kernels=dict.fromkeys(rows, kept)))
    assert what_if.recorded_s - taken - 1e-7 <= after <= what_if.recorded_s + 1e-7


def finding(name: str, saving_s: float | None, effort: str) -> Finding:
    return Finding(
        id=name, code=name, rule=name, title="", summary="", evidence=(), where=None, ops=(), saving_s=saving_s,
        saving_fraction=None, saving_bytes=None, matched="order", replacement=None, how=None, effort=effort,  # type: ignore[arg-type]
    )  # fmt: skip


FOUND = (
    finding("design", 0.4, "design"),
    finding("flag", 0.02, "flag"),
    finding("line", 0.1, "line"),
    finding("function", 0.1, "function"),
    finding("bytes", None, "flag"),
)


def test_the_plan_begins_with_most_gain_for_least_effort() -> None:
    fixes = plan(FOUND, 1.0)
    assert [fix.id for fix in fixes] == ["line", "flag", "function", "design"]
    assert [round(fix.step_after_s, 6) for fix in fixes] == [0.9, 0.88, 0.78, 0.38]
    assert fixes[-1].cumulative_saving_fraction == pytest.approx(0.62)


def test_changes_together_save_what_a_replay_says_within_reason() -> None:
    overlapping = plan(FOUND, 1.0, lambda some: 0.1)  # all the same time
    assert [round(fix.step_after_s, 6) for fix in overlapping] == [0.9, 0.9, 0.9, 0.6]  # one alone saves more
    assert plan(FOUND, 1.0, lambda some: 5.0)[0].step_after_s == pytest.approx(0.9)
    assert plan(FOUND[:1], 0.3)[0].step_after_s == 0
    assert plan(FOUND, 0.0) == ()


def test_delays_that_nothing_explains_are_what_the_dependencies_do_not_foretell(tmp_path: Path) -> None:
    """The second kernel starts 40 µs after the first ended, and nothing it is known to wait for explains that."""
    events = [
        step(1, 0, 200),
        launch(1, 2, 2),
        launch(2, 8, 2),
        launch(3, 12, 180, name="cudaDeviceSynchronize"),
        kernel("gemm", 5, 80, 1),
        kernel("add", 125, 60, 2),
    ]
    what_if = asked(tmp_path, events)
    replay = Replay(what_if.trace, what_if.graph)
    assert what_if.replayed_s == what_if.recorded_s == pytest.approx(200e-6)
    assert replay.undelayed_step_s() == pytest.approx(160e-6, abs=1e-6)


def test_a_wait_for_everything_ends_with_the_work_though_clocks_differ(tmp_path: Path) -> None:
    """The synchronisation seems to end 8 µs before the kernel that it waits for."""
    events = [
        step(1, 0, 120),
        op("aten::mm", 0, 5),
        launch(1, 2, 2, name="hipLaunchKernel"),
        launch(2, 12, 90, name="hipDeviceSynchronize"),
        kernel("gemm", 5, 105, 1),
    ]
    what_if = asked(tmp_path, events)
    assert saved_us(what_if, "aten::mm", 0.5, host=False) == pytest.approx(52.5)


def test_real_steps_are_explained_within_their_target(foreign_traces: Path) -> None:
    """Unchanged, from dependencies alone, and with each kernel at what its kind takes in the other steps."""
    for name in ("a100_training_rank3", "v100_resnet50_training", "mi300x_resnet_checkpointing_rank0"):
        found = replay_accuracy(trace_in(foreign_traces / f"{name}.json.gz"))
        assert abs(found.unchanged) < 0.001
        assert abs(found.explained) < 0.035
        assert found.held_out is not None and abs(found.held_out) < 0.035
