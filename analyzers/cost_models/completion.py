"""What do other calls of a trace tell about a call whose own arguments do not determine its cost?

Every answer names its source, which the cost repeats as its assumption; where calls contradict each other there is
no answer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from probe.analyzers.cost_models.call import NO_HINTS, Hints, at, is_nested
from probe.analyzers.cost_models.dtypes import COLLECTIVE_TYPES, names_tensor
from probe.analyzers.cost_models.fbgemm import is_lookup, is_lookup_backward, pools_to
from probe.trace import Dims, Int32s, Mask, Signature, Trace

LEAF = "torch::autograd::AccumulateGrad"  # its argument is the gradient of a parameter

# Backward operators that show a forward's result: positions of the input, the weight, the result's gradient.
_SHOWS: dict[str, tuple[int, int | None, int]] = {
    "aten::convolution_backward": (1, 2, 0),
    "aten::cudnn_convolution_backward": (0, 2, 1),
    "aten::miopen_convolution_backward": (0, 2, 1),
    "aten::mkldnn_convolution_backward": (0, 2, 1),
    "aten::max_pool2d_with_indices_backward": (1, None, 0),
    "aten::avg_pool2d_backward": (1, None, 0),
}
_CONVOLUTION_PART = re.compile(r"aten::(cudnn|miopen)_convolution_backward_(input|weight)")
_NODE = re.compile(r"([A-Za-z_]\w*?)Backward\d*")
Key: TypeAlias = tuple[bool, Dims, Dims]  # whether a convolution, sizes of input and weight


@dataclass(frozen=True, eq=False)
class Calls:
    """The calls of a trace, numbered by operator and arguments: the group of each row of Trace.host_ops."""

    trace: Trace
    of_op: Int32s
    name: Sequence[str]
    signature: Sequence[Signature | None]


def group_hints(calls: Calls) -> list[Hints]:
    """What is known about all calls of a group, [groups]."""
    results = _results(calls)
    everywhere, parameters = _types_by_size(calls)
    payloads = _payload_types(calls)
    found = []
    for group, (name, signature) in enumerate(zip(calls.name, calls.signature, strict=True)):
        hint = NO_HINTS
        if signature is not None:
            hint = _result_hint(name, signature, results)
            if any(is_nested(d) for d in signature.dims):
                hint = _list_hint(hint, signature, payloads.get(group), parameters, everywhere)
        found.append(hint)
    return found


def _results(calls: Calls) -> dict[Key, set[Dims]]:
    """Sizes of results by sizes of input and weight, as the backward operators show them."""
    shown: dict[Key, set[Dims]] = defaultdict(set)
    for name, signature in zip(calls.name, calls.signature, strict=True):
        places = _SHOWS.get(name)
        if places is None or signature is None or len(signature.dims) <= max(p or 0 for p in places):
            continue
        x, w, grad = places
        shown[_key(signature, x, w)].add(signature.dims[grad])
    return shown


def _key(signature: Signature, x: int, w: int | None) -> Key:
    return (w is not None, signature.dims[x], signature.dims[w] if w is not None else ())


def _result_hint(name: str, signature: Signature, results: Mapping[Key, set[Dims]]) -> Hints:
    """The result of a forward convolution or pool whose scalars were not recorded."""
    if signature.scalars or not ("conv" in name or "pool" in name) or "backward" in name:
        return NO_HINTS
    convolution = "conv" in name
    if len(signature.dims) < 2:
        return NO_HINTS
    known = results.get(_key(signature, 0, 1 if convolution else None), set())
    if len(known) != 1:
        return NO_HINTS
    return Hints(output=next(iter(known)), source="result as large as the gradient in its backward")


def _list_hint(
    hint: Hints, signature: Signature, payload: str | None,
    parameters: Mapping[Dims, set[str]], everywhere: Mapping[Dims, set[str]],
) -> Hints:  # fmt: skip
    """The element type of a list of tensors."""
    sizes = {d for dims in signature.dims if is_nested(dims) for d in dims if d}
    if payload is not None:
        return replace(hint, element=payload, source="element type as the collective's record says")
    for types, source in (
        (parameters, "element type of the parameters' gradients"),
        (everywhere, "element type of all tensors of these sizes in the trace"),
    ):
        element = _agreed(types, sizes)
        if element is not None:
            return replace(hint, element=element, source=source)
    return hint


def _agreed(types: Mapping[Dims, set[str]], sizes: Iterable[Dims]) -> str | None:
    """The one type that tensors of all these sizes have."""
    found = [types.get(size, set()) for size in sizes]
    together = set().union(*found)
    return next(iter(together)) if len(together) == 1 and all(found) else None


def _types_by_size(calls: Calls) -> tuple[dict[Dims, set[str]], dict[Dims, set[str]]]:
    """Element types of tensors by their sizes: of all tensors, and of gradients of parameters."""
    everywhere: dict[Dims, set[str]] = defaultdict(set)
    parameters: dict[Dims, set[str]] = defaultdict(set)
    for name, signature in zip(calls.name, calls.signature, strict=True):
        for dims, dtype in _shaped(signature):
            everywhere[dims].add(dtype)
            if name == LEAF:
                parameters[dims].add(dtype)
    return everywhere, parameters


def _shaped(signature: Signature | None) -> Iterator[tuple[Dims, str]]:
    """Sizes and type of the tensors with dimensions among the arguments."""
    if signature is None:
        return
    for dims, dtype in zip(signature.dims, signature.dtypes, strict=False):
        if dims and isinstance(dtype, str) and names_tensor(dtype) and not is_nested(dims):
            yield dims, dtype


def _payload_types(calls: Calls) -> dict[int, str]:
    """Element type per group of operators that the trace describes as collectives."""
    found: dict[int, set[str]] = defaultdict(set)
    told = calls.trace.collectives
    elements = [COLLECTIVE_TYPES.get(call.dtype or "") for call in calls.trace.collective_calls]
    for call, op in set(zip(told.call.tolist(), told.op.tolist(), strict=True)):
        element, row = elements[call], op
        while element is not None and row >= 0:
            found[int(calls.of_op[row])].add(element)
            row = int(calls.trace.host_ops.parent[row])
    return {group: next(iter(types)) for group, types in found.items() if len(types) == 1}


def row_hints(calls: Calls, wanted: Mask) -> Iterator[tuple[int, Hints]]:
    """For rows of the groups that still want a cost, what the call above or the matching backward tells."""
    if not len(calls.of_op) or not wanted.any():
        return
    rows = np.flatnonzero(wanted[calls.of_op])
    nodes, pairs = _backward_nodes(calls), _paired_lookups(calls)
    sequence = calls.trace.host_ops.sequence
    parts = [bool(_CONVOLUTION_PART.fullmatch(name)) for name in calls.name]
    results: dict[tuple[int, int | None], Hints | None] = {}
    for row, group, number in zip(rows.tolist(), calls.of_op[rows].tolist(), sequence[rows].tolist(), strict=True):
        hint: Hints | None
        if parts[group]:
            hint = _above(calls, row)
        elif row in pairs:
            hint = pairs[row]
        else:
            pair = (group, nodes.get(number))
            if pair not in results:
                results[pair] = _result_of(calls, *pair)
            hint = results[pair]
        if hint is not None:
            yield row, hint


def _above(calls: Calls, row: int) -> Hints | None:
    """The arguments of the convolution_backward that called this part of it."""
    parent = int(calls.trace.host_ops.parent[row])
    if parent < 0 or not calls.name[calls.of_op[parent]].endswith("_convolution_backward"):
        return None
    partner = calls.signature[calls.of_op[parent]]
    return Hints(partner=partner, source="sizes of the call above")


def _paired_lookups(calls: Calls) -> dict[int, Hints]:
    """Lookups in tables and their backward nodes; autograd runs the last lookup's first.

    Their operators carry no common number: a node takes the last lookup before it that has as many samples.
    """
    ops = calls.trace.host_ops
    family = np.array([is_lookup(n) or is_lookup_backward(n) for n in calls.name], np.bool_)
    rows = np.flatnonzero(family[calls.of_op])
    waiting: list[int] = []
    found: dict[int, Hints] = {}
    for row in rows[np.argsort(ops.start_ns[rows], kind="stable")].tolist():
        signature = calls.signature[calls.of_op[row]]
        if signature is None:
            continue
        if is_lookup(calls.name[calls.of_op[row]]):
            waiting.append(row)
            continue
        forward = _last_matching(calls, waiting, signature)
        if forward is not None:
            waiting.remove(forward)
            found[row] = Hints(partner=calls.signature[calls.of_op[forward]], source="indices of the lookup before it")
            found[forward] = Hints(output=at(signature.dims, 0, ()), source="width of the gradient in its backward")
    return found


def _last_matching(calls: Calls, waiting: Sequence[int], backward: Signature) -> int | None:
    """The last of the waiting lookups whose result is as large as the gradient."""
    for row in reversed(waiting):
        signature = calls.signature[calls.of_op[row]]
        if signature is not None and pools_to(signature, at(backward.dims, 0, ())):
            return row
    return None


def _backward_nodes(calls: Calls) -> dict[int, int]:
    """The groups of the nodes of the backward pass that have arguments, by sequence number."""
    numbers = calls.trace.host_ops.sequence
    nodes = [s is not None and bool(_forward_name(n)) for n, s in zip(calls.name, calls.signature, strict=True)]
    rows = np.flatnonzero(np.array(nodes, np.bool_)[calls.of_op] & (numbers >= 0))
    return dict(zip(numbers[rows].tolist(), calls.of_op[rows].tolist(), strict=True))


def _forward_name(node: str) -> str:
    """ "index" of "IndexBackward0"; "" for what is no node of the backward pass."""
    match = _NODE.fullmatch(node)
    return match[1].replace("_", "").lower() if match else ""


def _result_of(calls: Calls, group: int, node: int | None) -> Hints | None:
    """The result of a forward operator is as large as the gradient that its backward receives."""
    signature = calls.signature[node] if node is not None else None
    if node is None or signature is None:
        return None
    own = calls.name[group].rpartition("::")[2].replace("_", "")
    dims = at(signature.dims, 0, ())
    if own != _forward_name(calls.name[node]) or not dims or is_nested(dims):
        return None
    if not names_tensor(at(signature.dtypes, 0, "")):
        return None
    return Hints(output=dims, source="result as large as the gradient in its backward")
