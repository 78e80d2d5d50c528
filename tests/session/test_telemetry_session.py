"""Does telemetry beside `probe.profile` see the steps, and never get in their way?"""

import errno
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from prepared_torch import Prepared

import probe
from probe.collectors import telemetry as collectors
from probe.collectors.sampling import Row, Tick
from probe.collectors.telemetry import Settings, settings_of
from probe.errors import UsageError
from probe.examine import telemetry as run_telemetry
from probe.runs.run import load
from probe.runs.telemetry_files import parts
from probe.session import profile
from probe.session.beside import gpus_of
from probe.session.launch import Place

FAST = {"host_hz": 200, "machine_hz": 50, "flush_s": 0.05}


def train(prof: Any = None, steps: int = 12, pause_s: float = 0.0) -> bytes:
    """A small training with every source of randomness; its end state, bit by bit."""
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        loss = model(torch.randn(4, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(pause_s)
        if prof is not None:
            prof.step(samples=4)
    state = [parameter.detach().numpy().tobytes() for parameter in model.parameters()]
    return b"".join([*state, torch.get_rng_state().numpy().tobytes()])


@pytest.fixture(scope="module")
def bare() -> bytes:
    """The end state without probe."""
    return train()


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Any:
    before = list(gc.callbacks)
    yield
    assert gc.callbacks == before
    assert [t.name for t in threading.enumerate() if t.name.startswith("probe-")] == []


def probes_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("probe-")]


def test_steps_and_telemetry_are_joined_by_the_monotonic_clock(tmp_path: Path, bare: bytes) -> None:
    with profile(tmp_path / "r", wait=3, warmup=1, active=2, telemetry=FAST) as prof:
        assert {"probe-host", "probe-machine"} <= set(probes_threads())
        assert train(prof, pause_s=0.02) == bare
    run = load(tmp_path / "r")
    told = run_telemetry.read(tmp_path / "r", run.main)
    assert told.warnings == () and prof.warnings == [] and run.main.collected["telemetry"] is True
    steps = [(window.phase, window.first_step) for window in told.windows]
    assert steps == [("wait", 0), ("calibrate", 2), ("tensors", 3), ("active", 4), ("active", 5), ("after", 6)]
    ends = [window.end_ns for window in told.windows]
    assert all(w.begin_ns < w.end_ns for w in told.windows) and ends == sorted(ends)
    first, second = (w.end_ns - w.begin_ns for w in told.windows if w.phase == "active")
    assert (first, second) == pytest.approx(run.main.cycles[0].durations_ns, abs=5_000_000)
    host = told.of("host")
    assert host is not None and len(host) > 10
    inside = (host.at_ns >= told.windows[0].begin_ns) & (host.at_ns < told.windows[-1].end_ns)
    assert inside.sum() > 5
    assert run.main.telemetry["sources"]["nvml"]["reason"] and run.main.telemetry["sources"]["dcgm"]["reason"]


def test_the_analysis_holds_it(tmp_path: Path) -> None:
    with profile(tmp_path / "r", wait=3, warmup=1, active=2, telemetry=FAST) as prof:
        train(prof, pause_s=0.02)
    said = probe.analyze(tmp_path / "r").to_json()["telemetry"]
    sources = {one["source"]: one for one in said["sources"]}
    assert sources["host"]["via"] == "heartbeat" and sources["nvml"]["via"] is None and sources["nvml"]["reasons"]
    late = {q["window"]: q for q in said["quantities"] if q["name"] == "heartbeat_late_s"}
    assert {"all", "bare"} <= set(late) and late["all"]["n"] >= late["bare"]["n"] > 0
    assert all(q["low"] <= q["mean"] * (1 + 1e-9) and q["mean"] <= q["high"] * (1 + 1e-9) for q in said["quantities"])


def test_without_telemetry_there_is_no_thread_and_no_file(tmp_path: Path) -> None:
    with profile(tmp_path / "r", telemetry=False) as prof:
        assert probes_threads() == []
        train(prof)
    assert parts(tmp_path / "r", 0) == () and load(tmp_path / "r").main.collected["telemetry"] == "not asked for"
    assert probe.analyze(tmp_path / "r").telemetry is None


@pytest.mark.parametrize(
    "asked",
    ["yes", 3, ["nvml"], {"nvml": True}, {"host_hz": -1}, {"host_hz": "fast"}, {"host_hz": float("nan")},
     {"host_hz": 1e9}, {"flush_s": 0}, {"max_bytes": True}],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_training(asked: Any) -> None:
    with pytest.raises(UsageError, match="telemetry"):
        profile(telemetry=asked)


def test_settings() -> None:
    assert settings_of(True) == Settings() and settings_of(False) is settings_of(None) is None
    assert settings_of({"nvml_hz": 0}) == Settings(nvml_hz=0)


class Bad:
    """A source that goes wrong in a chosen place."""

    name = "host"
    in_driver = False
    via: str | None = "bad"

    def __init__(self, where: str) -> None:
        self.missing: dict[str, str] = {}
        self.where = where

    def _go(self, where: str) -> None:
        if where == self.where:
            raise RuntimeError(f"broken in {where}")

    def open(self) -> None:
        self._go("open")

    def rest(self) -> None:
        self._go("rest")

    def read(self, tick: Tick) -> Iterable[Row]:
        self._go("read")
        return [("host", {"x": 1.0})]

    def about(self) -> dict[str, Any]:
        self._go("about")
        return {}

    def close(self) -> None:
        self._go("close")

    def forget(self) -> None:
        return None


@pytest.mark.parametrize("where", ["open", "rest", "read", "about", "close"])
def test_a_source_that_breaks_costs_nothing_but_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bytes, where: str
) -> None:
    monkeypatch.setattr(collectors, "HostSource", lambda loop: Bad(where))
    with profile(tmp_path / "r", telemetry=FAST) as prof:
        assert train(prof) == bare
    run = load(tmp_path / "r")
    assert len(run.traces) == 1 and run.main.status == "finished"
    assert f"broken in {where}" in str(run.main.telemetry)


@pytest.mark.parametrize("what", ["Telemetry._start", "has_parquet", "pack", "Sampler.start", "NvmlSource"])
def test_a_defect_of_telemetry_costs_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bytes, what: str
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(f"probe.collectors.telemetry.{what}", broken)
    with profile(tmp_path / "r", telemetry=FAST) as prof:
        assert train(prof) == bare
    run = load(tmp_path / "r")
    assert len(run.traces) == 1 and any("a defect" in warning for warning in prof.warnings), prof.warnings


def test_a_source_that_hangs_is_left_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bytes) -> None:
    release = threading.Event()

    class Hangs(Bad):
        def read(self, tick: Tick) -> Iterable[Row]:
            release.wait(60)
            return []

    monkeypatch.setattr(collectors, "HostSource", lambda loop: Hangs("nowhere"))
    monkeypatch.setattr(collectors, "PATIENCE_S", 0.2)
    with profile(tmp_path / "r", telemetry=FAST) as prof:
        assert train(prof) == bare
    assert any("host did not end in 0.2 s" in warning for warning in prof.warnings)
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("probe-"):
            thread.join(20)


def test_a_full_disk_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bytes) -> None:
    def full(*args: object, **kwargs: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    from probe.collectors.sampling import Sampler

    begin = Sampler.__init__

    def init(self: Sampler, *args: Any, **more: Any) -> None:
        begin(self, *args, **more, writer=full)

    monkeypatch.setattr(Sampler, "__init__", init)
    with profile(tmp_path / "r", telemetry={**FAST, "machine_hz": 0}) as prof:
        assert train(prof) == bare
    run = load(tmp_path / "r")
    assert [w for w in prof.warnings if "No space left" in w] == list(run.main.warnings) and len(run.main.warnings) == 1
    assert parts(tmp_path / "r", 0) == () and len(run.traces) == 1


def test_a_directory_removed_in_mid_run_changes_nothing(tmp_path: Path, bare: bytes) -> None:
    steps = 0

    class Removing:
        """Steps, and takes the directory away (in one instant: its files may be written meanwhile)."""

        def step(self, samples: int) -> None:
            nonlocal steps
            steps += 1
            if steps == 3:
                (tmp_path / "r").rename(tmp_path / "elsewhere")
            prof.step(samples)

    with profile(tmp_path / "r", telemetry=FAST) as prof:
        assert train(Removing(), pause_s=0.01) == bare
    assert not (tmp_path / "r").exists()
    assert any("telemetry" in warning for warning in prof.warnings)


def test_two_sessions_at_once_sample_once(tmp_path: Path) -> None:
    with profile(tmp_path / "a", telemetry=FAST) as outer, profile(tmp_path / "b", telemetry=FAST) as inner:
        assert len(probes_threads()) == len(set(probes_threads()))
        train(outer)
    assert inner.path is None and not (tmp_path / "b").exists() and parts(tmp_path / "a", 0)


def test_a_wall_clock_that_steps_back_does_not_move_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bytes
) -> None:
    begun = time.monotonic()
    real = time.time_ns
    defaults = collectors.Sampler.__init__.__kwdefaults__
    assert defaults is not None
    hour = 3_600_000_000_000
    monkeypatch.setitem(defaults, "unix_ns", lambda: real() - (hour if time.monotonic() - begun > 0.3 else 0))
    with profile(tmp_path / "r", telemetry=FAST) as prof:
        assert train(prof, pause_s=0.05) == bare
    analysis = probe.analyze(tmp_path / "r")
    assert any("the wall clock was set back by 60.0 min" in warning for warning in analysis.warnings)
    told = run_telemetry.read(tmp_path / "r", load(tmp_path / "r").main)
    host = told.of("host")
    assert host is not None and (host.at_ns >= told.windows[-1].begin_ns).any()


def _wait_until(condition: Callable[[], bool], patience_s: float = 60) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


PROGRAM = """
import os, sys, time, torch, probe
from probe.session import profile
started = False
fast = {"host_hz": 200, "machine_hz": 50, "flush_s": 0.05}
with profile(sys.argv[1], wait=2, warmup=1, active=1, telemetry=fast) as prof:
    for step in range(100_000):
        torch.add(torch.ones(4), 1)
        time.sleep(0.005)
        prof.step()
        if not started and any("telemetry" in name for name in os.listdir(sys.argv[1])) and step > 8:
            started = True
            print("ready", flush=True)
"""


@pytest.mark.flaky(reruns=2)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_killed_can_be_read_up_to_its_last_part(
    tmp_path: Path, prepared: Prepared, number: signal.Signals
) -> None:
    child = prepared.start("-c", PROGRAM, tmp_path / "r", cwd=tmp_path)
    _wait_until(lambda: child.stdout == "ready\n")
    child.send_signal(number)
    done = child.wait()
    assert done.returncode == -number, done.stderr
    run = load(tmp_path / "r")
    told = run_telemetry.read(tmp_path / "r", run.main)
    host = told.of("host")
    assert told.warnings == () and host is not None and len(host) > 0
    assert [w.phase for w in told.windows][:2] == ["wait", "calibrate"]
    assert probe.analyze(tmp_path / "r").telemetry is not None
    ending = ".npz" if number != signal.SIGINT else ""
    assert all(path.name.endswith(ending) for path in parts(tmp_path / "r", 0))


@pytest.mark.flaky(reruns=2)
def test_a_file_size_limit_is_a_full_disk(tmp_path: Path, prepared: Prepared) -> None:
    limited = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
    done = prepared.run("-c", limited + PROGRAM.replace("100_000", "30"), tmp_path / "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert parts(tmp_path / "r", 0) == () and list((tmp_path / "r").glob(".*.part")) == []


PACKED = """
import sys, time, torch
from probe.session import profile
with profile(sys.argv[1], telemetry={"host_hz": 200, "flush_s": 0.05}) as prof:
    for _ in range(12):
        torch.add(torch.ones(4), 1)
        time.sleep(0.005)
        prof.step()
print("pyarrow" in sys.modules, "pandas" in sys.modules)
"""


def test_the_end_of_a_training_does_not_wait_for_pandas(tmp_path: Path, prepared: Prepared) -> None:
    """pyarrow imports it as soon as it is given an array of numpy's."""
    pytest.importorskip("pyarrow")
    done = prepared.run("-c", PACKED, tmp_path / "r", cwd=tmp_path)
    assert done.stdout.split() == ["True", "False"], done.stderr
    assert {path.suffix for path in parts(tmp_path / "r", 0)} == {".parquet"}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12 on; we mean it
def test_a_forked_child_samples_and_writes_nothing(tmp_path: Path) -> None:
    with profile(tmp_path / "r", telemetry=FAST) as prof:
        train(prof, steps=3)
        child = os.fork()
        if child == 0:
            try:
                clean = not any("GcPauses" in repr(callback) for callback in gc.callbacks)
                prof.step()
                prof.__exit__(None, None, None)
                os._exit(0 if clean and probes_threads() == [] else 3)
            finally:
                os._exit(4)
        assert os.waitpid(child, 0)[1] == 0
        train(prof)
    assert load(tmp_path / "r").main.steps.total == 15 and prof.warnings == []


def test_the_gpus_of_a_rank_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus_of(Place()) is None  # CUDA is not in use here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert gpus_of(Place()) == (0, 1, 2, 3)
    assert gpus_of(Place(rank=6, world_size=8, local_rank=2)) == (2,)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert gpus_of(Place(rank=7, world_size=8, local_rank=3)) == (3,)  # not chosen yet
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpus_of(Place(rank=7, world_size=8, local_rank=3)) == (0,)  # it sees only its own


def test_what_belongs_to_the_machine_is_read_by_one_rank_of_it(tmp_path: Path) -> None:
    def names(local_rank: int) -> set[str]:
        here = collectors.Here(tmp_path, rank=8 + local_rank, world_size=16, local_rank=local_rank)
        settings = Settings(stacks_hz=1, serving="http://127.0.0.1:8000/metrics")
        told = collectors.Telemetry(settings, here, lambda text: None)
        return {source.name for source, _ in told._sources()}

    assert names(0) == {"nvml", "dcgm", "host", "machine", "rapl", "serving", "stacks"}
    assert names(1) == {"nvml", "host", "machine", "stacks"}
