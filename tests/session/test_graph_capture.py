"""A model's graph is captured without its noticing, or one warning says why it was not."""

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import probe
import probe.runs.run
from probe.analyzers.rules.matching.units import normalised
from probe.collectors import module_graph
from probe.collectors.model_calls import ModelCalls, NotCapturedError
from probe.collectors.module_graph import capture, unwrapped
from probe.readers.module_graph import GraphUnit, ModuleGraph, read
from probe.session import graph
from probe.session.graph import GraphOfModel


class Net(nn.Module):
    """Everything that a forward pass may change: dropout, batch statistics, a list of the program's own, hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.3)
        self.shift = nn.Parameter(torch.ones(16))
        self.seen: list[object] = []

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        self.seen.append(x)
        random.random()
        y = self.drop(self.norm(self.linear(x)))
        y.mul_(scale * random.choice([2.0, 3.0]))
        np.random.rand()
        torch.sin(y)  # nobody reads it
        return y.repeat(2, 1) + self.shift


def seen(model: nn.Module, *inputs: Any, **named: Any) -> ModelCalls:
    """The calls of a model that was called once."""
    calls = ModelCalls(model)
    calls.watch()
    model(*inputs, **named)
    calls.leave()
    return calls


def captured(model: nn.Module, *inputs: Any, **named: Any) -> ModuleGraph:
    return capture(unwrapped(model), seen(model, *inputs, **named).found, normalised)


def states() -> list[object]:
    array: Any = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), array[1].tolist(), array[2]]


def test_a_capture_leaves_everything_as_it_was() -> None:
    model = Net().train()
    model.norm.eval()
    ran: list[object] = []
    model.linear.register_forward_hook(lambda *_: ran.append(0))
    calls = seen(model, torch.randn(4, 8))
    model(torch.randn(4, 8)).sum().backward()
    tensors = {**model.state_dict(keep_vars=True)}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    versions = {name: tensor._version for name, tensor in tensors.items()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
    modes, counted, drawn = [m.training for m in model.modules()], (len(model.seen), len(ran)), states()
    capture(model, calls.found, normalised)
    assert states() == drawn
    assert (len(model.seen), len(ran)) == counted
    assert [m.training for m in model.modules()] == modes
    assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert hooks[0] == ({}, {})  # the hook that looked is gone
    assert all(model.state_dict(keep_vars=True)[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors.items())
    assert {name: tensor._version for name, tensor in tensors.items()} == versions
    assert all(torch.equal(gradients[name], p.grad) for name, p in model.named_parameters() if p.grad is not None)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()


def test_units_have_makers_parameters_modules_and_lines() -> None:
    graph = captured(Net(), torch.randn(4, 8), scale=0.5)
    [call] = graph.calls
    assert [unit.name for unit in call.units] == [
        "addmm", "add", "native_batch_norm", "dropout", "mul", "sin", "add",
    ]  # fmt: skip
    linear, counter, norm, drop, scaled, unread, last = call.units
    assert [a.origin for a in linear.arguments] == ["parameter", "input", "parameter"]
    assert (linear.arguments[2].name, linear.arguments[2].size) == ("linear.weight", (8, 16))
    assert counter.arguments[0].name == "norm.num_batches_tracked"
    assert [norm.arguments[0].maker, drop.arguments[0].maker, scaled.arguments[0].maker] == [0, 2, 3]
    assert unread.arguments[0].maker == 4
    assert [(a.maker, a.origin) for a in last.arguments] == [(None, ""), (None, "parameter")]  # repeat made it
    assert "aten::repeat" in call.opaque
    kinds = [call.modules[unit.module].kind for unit in call.units]
    assert kinds == ["Linear", "BatchNorm1d", "BatchNorm1d", "Dropout", "Net", "Net", "Net"]
    assert all("test_graph_capture.py" in graph.lines[unit.line] for unit in call.units)
    assert (call.training, call.inputs) == (True, ("float32[4, 8]",))


def test_the_graph_is_what_runs() -> None:
    """The units of a recorded forward pass, one for one, in training and in evaluation."""
    for model in (Net(), Net().eval(), nn.TransformerEncoderLayer(8, 2, 16), nn.TransformerEncoderLayer(8, 2).eval()):
        x = torch.randn(4, 8)
        graph = captured(model, x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
            model(x)
        assert _spelled(graph.calls[0].units) == _ran(recorded, set(graph.calls[0].opaque))


def _spelled(units: tuple[GraphUnit, ...]) -> list[str]:
    return [unit.name for unit in units]


def _ran(recorded: Any, opaque: set[str]) -> list[str]:
    """Names of the outermost units of a profile that are not inside of what the graph does not look into."""
    found = []
    for event in sorted(recorded.events(), key=lambda e: (e.time_range.start, -e.time_range.end)):
        above, names = event.cpu_parent, []
        while above is not None:
            names.append(above.name)
            above = above.cpu_parent
        if normalised(event.name) and not any(normalised(name) or name in opaque for name in names):
            found.append(normalised(event.name) or "")
    return found


def test_calls_of_different_sizes_and_modes_are_kept_apart() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    calls = ModelCalls(model)
    calls.watch()
    for x in (torch.randn(4, 8), torch.randn(4, 8), torch.randn(2, 8)):
        model(x)
    model.eval()(torch.randn(2, 8))
    calls.leave()
    graph = capture(model, calls.found, normalised)
    assert [(call.training, call.inputs[0]) for call in graph.calls] == [
        (True, "float32[4, 8]"), (True, "float32[2, 8]"), (False, "float32[2, 8]"),
    ]  # fmt: skip
    model(torch.randn(7, 8))
    assert len(calls.found) == 3


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


class Own(nn.Module):
    def forward(self, x: object) -> object:
        return x


class Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu"):
            return self.linear(x)


class Chosen(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0]


@pytest.mark.parametrize("model", [Branch(), Chosen()])
def test_control_flow_that_depends_on_data_is_told(model: nn.Module) -> None:
    with pytest.raises(NotCapturedError, match="depends on the values of a tensor"):
        captured(model, torch.ones(3))


def test_a_model_that_changed_is_told() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    calls = seen(model, torch.ones(3))
    model.append(nn.ReLU())
    with pytest.raises(NotCapturedError, match="its modules changed"):
        capture(model, calls.found, normalised)


def test_autocast_is_told() -> None:
    with pytest.raises(NotCapturedError, match="autocast"):
        captured(Casting(), torch.ones(3, 8))
    with torch.autocast("cpu"):
        calls = seen(nn.Linear(8, 8), torch.ones(3, 8))
    with pytest.raises(NotCapturedError, match="autocast"):
        capture(nn.Linear(8, 8), calls.found, normalised)


@pytest.mark.parametrize("value", [{1, 2}, torch.ones(2, 2).to_sparse(), object()])
def test_arguments_that_are_no_tensors_are_told(value: object) -> None:
    assert "it is called with a" in (seen(Own(), value).problem or "")


def test_a_compiled_model_is_told() -> None:
    linear, inside = nn.Linear(8, 8), nn.Sequential(torch.compile(nn.Linear(8, 8), backend="eager"))
    linear.compile(backend="eager")
    for model in (linear, inside, inside[0]):
        with pytest.raises(NotCapturedError, match="compiled"):
            unwrapped(model)
    with pytest.raises(NotCapturedError, match=r"no torch\.nn\.Module"):
        unwrapped(lambda x: x)


def test_modules_compiled_in_place_are_followed_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model[0].compile(backend="eager")
    calls = ModelCalls(model)
    calls.watch()
    model(torch.randn(2, 8))
    calls.leave()
    compiled = model[0]._compiled_call_impl
    assert _spelled(capture(unwrapped(model), calls.found, normalised).calls[0].units) == ["addmm", "relu"]
    assert model[0]._compiled_call_impl is compiled


def test_a_wrapper_for_several_devices_is_looked_into(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = nn.Sequential(nn.Linear(8, 8))
        wrapped = nn.parallel.DistributedDataParallel(net)
        assert unwrapped(wrapped) is net
        calls = ModelCalls(net)
        calls.watch()
        wrapped(torch.randn(2, 8)).sum().backward()
        calls.leave()
        assert _spelled(capture(net, calls.found, normalised).calls[0].units) == ["addmm"]
    finally:
        torch.distributed.destroy_process_group()


def test_what_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_graph, "MOST_S", -1.0)
    with pytest.raises(NotCapturedError, match="took more than"):
        captured(Net(), torch.randn(4, 8))


def test_what_leaving_the_block_takes_is_bounded_counted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.randn(3, 8)
    assert [GraphOfModel(model, print, pause).most_s for pause in (1.0, 0.1, 1e6)] == [15.0, 1.5, 60.0]
    with monkeypatch.context() as patch:
        patch.setattr(graph, "MOST_S", -1.0)
        given_up = observed(tmp_path, model, lambda: model(x))
        assert any("took more than -1 s" in warning for warning in given_up.warnings)
    capsys.readouterr()
    with probe.profile(tmp_path / "said", wait=1, warmup=1, active=1, model=model, max_pause_s=0.02) as prof:
        for _ in range(4):
            model(x)
            prof.step()
        slow = prof._graph.write
        prof._graph.write = lambda *where: (time.sleep(0.15), slow(*where))
    closing_s = probe.runs.run.load(tmp_path / "said").main.closing_s
    assert set(closing_s) == {"recording", "graph", "telemetry"} and closing_s["graph"] >= 0.15
    assert re.search(r"leaving the block took \d+\.\d s \((graph|telemetry) ", capsys.readouterr().err)


def observed(folder: Path, model: object, call: Callable[[], object], **options: Any) -> Any:
    """A session round seven calls."""
    with probe.profile(folder / "run", wait=1, warmup=2, active=1, telemetry=False, model=model, **options) as prof:
        prof.quiet = True
        for _ in range(6):
            call()
            prof.step()
    return prof


def test_a_session_writes_the_graph_and_says_so(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.randn(3, 8)
    prof = observed(tmp_path, model, lambda: (model(x), model(x[:2])))
    part = probe.runs.run.load(prof.path).main
    assert (part.graph, part.collected["model"], prof.warnings) == ("graph.rank00000.json", True, [])
    assert [call.inputs for call in read(prof.path / part.graph).calls] == [("float32[3, 8]",), ("float32[2, 8]",)]


def test_a_session_trains_as_without_it(tmp_path: Path) -> None:
    def train(model: object | None) -> list[float]:
        torch.manual_seed(0)
        random.seed(0)
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        losses: list[float] = []

        def step() -> None:
            loss = net(torch.randn(4, 8)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())

        observed(tmp_path, net if model else None, step)
        step()  # after the capture
        return [*losses, *(float(p.sum()) for p in net.state_dict().values()), random.random(), torch.rand(1).item()]

    assert train(None) == train(True)


@pytest.mark.parametrize(
    ("model", "said"),
    [(Branch(), "depends on the values"), (nn.Linear(3, 3), "was not called"), (object(), "no torch.nn.Module")],
)
def test_a_session_warns_once_where_there_is_no_graph(tmp_path: Path, model: Any, said: str) -> None:
    prof = observed(tmp_path, model, lambda: model(torch.ones(3)) if isinstance(model, Branch) else torch.ones(3) + 1)
    about = [warning for warning in prof.warnings if "graph" in warning]
    assert len(about) == 1
    assert said in about[0]
    part = probe.runs.run.load(prof.path).main
    assert (part.graph, part.collected["trace"]) == (None, True)
    assert said in str(part.collected["model"])


def test_a_loop_that_raises_leaves_no_graph_and_no_hook(tmp_path: Path) -> None:
    model = nn.Linear(3, 3)
    with pytest.raises(KeyError), probe.profile(tmp_path / "run", wait=0, warmup=1, active=3, model=model) as prof:
        prof.quiet = True
        model(torch.ones(3))
        raise KeyError
    assert not model._forward_pre_hooks
    assert not list((tmp_path / "run").glob("graph*"))
