"""The arguments of Kineto events as JSON text, written once for each distinct signature, launch shape or collective."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from probe.export import kineto_keys as keys
from probe.trace import CollectiveCall, Int32s, Int64s, LaunchShape, Signature, Trace

Fields = list[str]  # one text a row: '"key":value', several joined by commas, or "" for nothing


def fields(known: Mapping[str, Any]) -> str:
    """The entries of an object that are not None, without its braces."""
    return json.dumps({k: v for k, v in known.items() if v is not None}, separators=(",", ":"))[1:-1]


def numbers(key: str, column: Int32s | Int64s, shift: int = 0) -> Fields:
    """The column as fields; nothing where it is -1. `shift` makes the numbers of several traces distinct."""
    prefix = f'"{key}":'
    return [f"{prefix}{v + shift}" if v != -1 else "" for v in column.tolist()]


def picked(texts: list[str], column: Int32s) -> Fields:
    """The text that each row refers to by number, nothing for -1."""
    return [texts[i] if i >= 0 else "" for i in column.tolist()]


def signature(arguments: Signature) -> str:
    """The recorded arguments of an operator call."""
    made = arguments.kernel
    generated = {} if made is None else {
        keys.GENERATED_BY: made.backend,
        keys.GENERATED_HASH: made.hash,
        keys.GENERATED_FILE: made.file,
        keys.GRID: made.grid,
        keys.GENERATED_WARPS: made.warps,
        keys.GENERATED_STAGES: made.stages,
    }  # fmt: skip
    return fields({
        keys.DIMS: arguments.dims,
        keys.DTYPES: arguments.dtypes,
        keys.STRIDES: arguments.strides or None,
        keys.SCALARS: arguments.scalars or None,
        **generated,
    })  # fmt: skip


def launch_shape(shape: LaunchShape) -> str:
    """Grid and resources of a launch."""
    return fields({
        keys.GRID: shape.grid,
        keys.BLOCK: shape.block,
        keys.REGISTERS: shape.registers_per_thread,
        keys.SHARED_BYTES: shape.shared_bytes,
        keys.OCCUPANCY_PERCENT: _percent(shape.theoretical_occupancy_fraction),
    })  # fmt: skip


def _percent(fraction: float | None) -> float | None:
    """The percentage from which a reader gets this fraction: a whole one where it was one, as Kineto writes it."""
    if fraction is None:
        return None
    whole = round(fraction * 100)
    near = (whole, fraction * 100, np.nextafter(fraction * 100, 0), np.nextafter(fraction * 100, 200))
    return next((p if isinstance(p, int) else float(p) for p in near if p / 100 == fraction), fraction * 100)


def collective(call: CollectiveCall) -> str:
    """What was exchanged among whom."""
    peer = keys.SOURCE_RANK if "recv" in call.kind.lower() else keys.TARGET_RANK
    return fields({
        keys.COLLECTIVE: call.kind,
        keys.COLLECTIVE_DTYPE: call.dtype,
        keys.IN_ELEMENTS: call.in_elements,
        keys.OUT_ELEMENTS: call.out_elements,
        keys.GROUP: call.group,
        keys.GROUP_SIZE: call.group_size,
        keys.GROUP_RANKS: None if call.group_ranks is None else json.dumps(call.group_ranks),
        peer: call.peer,
    })  # fmt: skip


class Arguments:
    """The texts of one trace, each made once."""

    def __init__(self, trace: Trace) -> None:
        self.signatures = [signature(s) for s in trace.signatures]
        self.launch_shapes = [launch_shape(s) for s in trace.launch_shapes]
        calls = [collective(c) for c in trace.collective_calls]
        self._of_op: dict[int, str] = {}
        self._of_kernel: dict[int, str] = {}
        table = trace.collectives
        columns = (table.call.tolist(), table.op.tolist(), table.kernel.tolist(), table.sequence.tolist())
        for call, op, kernel, number in zip(*columns, strict=True):
            text = calls[call] + (f",{fields({keys.COLLECTIVE_SEQUENCE: number})}" if number != -1 else "")
            if kernel >= 0:  # readers find the operator from there
                self._of_kernel[kernel] = text
            else:
                self._of_op[op] = text

    def of_ops(self, rows: Int64s) -> Fields:
        """The collectives that these operators ask for."""
        return _looked_up(self._of_op.get, rows)

    def of_kernels(self, rows: Int64s) -> Fields:
        """The collectives that these kernels run."""
        return _looked_up(self._of_kernel.get, rows)


def _looked_up(get: Callable[[int, str], str], rows: Int64s) -> Fields:
    return [get(row, "") for row in rows.tolist()]
