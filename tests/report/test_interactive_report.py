"""The page of `probe analyze --html`: what it holds, how large it gets, what no name can do to it."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from dashboard_runs import MARKUP, hostile_trace
from places import SAMPLES

import probe
from probe.examine import timelines
from probe.report import html, html_findings, html_timeline
from probe.report.analysis import as_text
from probe.report.html_data import MOST_OPERATORS, payload
from probe.report.palette import CLASSES, LOOKS
from probe.report.timeline.index import CODES, Index, lane
from probe.results.findings import Finding, Verdict, Verified

ASSETS = Path(html.__file__).parent / "assets"
MOST_BYTES = 1_500_000


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        """What the script is given."""
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


@cache
def sample() -> probe.Analysis:
    return probe.analyze(SAMPLES / "transformer_step", ceilings=SAMPLES / "ceilings.json")


def of_sample() -> str:
    return timelines.page(sample(), 20, SAMPLES / "transformer_step")


def test_the_page_asks_for_nothing_and_runs_only_its_own_script() -> None:
    page = of_sample()
    parsed = Page(page)
    assert len(page.encode()) < MOST_BYTES
    assert parsed.handlers == [] and len(parsed.scripts) == 2
    assert "http" not in page.replace("http-equiv", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and "default-src 'none'" in policy[1]
    assert f"'sha256-{html._hash(parsed.scripts[1])}'" in policy[1]


def test_what_the_script_is_given_are_the_figures_of_the_analysis() -> None:
    data = Page(of_sample()).data
    ops = {op.index: op for op in sample().ops}
    assert len(data["ops"]) == len(ops) and data["rule"] == "Times are per step."
    fields = {name: place for place, name in enumerate(data["fields"])}
    for row in data["ops"]:
        op = ops[row[fields["index"]]]
        assert data["strings"][row[fields["name"]]] == op.name.removeprefix("aten::")
        assert row[fields["time"]] == pytest.approx(op.self_s, rel=1e-3)
        assert (row[fields["gain"]] is None) == (op.recoverable_s is None)
    assert data["roofline"]["roofs"][0]["label"].startswith("DRAM")


def test_all_is_there_without_a_script() -> None:
    page = re.sub(r"<script.*?</script>", "", of_sample(), flags=re.DOTALL)
    for words in ("What to change first", "F.scaled_dot_product_attention(q, k, v)", "addmm"):
        assert words in page
    assert re.search(r">float32 \d+ GFLOP/s</text>", page)
    assert page.count("<svg") == 2 and page.count("<tr>") == 22  # roofline, timeline; 20 operators, head and foot
    assert "evidence" in page and "Where the step goes" in page


def many(count: int) -> probe.Analysis:
    """The sample with `count` operators of their own names, sizes and evidence."""
    ops = [
        replace(op, index=n, name=f"library::operator_number_{n}", shapes=f"[{n}, 512] × [512, {n}]",
                evidence=(f"{n}.5 FLOP/byte, ridge point {n}", f"{n / 7:.3f} % of the ceiling"))
        for n in range(count) for op in (sample().ops[n % len(sample().ops)],)
    ]  # fmt: skip
    return replace(sample(), ops=tuple(ops))


def test_five_thousand_operators_fit_and_the_page_says_which_it_holds() -> None:
    page = html.render(many(5000))
    data = Page(page).data
    assert len(page.encode()) < MOST_BYTES
    assert len(data["ops"]) == MOST_OPERATORS
    assert "2000 operators with most time to gain of 5000; the others take" in data["rule"]


def test_fewer_operators_are_held_where_there_is_less_room() -> None:
    text = payload(many(3000), 20, None, 60_000, page=True)
    assert 50 < len(json.loads(text)["ops"]) < 400 and len(text.encode()) <= 60_000


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    trace = hostile_trace(tmp_path)
    page = timelines.page(probe.analyze(trace), 20, trace)
    parsed = Page(page)
    assert "img" not in parsed.tags and len(parsed.scripts) == 2 and parsed.handlers == []
    assert "\x1b" not in page and "\u202e" not in page
    assert MARKUP in parsed.data["strings"]
    assert max(len(text) for text in parsed.data["strings"]) <= 300
    assert any(name.startswith("<img") for name in parsed.data["timeline"]["names"])
    assert "n" * 1000 not in page


def _lanes(count: int) -> Index:
    """Two lanes with an event of 5 ns every 10, and frames of Python."""
    start = np.arange(count, dtype=np.int64) * 10
    number = np.zeros(count, np.int32)
    columns = (start, start + 5, number, number, np.zeros(count, np.uint8))
    lanes = (
        lane("thread 1", "operators", "ops", columns), lane("device 0", "stream 7", "device", columns),
        lane("thread 1", "Python", "python", columns),
    )  # fmt: skip
    return Index(("a name",), lanes, ((1, 0, count * 10),), (), 0, count * 10)


@pytest.mark.parametrize("count", [40, 100_000])
def test_every_event_is_in_the_timeline_alone_or_counted(count: int) -> None:
    strip = html_timeline.strip(_lanes(count))
    assert strip is not None
    assert [int(found.count.sum()) for found in strip.drawn] == [count, count]
    assert sum(len(found.count) for found in strip.drawn) <= html_timeline.MOST_MARKS
    assert ("drawn together" in html_timeline.note(strip)) == (count > 1000)
    assert "Python are not shown" in html_timeline.note(strip)
    content = html_timeline.content(strip)
    message = b64decode(content["tile"])
    assert int.from_bytes(message[:4], "little") == sum(len(found.count) for found in strip.drawn)
    assert content["width"] == count * 10 and content["lanes"] == [["thread 1", "operators"], ["device 0", "stream 7"]]
    assert html_timeline.draw(strip, html.COLOURS).count("<path") == 1


def test_nothing_is_drawn_of_a_recording_without_events() -> None:
    assert html_timeline.strip(Index((), (), (), (), 0, 1)) is None


def test_a_timeline_that_cannot_be_read_is_left_out_and_the_page_says_why(tmp_path: Path) -> None:
    page = timelines.page(sample(), 20, tmp_path / "gone.json")
    assert '<div class="timeline">' not in page and "the timeline is left out: " in page and "gone.json" in page


def _proved(verdict: Verdict) -> Finding:
    shown = Verified(verdict, 1.5, (1.2, 1.8), 21, None, None, None, None, None, None, "AMD EPYC")
    return replace(sample().findings[0], verified=shown)


def test_each_verdict_has_its_own_mark() -> None:
    marks = {}
    for verdict in get_args(Verdict):
        shown = html_findings.draw(replace(sample(), findings=(_proved(verdict),)))
        found = re.search(r"<p>(.) verified on AMD EPYC: (\w+)", shown)
        assert found is not None
        marks[found[2]] = found[1]
        assert f"{found[1]} verified on AMD EPYC" in as_text(replace(sample(), findings=(_proved(verdict),)))
    assert marks["accept"] == "✓" and len(set(marks.values())) == 4


def test_memory_that_a_finding_saves_is_said_and_nothing_is_said_of_none() -> None:
    finding = replace(sample().findings[0], saving_s=None, saving_fraction=None, saving_bytes=3 << 20)
    assert "3 MiB of memory" in html_findings.draw(replace(sample(), findings=(finding,)))
    assert "see above" not in html_findings.draw(replace(sample(), findings=(replace(finding, saving_bytes=None),)))


def test_the_style_sheet_has_the_colours_of_the_palette() -> None:
    style = (ASSETS / "report.css").read_text()
    for name, look in LOOKS.items():
        assert style.count(f"--{name}: {look.dark};") == 2 and style.count(f"--{name}: {look.light};") == 1
    assert len(html_timeline.CODES) == CODES and html_timeline.CODES[: len(CLASSES)] == CLASSES


def test_a_notebook_shows_the_same_without_an_address_of_its_own() -> None:
    cell = sample()._repr_html_()
    parsed = Page(cell)
    assert len(cell.encode()) <= html.LARGEST_CELL_BYTES and parsed.data["page"] is False
    assert parsed.data["timeline"] is None and "Operators, most time to gain first" in cell
