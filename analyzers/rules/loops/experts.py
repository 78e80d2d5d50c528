"""F28: a mixture of experts that runs expert after expert: gathering tokens for each, or giving all tokens to all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion.attention_flow import factors, number
from probe.analyzers.rules.fusion.attention_site import element_of
from probe.analyzers.rules.loops import small_products
from probe.analyzers.rules.matching.flow import Flow
from probe.analyzers.rules.matching.repeats import replaced_as_recorded_s
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.units import format_time

FEWEST = 4  # experts
PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm"})
GATHERS = frozenset({"index", "index_select", "gather", "masked_select"})
SCATTERS = frozenset({"index_add", "index_put", "scatter_add", "index_copy", "scatter"})
CHOOSING = frozenset({"where", "nonzero", "eq", "fill", "bitwise_and", "sum", "max"})  # finding an expert's tokens
ROUTES = frozenset({"topk", "argmax", "sort", "one_hot", "max"})
# What no expert has, and layers of a model do: norms and attention.
NO_EXPERT = frozenset(
    "rsqrt sqrt native_layer_norm _fused_rms_norm rms_norm _softmax scaled_dot_product_attention embedding".split()
)
JOINS = frozenset({"stack", "cat"})
VIEWS = 4  # slices and selections that a CPU's grouped product makes for each expert's
REACH = 48  # units of one expert

Shape = tuple[tuple[int, ...], ...]  # sizes of the weights of one expert


@dataclass(frozen=True)
class _Expert:
    """One pass of one expert in a run: the units from gathering its tokens to adding what it made of them."""

    units: tuple[Unit, ...]
    weights: Shape

    @property
    def products(self) -> list[int]:
        """Rows of its matrix products."""
        return [u.row for u in self.units if u.name in PRODUCTS]

    @property
    def moving(self) -> list[int]:
        """Rows of what chooses, gathers, weights and scatters its tokens."""
        return [u.row for u in self.units if u.name in GATHERS | SCATTERS | CHOOSING or _is_by_row(u)]


def find(context: Context) -> Iterator[Match]:
    """One match per size of experts: those that gather their tokens first, then those that take all."""
    backward = context.under_engine
    gathering: dict[Shape, list[list[_Expert]]] = defaultdict(list)
    masking: dict[Shape, list[tuple[list[_Expert], float]]] = defaultdict(list)
    for flow in context.flows:
        forward = [i for i, u in enumerate(flow.units) if not backward[u.row] and u.row not in context.claimed]
        units = [flow.units[i] for i in forward]
        for layer in _layers(units):
            gathering[layer[0].weights].append(layer)
        if not gathering:
            for layer, kept in _masking(flow, forward):
                masking[layer[0].weights].append((layer, kept))
    for layers in gathering.values():
        yield _gathered(context, layers)
    for found in masking.values():
        yield _masked(context, found)


def _gathering(units: Sequence[Unit]) -> Iterator[tuple[bool, _Expert]]:
    """Sequences of units that gather rows, multiply them and add them to where they belong.

    With each whether a product stands before it that is not an expert's: then another layer begins.
    """
    begin = 0
    for at, unit in enumerate(units):
        if unit.name not in SCATTERS:
            continue
        segment = units[max(begin, at - REACH) : at + 1]
        gather = _gather(segment)
        if gather is not None:
            while gather and segment[gather - 1].name in CHOOSING:
                gather -= 1
            products = [u for u in segment[gather:] if u.name in PRODUCTS]
            yield (
                any(u.name in PRODUCTS for u in segment[:gather]),
                _Expert(tuple(segment[gather:]), _weights(products)),
            )
        begin = at + 1


def _gather(units: Sequence[Unit]) -> int | None:
    """Where the last unit is one that scatters: the unit that gathered what the first product before it reads."""
    last = next((f for u in reversed(units) if (f := factors_of(u)) is not None), None)
    scattered = units[-1].dims[0][-1:] if units[-1].dims else ()
    if last is None or scattered != last[1][-1:]:
        return None
    following: tuple[int, ...] = ()
    for at in range(len(units) - 1, -1, -1):
        unit = units[at]
        both = factors_of(unit)
        following = both[0] if both is not None else following
        if unit.name in GATHERS and following and unit.dims and unit.dims[0][-1:] == following[-1:]:
            return at
    return None


def factors_of(unit: Unit) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sizes of the two factors of a product, with or without something added."""
    if unit.name == "addmm":
        both = unit.dims[1:3]
        return (both[0], both[1]) if len(both) == 2 and all(len(f) == 2 for f in both) else None
    return factors(unit) if unit.name in PRODUCTS else None


def _weights(products: Sequence[Unit]) -> Shape:
    return tuple(f[1] for unit in products if (f := factors_of(unit)) is not None)


def _layers(units: Sequence[Unit]) -> Iterator[list[_Expert]]:
    """Experts with weights of the same sizes, one after the other."""
    layer: list[_Expert] = []
    for new, expert in _gathering(units):
        if layer and (new or expert.weights != layer[0].weights):
            if len(layer) >= FEWEST:
                yield layer
            layer = []
        layer.append(expert)
    if len(layer) >= FEWEST:
        yield layer


def _masking(flow: Flow, forward: Sequence[int]) -> Iterator[tuple[list[_Expert], float]]:
    """After each routing, the experts that all read the same tokens; with the share of the tokens that is theirs."""
    routes = [n for n, i in enumerate(forward) if flow.units[i].name in ROUTES]
    for n, after in pairwise([*routes, len(forward)]):
        layer = _same_tokens(flow, forward[n + 1 : after])
        if len(layer) >= FEWEST:
            yield layer, min(_chosen(flow.units[forward[n]]) / len(layer), 1.0)


def _chosen(route: Unit) -> float:
    """How many experts a token is given to."""
    return (number(route, 1) or 1.0) if route.name == "topk" else 1.0


def _same_tokens(flow: Flow, indices: Sequence[int]) -> list[_Expert]:
    """The experts among some units: repeated products of the same sizes with the same tokens, each scaled by row."""
    products = [i for i in indices if flow.units[i].name in PRODUCTS]
    if not products:
        return []
    firsts = [i for i in products if flow.units[i].dims == flow.units[products[0]].dims]
    if flow.tier != "order":
        tokens = _tokens(flow, firsts[0])
        firsts = [i for i in firsts if _tokens(flow, i) == tokens]
    joined = flow.tier != "order" and any(flow.units[i].name in JOINS for i in indices if i > firsts[-1])
    experts = []
    end = firsts[-1] + (firsts[-1] - firsts[-2] if len(firsts) > 1 else REACH)
    for first, after in pairwise([*firsts, end]):
        units = tuple(flow.units[i] for i in indices if first <= i < after and flow.units[i].name not in JOINS)
        if any(u.name in NO_EXPERT for u in units):
            break
        if joined or any(_is_by_row(unit) for unit in units):
            experts.append(_Expert(units, _weights([u for u in units if u.name in PRODUCTS])))
    return [e for e in experts if e.weights[:1] == experts[0].weights[:1]]


def _tokens(flow: Flow, index: int) -> object:
    """What the first factor of a product is."""
    arguments = flow.arguments[index]
    at = 1 if flow.units[index].name in ("addmm", "baddbmm") else 0
    return (arguments[at].value, arguments[at].makers) if at < len(arguments) else None


def _is_by_row(unit: Unit) -> bool:
    """Whether a weight or a mask with one value a token is applied."""
    others = [d for d in unit.dims if d and d != unit.size and isinstance(d[0], int) and prod(d) > 1]
    by_row = any(d[-1] == 1 and prod(d) == prod(unit.size[:-1]) for d in others)
    return by_row and unit.name in ("mul", "where", "masked_fill")


def _gathered(context: Context, layers: list[list[_Expert]]) -> Match:
    experts = [expert for layer in layers for expert in layer]
    moving = [row for expert in experts for row in expert.moving]
    rows = [u.row for expert in experts for u in expert.units]
    backward = context.backward_rows(rows)
    moved_back = context.backward_rows(moving)
    spent_s = context.seconds(moving) + context.seconds(moved_back)
    spent_s += 0.0 if context.trace.on_device else sum(_gaps(layer) for layer in layers) / len(context.steps)
    once_s = (context.roof_s(_token_bytes(layers) / len(context.steps)) or 0.0) * (2 if backward else 1)
    if not context.trace.on_device:
        products = sum(len(expert.products) for expert in experts) / len(context.steps)
        once_s += VIEWS * context.machine.dispatch_s * products * (3 if backward else 1)
    names = " → ".join(u.name for u in experts[0].units)
    return Match(
        rows=(*rows, *backward),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="x".join(map(str, experts[0].weights[0])),
        summary=(
            f"{len(layers[0])} experts run one after the other, {times(len(layers) / len(context.steps))}: finding, "
            f"gathering, weighting and adding up the tokens of each takes {format_time(spent_s)} beside "
            f"{format_time(context.seconds([row for expert in experts for row in expert.products]))} of products"
        ),
        evidence=(names, f"weights of {' and '.join(str(list(w)) for w in experts[0].weights)}"),
        saving_s=max(spent_s - replaced_as_recorded_s(context, once_s), 0.0),
        where=f"the loop over {len(layers[0])} experts",
        replacement="tokens sorted by expert, and one grouped product",
        how="order = expert_of.argsort(); y = torch._grouped_mm(x[order], weights, offs=ends)  # gathered once",
    )


def _gaps(layer: list[_Expert]) -> float:
    """Seconds of Python between the units of all experts but one."""
    first, last = layer[0].units[0], layer[-1].units[-1]
    inside = sum(u.end_ns - u.start_ns for expert in layer for u in expert.units)
    return max(last.end_ns - first.start_ns - inside, 0) / 1e9 * (len(layer) - 1) / len(layer)


def _token_bytes(layers: list[list[_Expert]]) -> int:
    """Bytes of gathering and scattering all tokens once, each read and written."""
    total = 0
    for layer in layers:
        for expert in layer:
            product = next(u for u in expert.units if u.name in PRODUCTS)
            tokens, element = factors_of(product), element_of(product)
            total += 4 * prod(tokens[0] if tokens else (0,)) * (element.itemsize if element else 4)
    return total


def _masked(context: Context, found: list[tuple[list[_Expert], float]]) -> Match:
    experts = [expert for layer, _ in found for expert in layer]
    rows = [u.row for expert in experts for u in expert.units]
    backward = context.backward_rows(rows)
    spent_s = context.seconds(rows) + context.seconds(backward)
    count, kept = len(found[0][0]), found[0][1]
    return Match(
        rows=(*rows, *backward),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="all-" + "x".join(map(str, experts[0].weights[0])),
        summary=(
            f"{count} experts are given every token, {times(len(found) / len(context.steps))}, and all but "
            f"{kept:.0%} of what they make is not used: {format_time(spent_s)}"
        ),
        evidence=(
            "products of the same tokens with weights of the same sizes, after a routing",
            f"a token is routed to {kept * count:.0f} of {count}",
        ),
        saving_s=spent_s * (1 - kept),
        where=f"the loop over {count} experts",
        replacement="each expert on its own tokens, best as one grouped product",
        how="order = expert_of.argsort(); y = torch._grouped_mm(x[order], weights, offs=ends)",
    )


RULES = (
    Rule(
        "F28", "expert-loop", "experts that run one after the other", find,
        trigger="four or more times gather, products with weights of the same sizes, scatter; or all tokens to all",
        advice="sort the tokens by expert once and run one grouped product",
        saving="gathering and scattering but for doing it once; or the work on tokens that are not the expert's",
        cannot_show="how evenly tokens are routed in other steps",
        proof="module", effort="function", needs=("shapes",),
        example=Example("for e in range(E):\n    y[idx[e]] += expert[e](x[idx[e]])",
                        "y = torch._grouped_mm(x[order], weights, offs=ends)"),
    ),
    *small_products.RULES,
)  # fmt: skip
