"""What a SOURCE names, which files are in it, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import builders
import pytest
import run_builders

from probe.errors import InputError, RunError, UsageError
from probe.examine.sources import FileSource, Jobs, JobSource, RunSource, files_of, find, name_of, only
from probe.ranks.files import Job, RankFile


def test_each_kind_of_source(tmp_path: Path) -> None:
    file = builders.write(tmp_path, builders.gpu_step())
    run = run_builders.record(tmp_path / "run")
    job = run_builders.traces(tmp_path / "job")
    assert isinstance(find(file), FileSource)
    assert isinstance(find(run), RunSource)
    assert isinstance(find(run / "run.json"), RunSource)
    assert isinstance(find(job), JobSource)
    assert isinstance(find(f"{job}/rank*.json"), JobSource)
    assert isinstance(find([job / "rank0.json", job / "rank1.json"]), JobSource)
    assert isinstance(find(f"{job}/rank1*"), FileSource)
    assert isinstance(find([run, job]), Jobs)


def test_names(tmp_path: Path) -> None:
    run, job = run_builders.record(tmp_path / "run"), run_builders.traces(tmp_path / "job")
    found = find([run, job])
    assert isinstance(found, Jobs)
    assert [name_of(one) for one in found.jobs] == [str(run), str(job)]
    assert name_of(FileSource("https://host/t.json?key=1")) == "https://host/t.json"


def test_the_files_of_a_source(tmp_path: Path) -> None:
    run, job = run_builders.record(tmp_path / "run"), run_builders.traces(tmp_path / "job")
    assert [Path(file).name for file in files_of(job)] == ["rank0.json", "rank1.json"]
    assert [Path(file).name for file in files_of(run)] == [f"trace.rank0000{r}.cycle0.json.gz" for r in (0, 1)]
    assert files_of(job / "rank1.json") == (str(job / "rank1.json"),)


def test_several_jobs_are_too_many(tmp_path: Path) -> None:
    run, job = run_builders.record(tmp_path / "run"), run_builders.traces(tmp_path / "job")
    with pytest.raises(UsageError) as told:
        files_of([run, job])
    assert str(told.value) == f"several jobs were named: {run}, {job}; name one"


def test_where_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no traces in it.*looked for run\.json, \*\.json, .* and \*\.sqlite"):
        files_of(tmp_path / "empty")
    with pytest.raises(RunError, match="silent: no trace was recorded"):
        files_of(run_builders.record(tmp_path / "silent", traced=()))
    monkeypatch.setattr("probe.examine.sources.find", lambda source: JobSource("s3://b/job", Job(())))
    with pytest.raises(InputError, match=r"^s3://b/job: no traces there; name a trace"):
        files_of("s3://b/job")


def test_ranks_by_name() -> None:
    job = Job((RankFile("a/rank0.json", 0), RankFile("a/rank2.json", 2), RankFile("a/x.json", None)))
    assert only(job, None) is job
    assert [file.rank for file in only(job, frozenset({2})).files] == [2]
    with pytest.raises(UsageError) as told:
        only(job, frozenset({1, 2}))
    assert "no rank 1: there are 0, 2 and 1 file of which no rank is known" in str(told.value)
