"""F12: a gated activation (SwiGLU, GeGLU, ReGLU, GLU) in several passes over what the products wrote."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.fusion.norm_patterns import is_array
from probe.analyzers.rules.matching.by_hand import gelu_by_erf, gelu_by_tanh
from probe.analyzers.rules.matching.continued import made_by, taken
from probe.analyzers.rules.matching.flow import Flow, result_size
from probe.analyzers.rules.matching.ledger import Account, array_bytes, as_recorded_s, element, ledger_of, spelled
from probe.analyzers.rules.matching.patterns import op, through, value
from probe.analyzers.rules.matching.search import SEEN_THROUGH, matches
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.units import MATRIX
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Mask
from probe.units import format_bytes, format_time

GATE, UP = value("gate", is_array), value("up", is_array)
SWISH = op("mul", op("sigmoid", through("mul", GATE, most=1)), GATE, name="activation")  # x · σ(βx)
GELU = gelu_by_tanh(GATE).called("activation") | gelu_by_erf(GATE).called("activation")
ACTIVATION = op("silu gelu relu sigmoid mish elu hardswish", GATE, name="activation")
GATED = op("mul", SWISH | GELU | ACTIVATION, UP, name="gated")
PRODUCTS = MATRIX | {"convolution"}
BIASED = SEEN_THROUGH | {"add"}
REACH = 12  # units back within which the products lie
NAMES = {"silu": "SwiGLU", "mul": "SwiGLU", "gelu": "GeGLU", "relu": "ReGLU", "sigmoid": "GLU"}


def find(context: Context) -> Iterator[Match]:
    """One match per size and activation; all layers and steps together."""
    closed = taken(context)
    found = (p for flow in context.flows for p in _gates(flow, closed))
    for (size, name), account in ledger_of(context).accounts(found, lambda p: (p.named["gated"].size, _name(p))):
        yield _match(context, size, name, account)


def _name(place: Place) -> str:
    if {"tanh", "erf"}.intersection(unit.name for unit in place.units):
        return "GeGLU"
    return NAMES.get(place.named["activation"].name, "a gated activation")


def _gates(flow: Flow, closed: Mask) -> Iterator[Place]:
    for place in matches(flow, GATED, closed):
        gated = place.named["gated"]
        if gated.dims[:2] == (gated.size, gated.size) and _is_gate(flow, place):
            yield place


def _is_gate(flow: Flow, place: Place) -> bool:
    """Whether both factors come from products. By sizes a gate of a tensor by itself (x · σ(x)) looks the same."""
    at, gated = flow.index_of, place.named["gated"]
    first = at[place.units[0].row]
    if flow.tier == "order":
        products = flow.shared("elements of products", lambda: _products(flow))
        last = at[gated.row]
        made = [numel for i in range(max(first - REACH, 0), last) if (numel := products[i]) is not None]
        alone = place.units[0].name in ("relu", "sigmoid")
        return 2 * gated.numel in made or (not alone and made.count(gated.numel) >= 2)
    if place.values["gate"] == place.values["up"]:
        return False
    inside = {unit.row for unit in place.units}
    gate, up = (
        [a for a in flow.arguments[at[unit.row]] if not any(flow.units[maker].row in inside for maker in a.makers)]
        for unit in (place.units[0], gated)
    )
    return bool(up) and all(made_by(flow, argument, PRODUCTS, BIASED) for argument in (*gate, *up) if argument.size)


def _products(flow: Flow) -> list[int | None]:
    """Elements of the results of products, None for other units."""
    return [prod(result_size(unit) or ()) if unit.name in MATRIX else None for unit in flow.units]


def _match(context: Context, size: tuple[int, ...], name: str, account: Account) -> Match:
    """The finding for all gates of one size."""
    unit = account.places[0].named["gated"]
    array, calls, on_cpu = array_bytes(unit), account.calls, not context.trace.on_device
    return Match(
        rows=account.rows,
        ops=account.ops,
        key=f"{name}-" + "x".join(map(str, size)),
        summary=(
            f"{name} over {list(size)} runs {calls:.0f} times per step in {len(account.names)} operators"
            f"{' and their backward passes' if account.trained else ''}, each through {format_bytes(array)} of memory: "
            f"{format_time(account.seconds)}; one pass reads gate and up and writes the product"
        ),
        evidence=(
            spelled(account.names),
            f"{list(size)}, {element(unit).name}",
            *(_arithmetic(account)),
        ),
        saving_s=as_recorded_s(
            context, account.saving_s(array * (8 if account.trained else 3))
        ),  # g, u → y; dy, g, u → dg, du
        where=f"{calls:.0f} per step",
        replacement="torch.compile of the function" if on_cpu else "a fused kernel, by torch.compile or Liger-Kernel",
        how=_line(account, name),
        tier=account.tier,
    )


def _arithmetic(account: Account) -> Iterator[str]:
    """What fusing cannot save."""
    if account.arithmetic_s > 0.1 * account.seconds:
        yield f"{format_time(account.arithmetic_s)} of it is arithmetic that stays"


def _line(account: Account, name: str) -> str:
    if name == "GLU":
        return "F.glu(h, dim=-1)  # of the packed product: first half times the sigmoid of the second"
    function = next((n for n, known in NAMES.items() if known == name), "silu")
    return f"gate = torch.compile(lambda g, u: F.{function}(g) * u)  # one product for both: g, u = W(x).chunk(2, -1)"


RULES = (
    Rule(
        "F12", "unfused-gated-activation", "SwiGLU or a like gate in several passes", find,
        trigger="an activation of one product times another product of the same size",
        advice="one fused pass for activation and gate; one packed product for both",
        saving="of the time of its operators, the share of the bytes that one pass need not move",
        cannot_show="whether gate and up weights can be packed into one (that saves a reading of x besides)",
        proof="replay", needs=("shapes",),
        example=Example(
            "return self.down(F.silu(self.gate(x)) * self.up(x))",
            "gate = torch.compile(lambda g, u: F.silu(g) * u)\nreturn self.down(gate(*self.gate_up(x).chunk(2, -1)))",
        ),
    ),
)  # fmt: skip
