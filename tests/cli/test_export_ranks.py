"""Several ranks in one file: one below the other, on one clock, one in memory at a time."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_builders import (
    SECOND,
    events,
    head,
    ranks,
    small_trace,
    table,
)

from probe import api
from probe.errors import UsageError
from probe.export import chrome, targets
from probe.export.outlines import line_up
from probe.export.traces import Traces, named
from probe.readers import formats
from probe.readers.kineto import read
from probe.readers.narrow import Selection
from probe.trace import Annotations, CollectiveCall, Collectives, DeviceWork, Steps, Trace


def test_ranks_stand_one_below_the_other_on_one_clock(tmp_path: Path) -> None:
    written = chrome.write(ranks(5_000, 0, 2_000), tmp_path / "t.json", offsets_ns={1: 1_000, 2: -500})
    assert written.warnings == ()
    found = events(tmp_path / "t.json")
    kernels = [e for e in found if e["cat"] == "kernel"]
    assert [e["ts"] for e in kernels] == [19.002, 15.002, 15.502]
    assert head(tmp_path / "t.json")["baseTimeNanoseconds"] == 1_700_000_000 * SECOND + 1_000
    meta = events(tmp_path / "t.json", "M")
    names = {e["pid"]: e["args"]["name"] for e in meta if e["name"] == "process_name"}
    order = {e["pid"]: e["args"]["sort_index"] for e in meta if e["name"] == "process_sort_index"}
    assert [names[pid] for pid in sorted(order, key=order.__getitem__) if "python" not in names[pid]] == [
        f"rank {rank} {what}" for rank in range(3) for what in ("CPU", "CPU", "GPU 0")
    ]
    assert len(names) == 9


def test_no_number_means_two_things(tmp_path: Path) -> None:
    chrome.write(ranks(0, 1, 2), tmp_path / "t.json")
    found = events(tmp_path / "t.json")
    calls = [e["args"]["correlation"] for e in found if e["cat"].startswith("cuda_")]
    work = [e["args"]["correlation"] for e in found if e["cat"] in ("kernel", "gpu_memset")]
    ids = [e["args"]["External id"] for e in found if e["cat"] == "cpu_op" and "External id" in e["args"]]
    assert len(set(calls)) == len(calls) == 6
    assert sorted(calls) == sorted(work)
    assert len(set(ids)) == len(ids) == 6
    places = {(e["pid"], e["tid"]) for e in found}
    assert len({tid for _, tid in places} | {pid for pid, _ in places}) == 3 * (3 + 3)
    arrows = [e["id"] for e in events(tmp_path / "t.json", "s")]
    assert len(set(arrows)) == len(arrows) == 6
    whole = read(tmp_path / "t.json")
    assert (whole.kernels.launch >= 0).all()
    assert whole.rank is None


def test_real_ranks_in_one_file(foreign_traces: Path, tmp_path: Path) -> None:
    traces = [read(foreign_traces / "v100_dlrm_4_of_8_ranks" / f"rank{rank}.json.gz") for rank in range(4)]
    written = chrome.write(traces, tmp_path / "t.json.gz")
    assert written.warnings == ()
    whole = read(tmp_path / "t.json.gz")
    late = line_up(traces).axis.shifts_ns
    assert sorted(whole.kernels.start_ns) == sorted(
        int(start) + late[i] for i, t in enumerate(traces) for start in t.kernels.start_ns
    )
    launched = {(whole.names[k], whole.names[o]) for k, o in _launched(whole)}
    assert launched == {(t.names[k], t.names[o]) for t in traces for k, o in _launched(t)}


def test_real_ranks_are_set_to_one_clock(foreign_traces: Path) -> None:
    """All-reduces end together: by order among kernels of that name, without probe's matching."""
    traces = [read(foreign_traces / "v100_dlrm_4_of_8_ranks" / f"rank{rank}.json.gz") for rank in range(4)]
    ends = []
    for trace in traces:
        reduces = trace.named(lambda name: "ncclKernel_AllReduce" in name or "ncclAllReduce" in name)
        ends.append(np.sort(trace.kernels.end_ns[reduces[trace.kernels.name]]))
    assert {len(e) for e in ends} == {3}

    def apart(shifts: Sequence[int]) -> list[float]:
        return [abs(float(np.median(e + s - ends[0] - shifts[0]))) for e, s in zip(ends, shifts, strict=True)]

    raw, mended = apart(line_up(traces, {}).axis.shifts_ns), apart(line_up(traces).axis.shifts_ns)
    assert max(mended) <= 1_000 < max(raw)  # whole microseconds were recorded


def _launched(trace: Trace) -> set[tuple[int, int]]:
    """Names of kernels and of the operators that launched them."""
    work = trace.kernels.where(trace.kernels.op >= 0)
    return set(zip(work.name.tolist(), trace.host_ops.name[work.op].tolist(), strict=True))


WRONG = [(0, 1_700_000_000 * SECOND), (1, 10**17), (1_700_000_000 * SECOND, 1_700_000_000 * SECOND + 777)]


@pytest.mark.parametrize("starts", WRONG)
def test_shared_collectives_set_the_clocks(tmp_path: Path, starts: tuple[int, int]) -> None:
    written = chrome.write([small_trace(rank, start) for rank, start in enumerate(starts)], tmp_path / "t.json")
    hours = starts not in WRONG[2:]
    assert written.warnings == ("the wall clocks of the ranks are not of one run; the ranks are set by the collectives"
                                " they share",) * hours  # fmt: skip
    assert [e["ts"] for e in events(tmp_path / "t.json") if e["cat"] == "kernel"] == [15.002, 15.002]
    assert head(tmp_path / "t.json")["baseTimeNanoseconds"] == (0 if hours else starts[0])


def test_where_a_rank_begins_and_what_is_exported_of_it_move_no_clock(tmp_path: Path) -> None:
    early = table(Annotations, [(0, 0, -4_000, 90_000, False), (0, 2, 15_002, 40_000, True)])
    traces = [small_trace(0, 5 * SECOND), small_trace(1, 6 * SECOND, annotations=early)]
    chrome.write(traces, tmp_path / "t.json")
    assert [e["ts"] for e in events(tmp_path / "t.json") if e["cat"] == "kernel"] == [19.002, 19.002]
    assert head(tmp_path / "t.json")["baseTimeNanoseconds"] == 5 * SECOND - 4_000


def alone(rank: int, start: int) -> Trace:
    """A rank without collectives."""
    return small_trace(rank, start, collectives=table(Collectives), kernels=table(DeviceWork))


@pytest.mark.parametrize("starts", [(0, 1_700_000_000 * SECOND), (1, 10**17)])
def test_clocks_of_different_runs_are_not_mixed(tmp_path: Path, starts: tuple[int, int]) -> None:
    written = chrome.write([alone(rank, start) for rank, start in enumerate(starts)], tmp_path / "t.json")
    assert [w.partition(":")[0] for w in written.warnings] == [
        "the clocks of ranks 0–1 could not be set",
        "the wall clocks of the ranks are not of one run; each rank begins at its own start",
    ]
    assert [e["ts"] for e in events(tmp_path / "t.json") if e["cat"] == "gpu_memset"] == [40.0, 40.0]


def test_a_clock_that_cannot_be_set_is_told_and_kept(tmp_path: Path) -> None:
    start = 1_700_000_000 * SECOND
    traces = [*ranks(0, 7_000), alone(2, start + 3_000), alone(4, start + 9_000)]
    traces += [replace(alone(4, start), path="b.json"), replace(alone(0, start), rank=None, path="c.json")]
    written = chrome.write(traces, tmp_path / "t.json")
    assert written.warnings == (
        "the clock of rank 4 could not be set: 2 files are of this rank",
        "the clock of rank 2 could not be set: shares no blocking collective with another rank at hand",
        "c.json: nothing says its rank, so its clock could not be set",
    )
    found = [e["ts"] for e in events(tmp_path / "t.json") if e["cat"] == "gpu_memset"]
    assert found == [40.0, 40.0, 43.0, 49.0, 40.0, 40.0]


def test_ranks_that_only_share_collectives_among_themselves_are_told(tmp_path: Path) -> None:
    other = (CollectiveCall("allreduce", "Float", 10, 10, "1", 2, (2, 3)),)
    traces = [*ranks(0, 7_000), *(replace(t, collective_calls=other) for t in ranks(0, 0, 50, 650)[2:])]
    written = chrome.write(traces, tmp_path / "t.json")
    assert len(written.warnings) == 1
    assert written.warnings[0].startswith("ranks 2–3 are set to the clock of rank 2: they share no blocking collective")
    assert [e["ts"] for e in events(tmp_path / "t.json") if e["cat"] == "kernel"] == [15.002, 15.002, 15.052, 15.052]


# one at a time


def files(folder: Path, *starts: int) -> list[str]:
    """The ranks as files, each with two steps."""
    marks = table(Annotations, [(0, 0, 0, 50_500, False), (6, 0, 50_500, 90_000, False)])
    steps = table(Steps, [(7, 0, 50_500), (8, 50_500, 90_000)])
    for trace in ranks(*starts, annotations=marks, steps=steps, names=(*small_trace().names, "ProfilerStep#8")):
        chrome.write([trace], folder / f"rank{trace.rank}.json")
    return [str(folder / f"rank{rank}.json") for rank in range(len(starts))]


@pytest.mark.parametrize("format", ["chrome", "csv", "json", "parquet"])
@pytest.mark.parametrize("steps", [None, (7, 7)])
def test_one_trace_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, steps: tuple[int, int] | None
) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    seen: list[weakref.ref[Trace]] = []
    read_file = formats.read

    def watched(*arguments: Any) -> Trace:
        assert not any(one() is not None for one in seen)
        trace = read_file(*arguments)
        seen.append(weakref.ref(trace))
        return trace

    monkeypatch.setattr("probe.export.traces.formats.read", watched)
    traces = Traces(named(files(tmp_path, 0, 50, 20)), Selection(steps))
    targets.write(targets.choose("t", f"{tmp_path}/out", format), traces)
    assert len(seen) in ((6, 7) if format != "chrome" else (5, 6))  # twice each, less what was held


@pytest.mark.parametrize("format", ["chrome", "csv", "json"])
def test_reading_one_at_a_time_writes_the_same(tmp_path: Path, format: str) -> None:
    names = files(tmp_path, 0, 50, 20)
    made = {}
    for way, traces in {"all": [read(Path(n)) for n in names], "one": Traces(named(names))}.items():
        target = targets.choose("t", f"{tmp_path}/{way}" + (".json" if format != "csv" else ""), format)
        targets.write(target, traces)
        made[way] = [file.read_bytes() for file in target.files]
    assert made["all"] == made["one"]


def test_clocks_are_those_of_the_whole_recording(tmp_path: Path) -> None:
    """The second step holds no collective; clocks are set all the same."""
    traces = Traces(named(files(tmp_path, 0, 7_000)), Selection((8, 8)))
    lineup = line_up(traces)
    assert len(traces[0].collectives) == 0
    assert lineup.axis.warnings == ()
    assert lineup.axis.shifts_ns[0] == lineup.axis.shifts_ns[1]


def test_progress_counts_ranks(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    traces = Traces(named(files(tmp_path, 0, 1)), progress=lambda *what: told.append(what))
    chrome.write(traces, tmp_path / "t.json", progress=lambda *what: told.append(what))
    assert list(dict.fromkeys(told)) == [
        ("reading ranks", 1, 2), ("reading ranks", 2, 2), ("writing ranks", 1, 2), ("writing ranks", 2, 2),
    ]  # fmt: skip


def test_ranks_are_chosen_by_name_or_by_what_the_traces_say(tmp_path: Path) -> None:
    names = files(tmp_path, 0, 1, 2)
    assert [t.rank for t in api.load_all(tmp_path, ranks={0, 2})] == [0, 2]
    for name, letter in zip(names, "abc", strict=True):
        Path(name).rename(tmp_path / f"{letter}.json")
    assert [t.rank for t in api.load_all(tmp_path, ranks={1})] == [1]
    assert [t.rank for t in api.load_all(tmp_path / "c.json", ranks={2})] == [2]
    with pytest.raises(UsageError, match="no rank 3: there are 0–2"):
        api.load_all(tmp_path, ranks={3, 1})


def test_a_name_says_the_rank_of_a_trace_that_does_not(tmp_path: Path) -> None:
    for rank in (3, 5):
        (tmp_path / f"rank{rank}").mkdir()
        chrome.write([small_trace(None)], tmp_path / f"rank{rank}" / "trace.json")
    assert [t.rank for t in api.load_all(tmp_path)] == [3, 5]


def test_an_offset_for_a_rank_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rank 9"):
        chrome.write(ranks(0, 1), tmp_path / "t.json", offsets_ns={9: 1})
    assert list(tmp_path.iterdir()) == []


def test_traces_of_one_rank_are_told_apart(tmp_path: Path) -> None:
    traces = [
        small_trace(0, path="a/cycle1.json"),
        small_trace(0, path="a/cycle2.json"),
        small_trace(None, path="x.json"),
    ]
    chrome.write(traces, tmp_path / "t.json")
    names = {e["args"]["name"] for e in events(tmp_path / "t.json", "M") if e["name"] == "process_name"}
    assert {"rank 0 cycle1.json GPU 0", "rank 0 cycle2.json GPU 0", "x.json GPU 0"} <= names
