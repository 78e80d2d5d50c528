"""Which loops over parameters or gradients does a step hold, a few small operators for each, and what do they do?

A loop is a stretch of pointwise operators, copies and reductions in which the same calls repeat, each pass over tensors
of one size. The passes must not read one another's results (known where tensors were recorded), or be over tensors of
several sizes: what repeats over one tensor is an iteration, which no multi-tensor operator can replace.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal
from weakref import ReferenceType, ref

import numpy as np

from probe.analyzers.cost_models.dtypes import BY_NUMBER, ELEMENT_TYPES, FLOAT32, ElementType
from probe.analyzers.rules.context import Context
from probe.analyzers.rules.matching.flow import Flow, Tier
from probe.analyzers.rules.matching.marks import OPTIMIZER, Marked
from probe.analyzers.rules.matching.repeats import Repeat, bare_fraction, elapsed_s, repeats, rows_between
from probe.analyzers.rules.matching.units import POINTWISE, REDUCTION, Unit
from probe.trace import Mask

FEWEST = 4  # passes
LONGEST = 24  # operators in one pass
CASTS = frozenset({"to", "to_copy", "copy", "clone", "contiguous"})
LOOPED = POINTWISE | REDUCTION | CASTS | {"zero", "fill"}
TO_DEVICE = 6  # arguments of to(self, device, dtype, …), where the type is the second

Kind = Literal["zero", "clamp", "norm", "scale", "average", "cast", "update"]

# How each is spelled: the operators of one pass, in-place forms with their underscore, copies left out.
SPELLINGS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("zero", re.compile(r"(zero_ |fill_ )+")),
    ("clamp", re.compile(r"(clamp_? |clamp_min_? |clamp_max_? |hardtanh_? )+")),
    ("norm", re.compile(r"(norm |linalg_vector_norm |(pow |square |mul |abs )(sum |max |amax |norm ))(pow )?")),
    ("scale", re.compile(r"(mul_? |div_? )")),
    ("average", re.compile(r"lerp_? |mul_? mul_? add_? |r?sub (mul_? |div_? )(sub_? |add_? )|sub (add|lerp)_? ")),
)
CHANGES = frozenset({"scale", "average", "update"})  # what may also be done to one tensor again and again
IN_PLACE_AVERAGE = "mul_ add_ "  # where what is added is weighted too; else it is a momentum, or a step
PLAIN_STEP = "mul sub "  # p.data = p.data - lr * p.grad
STEPS = frozenset({"add", "sub", "addcmul", "addcdiv"})  # in which an update out of place may end


@dataclass(frozen=True)
class Loop:
    """One loop in one step. passes: the units of each; rows: all operators from the first to the last."""

    kind: Kind
    words: str  # operators of one pass
    passes: tuple[tuple[Unit, ...], ...]
    rows: tuple[int, ...]
    tier: Tier

    @property
    def span(self) -> tuple[int, int]:
        """From the first unit's start to the last one's end, nanoseconds."""
        return self.passes[0][0].start_ns, self.passes[-1][-1].end_ns

    @property
    def units(self) -> list[Unit]:
        """All of them."""
        return [unit for one in self.passes for unit in one]


def parameter_loops(context: Context, *kinds: Kind) -> list[Loop]:
    """The loops of the given kinds in all steps, in order of time, without those that other findings claimed."""
    found = (loop for loop in _all_loops(ref(context)) if loop.kind in kinds)
    return [loop for loop in found if not any(u.row in context.claimed for u in loop.units)]


@lru_cache(maxsize=1)
def _all_loops(of: ReferenceType[Context]) -> tuple[Loop, ...]:
    context = of()
    assert context is not None
    trace = context.trace
    marks = Marked.of(trace, np.flatnonzero(trace.named(lambda name: OPTIMIZER.fullmatch(name) is not None)).tolist())
    ops = trace.host_ops
    leaf = np.ones(len(ops), bool)  # operators that call no others
    leaf[ops.parent[ops.parent >= 0]] = False
    inside = context.under_engine | marks.holds(ops.start_ns)
    return tuple(loop for flow in context.flows for loop in _loops(context, flow, leaf, inside))


def _loops(context: Context, flow: Flow, leaf: Mask, closed: Mask) -> Iterator[Loop]:
    looped, casting = flow.shared("looped", lambda: (_named(flow, LOOPED), _named(flow, {"to", "contiguous"})))
    kept = np.flatnonzero(~(casting & leaf[flow.rows]))  # the others gave back what they were given
    open_ = (looped & ~closed[flow.rows])[kept]
    for first, last in pairwise([0, *(np.flatnonzero(np.diff(open_)) + 1).tolist(), len(kept)]):
        if last - first >= FEWEST and open_[first]:
            yield from _in_stretch(context, flow, kept[first:last].tolist())


def _named(flow: Flow, names: Collection[str]) -> Mask:
    """Which units have one of the names, [units]."""
    return np.array([unit.name in names for unit in flow.units], bool)


def _in_stretch(context: Context, flow: Flow, stretch: list[int]) -> Iterator[Loop]:
    """The loops in a stretch of units, given by their indices in the flow."""
    names = context.trace.host_ops.name
    for repeat in repeats([int(names[flow.units[i].row]) for i in stretch], FEWEST, LONGEST):
        passes = _passes(flow, stretch, repeat)
        if len(passes) < FEWEST:
            continue
        units = tuple(tuple(flow.units[i] for i in one) for one in passes)
        words = _words(context, units[0])
        kind = _kind(words, units[0])
        if kind is None and units[0][-1].name in STEPS and _reads_gradients(context, flow, passes[-1]):
            kind = "update"
        if kind is None or (kind in CHANGES and _is_iteration(flow, passes)):
            continue
        if not any(is_differentiated(context, u) for one in units[:2] for u in one):
            rows = rows_between(context, units[0][0].row, units[-1][-1].row)
            yield Loop(kind, words, units, tuple(rows), flow.tier)


def is_differentiated(context: Context, unit: Unit) -> bool:
    """Whether the backward pass has the derivative of a unit.

    Operators that autograd does not record bear the number of the next one that it does: the names have to fit as well.
    """
    names, of_row = context.trace.names, context.trace.host_ops.name
    plain = unit.name.replace("_", "")
    return any(plain in names[of_row[row]].lower() for row in context.backward_rows([unit.row]))


def _passes(flow: Flow, stretch: list[int], repeat: Repeat) -> list[list[int]]:
    """The stretch cut into passes, begun where most are over tensors of one size; the others are left out."""
    cuts = []
    for shift in range(repeat.period):
        first = range(repeat.first + shift, repeat.last - repeat.period + 1, repeat.period)
        cuts.append([p for p in (stretch[at : at + repeat.period] for at in first) if _numel(flow, p) is not None])
    return max(cuts, key=lambda passes: len(passes) / repeat.times)


def _numel(flow: Flow, one: Sequence[int]) -> int | None:
    """Elements of the tensors of one pass; None where they differ. Scalars do not count."""
    sizes = {flow.units[i].numel for i in one if flow.units[i].numel > 1}
    return sizes.pop() if len(sizes) == 1 else None


def _is_iteration(flow: Flow, passes: list[list[int]]) -> bool:
    """Whether a pass reads what another one made, or may: where only sizes are known, all are over one size."""
    if flow.tier == "order":
        return len({_numel(flow, one) for one in passes}) == 1
    made = {i: number for number, one in enumerate(passes) for i in one}
    read = (
        (made[maker], number)
        for number, one in enumerate(passes)
        for i in one
        for argument in flow.arguments[i]
        if argument.size
        for maker in argument.makers
        if maker in made
    )
    return any(maker != reader for maker, reader in read)


def _reads_gradients(context: Context, flow: Flow, one: Sequence[int]) -> bool:
    """Whether a pass reads what the backward pass made."""
    made = (maker for i in one for argument in flow.arguments[i] for maker in argument.makers if argument.size)
    return any(context.under_engine[flow.units[maker].row] for maker in made)


def _words(context: Context, one: Sequence[Unit]) -> str:
    """The names of a pass as the trace has them, for tensors of more than one element."""
    names, of_row = context.trace.names, context.trace.host_ops.name
    return "".join(names[of_row[u.row]].removeprefix("aten::") + " " for u in one if u.numel > 1)


def _kind(words: str, one: Sequence[Unit]) -> Kind | None:
    """What a loop of such passes does; None for what is none of a training loop's."""
    work = [u for u in one if u.numel > 1 and u.name not in CASTS]
    if not work:
        return "cast" if all(changes_type(u) for u in one if u.numel > 1) else None
    plain = re.sub(r"\b(to|_to_copy|copy_|clone|contiguous) ", "", words)
    for kind, spelling in SPELLINGS:
        if spelling.fullmatch(plain):
            return kind if kind != "scale" or words.split()[-1].endswith("_") else None
    if plain == IN_PLACE_AVERAGE:
        return "average" if 0 < _alpha(work[-1]) < 1 else "update"
    return "update" if words.split()[-1].endswith("_") or plain == PLAIN_STEP else None


def _alpha(unit: Unit) -> float:
    """The recorded factor of what add_ adds; 1 where it was not recorded."""
    scalars = unit.signature.scalars if unit.signature else ()
    try:
        return float(scalars[2])
    except (IndexError, ValueError):
        return 1.0


def changes_type(unit: Unit) -> bool:
    """Whether a copy has another element type than its source, as far as both were recorded."""
    before, after = cast_types(unit)
    return before is not None and after is not None and before != after


def cast_types(unit: Unit) -> tuple[ElementType | None, ElementType | None]:
    """The element types of a copy's source and of its result, None each where not recorded."""
    signature = unit.signature
    if signature is None or not signature.dtypes:
        return None, None
    first = ELEMENT_TYPES.get(signature.dtypes[0])
    second = ELEMENT_TYPES.get(signature.dtypes[1]) if len(signature.dtypes) > 1 else None
    if unit.name == "copy":
        return second, first
    if unit.name in ("clone", "contiguous") or second is not None:
        return first, second or first
    at = 2 if unit.name == "to" and len(signature.dtypes) == TO_DEVICE else 1
    asked = signature.scalars[at] if at < len(signature.scalars) else ""
    return first, BY_NUMBER.get(int(asked)) if asked.isdigit() else first


def time_and_floor_s(
    context: Context, loops: Sequence[Loop], *, arrays: int, fewer: float = 1.0
) -> tuple[float, float]:
    """What loops take per step, and what they would as calls over lists of tensors; seconds.

    On a CPU such calls run the same operators without Python between them, `fewer` for each one where the list has a
    single operator for several. On a device they read and write `arrays` arrays of each tensor's size once.
    """
    units = [unit for loop in loops for unit in loop.units]
    spent_s = elapsed_s(context, [loop.span for loop in loops])
    if not context.trace.on_device:
        listed_s = sum(_listed_s(context, unit) for unit in units) / len(context.steps)
        return spent_s, min(listed_s * fewer, spent_s)
    moved_s = context.roof_s(
        arrays * sum(pass_bytes(one) for loop in loops for one in loop.passes) / len(context.steps)
    )
    return spent_s, min((moved_s or 0.0) + (context.machine.ceilings.launch_s or 0.0), spent_s)


def _listed_s(context: Context, unit: Unit) -> float:
    """Seconds of an operator that runs without Python around it and without the profiler inside it.

    A pointwise one costs its dispatch and its bytes, at most what it took; what a reduction costs beyond is its own.
    """
    own_s = (unit.end_ns - unit.start_ns) / 1e9 * bare_fraction(context)
    moved_s = context.roof_s(context.costs[context.groups.of_op[unit.row]].bytes or 0.0)
    if unit.name in REDUCTION or moved_s is None:
        return own_s
    return min(own_s, context.machine.dispatch_s + moved_s)


def pass_bytes(one: Sequence[Unit]) -> int:
    """Size of the tensor of a pass, with the type of the first argument."""
    unit = max(one, key=lambda u: u.numel)
    element = ELEMENT_TYPES.get(unit.signature.dtypes[0]) if unit.signature and unit.signature.dtypes else None
    return unit.numel * (element or FLOAT32).itemsize


def counted(context: Context, loops: Sequence[Loop]) -> tuple[int, int]:
    """Tensors in the largest loop, and operators of all loops per step."""
    operators = sum(len(loop.units) for loop in loops) / len(context.steps)
    return max(len(loop.passes) for loop in loops), round(operators)


def rows_of(loops: Sequence[Loop]) -> tuple[int, ...]:
    """All operators of the loops."""
    return tuple(row for loop in loops for row in loop.rows)


def groups_of(context: Context, loops: Sequence[Loop]) -> tuple[int, ...]:
    """The groups of the loops' units."""
    return tuple(sorted({int(context.groups.of_op[u.row]) for loop in loops for u in loop.units}))
