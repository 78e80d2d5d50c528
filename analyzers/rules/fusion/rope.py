"""F11: rotary position embedding written out, five to seven passes over queries and keys where one would do."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.fusion.norm_patterns import is_array
from probe.analyzers.rules.matching.continued import CASTS, continued, taken
from probe.analyzers.rules.matching.flow import Argument, Flow
from probe.analyzers.rules.matching.ledger import Account, array_bytes, as_recorded_s, element, ledger_of, spelled
from probe.analyzers.rules.matching.patterns import Pattern, op, value
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.search import matches
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Dims, Mask
from probe.units import format_bytes, format_time

NEAR = 12  # units within which the two halves of an embedding lie
JOINED_PASSES = 3  # over an array that is joined apart: both halves are read, and it is written and read
VIEW_NEAR = 64  # operators around a complex product within which real numbers become complex ones and back
CAST_NEAR = 6  # units around a complex product within which its casts lie


def _is_heads(argument: Argument) -> bool:
    """Whether an argument may be queries or keys of several heads or sequences."""
    return len(argument.size) >= 3


HEADS, ANY = value(test=is_array), value()
# x · cos + (-x₂, x₁) · sin
TURNED = op("cat stack", op("neg", HEADS), HEADS) | op("cat stack", op("mul", HEADS), HEADS) | op("roll", HEADS)
STRAIGHT = op("mul", HEADS, ANY)
ROTATE_HALF = op("add", op("mul", TURNED, ANY), STRAIGHT) | op("addcmul", STRAIGHT, TURNED, ANY, any_order=True)


def _mix(angle: Pattern, names: str, test: Callable[[Argument], bool]) -> Pattern:
    """a · cos ± b · sin, of a and b bound by name."""
    a, b = value("a", test), value("b", test)
    sum_ = op(names, op("mul", a, angle), op("mul", b, angle), any_order=True)
    return sum_ | op("addcmul", op("mul", a, angle), b, angle, any_order=True)


JOINED = op("cat stack", _mix(ANY, "sub add", is_array), _mix(ANY, "sub add", is_array))
# Written to the places of one result: nothing joins the halves, and other weighted sums look the same.
APART = tuple(_mix(value(test=is_array), name, _is_heads) for name in ("sub", "add"))
COMPLEX = op("mul", test=lambda unit: element(unit).is_complex and len(unit.size) >= 3)


@dataclass(frozen=True)
class _Views:
    """Where real numbers are taken for complex ones, and these for real ones: rows by the size of the complex ones."""

    to_complex: Mapping[Dims, list[int]]
    to_real: Mapping[Dims, list[int]]

    @classmethod
    def of(cls, context: Context) -> _Views:
        """Those of a trace."""
        viewed, joined, back = (_by_size(context, f"aten::{n}") for n in ("view_as_complex", "complex", "view_as_real"))
        both = {size[:-1]: rows for size, rows in viewed.items()}
        return cls({size: sorted(both.get(size, []) + joined.get(size, [])) for size in {*both, *joined}}, back)

    def surround(self, product: Unit) -> bool:
        """Whether a product of complex numbers turns real ones: those of Fourier transforms, for example, do not."""
        before, after = (views.get(product.size, []) for views in (self.to_complex, self.to_real))
        last, first = bisect_left(before, product.row) - 1, bisect_left(after, product.row)
        near_before = last >= 0 and product.row - before[last] <= VIEW_NEAR
        return near_before and first < len(after) and after[first] - product.row <= VIEW_NEAR


def _by_size(context: Context, name: str) -> dict[Dims, list[int]]:
    """Rows of the operators of that name by the sizes of their first argument."""
    ops, found = context.trace.host_ops, defaultdict(list)
    named = context.trace.named(lambda other: other == name)
    for row in np.flatnonzero(named[ops.name]).tolist():
        signature = int(ops.signature[row])
        if signature >= 0 and context.trace.signatures[signature].dims:
            found[context.trace.signatures[signature].dims[0]].append(row)
    return found


def find(context: Context) -> Iterator[Match]:
    """One match per size and spelling; queries and keys of all layers and steps together."""
    ledger = ledger_of(context)
    closed = taken(context)
    views = _Views.of(context)
    found = chain.from_iterable(_places(flow, closed, views) for flow in context.flows)
    for (size, names), account in ledger.accounts(found, lambda p: (_whole(p).size, tuple(u.name for u in p.units))):
        yield _match(context, size, names, account)


def _places(flow: Flow, closed: Mask, views: _Views) -> Iterator[Place]:
    """All spellings in one run."""
    for pattern in (ROTATE_HALF, JOINED):
        for place in matches(flow, pattern, closed):
            whole = continued(flow, place, flow.index_of[place.units[-1].row], CASTS, closed)
            closed[[unit.row for unit in whole.units]] = True
            yield whole
    yield from _apart(flow, closed)
    for place in matches(flow, COMPLEX, closed):
        if views.surround(place.units[-1]):
            yield _with_casts(flow, flow.index_of[place.units[0].row], place)


def _apart(flow: Flow, closed: Mask) -> Iterator[Place]:
    """Both halves of an embedding that no operator joins."""
    minus = list(matches(flow, APART[0], closed))
    plus = list(matches(flow, APART[1], closed)) if minus else []
    for one in minus:
        other = next((p for p in plus if _belong(one, p, flow.index_of)), None)
        if other is not None:
            plus.remove(other)
            yield replace(one, units=tuple(sorted((*one.units, *other.units), key=lambda unit: unit.start_ns)))


def _belong(one: Place, other: Place, at: dict[int, int]) -> bool:
    """Whether two mixes are of the same two halves, and near each other."""
    halves = [{place.values.get("a"), place.values.get("b")} for place in (one, other)]
    return halves[0] == halves[1] and abs(at[one.units[-1].row] - at[other.units[-1].row]) <= NEAR


def _with_casts(flow: Flow, index: int, place: Place) -> Place:
    """A product of complex numbers with the casts of its real parts before and after it: views hide how they flow."""
    product = flow.units[index]
    near = flow.units[max(index - CAST_NEAR, 0) : index + CAST_NEAR + 1]
    casts = [unit for unit in near if unit.name in CASTS and unit.numel == 2 * product.numel]
    before = [unit for unit in casts if unit.start_ns < product.start_ns][-1:]
    after = [unit for unit in casts if unit.start_ns > product.start_ns][:1]
    return replace(place, units=(*before, product, *after))


def _whole(place: Place) -> Unit:
    return max(place.units, key=lambda unit: unit.numel)


def _match(context: Context, size: tuple[int, ...], names: tuple[str, ...], account: Account) -> Match:
    """The finding for all embeddings of one size."""
    unit = _whole(account.places[0])
    array, calls, alone = array_bytes(unit), account.calls, len(names) == 1
    often = f"{calls:.0f} rotary embedding{'s' * (calls > 1)} over {list(size)} per step"
    return Match(
        rows=account.rows,
        ops=account.ops,
        key="x".join(map(str, size)) + f"-{len(names)}",
        summary=(
            f"{often} multiply complex numbers, {format_time(account.seconds)}: compilers do not fuse them with what "
            f"stands around"
            if alone
            else f"{often} are written out in {len(names)} operators, {format_time(account.seconds)}; one pass would "
            f"read and write {format_bytes(array)} once"
        ),
        evidence=(
            spelled(names),
            f"{list(size)}, {element(unit).name}",
            *(("the backward pass takes the slices and joins apart again",) if account.trained and not alone else ()),
            *(("on a CPU compilers write out what is joined and read it again",) if _joins(context, account) else ()),
        ),
        saving_s=None if alone else as_recorded_s(context, account.saving_s(array * _passes(context, account))),
        where=f"{calls:.0f} per step",
        replacement=(
            "real arithmetic, compiled" if "mul" in names and element(unit).is_complex
            else "torch.compile of the function" if not context.trace.on_device
            else "a fused kernel, by torch.compile or Liger-Kernel"
        ),
        how="apply_rope = torch.compile(apply_rope)  # with cos and sin as real tensors, computed once",
        tier=account.tier,
    )  # fmt: skip


def _passes(context: Context, account: Account) -> int:
    """How many arrays a fused pass reads and writes: x and y, their gradients, and what has to be joined before."""
    return (4 if account.trained else 2) + (JOINED_PASSES if _joins(context, account) else 0)


def _joins(context: Context, account: Account) -> bool:
    """Whether others read what is joined, and a compiler does not do that in registers: not on a CPU."""
    return not context.trace.on_device and any(name in ("cat", "stack") for name in account.names[:-1])


RULES = (
    Rule(
        "F11", "unfused-rope", "rotary embedding written out", find,
        trigger="x·cos + rotated(x)·sin, by halves, by pairs or in complex numbers, operator by operator",
        advice="one fused pass for queries and keys",
        saving="of the time of its operators, the share of the bytes that one pass need not move",
        cannot_show="whether queries and keys can be turned in one call",
        proof="replay", needs=("shapes",),
        example=Example(
            "q = q * cos + torch.cat((-q[..., d:], q[..., :d]), -1) * sin",
            "@torch.compile\ndef apply_rope(q, k, cos, sin): ...",
        ),
    ),
)  # fmt: skip
