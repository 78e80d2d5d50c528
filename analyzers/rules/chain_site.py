"""What are the operators of one place of a finding, with what flows between them, so that they can be run again?

A match claims the operators of all its places. Those of the first one are taken: in the earliest run that has any, the
first stretch of what repeats itself, or what the first operator is connected with.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.continued import in_backward
from probe.analyzers.rules.matching.flow import Argument, Flow, tensor_sizes
from probe.analyzers.rules.matching.units import COPY, MATRIX
from probe.analyzers.rules.rule import Rule
from probe.sites import ChainSite, LoopSite, Read, Site, Step
from probe.trace import Dims, Mask

MOST_STEPS = 64  # a longer chain is no single place
RUN_TOO = frozenset({"E01", "E02", "E09", "E14"})  # proved by a module; one operator of it shows as much
LOOPS = frozenset({"F26", "F27", "H13"})  # over tensors, which they change
LOOPED = frozenset({"norm", "vector_norm", "linalg_vector_norm", "mul", "lerp", "zero", "fill"})
OWN_SITE = frozenset({"F06", "F24", "F25"})  # say themselves on what they can be run, or cannot be
READ_TWICE = frozenset({"F03", "F04", "F05", "F11"})  # what they normalise or rotate is read again by a later step
FROM_PRODUCT = frozenset({"F02", "F09", "F10", "F12", "F14", "F15"})  # what the product before belongs to
TO_LOSS = frozenset({"F09", "F10"})
TO_NORM = frozenset({"F03"})  # what follows the sum belongs to it
NORM = frozenset(
    "native_layer_norm pow mul mean add rsqrt sqrt div to to_copy sub var rms_norm _fused_rms_norm".split()
)
NORM_ENDS = frozenset({"native_layer_norm", "rms_norm", "_fused_rms_norm"})
LOSS_ENDS = frozenset({"nll_loss_forward", "nll_loss2d_forward"})
COPIES = frozenset(name.strip("_") for name in COPY)
OF_ONE_INPUT = frozenset({"F13"})
PRODUCTS = MATRIX | {"convolution"}
LOSSES = frozenset({"_log_softmax", "nll_loss_forward", "nll_loss2d_forward"})
LOOKED_BACK = 24  # units within which the product before lies
LOOKED_AHEAD = 9  # units of a norm at the most
NEAR = 64  # units within which products of one input lie


@dataclass
class Sites:
    """The sites of a trace's findings."""

    context: Context

    @cached_property
    def _backward(self) -> Mask:
        return in_backward(self.context)

    def of(self, rule: Rule, match: Match) -> Site | None:
        """On what the match's replacement can be run: what its rule says, else its operators; None without any."""
        if match.site is None and rule.code in LOOPS:
            return self._loop(rule.code, match)
        asked = rule.proof == "replay" or rule.code in RUN_TOO
        if match.site is not None or not asked or rule.code in OWN_SITE:
            return match.site
        found = self._first_place(rule, match)
        if found is None:
            return None
        flow, members = found
        return self._chain(flow, members, rule.code)

    def _loop(self, code: str, match: Match) -> Site | None:
        """The tensors of the first step's loop: sizes of what its first operator was given again and again."""
        rows, steps = set(match.rows), self.context.groups.step_of_op
        units = [u for run in self.context.runs for u in run if u.row in rows and u.name in LOOPED and u.dims]
        first = [u for u in units if u.signature is not None and steps[u.row] == steps[units[0].row]]
        if not first or (code == "F26" and first[0].name not in LOOPED - {"mul", "zero", "fill"}):
            return None
        same = [u for u in first if u.name == first[0].name]
        dtypes = {u.signature.dtypes[0] for u in same if u.signature is not None}
        sizes = tuple(tuple(n for n in u.dims[0] if isinstance(n, int)) for u in same)
        element = ELEMENT_TYPES.get(dtypes.pop()) if len(dtypes) == 1 else None
        return LoopSite(code, sizes, element.name) if element is not None else None

    def _first_place(self, rule: Rule, match: Match) -> tuple[Flow, list[int]] | None:
        """The flow and the indices of the units of the first place."""
        rows = set(match.rows)
        for flow in self.context.flows:
            members = _members(flow, rows) if rows else self._of_groups(flow, match.ops)
            forward = [i for i in members if not self._backward[flow.units[i].row]]
            if forward or members:
                return flow, _place(flow, forward or members, rule.code)
        return None

    def _of_groups(self, flow: Flow, groups: Collection[int]) -> list[int]:
        """For a match that claims nothing: the units of its groups."""
        of_op, wanted = self.context.groups.of_op, set(groups)
        return [i for i, unit in enumerate(flow.units) if int(of_op[unit.row]) in wanted]

    def _chain(self, flow: Flow, members: Sequence[int], code: str) -> ChainSite:
        """The members as steps, in order."""
        chosen = list(members)[:MOST_STEPS]
        rows = [flow.units[i].row for i in chosen]
        names, ops = self.context.trace.names, self.context.trace.host_ops
        readings = _Readings(flow, chosen, code)
        steps = tuple(
            Step(names[ops.name[unit.row]], unit.signature, readings.of(i))
            for i in chosen
            if (unit := flow.units[i]).signature is not None
        )
        trained = bool(self.context.backward_rows(rows)) and not any(self._backward[rows])
        why_not = _why_not(len(members), len(steps) == len(chosen))
        return ChainSite(code, steps, trained, flow.tier != "order", self._kept(flow, chosen), why_not)

    def _kept(self, flow: Flow, chosen: Sequence[int]) -> tuple[int, ...]:
        """Steps whose result something else in the forward pass reads; by sizes alone that cannot be told."""
        if flow.tier == "order":
            return ()
        place = {index: step for step, index in enumerate(chosen)}
        behind = range(chosen[0], min(len(flow.units), chosen[-1] + 4 * MOST_STEPS))
        others = (i for i in behind if i not in place and not self._backward[flow.units[i].row])
        return tuple(sorted({place[m] for i in others for a in flow.arguments[i] for m in a.makers if m in place}))


def _why_not(count: int, recorded: bool) -> str | None:
    """Why so many operators cannot be run as one place; None where they can."""
    if not recorded:
        return "arguments were not recorded; record with record_shapes=True"
    if count > MOST_STEPS:
        return f"one place has {count} operators, more than the {MOST_STEPS} that are run as one"
    return None


def _members(flow: Flow, rows: Collection[int]) -> list[int]:
    """Indices of the units that are among `rows`."""
    if not flow.units or max(rows) < flow.units[0].row or min(rows) > flow.units[-1].row:
        return []
    return [i for i, unit in enumerate(flow.units) if unit.row in rows]


def _place(flow: Flow, members: list[int], code: str) -> list[int]:
    """The members of the first place, with what belongs to it before and behind."""
    if code in OF_ONE_INPUT:
        return _of_one_input(flow, members)
    first = _connected(flow, _stretch(flow, members))
    if code in FROM_PRODUCT:
        first = [*_products_before(flow, first, biased=code == "F02"), *first]
    if code in TO_NORM:
        first = [*first, *_behind(flow, first, NORM, NORM_ENDS)]
    if code in TO_LOSS:
        first = [*first, *_behind(flow, first, LOSSES, LOSS_ENDS)]
    return sorted(set(first))


def _stretch(flow: Flow, members: list[int]) -> list[int]:
    """The first period, where the members are the same operators on the same sizes over and over."""
    spelled = [(flow.units[i].name, flow.units[i].dims) for i in members]
    for period in range(1, len(members) // 2 + 1):
        if len(members) % period == 0 and spelled[period:] == spelled[:-period]:
            alone = _connected(flow, members[:period])
            return alone if len(alone) > 1 or period > 1 else members[:1] if _apart(flow, members) else members
    return members


def _apart(flow: Flow, members: Sequence[int]) -> bool:
    """Whether none of them reads what another one made."""
    there = set(members)
    return not any(a.makers and a.makers[0] in there for i in members for a in flow.arguments[i])


def _connected(flow: Flow, members: Sequence[int]) -> list[int]:
    """Those that the first one is connected with, by who made what."""
    group = {member: {member} for member in members}
    for member in members:
        for maker in _makers(flow, member, group):
            joined = group[member] | group[maker]
            for one in joined:
                group[one] = joined
    return sorted(group[members[0]])


def _makers(flow: Flow, member: int, among: Collection[int]) -> Iterator[int]:
    """The makers of what a unit reads that are among the given ones: by sizes only the likeliest of each."""
    for argument in flow.arguments[member]:
        likely = argument.makers[:1] if flow.tier == "order" else argument.makers
        yield from (maker for maker in likely if maker in among and maker < member)


def _products_before(flow: Flow, members: Sequence[int], *, biased: bool) -> Iterator[int]:
    """The products, and the copies on the way, that made what the members read; and a bias between them."""
    open_ends = list(members)
    while open_ends:
        reader = open_ends.pop()
        for argument in flow.arguments[reader]:
            maker = argument.makers[0] if argument.makers else -1
            if maker < 0 or maker in members or reader - maker > LOOKED_BACK:
                continue
            if flow.units[maker].name in PRODUCTS:
                yield maker
            elif argument.size and (flow.units[maker].name in COPIES or (biased and _adds_bias(flow, maker))):
                yield maker
                open_ends.append(maker)


def _adds_bias(flow: Flow, index: int) -> bool:
    """Whether one of the two terms is a vector."""
    return flow.units[index].name == "add" and any(len(a.size) == 1 for a in flow.arguments[index])


def _behind(flow: Flow, members: Sequence[int], names: Collection[str], ends: Collection[str]) -> Iterator[int]:
    """The operators of these names that read the last member, or one another, up to the first of the `ends`."""
    inside, end = set(members), members[-1] + LOOKED_AHEAD
    for index in range(members[-1] + 1, min(end, len(flow.units))):
        if flow.units[index].name not in names:
            return
        if any(a.makers and a.makers[0] in inside for a in flow.arguments[index]):
            inside.add(index)
            yield index
            if flow.units[index].name in ends:
                return


def _of_one_input(flow: Flow, members: Sequence[int]) -> list[int]:
    """The first unit, and those near it that share an argument with it."""
    first = members[0]
    shared = {a.value for a in flow.arguments[first] if len(a.size) > 1}
    near = [i for i in members if i - first < NEAR and flow.units[i].name == flow.units[first].name]
    if flow.tier == "order":
        return near[:3]
    for value in shared:
        same = [i for i in near if any(a.value == value for a in flow.arguments[i])]
        if len(same) > 1:
            return same
    return near[:1]


@dataclass
class _Readings:
    """Who made what each step reads."""

    flow: Flow
    chosen: Sequence[int]
    code: str
    _outside: dict[object, int] = field(default_factory=dict)
    _used: set[int] = field(default_factory=set)  # steps whose result was read, where only sizes are known

    def of(self, index: int) -> tuple[Read, ...]:
        """One for each tensor argument of a unit, in the order of its signature."""
        unit = self.flow.units[index]
        step = bisect_left(self.chosen, index)
        arguments = _aligned(tensor_sizes(unit), self.flow.arguments[index])
        return tuple(self._read(step, number, argument) for number, argument in enumerate(arguments))

    def _read(self, step: int, slot: int, argument: Argument) -> Read:
        inside = [bisect_left(self.chosen, m) for m in argument.makers if m in self.chosen]
        inside = [maker for maker in inside if maker < step]
        if self.flow.tier == "order":
            return self._likely(step, slot, argument, inside)
        if inside:
            return Read(inside[0], offset=_offset(argument))
        return Read(None, self._number(_storage(argument, step, slot)), _offset(argument))

    def _likely(self, step: int, slot: int, argument: Argument, inside: Sequence[int]) -> Read:
        """By sizes: the latest step of the chain that nothing has read yet, else a tensor from outside."""
        fresh = next((maker for maker in inside if maker not in self._used), None)
        if fresh is not None and argument.size:
            self._used.add(fresh)
            return Read(fresh)
        again = self.code in READ_TWICE and len(argument.size) > 1
        return Read(None, self._number(("size", argument.size) if again else (step, slot)))

    def _number(self, key: object) -> int:
        return self._outside.setdefault(key, len(self._outside))


def _aligned(slots: Sequence[Dims], arguments: Sequence[Argument]) -> list[Argument]:
    """An argument for each tensor of the signature: numbers that torch wrapped may be missing in the other record."""
    if len(slots) == len(arguments):
        return list(arguments)
    left = list(arguments)
    found = []
    for size in slots:
        at = next((i for i, argument in enumerate(left) if argument.size == size), None)
        found.append(Argument((), size, ()) if at is None else left.pop(at))
    return found


def _storage(argument: Argument, step: int, slot: int) -> object:
    """What makes a tensor from outside the same one."""
    value = argument.value
    if len(value) > 1 and value[0] == "storage":
        return "storage", value[1], value[3:]
    return value if value and value[0] != "size" else (step, slot)


def _offset(argument: Argument) -> int | None:
    value = argument.value
    return value[2] if len(value) > 2 and value[0] == "storage" and isinstance(value[2], int) else None
