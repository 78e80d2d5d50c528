"""Is training bit-identical to an unprofiled run, whatever goes wrong round it? One table of faults.

What else must hold in each (what is kept, what is said) is tested where the part that meets the fault is tested.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import itertools
import json
import os
import shutil
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fake_nvml
import pytest
import torch
from prepared_torch import Prepared

import probe
from probe import files
from probe.errors import RunError
from probe.runs.run import load
from probe.session import Session, ownership, profile

STEPS = 14
FAST = {"host_hz": 200, "machine_hz": 50, "nvml_hz": 200, "dcgm_hz": 50, "flush_s": 0.05}
TRAINING = '''
def train(after_step):
    """A small training with every source of randomness; its end state, bit by bit."""
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    for number in range(14):
        loss = model(torch.randn(4, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step(number)
    state = [parameter.detach().numpy().tobytes() for parameter in model.parameters()]
    return hashlib.sha256(b"".join([*state, torch.get_rng_state().numpy().tobytes()])).hexdigest()
'''
_names: dict[str, Any] = {"torch": torch, "hashlib": hashlib}
exec(TRAINING, _names)  # children of these tests train by the same text
train: Callable[[Callable[[int], object]], str] = _names["train"]

Inject = Callable[[int], object]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order; and a forked child, which has none of its parent's OpenMP threads, does not wait for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bare(one_thread: None) -> str:
    """The end state without probe."""
    return train(lambda number: None)


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    assert ownership._owner is None and not torch.autograd._profiler_enabled()
    for thread in threading.enumerate():
        if thread.name.startswith("probe-"):
            thread.join(20)
    assert [t.name for t in threading.enumerate() if t.name.startswith("probe-")] == []


def observed(path: Path, inject: Inject = lambda number: None, **options: Any) -> tuple[str, Session]:
    """The end state of a training under observation, into which a fault is injected after each step."""
    with profile(path, wait=3, warmup=2, active=3, **{"telemetry": FAST, **options}) as prof:
        prof.quiet = True

        def after_step(number: int) -> None:
            inject(number)
            time.sleep(0.002)  # so that telemetry reads meanwhile
            prof.step(samples=4)

        return train(after_step), prof


def test_without_a_fault(tmp_path: Path, bare: str) -> None:
    found, prof = observed(tmp_path / "r")
    assert found == bare and prof.warnings == [] and len(load(tmp_path / "r").traces) == 1


@pytest.mark.parametrize("where", ["probe.files._flush", "probe.collectors.torch_profiler._compress"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: str, where: str) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(number: int) -> None:
        if number == 5:
            monkeypatch.setattr(where, full)

    found, prof = observed(tmp_path / "r", fill)
    assert found == bare and any("No space left" in warning for warning in prof.warnings)


@pytest.mark.parametrize("at", [1, 4, 6, 9, 12])
def test_a_directory_that_is_removed(tmp_path: Path, bare: str, at: int) -> None:
    def remove(number: int) -> None:
        if number == at:
            (tmp_path / "r").rename(tmp_path / "elsewhere")
            shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)

    found, prof = observed(tmp_path / "r", remove)
    assert found == bare and prof.warnings and not (tmp_path / "r").exists()


def _hang(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.settimeout(5)
    with contextlib.suppress(OSError):
        handler.rfile.read(1)  # until the client goes


def _lie(handler: BaseHTTPRequestHandler) -> None:
    text = b'# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).\nDCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a"} 4e9\n'
    handler.send_response(200)
    handler.send_header("Content-Length", str(10 * len(text)))  # and more than comes
    handler.end_headers()
    handler.wfile.write(text)


def _break(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xff no HTTP\r\n")


@contextlib.contextmanager
def exporter(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[str]]]:
    """An exporter on loopback that answers as told, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer(self)

        def log_message(self, *args: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("answer", [_hang, _lie, _break])
def test_an_exporter_that_hangs_or_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: str, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    monkeypatch.setenv("PATH", "")  # no dcgmi
    with exporter(answer) as (url, asked):
        monkeypatch.setenv("PROBE_DCGM_URL", url)
        found, _ = observed(tmp_path / "r", telemetry={**FAST, "serving": url, "serving_hz": 50})
    assert found == bare and asked
    told = probe.analyze(tmp_path / "r").telemetry
    assert told is not None and not any(q.source in ("dcgm", "serving") for q in told.quantities)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = fake_nvml.build(tmp_path_factory.mktemp("nvml"))
    if built is None:
        pytest.skip("no C compiler to build the fake NVML with")
    return built


@pytest.mark.parametrize("code", [15, 999, 3])  # the GPU is lost, an unknown error, not supported
def test_nvml_that_returns_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: str, library: Path, code: int
) -> None:
    state = tmp_path / "state"
    state.write_text(fake_nvml.state({"gpm": 1}))
    questions = ("GetUtilizationRates", "GetPowerUsage", "GetClockInfo", "GetMemoryInfo", "GetHandleByUUID")

    def lose(number: int) -> None:
        if number == 4:
            part = tmp_path / "part"
            part.write_text(fake_nvml.state({f"fail.nvmlDevice{one}": code for one in questions}))
            part.replace(state)

    with fake_nvml.loaded(monkeypatch, library, state):
        found, _ = observed(tmp_path / "r", lose)
    assert found == bare
    assert load(tmp_path / "r").main.telemetry["sources"]["nvml"]["via"] is not None


@pytest.mark.parametrize("method", ["prepare_trace", "start_trace", "stop_trace", "export_chrome_trace"])
def test_a_profiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: str, method: str) -> None:
    real = getattr(torch.profiler._KinetoProfile, method)

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        if method == "stop_trace":
            real(self)  # else nobody could stop it
        raise RuntimeError("injected")

    monkeypatch.setattr(torch.profiler._KinetoProfile, method, fail)
    found, prof = observed(tmp_path / "r")
    assert found == bare and any("injected" in warning for warning in prof.warnings)


def test_a_clock_that_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: str) -> None:
    real, begun = time.time_ns, time.monotonic()

    def back() -> int:
        return real() - (3_600_000_000_000 if time.monotonic() > begun + 0.03 else 0)

    monkeypatch.setattr(time, "time_ns", back)
    monkeypatch.setattr(time, "time", lambda: back() * 1e-9)
    found, prof = observed(tmp_path / "r", every_s=1e-9, on_demand=True, keep=2)
    run = load(tmp_path / "r")
    assert found == bare and prof.warnings == [] and len(run.traces) >= 1
    assert all(duration >= 0 for duration in run.main.steps.durations_ns)


def test_two_sessions_at_once(tmp_path: Path, bare: str) -> None:
    with profile(tmp_path / "outer", telemetry=FAST) as outer:
        found, inner = observed(tmp_path / "inner", lambda number: outer.step())
    assert found == bare and inner.path is None and not (tmp_path / "inner").exists()
    assert load(tmp_path / "outer").main.steps.total == STEPS


THREADED = """
    import threading
    from probe.session import annotate
    over, sessions = threading.Event(), []
    torch.set_num_threads(1)
    def meanwhile():
        while not over.is_set():
            with annotate("elsewhere"):
                torch.ones(8) + 1
                for prof in sessions:
                    prof.step()
                    prof.metric("x", 1.0)
    threads = [threading.Thread(target=meanwhile) for _ in range(2)]
    with profile(sys.argv[1], wait=3, warmup=2, active=3, telemetry={"host_hz": 200, "flush_s": 0.05}) as prof:
        sessions.append(prof)
        for thread in threads:
            thread.start()
        try:
            print(train(lambda number: prof.step()))
        finally:
            over.set()
            for thread in threads:
                thread.join()
    print(any("another thread" in warning for warning in prof.warnings))
"""


def test_threads_that_compute_annotate_and_step(tmp_path: Path, prepared: Prepared, bare: str) -> None:
    done = prepared.run("-c", script(THREADED), tmp_path / "r", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, [bare, "True"]), done.stderr
    assert load(tmp_path / "r").main.steps.total == STEPS


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12 on; we mean it
@pytest.mark.parametrize("at", [1, 6, 12])
def test_a_fork_trains_as_its_parent_does(tmp_path: Path, bare: str, at: int) -> None:
    children: list[int] = []

    def fork(number: int) -> None:
        if number == at and not children:
            children.append(os.fork())

    found, prof = observed(tmp_path / "r", fork)
    if children == [0]:
        os._exit(0 if found == bare and prof._telemetry is None else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert found == bare and load(tmp_path / "r").main.steps.total == STEPS


def script(text: str) -> str:
    head = "import hashlib, os, signal, sys, time\nimport torch\nfrom probe.session import profile\n"
    return head + TRAINING + textwrap.dedent(text)


SIGNALLED = """
    last = []
    def said(*args):  # a program that has its own way with signals, as one that saves its state at SIGTERM
        last.append(args)
    signal.signal(signal.SIGTERM, said)
    with profile(sys.argv[1], wait=3, warmup=2, active=3, telemetry={"host_hz": 200, "flush_s": 0.05}) as prof:
        def after_step(number):
            try:
                if number in (1, 4, 6, 12):
                    os.kill(os.getpid(), signal.SIGTERM)
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(1)
            except KeyboardInterrupt:
                last.append("interrupted")
            prof.step()
        print(train(after_step), len(last), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_signals_that_the_program_handles_and_one_that_nobody_can(
    tmp_path: Path, prepared: Prepared, bare: str
) -> None:
    done = prepared.run("-c", script(SIGNALLED), tmp_path / "r", cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == [bare, "8"]
    run = load(tmp_path / "r")
    assert run.main.status == "running" and len(run.traces) == 1


def killed_at(flush: int, path: Path) -> int:
    """The end of a child that trains under observation and is killed where a file is flushed for the n-th time."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        real, calls = files._flush, itertools.count(1)
        files._flush = lambda place: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == flush else real(place)
        observed(path, telemetry=False)
    finally:
        os._exit(0)


# What is flushed, a file before it has its name and its directory after that: the part as the run begins, the tensors
# of a step, the trace, the part as the cycle ends, the part as the run does.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12 on; we mean it
@pytest.mark.parametrize("flush", range(1, 11))
def test_a_kill_between_any_two_writes_leaves_a_run_up_to_the_last_whole_part(tmp_path: Path, flush: int) -> None:
    assert killed_at(flush, tmp_path / "r") == -signal.SIGKILL
    there = sorted(p.name for p in (tmp_path / "r").iterdir() if not p.name.startswith("."))
    for name in there:
        assert not name.endswith(".gz") or json.loads(gzip.decompress((tmp_path / "r" / name).read_bytes()))
    if flush == 1:
        assert there == []
        with pytest.raises(RunError, match=r"no run\.json in it"):
            load(tmp_path / "r")
        return
    run = load(tmp_path / "r")
    cycle_is_told = flush >= 8
    assert run.main.status == ("finished" if flush == 10 else "running")
    assert run.main.steps.total == (STEPS if flush == 10 else 8 if cycle_is_told else 0)
    assert len(run.traces) == cycle_is_told and len(there) == min(3, 1 + (flush - 2) // 2)


def test_after_the_last_write_nobody_is_killed(tmp_path: Path) -> None:
    assert killed_at(11, tmp_path / "r") == 0  # so the ten above are all there are


SPAWNING = """
    import multiprocessing

    def child(path):
        with profile(path, wait=1, warmup=1, active=2) as prof:
            print(train(lambda number: prof.step()), flush=True)

    if __name__ == "__main__":
        with profile(sys.argv[1], wait=3, warmup=2, active=3) as prof:
            process = multiprocessing.get_context("spawn").Process(target=child, args=(sys.argv[1],))
            def after_step(number):
                if number == 6:
                    process.start()
                    process.join()
                prof.step()
            print(train(after_step), flush=True)
"""


def test_a_spawned_child_has_a_run_of_its_own(tmp_path: Path, prepared: Prepared, bare: str) -> None:
    file = tmp_path / "spawning.py"
    file.write_text(script(SPAWNING))
    done = prepared.run(file, tmp_path / "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [bare, bare]
    runs = [load(tmp_path / name).main for name in ("r", "r-2")]
    assert [run.steps.total for run in runs] == [STEPS, STEPS] and runs[0].pid != runs[1].pid
