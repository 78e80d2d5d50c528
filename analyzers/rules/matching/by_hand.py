"""How are activations spelled in primitive operators that torch has as one?"""

from __future__ import annotations

from collections.abc import Iterator

from probe.analyzers.rules.context import Context
from probe.analyzers.rules.fusion.norm_patterns import is_array
from probe.analyzers.rules.matching.continued import forward, taken
from probe.analyzers.rules.matching.patterns import Op, Pattern, op, through, value
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.search import matches

X = value("x", is_array)


def gelu_by_tanh(x: Pattern) -> Op:
    """½ x (1 + tanh(√(2/π) (x + 0.044715 x³))), of x bound by name."""
    cube = op("pow", x) | op("mul", op("mul", x, x), x)
    tanh = op("tanh", through("mul", op("add", x, through("mul", cube, most=2)), most=1))
    return op("mul", through("mul", op("add", tanh), most=1), through("mul div", x, most=1))


def gelu_by_erf(x: Pattern) -> Op:
    """½ x (1 + erf(x / √2)), of x bound by name."""
    scaled = through("mul div", x, most=1)
    return op("mul", through("mul", op("add", op("erf", scaled)), most=1), scaled)


MISH = op("mul", op("tanh", op("softplus", X)), X)
SILU = op("mul", op("sigmoid", X), X)

SPELLED: tuple[tuple[Pattern, str, str], ...] = (  # with torch's own and the line to paste
    (gelu_by_tanh(X), "GELU", 'F.gelu(x, approximate="tanh")'),
    (gelu_by_erf(X), "GELU", "F.gelu(x)"),
    (MISH, "Mish", "F.mish(x)"),
)


def spelled_out(context: Context) -> Iterator[tuple[Place, str, str]]:
    """Activations written out. By sizes alone σ(a) · b looks like x · σ(x): that one needs its tensors known."""
    for pattern, name, line in SPELLED:
        for place in forward(context, pattern):
            yield place, name, line
    closed = taken(context)
    for flow in context.flows:
        for place in matches(flow, SILU, closed) if flow.tier != "order" else ():
            yield place, "SiLU", "F.silu(x)"
