"""What reading any file keeps to: a consistent trace or one line that says what is wrong, whatever the bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from probe.errors import InputError, ProbeError
from probe.readers import kineto
from probe.readers.narrow import Selection, narrow
from probe.trace import Trace

TABLES = ("host_ops", "runtime_calls", "kernels", "copies", "annotations", "collectives", "steps")
_EVENTS = TABLES[:5]


def read_or_refuse(path: Path, selection: Selection | None = None) -> Trace | ProbeError:
    """The trace, or the error: one line that names the file."""
    try:
        return kineto.read(path, selection)
    except ProbeError as error:
        check_error(error, path)
        return error


def check_error(error: ProbeError, path: Path) -> None:
    """A message is one line that can be printed and names the file."""
    message = str(error)
    assert message.isprintable() and str(path) in message and len(message) < 1000 + len(str(path)), message
    message.encode()


def check(trace: Trace) -> None:
    """The trace is consistent in itself, and its warnings count what was dropped."""
    trace.check()
    quality = trace.quality
    assert 0 <= quality.dropped < quality.events
    assert sum(len(getattr(trace, name)) for name in _EVENTS) <= quality.events - quality.dropped
    assert not quality.dropped or any(f"{quality.dropped} of {quality.events}" in w for w in trace.warnings)
    assert not quality.truncated or any("the file is cut" in w for w in trace.warnings)
    json.dumps(trace.to_json(), allow_nan=False)
    written = repr((trace.names, trace.signatures, trace.threads, trace.collective_calls, trace.device, trace.warnings))
    written.encode()
    "".join(trace.names).encode()
    for name in _EVENTS:
        _check_indices(trace, getattr(trace, name))


def _check_indices(trace: Trace, table: Any) -> None:
    numbered = {"name": trace.names, "thread": trace.threads, "signature": trace.signatures, "op": trace.host_ops}
    for column, known in numbered.items():
        index = getattr(table, column, np.empty(0))
        assert ((index >= -1) & (index < len(known))).all(), column
    assert (table.start_ns >= 0).all() and (table.end_ns >= table.start_ns).all()


def content(trace: Trace) -> dict[str, Any]:
    """All tables, with what numbers refer to in their place; the order of threads, and so of rows, says nothing."""
    return {
        "rows": {name: sorted(_rows(trace, getattr(trace, name)), key=repr) for name in TABLES},
        "start": trace.start_unix_ns,
        "rank": (trace.rank, trace.world_size),
        "device": trace.device,
    }


def _rows(trace: Trace, table: Any) -> list[tuple[Any, ...]]:
    ops, calls, kernels = (_identities(trace, t) for t in (trace.host_ops, trace.runtime_calls, trace.kernels))
    texts: dict[str, Any] = {
        "name": trace.names, "thread": trace.threads, "signature": trace.signatures, "parent": ops, "op": ops,
        "launch_shape": trace.launch_shapes, "call": trace.collective_calls, "launch": calls, "kernel": kernels,
    }  # fmt: skip
    columns = [
        [texts[name][i] if i >= 0 else None for i in column.tolist()] if name in texts else column.tolist()
        for name, column in table.columns()
    ]
    return list(zip(*columns, strict=True))


def _identities(trace: Trace, table: Any) -> list[tuple[str, int, int]]:
    """What tells a row from another: its name, start and end."""
    named = [trace.names[number] for number in table.name.tolist()]
    return list(zip(named, table.start_ns.tolist(), table.end_ns.tolist(), strict=True))


def whole(trace: Trace) -> dict[str, Any]:
    """The same with what the trace says of its quality."""
    return {**content(trace), "quality": trace.quality, "warnings": trace.warnings}


def selections(trace: Trace) -> list[Selection]:
    """Some parts to ask for: the steps at either end, a window in the middle."""
    numbers = sorted(trace.steps.number.tolist())
    start, end = trace.span_ns
    third = (end - start) // 3
    found = [Selection(window_ns=(start + third, start + 2 * third)), Selection(window_ns=(start, start + 1))]
    if numbers:
        found += [Selection(steps=(numbers[0], numbers[0])), Selection(steps=(numbers[0], numbers[-1]))]
        found += [Selection(steps=(numbers[-1] + 1, numbers[-1] + 1))]
    return found


def check_narrowed(path: Path, trace: Trace) -> None:
    """Reading a part gives the same rows as reading everything and taking the part."""
    for selection in selections(trace):
        part = read_or_refuse(path, selection)
        try:
            wanted = narrow(trace, selection)
        except InputError as error:
            assert isinstance(part, InputError), f"{selection}: {error}"
            continue
        assert isinstance(part, Trace), f"{selection}: {part}"
        assert content(part)["rows"] == content(wanted)["rows"], selection
        assert part.start_unix_ns == wanted.start_unix_ns, selection
