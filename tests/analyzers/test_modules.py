"""Operators are put into the module, and onto the line, that a trace names; recording modules changes no result."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import Event, event, op, shapes, step, write

import probe
from probe.analyzers.operators.modules import GroupPlaces, Places, places
from probe.readers.frames import Kept
from probe.trace import Trace

NO_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


def frame(name: str, start: float, duration: float, tid: Any = 1) -> Event:
    return event("python_function", name, start, duration, tid, **{"Python id": 1})


def where(trace: Trace) -> dict[str, tuple[str | None, str | None]]:
    """Module and line by operator."""
    found, ops = places(trace), trace.host_ops
    rows = {name: np.flatnonzero(ops.name == number) for number, name in enumerate(trace.names)}
    return {name: (found.module_of(r), found.line_of(r)) for name, r in rows.items() if len(r)}


def loaded(tmp_path: Path, *events: Event) -> Trace:
    trace = probe.load(write(tmp_path, [step(1, 0, 1000), *events]))
    trace.check()
    return trace


def test_frames_of_modules_make_paths(tmp_path: Path) -> None:
    found = where(loaded(
        tmp_path,
        frame("train.py(10): step", 0, 900),
        frame("nn.Module: Model_0", 10, 500),
        frame("torch/nn/modules/module.py(1743): _call_impl", 11, 490),
        frame("nn.Module: Linear_3", 20, 100),
        op("aten::addmm", 30, 20),
        frame("models/net.py(5): forward", 200, 100),
        op("aten::mul", 210, 20),
        op("aten::sub", 950, 20),
        op("aten::other", 30, 20, tid=2),
    ))  # fmt: skip
    assert found == {
        "aten::addmm": ("Model_0.Linear_3", "train.py:10 in step"),
        "aten::mul": ("Model_0", "models/net.py:5 in forward"),
        "aten::sub": (None, None),
        "aten::other": (None, None),
    }


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("nn.Module: Linear_0", True),
        ("train.py(82): train_step", True),
        ("/home/me/my project/model.py(3): forward", True),
        ("/opt/conda/lib/python3.11/site-packages/transformers/activations.py(77): forward", True),
        ("transformers/models/bert/modeling_bert.py(181): forward", True),
        ("torch/nn/modules/linear.py(124): forward", False),
        ("/opt/conda/lib/python3.11/site-packages/torch/_ops.py(1): __call__", False),
        ("/usr/lib/python3.11/threading.py(1032): _bootstrap", False),
        ("contextlib.py(299): helper", False),
        ("json/encoder.py(105): __init__", False),
        ("<built-in function len>", False),
        ("<string>(1): f", False),
        ("<frozen importlib._bootstrap>(1): f", False),
        ("a secret", False),
    ],
)
def test_which_frames_are_kept(name: str, kept: bool) -> None:
    assert Kept()[name] is kept


def test_other_frames_are_not_read(tmp_path: Path) -> None:
    trace = loaded(
        tmp_path, frame("<built-in function len>", 0, 9), frame("torch/x.py(1): f", 0, 9), op("aten::add", 1, 2)
    )
    assert not len(trace.frames) and "torch/x.py(1): f" not in trace.names
    assert trace.with_stacks


def test_backward_operators_are_in_the_module_of_their_forward_one(tmp_path: Path) -> None:
    backward = {"Sequence number": 7, "Fwd thread id": 1}
    found = where(loaded(
        tmp_path,
        frame("nn.Module: Net_0", 10, 100), frame("nn.Module: Linear_0", 20, 50),
        op("aten::linear", 30, 20), op("aten::addmm", 31, 10, **{"Sequence number": 7}),
        op("autograd::engine::evaluate_function: AddmmBackward0", 200, 100, tid=2, **backward),
        op("AddmmBackward0", 210, 80, tid=2, **backward),
        op("aten::mm", 220, 20, tid=2), op("aten::t", 221, 2, tid=2),
        op("torch::autograd::AccumulateGrad", 400, 20, tid=2, **{"Sequence number": 99, "Fwd thread id": 1}),
    ))  # fmt: skip
    inside = ("Net_0.Linear_0", None)
    assert {found[n] for n in ("aten::addmm", "AddmmBackward0", "aten::mm", "aten::t")} == {inside}
    assert found["torch::autograd::AccumulateGrad"] == (None, None)


def test_recomputation_keeps_the_module_that_it_runs_in(tmp_path: Path) -> None:
    backward = {"Sequence number": 7, "Fwd thread id": 1}
    found = where(loaded(
        tmp_path,
        frame("nn.Module: Outer_0", 10, 100), op("CheckpointFunction", 20, 20, **{"Sequence number": 7}),
        op("CheckpointFunctionBackward", 200, 100, tid=2, **backward),
        frame("nn.Module: Inner_0", 210, 50, tid=2), op("aten::addmm", 220, 20, tid=2),
    ))  # fmt: skip
    assert found["aten::addmm"][0] == "Inner_0"
    assert found["CheckpointFunctionBackward"][0] == "Outer_0"


def mark(name: str, start: float, duration: float) -> Event:
    return event("user_annotation", name, start, duration)


@pytest.mark.parametrize("category", ["user_annotation", "cpu_op"])
def test_probes_own_ranges_name_modules_before_all_else(tmp_path: Path, category: str) -> None:
    """torch writes its quick ranges as operators; they are none."""
    trace = loaded(
        tmp_path,
        mark("## forward ##", 5, 800), frame("nn.Module: Linear_0", 10, 100),
        event(category, "probe.module:layers.0.mlp", 20, 50), op("aten::addmm", 30, 20), op("aten::add", 90, 5),
    )  # fmt: skip
    found = where(trace)
    assert found == {"aten::addmm": ("layers.0.mlp", None), "aten::add": ("Linear_0", None)}


def test_ranges_of_the_program_stand_in_for_modules(tmp_path: Path) -> None:
    found = where(loaded(
        tmp_path,
        mark("## forward ##", 10, 100), mark("nccl:all_reduce", 20, 10), op("aten::a", 25, 2),
        mark("Optimizer.step#SGD.step", 200, 100), op("aten::b", 210, 2),
        mark("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 400, 100), op("aten::c", 410, 2),
        op("aten::d", 600, 2),
    ))  # fmt: skip
    assert {name: module for name, (module, _) in found.items()} == {
        "aten::a": "forward", "aten::b": "SGD.step", "aten::c": None, "aten::d": None,
    }  # fmt: skip


def of(*modules: str) -> str | None:
    rows = np.arange(len(modules), dtype=np.int32)
    return Places(modules, (), rows, np.full(len(modules), -1, np.int32)).module_of(rows.tolist())


def test_paths_that_differ_in_numbers_are_told_as_one() -> None:
    assert of("layers.0.mlp", "layers.1.mlp", "head") == "layers.*.mlp"
    assert of("Qwen2_0.L_0.M_0", "Qwen2_0.L_1.M_1") == "Qwen2_0.L_*.M_*"
    assert of("a.0", "a.0") == "a.0"
    assert of() is None


def test_groups_without_places() -> None:
    none = np.full(2, -1, np.int32)
    groups = GroupPlaces(Places((), (), none, none), [np.array([0]), np.array([1])].__getitem__)
    assert groups.module([0, 1]) is None and groups.line([0]) is None
    some = GroupPlaces(
        Places(("m",), ("l",), np.array([0, -1]), np.array([-1, 0])),
        [np.array([1]), np.array([0]), np.array([], int)].__getitem__,
    )
    assert (some.module([1]), some.module([0]), some.module([2]), some.line([0])) == ("m", None, None, "l")


def test_operators_and_findings_name_their_module(tmp_path: Path) -> None:
    events = [step(1, 0, 20000), frame("train.py(1): f", 0, 20000), frame("nn.Module: Net_0", 1, 19000)]
    chain = ("add", "mul", "tanh", "sub", "div", "exp")
    for repeat in range(30):
        events += [
            op(f"aten::{name}", 5 + repeat * 600 + 90 * i, 80, **shapes([512, 512], [512, 512]))
            for i, name in enumerate(chain)
        ]
    analysis = probe.analyze(write(tmp_path, events))
    assert {o.module for o in analysis.ops} == {"Net_0"} and {o.source for o in analysis.ops} == {"train.py:1 in f"}
    finding = next(f for f in analysis.findings if f.code == "F01")
    assert finding.module == "Net_0" and "called from train.py:1 in f" in finding.evidence


def test_a_part_of_a_trace_keeps_its_frames(tmp_path: Path) -> None:
    events = [frame("nn.Module: Net_0", 0, 5000), *(e for n in range(3) for e in (
        step(n, 1000 * n, 900), op("aten::add", 1000 * n + 10, 20)
    ))]  # fmt: skip
    part = probe.load(write(tmp_path, events), steps=(1, 1))
    assert where(part) == {"aten::add": ("Net_0", None)} and len(part.host_ops) == 1


# --- recordings ---------------------------------------------------------------------------------------------------


def trained(
    folder: Path, make: Callable[[], Any], *, model: Any = "its own", enabled: bool = True
) -> tuple[Any, probe.session.session.Session]:
    """A network after some steps of SGD under a profile, and the session."""
    import torch

    torch.manual_seed(0)
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    chosen = net if model == "its own" else model
    with probe.profile(folder / "run", wait=1, warmup=1, active=2, model=chosen, enabled=enabled) as prof:
        if enabled:
            prof.quiet = True
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(8, 16)).square().mean().backward()
            optimizer.step()
            prof.step()
    return net, prof


def network() -> Any:
    import torch

    block = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU())
    return torch.nn.Sequential(torch.nn.Linear(16, 16), block)


def hooks(net: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


@NO_TORCH
def test_recordings_name_modules_and_change_nothing(tmp_path: Path) -> None:
    import torch

    plain, _ = trained(tmp_path, network, enabled=False)
    net, session = trained(tmp_path, network)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), net.parameters(), strict=True))
    assert hooks(net) == 0 and not session.warnings
    trace = probe.load(tmp_path / "run")
    assert set(places(trace).modules) == {"Sequential", "0", "1", "1.0", "1.1"}
    assert not any(name.startswith("probe.module:") for name in np.array(trace.names)[trace.host_ops.name])
    found = where(trace)
    assert found["aten::addmm"][0] in ("0", "1.0") and found["aten::gelu_backward"][0] == "1.1"
    assert found["aten::gelu"][0] == "1.1"
    analysis = probe.analyze(tmp_path / "run")
    assert {o.module for o in analysis.ops if o.name == "aten::gelu"} == {"1.1"}


@NO_TORCH
def test_a_module_that_raises_leaves_nothing_open(tmp_path: Path) -> None:
    import torch

    class Raises(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("as planned")

    class Catches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = Raises(), torch.nn.Linear(16, 16)

        def forward(self, x: Any) -> Any:
            with pytest.raises(ValueError, match="as planned"):
                self.bad(x)
            return self.good(x)

    net, session = trained(tmp_path, Catches)
    assert hooks(net) == 0 and not session.warnings
    assert where(probe.load(tmp_path / "run"))["aten::addmm"][0] == "good"


@NO_TORCH
def test_compiled_modules_are_left_alone(tmp_path: Path) -> None:
    import torch

    def compiled_inside() -> Any:
        net = network()
        net[1].compile(backend="eager")
        return net

    net, session = trained(tmp_path, compiled_inside)
    assert hooks(net) == 0 and not session.warnings
    assert set(places(probe.load(tmp_path / "run")).modules) == {"Sequential", "0"}
    assert isinstance(net[1], torch.nn.Sequential)


@NO_TORCH
def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    _, session = trained(tmp_path, network, model="a name")
    assert any("no torch.nn.Module" in warning for warning in session.warnings)
    assert len(probe.load(tmp_path / "run").steps) == 2


@pytest.fixture(autouse=True)
def without_compiled_code() -> Iterator[None]:
    """What one test compiled is no other's."""
    yield
    import sys

    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
