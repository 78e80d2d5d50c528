"""Is a snapshot of CUDA's allocator written where it is asked for, and the program's own history left alone?"""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from probe.collectors import memory_history
from probe.collectors.memory_history import MOST_ENTRIES, MemoryHistory
from probe.errors import UsageError
from probe.runs.run import load
from probe.session import profile

SNAPSHOT = {"segments": [], "device_traces": [[]]}


class Allocator:
    """As much of torch.cuda.memory as is used."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.broken = False

    def _record_memory_history(self, **asked: Any) -> None:
        self.calls.append(asked)

    def _snapshot(self) -> dict[str, Any]:
        if self.broken:
            raise RuntimeError("CUDA is out of sorts")
        return SNAPSHOT


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    made = Allocator()
    monkeypatch.setattr(memory_history, "_memory", lambda: made)
    return made


def loop(prof: Any, steps: int) -> None:
    for _ in range(steps):
        torch.add(torch.ones(16), 1)
        prof.step()


@pytest.mark.flaky(reruns=2)
def test_each_cycle_has_its_snapshot(tmp_path: Path, allocator: Allocator) -> None:
    options: dict[str, Any] = {"wait": 1, "warmup": 1, "active": 1, "telemetry": False}
    with profile(tmp_path / "r", memory="snapshot", repeat=2, **options) as prof:
        loop(prof, 10)
    run = load(tmp_path / "r")
    assert [cycle.memory for cycle in run.main.cycles] == [
        "memory.rank00000.cycle0.pickle",
        "memory.rank00000.cycle1.pickle",
    ]
    assert pickle.loads((tmp_path / "r" / "memory.rank00000.cycle1.pickle").read_bytes()) == SNAPSHOT
    on, off = {"max_entries": MOST_ENTRIES, "stacks": "python"}, {"enabled": None}
    assert allocator.calls == [on, off, on, off]
    assert run.main.collected["memory"] is run.main.collected["memory_snapshot"] is True and prof.warnings == []


@pytest.mark.flaky(reruns=2)
def test_what_goes_wrong_costs_no_trace(tmp_path: Path, allocator: Allocator) -> None:
    allocator.broken = True
    with profile(tmp_path / "r", memory="snapshot", wait=1, warmup=1, active=1, telemetry=False) as prof:
        loop(prof, 5)
    run = load(tmp_path / "r")
    assert run.main.cycles[0].memory is None and len(run.traces) == 1 and allocator.calls[-1] == {"enabled": None}
    assert prof.warnings == ["no snapshot of the memory: RuntimeError: CUDA is out of sorts"]


def test_a_history_of_the_programs_own_is_used_and_left(
    tmp_path: Path, allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_ = SimpleNamespace(_C=SimpleNamespace(_cuda_isHistoryEnabled=lambda: True))
    monkeypatch.setitem(memory_history.sys.modules, "torch", torch_)
    history = MemoryHistory()
    history.start()
    assert history.write(tmp_path / "m.pickle") and allocator.calls == []
    assert not history.write(tmp_path / "again.pickle")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.flaky(reruns=2)
def test_without_cuda_there_is_none_and_it_is_said(tmp_path: Path) -> None:
    with profile(tmp_path / "r", memory="snapshot", wait=1, warmup=1, active=1, telemetry=False) as prof:
        loop(prof, 5)
    main = load(tmp_path / "r").main
    assert main.cycles[0].memory is None and "no CUDA device" in str(main.collected["memory_snapshot"])
    assert main.collected["memory"] is True


def test_other_words_are_refused() -> None:
    with pytest.raises(UsageError, match="snapshot"):
        profile(memory="history")
