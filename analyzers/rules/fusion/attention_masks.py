"""What masks the scores of a written-out attention, and is the mask a causal one?

A mask is causal where the run itself made it of tril or triu of a constant, or by comparing two ranges of positions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Literal

from probe.analyzers.rules.fusion.attention_flow import Written, number, scalar
from probe.analyzers.rules.matching.flow import Argument, Flow
from probe.analyzers.rules.matching.units import Unit
from probe.trace import Mask as Which

Mask = Literal["none", "additive", "boolean", "causal"]
CONSTANT = frozenset({"fill", "zero"})
TRIANGLE = {"tril": (None, "0"), "triu": ("1",)}  # with the diagonals that leave each query its own key
# What a mask may go through without becoming another one, as long as nothing else goes in.
KEEPS_FORM = frozenset(
    "eq ne lt gt le ge logical_not bitwise_not masked_fill where mul add sub rsub div neg to_copy copy clone "
    "contiguous to".split()
)
# Comparisons of positions that are true, or false, for keys after the query: by whether queries stand on the left.
AFTER_QUERY = {True: frozenset({"ge", "lt"}), False: frozenset({"le", "gt"})}
FILLS = {"masked_fill": 1, "where": 0}  # with the place of their mask
DEPTH = 8


@dataclass(frozen=True)
class Masking:
    """What is applied to the scores. keeps: a boolean mask is True where a score is kept. units: that make the mask."""

    kind: Mask
    keeps: bool = False
    units: tuple[int, ...] = ()
    several: bool = False
    multiplied: bool = False  # one of numbers that the exponentials are multiplied with
    learned: bool = False  # an additive mask whose gradient is taken
    computed: bool = False  # an additive mask that the step computes: a learned bias, or one of positions


def masking(written: Written, differentiated: Which) -> Masking:
    """How the scores are masked before their softmax; `differentiated`: operators with a derivative, [ops]."""
    found = [m for m in (_applied(written, i) for i in written.path) if m is not None]
    if not found:
        return Masking("none")
    causal = [triangle(written.flow, argument, index) for index, argument, _, _ in found]
    scores = written.unit(written.softmax)
    if len(found) == 1 and causal[0] is not None and _covers(found[0][1], scores):
        return Masking("causal", units=tuple(sorted(causal[0])))
    added = [a for _, a, kind, _ in found if kind == "additive"]
    computed = any(written.flow.units[m].name not in KEEPS_FORM | CONSTANT for a in added for m in a.makers[:1])
    _, _, kind, keeps = next((f for f in found if f[2] == "additive"), found[0])
    learned = any(differentiated[written.unit(m).row] for a in added for m in a.makers[:1])
    multiplied = any(written.unit(index).name == "mul" for index, _, _, _ in found)
    return Masking(
        kind, keeps, several=len(found) > 1, multiplied=multiplied, learned=learned,
        computed=computed and written.tier != "order",
    )  # fmt: skip


def _covers(mask: Argument, scores: Unit) -> bool:
    """Whether the mask is the same for all batches and heads."""
    return mask.size[-2:] == scores.size[-2:] and prod(mask.size) == prod(scores.size[-2:])


def _applied(written: Written, index: int) -> tuple[int, Argument, Mask, bool] | None:
    """The mask that a unit on the way of the scores applies: the unit, the mask, its kind, whether True keeps."""
    unit, arguments = written.unit(index), written.flow.arguments[index]
    if index >= written.weighed:
        return None
    if unit.name in FILLS and len(arguments) > FILLS[unit.name]:
        keeps = unit.name == "where" and unit.dims[1:2] == (unit.size,)
        return index, arguments[FILLS[unit.name]], "boolean", keeps
    if index == written.first:
        biased = unit.name == "baddbmm" and number(unit, 3) and arguments
        return (index, arguments[0], "additive", False) if biased else None
    multiplied = unit.name == "mul" and index > written.softmax
    if not multiplied and (unit.name not in ("add", "sub") or index > written.softmax):
        return None
    other = _other(arguments, written.path, unit)
    return (index, other, "boolean" if multiplied else "additive", multiplied) if other is not None else None


def _other(arguments: tuple[Argument, ...], path: Collection[int], unit: Unit) -> Argument | None:
    """The one of two arguments of an addition that is not the scores; None where that is a number or a row's sum."""
    if len(arguments) < 2:
        return None
    scores = next((a for a in arguments if set(a.makers[:1]) & set(path)), arguments[0])
    other = next(a for a in arguments if a is not scores)
    return other if prod(other.size) > 1 and other.size[-1:] == unit.size[-1:] else None


def triangle(flow: Flow, argument: Argument, reader: int, depth: int = DEPTH) -> set[int] | None:
    """The units that make the argument a triangle that leaves each query its own and all earlier keys; else None."""
    maker = _maker(flow, argument, reader)
    if maker is None or not depth:
        return None
    unit, arguments = flow.units[maker], flow.arguments[maker]
    if unit.name in TRIANGLE:
        made = scalar(unit, 1) in TRIANGLE[unit.name] and _all_constant(flow, arguments, maker)
        return {maker, *_makers(flow, arguments, maker)} if made else None
    if _compares_positions(flow, unit, arguments, maker):
        return {maker, *_makers(flow, arguments, maker)}
    if unit.name not in KEEPS_FORM:
        return None
    others = [a for a in arguments if prod(a.size) > 1 and not _is_constant(flow, a, maker)]
    parts = [triangle(flow, a, maker, depth - 1) for a in others]
    if not parts or any(part is None for part in parts):
        return None
    return {maker, *(i for part in parts for i in part or ())}


def _maker(flow: Flow, argument: Argument, reader: int) -> int | None:
    """Who made it; where only sizes are known the last whose result has just its sizes."""
    before = [m for m in argument.makers if m < reader]
    return before[0] if before else None


def _makers(flow: Flow, arguments: tuple[Argument, ...], reader: int) -> set[int]:
    return {m for a in arguments if (m := _maker(flow, a, reader)) is not None}


def _is_constant(flow: Flow, argument: Argument, reader: int) -> bool:
    maker = _maker(flow, argument, reader)
    return maker is not None and flow.units[maker].name in CONSTANT


def _all_constant(flow: Flow, arguments: tuple[Argument, ...], reader: int) -> bool:
    """Whether the operator reads filled tensors only, looking through changes of type."""
    for argument in arguments:
        maker = _maker(flow, argument, reader)
        while maker is not None and flow.units[maker].name in KEEPS_FORM and len(flow.arguments[maker]) == 1:
            maker = _maker(flow, flow.arguments[maker][0], maker)
        if maker is None or flow.units[maker].name not in CONSTANT:
            return False
    return bool(arguments)


def _compares_positions(flow: Flow, unit: Unit, arguments: tuple[Argument, ...], index: int) -> bool:
    """Whether the unit compares [T, 1] with [1, T] positions, both counted from 0 by arange."""
    if len(arguments) != 2 or unit.name not in AFTER_QUERY[True] | AFTER_QUERY[False]:
        return False
    made = [_maker(flow, a, index) for a in arguments]
    if any(m is None or flow.units[m].name != "arange" for m in made):
        return False
    ranges = {flow.units[m].signature for m in made if m is not None}
    rows = [len(a.size) > 1 and a.size[-1] == 1 and a.size[-2] > 1 for a in arguments]
    return len(ranges) == 1 and rows[0] != rows[1] and unit.name in AFTER_QUERY[rows[0]]
