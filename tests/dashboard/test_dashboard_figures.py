"""Figures, palette, addresses and catalogue of the dashboard, as plain functions."""

import json
import math
import re
from pathlib import Path

import pytest
from dashboard_runs import MARKUP, SAMPLES
from one_operator import operator
from places import ROOT

from probe.dashboard.catalogue import ID, Catalogue
from probe.dashboard.figures.arrows import arrows, matched
from probe.dashboard.figures.axes import logarithmic, round_ticks
from probe.dashboard.figures.curves import Machine, curves, names
from probe.dashboard.figures.memory import memory_curve
from probe.dashboard.figures.roofline import MOST_MARKS, MOST_RIGHT_PX, hover, roofline, telling
from probe.dashboard.pages import operators
from probe.dashboard.query import COLUMNS, Query, QueryError, parse
from probe.dashboard.readings import amount, words
from probe.errors import InputError
from probe.machine.device import Ceilings, Level
from probe.report.curves import arrange
from probe.report.palette import LOOKS, SERIES_LIGHT
from probe.report.roofline.plane import Roof, plane, roofs
from probe.results.measurement import Measurement
from probe.results.memory_use import MemoryTimeline

CSS = (ROOT / "dashboard" / "assets" / "probe.css").read_text()
CEILINGS = Ceilings("measured", "X", 1e11, {"float32": 1e13, "float64": 1e13, "int8": 4e13},
                    levels={"L2": Level(bytes_per_s=3e11), "DRAM": Level(bytes_per_s=1e11)})  # fmt: skip


def test_style_sheet_and_palette_have_the_same_colours() -> None:
    light, dark = CSS.split("[data-mantine-color-scheme=dark] {")[:2]
    dark = dark.split("}")[0]
    for name, look in LOOKS.items():
        assert f"--{name}: {look.light};" in light and f"--{name}: {look.dark};" in dark
    for number, colour in enumerate(SERIES_LIGHT):
        assert f"--s{number}: {colour};" in light
        rgb = ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
        assert f'style*="rgb({rgb})"' in CSS


def test_style_sheet_names_no_other_host() -> None:
    assert not re.search(r"https?://|@import|url\(", CSS)


def test_every_operator_with_a_place_is_on_the_roofline() -> None:
    ops = [operator(i, intensity=0.1 * (i + 1), recoverable_s=1e-4 * i) for i in range(MOST_MARKS + 50)]
    drawn = roofline(roofs(CEILINGS, CEILINGS), [*ops, operator(999, intensity=None)])
    marks = [trace for trace in drawn.data if trace.uid and trace.uid.startswith("class")]
    chosen = [index for trace in marks for index in trace.customdata]
    assert len(chosen) == MOST_MARKS and 999 not in chosen and 0 not in chosen  # least to gain: in the shade
    assert isinstance(marks[0].customdata, (list, tuple))  # an array would arrive without the numbers
    assert any(trace.uid.startswith("shade") for trace in drawn.data)


def test_roofs_of_one_height_share_a_label_and_all_are_named() -> None:
    drawn = roofline(roofs(CEILINGS, CEILINGS), [operator(0)])
    labels = [note.text for note in drawn.layout.annotations]
    assert any("float32" in label and "float64" in label for label in labels)
    assert sum("int8" in label for label in labels) == 1
    assert sum("DRAM" in label for label in labels) == 1


def test_the_labels_along_roofs_lie_as_the_roofs_do_in_a_plot_of_that_shape() -> None:
    for aspect in (0.7, 1.6, 3.0):
        drawn = roofline(roofs(CEILINGS, CEILINGS), [operator(0)], aspect=aspect)
        (x0, x1), (y0, y1) = drawn.layout.xaxis.range, drawn.layout.yaxis.range
        label = next(note for note in drawn.layout.annotations if "DRAM" in note.text)
        rise = (1 / (y1 - y0)) / (aspect / (x1 - x0))  # of a memory roof: a power of ten up for one across
        assert math.tan(math.radians(-label.textangle)) == pytest.approx(rise)


def test_there_is_room_for_the_longest_label_and_margins_stay_as_they_are() -> None:
    """plotly draws all marks a second time where it widens a margin."""
    short = roofline(roofs(CEILINGS, CEILINGS), [operator(0)]).layout.margin
    names = Ceilings("measured", "X", 1e11, {f"float{n}": 1e13 for n in range(6)})
    long = roofline(roofs(names, names), [operator(0)]).layout.margin
    assert short.r < long.r == MOST_RIGHT_PX and short.autoexpand is long.autoexpand is False


def test_the_datasheet_is_drawn_beside_measured_roofs_only() -> None:
    sheet = Ceilings("datasheet", "X", 2e11, {"float32": 2e13})
    assert any(roof.published for roof in roofs(CEILINGS, CEILINGS, sheet))
    assert not any(roof.published for roof in roofs(sheet, sheet, sheet))


def test_the_plane_holds_what_tells_something_and_is_not_stretched_by_specks() -> None:
    lines = (Roof("DRAM", 1e11, True, True), Roof("float32", 1e13, False, True))
    area = plane(lines, telling([operator(0), operator(1, achieved_flops_per_s=1.0, share_fraction=1e-6)]))
    assert area.low_y < 1e9 < area.high_y and area.low_y > 1e5
    assert area.low_x < 100 < area.high_x  # the ridge


def test_names_are_no_markup_in_figures() -> None:
    said = hover(operator(0, name=MARKUP, shapes="<b>", limiter="<i>"))
    assert "<img" not in said and "&lt;img" in said and "<i>" not in said


def test_arrows_join_the_same_operator_of_both_runs() -> None:
    old, new = [operator(0), operator(1)], [operator(5, name="aten::op0", achieved_flops_per_s=4e9)]
    pairs = matched(old, new)
    assert [(a.index, b.index) for a, b in pairs] == [(0, 5)]
    drawn = arrows(roofs(CEILINGS, CEILINGS), pairs)
    moved = next(trace for trace in drawn.data if trace.uid == "moved")
    assert list(moved.y)[:2] == [1e9, 4e9]


def test_memory_is_stacked_by_category_and_empty_ones_are_left_out() -> None:
    timeline = MemoryTimeline((0.0, 1.0), (10, 20), None, {"parameters": (10, 10), "other": (0, 0)})
    names = [trace.name for trace in memory_curve(timeline).data]
    assert names == ["parameters", "allocated"]


def test_no_two_curves_of_a_figure_have_one_name() -> None:
    points = [
        Measurement("memory_bandwidth", way, "bandwidth", "B/s", v, v, v, (v, v), 5, {"size_bytes": n, "kernel": way})
        for way in ("read", "copy") for n, v in ((4096, 1e11), (8192, 5e10), (16384, 1e10))
    ]  # fmt: skip
    figure = arrange(points)[0][0]
    assert names([Machine("alone", figure)]) == [series.name for series in figure.series]
    twice = names([Machine("the same", figure), Machine("the same", figure)])
    assert len(set(twice)) == 4 and curves([Machine("the same", figure)] * 2).data[3].name == twice[3]
    long = "n" * 200
    assert len(set(names([Machine(long + "a" + long, figure), Machine(long + "b" + long, figure)]))) == 4


def test_a_roofline_shows_the_part_that_was_asked_for() -> None:
    lines, ops = roofs(CEILINGS, CEILINGS), [operator(1)]
    whole = roofline(lines, ops)
    part = roofline(lines, ops, (-1.0, 1.0, 8.0, 11.0))
    assert part.layout.xaxis.range == (-1.0, 1.0) and part.layout.yaxis.range == (8.0, 11.0)
    assert part.layout.meta["whole"] == whole.layout.meta["whole"]
    assert tuple(part.layout.meta["whole"][:2]) == pytest.approx(whole.layout.xaxis.range)


def test_the_grid_is_sorted_as_the_address_says() -> None:
    data = [operators._row(operator(1), on_device=False)]
    usual, asked = operators.columns(data), operators.columns(data, ("name", "asc"))
    assert [(c["field"], c["sort"]) for c in usual if "sort" in c] == [("gain", "desc")]
    assert [(c["field"], c["sort"]) for c in asked if "sort" in c] == [("name", "asc")]
    assert {c["field"] for c in usual} == set(COLUMNS)


def test_an_address_holds_zoom_sort_and_hidden_classes() -> None:
    query = parse("?zoom=-1,2.5,8,12&sort=time:asc&hide=memory,host")
    assert query.zoom == (-1.0, 2.5, 8.0, 12.0) and query.sort == ("time", "asc")
    assert query.hide == {"memory", "host"} and parse("?zoom=&sort=&hide=") == Query()


def test_curves_of_two_machines_are_told_apart() -> None:
    points = [
        Measurement("memory_bandwidth", "read", "bandwidth", "B/s", v, v, v, (v, v), 5, {"size_bytes": 1 << (12 + i)})
        for i, v in enumerate((1e11, 5e10, 1e10))
    ]
    figure = arrange(points)[0][0]
    drawn = curves([Machine("one", figure), Machine("two", figure)])
    assert [trace.name for trace in drawn.data] == ["one", "two"]
    assert len({trace.marker.symbol for trace in drawn.data}) == 2


def test_axes_have_round_ticks() -> None:
    assert round_ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert round_ticks(0, 12 << 20, base=1024.0)[:3] == [0, 2 << 20, 4 << 20]
    narrow = logarithmic("", 2.0, 30.0, str)
    assert len(narrow["tickvals"]) >= 3
    assert len(logarithmic("", 1e-3, 1e15, str)["tickvals"]) <= 10


def test_grouping_adds_up_and_loses_nothing() -> None:
    class Told:
        ops = (operator(0, name="a"), operator(1, name="a", module=None, flops=None), operator(2, name="b"))
        source = type("Source", (), {"device_kind": "cuda"})

    rows = operators.rows(Told(), "name")  # type: ignore[arg-type]
    by_name = {row["name"]: row for row in rows}
    assert set(by_name) == {"a", "b"} and by_name["a"]["calls"] == 4
    each = operators.rows(Told())  # type: ignore[arg-type]
    assert sum(row["time"] for row in rows) == pytest.approx(sum(row["time"] for row in each))
    assert by_name["a"]["rate"] is None  # one operator's cost is not known
    assert {row["module"] for row in operators.rows(Told(), "module")} == {"a.b", operators.NO_MODULE}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "search",
    ["?run=x", "?run=../../etc", "?base=zzzz", "?op=-1", "?op=1e5", "?op=" + "9" * 40, "?from=nan", "?to=inf",
     "?q=" + "x" * 300, "?by=__class__", "?op=٣"],
)  # fmt: skip
def test_addresses_that_no_page_has_are_refused(search: str) -> None:
    with pytest.raises(QueryError):
        parse(search)


def test_addresses_are_read_and_made_again() -> None:
    found = parse("?run=0123456789ab&op=7&from=1.5e3&q=%3Cb%3E&by=module&unknown=1")
    assert found == Query(run="0123456789ab", op=7, begin=1500.0, text="<b>", by="module")
    assert parse(found.address("memory").split("?")[1]).run == "0123456789ab"


def test_the_catalogue_finds_runs_traces_jobs_and_results_anew(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(SAMPLES / "resnet_step")
    (tmp_path / "job").mkdir()
    for rank in range(2):
        (tmp_path / "job" / f"rank{rank}.json").write_text('{"traceEvents": []}')
    (tmp_path / "alone.json").write_text('{"traceEvents": []}')
    (tmp_path / "ceilings.json").write_text(json.dumps({"schema": "probe.ceilings/1"}))
    (tmp_path / "machine.json").write_text(json.dumps({"device": {}, "schema": "probe.microbench/1"}))
    catalogue = Catalogue([str(tmp_path)])
    kinds = {entry.name: entry.kind for entry in catalogue.entries()}
    assert kinds == {"one": "run", "job": "job", "alone.json": "trace", "machine.json": "microbench"}
    assert all(ID.fullmatch(entry.id) for entry in catalogue.entries())
    (tmp_path / "later.json").write_text('{"traceEvents": []}')
    assert "later.json" in {entry.name for entry in catalogue.entries()}


def test_the_catalogue_names_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Catalogue([str(tmp_path / "nothing")])


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "runs").mkdir(parents=True)
        (tmp_path / folder / "runs" / "same").symlink_to(SAMPLES / "resnet_step")
    names = [entry.name for entry in Catalogue([str(tmp_path / "a"), str(tmp_path / "b")]).entries()]
    assert len(set(names)) == len(names)


def test_sampled_quantities_are_written_with_their_unit() -> None:
    assert (words("sm_clock_hz"), amount("sm_clock_hz", 1.98e9)) == ("sm clock", "1.98 GHz")
    assert amount("read_bytes_per_s", 2e9) == "2.00 GB/s" and words("read_bytes_per_s") == "read"
    assert amount("loop_on_cpu_fraction", 0.5) == "50.0 %" and amount("threads", 3) == "3.00"
