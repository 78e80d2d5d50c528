"""One task per item on processes, threads of others, or a cluster: failures stay with their item."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine_tasks as tasks
import pytest
from places import ROOT

from probe.errors import UnavailableError, UsageError
from probe.executors import engine
from probe.executors.engine import Here, Outcome, executor, run
from probe.executors.processes import Processes

TESTS = ROOT / "tests" / "fixtures"


@pytest.fixture(params=["here", "processes", "somebody's threads"])
def pool(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "here":
        with executor(tasks=1) as made:
            yield made
    elif request.param == "processes":
        with executor(jobs=2) as made:
            yield made
    else:
        with ThreadPoolExecutor(2) as threads, executor(threads) as made:
            yield made


class TestRun:
    def test_results_in_the_items_order(self, pool: Executor) -> None:
        done: list[Outcome[int, int]] = []
        found = run(pool, tasks.double, [5, 3, 4], done.append)
        assert found == [Outcome(5, 10), Outcome(3, 6), Outcome(4, 8)]
        assert sorted(o.item for o in done) == [3, 4, 5]

    def test_one_that_fails_stops_no_other(self, pool: Executor) -> None:
        found = run(pool, tasks.fail_on_three, [1, 2, 3, 4])
        assert [o.result for o in found] == [1, 2, None, 4]
        assert [o.error for o in found] == [None, None, "rank3.json: cut", None]

    def test_a_defect_says_where(self, pool: Executor) -> None:
        error = run(pool, tasks.defect, [1])[0].error
        assert error is not None
        assert error.startswith("KeyError: 1 in engine_tasks.py:")
        assert error.endswith("(a defect of probe's own)")

    def test_an_error_that_cannot_travel(self, pool: Executor) -> None:
        error = run(pool, tasks.odd, [7])[0].error
        assert error is not None and "OddError: 7 and 7" in error and "\n" not in error

    def test_memory(self, pool: Executor) -> None:
        assert run(pool, tasks.out_of_memory, [1])[0].error == (
            "not enough memory; run fewer jobs at once, or record fewer steps"
        )

    def test_nothing_to_do(self, pool: Executor) -> None:
        assert run(pool, tasks.double, []) == []


class TestProcesses:
    def test_a_worker_that_is_killed_takes_one_item_with_it(self) -> None:
        with executor(jobs=2) as pool:
            found = run(pool, tasks.killed_on_three, [1, 2, 3, 4, 5])
        assert [o.result for o in found] == [1, 2, None, 4, 5]
        assert found[2].error == (
            "the process that read it was ended by signal 9, as when memory runs out: "
            "run fewer jobs at once or take a machine with more"
        )

    def test_an_item_whose_worker_died_is_tried_again(self, tmp_path: Path) -> None:
        items = [str(tmp_path / name) for name in "ab"]
        with executor(jobs=2) as pool:
            assert [o.result for o in run(pool, tasks.killed_once, items)] == items

    def test_workers_are_bare_interpreters(self) -> None:
        """No torch, no user's script, one thread each; what a task prints does not disturb the pipe."""
        with executor(jobs=2) as pool:
            found = [o.result for o in run(pool, tasks.about, [1, 2])]
        for about in found:
            assert about is not None
            assert (about["torch"], about["main"], about["threads"], about["blas"]) == (False, None, "1", "1")
            assert about["pid"] != os.getpid()

    def test_workers_end_with_their_executor(self) -> None:
        with executor(jobs=2) as pool:
            found = [o.result for o in run(pool, tasks.about, [1, 2, 3])]
        assert not [about for about in found if about and _lives(about["pid"])]

    def test_an_error_in_the_block_ends_them_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), executor(jobs=2) as pool:
            pool.submit(tasks.sleep_and_tell, str(tmp_path))
            _wait_until(lambda: len(list(tmp_path.iterdir())) == 1)
            raise ZeroDivisionError
        assert not _living(tmp_path)

    def test_what_cannot_be_sent_is_an_error_of_its_item(self) -> None:
        with executor(jobs=2) as pool:
            error = run(pool, lambda item: item, [1])[0].error
        assert error is not None and "pickle" in error.lower()


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
sys.path.insert(0, {tests!r})
import engine_tasks
from probe.executors.engine import executor, run
with executor(jobs=2) as pool:
    run(pool, engine_tasks.sleep_and_tell, [{folder!r}] * 6)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_program_leaves_no_worker(tmp_path: Path, number: signal.Signals) -> None:
    """Plain scripts, without a guard for __main__, may call it; Ctrl-C goes to the whole process group."""
    script = tmp_path / "script.py"
    folder = tmp_path / "workers"
    folder.mkdir()
    script.write_text(SCRIPT.format(tests=str(TESTS), folder=str(folder)))
    program = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        _wait_until(lambda: len(list(folder.iterdir())) == 2)
        os.killpg(program.pid, number)
        _, told = program.communicate(timeout=60)
    finally:
        program.kill()
        program.communicate()
    _wait_until(lambda: not _living(folder))
    assert len(list(folder.iterdir())) == 2, "the rest was not begun"
    assert program.returncode == -number
    assert told.count("Traceback") == (1 if number == signal.SIGINT else 0), told


def _living(folder: Path) -> list[int]:
    return [int(entry.name) for entry in folder.iterdir() if _lives(int(entry.name))]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z " not in stat.read_text()


def _wait_until(condition: Callable[[], Any], patience_s: float = 60) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class TestChoice:
    def test_one_task_runs_here(self) -> None:
        with executor(tasks=1) as one, executor(jobs=1, tasks=9) as also:
            assert isinstance(one, Here) and isinstance(also, Here)
        with executor(jobs=2, tasks=9) as several:
            assert isinstance(several, Processes)

    def test_wrong_engines_and_jobs(self) -> None:
        with (
            pytest.raises(UsageError, match="'spark' is no engine; use one of processes, dask://HOST:PORT"),
            executor("spark"),
        ):
            pass
        with pytest.raises(UsageError, match="not the address of a dask scheduler"), executor("dask://"):
            pass
        with pytest.raises(UsageError, match="0 jobs"), executor(jobs=0):
            pass

    @pytest.fixture
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        def of(cores: int, free: int, quota: float | None = None, limit: int | None = None) -> None:
            files = {"/proc/meminfo": f"MemAvailable: {free >> 10} kB\n"}
            monkeypatch.setattr(engine, "_text", lambda path: files.get(path, ""))
            monkeypatch.setattr(engine.cpu_info, "affinity", lambda: tuple(range(cores)))
            monkeypatch.setattr(engine.cpu_info, "cpu_quota", lambda _: quota)
            monkeypatch.setattr(engine.cpu_info, "memory_limit_bytes", lambda _: limit)

        return of

    def test_as_many_as_cores_and_memory_allow(self, machine: Callable[..., None]) -> None:
        machine(cores=64, free=100 << 30)
        assert engine.workers() == 64
        assert engine.workers(10 << 30) == 8
        assert engine.workers(500 << 30) == 1
        machine(cores=64, free=100 << 30, quota=3.5, limit=50 << 30)
        assert engine.workers() == 4
        assert engine.workers(20 << 30) == 2


class TestDask:
    def test_no_scheduler_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("distributed", reason="dask is not installed")
        monkeypatch.setattr(engine, "_CONNECT_S", 0.3)
        silent = r"dask://127\.0\.0\.1:9: no dask scheduler answers: "
        with pytest.raises(UnavailableError, match=silent) as raised, executor("dask://127.0.0.1:9"):
            pass
        assert "\n" not in str(raised.value)

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "distributed", None)
        remedy = r"dask is not installed: pip install 'torch-probe\[dask\]'"
        with pytest.raises(UnavailableError, match=remedy), executor("dask://host:8786"):
            pass

    @pytest.mark.filterwarnings("default")  # dask's own
    @pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="dask is not installed")
    def test_on_a_cluster(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import dask
        from distributed import LocalCluster

        monkeypatch.setenv("PYTHONPATH", str(TESTS))  # where the workers find the tasks
        few = dask.config.set({"distributed.scheduler.allowed-failures": 1})  # each costs a worker, and its successor
        of_two = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with few, LocalCluster(**of_two) as cluster:
            address = cluster.scheduler_address.removeprefix("tcp://")
            with executor(f"dask://{address}") as pool:
                done: list[Any] = []
                assert [o.result for o in run(pool, tasks.double, [1, 2, 3], done.append)] == [2, 4, 6]
                assert len(done) == 3
                found = run(pool, tasks.fail_on_three, [1, 3, 4])
                assert [(o.result, o.error) for o in found] == [(1, None), (None, "rank3.json: cut"), (4, None)]
                assert "KeyError" in str(run(pool, tasks.defect, [1])[0].error)
                killed = run(pool, tasks.killed_on_three, [1, 3])
                assert killed[0].result == 1
                assert killed[1].error is not None and "workers that read it died" in killed[1].error
            with pytest.raises(ZeroDivisionError), executor(f"dask://{address}") as pool:
                pool.submit(tasks.sleep_and_tell, str(tmp_path))
                _wait_until(lambda: list(tmp_path.iterdir()))
                raise ZeroDivisionError
            _wait_until(lambda: not cluster.scheduler.tasks)
