"""Which files are the ranks of one job, what their names say, and what becomes of odd ones."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import builders
import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import InputError, TraceError, UsageError
from probe.executors.engine import Outcome
from probe.ranks import summaries
from probe.ranks.files import Job, RankFile, discover
from probe.ranks.summaries import RankRead, RankTask, combined
from probe.readers import rank_names as names
from probe.readers.narrow import Selection


class TestNames:
    @pytest.mark.parametrize(
        ("path", "rank"),
        [
            ("rank0.json.gz", 0),
            ("rank-3_step5.json", 3),
            ("trace_rank_12.json", 12),
            ("r3.json", 3),
            ("sampled_rank-0007.json.gz", 7),
            ("nccl-RANK-7.pt.trace.json", 7),
            ("iteration_10/rank3_trace.json", 3),
            ("0.json", 0),
            ("00012.json.gz", 12),
            ("rank2/trace.json", 2),
            ("rank_2/5.json", 2),
            ("r7/0.json", 0),
            ("local_rank0_rank8.json", 8),
            ("node_rank1/local_rank-3/trace.json", None),
            ("rank5.1700000000000000000.pt.trace.json", 5),
            ("gpu17_1234.1700000000000000000.pt.trace.json.gz", None),
            ("model_tp0_pp1_dp3.json", None),
            ("1700000000.json", None),
            ("trace.json", None),
            ("error3.json", None),
            ("benchmark.json", None),
        ],
    )
    def test_rank(self, path: str, rank: int | None) -> None:
        assert names.rank_of(path.split("/")) == rank

    def test_natural_order(self) -> None:
        paths = [f"rank{number}.json" for number in range(120)]
        assert sorted(random.Random(1).sample(paths, 120), key=names.natural) == paths

    @given(st.sets(st.integers(0, 30)), st.integers(0, 40))
    def test_numbers_and_gaps(self, ranks: set[int], size: int) -> None:
        count, missing = names.gaps(ranks, size)
        assert _read(names.numbers(ranks)) == ranks or names.numbers(ranks).endswith("…")
        assert count == len(set(range(size)) - ranks)
        assert _read(missing) == set(range(size)) - ranks or missing.endswith("…")

    def test_a_huge_size_costs_nothing(self) -> None:
        assert names.gaps([0, 1], 10**15) == (10**15 - 2, "2–999999999999999")


def _read(text: str) -> set[int]:
    """The oracle: 0–2, 5 as a set."""
    found: set[int] = set()
    for run in text.replace(", …", "").split(", ") if text else []:
        first, _, last = run.partition("–")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def touch(folder: Path, *paths: str) -> Path:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"{}")
    return folder


def upload(folder: Path) -> str:
    """The same files behind a URL."""
    memory = fsspec.filesystem("memory")
    root = f"/{folder.name}{random.getrandbits(60)}"
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    memory.makedirs(root, exist_ok=True)
    return f"memory:/{root}"


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    return str if request.param == "local" else upload


def found(job: Job) -> list[tuple[str, int | None]]:
    return [(file.source.rsplit("/", 1)[-1], file.rank) for file in job.files]


class TestDirectory:
    def test_ranks_in_order_and_what_is_left_aside(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        touch(tmp_path, *(f"rank{rank}.json.gz" for rank in (10, 9, 0)), "config.json", "notes.txt")
        touch(tmp_path, ".rank3.json", "rank4.json.tmp", "rank5.json.gz.part")
        job = discover([place(tmp_path)])
        assert found(job) == [("rank0.json.gz", 0), ("rank9.json.gz", 9), ("rank10.json.gz", 10)]
        assert job.ignored == 2
        assert [file.size for file in job.files] == [2, 2, 2]

    def test_names_without_ranks(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        job = discover([place(touch(tmp_path, "b10.json", "b9.json", "x.csv"))])
        assert found(job) == [("b9.json", None), ("b10.json", None)]

    def test_the_newest_iteration(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        """As torchtitan writes them."""
        root = tmp_path / "profile_traces"
        touch(root, *(f"iteration_{n}/rank{r}_trace.json" for n in (9, 10, 2) for r in (0, 1)))
        job = discover([place(root)])
        assert found(job) == [("rank0_trace.json", 0), ("rank1_trace.json", 1)]
        assert all("iteration_10/" in file.source for file in job.files)
        assert job.ignored == 4
        assert len(job.warnings) == 1 and "3 iterations; only the last, 10, is read" in job.warnings[0]

    def test_a_directory_per_rank(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        job = discover([place(touch(tmp_path, "rank1/trace.json", "rank0/trace.json", "readme.md"))])
        assert [file.rank for file in job.files] == [0, 1]

    def test_a_directory_per_node(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        job = discover([place(touch(tmp_path, "node1/rank8.json", "node0/rank0.json", "node0/rank1.json"))])
        assert [file.rank for file in job.files] == [0, 1, 8]

    def test_directories_of_different_jobs(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        touch(tmp_path, "before/rank0.json", "after/rank0.json")
        with pytest.raises(InputError, match=r"traces in 2 directories below it \(after, before\); name one"):
            discover([place(tmp_path)])

    def test_traces_at_the_top_hide_those_below(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        assert found(discover([place(touch(tmp_path, "rank0.json", "old/rank0.json"))])) == [("rank0.json", 0)]

    def test_last_cycle_of_each_process(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        """As torch's tensorboard_trace_handler names them."""
        stamps = (1700000000000000002, 1700000000000000010, 1700000000000000001)
        touch(tmp_path, *(f"h_{p}.{t}.pt.trace.json.gz" for p in (7, 8) for t in stamps), "other.json")
        job = discover([place(tmp_path)])
        assert [name for name, _ in found(job)] == [f"h_{p}.1700000000000000010.pt.trace.json.gz" for p in (7, 8)]
        assert job.warnings == ("4 files are earlier recordings of the same processes; only the last of each is read",)
        assert job.ignored == 5

    def test_nothing_there(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        touch(tmp_path, "a.csv", ".hidden/rank0.json", "1/2/3/4/rank0.json")
        with pytest.raises(InputError, match=r"no traces in it or 3 levels below.*; other files there: 1") as told:
            discover([place(tmp_path)])
        assert ("*.sqlite" in str(told.value)) == (place(tmp_path) == str(tmp_path))  # read from local files only

    def test_nsight_only_when_alone(self, tmp_path: Path) -> None:
        assert [name for name, _ in found(discover([touch(tmp_path, "rank0.sqlite")]))] == ["rank0.sqlite"]
        assert found(discover([touch(tmp_path, "rank0.json")])) == [("rank0.json", 0)]

    def test_a_run_of_probe_is_not_for_here(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="a run of probe, not a directory of traces"):
            discover([touch(tmp_path, "run.json", "rank0.json")])


class TestPatternsAndLists:
    def test_pattern(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        root = place(touch(tmp_path, "rank0.json", "rank1.json", "rank1.txt", "x.json"))
        assert found(discover([f"{root}/rank*"])) == [("rank0.json", 0), ("rank1.json", 1)]

    def test_pattern_over_directories(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        """Only what differs between the matches says a rank."""
        root = place(touch(tmp_path / "rank9_of_old", "rank0/trace.json", "rank1/trace.json"))
        assert [file.rank for file in discover([f"{root}/*/trace.json"]).files] == [0, 1]

    def test_a_pattern_without_matches(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        with pytest.raises(InputError, match="nothing matches"):
            discover([f"{place(tmp_path)}/rank*.json"])
        with pytest.raises(InputError, match="only files that are no traces match") as told:
            discover([f"{place(touch(tmp_path, 'a.txt'))}/*"])
        assert ("*.sqlite" in str(told.value)) == (place(tmp_path) == str(tmp_path))

    def test_a_name_with_brackets_is_a_name(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        root = place(touch(tmp_path, "run[1]rank2.json"))
        assert found(discover([f"{root}/run[1]rank2.json"])) == [("run[1]rank2.json", 2)]

    def test_files_are_taken_as_named(self, tmp_path: Path) -> None:
        touch(tmp_path, "b/any.thing", "a.json", "rank0/t.json")
        job = discover([tmp_path / "b/any.thing", tmp_path / "a.json", tmp_path / "rank0/t.json", tmp_path / "a.json"])
        assert found(job) == [("t.json", 0), ("a.json", None), ("any.thing", None)]

    def test_directories_together(self, tmp_path: Path) -> None:
        touch(tmp_path, "n0/rank0.json", "n1/rank1.json")
        assert len(discover([tmp_path / "n0", tmp_path / "n1"]).files) == 2

    def test_what_is_not_there(self, tmp_path: Path, place: Callable[[Path], str]) -> None:
        with pytest.raises(InputError, match="no such file"):
            discover([f"{place(tmp_path)}/none.json"])
        with pytest.raises(UsageError, match="no traces named"):
            discover([])

    def test_foreign_folders(self, foreign_traces: Path) -> None:
        job = discover([foreign_traces / "v100_dlrm_4_of_8_ranks"])
        assert found(job) == [(f"rank{rank}.json.gz", rank) for rank in range(4)]
        assert len(discover([foreign_traces / "two_of_128_ranks"]).files) == 2


@dataclass(frozen=True)
class Summary:
    """Stands for a RankSummary where only these matter."""

    rank: int
    world_size: int | None = None
    path: str = ""


def read(rank: int, **about: Any) -> Outcome[RankTask, RankRead]:
    name = about.pop("name", f"rank{rank}.json")
    task = RankTask(name, None, about.pop("place", rank), alone=False)
    known = {"known": True, "recorded_unix_ns": 0, "truncated": False}
    summary: Any = Summary(rank, about.pop("world_size", None))
    return Outcome(task, RankRead(task, summary, **{**known, **about}))


def failed(name: str, error: str) -> Outcome[RankTask, RankRead]:
    return Outcome(RankTask(name, None, 0, alone=False), None, error)


def ranks_of(found: Sequence[RankRead]) -> list[int]:
    return [one.summary.rank for one in found]


class TestCombined:
    def test_all_is_well(self) -> None:
        found, warnings = combined([read(1, world_size=2), read(0, world_size=2)])
        assert (ranks_of(found), warnings) == ([0, 1], [])

    def test_one_that_cannot_be_read(self) -> None:
        _, warnings = combined([read(0), failed("a.json", "a.json: cut"), failed("b.json", "killed"), read(1)])
        assert warnings == ["a.json: cut; this file is left out", "b.json: killed; this file is left out"]

    def test_none_can_be_read(self) -> None:
        with pytest.raises(TraceError, match=r"a.json: cut \(files that cannot be read: 2\)"):
            combined([failed("a.json", "a.json: cut"), failed("b.json", "killed")])

    def test_missing(self) -> None:
        """Where the size of the job is known, the comparison of the ranks says which are not at hand."""
        assert combined([read(r, world_size=8) for r in (0, 1, 5)])[1] == []
        assert combined([read(r) for r in (0, 3)])[1] == ["2 of at least 4 ranks missing: 1–2"]
        assert combined([read(5)])[1] == []
        assert combined([read(5, world_size=6)])[1] == []

    def test_twice(self) -> None:
        """The one recorded last; of two copies the whole one."""
        old, new = read(0, name="old", recorded_unix_ns=1), read(0, name="new", recorded_unix_ns=2)
        for pair in ([old, new], [new, old]):
            found, warnings = combined([*pair, read(1)])
            assert ranks_of(found) == [0, 1]
            assert found[0].task.source == "new"
            assert warnings == ["rank 0: 2 files; only the one recorded last is used, new"]
        cut, whole = read(0, name="cut", truncated=True), read(0, name="whole")
        assert combined([cut, whole])[1] == ["rank 0: 2 files; only the one recorded last is used, whole"]

    def test_without_ranks(self) -> None:
        """They take the free numbers in their order."""
        unknown = [read(place, known=False, place=place, name=f"{place}") for place in (0, 2, 3)]
        found, warnings = combined([*unknown[::-1], read(1)])
        assert ranks_of(found) == [0, 1, 2, 3]
        assert warnings == ["3 of 4 files say no rank, nor do their names; they are numbered in order of name"]

    def test_different_jobs(self) -> None:
        """That the sizes they say differ is for the comparison of the ranks to tell, once."""
        assert combined([read(0, world_size=2), read(1, world_size=4)])[1] == []
        assert combined([read(0, world_size=1), read(1, world_size=1)])[1] == []
        assert combined([read(0, world_size=1), read(3, world_size=1)])[1] == ["2 of at least 4 ranks missing: 1–2"]

    def test_the_same_warning_once(self) -> None:
        outcomes = [read(r, truncated=r == 1, warnings=("no shapes",)) for r in range(3)]
        assert combined(outcomes)[1] == [
            "ranks 0–2: no shapes",
            "rank 1: the file breaks off; what was read is used",
        ]


class TestSummaries:
    @pytest.fixture(autouse=True)
    def reader(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task that reads nothing: the file's text is its rank and world size."""

        def task(task: RankTask) -> RankRead:
            recorded, size = (None if word == "-" else int(word) for word in Path(task.source).read_text().split())
            rank = summaries._rank(task, recorded, size)
            summary: Any = Summary(task.place if rank is None else rank, size, task.source)
            return RankRead(task, summary, rank is not None, 0, False)

        monkeypatch.setattr(summaries, "read_rank", task)

    def job(self, folder: Path, **texts: str) -> Job:
        for name, text in texts.items():
            (folder / f"{name}.json").write_text(text)
        return discover([folder])

    def test_the_file_counts_more_than_its_name(self, tmp_path: Path) -> None:
        found, warnings = summaries.summaries(self.job(tmp_path, rank0="1 2", rank1="0 2"), jobs=1)
        assert [(r.summary.rank, Path(r.task.source).name) for r in found] == [(0, "rank1.json"), (1, "rank0.json")]
        assert warnings == []

    def test_the_name_counts_where_the_file_says_nothing(self, tmp_path: Path) -> None:
        found, _ = summaries.summaries(self.job(tmp_path, rank3="- -", rank1="1 1"), jobs=1)
        assert ranks_of(found) == [1, 3]

    def test_order_counts_where_neither_does(self, tmp_path: Path) -> None:
        found, warnings = summaries.summaries(self.job(tmp_path, b10="- -", b9="- -", b8="0 3"), jobs=1)
        assert [(r.summary.rank, Path(r.task.source).stem) for r in found] == [(0, "b8"), (1, "b9"), (2, "b10")]
        assert warnings == ["2 of 3 files say no rank, nor do their names; they are numbered in order of name"]

    def test_a_single_file_is_what_it_says(self, tmp_path: Path) -> None:
        assert ranks_of(summaries.summaries(self.job(tmp_path, rank3="0 1"))[0]) == [0]

    def test_progress(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        job = self.job(tmp_path, rank0="0 2", rank1="1 2")
        summaries.summaries(job, jobs=1, progress=lambda done, of: seen.append((done, of)))
        assert seen == [(1, 2), (2, 2)]

    def test_what_was_found_is_told(self, tmp_path: Path) -> None:
        touch(tmp_path, "config.json")
        job = replace(self.job(tmp_path, rank0="0 1"), warnings=("two iterations",))
        assert summaries.summaries(job)[1] == ["two iterations", "other files left aside: 1"]

    def read_files(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The names of the files that are read from here on."""
        names: list[str] = []
        task = summaries.read_rank

        def noted(asked: RankTask) -> RankRead:
            names.append(Path(asked.source).stem)
            return task(asked)

        monkeypatch.setattr(summaries, "read_rank", noted)
        return names

    def asked(self, job: Job, *ranks: int) -> list[tuple[int, str]]:
        found, _ = summaries.summaries(job, jobs=1, ranks=frozenset(ranks))
        return [(r.summary.rank, Path(r.task.source).stem) for r in found]

    def test_only_the_asked_files_are_read_where_names_say_ranks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = self.job(tmp_path, rank0="0 4", rank1="1 4", rank2="- -", rank3="0 1")
        names = self.read_files(monkeypatch)
        assert self.asked(job, 1, 2, 3) == [(1, "rank1"), (2, "rank2"), (3, "rank3")]
        assert names == ["rank1", "rank2", "rank3"]

    def test_a_single_asked_file_is_still_one_of_several(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        job = self.job(tmp_path, rank0="0 1", rank3="0 1")
        names = self.read_files(monkeypatch)
        assert self.asked(job, 3) == [(3, "rank3")]
        assert names == ["rank3"]

    def test_asked_ranks_are_those_in_the_files_where_names_say_others(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, rank0="1 3", rank1="0 3", rank2="7 9")
        assert self.asked(job, 0) == [(0, "rank1")]
        assert self.asked(job, 0, 1) == [(0, "rank1"), (1, "rank0")]
        assert self.asked(job, 7) == [(7, "rank2")]
        with pytest.raises(UsageError, match=r"rank0\.json and 2 more: no rank 2: there are 0–1, 7; ask for some"):
            self.asked(job, 1, 2)

    def test_asked_ranks_are_looked_for_in_files_whose_names_say_none(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, a="5 8", b="2 8", c="- -")
        assert self.asked(job, 5) == [(5, "a")]
        with pytest.raises(UsageError, match=r"no rank 0: there are 2, 5 and 1 file of which no rank is known"):
            self.asked(job, 0)

    def test_a_rank_that_no_name_says_costs_one_look(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        job = self.job(tmp_path, rank0="0 3", rank1="1 3", rank2="2 3")
        names = self.read_files(monkeypatch)
        with pytest.raises(UsageError, match="no rank 8: there are 0–2"):
            self.asked(job, 8)
        assert names == ["rank0"]
        with pytest.raises(UsageError, match="no rank 8: there are 0–2"):
            self.asked(job, 1, 8)

    def test_no_rank_is_missing_that_was_not_asked_for(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, **{f"rank{rank}": "- -" for rank in range(4)})
        assert summaries.summaries(job, jobs=1, ranks=frozenset({3}))[1] == []
        assert summaries.summaries(job, jobs=1, ranks=frozenset({1, 3}))[1] == []

    def test_an_asked_file_that_cannot_be_read_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        job = self.job(tmp_path, rank0="0 2", rank1="one of two")
        monkeypatch.setattr("probe.executors.engine._told", lambda error: "broken")
        found, warnings = summaries.summaries(job, jobs=1, ranks=frozenset({0, 1}))
        assert ranks_of(found) == [0]
        assert [w.rsplit("/", 1)[-1] for w in warnings] == ["rank1.json: broken; this file is left out"]


def test_real_tasks_in_processes(tmp_path: Path) -> None:
    """Files read by workers: one is cut, one is no trace."""
    for rank in (0, 1):
        head = {"distributedInfo": {"rank": rank, "world_size": 4}}
        builders.write(tmp_path, builders.gpu_step(), f"rank{rank}.json.gz", **head)
    whole = (tmp_path / "rank1.json.gz").read_bytes()
    (tmp_path / "rank1.json.gz").write_bytes(gzip.compress(gzip.decompress(whole)[:-200]))
    (tmp_path / "rank2.json").write_text('{"a": 1}')
    found, warnings = summaries.summaries(discover([tmp_path]), jobs=2)
    assert [(r.summary.rank, r.summary.device_kind) for r in found] == [(0, "cuda"), (1, "cuda")]
    assert any(w.startswith("rank 1: the file breaks off") for w in warnings), warnings
    assert any("rank2.json: JSON, but no trace" in w and w.endswith("left out") for w in warnings), warnings
    assert not any("missing" in w for w in warnings), warnings


def test_real_traces(foreign_traces: Path) -> None:
    found, warnings = summaries.summaries(discover([foreign_traces / "v100_dlrm_4_of_8_ranks"]), jobs=1)
    assert ranks_of(found) == [0, 1, 2, 3]
    assert not any("missing" in warning for warning in warnings)


def test_selected_steps(tmp_path: Path) -> None:
    """Each task is told which steps to read."""
    for rank in (0, 1):
        builders.write(tmp_path, [*builders.gpu_step(), builders.step(4, 200, 50)], f"rank{rank}.json")
    chosen = Selection(steps=(4, 4))
    found, _ = summaries.summaries(discover([tmp_path]), jobs=1, selection=chosen)
    assert [list(r.summary.steps.number) for r in found] == [[4], [4]]


def test_memory_follows_the_largest_file() -> None:
    small, large = RankFile("a.json", 0, 1 << 20), RankFile("b.json.gz", 1, 1 << 30)
    needed = summaries._bytes_per_task(Job((small, large)))
    assert needed is not None and needed > 10 << 30
    assert summaries._bytes_per_task(Job((RankFile("a", None, None),))) is None


def test_processes_are_started_where_there_is_much_to_read() -> None:
    assert summaries._is_small(Job((RankFile("a.json", 0, 1 << 20), RankFile("b.json.gz", 1, 1 << 20))))
    assert not summaries._is_small(Job((RankFile("a.json.gz", 0, 1 << 30),)))
    assert not summaries._is_small(Job((RankFile("s3://b/a.json", 0, None),)))
