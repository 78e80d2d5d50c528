"""F13: products of one input with several weights (queries, keys and values) that could be one product."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod

import numpy as np

from probe.analyzers.roofline import place
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.loops.small_products import ATTAINED, is_small
from probe.analyzers.rules.matching.continued import CASTS, in_backward
from probe.analyzers.rules.matching.flow import PRODUCT_OF, Argument, Flow, Tier, weakest
from probe.analyzers.rules.matching.ledger import element, ledger_of
from probe.analyzers.rules.matching.search import SEEN_THROUGH
from probe.analyzers.rules.matching.units import Unit, normalised
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Mask
from probe.units import format_bytes, format_time

PRODUCTS = frozenset({"mm", "addmm", "bmm"})  # bmm with a batch of one: what einsum makes of a product
NEAR = 64  # units within which products of one input lie
TILE = 128  # rows and columns of a result that one block of a GPU's product usually makes
ATTENTION = frozenset({"bmm", "baddbmm", "scaled_dot_product_attention", "_softmax", "_safe_softmax"})
PYTHON = 40  # dispatches that Python takes at the most to come from one product to the next: a module's call, and views
ATTENTION_NEAR = 24  # units after queries, keys and values within which attention reads them
BETWEEN = SEEN_THROUGH | {"add"}  # what may stand between products of one input where tensors are not known


@dataclass(frozen=True)
class _Product:
    """One product X · W of the forward pass."""

    index: int
    unit: Unit
    input: Argument
    weight: Argument

    @property
    def key(self) -> tuple[object, ...]:
        """What products of one input have in common."""
        return self.input.value, self.input.makers, self.input.size, self.unit.name


def find(context: Context) -> Iterator[Match]:
    """One match per sizes of the products; all layers and steps together. It claims nothing: products stay."""
    backward = in_backward(context)
    sites: dict[tuple[object, ...], list[tuple[Unit, ...]]] = defaultdict(list)
    tiers = set()
    for flow in context.flows:
        for group in _groups(flow, backward):
            sites[tuple(p.weight.size for p in group), group[0].input.size].append(tuple(p.unit for p in group))
            tiers.add(flow.tier_of([p.index for p in group]))
    for same in sites.values():
        found = _match(context, same, weakest(tiers))
        if found.saving_s is not None:  # without a roof nothing says whether one product would be faster
            yield found


def _groups(flow: Flow, backward: Mask) -> list[list[_Product]]:
    """Two or more products of one input with different weights."""
    known = flow.shared("factors", lambda: list(_factors_of(flow)))
    products = [_Product(i, flow.units[i], *both) for i, *both in known if not backward[flow.units[i].row]]
    groups = _in_a_row(flow, products) if flow.tier == "order" else _of_one_input(flow, products)
    return [group for group in groups if len(group) >= 2]


def _of_one_input(flow: Flow, products: Sequence[_Product]) -> list[list[_Product]]:
    """Products that read the same tensor, not yet written anew, with weights that nothing in the step computes."""
    groups: list[list[_Product]] = []
    latest: dict[tuple[object, ...], list[_Product]] = {}
    for product in products:
        if any(flow.units[maker].name not in SEEN_THROUGH for maker in product.weight.makers):
            continue
        if product.weight.origin not in (None, "parameter"):
            continue
        same = latest.get(product.key)
        if same is None or product.index - same[-1].index > NEAR:
            same = latest[product.key] = []
            groups.append(same)
        if product.weight.value not in {p.weight.value for p in same}:
            same.append(product)
    return groups


def _in_a_row(flow: Flow, products: Sequence[_Product]) -> list[list[_Product]]:
    """Products one after another over the same sizes, none of which can read the one before."""
    groups: list[list[_Product]] = []
    for product in products:
        last = groups[-1][-1] if groups else None
        alike = last is not None and (last.input.size, last.unit.name) == (product.input.size, product.unit.name)
        if last is not None and alike and _adjacent(flow, last, product):
            groups[-1].append(product)
        else:
            groups.append([product])
    return [group for group in groups if _apart(flow, group)]


def _adjacent(flow: Flow, first: _Product, second: _Product) -> bool:
    return all(unit.name in BETWEEN for unit in flow.units[first.index + 1 : second.index])


def _apart(flow: Flow, group: Sequence[_Product]) -> bool:
    """Whether the products are no chain: no result fits as a later one's input, or attention follows three of them."""
    if all(p.weight.size[-2] != p.weight.size[-1] for p in group[:-1]):
        return True
    after = flow.units[group[-1].index + 1 : group[-1].index + 1 + ATTENTION_NEAR]
    return len(group) == 3 and any(unit.name in ATTENTION for unit in after)


def _factors_of(flow: Flow) -> Iterator[tuple[int, Argument, Argument]]:
    """The index, the input and the weight of each product."""
    for index, (unit, arguments) in enumerate(zip(flow.units, flow.arguments, strict=True)):
        at = PRODUCT_OF.get(unit.name, 0)
        if unit.name in PRODUCTS and len(arguments) >= at + 2 and prod(arguments[at + 1].size[:-2]) == 1:
            yield index, _source(flow, arguments[at]), arguments[at + 1]


def _source(flow: Flow, argument: Argument) -> Argument:
    """What was copied or cast to make the argument, where that is known: autocast casts an input for each product."""
    while flow.tier != "order" and argument.makers and flow.units[argument.makers[0]].name in CASTS:
        argument = flow.arguments[argument.makers[0]][0]
    return argument


def _match(context: Context, same: list[tuple[Unit, ...]], tier: Tier) -> Match:
    """The finding for all groups of one size."""
    group = same[0]
    rows = [unit.row for units in same for unit in units]
    calls, seconds = len(same) / len(context.steps), ledger_of(context).seconds(rows)
    size, weights = _factors(group[0])[0], [_factors(unit)[1] for unit in group]
    trained = bool(context.backward_rows(rows))
    saving_s = _saving_s(context, group, calls, seconds, trained)
    if saving_s is not None and not context.trace.on_device and is_small(context, group[0]):
        saving_s = max(saving_s, _starts_s(context, same))
    array = prod(size) * element(group[0]).itemsize
    return Match(
        rows=(),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="x".join(map(str, size)) + f"-{len(group)}x{weights[0][1]}",
        summary=(
            f"{len(group)} products read the same {list(size)} input ({format_bytes(array)}) with weights of "
            f"{' and '.join(sorted({str(list(w)) for w in weights}))}, {times(calls)}: "
            f"{format_time(seconds)}; as one product the input is read once and {_launches(len(group) - 1)} made"
        ),
        evidence=(
            f"{len(group)} {group[0].name} with one input" + (", by its sizes" if tier == "order" else ""),
            *(("backward, their input's gradients are added up one by one",) if trained else ()),
        ),
        saving_s=saving_s,
        where=times(calls),
        replacement="one product with packed weights",
        how=(
            f"{', '.join('abcdefgh'[: len(group)])} = F.linear(x, packed).split("
            f"{[w[1] for w in weights]}, -1)  # packed = torch.cat([…]) of the weights, once"
        ),
        tier=tier,
    )


def _launches(fewer: int) -> str:
    return "one launch less is" if fewer == 1 else f"{fewer} launches less are"


def _factors(unit: Unit) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of input and weight, two dimensions each."""
    at = PRODUCT_OF[unit.name]
    return unit.dims[at][-2:], unit.dims[at + 1][-2:]


def _saving_s(context: Context, group: Sequence[Unit], calls: float, seconds: float, trained: bool) -> float | None:
    """Reading the input once instead of n times, n - 1 launches, and blocks that fill a GPU better.

    Backward: the input's gradient is made once instead of n times and added up, and the input read once.
    """
    size, _ = _factors(group[0])
    read_s = context.roof_s(prod(size) * element(group[0]).itemsize)
    if read_s is None:
        return None
    fewer = len(group) - 1
    launch_s = (context.machine.ceilings.launch_s or 0.0) if context.trace.on_device else context.machine.dispatch_s
    saved = fewer * (read_s + launch_s) + (fewer * (5 * read_s + 3 * launch_s) if trained else 0.0)
    return min(calls * saved * ledger_of(context).stretch + _tail_s(context, group, calls, seconds), seconds / 2)


def _starts_s(context: Context, same: Sequence[Sequence[Unit]]) -> float:
    """What it takes a CPU to start all products but the last of each group: Python, dispatch, small calls.

    That is their time and what passes until the next one starts, less their arithmetic, which the packed product has
    to do; backward, that of their derivatives less as much.
    """
    roof_s = place(context.costs[context.groups.of_op[same[0][0].row]], context.machine.ceilings).roof_s or 0.0
    fewer, products = len(same[0]) - 1, len(same[0])
    spans = [sum(_until_ns(context, a, b) for a, b in pairwise(units)) for units in same]
    starting_s = max(float(np.median(spans)) / 1e9 - fewer * roof_s / ATTAINED, 0.0)
    backward_s = context.seconds(context.backward_rows([u.row for units in same for u in units]))
    again_s = backward_s * len(context.steps) / len(same) * fewer / products - 2 * fewer * roof_s / ATTAINED
    return (starting_s + max(again_s, 0.0)) * context.bare_fraction * len(same) / len(context.steps)


def _until_ns(context: Context, first: Unit, second: Unit) -> int:
    """Time from a product's start to the next one's without the operators between them; their own apart from that.

    What lies between counts only where it is the same work once more: Python, views, casts and biases. Of what one
    call does inside (a compiled region, whose kernels nobody records) nothing is known.
    """
    ops, own = context.trace.host_ops, first.end_ns - first.start_ns
    outermost = ledger_of(context).outermost
    rows = np.arange(first.row + 1, second.row)
    apart = (ops.parent[rows] < 0) & (ops.start_ns[rows] >= first.end_ns) & (ops.end_ns[rows] <= second.start_ns)
    if outermost[first.row] == outermost[second.row] or not all(_is_beside(context, row) for row in rows[apart]):
        return own
    between_ns = int((ops.end_ns[rows] - ops.start_ns[rows])[apart].sum())
    idle_ns = second.start_ns - first.end_ns - between_ns
    return own + min(max(idle_ns, 0), int(PYTHON * context.machine.dispatch_s * 1e9))


def _is_beside(context: Context, row: int) -> bool:
    """Whether an operator between two products is part of what surrounds each of them."""
    name = normalised(context.trace.names[context.trace.host_ops.name[row]])
    return name in BETWEEN or context.costs[context.groups.of_op[row]].kind == "view"


def _tail_s(context: Context, group: Sequence[Unit], calls: float, seconds: float) -> float:
    """What blocks that do not fill a GPU's multiprocessors cost, less where bytes alone take as long."""
    sms = context.trace.device.sm_count if context.trace.on_device else None
    if not sms:
        return 0.0
    blocks = [ceil(_factors(u)[0][0] / TILE) * ceil(_factors(u)[1][1] / TILE) for u in group]
    packed = ceil(sum(blocks) / sms) / sum(ceil(n / sms) for n in blocks)
    moved = float(sum(prod(size) for u in group for size in _factors(u)) * element(group[0]).itemsize)
    least_s = calls * (context.roof_s(moved) or 0.0)
    return max(min(seconds * (1 - packed), seconds - least_s), 0.0)


RULES = (
    Rule(
        "F13", "unpacked-projections", "several products of one input that could be one", find,
        trigger="two or more matrix products of the same tensor with different weights",
        advice="pack the weights (queries, keys and values; gate and up) and split the result",
        saving="reading the input again, the launches (on a CPU the time that starting small products takes, Python "
        "included), and a GPU's multiprocessors that a small product leaves idle",
        cannot_show="whether the weights may be packed (adapters, sharding, other names in checkpoints)",
        proof="replay", needs=("shapes",),
        example=Example(
            "q, k, v = self.q(x), self.k(x), self.v(x)",
            "q, k, v = self.qkv(x).chunk(3, dim=-1)",
        ),
    ),
)  # fmt: skip
