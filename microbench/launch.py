"""What does it cost to dispatch one eager PyTorch operator, whatever it computes?

Method: operators on one element, called in a row from Python; what remains is Python, dispatcher and allocator (and,
on a CUDA device, the launch: time between events over back-to-back kernels). The ceiling is `add` with a new result:
what one operator of a model costs at least. Beside it the same operator recorded by autograd, `mul` with its
backward (a chain of them, so that starting the autograd engine is shared), a compiled function of one operator (guards
and call), and what Python itself costs: an empty function, one of three arguments, a module that hands back its input.
Every call is made by an empty function around it, and its time contains that. Of a GPU's operators the host's share is
given too: the time `add` keeps the host busy, whatever the device does (`params.clock` says whose clock it is).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from probe.errors import UnavailableError
from probe.microbench.compiled_code import compiled, worth_compiling
from probe.microbench.harness import WINDOW_S, Effort, Variant, measure, repeats_for
from probe.microbench.suite import Context, time_measurement
from probe.microbench.timers import EnqueueTimer, HostTimer, Timer, timer_for, torch_device
from probe.results.measurement import Measurement

NAME = "launch"
CEILING = "add"
RECORDED, FORWARD_BACKWARD, COMPILED = "add recorded", "mul forward+backward", "compiled add"
PYTHON, THREE_ARGUMENTS, MODULE = "python call", "python call, 3 arguments", "module call"
ON_HOST = (PYTHON, THREE_ARGUMENTS, MODULE)  # whatever the device
ENQUEUED = "add, host alone"  # on a GPU
CUDA_WINDOW_S = 2e-3  # the first operator of a window reaches a GPU some microseconds after the window began
CHAIN = 32  # operators between two starts of the autograd engine
Call = Callable[[], object]


def run(context: Context, timer: Timer | None = None) -> Iterator[Measurement]:
    """One measurement an operator or kind of call, metric `time`, in seconds for one."""
    timed_calls = calls(torch_device(context))
    if worth_compiling(context):
        _add_compiled(context, timed_calls)
    variants = [_variant(context, name, call, _timer(context, name, timer)) for name, call in timed_calls.items()]
    context.report(0.0)
    for timing in measure(variants, Effort(context.budget_s), context.clock):
        params = {"operator": timing.name, "elements": 1, "in_a_row": in_a_row(timing.name)}
        if context.index is not None:
            params["clock"] = "host" if timing.name in (*ON_HOST, ENQUEUED) else "device"
        yield time_measurement(NAME, f"launch {timing.name}", "time", timing, params)
    context.report(1.0)


def _timer(context: Context, name: str, given: Timer | None) -> Timer:
    """Whose clock times a call; `given` where a test gives one."""
    if given is not None:
        return given
    if name == ENQUEUED and context.index is not None:
        return EnqueueTimer(context.index)
    return HostTimer() if name in ON_HOST else timer_for(context)


def in_a_row(name: str) -> int:
    """How many operators one call contains; the time is that of one."""
    return CHAIN if name == FORWARD_BACKWARD else 1


def _variant(context: Context, name: str, call: Call, timer: Timer) -> Variant:
    window_s = WINDOW_S
    if context.index is not None:
        timer.window(call, 1)  # the first loads the kernel, which may take longer than many windows
        window_s = CUDA_WINDOW_S
    count = repeats_for(lambda n: timer.window(call, n), window_s)
    return Variant(name, lambda: timer.window(call, count), count * in_a_row(name))


def calls(where: str) -> dict[str, Call]:
    """The calls that are timed on torch device `where`, by name; all but the compiled one."""
    import torch

    a, b = torch.ones(1, device=where), torch.ones(1, device=where)
    weight = torch.ones(1, device=where, requires_grad=True)
    module = torch.nn.Identity()
    on_gpu = {} if where == "cpu" else {ENQUEUED: lambda: torch.add(a, b)}
    return {
        CEILING: lambda: torch.add(a, b),
        "add_": lambda: a.add_(b),
        RECORDED: lambda: torch.add(weight, b),
        FORWARD_BACKWARD: lambda: forward_backward(weight, b),
        PYTHON: lambda: None,
        THREE_ARGUMENTS: lambda: _three_arguments(1, 2, 3),
        MODULE: lambda: module(a),
        **on_gpu,
    }


def forward_backward(weight: Any, factor: Any) -> Any:
    """The gradient of `weight` times `factor` to the power of the chain's length, operator by operator."""
    import torch

    result = weight
    for _ in range(CHAIN):
        result = torch.mul(result, factor)
    return torch.autograd.grad(result, weight)


def _three_arguments(first: object, second: object, third: object) -> None:
    """Nothing."""


def _add_compiled(context: Context, timed_calls: dict[str, Call]) -> None:
    """The compiled call among the others, or a warning why not."""
    import torch

    a, b = torch.ones(1), torch.ones(1)
    try:
        add = compiled(lambda x, y: x + y, a, b)
    except UnavailableError as reason:
        context.warnings.append(f"launch: no compiled call: {reason}")
    else:
        timed_calls[COMPILED] = lambda: add(a, b)
