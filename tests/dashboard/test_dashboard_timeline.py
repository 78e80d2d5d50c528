"""Tiles of the timeline against brute force; search and statistics against what was put in."""

import struct
from pathlib import Path

import numpy as np
import pytest
from builders import copy, kernel, launch, op, shapes, step, write
from hypothesis import given
from hypothesis import strategies as st

import probe
from probe.dashboard.timeline.ask import meta, occurrence, statistics
from probe.report.timeline.build import Recorded, build
from probe.report.timeline.index import CODES, Index, Lane, lane
from probe.report.timeline.tiles import Tiles, Window, marks, tile


def _lane(rows: list[tuple[int, int]]) -> Lane:
    """Events of (start, width), each with a name and an operator of its own."""
    start = np.array([a for a, _ in rows], np.int64)
    width = np.array([w for _, w in rows], np.int64)
    number = np.arange(len(rows), dtype=np.int32)
    return lane("thread 1", "operators", "ops", (start, start + width, number, number, (number % 8).astype(np.uint8)))


EVENTS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 400)), min_size=1, max_size=120)


@given(EVENTS, st.integers(0, 4000), st.integers(1, 3000), st.integers(4, 90))
def test_every_event_in_the_window_is_drawn_once(
    rows: list[tuple[int, int]], begin: int, width: int, pixels: int
) -> None:
    """Alone or counted in a bin: none is lost, none is doubled, and each mark lies where its events do."""
    window = Window(begin, begin + width, pixels, 0, 1)
    drawn = marks(_lane(rows), window)
    touched = [(a, w) for a, w in rows if a + w > begin and a < begin + width]
    extra = [(a, w) for a, w in rows if a + w <= begin and a < begin + width]  # shorter ones beside an open long one
    assert len(touched) <= drawn.count.sum() <= len(touched) + len(extra)
    single = drawn.count == 1
    expected = set(rows)
    assert {(a, w) for a, w in zip(drawn.start_ns[single], drawn.width_ns[single], strict=True)} <= expected


def test_few_events_are_exact_and_many_are_joined() -> None:
    many = _lane([(i * 10, 5) for i in range(10_000)])
    whole = marks(many, Window(0, 100_000, 100, 0, 1))
    assert len(whole.count) <= 100 and whole.count.sum() == 10_000
    assert set(np.unique(whole.op)) == {-1}  # no operator can be chosen where several lie
    near = marks(many, Window(500, 1000, 100, 0, 1))
    assert len(near.count) == 50 and (near.count == 1).all()
    assert (near.width_ns == 5).all() and near.op[0] == 50


def test_a_joined_mark_has_the_class_of_most_time_and_says_how_busy_it_is() -> None:
    rows = [(0, 30), (40, 1), (50, 1)] + [(1000 + i, 1) for i in range(400)]
    drawn = marks(_lane(rows), Window(0, 100_000, 100, 0, 1))
    first = drawn.start_ns.argmin()
    assert drawn.count[first] == 403 and drawn.code[first] in range(CODES)
    assert 0 < drawn.busy[first] < 255


def test_a_tile_is_read_back_as_the_script_reads_it() -> None:
    index = Index(("a", "b"), (_lane([(100, 50)]), _lane([(200, 25), (300, 5)])), (), (), 0, 1000)
    message = tile(index, Window(50, 1000, 500, 0, 9))
    count, codes = struct.unpack_from("<II", message)
    assert (count, codes) == (3, CODES) and len(message) == 16 + count * 24
    start = np.frombuffer(message, "<f4", count, 16)
    lanes = np.frombuffer(message, "<u2", count, 16 + count * 20)
    assert start.tolist() == [50, 150, 250] and lanes.tolist() == [0, 1, 1]


def test_a_tile_is_made_once_for_all_tabs(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(("a",), (_lane([(1, 2)]),), (), (), 0, 10)
    tiles, window = Tiles(index), Window(0, 10, 100, 0, 1)
    first = tiles.of(window)
    assert tiles.of(Window(0, 10, 100, 0, 1)) is first
    assert tiles.of(Window(0, 5, 100, 0, 1)) is not first


def _gpu_index(tmp_path: Path) -> tuple[Index, probe.Analysis]:
    events = []
    for number, begin in ((3, 0), (4, 200)):
        correlation = number * 10
        events += [
            step(number, begin, 150),
            op("aten::linear", begin + 5, 60, **shapes([4, 8], [8, 16])),
            op("aten::addmm", begin + 10, 40, **shapes([16], [4, 8], [8, 16])),
            launch(correlation, begin + 15),
            kernel("sgemm", begin + 20, 100, correlation),
            launch(correlation + 1, begin + 70, name="cudaMemcpyAsync"),
            copy("Memcpy HtoD (Pageable -> Device)", begin + 125, 8, correlation + 1, 256),
        ]
    path = write(tmp_path, events)
    analysis = probe.analyze(path)
    return build([Recorded(probe.load(path))], analysis), analysis


def test_lanes_nest_operators_and_know_which_they_are(tmp_path: Path) -> None:
    index, analysis = _gpu_index(tmp_path)
    kinds = [row.kind for row in index.lanes]
    assert kinds.count("ops") == 2 and kinds.count("device") == 1 and "ranges" in kinds
    outer, inner = (row for row in index.lanes if row.kind == "ops")
    assert [index.names[i] for i in outer.name] == ["aten::linear"] * 2
    named = {analysis.ops[i].name for i in inner.op}
    assert named == {"aten::addmm"}
    device = next(row for row in index.lanes if row.kind == "device")
    assert next(index.names[i] for i in device.name) == "sgemm" and analysis.ops[device.op[0]].name == "aten::addmm"
    assert [number for number, _, _ in index.steps] == [3, 4]


def test_search_goes_round_and_back(tmp_path: Path) -> None:
    index, _ = _gpu_index(tmp_path)
    first = occurrence(index, "SGEMM", -1, backwards=False)
    assert first["total"] == 2
    second = occurrence(index, "sgemm", first["at"]["start"], backwards=False)
    assert second["at"]["start"] > first["at"]["start"]
    assert occurrence(index, "sgemm", second["at"]["start"], backwards=False)["at"] == first["at"]
    assert occurrence(index, "sgemm", second["at"]["start"], backwards=True)["at"] == first["at"]
    assert occurrence(index, "nothing of that name", 0, backwards=False) == {"total": 0, "at": None}


def test_statistics_count_only_what_lies_inside(tmp_path: Path) -> None:
    index, _ = _gpu_index(tmp_path)
    begin = index.begin_ns
    half = statistics(index, begin + 20_000, begin + 70_000)  # half of the first kernel's 100 µs
    assert half["of"] == "device" and half["events"] == 1
    assert half["rows"][0]["name"] == "sgemm" and half["rows"][0]["total"] == 50_000
    assert statistics(index, begin + 190_000, begin + 195_000)["rows"] == []


def test_what_a_page_gets_holds_no_control_characters(tmp_path: Path) -> None:
    path = write(tmp_path, [step(1, 0, 100), op("a\x1b[31m\u202eb", 10, 20)])
    told = meta(build([Recorded(probe.load(path))], probe.analyze(path)))
    assert all(name.isprintable() for name in told["names"])
