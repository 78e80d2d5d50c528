"""Is each kind of call timed as what it is, and is the compiled one only where there is time for it?"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from probe.errors import UnavailableError
from probe.machine.device import Device
from probe.microbench import compiled_code, launch
from probe.microbench.suite import Context


class FakeTimer:
    """Calls once, and says that each call took a microsecond; the clock runs on by that."""

    def __init__(self) -> None:
        self.now = 0.0

    def window(self, call: Callable[[], object], calls: int) -> float:
        call()
        self.now += calls * 1e-6
        return calls * 1e-6


def _run(budget_s: float = 0.2, **more: Any) -> tuple[dict[str, Any], Context, FakeTimer]:
    timer = FakeTimer()
    context = Context(Device("cpu", "x", cores=2), budget_s, clock=lambda: timer.now, **more)
    return {m.params["operator"]: m for m in launch.run(context, timer)}, context, timer


def test_times_are_for_one_operator() -> None:
    found, _, timer = _run()

    assert found[launch.CEILING].value == pytest.approx(1e-6)
    assert found[launch.FORWARD_BACKWARD].value == pytest.approx(1e-6 / launch.CHAIN)
    assert found[launch.FORWARD_BACKWARD].params["in_a_row"] == launch.CHAIN
    assert {launch.RECORDED, launch.PYTHON, launch.THREE_ARGUMENTS, launch.MODULE, "add_"} < set(found)
    assert {(m.metric, m.unit) for m in found.values()} == {("time", "s")}
    assert timer.now < 0.5


def test_calls_are_what_their_names_say() -> None:
    calls = launch.calls("cpu")
    plain, recorded, gradients = (calls[name]() for name in (launch.CEILING, launch.RECORDED, launch.FORWARD_BACKWARD))
    assert isinstance(plain, torch.Tensor)
    assert isinstance(recorded, torch.Tensor)
    assert isinstance(gradients, tuple)

    assert not plain.requires_grad
    assert recorded.requires_grad
    assert gradients[0].item() == 1.0
    assert calls[launch.PYTHON]() is None
    assert isinstance(calls[launch.MODULE](), torch.Tensor)


def test_the_chain_has_as_many_operators_as_it_says() -> None:
    weight, factor = torch.ones(1, requires_grad=True), torch.full((1,), 2.0)

    assert launch.forward_backward(weight, factor)[0].item() == 2.0**launch.CHAIN


def test_the_compiled_call_is_there_in_full_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "compiled", lambda function, *arguments: function)

    assert launch.COMPILED in _run(compiled_code.WORTH_S)[0]
    assert launch.COMPILED not in _run(compiled_code.WORTH_S, quick=True)[0]
    assert launch.COMPILED not in _run(compiled_code.WORTH_S / 2)[0]


def test_without_a_compiler_there_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: object, *arguments: object) -> None:
        raise UnavailableError("no compiler")

    monkeypatch.setattr(launch, "compiled", refuse)
    found, context, _ = _run(compiled_code.WORTH_S)

    assert launch.COMPILED not in found
    assert launch.CEILING in found
    assert context.warnings == ["launch: no compiled call: no compiler"]


def test_a_deadline_ends_what_takes_too_long() -> None:
    with pytest.raises(compiled_code._TooLong), compiled_code.deadline(0.01):
        while True:
            time.sleep(10)
