"""Levels, categories and the peak: against the allocator's own totals, against what a model holds, and torch's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_traces import analysis_of, trace_in

import probe
from probe.analyzers.memory.forecast import forecasts
from probe.analyzers.memory.levels import POINTS, Levels
from probe.analyzers.memory.use import memory_use
from probe.analyzers.operators.steps import recorded_steps
from probe.report import html, markdown
from probe.report.analysis import as_text
from probe.results.memory_use import CATEGORIES, Memory

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402  # only where torch is there

WIDTH, ROWS = 64, 4096


def model() -> Any:
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, 8))


def bytes_of(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def recorded(folder: Path, *, optimizer: Any, clear: bool = True, keep: bool = False, memory: bool = True) -> Any:
    """A training loop's analysis; keep: hold on to every loss with its graph."""
    torch.manual_seed(0)
    network = model()
    updates = optimizer(network.parameters())
    x, y, kept = torch.randn(ROWS, WIDTH), torch.randint(0, 8, (ROWS,)), []
    with probe.profile(folder / "run", wait=1, warmup=1, active=3, telemetry=False, memory=memory) as session:
        session.quiet = True
        for _ in range(5):
            updates.zero_grad(set_to_none=clear)
            loss = nn.functional.cross_entropy(network(x), y)
            loss.backward(retain_graph=keep)
            kept += [loss] if keep else []
            updates.step()
            session.step()
    return network, updates, probe.analyze(folder / "run")


def memory_of(analysis: Any) -> Memory:
    assert analysis.memory is not None
    return analysis.memory


@pytest.mark.parametrize("clear", [True, False])
def test_a_training_step_is_divided_among_what_holds_it(tmp_path: Path, clear: bool) -> None:
    network, updates, analysis = recorded(tmp_path, optimizer=lambda p: torch.optim.AdamW(p, foreach=True), clear=clear)
    memory = memory_of(analysis)
    parameters = bytes_of(network.parameters())
    state = bytes_of(t for values in updates.state.values() for t in values.values())
    assert memory.by_category["parameters"] == parameters
    assert abs((memory.by_category["optimizer"] or 0) - state) < 1000  # numbers that are no tensors
    # At the peak, in the backward pass, some gradients are there, or all where they are kept.
    assert memory.peak_bytes == sum(size or 0 for size in memory.by_category.values())
    kept = memory.by_category["gradients"] or 0
    assert kept == parameters if not clear else kept < parameters
    hidden = ROWS * WIDTH * 4
    assert (memory.by_category["activations"] or 0) // hidden == 4  # what GELU reads and makes, twice as wide
    assert memory.timeline is not None
    assert max(memory.timeline.by_category["activations"]) // hidden == 5
    assert memory.peak_at is not None and "backward" in memory.peak_at
    assert memory.growth_bytes_per_step == 0 and not memory.notes


def test_gradients_are_all_there_before_the_update(tmp_path: Path) -> None:
    network, _, analysis = recorded(tmp_path, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    line = memory_of(analysis).timeline
    assert line is not None
    assert max(line.by_category["gradients"]) == bytes_of(network.parameters())
    assert "optimizer" not in line.by_category


def test_what_stays_behind_after_every_step_is_told(tmp_path: Path) -> None:
    _, _, analysis = recorded(tmp_path, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), keep=True)
    grows = memory_of(analysis).growth_bytes_per_step
    assert grows is not None and grows > 3 * ROWS * WIDTH * 4


def test_without_recorded_tensors_gradients_tell_the_parameters(tmp_path: Path) -> None:
    """The trace alone: its sizes give the same figures as the tensors that the run recorded."""
    network, _, analysis = recorded(tmp_path, optimizer=lambda p: torch.optim.Adam(p, foreach=True))
    (path,) = (tmp_path / "run").glob("trace*")
    alone = memory_of(probe.analyze(path))
    parameters = bytes_of(network.parameters())
    assert alone.by_category["parameters"] == parameters
    assert alone.by_category["optimizer"] == 2 * parameters
    assert len(alone.notes) == 2
    assert memory_of(analysis).by_category["activations"] == alone.by_category["activations"]


def test_inference_has_no_gradients(tmp_path: Path) -> None:
    network, x = model(), torch.randn(ROWS, WIDTH)
    with probe.profile(tmp_path / "run", wait=1, warmup=1, active=2, telemetry=False, memory=True) as session:
        session.quiet = True
        for _ in range(4):
            with torch.inference_mode():
                network(x)
            session.step()
    memory = memory_of(probe.analyze(tmp_path / "run"))
    hidden = ROWS * WIDTH * 4
    assert memory.by_category["gradients"] == memory.by_category["optimizer"] == 0
    assert memory.by_category["parameters"] == bytes_of(network.parameters()) + hidden  # and the input
    assert memory.by_category["activations"] == 4 * hidden


def test_a_run_without_allocations_has_no_memory(tmp_path: Path) -> None:
    _, _, analysis = recorded(tmp_path, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), memory=False)
    assert analysis.memory is None and "emory  peak" not in as_text(analysis)


def test_torchs_own_memory_profiler_agrees(tmp_path: Path) -> None:
    """torch.profiler's categories need the live process; sizes of parameters and gradients are the same."""
    network = model()
    updates = torch.optim.SGD(network.parameters(), lr=0.1)
    x, y = torch.randn(ROWS, WIDTH), torch.randint(0, 8, (ROWS,))
    options = {"record_shapes": True, "profile_memory": True, "with_stack": True}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], **options) as profiler:
        nn.functional.cross_entropy(network(x), y).backward()
        updates.step()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    theirs = profiler._memory_profile()
    totals: dict[str, int] = {}
    for _, action, (key, version), size in theirs.timeline:
        category = theirs._categories.get(key, version)
        if category is not None and "INCREMENT" not in action.name and "DESTROY" not in action.name:
            totals[category.name] = totals.get(category.name, 0) + size
    memory = memory_of(probe.analyze(tmp_path / "trace.json"))
    assert memory.timeline is not None
    assert memory.by_category["parameters"] == totals["PARAMETER"]
    assert max(memory.timeline.by_category["gradients"]) == totals["GRADIENT"]


@pytest.mark.parametrize("name", ["h100_bert_small", "h100_qwen_0.5b_chat", "mi300x_qwen_0.5b_chat"])
def test_levels_are_those_that_the_allocator_counted(foreign_traces: Path, name: str) -> None:
    trace = trace_in(foreign_traces / f"{name}.json.gz")
    use = memory_use(trace, recorded_steps(trace))
    assert use is not None and use.complete and use.device == 0
    own = trace.allocations.device == 0
    assert (use.levels.total == trace.allocations.allocated_bytes[own]).all()
    assert (use.levels.by_category >= 0).all()


def test_old_traces_say_why_nothing_is_known(foreign_traces: Path) -> None:
    memory = memory_of(analysis_of(foreign_traces / "v100_resnet50_training.json.gz"))
    assert memory.peak_bytes is None and "without addresses" in memory.notes[0]


def levels(**categories: list[int]) -> Levels:
    rows = np.array([categories.get(name, [0, 0, 0]) for name in CATEGORIES], np.int64)
    return Levels(np.arange(3), rows, None, np.ones(3, bool))


def test_forecasts_follow_the_peak_where_it_moves() -> None:
    """Halving activations lowers the peak only to where the optimizer's temporary memory is the next."""
    found = levels(parameters=[40] * 3, activations=[0, 100, 0], temporary=[0, 0, 70], optimizer=[80] * 3)
    told = {
        f.change: f
        for f in forecasts(found, activations=16, in_float32=0.0, logits=None, forward_s=0.5, trains=True, world_size=4)
    }
    checkpointing = told["activation checkpointing"]
    assert checkpointing.peak_bytes == 190 and checkpointing.saving_bytes == 30
    assert checkpointing.cost == "another forward pass, 500 ms"
    assert told["ZeRO stage 1"].saving_bytes == 60 and told["ZeRO stage 3"].saving_bytes == 90
    assert "bfloat16 autocast" not in told and "this is one process" not in told["ZeRO stage 1"].assumes
    assert [f.saving_bytes for f in told.values()] == sorted((f.saving_bytes for f in told.values()), reverse=True)


def test_logits_are_left_out_of_the_forecast_where_they_are() -> None:
    found = levels(parameters=[10] * 3, activations=[0, 100, 20])
    (told,) = forecasts(
        found, activations=2, in_float32=0.0, logits=np.array([0, 90, 0]), forward_s=None, trains=True, world_size=1
    )[:1]
    assert told.change == "fused or chunked cross-entropy" and told.peak_bytes == 30


def test_inference_is_not_told_to_checkpoint_or_to_shard() -> None:
    found = levels(parameters=[40] * 3, activations=[0, 100, 0])
    told = forecasts(found, activations=50, in_float32=1.0, logits=None, forward_s=None, trains=False, world_size=None)
    assert [f.change for f in told] == ["bfloat16 autocast"]


def test_reports_show_the_peak_and_who_held_it(tmp_path: Path) -> None:
    _, _, analysis = recorded(tmp_path, optimizer=lambda p: torch.optim.AdamW(p, foreach=True))
    text = as_text(analysis)
    assert "memory  peak" in text and "activations" in text and "ZeRO stage 3" in text
    page = html.render(analysis)
    assert "<h2>Memory</h2>" in page and page.count("<polygon") >= 4
    assert "| held by | in |" in markdown.render(analysis)
    content = json.loads(json.dumps(analysis.to_json()["memory"], allow_nan=False))
    assert set(CATEGORIES) == set(content["by_category"])
    line = content["timeline"]
    assert 2 <= len(line["at_s"]) <= POINTS + 2
    assert max(line["allocated_bytes"]) == content["peak_bytes"]
    for place, total in enumerate(line["allocated_bytes"]):
        assert total == sum(sizes[place] for sizes in line["by_category"].values())
