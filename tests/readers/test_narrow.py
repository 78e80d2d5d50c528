"""A part of a trace is that part, whole calls and all, and still a trace."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
import traces
from hypothesis import given, settings
from hypothesis import strategies as st
from real_traces import trace_in

from probe.errors import InputError
from probe.readers import kineto, kineto_text
from probe.readers.narrow import CATEGORIES, Selection, narrow
from probe.trace import Quality, Trace


def rows(table: Any) -> list[dict[str, int]]:
    names, columns = zip(*table.columns(), strict=True)
    return [dict(zip(names, (int(v) for v in values), strict=True)) for values in zip(*columns, strict=True)]


def overlaps(row: dict[str, int], start: int, end: int) -> bool:
    if row["start_ns"] == row["end_ns"]:
        return start <= row["start_ns"] < end
    return max(row["start_ns"], start) < min(row["end_ns"], end)


def expected(trace: Trace, start: int, end: int) -> dict[str, list[dict[str, int]]]:
    """The rows that remain, by looking at one after another; indices are those of the whole trace."""
    ops, calls, kernels, copies = map(rows, (trace.host_ops, trace.runtime_calls, trace.kernels, trace.copies))
    kept_ops = set()
    for i in range(len(ops)):
        root = i
        while ops[root]["parent"] >= 0:
            root = ops[root]["parent"]
        if overlaps(ops[root], start, end):
            kept_ops.add(i)
    kept_calls = {i for i, c in enumerate(calls) if overlaps(c, start, end) or c["op"] in kept_ops}
    started = {i for i, c in enumerate(calls) if start <= c["start_ns"] < end}

    def work(table: list[dict[str, int]]) -> set[int]:
        return {
            i for i, w in enumerate(table) if overlaps(w, start, end) or w["launch"] in started or w["op"] in kept_ops
        }

    kept = {"op": kept_ops, "parent": kept_ops, "launch": kept_calls, "kernel": work(kernels)}

    def chosen(table: list[dict[str, int]], numbers: set[int]) -> list[dict[str, int]]:
        cut = []
        for i in sorted(numbers):
            row = dict(table[i])
            for key, there in kept.items():
                if key in row and row[key] not in there:
                    row[key] = -1
            cut.append(row)
        return cut

    marks, told, steps = map(rows, (trace.annotations, trace.collectives, trace.steps))
    return {
        "host_ops": chosen(ops, kept_ops),
        "runtime_calls": chosen(calls, kept_calls),
        "kernels": chosen(kernels, kept["kernel"]),
        "copies": chosen(copies, work(copies)),
        "annotations": [m for m in marks if overlaps(m, start, end)],
        "collectives": chosen(
            told, {i for i, c in enumerate(told) if c["op"] in kept_ops or c["kernel"] in kept["kernel"]}
        ),
        "steps": [s for s in steps if start <= s["start_ns"] and s["end_ns"] <= end],
    }


def unnumbered(whole: Trace, part: dict[str, list[dict[str, int]]]) -> dict[str, list[dict[str, int]]]:
    """Rows with what tells the referred row apart in place of its number."""
    tables = {"op": "host_ops", "parent": "host_ops", "launch": "runtime_calls", "kernel": "kernels"}
    seen = {name: rows(getattr(whole, name)) for name in set(tables.values())}
    key = {"host_ops": "external_id", "runtime_calls": "correlation", "kernels": "correlation"}

    def named(row: dict[str, int]) -> dict[str, int]:
        return {k: v if k not in tables or v < 0 else seen[tables[k]][v][key[tables[k]]] for k, v in row.items()}

    return {name: [named(row) for row in table] for name, table in part.items()}


EARLY = "{} device activities were launched before the part that was read"
TABLES = ("host_ops", "runtime_calls", "kernels", "copies", "annotations", "collectives", "steps")


def check(trace: Trace) -> None:
    """The invariants, and that every index refers to a row."""
    trace.check()
    for table, n in (("op", len(trace.host_ops)), ("kernel", len(trace.kernels))):
        index = getattr(trace.collectives, table)
        assert ((index >= -1) & (index < n)).all()
    assert (trace.runtime_calls.op < len(trace.host_ops)).all()


@settings(max_examples=200)
@given(trace=traces.drawn(), edges=st.tuples(st.integers(-5, 90), st.integers(-5, 90)))
def test_a_window_keeps_what_one_finds_by_hand(trace: Trace, edges: tuple[int, int]) -> None:
    start, end = min(edges), max(edges) + 1
    wanted = expected(trace, start, end)
    try:
        part = narrow(trace, Selection(window_ns=(start, end)))
    except InputError:
        assert not any(wanted[name] for name in TABLES[:5])
        return
    check(part)
    found = {name: rows(getattr(part, name)) for name in TABLES}
    assert unnumbered(part, found) == unnumbered(trace, wanted)


@settings(max_examples=100)
@given(trace=traces.drawn(), categories=st.sets(st.sampled_from(sorted(CATEGORIES)), min_size=1, max_size=5))
def test_only_the_chosen_kinds_remain(trace: Trace, categories: set[Any]) -> None:
    part = narrow(trace, Selection(categories=frozenset(categories)))
    check(part)
    homes = dict(zip(("ops", "runtime", "kernels", "copies", "annotations", "collectives"), TABLES, strict=False))
    for category, table in homes.items():
        whole, left = getattr(trace, table), getattr(part, table)
        if category == "collectives" and category in categories:
            assert len(left) == int(((whole.op >= 0) | (whole.kernel >= 0)).sum())
        elif category in categories:
            assert len(left) == len(whole)
        elif "collectives" not in categories or category not in ("ops", "kernels"):
            assert len(left) == 0
    assert len(part.steps) == len(trace.steps)


def test_collectives_alone_bring_their_operators_and_kernels() -> None:
    part = narrow(traces.busy(), Selection(categories=frozenset({"collectives"})))
    check(part)
    assert part.host_ops.start_ns.tolist() == [22, 40]
    assert part.kernels.start_ns.tolist() == [27]
    assert part.collectives.op.tolist() == [0, 1] and part.collectives.kernel.tolist() == [0, -1]
    assert len(part.runtime_calls) == len(part.copies) == len(part.annotations) == 0


@settings(max_examples=100)
@given(trace=traces.drawn())
def test_a_window_over_everything_keeps_everything(trace: Trace) -> None:
    if trace.span_ns == (0, 0):
        return
    start, end = trace.span_ns
    part = narrow(trace, Selection(window_ns=(start, end + 1)))
    for name in TABLES:
        wanted = rows(getattr(trace, name))
        if name == "collectives":
            wanted = [row for row in wanted if (row["op"], row["kernel"]) != (-1, -1)]
        if name != "steps":
            assert rows(getattr(part, name)) == wanted, name


@settings(max_examples=50)
@given(trace=traces.drawn(), edges=st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_a_window_leaves_the_given_trace_and_the_origin_alone(trace: Trace, edges: tuple[int, int]) -> None:
    before = {name: rows(getattr(trace, name)) for name in TABLES}
    try:
        part = narrow(trace, Selection(window_ns=(min(edges), max(edges) + 1)))
    except InputError:
        return
    assert {name: rows(getattr(trace, name)) for name in TABLES} == before
    assert part.start_unix_ns == trace.start_unix_ns
    assert part.names is trace.names and part.signatures is trace.signatures
    whole = {row["external_id"]: (row["start_ns"], row["end_ns"], row["self_ns"]) for row in before["host_ops"]}
    assert all(
        whole[row["external_id"]] == (row["start_ns"], row["end_ns"], row["self_ns"]) for row in rows(part.host_ops)
    )


def test_the_work_of_the_last_operators_is_kept_though_the_device_runs_it_later() -> None:
    part = narrow(traces.busy(), Selection(steps=(4, 4)))
    check(part)
    assert part.steps.number.tolist() == [4]
    assert part.host_ops.start_ns.tolist() == [22, 5]  # and the operator of the other thread that reaches in
    assert part.kernels.start_ns.tolist() == [16, 27]  # the first still runs in the window, its operator lies before
    assert part.kernels.op.tolist() == [-1, 0] and part.kernels.launch.tolist() == [-1, 0]
    assert part.kernels.end_ns.max() == 41  # step 4 ends at 39
    assert part.collectives.kernel.tolist() == [1]


def test_a_call_inside_the_window_keeps_its_work_without_an_operator() -> None:
    part = narrow(traces.busy(), Selection(window_ns=(52, 54)))
    assert part.copies.start_ns.tolist() == [55]
    assert part.copies.launch.tolist() == [0]


def test_an_operator_that_reaches_in_is_whole_with_its_calls_and_device_work() -> None:
    part = narrow(traces.busy(), Selection(window_ns=(19, 20)))
    check(part)
    assert part.host_ops.start_ns.tolist() == [0, 2, 12, 5]
    assert part.host_ops.self_ns.tolist() == [6, 8, 6, 40]
    assert part.runtime_calls.start_ns.tolist() == [4, 13]
    assert part.kernels.start_ns.tolist() == [8, 16]


def test_steps_and_window_narrow_each_other() -> None:
    both = narrow(traces.busy(), Selection(steps=(3, 4), window_ns=(21, 100)))
    assert both.steps.number.tolist() == [4]


def test_steps_need_not_follow_each_other() -> None:
    assert narrow(traces.busy(), Selection(steps=(4, 7))).steps.number.tolist() == [4, 7]


def test_parts_of_real_traces(foreign_traces: Path) -> None:
    paths = sorted(foreign_traces.glob("*.json.gz"))
    assert paths
    for path in paths:
        trace = trace_in(path)
        start, end = trace.span_ns
        selections = [Selection(steps=(int(n), int(n))) for n in trace.steps.number[:3]]
        selections.append(Selection(window_ns=(start + (end - start) // 3, start + 2 * (end - start) // 3)))
        for selection in selections:
            part = narrow(trace, selection)
            check(part)
            first, last = selection.window_ns or (int(part.steps.start_ns[0]), int(part.steps.end_ns[0]))
            for name in TABLES[:5]:
                whole, left = getattr(trace, name), getattr(part, name)
                inside = (whole.start_ns >= first) & (whole.end_ns <= last)
                assert set(whole.start_ns[inside]) <= set(left.start_ns), (path.name, name)


def test_everything_is_the_trace_itself() -> None:
    trace = traces.busy()
    assert narrow(trace, Selection()) is trace
    assert narrow(trace, Selection(categories=CATEGORIES)) is trace
    assert Selection().everything and not Selection(steps=(1, 1)).everything


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (Selection(steps=(4, 4)), "step 4 (21 ns to 39 ns)"),
        (Selection(steps=(3, 7)), "steps 3 to 7 (0 s to 60 ns)"),
        (Selection(window_ns=(5, 40)), "5 ns to 40 ns"),
        (Selection(categories=frozenset({"kernels", "ops"})), "ops and kernels"),
        (Selection(window_ns=(-5, 40), categories=frozenset({"copies"})), "-5 ns to 40 ns, copies"),
    ],
)
def test_one_warning_says_what_the_figures_cover(selection: Selection, said: str) -> None:
    trace = traces.busy()
    part = narrow(trace, selection)
    assert part.warnings[:-1] in (trace.warnings, (*trace.warnings, EARLY.format(1)))
    assert part.warnings[-1] == f"the figures cover a part of the trace: {said}"


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (Selection(steps=(5, 7)), "no step 5; choose from 3–4, 7"),
        (Selection(steps=(3, 9)), "no step 9; choose from 3–4, 7"),
        (Selection(steps=(7, 3)), "run backwards"),
        (Selection(window_ns=(9, 9)), "is empty; the trace covers 0 s to 60 ns"),
        (Selection(window_ns=(9, 3)), "is empty"),
        (Selection(steps=(3, 3), window_ns=(30, 40)), "is empty"),
        (Selection(window_ns=(61, 99)), "nothing from 61 ns to 99 ns; the trace covers 0 s to 60 ns"),
        (Selection(categories=frozenset()), "no kind of rows chosen; choose from ops, runtime, kernels"),
    ],
)
def test_what_cannot_be_selected_is_told(selection: Selection, said: str) -> None:
    with pytest.raises(InputError) as told:
        narrow(traces.busy(), selection)
    assert said in str(told.value) and traces.busy().path in str(told.value) and "\n" not in str(told.value)


def test_a_trace_without_steps_says_so() -> None:
    with pytest.raises(InputError, match="it has no steps; choose a window of time"):
        narrow(dataclasses.replace(traces.busy(), steps=traces.steps([])), Selection(steps=(1, 1)))


def test_deep_nesting_is_followed_to_its_root() -> None:
    depth = 37
    nested = traces.host_ops([(0, i, 100 - i, i - 1) for i in range(depth)])
    trace = traces.trace(host_ops=nested, collectives=traces.collectives([(depth // 2, -1)]))
    assert len(narrow(trace, Selection(window_ns=(0, 1))).host_ops) == depth
    chosen = narrow(trace, Selection(categories=frozenset({"collectives"})))
    assert chosen.host_ops.start_ns.tolist() == list(range(depth // 2, depth))
    check(chosen)


def test_many_runs_of_steps_are_cut_short() -> None:
    numbered = traces.steps([(2 * i, i, i + 1) for i in range(40)])
    with pytest.raises(InputError, match=r"no step 1; choose from 0, 2, .*, 22, …$"):
        narrow(traces.trace(steps=numbered), Selection(steps=(1, 2)))


def test_index_columns_keep_their_type() -> None:
    part = narrow(traces.busy(), Selection(steps=(3, 3)))
    for table in (getattr(part, name) for name in TABLES):
        whole = dict(getattr(traces.busy(), next(n for n in TABLES if type(getattr(part, n)) is type(table))).columns())
        assert all(column.dtype == np.dtype(whole[name].dtype) for name, column in table.columns())


def counted_by_hand(whole: Trace, part: Trace) -> dict[str, int]:
    """The counts of quality that are those of rows, by looking at one row after another."""
    calls = {(row["start_ns"], row["correlation"]) for row in rows(part.runtime_calls)}
    work = [*rows(part.kernels), *rows(part.copies)]
    done = {row["correlation"] for row in (*rows(whole.kernels), *rows(whole.copies))}
    ids = [row["external_id"] for row in rows(part.host_ops)]
    overlapping = 0
    for table in (part.kernels, part.copies):  # on one stream, all of them
        row = sorted(rows(table), key=lambda r: r["start_ns"])
        overlapping += sum(any(b["end_ns"] > a["start_ns"] for b in row[:i]) for i, a in enumerate(row))
    launched = whole.on_device and "cudaLaunchKernel" in whole.names
    return {
        "unlaunched": sum(row["launch"] < 0 for row in work),
        "unattributed": sum(row["op"] < 0 for row in work),
        "duplicated": len(ids) - len(set(ids)),
        "overlapping": overlapping,
        "unfinished": sum(correlation not in done for _, correlation in calls) if launched else 0,
        "replayed": 0,
    }


@settings(max_examples=150)
@given(trace=traces.drawn(), edges=st.tuples(st.integers(-5, 90), st.integers(-5, 90)))
def test_the_quality_of_a_part_counts_its_own_rows(trace: Trace, edges: tuple[int, int]) -> None:
    trace = dataclasses.replace(trace, quality=dataclasses.replace(trace.quality, unlaunched=77, overlapping=77))
    try:
        part = narrow(trace, Selection(window_ns=(min(edges), max(edges) + 1)))
    except InputError:
        return
    found = dataclasses.asdict(part.quality)
    wanted = counted_by_hand(trace, part)
    assert {name: found[name] for name in wanted} == wanted
    of_file = ("events", "dropped", "clamped", "unknown_devices", "truncated")
    assert all(found[name] == getattr(trace.quality, name) for name in of_file)
    early = sum(int(((w.launch < 0) & (w.correlation >= 0)).sum()) for w in (part.kernels, part.copies))
    told = len(trace.runtime_calls) and early
    assert (EARLY.format(early) in part.warnings) == bool(told)


def test_left_out_kinds_of_rows_change_no_count() -> None:
    """A kernel whose launch was not asked for has one nevertheless."""
    trace = narrow(traces.busy(), Selection(window_ns=(19, 20)))
    kernels = narrow(traces.busy(), Selection(window_ns=(19, 20), categories=frozenset({"kernels"})))
    assert kernels.quality == trace.quality
    assert kernels.quality.unlaunched == 0
    assert narrow(traces.busy(), Selection(categories=frozenset({"kernels"}))).quality == traces.busy().quality


def test_a_part_of_a_part_says_everything_once() -> None:
    part = narrow(narrow(traces.busy(), Selection(steps=(4, 7))), Selection(steps=(4, 4)))
    direct = narrow(traces.busy(), Selection(steps=(4, 4)))
    assert part.quality == direct.quality
    assert part.warnings.count(EARLY.format(1)) == 1
    assert len(part.warnings) == len(direct.warnings) + 1  # both say what they cover


def long_trace(folder: Path, steps: int = 60, **head: Any) -> Path:
    """Steps in which one kernel is launched and runs in the next one, and an operator whose arguments are odd."""
    events = []
    for n in range(steps):
        start = n * 2e6
        events += [
            builders.step(n, start, 1.9e6),
            builders.op("aten::mm", start + 10, 100, **builders.shapes([4, 8], [8, 16])),
            builders.launch(n + 1, start + 20),
            builders.kernel("sgemm", start + 2e6 + 15, 30, n + 1),
        ]
    return builders.write(folder, events, deviceProperties=builders.GPU, **head)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short trace has many pieces, of which a few are read for a part."""
    monkeypatch.setattr(kineto_text, "PIECE", 2048)


def of_part(trace: Trace) -> list[str]:
    """The warnings but the last, which says what they are about."""
    return list(trace.warnings[:-1])


@pytest.mark.usefixtures("small_pieces")
def test_a_part_that_is_read_alone_says_what_the_part_of_the_whole_says(tmp_path: Path) -> None:
    path = long_trace(tmp_path)
    whole = kineto.read(path)
    assert whole.quality == Quality(events=240) and whole.warnings == ()
    for selection in (Selection(steps=(30, 30)), Selection(steps=(1, 2)), Selection(window_ns=(0, 50_000))):
        read, cut = kineto.read(path, selection), narrow(whole, selection)
        assert of_part(read) == of_part(cut)
        rows_read = sum(len(getattr(read, name)) for name in TABLES[:5])
        assert read.quality == dataclasses.replace(cut.quality, events=rows_read)
        assert rows_read < 40
    early = kineto.read(path, Selection(steps=(30, 30)))
    assert of_part(early) == [EARLY.format(1)]
    assert early.warnings[-1].endswith(
        "the rest of the file was not read: events that were left out or cut are not counted"
    )
    assert early.quality.unlaunched == 1


@pytest.mark.usefixtures("small_pieces")
def test_what_is_wrong_elsewhere_in_the_file_is_not_the_parts(tmp_path: Path) -> None:
    path = long_trace(tmp_path)
    text = path.read_text().replace('"ts": 20000010.0, "dur": 100', '"ts": 20000010.0, "dur": -100')
    packed = tmp_path / "trace.json.gz"
    packed.write_bytes(gzip.compress(text.encode())[:-4])  # the events are whole, the file is not
    whole = kineto.read(packed)
    assert (whole.quality.dropped, whole.quality.truncated) == (1, True)
    far, near = kineto.read(packed, Selection(steps=(30, 30))), kineto.read(packed, Selection(steps=(10, 10)))
    for part in (far, near):
        assert (part.quality.dropped, part.quality.truncated) == (0, True)
        assert "the file is cut; what followed the cut is missing" in part.warnings
        assert not any("of 240" in warning or "events before the cut" in warning for warning in part.warnings)
    dropped = "some events in or near the part that was read could not be read and were left out"
    assert dropped in near.warnings and dropped not in far.warnings


@pytest.mark.usefixtures("small_pieces")
def test_a_file_with_text_that_cannot_be_looked_at_is_read_whole(tmp_path: Path) -> None:
    path = long_trace(tmp_path)
    path.write_text(path.read_text()[:-400])
    whole, part = kineto.read(path), kineto.read(path, Selection(steps=(30, 30)))
    assert (part.quality.events, part.quality.dropped) == (whole.quality.events, 1)
    assert whole.warnings[:2] == part.warnings[:2]
    assert "not read" not in part.warnings[-1]


@pytest.mark.usefixtures("small_pieces")
def test_a_part_without_device_work_is_no_recording_without_it(tmp_path: Path) -> None:
    path = long_trace(tmp_path)
    quiet = Selection(window_ns=(61_000_000_000, 61_500_000_000))
    for part in (kineto.read(path, quiet), narrow(kineto.read(path), quiet)):
        assert len(part.annotations) == 1 and not part.on_device
        assert of_part(part) == ["no device activity in the part that was read"]


def test_a_file_that_is_read_whole_for_its_part_keeps_its_counts(tmp_path: Path) -> None:
    path = long_trace(tmp_path, steps=3)
    part = kineto.read(path, Selection(steps=(1, 1)))
    assert part.quality.events == 12
    assert "not read" not in part.warnings[-1]
