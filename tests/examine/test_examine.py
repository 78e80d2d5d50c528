"""Sources of many ranks from end to end: names of any form, asked ranks, runs that probe recorded, jobs of sizes."""

from __future__ import annotations

import os
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import builders
import pytest
import run_builders
import torch

from probe.errors import RunError, TraceError, UsageError
from probe.examine.examine import Request, examine
from probe.examine.sources import Named
from probe.executors.engine import Here
from probe.readers import cache, formats
from probe.results.analysis import Analysis
from probe.session import profile


def analysed(source: Named, *ranks: int, **request: Any) -> Analysis:
    """The analysis, of the asked ranks where some are given."""
    asked = frozenset(ranks) if ranks else None
    return examine(source, Request(ranks=asked, jobs=1, **request)).analysis


def ranks_of(analysis: Analysis) -> list[int]:
    return [row.rank for row in analysis.ranks]


class TestNames:
    @pytest.fixture(autouse=True)
    def any_size_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache, "SMALLEST_BYTES", 0)
        monkeypatch.setattr(cache, "SMALLEST_GZIP_BYTES", 0)

    @pytest.mark.parametrize(
        "names", [["./rank0.json", "./rank1.json"], [".//rank1.json", "rank0.json"], ["./r*.json"]]
    )
    def test_names_that_the_cache_shortens(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], own_cache: Path
    ) -> None:
        """A cached trace has the path as pathlib writes it, which is not what was named."""
        monkeypatch.chdir(run_builders.traces(tmp_path / "job"))
        for file in Path().glob("*.json"):
            os.utime(file, (time.time() - 3600,) * 2)
        first, second = analysed(names), analysed(names)
        assert list(own_cache.rglob("*.trace"))
        assert ranks_of(first) == ranks_of(second) == [0, 1]
        assert first.time_s == second.time_s

    def test_addresses_that_differ_in_what_is_not_shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of http the query, which may hold a key, is in no message."""
        job = run_builders.traces(tmp_path / "job")
        files = {f"http://host/trace.json?rank={rank}": job / f"rank{rank}.json" for rank in range(2)}
        real = formats.read
        asked: list[str] = []

        def read(source: str, *rest: Any) -> Any:
            asked.append(source)
            return real(files[source], *rest)

        monkeypatch.setattr(formats, "read", read)
        assert ranks_of(analysed(list(files))) == [0, 1]
        assert asked[-1] == "http://host/trace.json?rank=0"


class TestAskedRanks:
    def test_of_a_job(self, tmp_path: Path) -> None:
        job = run_builders.traces(tmp_path / "job", world_size=4)
        found = analysed(job, 1, 3)
        assert ranks_of(found) == [1, 3]
        assert any("are those of rank 1" in warning for warning in found.warnings)
        with pytest.raises(UsageError, match=r"rank0\.json and 3 more: no rank 4–5: there are 0–3"):
            analysed(job, 3, 4, 5)

    def test_of_a_job_whose_names_say_none(self, tmp_path: Path) -> None:
        job = run_builders.traces(tmp_path / "job", name="{}of_the_job.json")
        assert ranks_of(analysed(job, 1)) == [1]
        with pytest.raises(UsageError, match="no rank 2: there are 0–1"):
            analysed(job, 2)

    def test_of_one_file(self, tmp_path: Path) -> None:
        file = run_builders.traces(tmp_path / "job") / "rank1.json"
        assert analysed(file, 1).source.ranks == 1
        with pytest.raises(UsageError, match=r"rank1\.json: no rank 0: there is 1; ask"):
            analysed(file, 0)
        with pytest.raises(UsageError, match=r"rank1\.json: no rank 0: there is 1; ask"):
            analysed(file, 0, 1)

    def test_of_one_file_that_says_none(self, tmp_path: Path) -> None:
        file = builders.write(tmp_path, builders.gpu_step())
        with pytest.raises(
            UsageError, match=r"trace\.json: no rank 0: there is 1 file of which no rank is known; leave"
        ):
            analysed(file, 0)

    def test_of_a_run(self, tmp_path: Path) -> None:
        run = run_builders.record(tmp_path / "run", world_size=3)
        found = analysed(run, 1, 2)
        assert ranks_of(found) == [1, 2]
        assert found.source.ranks == 2
        assert ranks_of(analysed(run, 2)) == []  # one rank is compared to none
        with pytest.raises(UsageError, match=r"run: no rank 3: there are 0–2"):
            analysed(run, 0, 3)

    def test_of_a_run_of_one_rank(self, tmp_path: Path) -> None:
        run = run_builders.record(tmp_path / "run", world_size=1)
        assert analysed(run, 0).steps.n
        with pytest.raises(UsageError, match=r"run: no rank 1: there is 0"):
            analysed(run, 1)

    def test_of_a_run_in_which_others_recorded(self, tmp_path: Path) -> None:
        run = run_builders.record(tmp_path / "run", world_size=4, traced=(0, 3))
        with pytest.raises(UsageError, match=r"run: rank 1–2 recorded no trace; ask for one that did: 0, 3"):
            analysed(run, 1, 2)
        with pytest.raises(RunError, match="no trace was recorded"):
            analysed(run_builders.record(tmp_path / "silent", traced=()), 1)


class TestRuns:
    def test_every_rank_recorded(self, tmp_path: Path) -> None:
        """As `ranks="all"` leaves it: the ranks are compared, each timed bare."""
        run = run_builders.record(tmp_path / "run", world_size=3)
        found = analysed(run)
        assert (found.source.kind, found.source.ranks) == ("run", 3)
        assert ranks_of(found) == [0, 1, 2]
        assert all(row.step_s == pytest.approx(100e-6) for row in found.ranks)  # as their traces have it
        assert [clock.rank for clock in found.clocks] == [0, 1, 2]
        assert found.steps.bare_mean_s == pytest.approx(90e-6)
        assert not any("missing" in warning or "hand" in warning for warning in found.warnings)

    def test_ranks_that_a_session_recorded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without torch.distributed the traces say no rank; their names and the parts do."""
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        for rank in (1, 0):
            monkeypatch.setenv("RANK", str(rank))
            with profile(tmp_path / "run", wait=2, warmup=1, active=2, ranks="all", telemetry=False) as prof:
                for _ in range(8):
                    torch.ones(64, 64) @ torch.ones(64, 64)
                    prof.step()
        found = analysed(tmp_path / "run")
        assert ranks_of(found) == [0, 1]
        assert all(row.communication_s == 0 and row.step_s for row in found.ranks)
        assert found.steps.bare_mean_s and found.steps.n
        assert not any("missing" in warning or "no rank" in warning for warning in found.warnings)
        assert ranks_of(analysed(tmp_path / "run", 0, 1)) == [0, 1]

    def test_one_rank_recorded(self, tmp_path: Path) -> None:
        """As `ranks="first"` leaves it: of the others the steps are known."""
        found = analysed(run_builders.record(tmp_path / "run", world_size=3, traced=(0,)))
        assert [row.step_s for row in found.ranks] == pytest.approx([90e-6, 99e-6, 108e-6])

    def test_another_rank_than_the_first_recorded(self, tmp_path: Path) -> None:
        """As `ranks="slowest"` may leave it: the trace and the times beside it are of the same rank."""
        found = analysed(run_builders.record(tmp_path / "run", world_size=3, traced=(2,)))
        assert found.steps.bare_mean_s == pytest.approx(108e-6)

    def test_a_trace_that_cannot_be_read_is_left_out(self, tmp_path: Path) -> None:
        run = run_builders.record(tmp_path / "run", world_size=3)
        (run / "trace.rank00001.cycle0.json.gz").write_bytes(b"")
        found = analysed(run)
        assert ranks_of(found) == [0, 1, 2]
        assert any("trace.rank00001" in w and "left out" in w for w in found.warnings)
        assert found.ranks[1].step_s == pytest.approx(99e-6)  # as the run timed it
        (run / "trace.rank00000.cycle0.json.gz").write_bytes(b"")
        with pytest.raises(TraceError, match=r"trace\.rank00000"):
            analysed(run)


class TestJobsOfSeveralSizes:
    @pytest.fixture
    def sizes(self, tmp_path: Path) -> list[Path]:
        return [
            run_builders.traces(tmp_path / "one", 1, steps=10),
            run_builders.traces(tmp_path / "two", 2, steps=10),
            run_builders.traces(tmp_path / "four", 4, steps=10, late=10),
        ]

    def test_what_each_job_lacks_is_told_with_its_name(self, sizes: list[Path]) -> None:
        (sizes[1] / "config.json").write_text("{}")
        (sizes[2] / "config.json").write_text("{}")
        (sizes[2] / "rank3.json").write_text("{}")
        found = analysed(list(map(str, sizes)))
        assert found.scaling is not None
        for size in sizes[1:]:
            warning = f"{size}: other files left aside: 1"
            assert warning in found.scaling.warnings
            assert [w for w in found.warnings if "left aside" in w and str(size) in w] == [warning]
        assert len([w for w in found.warnings if "rank3.json" in w and "left out" in w]) == 1
        assert not any(w.startswith(f"{sizes[0]}:") for w in found.scaling.warnings)
        assert not any(w.startswith("other files") for w in found.warnings)

    def test_each_rank_of_the_largest_is_read_once_and_the_lowest_again_in_full(
        self, sizes: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = formats.read
        seen: list[str] = []

        def read(source: Any, *rest: Any) -> Any:
            seen.append(str(source))
            return real(source, *rest)

        monkeypatch.setattr(formats, "read", read)
        found = analysed(list(map(str, sizes)))
        assert ranks_of(found) == [0, 1, 2, 3]
        assert sorted(Path(s).stem for s in seen if "/four/" in s) == ["rank0", "rank0", "rank1", "rank2", "rank3"]
        assert sum("/two/" in s for s in seen) == 2

    def test_asked_ranks_are_those_of_every_job(self, sizes: list[Path]) -> None:
        found = analysed([str(size) for size in sizes[1:]], 1)
        assert ranks_of(found) == [1]
        with pytest.raises(UsageError, match=r"one/rank0\.json: no rank 1: there is 0"):
            analysed(list(map(str, sizes)), 1)

    def test_runs_and_their_asked_ranks(self, tmp_path: Path) -> None:
        small = run_builders.record(tmp_path / "small", 1)
        large = run_builders.record(tmp_path / "large", 4, step_ns=100_000)
        found = analysed([str(small), str(large)])
        assert found.scaling is not None
        assert [point.step_s for point in found.scaling.points] == pytest.approx([90e-6, 100e-6])
        assert ranks_of(found) == [0, 1, 2, 3]
        with pytest.raises(UsageError, match="small: no rank 2: there is 0"):
            analysed([str(small), str(large)], 2)


def test_an_executor_of_the_caller_reads_the_ranks(tmp_path: Path) -> None:
    engine: Executor = Here()
    found = examine(run_builders.traces(tmp_path / "job"), Request(engine=engine)).analysis
    assert ranks_of(found) == [0, 1]


def test_files_are_counted_while_ranks_are_read(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    analysed(run_builders.traces(tmp_path / "job", 3), 0, 2, progress=lambda *seen: told.append(seen))
    assert [entry for entry in told if entry[0] == "reading ranks"] == [
        ("reading ranks", 1, 2),
        ("reading ranks", 2, 2),
    ]
