"""What `probe export` writes where, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from export_builders import (
    events,
    ranks,
    rows_of,
)

import probe
from probe.cli import export as cli
from probe.errors import InputError, ProbeError, UsageError
from probe.export import chrome
from probe.export.tables import NAMES


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `probe export` in an empty directory on two ranks; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "api", SimpleNamespace(load_all=lambda source, **_: ranks(0, 1)), raising=False)
    app = typer.Typer()
    app.command()(cli.command)

    def call(*arguments: str) -> str:
        app(args=list(arguments), standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_by_default_a_chrome_trace_under_a_new_name(run: Any, tmp_path: Path) -> None:
    for name in ("step-chrome.json.gz", "step-chrome-2.json.gz", "step-chrome-3.json.gz"):
        out = run("/data/step.pt.trace.json.gz")
        assert out == f"{name}: 18 events\n"
        assert (tmp_path / name).is_file()


def test_by_default_one_file_a_table(run: Any, tmp_path: Path) -> None:
    run("runs/exp1/", "--format", "csv")
    run("runs/exp1", "--format", "csv")
    assert {p.name for p in (tmp_path / "exp1-csv").iterdir()} == {f"{name}.csv" for name in NAMES}
    assert {p.name for p in (tmp_path / "exp1-csv-2").iterdir()} == {f"{name}.csv" for name in NAMES}
    run("runs/exp1", "--format", "json", "--table", "kernels")
    assert list(json.loads((tmp_path / "exp1-tables.json").read_text())["tables"]) == ["kernels"]


@pytest.mark.parametrize(
    ("options", "file", "column"),
    [
        (("-o", "x.csv"), "x.csv", "self_ns"),
        (("-o", "x.csv", "--table", "kernels"), "x.csv", "registers_per_thread"),
        (("-o", "new/", "--format", "csv", "--table", "steps"), "new/steps.csv", "number"),
        (("-o", "new", "--format", "csv"), "new/copies.csv", "bytes"),
        (("--table", "copies", "--format", "csv"), "step-copies.csv", "bytes"),
        (("-o", "x.data", "--format", "csv"), "x.data", "self_ns"),
    ],
)
def test_where_tables_go(run: Any, tmp_path: Path, options: tuple[str, ...], file: str, column: str) -> None:
    run("step.json", *options)
    assert len(rows_of(tmp_path / file)) > 0
    assert column in rows_of(tmp_path / file)[0]


def test_a_directory_takes_a_file_of_any_format(run: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run("step.json", "-o", "out")
    run("step.json", "-o", "out", "--format", "json")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"step-chrome.json.gz", "step-tables.json"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "pdf"), "choose from chrome"),
        (("--table", "kernels"), "has no tables"),
        (("--format", "csv", "--table", "kernel"), "choose from ops"),
        (("-o", "x.csv", "--table", "ops", "--table", "kernels"), "one table, not 2"),
        (("-o", "no/x.json"), "there is no directory no"),
        (("-o", "no/where/", "--format", "csv"), "no/where"),
        (("-o", "kept.json"), "exists already and is kept"),
        (("-o", "x" * 300), "File name too long"),
        (("-o", "x" * 240), "File name too long"),  # with what a part is called until it is whole
        (("-o", "kept.json/x", "--format", "csv"), "Not a directory"),
        (("-o", "full", "--format", "csv"), "exists already and is kept"),
        (("-o", "source.json", "--force"), "is the trace that is to be exported"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(run: Any, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    (tmp_path / "full").mkdir()
    for file in ("kept.json", "full/steps.csv", "source.json"):
        (tmp_path / file).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ProbeError) as raised:
        run("source.json", *options)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "kept.json").read_text() == "mine"


def test_force_overwrites(run: Any, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text("mine")
    run("step.json", "-o", "kept.json", "--force")
    assert events(tmp_path / "kept.json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("format", ["chrome", "csv", "json", "parquet"])
def test_a_full_disk_is_one_line(run: Any, format: str) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="/dev/full: cannot be written: No space left"):
        run("step.json", "-o", "/dev/full", "--format", format)


def test_a_pipe_gets_the_content_and_nothing_else(run: Any, tmp_path: Path) -> None:
    assert run("step.json", "-o", "/dev/null", "--format", "csv") == ""


def test_one_row_is_one_row(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.api, "load_all", lambda source, **_: ranks(0))
    assert run("step.json", "-o", "x.csv", "--table", "steps") == "x.csv: 1 row\n"
    assert run("step.json", "-o", "y.csv") == "y.csv: 3 rows\n"


def test_a_part_of_some_ranks(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(probe.api, "load_all", lambda source, **options: asked.update(options) or ranks(0))
    run("traces/", "--steps", "7:8", "--window", "0:0.5", "--ranks", "0-1")
    assert asked == {"steps": (7, 8), "window_s": (0.0, 0.5), "ranks": frozenset({0, 1}), "progress": None}
    with pytest.raises(UsageError, match="not steps"):
        run("traces/", "--steps", "seven")


def test_ranks_and_steps_from_files_to_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job").mkdir()
    for trace in ranks(0, 1, 2):
        chrome.write([trace], tmp_path / "job" / f"rank{trace.rank}.json")
    app = typer.Typer()
    app.command()(cli.command)
    app(args=["job", "--ranks", "1-2", "--steps", "7", "-o", "x.csv"], standalone_mode=False)
    assert {row["rank"] for row in rows_of(tmp_path / "x.csv")} == {"1", "2"}
    with pytest.raises(ProbeError, match="no step 9; choose from 7"):
        app(args=["job", "--steps", "9", "-o", "y.csv"], standalone_mode=False)
    assert not (tmp_path / "y.csv").exists()
