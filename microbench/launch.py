"""What does it cost to dispatch one eager PyTorch operator, whatever it computes?

Method: operators on one element, called in a row from Python; what remains is Python, dispatcher and allocator (and,
on a CUDA device, the launch: time between events over back-to-back kernels). An empty Python call beside it shows how
much of that is Python's. The ceiling is `add` with a new result: what one operator of a model costs at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from probe.measurement import Measurement
from probe.microbench.harness import Effort, Variant, measure, repeats_for
from probe.microbench.suite import Context, time_measurement
from probe.microbench.timers import HostTimer, Timer, timer_for, torch_device

NAME = "launch"
CEILING = "add"


def run(context: Context, timer: Timer | None = None) -> Iterator[Measurement]:
    """One measurement an operator, metric `time`, in seconds a call."""
    device_timer = timer or timer_for(context)
    variants = []
    for name, call in calls(torch_device(context)).items():
        used = HostTimer() if name == "python call" and timer is None else device_timer
        variants.append(_variant(name, call, used))
    context.report(0.0)
    for timing in measure(variants, Effort(context.budget_s), context.clock):
        params = {"operator": timing.name, "elements": 1}
        yield time_measurement(NAME, f"launch {timing.name}", "time", timing, params)
    context.report(1.0)


def _variant(name: str, call: Callable[[], object], timer: Timer) -> Variant:
    count = repeats_for(lambda n: timer.window(call, n))
    return Variant(name, lambda: timer.window(call, count), count)


def calls(where: str) -> dict[str, Callable[[], object]]:
    """The calls that are timed: an operator with a new result, one in place, and nothing at all."""
    import torch

    a, b = torch.ones(1, device=where), torch.ones(1, device=where)
    return {CEILING: lambda: torch.add(a, b), "add_": lambda: a.add_(b), "python call": lambda: None}
