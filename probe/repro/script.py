"""The text of a standalone script that calls one operator on its recorded arguments: torch and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from probe.invocation.contents import content
from probe.invocation.schema import Argument, Invocation, ListArgument, TensorArgument, Value, invocation
from probe.report.text import printable
from probe.repro.ncu import WARM_UPS, ncu_command, rocprof_command
from probe.repro.recorded import RecordedCall
from probe.units import format_time

_HEAD = '''\
"""{title}

{about}

Usage: python {file} [--once] [--device cuda]
"""

import argparse
import statistics
import time

import torch
{imports}
DEVICE = "{device}"
RECORDED_S = {recorded!r}  # of one call in the trace{where}
WARM_UPS = {warm_ups}  # calls before anything counts
WINDOW_S = 2e-3  # a window is as many calls as take this long
WINDOWS, BUDGET_S = 50, 5.0
'''

_TENSOR = '''

def tensor(sizes, strides, dtype, fill, high=2, device=None):
    """Random values in the recorded layout; made on the host, so that no kernel but the operator's own runs."""
    count = 0 if 0 in sizes else 1 + sum((n - 1) * step for n, step in zip(sizes, strides))
    if fill == "integers":
        flat = torch.randint(0, high, (count,))
    elif fill == "positive":
        flat = torch.rand(count) + 0.5
    else:
        flat = torch.randn(count, dtype=torch.complex64 if dtype.is_complex else torch.float32)
    return flat.to(dtype).to(device or DEVICE).as_strided(sizes, strides)
'''

_CALL = '''

def arguments():
    """The recorded arguments: sizes, strides, types and numbers are the trace's, values are random."""
    torch.manual_seed(0)
    return (
{positional}    ), {keyword}


def operator(args, kwargs):
    return {target}(*args, **kwargs)
'''

_REST = '''

def wait():
    if DEVICE.startswith("cuda"):
        torch.cuda.synchronize()


def once():
    """Warm up, then call it once: what a profiler of kernels is pointed at."""
    args, kwargs = arguments()
    with torch.no_grad():
        for _ in range(WARM_UPS):
            operator(args, kwargs)
        wait()
        result = operator(args, kwargs)
        wait()
    return result


def window(args, kwargs, calls):
    """Seconds of one call, over `calls` of them: on the device by its events, else on the host's clock."""
    if DEVICE.startswith("cuda"):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            operator(args, kwargs)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    begin = time.perf_counter()
    for _ in range(calls):
        operator(args, kwargs)
    return (time.perf_counter() - begin) / calls


def measure():
    """Seconds of one call in each of many windows; the inputs are the same, and stay in caches that can hold them."""
    once()
    args, kwargs = arguments()
    with torch.no_grad():
        window(args, kwargs, WARM_UPS)
        calls = 1
        while calls < 1 << 20 and window(args, kwargs, calls) * calls < WINDOW_S:
            calls *= 2
        found, begin = [], time.perf_counter()
        while len(found) < WINDOWS and (len(found) < 3 or time.perf_counter() - begin < BUDGET_S):
            found.append(window(args, kwargs, calls))
    return found, calls


def main():
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="warm up and call it once, without timing: for profilers")
    parser.add_argument("--device", default=DEVICE, help="where to run it")
    options = parser.parse_args()
    DEVICE = options.device
    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("recorded on a GPU, and torch sees none here; --device cpu runs it on the host all the same")
    torch.set_flush_denormal(True)  # an operator in place would make its values ever smaller, and then slow
    if options.once:
        once()
        return
    found, calls = measure()
    low, high = min(found), max(found)
    print(f"{statistics.median(found) * 1e6:.2f} us a call: median of {len(found)} windows of {calls} calls, ", end="")
    print(f"{low * 1e6:.2f} to {high * 1e6:.2f}; {RECORDED_S * 1e6:.2f} in the trace")


if __name__ == "__main__":
    main()
'''


def script(call: RecordedCall, file: str = "repro.py") -> str:
    """The whole script; InputError where an argument that the call needs was not recorded."""
    found = invocation(call)
    head = _HEAD.format(
        title=f"{_safe(call.name)} alone, on the arguments recorded in {_safe(call.source)}.",
        about="\n".join(_about(call, found, file)),
        file=file,
        imports=_imports(call, found),
        device="cuda" if call.on_device else "cpu",
        recorded=float(f"{call.time_s:.4g}"),
        where=", on the device" if call.on_device else ", with all it calls",
        warm_ups=WARM_UPS,
    )
    return head + _TENSOR + _call(found) + _REST


def profiler_command(call: RecordedCall, file: str) -> str | None:
    """The command line that profiles exactly the kernels of one call; None on a CPU."""
    command = rocprof_command if call.device_kind == "rocm" else ncu_command
    return command(call.kernels, file) if call.on_device else None


def _about(call: RecordedCall, found: Invocation, file: str) -> Iterator[str]:
    yield f"Operator {call.index} of the report; {format_time(call.time_s)} a call there, on {_safe(call.device)}."
    yield "Random values stand for the recorded ones: the trace holds none. Indices are in range."
    yield from (f"Assumed: {said}." for said in found.assumed)
    command = profiler_command(call, shlex.quote(file))
    if command is None:
        yield "No kernels: it was recorded on a CPU." if not call.on_device else "It launched no kernel in the trace."
        return
    fractional = any(abs(k.calls - round(k.calls)) > 0.05 for k in call.kernels)
    yield ""
    yield "Its kernels, and no others" + (" (their number differs from call to call):" if fractional else ":")
    yield from (f"  {kernel.calls:g} × {_safe(kernel.name)[:100]}" for kernel in call.kernels)
    yield ""
    yield f"  {_safe(command)}"


def _safe(text: str) -> str:
    """Text that cannot end the docstring it stands in."""
    return printable(text).replace("\\", "\\\\").replace('"""', "'''")


def _imports(call: RecordedCall, found: Invocation) -> str:
    if found.registered:
        return ""
    return (
        f"\n# {_safe(call.name)} is a custom operator that the torch at hand does not know: import what defines it.\n"
        "# Its arguments below are as recorded, in order; None stands for what the profiler does not record.\n"
    )


def _call(found: Invocation) -> str:
    positional = "".join(f"        {_value(found, a)},{_comment(a)}\n" for a in found.arguments if not a.keyword_only)
    named = "".join(f"        {a.name!r}: {_value(found, a)},\n" for a in found.arguments if a.keyword_only)
    keyword = f"{{\n{named}    }}" if named else "{}"
    return _CALL.format(positional=positional, keyword=keyword, target=found.text)


def _comment(argument: Argument) -> str:
    return f"  # {argument.name}" if argument.name else ""


def _value(found: Invocation, argument: Argument) -> str:
    value: Value = argument.value
    if isinstance(value, TensorArgument):
        return _tensor(found, argument, value)
    if isinstance(value, ListArgument):
        each = (
            "None" if one is None else _tensor(found, argument, one, place) for place, one in enumerate(value.tensors)
        )
        return f"[{', '.join(each)}]"
    return value.text


def _tensor(found: Invocation, argument: Argument, tensor: TensorArgument, place: int = 0) -> str:
    filled = content(found, argument, tensor, place)
    strides = tensor.strides if tensor.strides is not None else dense(tensor.dims)
    more = f", {filled.high}" if filled.fill == "integers" else ""
    more += ', device="cpu"' if tensor.on_host else ""
    return f'tensor({tensor.dims}, {strides}, torch.{tensor.dtype}, "{filled.fill}"{more})'


def dense(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    strides: list[int] = []
    step = 1
    for size in reversed(sizes):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
