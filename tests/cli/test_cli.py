"""Every command, called in-process: exit codes, one line for each error, one JSON object and nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import run_builders
from builders import GPU, gpu_step, op, step, write
from command_lines import caller
from places import SAMPLES
from typer.main import get_command

from probe.cli import app


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write(tmp_path, gpu_step(), deviceProperties=GPU)


def test_help_everywhere(run: Any) -> None:
    for command in ("", "run", "run microbench", "doctor", "analyze", "verify", "export", "compare"):
        ran = run(*command.split(), "--help")
        assert ran.code == 0
        assert "Usage" in ran.out


def test_version(run: Any) -> None:
    assert run("--version").out.startswith("probe ")


def test_analyze_prints_a_report_without_colour_codes(run: Any, trace: Path) -> None:
    ran = run("analyze", trace)
    assert ran.code == 0
    assert "addmm" in ran.out
    assert "\x1b" not in ran.out
    assert ran.err == ""


def test_analyze_json_has_the_keys_of_the_contract(run: Any, trace: Path) -> None:
    content = run("analyze", trace, "--json").json
    assert next(iter(content)) == "schema"
    assert {
        "schema", "source", "quality", "ceilings", "steps", "bound", "time_s", "time_interval_s", "utilisation", "ops",
        "findings", "ranks", "memory", "warnings",
    } <= content.keys()  # fmt: skip
    assert set(content["time_s"]) == {
        "step", "compute", "memory", "latency", "overhead", "communication", "host", "idle", "unknown",
    }  # fmt: skip
    assert {
        "index", "name", "shapes", "dtypes", "calls", "self_s", "device_s", "spread_s", "share_fraction", "flops",
        "bytes", "intensity", "achieved_flops_per_s", "achieved_bytes_per_s", "roof_fraction", "bound", "limiter",
        "evidence", "recoverable_s", "module", "kernels",
    } <= content["ops"][0].keys()  # fmt: skip
    assert [o["index"] for o in content["ops"]] == list(range(len(content["ops"])))


def test_a_run_directory_and_the_newest_run(run: Any, tmp_path: Path) -> None:
    named = run("analyze", SAMPLES / "starved_loader", "--json").json
    assert named["source"]["kind"] == "run"
    assert named["steps"]["n"] == 24
    assert named["steps"]["bare_mean_s"] and named["steps"]["profiled_mean_s"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(SAMPLES / "starved_loader")
    assert run("analyze", "--json").json["source"]["path"] == "runs/mine"


def test_reports_are_written(run: Any, trace: Path, tmp_path: Path) -> None:
    assert run("analyze", trace, "--md", "r.md", "--html", "r.html").code == 0
    assert "aten::addmm" in (tmp_path / "r.md").read_text()
    page = (tmp_path / "r.html").read_text()
    assert "addmm" in page
    assert "http" not in page.replace("http-equiv", "")


def test_hostile_names_stay_text_in_the_page(run: Any, tmp_path: Path) -> None:
    bad = '<script>alert(1)</script>"><img src=x onerror=alert(1)>\x1b[31m'
    run("analyze", write(tmp_path, [step(1, 0, 100), op(bad, 1, 90)]), "--html", "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\x1b" not in page


def test_a_report_that_cannot_be_written(run: Any, trace: Path) -> None:
    run("analyze", trace, "--md", "/proc/nowhere/r.md").assert_one_line(2, "/proc/nowhere/r.md")


def test_reports_go_through_links_and_into_pipes_and_replace_neither(run: Any, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "real.md").write_text("old")
    (tmp_path / "link.md").symlink_to("real.md")
    assert run("analyze", trace, "--md", "link.md").code == 0
    assert (tmp_path / "link.md").is_symlink()
    assert "addmm" in (tmp_path / "real.md").read_text()
    assert run("analyze", trace, "--md", "/dev/null").code == 0
    assert not Path("/dev/null").is_file()
    run("analyze", trace, "--md", ".").assert_one_line(2, "directory")
    run("analyze", trace, "--md", "x", "--html", "x").assert_one_line(2, "same file")


def test_what_cannot_be_read_is_said(run: Any, tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"SQLite format 3")
    run("analyze", "x.sqlite").assert_one_line(2, "x.sqlite", "not an SQLite database", "nsys export")
    (tmp_path / "x.nsys-rep").write_bytes(b"QDSTRM")
    run("analyze", "x.nsys-rep").assert_one_line(2, "x.nsys-rep", "nsys export --type sqlite")
    (tmp_path / "x.pftrace").write_bytes(b"\n\x10")
    run("analyze", "x.pftrace").assert_one_line(2, "x.pftrace", "Chrome JSON")
    run("analyze", "nothing://bucket/trace.json").assert_one_line(2, "nothing://bucket/trace.json")
    (tmp_path / "empty").mkdir()
    run("analyze", "empty").assert_one_line(2, "empty", "no traces", "*.json")
    run("analyze", "rank*.json").assert_one_line(2, "rank*.json", "nothing matches")


def test_the_ranks_of_a_job(run: Any, tmp_path: Path) -> None:
    (tmp_path / "ranks").mkdir()
    for rank in range(2):
        write(tmp_path / "ranks", gpu_step(), f"rank{rank}.json", distributedInfo={"rank": rank, "world_size": 2})
    for source in (["ranks"], ["ranks/rank*.json"], ["ranks/rank0.json", "ranks/rank1.json"]):
        found = run("analyze", *source, "--json").json
        assert [row["rank"] for row in found["ranks"]] == [0, 1]
        assert found["source"]["ranks"] == 2
    assert [row["rank"] for row in run("analyze", "ranks", "--ranks", "1", "--json").json["ranks"]] == [1]
    run("analyze", "ranks", "--ranks", "5").assert_one_line(2, "no rank 5", "0–1")
    run("analyze", "ranks", "--ranks", "x").assert_one_line(2, "--ranks x")


def test_a_part_of_a_trace(run: Any, tmp_path: Path) -> None:
    write(tmp_path, gpu_step())
    assert run("analyze", "trace.json", "--steps", "3", "--json").json["steps"]["n"] == 1
    run("analyze", "trace.json", "--steps", "4").assert_one_line(2, "no step 4", "3")
    run("analyze", "trace.json", "--steps", "a").assert_one_line(2, "--steps a")
    assert run("analyze", "trace.json", "--window", "0:0.00005", "--json").json["ops"]
    run("analyze", "trace.json", "--window", "5:1").assert_one_line(2, "--window 5:1")


def test_run_json_names_its_run(run: Any) -> None:
    assert run("analyze", SAMPLES / "starved_loader" / "run.json", "--json").json["source"]["kind"] == "run"


@pytest.mark.parametrize(
    "events",
    [
        [op("x", 0, 0)],
        [step(1, 0, 0), op("x", 0, 0)],
        [op("x", float("nan"), 1), op("y", 0, 1)],
        [op("x", 0, 1, **{"Input Dims": [[10**12, 10**12]], "Input type": ["float"], "Input Strides": [[-1, 5]]})],
        [op("aten::mm", 0, 20, **{"Input Dims": [[0, 4], [4, 0]], "Input type": ["float", "what"]})],
    ],
)
def test_odd_traces_have_an_analysis(run: Any, tmp_path: Path, events: list[Any]) -> None:
    ran = run("analyze", write(tmp_path, events), "--json")
    assert ran.code == 0, ran.err
    assert ran.json["schema"] == "probe.analysis/1"


def test_host_only_trace_of_a_gpu_machine_has_no_bound_by_its_roofs(run: Any, tmp_path: Path) -> None:
    product = {"Input Dims": [[1024, 1024], [1024, 1024]], "Input type": ["float", "float"]}
    path = write(tmp_path, [step(1, 0, 900), op("aten::mm", 10, 800, **product)], deviceProperties=GPU)
    content = run("analyze", path, "--json").json
    assert content["ops"][0]["bound"] == "unknown"
    assert content["utilisation"]["mfu_fraction"] is None


def test_no_arguments_print_the_help_alone(run: Any) -> None:
    ran = run()
    assert "Usage" in ran.out
    assert ran.err == ""


def test_fail_on(run: Any, trace: Path) -> None:
    run("analyze", trace, "--fail-on", "step>1us").assert_one_line(3, "step is")
    assert run("analyze", trace, "--fail-on", "step>1s").code == 0
    run("analyze", trace, "--fail-on", "speed>1").assert_one_line(2, "write it like")


def test_explain_needs_no_source(run: Any) -> None:
    assert "attention" in run("analyze", "--explain", "F06").out
    run("analyze", "--explain", "F99").assert_one_line(2, "F99", "did you mean")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("analyze", "missing.json"), 2, "no such file"),
        (("analyze",), 2, "no run in it"),
        (("analyze", "."), 2, "run.json"),
        (("analyze", "--frobnicate"), 2, "frobnicate"),
        (("analyse",), 2, "analyse"),
        (("run", "train.py"), 2, "train.py"),
        (("run", "microbench", "no_such_suite"), 2, "no_such_suite"),
        (("run", "microbench", "--device", "cuda:7"), 4, "CUDA"),
        (("run", "microbench", "--device", "tpu"), 2, "tpu"),
        (("verify", "missing"), 2, "missing"),
        (("analyze", "--top", "0"), 2, "top"),
        (("analyze", "x.json", "--ceilings", "none.json"), 2, "x.json"),
    ],
)
def test_errors_are_one_line(run: Any, arguments: tuple[str, ...], code: int, word: str) -> None:
    run(*arguments).assert_one_line(code, word)


def test_ceilings_that_cannot_be_read(run: Any, trace: Path, tmp_path: Path) -> None:
    run("analyze", trace, "--ceilings", "none.json").assert_one_line(2, "none.json")
    (tmp_path / "old.json").write_text('{"schema": "probe.ceilings/0"}')
    run("analyze", trace, "--ceilings", "old.json").assert_one_line(2, "measure again")


def test_microbench_list(run: Any) -> None:
    listed = run("run", "microbench", "--list").out
    for suite in ("cache_latency", "memory_bandwidth", "matmul", "saxpy", "launch", "storage"):
        assert suite in listed


def test_microbench_writes_json_and_refuses_to_overwrite(run: Any, tmp_path: Path) -> None:
    ran = run("run", "microbench", "launch", "--quick", "--json", "-o", "m.json")
    assert ran.code == 0, ran.err
    assert ran.json == json.loads((tmp_path / "m.json").read_text())
    assert {m["suite"] for m in ran.json["measurements"]} == {"launch"}
    assert ran.json["ceilings"]["launch_s"] > 0
    run("run", "microbench", "launch", "--quick", "-o", "m.json").assert_one_line(2, "m.json", "--force")


def test_doctor(run: Any) -> None:
    assert "Python" in run("doctor").out
    content = run("doctor", "--json").json
    assert content["schema"] == "probe.doctor/1"
    assert {"name", "ok", "found", "means", "remedy"} <= content["checks"][0].keys()


def test_verify_runs_the_suggestions_of_a_run(run: Any, tmp_path: Path) -> None:
    recorded = shutil.copytree(SAMPLES / "transformer_step", tmp_path / "run")  # the verdicts are kept with the run
    content = run("verify", recorded, "--code", "f06", "--budget", "2", "--json").json
    verified = {f["code"]: f["verified"] for f in content["findings"]}
    assert verified["F06"]["verdict"] in ("accept", "trade", "inconclusive", "reject")
    assert verified["F24"] is None
    assert content["candidates"] == []
    run("verify", SAMPLES / "starved_loader", "--code", "F06").assert_one_line(2, "F06")


def test_a_defect_of_our_own_is_1_and_says_so(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.doctor.examine", lambda: 1 / 0)
    ran = run("doctor")
    assert ran.code == 1
    assert "defect of probe's own" in ran.err


def test_ctrl_c_is_quiet(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("probe.doctor.examine", interrupted)
    run("doctor").assert_one_line(130, "stopped")


def test_a_command_that_needs_torch_says_so(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def without() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("probe.doctor.examine", without)
    run("doctor").assert_one_line(4, "torch is not installed", "pip install torch")


def test_asked_ranks_wherever_they_are_said(run: Any, tmp_path: Path) -> None:
    run_builders.traces(tmp_path / "named", 2)
    run_builders.traces(tmp_path / "unnamed", 2, name="{}of_the_job.json")
    run_builders.traces(tmp_path / "swapped", 2)
    names = tmp_path / "swapped" / "rank0.json", tmp_path / "swapped" / "rank1.json"
    texts = [name.read_text() for name in names]
    for name, text in zip(names, reversed(texts), strict=True):
        name.write_text(text)
    for source in ("named", "unnamed", "swapped", "./named"):
        assert [row["rank"] for row in run("analyze", source, "--ranks", "1", "--json").json["ranks"]] == [1]
        run("analyze", source, "--ranks", "1,7").assert_one_line(2, source.removeprefix("./"), "no rank 7", "0–1")
    assert run("analyze", "named/rank1.json", "--ranks", "1", "--json").code == 0
    run("analyze", "named/rank1.json", "--ranks", "0").assert_one_line(2, "named/rank1.json", "no rank 0", "there is 1")
    run("analyze", write(tmp_path, gpu_step()), "--ranks", "0").assert_one_line(2, "trace.json", "no rank is known")


def test_a_run_of_many_ranks(run: Any, tmp_path: Path) -> None:
    run_builders.record(tmp_path / "run", 3)
    content = run("analyze", "run", "--json").json
    assert (content["source"]["kind"], content["source"]["ranks"]) == ("run", 3)
    assert [row["rank"] for row in content["ranks"]] == [0, 1, 2]
    assert all(row["communication_s"] is not None for row in content["ranks"])
    assert "rank" in run("analyze", "run").out
    asked = run("analyze", "run", "--ranks", "1-2", "--json").json
    assert [row["rank"] for row in asked["ranks"]] == [1, 2]
    run("analyze", "run", "--ranks", "2-3").assert_one_line(2, "run: no rank 3", "0–2")


def test_where_a_report_would_go_is_checked_first(run: Any, tmp_path: Path) -> None:
    for arguments in (("microbench", "launch", "-o"), ("microbench", "launch", "--html")):
        run("run", *arguments, "absent/x").assert_one_line(2, "absent/x", "no directory absent")
    write(tmp_path, gpu_step())
    run("analyze", "trace.json", "--md", "absent/x.md").assert_one_line(2, "absent/x.md", "no directory absent")
    run("analyze", "trace.json", "--md", ".").assert_one_line(2, ".: is a directory", "name of a file")
    run("compare", "no", "such", "--md", "absent/x.md").assert_one_line(2, "absent/x.md", "no directory absent")
    run("gate", "history", "no", "--html", "absent/x.html").assert_one_line(2, "absent/x.html", "no directory absent")


def test_what_cannot_be_meant_is_refused(run: Any, tmp_path: Path) -> None:
    """An unset variable of a shell; a wait without an end; ranks divided that nobody asked for."""
    write(tmp_path, gpu_step())
    run("analyze", "").assert_one_line(2, "an empty name")
    run("verify", "trace.json", "--budget", "inf").assert_one_line(2, "--budget")
    run("gate", "check", "--budget", "inf", "--", "train.py").assert_one_line(2, "--budget")
    run("whatif", "trace.json", "--onto", "H200", "--tensor", "2").assert_one_line(2, "--tensor", "give --ranks")
    run("verify", "trace.json", "--apply", "mine:f", "--op", "0").assert_one_line(2, "--apply", "--op")


def test_every_option_says_what_it_is() -> None:
    def silent(command: Any, path: str) -> list[str]:
        options = [p for p in command.params if p.param_type_name == "option"]
        found = [f"{path} {p.opts[0]}" for p in options if not p.help]
        for name, below in getattr(command, "commands", {}).items():
            found += silent(below, f"{path} {name}")
        return found

    assert silent(get_command(app), "probe") == []


def test_nothing_measured_is_no_success(run: Any) -> None:
    run("run", "microbench", "storage", "--path", "absent").assert_one_line(2, "--path absent", "no such directory")
    run("run", "microbench", "register_banks", "--device", "cpu").assert_one_line(4, "register_banks")


def test_a_cut_trace_is_no_cpu_run(run: Any, tmp_path: Path) -> None:
    path = write(tmp_path, [op("aten::mm", 0, 20), op("aten::add", 30, 5), *gpu_step()])
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"aten::add") + 200])
    found = run("analyze", "trace.json", "--json").json
    assert found["source"]["device_kind"] == "unknown"
    assert any("cut" in warning for warning in found["warnings"])


def test_ranks_merged_into_one_file_are_told(run: Any, tmp_path: Path) -> None:
    for rank in range(2):
        write(tmp_path, gpu_step(), f"rank{rank}.json", distributedInfo={"rank": rank, "world_size": 2})
    assert run("export", "rank0.json", "rank1.json", "-o", "all.json").code == 0
    found = run("analyze", "all.json", "--json").json
    assert any("2 processes call the device in this file" in warning for warning in found["warnings"])
