"""Are blocks and modules named in whoever's trace, in NVTX where a tool listens, and for next to nothing otherwise?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import probe
from probe.api import load
from probe.collectors import kineto_log, torch_profiler
from probe.collectors.torch_profiler import Recording
from probe.session import annotate, annotate_modules, annotation, profile
from probe.session.modules import ModuleRanges
from probe.trace import MODULE_PREFIX, RANGE_PREFIX


def recorded(work: Callable[[], object]) -> list[str]:
    """The names in the trace of torch's own profiler."""
    with kineto_log.silenced(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
        work()
    return [event.name for event in prof.events()]


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


def test_modules_are_named_until_that_is_undone() -> None:
    net, data = model(), torch.randn(2, 4)
    bare = net(data)
    undo = probe.annotate_modules(net)
    assert torch.equal(net(data), bare)
    names = [name for name in recorded(lambda: net(data)) if name.startswith(MODULE_PREFIX)]
    assert sorted(names) == sorted(MODULE_PREFIX + path for path in ("Sequential", "0", "1", "1.0", "1.1"))
    undo()
    undo()
    assert not any(name.startswith(MODULE_PREFIX) for name in recorded(lambda: net(data)))
    assert not net._forward_hooks and not net._forward_pre_hooks


def test_a_module_that_raises_leaves_no_range_open() -> None:
    net = model()
    undo = annotate_modules(net)

    def work() -> None:
        with pytest.raises(RuntimeError):
            net(torch.randn(2, 9))
        net(torch.randn(2, 4))

    assert sum(name == f"{MODULE_PREFIX}1.1" for name in recorded(work)) == 1
    undo()


def test_what_is_no_module_is_told() -> None:
    with pytest.warns(UserWarning, match=r"no torch\.nn\.Module"):
        annotate_modules(object())()


def test_the_fast_form_is_a_range_too(tmp_path: Path) -> None:
    @annotate("hot", fast=True)
    def hot() -> torch.Tensor:
        with annotate("loss", fast=True), annotate("slow"):
            return torch.ones(2) + 1

    assert {f"{RANGE_PREFIX}hot", f"{RANGE_PREFIX}loss", "slow"} <= set(recorded(hot))
    with kineto_log.silenced(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
        hot()
    prof.export_chrome_trace(str(tmp_path / "t.json"))
    trace = load(tmp_path / "t.json")
    marks = {trace.names[name] for name in trace.annotations.name}
    assert {f"{RANGE_PREFIX}hot", f"{RANGE_PREFIX}loss", "slow"} <= marks
    assert not any(trace.names[name].startswith(RANGE_PREFIX) for name in trace.host_ops.name)


class Domain:
    """As much of NVTX's domain as is used."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def get_event_attributes(self, message: str) -> str:
        return message

    def push_range(self, event: str) -> None:
        self.said.append(event)

    def pop_range(self) -> None:
        self.said.append("end")


@pytest.mark.parametrize("fast", [False, True])
def test_a_range_that_outlives_its_recording_does_not_end_in_another(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """torch has freed its event by then, and would write into it."""
    left: list[object] = []
    monkeypatch.setattr(torch_profiler, "left_open", left)
    ours, later = Recording(shapes=False), Recording(shapes=False)
    outlives, within, after = (annotate(name, fast=fast) for name in ("outlives", "within", "after"))
    ours.start()
    with within, outlives, after:
        pass
    assert left == []  # ended as usual
    outlives.__enter__()
    after.__enter__()
    ours.stop()
    after.__exit__(None, None, None)
    assert left == []  # nobody records: torch looks at nothing
    later.start()
    outlives.__exit__(None, None, None)
    with within:
        pass
    assert len(left) == 1
    later.stop()


@pytest.mark.parametrize("own", [False, True])
def test_a_modules_range_that_outlives_its_recording_does_not_end_in_another(
    monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """A loop within a module's forward: two recordings begin and end in one call."""
    left: list[object] = []
    monkeypatch.setattr(torch_profiler, "left_open", left)

    class Loop(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            recordings[0].stop()
            recordings[1].start()
            return x

    model = Loop()
    remove = annotate_modules(model) if own else lambda: None
    marking = None if own else ModuleRanges(model, pytest.fail)
    recordings = [Recording(shapes=False, marking=marking) for _ in range(2)]
    recordings[0].start()
    model(torch.ones(1))
    assert len(left) == 1
    recordings[1].stop()
    remove()


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Domain]:
    domain = Domain()
    monkeypatch.setenv("NVTX_INJECTION64_PATH", "/opt/tool.so")
    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(get_domain=lambda name: {"probe": domain}[name]))
    annotation.nvtx_domain.cache_clear()
    yield domain
    annotation.nvtx_domain.cache_clear()


def test_a_tool_that_listens_to_nvtx_hears_the_ranges(listening: Domain) -> None:
    with annotate("outer"), annotate("inner"):
        pass
    with pytest.raises(KeyError), annotate("raised"):
        raise KeyError
    assert listening.said == ["outer", "inner", "end", "end", "raised", "end"]
    listening.said.clear()
    net = nn.Sequential(nn.ReLU())
    undo = annotate_modules(net)
    net(torch.ones(1))
    undo()
    assert listening.said == ["Sequential", "0", "end", "end"]


def test_without_a_tool_nothing_of_nvtx_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in annotation.INJECTION:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "nvtx", None)
    annotation.nvtx_domain.cache_clear()
    assert annotation.nvtx_domain() is None
    monkeypatch.setenv("NVTX_INJECTION64_PATH", "/opt/tool.so")
    annotation.nvtx_domain.cache_clear()
    assert annotation.nvtx_domain() is None  # the package is not installed
    dummy: Any = type("DummyDomain", (), {})()
    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(get_domain=lambda name: dummy))
    annotation.nvtx_domain.cache_clear()
    assert annotation.nvtx_domain() is None
    annotation.nvtx_domain.cache_clear()


@pytest.mark.flaky(reruns=2)
def test_a_sessions_own_names_and_these_go_together(tmp_path: Path) -> None:
    net = model()
    undo = annotate_modules(net)
    with profile(tmp_path / "r", wait=1, warmup=1, active=1, telemetry=False) as prof:
        for _ in range(5):
            net(torch.randn(2, 4))
            prof.step()
    undo()
    found = probe.analyze(tmp_path / "r")
    assert "1.1" in {op.module for op in found.ops}
