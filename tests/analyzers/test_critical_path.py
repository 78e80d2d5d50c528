"""The critical path runs through host and device, counts every instant once, and its graph reproduces the recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import traces
from builders import GPU, Event, copy, kernel, launch, op, step, write
from hypothesis import given, settings
from hypothesis import strategies as st
from real_traces import trace_in

from probe.analyzers.critical_path.graph import Graph, build
from probe.analyzers.critical_path.host_points import Kind
from probe.analyzers.critical_path.path import critical_path, path_s
from probe.analyzers.critical_path.replay import Replay
from probe.analyzers.operators.steps import cut_by_device, recorded_steps
from probe.readers.kineto import read
from probe.results.analysis import PATH_KINDS
from probe.trace import Trace


def recorded(folder: Path, events: list[Event]) -> Trace:
    return read(write(folder, events, deviceProperties=GPU))


def graph(trace: Trace) -> Graph:
    return build(trace, recorded_steps(trace))


def path_us(trace: Trace) -> dict[str, float]:
    """Microseconds of each kind on the critical path of a step."""
    found = path_s(trace, graph(trace))
    assert tuple(found) == PATH_KINDS
    return {kind: round(s * 1e6, 3) for kind, s in found.items() if s}


def synchronous() -> list[Event]:
    """A step that launches two kernels and waits for them: 10 µs to the first, which runs 50 µs, the second 20 µs."""
    return [
        step(1, 0, 100),
        op("aten::mm", 2, 8),
        launch(1, 5, 3),
        op("aten::add", 12, 6),
        launch(2, 14, 2),
        launch(3, 20, 68, name="cudaStreamSynchronize"),
        kernel("gemm", 10, 50, 1),
        kernel("add", 62, 20, 2),
    ]


def test_a_step_that_waits_is_its_kernels_and_the_way_to_the_first(tmp_path: Path) -> None:
    # Until 2 Python, until 5 the operator; launched at 5, runs at 10; the second 2 µs after it; back on the host at 82,
    # the call returns at 88, and 12 µs pass to the mark.
    found = path_us(recorded(tmp_path, synchronous()))
    assert found == {"python": 2 + 12, "operators": 3, "launch": 5, "kernels": 70, "queue": 2, "sync": 6}


def test_every_instant_is_on_the_path_once(tmp_path: Path) -> None:
    trace = recorded(tmp_path, synchronous())
    found = critical_path(trace, graph(trace))
    assert found.end_ns[0] == 100_000 and found.start_ns[-1] == 0
    assert (found.end_ns[1:] == found.start_ns[:-1]).all()


def test_a_hidden_kernel_is_not_on_the_path(tmp_path: Path) -> None:
    """A short kernel on another stream, under a long one that the host waits for."""
    events = [*synchronous(), launch(4, 16, 2), kernel("hidden", 25, 20, 4, stream=9)]
    trace = recorded(tmp_path, events)
    found = critical_path(trace, graph(trace))
    on_path = {trace.names[trace.kernels.name[row]] for row in found.row[found.what == 4].tolist()}
    assert on_path == {"gemm", "add"}


def test_a_step_that_only_dispatches_is_host(tmp_path: Path) -> None:
    """Kernels that nobody waits for, shorter than what dispatches them."""
    events = [step(1, 0, 100)]
    for n in range(5):
        events += [op("aten::add", 20 * n, 18), launch(n + 1, 20 * n + 5, 5), kernel("add", 20 * n + 8, 2, n + 1)]
    found = path_us(recorded(tmp_path, events))
    assert "kernels" not in found
    assert found["operators"] + found["launch"] + found["python"] == 100


def test_the_backward_thread_is_on_the_path(tmp_path: Path) -> None:
    """The main thread hands over to autograd's and goes on after it."""
    events = [
        step(1, 0, 100),
        op("aten::forward", 0, 10),
        op("aten::backward", 15, 60, tid=2),
        op("aten::step", 80, 15),
    ]
    trace = recorded(tmp_path, events)
    assert path_us(trace) == {"operators": 85, "python": 15}
    kinds = graph(trace).points.kind.tolist()
    assert kinds.count(Kind.HANDED_OVER) == kinds.count(Kind.HANDED_BACK) == 1


def test_another_thread_that_computes_meanwhile_is_not(tmp_path: Path) -> None:
    events = [step(1, 0, 100), op("aten::mm", 0, 90), op("aten::sort", 10, 40, tid=2)]
    assert Kind.HANDED_OVER not in graph(recorded(tmp_path, events)).points.kind.tolist()


def test_a_stream_that_waits_for_another(tmp_path: Path) -> None:
    """A collective after the kernel whose result it sends, and a kernel after the collective."""
    events = [
        step(1, 0, 200),
        op("aten::mm", 0, 30),
        launch(1, 2, 2),
        launch(10, 5, 1, name="cudaStreamWaitEvent"),
        launch(2, 7, 2),
        launch(11, 12, 1, name="cudaStreamWaitEvent"),
        launch(3, 14, 2),
        launch(4, 30, 165, name="cudaDeviceSynchronize"),
        kernel("gemm", 8, 60, 1),
        kernel("ncclDevKernel_AllReduce", 70, 80, 2, stream=9),
        kernel("add", 152, 40, 3),
    ]
    found = path_us(recorded(tmp_path, events))
    assert (found["communication"], found["kernels"], found["queue"]) == (80, 100, 4)


def test_without_recorded_waits_late_work_waited_for_what_ended_meanwhile(tmp_path: Path) -> None:
    events = [
        step(1, 0, 100),
        launch(1, 1),
        launch(2, 3),
        launch(3, 8, 82, name="cudaDeviceSynchronize"),
        kernel("gemm", 5, 40, 1),
        kernel("ncclDevKernel_AllReduce", 46, 40, 2, stream=9),
    ]
    found = path_us(recorded(tmp_path, events))
    assert (found["kernels"], found["communication"]) == (40, 40)


def test_a_full_queue_makes_the_host_wait_for_the_device(tmp_path: Path) -> None:
    """600 kernels of 100 µs: the 601st launch returns when there is room again."""
    events = [step(1, 0, 70_000), launch(999, 61_030, 8_000, name="cudaDeviceSynchronize")]
    for n in range(600):
        events += [launch(n + 1, 2 * n, 1), kernel("k", 10 + 100 * n, 100, n + 1)]
    events += [launch(601, 1_300, 20_000), kernel("last", 60_020, 10, 601)]
    trace = recorded(tmp_path, events)
    blocked = graph(trace)
    row = int(np.argmax(trace.runtime_calls.end_ns - trace.runtime_calls.start_ns == 20_000_000))
    node = int(np.flatnonzero(blocked.points.row == row)[-1])
    assert blocked.bound_by[node] >= len(blocked.points), "it waited for nothing on the device"


def test_a_pageable_copy_holds_its_call(tmp_path: Path) -> None:
    events = [
        step(1, 0, 100),
        launch(1, 2),
        kernel("gemm", 5, 40, 1),
        launch(2, 10, 50, name="cudaMemcpyAsync"),
        copy("Memcpy DtoH (Device -> Pageable)", 46, 10, 2, 4096),
    ]
    found = path_us(recorded(tmp_path, events))
    assert (found["kernels"], found["copies"]) == (40, 10)


def test_a_loop_that_runs_ahead_is_its_kernels(tmp_path: Path) -> None:
    """Two steps of 20 µs by their marks, whose kernels take 100 µs each."""
    events = [step(1, 0, 20), step(2, 20, 20), launch(9, 45, 170, name="cudaDeviceSynchronize")]
    events += [launch(1, 5), kernel("k", 10, 100, 1), launch(2, 25), kernel("k", 110, 100, 2)]
    found = path_us(recorded(tmp_path, events))
    assert found["kernels"] == 100
    assert found["launch"] + found["python"] == pytest.approx(5)


def test_nothing_recorded_has_no_path() -> None:
    trace = traces.trace()
    assert sum(path_s(trace, graph(trace)).values()) == 0
    assert Replay(trace, graph(trace)).step_s() == 0


Row = tuple[int, int, int, int]


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 30), st.integers(1, 2), st.integers(1, 3)), max_size=14),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 40), st.integers(0, 14), st.integers(1, 3)), max_size=14),
)
def test_any_graph_reproduces_its_recording(tmp_path_factory, calls: list[Row], work: list[Row]) -> None:  # type: ignore[no-untyped-def]
    """Whatever was recorded: the walk ends each node when it ended, and the path covers the steps."""
    names = ("cudaLaunchKernel", "cudaStreamSynchronize", "cudaStreamWaitEvent")
    events = [step(1, 5, 60), step(2, 70, 30)]
    events += [launch(n, s, d, tid=t, name=names[k - 1]) for n, (s, d, t, k) in enumerate(calls)]
    events += [op(f"aten::o{n}", s, d + 1, tid=t) for n, (s, d, t, _) in enumerate(calls)]
    events += [kernel("k", s, d, n, stream=k) for s, d, n, k in work]
    trace = recorded(tmp_path_factory.mktemp("graph"), events)
    found = graph(trace)
    assert Replay(trace, found).walk().tolist() == found.end_ns.tolist()
    place = np.argsort(found.order)
    waits = found.bound_by >= 0
    assert (place[found.bound_by[waits]] < place[waits]).all(), "a node stands before what it waited for"
    assert sum(path_s(trace, found).values()) <= 95e-6 * 2 + 1e-12


def test_every_real_recording_is_reproduced(foreign_traces: Path) -> None:
    for file in sorted(foreign_traces.rglob("*.json.gz")):
        trace = trace_in(file)
        found = graph(trace)
        replay = Replay(trace, found, most_nodes=10**9)
        assert replay.walk().tolist() == found.end_ns.tolist(), file
        measured = cut_by_device(trace, recorded_steps(trace)).duration_ns.mean() / 1e9
        assert replay.step_s() == pytest.approx(measured, rel=0.01), file
        assert sum(path_s(trace, found).values()) == pytest.approx(measured, rel=0.01), file
