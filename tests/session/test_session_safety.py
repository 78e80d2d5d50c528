"""Is training the same with `probe.profile` around it as without, whatever goes wrong?"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prepared_torch import Prepared
from run_builders import timed_names

from probe.runs.run import load
from probe.session import Session, ownership, profile

ones = torch.ones(16)
CPU = [torch.profiler.ProfilerActivity.CPU]


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """After each test the process is free and torch records nothing."""
    yield
    assert ownership._owner is None
    assert not torch.autograd._profiler_enabled()
    assert not torch.autograd.profiler._is_profiler_enabled


def work(adds: int = 20) -> None:
    for _ in range(adds):
        torch.add(ones, ones)


def loop(prof: Session, steps: int, adds: int = 20) -> None:
    for _ in range(steps):
        work(adds)
        prof.step()


def train(prof: Session | None, steps: int = 14) -> bytes:
    """A small training with every source of randomness; its end state, bit by bit."""
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        loss = model(torch.randn(4, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if prof is not None:
            prof.step(samples=4)
    state = [parameter.detach().numpy().tobytes() for parameter in model.parameters()]
    return b"".join([*state, torch.get_rng_state().numpy().tobytes()])


def events(path: Path) -> list[str]:
    return timed_names(path)


@pytest.mark.parametrize("options", [{}, {"memory": True, "stacks": True}, {"repeat": 2, "wait": 1, "warmup": 1}])
def test_results_are_bit_identical(tmp_path: Path, options: dict[str, Any]) -> None:
    bare = train(None)
    with profile(tmp_path / "r", **options) as prof:
        assert train(prof) == bare
    assert load(tmp_path / "r").traces


class _OwnError(BaseException):
    """Derived from BaseException alone, as GeneratorExit is."""


@pytest.mark.parametrize("error", [KeyError("user"), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), _OwnError()])
@pytest.mark.parametrize("steps", [0, 3, 5, 7, 9, 12])
def test_the_users_errors_pass_and_what_was_recorded_is_kept(tmp_path: Path, error: BaseException, steps: int) -> None:
    with pytest.raises(type(error)) as caught, profile(tmp_path / "r") as prof:
        loop(prof, steps)
        work(30)
        raise error
    assert caught.value is error
    assert error.__context__ is None and error.__cause__ is None
    run = load(tmp_path / "r")
    assert run.main.status == f"raised: {type(error).__name__}"
    assert run.main.steps.total == steps
    assert len(run.traces) == (steps >= 8)
    if steps == 9:  # one step complete, one not
        found = events(run.traces[0][2])
        assert found.count("aten::add") == 50
        assert "ProfilerStep#8" in found and "ProfilerStep#9" not in found
        assert run.main.cycles[0].partial and run.main.cycles[0].steps == 1


def test_an_interruption_inside_of_step_passes_and_the_trace_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from probe.collectors.torch_profiler import Recording

    export = Recording.export
    calls = []

    def interrupted(self: Recording, path: Path, **options: Any) -> int:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return export(self, path, **options)

    monkeypatch.setattr(Recording, "export", interrupted)
    with pytest.raises(KeyboardInterrupt), profile(tmp_path / "r") as prof:
        loop(prof, 20)
    run = load(tmp_path / "r")
    assert run.main.status == "raised: KeyboardInterrupt"
    assert len(run.traces) == 1 and run.main.cycles[0].steps == 3


@pytest.mark.parametrize(
    "where",
    [
        "probe.session.session.find_place",
        "probe.session.session.join_directory",
        "probe.session.session.write_part",
        "probe.session.session.say",
        "probe.session.snapshot.describe",
        "probe.session.snapshot.step_times",
        "probe.session.schedule.import_torch",
        "probe.session.schedule.foreign_profiler",
        "probe.session.schedule.plan",
        "probe.session.schedule.Tracer.edge",
        "probe.session.schedule.Tracer.finish",
        "probe.session.schedule.Tracer.abandon",
        "probe.session.schedule.Recording.prepare",
        "probe.session.schedule.Recording.start",
        "probe.session.schedule.Recording.mark_step",
        "probe.session.schedule.Recording.end_mark",
        "probe.session.schedule.Recording.stop",
        "probe.session.schedule.Recording.event_count",
        "probe.session.schedule.Recording.export",
        "torch.profiler._KinetoProfile.prepare_trace",
        "torch.profiler._KinetoProfile.start_trace",
        "torch.profiler._KinetoProfile.export_chrome_trace",
    ],
)
def test_a_failure_anywhere_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    bare = train(None)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with profile(tmp_path / "r") as prof:
            assert train(prof) == bare
    if where == "probe.session.schedule.Recording.stop":
        torch.autograd._disable_profiler()  # nobody else could
        torch.autograd.profiler._is_profiler_enabled = False
    if where not in ("probe.session.schedule.Tracer.abandon",):
        assert any("injected" in warning for warning in prof.warnings), prof.warnings
    with profile(tmp_path / "again") as prof:  # the process is not spoilt for the next one
        loop(prof, 12)
    assert len(load(tmp_path / "again").traces) == 1


def test_a_full_disk_while_exporting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("probe.collectors.torch_profiler._compress", full)
    with profile(tmp_path / "r", repeat=2) as prof:
        loop(prof, 30)
    run = load(tmp_path / "r")
    assert run.main.status == "finished" and run.main.steps.total == 30
    assert run.traces == () and run.main.cycles[0].file is None
    assert "No space left" in str(run.main.collected["trace"])
    assert sum("No space left" in warning for warning in prof.warnings) == 1
    left = {entry.name for entry in (tmp_path / "r").iterdir()}
    assert {name for name in left if not name.startswith("telemetry.")} == {".launch", "run.json"}


def test_an_error_of_a_full_disk_does_not_hide_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("probe.files._flush", full)
    with pytest.raises(KeyError) as caught, profile(tmp_path / "r") as prof:
        loop(prof, 9)
        raise KeyError("user")
    assert caught.value.__context__ is None
    assert list((tmp_path / "r").glob(".*.part")) == []


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    """A real limit of the operating system, hit by torch's own writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with profile(tmp_path / "r", wait=1, warmup=0) as prof:
            loop(prof, 6, adds=500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run = load(tmp_path / "r")
    assert run.traces == () and run.main.steps.total == 6
    assert any("trace" in warning for warning in prof.warnings)
    assert not [entry for entry in (tmp_path / "r").iterdir() if entry.name.endswith((".part", ".gz", ".json.json"))]


@pytest.mark.parametrize("path", ["/proc/nowhere/r", "/dev/null/r", "/proc/self/comm/x", "a\0b", "x" * 300])
def test_a_path_that_cannot_be_written(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    bare = train(None)
    with profile(path) as prof:
        assert train(prof) == bare
    assert prof.path is None
    assert prof.warnings[0].startswith("making the run directory failed")
    assert "no analysis" in str(prof.analysis())
    assert "no run was written" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with profile(tmp_path / "locked" / "r") as prof:
        loop(prof, 12)
    assert prof.path is None and "Permission" in prof.warnings[0]


@pytest.mark.parametrize("at", [2, 6, 9, 12])
def test_the_directory_is_removed_in_mid_run(tmp_path: Path, at: int, capfd: pytest.CaptureFixture[str]) -> None:
    with profile(tmp_path / "r") as prof:
        for step in range(14):
            if step == at:
                shutil.rmtree(tmp_path / "r")
            work()
            prof.step()
    assert not (tmp_path / "r").exists()
    assert any("writing the run failed" in warning for warning in prof.warnings)
    said = capfd.readouterr().err.splitlines()
    own = [line for line in said if not line.startswith("USDT:")]  # kineto's, where another test prepared it first
    assert len(own) == 1


# --- other profilers


def test_a_profile_inside_of_a_profile_observes_nothing(tmp_path: Path) -> None:
    with profile(tmp_path / "outer") as outer:
        for _ in range(12):
            with profile(tmp_path / "inner") as inner:
                loop(inner, 1)
            outer.step()
    assert inner.path is None and "another probe.profile" in inner.warnings[0]
    assert not (tmp_path / "inner").exists()
    run = load(tmp_path / "outer")
    assert run.main.warnings == () and run.main.steps.total == 12
    assert events(run.traces[0][2]).count("aten::add") == 60


def test_a_profile_is_used_once(tmp_path: Path) -> None:
    prof = profile(tmp_path / "r")
    prof.step()
    assert "outside" in prof.warnings[0]
    with prof:
        loop(prof, 2)
        with prof:
            loop(prof, 2)
        loop(prof, 8)
    for _ in range(5):
        prof.step()
    with prof:
        loop(prof, 3)
    prof.__exit__(None, None, None)
    run = load(tmp_path / "r")
    assert run.main.steps.total == 12 and len(run.traces) == 1
    assert sum("second time" in warning for warning in prof.warnings) == 1


def test_two_in_a_row(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with profile(tmp_path / name) as prof:
            loop(prof, 12)
        assert prof.warnings == []
        assert events(load(tmp_path / name).traces[0][2]).count("aten::add") == 60


def test_inside_of_the_users_own_profiler(tmp_path: Path) -> None:
    with torch.profiler.profile(activities=CPU) as theirs:
        work(50)
        with profile(tmp_path / "r") as prof:
            loop(prof, 14, adds=50)
        work(50)
    assert sum(event.name == "aten::add" for event in theirs.events()) == 16 * 50
    assert any("left alone" in warning for warning in prof.warnings)
    run = load(tmp_path / "r")
    assert run.traces == () and run.main.steps.total == 14
    assert "another torch profiler" in str(run.main.collected["trace"])


@pytest.mark.parametrize("wait", range(14))
def test_the_users_own_profiler_with_a_schedule_runs_beside_ours(tmp_path: Path, wait: int) -> None:
    """Both schedules in one loop: whichever comes first, torch does not crash and theirs is whole."""
    found: list[int] = []

    def ready(finished: Any) -> None:
        found.append(sum(event.name == "aten::add" for event in finished.events()))

    schedule = torch.profiler.schedule(wait=wait, warmup=2, active=2, repeat=1)
    with (
        profile(tmp_path / "r", wait=3, warmup=2, active=3) as prof,
        torch.profiler.profile(activities=CPU, schedule=schedule, on_trace_ready=ready) as theirs,
    ):
        for _ in range(20):
            work()
            theirs.step()
            prof.step()
    assert found == [40]
    assert any("left alone" in warning for warning in prof.warnings)


@pytest.mark.parametrize("begin", range(12))
@pytest.mark.parametrize("lasts", [0, 1, 3, 20])
@pytest.mark.parametrize("kind", ["torch.profiler", "autograd"])
def test_the_users_own_profiler_starts_inside_of_ours(tmp_path: Path, begin: int, lasts: int, kind: str) -> None:
    """It begins before step `begin` and ends as many steps later as it lasts, at whatever phase of ours."""
    make: Callable[[], Any] = (
        (lambda: torch.profiler.profile(activities=CPU))
        if kind == "torch.profiler"
        else torch.autograd.profiler.profile
    )
    theirs = make()
    is_open = False
    with profile(tmp_path / "r", wait=3, warmup=2, active=3) as prof:
        for step in range(14):
            if step == begin:
                theirs.__enter__()
                is_open = True
            work(10)
            if is_open and step == min(begin + lasts, 13):
                theirs.__exit__(None, None, None)
                is_open = False
            prof.step()
    seen = theirs.events() if kind == "torch.profiler" else theirs.function_events
    assert sum(event.name == "aten::add" for event in seen) == 10 * (min(begin + lasts, 13) - begin + 1)
    run = load(tmp_path / "r")
    assert run.main.steps.total == 14
    for _, _, file in run.traces:  # ours is whole, or not there
        assert events(file).count("aten::add") == 30
    if not run.traces:
        assert "left alone" in "".join(prof.warnings)


# --- loops that end early, or never begin


def test_no_step_at_all_is_said(tmp_path: Path) -> None:
    with profile(tmp_path / "r") as prof:
        work()
    run = load(tmp_path / "r")
    assert run.main.steps.total == 0 and run.main.duration_s is not None and run.main.duration_s > 0
    assert run.main.collected["step_times"] == "no step() was called"
    assert prof.warnings[0].startswith("no step() was called in ")


@pytest.mark.parametrize("steps", [1, 4, 5, 8])
def test_a_loop_too_short_for_a_trace_says_what_it_needs(tmp_path: Path, steps: int) -> None:
    with profile(tmp_path / "r") as prof:
        loop(prof, steps)
    reason = str(load(tmp_path / "r").main.collected["trace"])
    assert f"ended after {steps} step" in reason and "needs 9" in reason
    assert len(prof.warnings) == 1


def test_a_loop_that_ends_while_recording_keeps_what_it_has(tmp_path: Path) -> None:
    with profile(tmp_path / "r") as prof:
        loop(prof, 10)
    run = load(tmp_path / "r")
    (cycle,) = run.main.cycles
    assert cycle.partial and cycle.steps == 2
    found = events(run.traces[0][2])
    assert "ProfilerStep#9" in found and "ProfilerStep#10" not in found
    assert cycle.note is not None and "ended" in cycle.note


# --- processes


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12 on; we mean it
def test_a_forked_loader_leaves_the_parent_alone(tmp_path: Path) -> None:
    class Data(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 28

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.full((4,), float(index))

    with profile(tmp_path / "r") as prof:
        for _ in range(2):  # the second epoch's workers are forked while a step is recorded
            loader = torch.utils.data.DataLoader(Data(), batch_size=4, num_workers=2, multiprocessing_context="fork")
            for batch in prof.batches(loader):
                assert batch.shape == (4, 4)
                work()
                prof.step(samples=len(batch))
    run = load(tmp_path / "r")
    assert run.main.steps.total == 14 and len(run.traces) == 1 and prof.warnings == []
    assert {entry.name for entry in (tmp_path / "r").iterdir() if not entry.name.startswith("telemetry.")} == {
        ".launch",
        "run.json",
        "tensors.rank00000.cycle0.json.gz",
        "trace.rank00000.cycle0.json.gz",
    }


def run_script(
    prepared: Prepared, tmp_path: Path, script: str, *, wholly: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own, with `profile`, `torch`, `work` and `path` at hand."""
    head = f"""
        import os, signal, sys, torch
        from pathlib import Path
        from probe.session import profile
        path = Path({str(tmp_path / "r")!r})
        def work():
            for _ in range(20): torch.ones(3) + 1
    """
    text = textwrap.dedent(head) + textwrap.dedent(script)
    return prepared.run("-c", text, cwd=tmp_path, wholly=wholly)


def test_a_killed_run_can_be_read_up_to_its_last_cycle(tmp_path: Path, prepared: Prepared) -> None:
    done = run_script(
        prepared,
        tmp_path,
        """
        with profile(path, repeat=2) as prof:
            for step in range(30):
                work()
                prof.step()
                if step == 18:  # in the middle of the second cycle
                    os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert done.returncode == -signal.SIGKILL
    run = load(tmp_path / "r")
    assert run.main.status == "running"
    assert run.main.steps.total == 11 and run.main.cycles[0].steps == 3
    assert events(run.traces[0][2]).count("ProfilerStep#10") == 1
    assert any("killed" in warning for warning in run.warnings)


def test_the_interpreter_may_exit_while_recording(tmp_path: Path, prepared: Prepared) -> None:
    done = run_script(
        prepared,
        tmp_path,
        """
        prof = profile(path, active=1000).__enter__()
        for step in range(12):
            work()
            prof.step()
        if pid := os.fork():
            assert os.waitpid(pid, 0)[1] == 0
        else:
            prof.step()
            prof.__exit__(None, None, None)
            os._exit(0)
        sys.exit(5)
        """,
        wholly=True,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (5, 1), done.stderr
    run = load(tmp_path / "r")
    assert run.main.status == "interpreter exited" and run.main.steps.total == 12
    assert len(run.traces) == 1


def test_importing_the_session_imports_no_torch() -> None:
    script = "import sys, probe.session; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("computes", [True, False])
def test_no_tensors_are_recorded_beside_a_thread_that_may_compute(tmp_path: Path, computes: bool) -> None:
    """torch's observer crashes where another thread runs operators while it starts or ends."""
    over = threading.Event()

    def prefetch() -> None:  # a function of a module that has torch
        over.wait()

    thread = threading.Thread(target=prefetch if computes else over.wait)
    thread.start()
    try:
        with profile(tmp_path / "r") as prof:
            loop(prof, 14)
    finally:
        over.set()
        thread.join()
    found = [path.name for path in (tmp_path / "r").glob("tensors.*")]
    assert found == ([] if computes else ["tensors.rank00000.cycle0.json.gz"])
    assert len(load(tmp_path / "r").traces) == 1


@pytest.mark.parametrize("layout", ["torch.sparse_csr", "torch.sparse_csc", "torch.sparse_coo"])
def test_no_tensors_are_recorded_of_layouts_that_crash_the_observer(
    tmp_path: Path, prepared: Prepared, layout: str
) -> None:
    script = f"""
        matrix = torch.eye(2000).to_sparse(layout={layout})
        x = torch.randn(2000, 64)
        with profile(path) as prof:
            for _ in range(14):
                torch.relu(matrix @ x) @ torch.ones(64, 64)
                prof.step()
        import gc; gc.collect()
    """
    ended = run_script(prepared, tmp_path, script, wholly=True)
    assert ended.returncode == 0 and "frame #" not in ended.stderr, ended.stderr
    assert bool([*(tmp_path / "r").glob("tensors.*")]) == (layout == "torch.sparse_coo")
    assert len(load(tmp_path / "r").traces) == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12 on; we mean it
def test_a_child_that_is_forked_writes_nothing(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with profile(tmp_path / "r") as prof:
        loop(prof, 2)
        before = (tmp_path / "r" / "run.json").read_bytes()
        pid = os.fork()
        if not pid:
            try:
                loop(prof, 20)
                prof.__exit__(None, None, None)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert (tmp_path / "r" / "run.json").read_bytes() == before
        loop(prof, 10)
    assert load(tmp_path / "r").main.steps.total == 12
    assert signal.getsignal(signal.SIGINT) is handler  # probe installs no handlers
