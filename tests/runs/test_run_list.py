"""Does `probe ls` show each run as it is, quickly, and add up what a team used?"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import run_builders

from probe.cli import main
from probe.errors import InputError, UsageError
from probe.machine.device import Device
from probe.price import Price, prices
from probe.runs import analysis_cache
from probe.runs.analysis_cache import Brief
from probe.runs.run import RankPart, write_part
from probe.runs.run_list import RunList, limit, list_runs

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def unpriced(device: str | None) -> None:
    return None


def priced(device: str | None) -> Price:
    return Price(2.0, "--price")


def part(directory: Path, *, hours: float = 1.0, age_h: float = 1.0, **changes: Any) -> Path:
    """A finished run of `hours` on one GPU, begun `age_h` hours before NOW."""
    directory.mkdir(parents=True)
    told: dict[str, Any] = {
        "status": "finished", "created": (NOW - timedelta(hours=age_h)).isoformat(), "duration_s": hours * 3600,
        "device": Device("cuda", "NVIDIA H100 80GB HBM3"), "steps": run_builders.steps_of(0),
        "command": {"argv": ["/home/me/train.py", "--lr", "1"]},
    } | changes  # fmt: skip
    write_part(directory, RankPart(**told))
    return directory


def names(found: RunList) -> list[str]:
    return [Path(row.path).name for row in found.runs]


def test_the_newest_is_first_and_runs_below_are_found(tmp_path: Path) -> None:
    for name, age in (("a", 3.0), ("b", 1.0), ("team/c", 2.0)):
        part(tmp_path / name, age_h=age)
    (tmp_path / "notes").mkdir()
    found = list_runs(tmp_path, unpriced, now=NOW)
    assert names(found) == ["b", "c", "a"]
    row = found.runs[0]
    assert (row.script, row.device, row.ranks, row.steps, row.status) == (
        "train.py", "NVIDIA H100 80GB HBM3", 1, 12, "finished",
    )  # fmt: skip
    assert row.age_s == 3600 and row.step_s == pytest.approx(90e-6) and row.bound is None and row.cost_usd is None
    assert row.bytes == (tmp_path / "b" / "run.json").stat().st_size


def test_a_damaged_run_has_its_line_and_the_rest_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part(tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "run.json").write_bytes((tmp_path / "whole" / "run.json").read_bytes()[:300])
    assert main(["ls", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "cut    damaged" in text and "not whole JSON" in text and "whole" in text
    assert main(["ls", str(tmp_path), "--json"]) == 0
    rows = {Path(row["path"]).name: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert rows["cut"]["status"] is None and rows["cut"]["steps"] is None and rows["whole"]["problem"] is None


def test_a_lost_rank_and_a_lost_trace_are_told(tmp_path: Path) -> None:
    run_builders.record(tmp_path / "r", world_size=3)
    (tmp_path / "r" / "run.rank2.json").unlink()
    (tmp_path / "r" / "trace.rank00001.cycle0.json.gz").unlink()
    (row,) = list_runs(tmp_path, unpriced).runs
    assert row.ranks == 3 and row.traces == 1
    assert row.problem is not None and "1 of 3 ranks" in row.problem and "the trace is missing" in row.problem


def test_running_is_what_a_live_process_writes(tmp_path: Path) -> None:
    begun = datetime.fromtimestamp(psutil.Process().create_time(), UTC) + timedelta(seconds=2)
    part(tmp_path / "mine", status="running", pid=os.getpid(), created=begun.isoformat())
    before = begun - timedelta(days=400)  # a process of that number exists, but is younger than the run
    part(tmp_path / "other", status="running", pid=os.getpid(), created=before.isoformat())
    part(tmp_path / "raised", status="raised: KeyError")
    states = {Path(row.path).name: row.status for row in list_runs(tmp_path, unpriced).runs}
    assert states == {"mine": "running", "other": "killed", "raised": "raised: KeyError"}
    assert all(row.problem is None for row in list_runs(tmp_path, unpriced).runs)


def test_a_price_gives_cost_and_an_analysis_its_idle_share(tmp_path: Path) -> None:
    directory = part(tmp_path / "r", hours=3, world_size=1)
    file = analysis_cache._file(directory, (NOW - timedelta(hours=1)).isoformat())
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"bound": "host", "step_s": 0.2, "idle_s": 0.1, "recoverable_s": 0.05}))
    (row,) = list_runs(tmp_path, priced, now=NOW).runs
    assert (row.cost_usd, row.bound, row.idle_usd, row.recoverable_usd) == (6.0, "host", 3.0, 1.5)
    write_part(directory, RankPart(status="finished", created=NOW.isoformat(), duration_s=1.0))  # recorded anew
    assert list_runs(tmp_path, priced, now=NOW).runs[0].bound is None


def test_energy_is_the_counters_of_all_ranks(tmp_path: Path) -> None:
    def sources(name: str, joules: float) -> dict[str, Any]:
        return {"sources": {"nvml": {"energy_used_j": {name: joules}}}}

    directory = part(tmp_path / "r", world_size=2, telemetry=sources("GPU-a", 40.0), host="n1")
    assert list_runs(tmp_path, unpriced).runs[0].energy_j == 40
    other = RankPart(
        status="finished", rank=1, world_size=2, telemetry=sources("GPU-b", 2.0), host="n1",
        device=Device("cuda", "NVIDIA H100 80GB HBM3"),
    )  # fmt: skip
    write_part(directory, other)
    assert list_runs(tmp_path, unpriced).runs[0].energy_j == 42
    write_part(directory, RankPart(status="finished", rank=1, world_size=2, device=other.device))
    assert list_runs(tmp_path, unpriced).runs[0].energy_j is None


def test_sums_by_a_tag_mark_what_is_far_above(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, hours in enumerate((1.0, 1.1, 0.9, 1.0, 1.05, 9.0)):
        part(tmp_path / f"v{number}", hours=hours, tags={"team": "vision"})
    for number, hours in enumerate((1.0, 9.0)):  # too few to say what is usual
        part(tmp_path / f"t{number}", hours=hours, tags={"team": "text"})
    part(tmp_path / "none", hours=0.5)
    found = list_runs(tmp_path, priced, by="team", now=NOW)
    groups = {group.value: group for group in found.groups}
    assert [group.value for group in found.groups] == ["vision", "text", None]
    assert groups["vision"].cost_usd == pytest.approx(2 * 14.05) and groups["vision"].runs == 6
    assert [Path(path).name for path in groups["vision"].unusual] == ["v5"]
    assert groups["vision"].unusual_by == "cost_usd" and groups["text"].unusual_by is None
    assert list_runs(tmp_path, unpriced, by="team", now=NOW).groups[0].unusual_by == "device_hours"
    assert main(["ls", str(tmp_path), "--by", "team", "--price", "2"]) == 0
    text = capsys.readouterr().out
    assert "v5: $18.0, far above the others of team=vision" in text and "(without)" in text
    assert main(["ls", str(tmp_path), "--by", "project", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == ["no run has the tag 'project'; there are: team"]


def test_the_limit_is_three_deviations_and_not_nothing() -> None:
    assert limit([1.0, 2.0, 3.0, 4.0, 5.0]) == 3 + 3 * 1
    assert limit([10.0] * 9 + [10.2]) == pytest.approx(10.3)  # a percent of the median where all agree


def test_what_is_no_directory_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no such directory"):
        list_runs(tmp_path / "nowhere", unpriced)
    assert main(["ls", str(tmp_path / "nowhere")]) == 2
    assert main(["ls", str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out
    assert main(["ls", str(tmp_path), "--price", "-1"]) == 2


def test_what_may_not_be_read_is_no_empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        list_runs(tmp_path, unpriced)


def test_a_price_is_asked_for_by_the_longest_name(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.probe.price_per_gpu_hour]\nA100 = 1.0\n'A100 80GB' = 1.5\ndefault = 9.0\n"
    )
    (tmp_path / "below").mkdir()
    told = prices(None, tmp_path / "below")
    found = [told(name) for name in ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-PCIE-40GB", "Tesla T4", None)]
    assert [price and price.usd_per_hour for price in found] == [1.5, 1.0, 9.0, 9.0]
    asked = prices(3.0, tmp_path)("anything")
    assert asked == Price(3.0, "--price") and asked.of(1800, 4) == 6.0
    (tmp_path / "pyproject.toml").write_text("[tool.probe]\nprice_per_gpu_hour = 2.5\n")
    assert prices(None, tmp_path)("x") == Price(2.5, str(tmp_path / "pyproject.toml"))
    (tmp_path / "pyproject.toml").write_text("[tool.probe]\nprice_per_gpu_hour = 'much'\n")
    with pytest.raises(InputError, match="give US dollars"):
        prices(None, tmp_path)
    with pytest.raises(UsageError, match="give US dollars"):
        prices(float("nan"), tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert prices(None, tmp_path)("x") is None


def test_what_an_analysis_said_is_remembered(tmp_path: Path) -> None:
    from probe.api import analyze

    directory = run_builders.record(tmp_path / "r", world_size=1)
    analysis = analyze(directory, price=3.6)
    assert analysis_cache.find(directory, "") == Brief(
        analysis.bound, analysis.time_s["step"], analysis_cache.idle_s(analysis), analysis_cache.recoverable_s(analysis)
    )
    assert analysis.cost is not None and analysis.steps.bare_mean_s is not None
    assert analysis.cost.usd_per_step == pytest.approx(3.6 * analysis.steps.bare_mean_s / 3600)
    assert analysis.cost.energy is None and "telemetry" in analysis.cost.reasons["energy"]
    assert "at $3.60 an hour" in str(analysis)
