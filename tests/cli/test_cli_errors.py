"""What a stranger types wrong: each is refused at once, in one line that says what, where and what to do."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import run_builders
from builders import gpu_step, write
from command_lines import caller
from places import SAMPLES

from probe.cli.output import refuse_overwrite, write_text

LOOP = "def step():\n    pass\n\nfor _ in range(3):\n    step()\nopen('started', 'w').close()\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("hello world\n")
    (tmp_path / "loop.py").write_text(LOOP)
    write(tmp_path, gpu_step())
    return caller(capsys)


# Names of sources.


@pytest.mark.parametrize("command", [("analyze",), ("export",), ("verify",), ("repro", "--op", "0"), ("dashboard",)])
def test_an_address_of_an_unknown_kind(run: Any, command: tuple[str, ...]) -> None:
    ran = run(*command, "foo://x")
    ran.assert_one_line(2, "foo://x", "foo:// is no kind of address", "s3://", "torch-probe[s3]", "give a path")


def test_a_server_that_does_not_answer_is_no_missing_file(run: Any) -> None:
    pytest.importorskip("aiohttp")
    ran = run("analyze", "http://127.0.0.1:9/x.json?key=secret")
    ran.assert_one_line(2, "http://127.0.0.1:9/x.json: cannot be fetched", "does not answer", "download")
    assert "secret" not in ran.err and "no such file" not in ran.err


def test_what_may_have_been_meant(run: Any, tmp_path: Path) -> None:
    run_builders.record(tmp_path / "runs" / "exp1")
    run("analyze", "exp1").assert_one_line(2, "exp1: no such file or directory", "did you mean runs/exp1?")
    run("analyze", "trace.jsn").assert_one_line(2, "did you mean trace.json?")
    run("analyze", "zzz").assert_one_line(2, "zzz", "probe ls")
    run("analyze", " ").assert_one_line(2, "an empty name")
    run("analyze", "x" * 300).assert_one_line(2, "too long")


@pytest.mark.parametrize("name", ["shut.json", "shut"])
def test_what_may_not_be_read(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Root may read everything: the system's refusal is played."""

    def refused(path: Any, *_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "shut").mkdir()
    shutil.copy("trace.json", "shut.json")
    monkeypatch.setattr("probe.examine.sources.os.scandir", refused)
    monkeypatch.setattr(Path, "open", refused)
    run("analyze", name).assert_one_line(2, f"{name}: permission denied")


def test_a_name_in_the_way_is_no_defect(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "somewhere/x")

    monkeypatch.setattr("probe.doctor.examine", refused)
    run("doctor").assert_one_line(2, "somewhere/x: permission denied", "your rights")


def test_both_sides_are_looked_for_before_one_is_read(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.examine.sides.compare", lambda *_, **__: pytest.fail("one was read"))
    run("compare", "trace.json", "missing").assert_one_line(2, "missing: no such file")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.txt", b"hello world", "name a trace"),
        ("a.json", b'{"a": 1}', "no traceEvents"),
        ("x.gz", gzip.compress(b"hello", mtime=0), "name a trace"),
        ("empty.json", b"", "empty"),
        ("x.nsys-rep", b"QDSTRM", "nsys export"),
    ],
)
def test_the_dashboard_refuses_what_is_no_trace(run: Any, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    run("dashboard", "trace.json", name, "--no-browser").assert_one_line(2, name, said)


def test_the_dashboard_refuses_a_broken_run(run: Any, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    run("dashboard", "broken", "--no-browser").assert_one_line(2, "broken")


def test_the_dashboard_counts_what_it_shows(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.dashboard.server.Server.run", lambda server: server.close())
    (tmp_path / "none").mkdir()
    assert "1 run or trace; Ctrl-C" in run("dashboard", "trace.json", "--no-browser", "--port", "0").out
    assert f"no runs yet in {tmp_path / 'none'}" in run("dashboard", "none", "--no-browser", "--port", "0").out


# Options that would be ignored, or be understood too late.


def test_jobs_are_compared_where_there_are_several(run: Any) -> None:
    for source in ("trace.json", SAMPLES / "starved_loader"):
        run("analyze", source, "--scaling", "strong").assert_one_line(2, "--scaling strong", "one job", "directory")


def test_an_engine_without_work_is_told(run: Any) -> None:
    found = run("analyze", "trace.json", "--engine", "dask://nowhere:1", "--json")
    assert found.code == 0
    assert any("the engine dask://nowhere:1 was not used" in warning for warning in found.json["warnings"])
    assert not any("--engine" in warning for warning in run("analyze", "trace.json", "--json").json["warnings"])
    run("analyze", "trace.json", "--engine", "nonsense").assert_one_line(2, "--engine nonsense", "dask://HOST:PORT")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("analyze", "--theme", "dark"), ("--theme dark", "--figure")),
        (("analyze", "--steps", "5:3"), ("--steps 5:3", "write 3:5")),
        (("analyze", "--ranks", "7-0"), ("--ranks 7-0", "write 0-7")),
        (("analyze", "--fail-on", "peak_memory>1XB"), ("--fail-on peak_memory>1XB", "64KiB")),
        (("analyze", "--fail-on", "saving>-10%"), ("'-10%' is no number with a unit", "saving>10%")),
        (("analyze", "--fail-on", "code=Z99"), ("code=Z99", "--explain all")),
        (("analyze", "--explain"), ("--explain", "probe analyze --help")),
        (("gate", "check", "--runs", "one"), ("--runs", "probe gate check --help")),
        (("verify", "trace.json", "--code", "Z99"), ("--code", "no rule 'Z99'", "--explain all")),
        (("verify", "trace.json", "--code", ""), ("--code", "no rule ''")),
        (("verify", "trace.json", "--op", "-1"), ("--op", "probe verify --help")),
        (("export", "trace.json", "-o", "-"), ("-o '-'", "give one")),
        (("export", "trace.json", "-o", ""), ("-o ''", "give one")),
        (("plan", "fit", "--memory", "much"), ("--memory", "'much' is not a size")),
    ],
)
def test_what_makes_no_sense(run: Any, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    run(*arguments).assert_one_line(2, *words)


# Where results would go.


def test_a_place_that_takes_no_file_is_refused_first(run: Any) -> None:
    for arguments in (
        ("analyze", "missing", "--md", "/proc/x"),
        ("compare", "no", "such", "--md", "/proc/x"),
        ("repro", "missing", "--op", "0", "-o", "/proc/x"),
        ("run", "microbench", "launch", "--quick", "-o", "/proc/x"),
        ("run", "-o", "/proc/x", "loop.py"),
    ):
        run(*arguments).assert_one_line(2, "/proc/x", "nothing can be written in /proc", "another place")
    run("repro", "missing", "--op", "0", "-o", ".").assert_one_line(2, ".: is a directory", "name of a file")


def test_two_reports_in_one_file(run: Any) -> None:
    run("gate", "check", "--runs", "a", "b", "--md", "x", "--html", "./x").assert_one_line(2, "x", "same file")
    run("run", "microbench", "launch", "-o", "x", "--html", "x").assert_one_line(2, "x", "same file")


def test_devices_and_pipes_are_no_files_to_keep(tmp_path: Path) -> None:
    refuse_overwrite(Path("/dev/null"), force=False)
    reading, writing = os.pipe()
    write_text(Path(f"/dev/fd/{writing}"), "report")
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "report"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "t.txt"), ("-o t.txt: t.txt is a file", "directory")),
        (("-o", "t.txt/x"), ("-o t.txt/x: t.txt is a file", "directory")),
        (("--ranks", "-1"), ("--ranks -1", "0,3")),
        (("--max-pause", "0"), ("--max-pause 0.0: give",)),
        (("--every", "-1"), ("--every -1.0: give seconds",)),
        (("--slow", "0.5"), ("--slow 0.5: give",)),
        (("--keep", "0"), ("--keep 0: give",)),
        (("--max-bytes", "x"), ("--max-bytes: 'x' is not a size",)),
        (("--step-on", "stpe"), ("--step-on stpe: loop.py has no stpe", "did you mean step?")),
        (("--step-on", "nosuch:f"), ("--step-on nosuch:f: no module nosuch", "PYTHONPATH")),
        (("--step-on", ""), ("--step-on", "MODULE:FUNCTION")),
    ],
)
def test_a_program_is_not_started_in_vain(
    run: Any, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    run("run", *options, "loop.py").assert_one_line(2, *words)
    assert not (tmp_path / "started").exists()


# What is printed.


def test_explain_prints_one_object(run: Any) -> None:
    found = run("analyze", "--explain", "f6", "--json").json
    assert (found["schema"], [rule["code"] for rule in found["rules"]]) == ("probe.rules/1", ["F06"])
    assert found["rules"][0]["advice"]
    assert len(run("analyze", "--explain", "all", "--json").json["rules"]) > 50


def test_a_planned_step_prints_beside_the_object(run: Any, tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text("print('hello')\n")
    ran = run("plan", "memory", "--step", "chatty.py:missing", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert "hello" in ran.err


def test_help_keeps_brackets_and_its_paragraphs(run: Any) -> None:
    assert "[tool.probe]" in run("ls", "--help").out
    assert "peak_memory>20GiB" in run("analyze", "--help").out
    lines = run("repro", "--help").out.splitlines()
    first = next(number for number, line in enumerate(lines) if "The script needs torch alone" in line)
    assert all(len(line.rstrip()) > 60 for line in lines[first : first + 3])


def test_commands_stand_in_the_order_of_need(run: Any) -> None:
    lines = run("--help").out.splitlines()
    names = [line.split()[1] for line in lines if line.startswith("│ ") and line[2:3].isalpha()]
    assert names[:3] == ["run", "analyze", "verify"]
    assert names[-1] == "doctor"
    assert not any("spreadsheet" in line for line in lines)  # of export only what it does


@pytest.mark.parametrize("arguments", ["--help", "plan", "plan fit --memory 1GB --layers 1 --hidden 8 --heads 1"])
def test_a_reader_that_goes_away_is_no_defect(arguments: str) -> None:
    code = (
        "import os, sys; from probe.cli import main; reading, writing = os.pipe(); os.close(reading); "
        "os.dup2(writing, 1); os.close(writing); sys.exit(main(sys.argv[1:]))"
    )
    words = [*arguments.split(), *(["--vocabulary", "9"] if "fit" in arguments else [])]
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_closed_standard_output_is_no_defect(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert run("plan", "fit", "--help").code == 0
    sys.stdout.close()


def test_a_training_that_never_ends_is_no_defect(run: Any) -> None:
    words = "plan training --parameters 7e9 --tokens 2e12 --devices 64 --mfu 0.4 --checkpoint-s 60"
    ran = run(*words.split(), "--device", "H100 SXM", "--failures-per-device-day", "1e9", "--json")
    assert ran.code == 0, ran.err
    assert any("never ends" in warning for warning in ran.json["warnings"])
