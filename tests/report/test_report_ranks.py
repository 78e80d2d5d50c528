"""What a report says of many ranks, of collectives and of scaling; in the terminal, as a page, in Markdown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import many_ranks
import numpy as np
import pytest
from analysed_trace import TIMED, analysed
from builders import GPU, gpu_step, write
from golden import assert_golden
from hypothesis import given
from hypothesis import strategies as st
from many_ranks import COLLECTIVES, SCALING, rank
from rank_builders import simulate, summaries
from rich.console import Console

import probe
from probe.analyzers.ranks.compare import compare_ranks
from probe.readers.kineto import read
from probe.report import html, markdown, verdict
from probe.report.analysis import as_text, render
from probe.report.ranks import clocks, collective_columns, exposed_wait, extremes, footnotes, listed, shares
from probe.report.ranks_svg import COMPUTE, EXPOSED, OTHER, WAIT, draw_ranks, draw_scaling
from probe.results.analysis import Analysis
from probe.results.multirank import ClockOffset, Rank, Straggler

SECONDS = st.floats(0, 10, allow_nan=False)


@pytest.fixture
def one(tmp_path: Path) -> Analysis:
    return analysed(read(write(tmp_path, gpu_step(), deviceProperties=GPU)), TIMED)


@pytest.fixture
def large(one: Analysis) -> Analysis:
    """64 ranks, one of them late, every kind of footnote, and jobs of four sizes."""
    return replace(many_ranks.with_ranks(one, 64, {17: 3.29e-3}), collectives=COLLECTIVES, scaling=SCALING)


def test_terminal(large: Analysis) -> None:
    assert_golden("ranks_64.txt", as_text(large))


def test_markdown(large: Analysis) -> None:
    assert_golden("ranks_64.md", markdown.render(large))


def test_page(one: Analysis) -> None:
    few = replace(many_ranks.with_ranks(one, 5, {2: 1e-3}), collectives=COLLECTIVES, scaling=SCALING)
    assert_golden("ranks_5.html", html.body(few))


def test_one_rank_without_collectives_has_nothing_of_this(one: Analysis) -> None:
    assert verdict.of_ranks(one) == ""
    for text in (as_text(one), markdown.render(one), html.render(one), html.fragment(one)):
        assert "busbw" not in text and "wait:" not in text and ".tall" not in text


def test_a_collective_without_other_ranks(one: Analysis) -> None:
    """No table of ranks, and the time is said to hold what the rank waited."""
    alone = replace(one, collectives=(replace(COLLECTIVES[0], wait_s=None, imbalance=None),))
    text = as_text(alone)
    assert "one rank's own times" in text and "latest" not in text and "wait:" not in text
    assert " wait" not in next(line for line in text.splitlines() if line.startswith("collective"))
    assert verdict.of_ranks(alone) == ""


@pytest.mark.parametrize("count", [2, 10, 11, 512, 5000])
def test_the_terminal_is_eighty_wide_and_short(one: Analysis, count: int) -> None:
    text = as_text(replace(many_ranks.with_ranks(one, count, {1: 3e-3}), collectives=COLLECTIVES, scaling=SCALING))
    assert max(len(line) for line in text.splitlines()) <= 80
    begin, end = text.index("\nrank") if count <= 10 else text.index(" rank  "), text.index("late: after")
    rows = text[begin:end].strip().count("\n")
    assert rows == count if count <= 10 else rows <= 10
    assert "…" not in text[begin : text.index("FLOP/s")]


def test_colours_only_where_there_are_some(large: Analysis) -> None:
    console = Console(width=80, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(render(large))
    coloured = capture.get()
    assert "\x1b[1;33m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == as_text(large)


class TestVerdict:
    def test_the_late_rank(self, large: Analysis) -> None:
        said = verdict.of_ranks(large)
        assert "Rank 17 is late by 3.29 ms a step [3.12 ms, 3.46 ms]" in said
        assert "gains up to 550 µs" in said
        assert "From 8 to 64 ranks, each keeps 76.3 % [70.0, 83.0] of its throughput." in said

    def test_several_late_ranks(self, one: Analysis) -> None:
        said = verdict.of_ranks(many_ranks.with_ranks(one, 64, {n: 3e-3 + n * 1e-6 for n in range(20, 26)}))
        assert said.startswith("Ranks 25, 24, 23, 22 and 2 more are late")
        assert "rank 25 is late by 3.02 ms" in said

    def test_a_simulated_job(self, one: Analysis) -> None:
        """From the ranks' own clocks to the name in the sentence."""
        found = compare_ranks(summaries(simulate(5, collectives=200, late={17: 300e3})))
        said = verdict.of_ranks(replace(one, ranks=found.ranks, stragglers=found.stragglers))
        assert said.startswith("Rank 17 is late by 3.")

    def test_balanced(self, one: Analysis) -> None:
        said = verdict.of_ranks(many_ranks.with_ranks(one, 8))
        assert said.startswith("The ranks are balanced: none is late by more than ")
        highest = max(r.late_interval_s[1] for r in many_ranks.ranks(8) if r.late_interval_s)
        assert f"{highest * 1e6:.0f} µs a step" in said

    def test_not_balanced_where_the_clocks_are_not_known(self, one: Analysis) -> None:
        wide = (rank(0, 1e-4, 1e-4, half_s=40e-3), rank(1, -1e-4, 1e-4, half_s=40e-3))
        said = verdict.of_ranks(replace(one, ranks=wide))
        assert said.startswith("Which rank is late cannot be told: rank 0 seems late by 100 µs")
        assert "[-39.9 ms, 40.1 ms]" in said and "balanced" not in said

    def test_only_steps_were_timed(self, one: Analysis) -> None:
        bare = tuple(Rank(n, 0.1 + n / 100, None, None, None, None, None) for n in range(3))
        said = verdict.of_ranks(replace(one, ranks=bare))
        assert "no collective was matched" in said and "100 ms (rank 0) to 120 ms (rank 2)" in said
        assert "exposed" not in said
        text = as_text(replace(one, ranks=bare))
        assert "exposed" not in text and "wait" not in text.split("rank ")[-1].split("FLOP")[0]

    def test_a_wait_behind_computation_gives_a_range(self, one: Analysis) -> None:
        hidden = (Rank(0, 10.0, 4.0, 2.0, 3.0, 0.0, (0, 0)), Rank(1, 10.0, 4.0, 2.0, 3.0, 0.0, (0, 0)))
        assert "2.00 s of a step (20 %) is exposed communication, 50–100 % of that" in verdict.of_ranks(
            replace(one, ranks=hidden)
        )

    def test_nothing_exposed(self, one: Analysis) -> None:
        covered = tuple(Rank(n, 10.0, 4.0, 0.0, None, None, None) for n in range(2))
        assert verdict.of_ranks(replace(one, ranks=covered)).endswith("No communication is exposed.")

    def test_unknown_wait_is_not_none(self, one: Analysis) -> None:
        lone = tuple(Rank(n, 10.0, 4.0, 2.0, None, None, None) for n in range(2))
        assert "how much of that is waiting for late ranks cannot be told" in verdict.of_ranks(replace(one, ranks=lone))


@given(st.builds(Rank, st.just(0), *[st.none() | SECONDS] * 4, st.none(), st.none(), st.none() | SECONDS))
def test_the_parts_add_up_to_the_step(found: Rank) -> None:
    split = shares(found)
    if split is None:
        assert not found.step_s or found.exposed_communication_s is None
        return
    assert min(split.covered_s, split.compute_s, split.other_s, split.wait_s, split.exposed_s) >= 0
    assert split.wait_s + split.exposed_s == pytest.approx(found.exposed_communication_s)
    if (found.communication_s or 0.0) <= (found.step_s or 0.0) and (found.exposed_communication_s or 0.0) <= (
        found.communication_s or 0.0
    ):
        assert split.step_s == pytest.approx(found.step_s)


@given(st.integers(0, 10_000))
def test_the_parts_are_those_of_a_timeline(seed: int) -> None:
    """Oracle: instants at which a rank computes or communicates, counted."""
    rng = np.random.default_rng(seed)
    computes, communicates = rng.random((2, 200)) < rng.random((2, 1))
    exposed = communicates & ~computes
    sums = [float(np.count_nonzero(instants)) for instants in (communicates, exposed, computes)]
    split = shares(Rank(0, 200.0, sums[0], sums[1], None, None, None, sums[2]))
    assert split is not None
    assert split.covered_s == np.count_nonzero(communicates & computes)
    assert split.compute_s == np.count_nonzero(computes & ~communicates)
    assert split.other_s == np.count_nonzero(~computes & ~communicates)
    assert split.exposed_s == np.count_nonzero(exposed)


@given(st.integers(0, 10_000))
def test_the_exposed_wait_lies_within_its_bounds(seed: int) -> None:
    """Oracle: a timeline of instants at which a rank computes, communicates, and in that waits."""
    rng = np.random.default_rng(seed)
    computes, communicates = rng.random((2, 200)) < rng.random((2, 1))
    waits = communicates & (rng.random(200) < rng.random())
    exposed = communicates & ~computes
    sums = [float(np.count_nonzero(instants)) for instants in (communicates, exposed, waits, waits & exposed)]
    bounds = exposed_wait(Rank(0, 200.0, *sums[:3], None, None))
    assert bounds is not None and bounds[0] <= sums[3] <= bounds[1]


@given(st.lists(st.tuples(st.none() | SECONDS, st.none() | SECONDS), min_size=1, max_size=100), st.integers(0, 8))
def test_extremes_stand_for_every_rank_once(times: list[tuple[float | None, float | None]], late: int) -> None:
    found = [Rank(n, step, None, None, None, late_s, None) for n, (step, late_s) in enumerate(times)]
    named = [Straggler(n, 1.0, (1.0, 1.0), 0.0) for n in range(late)]
    rows = extremes(found, named, 10)
    assert len(rows) <= max(10, 5 + 2 + 2 + 3)
    flat = [r.rank for row in rows for r in (row if isinstance(row, list) else [row])]
    assert sorted(flat) == list(range(len(times)))
    shown = [row for row in rows if isinstance(row, Rank)]
    for value in ("step_s", "late_s"):
        known = [x for r in found if (x := getattr(r, value)) is not None]
        assert not known or max(known) in [getattr(r, value) for r in shown]
    assert all(len(row) > 1 for row in rows if isinstance(row, list))


def test_footnotes_come_once_and_match_their_marks() -> None:
    notes = list(footnotes(COLLECTIVES))
    assert [note[0] for note in notes[:2]] == ["¹", "²"]
    assert len(notes) == len(set(notes)) == 4
    first = collective_columns(COLLECTIVES)[0].cells
    assert first[:4] == ("all_reduce¹", "all_gather²", "reduce_scatter¹²", "all_to_all")


def test_a_bandwidth_is_never_rounded_to_nothing() -> None:
    """A message of 8 bytes beside one of 1 GiB, in the same unit."""
    titled = {column.title: column.cells for column in collective_columns(COLLECTIVES)}
    assert titled["busbw GB/s"][6] == titled["algbw GB/s"][6] == "<0.001"
    assert titled["busbw GB/s"][1] == "490 [480, 495]"


def test_lists_of_ranks() -> None:
    assert [listed(range(n)) for n in (1, 2, 4, 6)] == ["0", "0 and 1", "0, 1, 2 and 3", "0, 1, 2, 3 and 2 more"]


class TestClocks:
    def test_none_to_compare(self) -> None:
        assert clocks(()) == clocks((ClockOffset(0, 0, 0.0, (0.0, 0.0), (0.0, 0.0), 0, 0.0, 0.0),)) == ""
        assert clocks((ClockOffset(1, 1, None, None, None, 0, reason="alone"),)) == ""

    def test_the_largest_either_way(self) -> None:
        found = [ClockOffset(n, 0, o, (o - 10e-9, o + 8e-9), None, 9) for n, o in ((1, 2e-6), (2, -3e-6))]
        assert clocks(found).startswith("largest offset 3.00 µs: rank 2 is behind rank 0, known to ±10.0 ns at 95 %;")
        assert clocks(found[:1]).startswith("largest offset 2.00 µs: rank 1 is ahead of rank 0")

    def test_bounds_are_no_interval(self) -> None:
        line = clocks([ClockOffset(1, 0, 5e-9, None, (-100e-9, 200e-9), 3, reason="too few")])
        assert line.endswith("hard bounds [-100 ns, 200 ns]; drift not decided: too few")

    def test_a_drift(self) -> None:
        found = [ClockOffset(n, 0, 5e-9, (0, 9e-9), None, 300, d, 5e-8) for n, d in ((1, 1.5e-6), (2, -12.25e-6))]
        assert clocks(found).endswith("largest drift -12.2 ±0.1 ppm (rank 2)")


class TestPictures:
    @pytest.mark.parametrize("count", [1, 2, 31, 64, 512])
    def test_a_row_a_rank_inside_the_picture(self, count: int) -> None:
        late = {count // 2: 3e-3}
        root = ElementTree.fromstring(draw_ranks(many_ranks.ranks(count, late), set(late)))
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        groups = root.findall("g")
        assert len(groups) == count
        assert all((group.findtext("title") or "").startswith(f"rank {n}: step") for n, group in enumerate(groups))
        for rect in root.iter("rect"):
            x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
            assert 0 <= x <= x + w <= width and 0 <= y <= y + h <= height
        assert f"▸ {count // 2}" in [text.text for text in root.iter("text")]

    def test_widths_are_in_proportion(self) -> None:
        root = ElementTree.fromstring(draw_ranks([Rank(0, 10.0, 4.0, 4.0, 1.0, None, None, 2.0)], ()))
        width = {rect.attrib.get("fill"): float(rect.attrib["width"]) for rect in root.iter("rect")}
        assert width[EXPOSED] == pytest.approx(3 * width[WAIT], rel=0.01)
        assert width[COMPUTE] == pytest.approx(2 * width[WAIT], rel=0.01)
        assert width[OTHER] == pytest.approx(4 * width[WAIT], rel=0.01)

    def test_labels_do_not_touch(self) -> None:
        found = many_ranks.ranks(400, dict.fromkeys((10, 12, 100, 101, 102), 0.003))
        root = ElementTree.fromstring(draw_ranks(found, {10, 12, 100, 101, 102}))
        labels = [t for t in root.iter("text") if t.attrib["text-anchor"] == "end" and t.text != "rank"]
        heights = sorted(float(t.attrib["y"]) for t in labels)
        assert min(np.diff(heights)) >= 12
        assert {"▸ 10", "▸ 100–102"} <= {t.text for t in labels}

    def test_nothing_to_draw(self) -> None:
        assert draw_ranks([Rank(0, 1.0, None, None, None, None, None)], ()) == ""
        assert draw_scaling(replace(SCALING, points=SCALING.points[:1])) == ""

    def test_ideal_scaling_lies_on_the_line(self) -> None:
        points = tuple(replace(p, efficiency_fraction=1.0, speedup=p.world_size / 8) for p in SCALING.points)
        root = ElementTree.fromstring(draw_scaling(replace(SCALING, points=points)))
        ideal = next(p.attrib["d"] for p in root.findall("path") if "stroke-dasharray" in p.attrib)
        (x0, y0), (x1, y1) = (map(float, place.split()) for place in ideal[1:].split("L"))
        for dot in root.iter("circle"):
            share = (float(dot.attrib["cx"]) - x0) / (x1 - x0)
            assert float(dot.attrib["cy"]) == pytest.approx(y0 + share * (y1 - y0), abs=0.2)


def test_real_ranks(foreign_traces: Path) -> None:
    """Four of eight ranks, one step: nobody is named, and what is missing is said once."""
    found = probe.analyze(foreign_traces / "v100_dlrm_4_of_8_ranks")
    text = as_text(found)
    assert "Which rank is late cannot be told" in text
    assert sum("4–7" in warning for warning in found.warnings) == 1
    assert not any("seems late" in warning for warning in found.warnings)  # the verdict says it
    assert max(len(line) for line in text.splitlines()) <= 80
    assert html.render(found).count("<title>rank ") == 4
