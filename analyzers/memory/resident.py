"""What was there before the recording and stays: parameters, gradients that are kept, the optimizer's state?

Known exactly where the tensors of a step were recorded: storages that are read before anything writes them. Otherwise
the parameters are as large as the gradients that the backward pass adds up, and the optimizer's state is a multiple of
them that follows from its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES
from probe.analyzers.memory.phases import OPTIMIZER, ZERO_GRAD, Phases, is_backward, named_ranges
from probe.intervals import covers
from probe.results.memory_use import Category
from probe.tensors import Tensors, TensorUses
from probe.trace import Int64s, Mask, Trace

ZEROING = ("aten::zero_", "aten::_foreach_zero_")
ACCUMULATES = "torch::autograd::AccumulateGrad"
# States of a parameter's size per parameter (torch.optim, torch 2.13; amsgrad and centred variants have one more).
STATES = {
    "adam": 2, "adamw": 2, "nadam": 2, "radam": 2, "adamax": 2, "adadelta": 2, "sparseadam": 2, "lamb": 2,
    "rmsprop": 1, "adagrad": 1, "lion": 1, "muon": 1, "rprop": 2, "asgd": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Resident:
    """Bytes by category that are there throughout; `parameters`: the sizes of single ones, in bytes."""

    bytes: dict[Category, int] = field(default_factory=dict)
    parameters: tuple[int, ...] = ()
    exact: bool = False
    notes: tuple[str, ...] = ()


def recorded_residents(trace: Trace, tensors: Tensors, window: tuple[int, int]) -> dict[int, Resident]:
    """What a step that recorded its tensors found on each device, -1 for the host.

    window: [start, end) of that step, in which its operators lie.
    """
    uses = tensors.uses
    starts = trace.host_ops.start_ns[uses.op]
    uses = uses.where((starts >= window[0]) & (starts < window[1]))
    uses = uses.where(np.lexsort((uses.is_output, trace.host_ops.start_ns[uses.op])))
    number = np.array([_number(name) for name in tensors.devices], np.int64)[uses.device]
    return {device: _recorded(trace, uses.where(number == device)) for device in np.unique(number).tolist()}


def _recorded(trace: Trace, uses: TensorUses) -> Resident:
    """What the uses of one device's tensors, in order of time, tell to have been there before the first of them."""
    storage, first, which = np.unique(uses.storage, return_index=True, return_inverse=True)
    sizes = np.zeros(len(storage), np.int64)
    whole = _not_made_here(uses)  # a view that is made in the step may be expanded, to more elements than there are
    reach = (uses.offset + uses.elements) * uses.element_bytes
    np.maximum.at(sizes, which.reshape(-1)[whole], reach[whole])
    there = ~uses.is_output[first]
    gradients = reach[_named(trace, uses, (ACCUMULATES,))]
    roles = _roles(trace, uses, which.reshape(-1), len(storage), np.isin(sizes, gradients) if len(gradients) else None)
    held: dict[Category, int] = {role: int(sizes[there & rows].sum()) for role, rows in roles}
    parameters = next((sizes[there & rows] for role, rows in roles if role == "parameters"), sizes[:0])
    return Resident(held, tuple(parameters.tolist()), exact=True)


def _not_made_here(uses: TensorUses) -> Mask:
    """Which uses are of tensors that an operator reads before any returns them; uses are in order of time."""
    _, first, which = np.unique(uses.tensor, return_index=True, return_inverse=True)
    read: Mask = ~uses.is_output[first][which.reshape(-1)]
    return read


def _number(device: str) -> int:
    """The number of a device as its name in an execution trace tells it: "cuda:0"; -1 for the host."""
    kind, _, number = device.partition(":")
    return -1 if kind == "cpu" else int(number or 0)


def _roles(
    trace: Trace, uses: TensorUses, storage: Int64s, count: int, of_gradients: Mask | None
) -> list[tuple[Category, Mask]]:
    """Which storages an optimizer updates and the forward pass reads, and so on, [storages] each.

    of_gradients: which are as large as a gradient, where there are any; it counts where no optimizer tells.
    """
    start = trace.host_ops.start_ns[uses.op]
    backward = trace.host_ops.start_ns[is_backward(trace)]
    window = start[0] if len(start) else 0, start[-1] if len(start) else 0
    backward = backward[(backward >= window[0]) & (backward <= window[1])]
    update = covers(named_ranges(trace, OPTIMIZER), start)
    zeroing = covers(named_ranges(trace, ZERO_GRAD), start) | _named(trace, uses, ZEROING)
    forward = start < (backward.min() if len(backward) else np.iinfo(np.int64).max)
    read, updated = (_any(rows, storage, count) for rows in (forward & ~update & ~zeroing, update))
    if not update.any():
        like = read if of_gradients is None else read & of_gradients
        return [("parameters", like), ("other", ~like)]
    after = _any(~forward & ~update, storage, count)
    return [
        ("parameters", updated & read),
        ("gradients", updated & ~read & after),
        ("optimizer", updated & ~read & ~after),
        ("other", ~updated),
    ]


def _any(rows: Mask, storage: Int64s, count: int) -> Mask:
    """Which storages have one of the given uses."""
    found = np.zeros(count, bool)
    found[storage[rows]] = True
    return found


def _named(trace: Trace, uses: TensorUses, names: Sequence[str]) -> Mask:
    wanted: Mask = trace.named(lambda name: name in names)[trace.host_ops.name[uses.op]]
    return wanted


def assumed_resident(trace: Trace, pieces: Phases) -> Resident:
    """What the sizes of the gradients tell: parameters of the same sizes, and the optimizer's state."""
    parameters = tuple(_gradient_sizes(trace, pieces))
    if not parameters:
        return Resident()
    held: dict[Category, int] = {"parameters": sum(parameters)}
    notes = ["parameters are taken to be as large as the gradients of a step"]
    kinds = {_kind(name) for name in trace.names if name.startswith(OPTIMIZER)}
    known = [STATES[kind] for kind in kinds if kind in STATES]
    if known:
        held["optimizer"] = max(known) * held["parameters"]
        notes.append(f"the optimizer's state is taken to be {max(known)} times the parameters, as torch's own has it")
    return Resident(held, parameters, notes=tuple(notes))


def _kind(name: str) -> str:
    """The optimizer in "Optimizer.step#AdamW.step", in small letters."""
    return name.removeprefix(OPTIMIZER).partition(".")[0].lower()


def _gradient_sizes(trace: Trace, pieces: Phases) -> Iterator[int]:
    """Bytes of each gradient that the first backward pass adds up."""
    ops = trace.host_ops
    rows = np.flatnonzero(trace.named(lambda name: name == ACCUMULATES)[ops.name])
    piece = pieces.at(ops.start_ns[rows])
    inside = pieces.step[piece] >= 0
    for row in rows[inside & (piece == piece[inside].min(initial=len(pieces.kind)))].tolist():
        signature = trace.signatures[ops.signature[row]] if ops.signature[row] >= 0 else None
        element = ELEMENT_TYPES.get(signature.dtypes[0]) if signature and signature.dtypes else None
        if signature and element:
            yield prod(signature.dims[0]) * element.itemsize


def fitted(held: Resident, total_bytes: int) -> Resident:
    """`held` made to add up to what is known to be there: too much is cut from the end, what is missing is other."""
    left, fit = max(total_bytes, 0), dict[Category, int]()
    for category, size in held.bytes.items():
        fit[category] = min(size, left)
        left -= fit[category]
    if left and not held.bytes:
        note = "what was there before the recording and stayed counts as parameters"
        return replace(held, bytes={"parameters": left}, notes=(*held.notes, note))
    return replace(held, bytes=fit | {"other": fit.get("other", 0) + left})
