"""What a gate writes for people and for CI systems, its settings, its canary and its history."""

from __future__ import annotations

import json
import math
import re
import shlex
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
from places import ROOT

from probe.analyzers.gates.evidence import Counted, OperatorTimes
from probe.analyzers.gates.limits import Limits
from probe.analyzers.gates.stored import Stored, judge_stored
from probe.cli import app
from probe.errors import InputError
from probe.gate.canary import Curve, compare, load, store
from probe.gate.history import change_points
from probe.gate.settings import settings
from probe.report import gate_ci, gate_markdown
from probe.report.gate import as_text
from probe.report.gate_html import as_html
from probe.results.gate_result import Cause, GateResult, Metric, Side

EXAMPLES = ROOT / "examples" / "ci"
HOSTILE = "<script>|`*]]>&\"'\n::error::%0A\x1b[31m"


def metric(name: str, verdict: str = "pass", **fields: object) -> Metric:
    known = {"unit": "s", "base": 1e-3, "new": 1.2e-3, "ratio": 1.2, "interval": (1.1, 1.3), "threshold_fraction": 0.01}
    return Metric(**{**known, "name": name, "verdict": verdict, "n_base": 5, "n_new": 5, **fields})  # type: ignore[arg-type]


def failing(operators: int = 1, name: str = "aten::mm") -> GateResult:
    step = metric("step cpu_time", "fail")
    rows = tuple(metric(f"{name} {i}", "fail") for i in range(operators))
    count = metric("operators", "fail", unit="1", base=10.0, new=12.0, reason="operators: 10 per step before, 12 now")
    told = metric("step wall_time", gates=False)
    cause = Cause(name, "[8, 8]", 1e-4, 3e-4, 2e-4, 0.99, f"runs {HOSTILE} instead", 1, 1)
    return GateResult(
        "fail", Side("main (12345678)"), Side("working tree", "AMD EPYC"), (count, step, told, *rows), (cause,),
        2e-6, 2.02e-4, 0.02, 5, f"slower by {name}", ("a warning",),
        {"base_s": [[1e-3, 1.1e-3]] * 3, "new_s": [[1.2e-3, 1.3e-3]] * 3},
    )  # fmt: skip


def test_junit_has_a_case_for_everything_that_gates() -> None:
    result = failing(name=HOSTILE)
    root = ElementTree.fromstring(gate_ci.as_junit(result))
    cases = root.findall("testcase")
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("3", "3", "0")
    assert len(cases) == 3 and all(case.find("failure") is not None for case in cases)
    unknown = GateResult("inconclusive", Side("a"), Side("b"), (metric("step cpu_time", "inconclusive"),))
    assert ElementTree.fromstring(gate_ci.as_junit(unknown)).find("testcase/skipped") is not None


def test_annotations_are_nine_and_one_and_stay_on_their_lines() -> None:
    lines = list(gate_ci.github_lines(failing(20, HOSTILE)))
    assert len(lines) == 10
    assert all(line.startswith("::error title=") and "\n" not in line for line in lines)
    assert all(line.count("::") >= 2 and "\x1b" not in line for line in lines)
    assert [line.split(" ")[0] for line in gate_ci.github_lines(GateResult("pass", Side("a"), Side("b")))] == [
        "::notice"
    ]


def test_markdown_is_escaped_and_never_too_long() -> None:
    text = gate_markdown.as_markdown(failing(name=HOSTILE))
    assert "<script>" not in text and "### ❌ probe gate: fail" in text
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 8 for line in text.splitlines() if line.startswith("| ❌"))
    long = gate_markdown.as_markdown(failing(60_000))
    assert len(long.encode()) <= 900 << 10


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)


def test_the_page_shows_sessions_and_runs_nothing() -> None:
    page = as_html(failing(name=HOSTILE))
    tags = _Tags()
    tags.feed(page)
    assert "script" not in tags.seen and "svg" in tags.seen and "http" not in page
    assert page.count("<circle") == 4  # three sessions and all of them


def test_the_terminal_report() -> None:
    text = as_text(failing())
    assert text.splitlines()[0].startswith("FAIL  slower by aten::mm")
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "not explained" in text and "+202 µs" in text and "! a warning" in text


def test_gitlab_reads_a_list_of_failures() -> None:
    found = gate_ci.code_quality(failing(2), "pyproject.toml")
    assert len(found) == 4 and len({entry["fingerprint"] for entry in found}) == 4
    assert json.dumps(found)


def stored(times: tuple[float, ...], operators: int = 10, control: float = 1.0) -> Stored:
    counts = {"operators": Counted(operators, operators, 9)}
    controls = {"arithmetic": control, "copying": control}
    return Stored([math.log(t) for t in times], counts, OperatorTimes({("a", None): times[0]}), controls, "cpu_time")


@pytest.mark.parametrize(
    ("new", "same", "verdict", "said"),
    [
        (stored((1.3, 1.31, 1.3)), True, "fail", "beyond what the baseline varies by"),
        (stored((1.3, 1.31, 1.3)), False, "pass", "another machine or software"),
        (stored((1.3, 1.31, 1.3), control=1.3), True, "pass", "the machine is slower now"),
        (stored((1.0, 1.01, 1.0), operators=20), False, "fail", "operators: 10 per step before, 20 now"),
        (stored((1.01, 1.02, 1.0)), True, "pass", "nothing is held against it"),
        (stored((1.3,)), True, "pass", "nothing is held against it"),
    ],
)
def test_times_of_another_day_count_only_beyond_their_noise(new: Stored, same: bool, verdict: str, said: str) -> None:
    base = stored((1.0, 1.01, 1.0))
    result = judge_stored(base, new, Limits(), (Side("stored"), Side("now")), same=same)
    assert result.verdict == verdict and said in result.summary


def test_settings_are_read_and_acknowledgements_expire(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.probe.gate]\nfloor = 0.02\nbudget = 60\nstrict = true\n[tool.probe.gate.counts]\noperators = 0.5\n"
        "[tool.probe.gate.operators]\n'aten::a*' = 0.2\n"
        "[[tool.probe.gate.acknowledge]]\nop = 'aten::topk'\nuntil = 2027-03-01\nreason = 'needed'\n"
    )
    (tmp_path / "deep").mkdir()
    found = settings(tmp_path / "deep", date(2027, 3, 1))
    assert (found.limits.floor, found.budget_s, found.strict) == (0.02, 60, True)
    assert found.limits.counts["operators"] == 0.5 and found.limits.counts["synchronisations"] == 0.0
    assert found.limits.operators == {"aten::a*": 0.2, "aten::topk": math.inf}
    late = settings(tmp_path, date(2027, 3, 2))
    assert "aten::topk" not in late.limits.operators and "ended on 2027-03-01 (needed)" in late.warnings[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("floor = -1", "gate.floor = -1"), ("speed = 1", "no 'speed'"), ("budget = 0", "seconds above 0"),
        ("tolerance = 0.005", "must be above gate.floor"), ("counts = {frogs = 1}", "no 'frogs'"),
        ("acknowledge = [{op = 'a'}]", "each gate.acknowledge needs"), ("= 3", "cannot be read"),
        ("floor = nan", "floor = nan"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "probe.toml").write_text(f"[gate]\n{text}\n")
    with pytest.raises(InputError, match=re.escape(said)):
        settings(tmp_path)


def curve(losses: list[float | None], step_s: float = 0.01) -> Curve:
    return Curve("train.py", "2.13", "cpu", [step_s] * len(losses), losses, [1.0] * len(losses), [None] * len(losses))


@pytest.mark.parametrize(
    ("losses", "verdict", "said"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], "pass", "bit-identical"),
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.5001], "pass", "6 steps are as the recorded run"),
        ([5.0, 4.0, 3.5, 2.0, 1.0, 0.5], "fail", "loss leaves the recorded run at step 2"),
        ([5.0, 4.0, math.nan, 2.0, 1.0, 0.5], "fail", "loss is not finite from step 2 on"),
        ([5.0, 4.0], "fail", "2 steps were made, 6 are needed"),
        ([None] * 6, "fail", "loss was recorded, and is not known of this run"),
    ],
)
def test_a_canary(losses: list[float | None], verdict: str, said: str, tmp_path: Path) -> None:
    good = curve([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    store(good, tmp_path / "c.json")
    found = compare(load(tmp_path / "c.json"), curve(losses))
    assert (found.verdict, said in found.summary) == (verdict, True), found.summary
    assert compare(good, curve([5.0, 4.0, 3.0, 2.0, 1.0, 0.5001]), bitwise=True).verdict == "fail"


def test_a_canary_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"schema": "probe.canary/1"}')
    with pytest.raises(InputError, match="no recorded canary"):
        load(tmp_path / "c.json")


def test_changes_of_level_are_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.01, 24)
    assert change_points(noise) == []
    levels = np.concatenate([np.zeros(8), np.full(8, 0.1), np.full(8, 0.05)])
    found = change_points(levels + noise)
    assert [at for at, _ in found] == [8, 16]
    assert math.isclose(found[0][1], math.exp(0.1), rel_tol=0.02)
    assert change_points(np.array([0.0, 0.0, 1.0, 1.0])) == []  # too few to say


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_the_ready_jobs_use_options_that_exist(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    joined = " ".join(line.strip() for line in text.splitlines())
    command = joined[joined.index("probe gate check") :].split(" - ")[0].split(" artifacts:")[0]
    words = shlex.split(command)
    options = {word for word in words[: words.index("--")] if word.startswith("-")}
    check = typer.main.get_command(app).commands["gate"].commands["check"]  # type: ignore[attr-defined]
    assert options <= {option for parameter in check.params for option in parameter.opts}
    assert "fetch-depth: 0" in text or 'GIT_DEPTH: "0"' in text
