"""How are activations and losses spelled in primitive operators that torch has as one?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from probe.analyzers.rules.context import Context
from probe.analyzers.rules.fusion.norm_patterns import is_array
from probe.analyzers.rules.matching.continued import forward, taken
from probe.analyzers.rules.matching.patterns import Op, Pattern, op, through, value
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.search import matches
from probe.analyzers.rules.matching.units import Unit

X = value("x", is_array)


def by_a_number(unit: Unit) -> bool:
    """Whether one of two factors is a number of the program's text, and no tensor, which may have a gradient."""
    dtypes = unit.signature.dtypes[:2] if unit.signature else ()
    return () in unit.dims[:2] and (len(dtypes) < 2 or dtypes[0] != dtypes[1])


def _scaled(x: Pattern, names: str = "mul") -> Pattern:
    """Multiplied by a number or not: of arrays, recurrent cells make as many products and sums around a tanh."""
    return op(names, x, test=by_a_number) | x


def _plus_a_number(x: Pattern) -> Op:
    return op("add", x, test=by_a_number)


def gelu_by_tanh(x: Pattern) -> Op:
    """½ x (1 + tanh(√(2/π) (x + 0.044715 x³))), of x bound by name; or √(2/π) x (1 + 0.044715 x²) in the middle."""
    square = op("pow", x) | op("mul", _scaled(x), x)
    cube = op("pow", x) | op("mul", op("mul", _scaled(x), x), x)
    cubic = op("add", x, _scaled(_scaled(cube))) | op("mul", _scaled(x), _plus_a_number(_scaled(square)))
    return op("mul", _scaled(_plus_a_number(op("tanh", _scaled(cubic)))), _scaled(x, "mul div"))


def gelu_by_erf(x: Pattern) -> Op:
    """½ x (1 + erf(x / √2)), of x bound by name."""
    scaled = _scaled(x, "mul div")
    return op("mul", _scaled(_plus_a_number(op("erf", scaled))), scaled)


MISH = op("mul", op("tanh", op("softplus", X)), X)
SILU = op("mul", op("sigmoid", X), X)


ONE_HOT = op("one_hot") | op("scatter", op("zero fill"), test=lambda unit: unit.dims[3:4] == ((),))  # of a number
TARGETS = _plus_a_number(_scaled(ONE_HOT)) | _scaled(ONE_HOT)  # smoothed or not
LOG_SOFTMAX = op("log", through("add clamp clamp_min", op("_softmax", X), most=1)) | op("_log_softmax", X)
CROSS_ENTROPY = op("sum", op("mul", through("neg", LOG_SOFTMAX, most=1), through("neg", TARGETS, most=1)))


@dataclass(frozen=True, eq=False)
class Spelling:
    """A function in primitive operators, and torch's own.

    line: what to paste; passes: arrays that torch's own reads and writes, and how many in training.
    """

    pattern: Pattern
    name: str
    line: str
    passes: tuple[int, int] = (2, 5)  # x → y; dy, x → dx


SPELLED = (
    Spelling(gelu_by_tanh(X), "GELU", 'F.gelu(x, approximate="tanh")'),
    Spelling(gelu_by_erf(X), "GELU", "F.gelu(x)"),
    Spelling(MISH, "Mish", "F.mish(x)"),
    Spelling(  # its log-softmax is kept, and read again for smoothing
        CROSS_ENTROPY, "a cross-entropy", "F.cross_entropy(logits, target, label_smoothing=0.1)  # 0 without", (4, 12)
    ),
)
BY_ITSELF = Spelling(SILU, "SiLU", "F.silu(x)")  # by sizes alone σ(a) · b looks like it


def spelled_out(context: Context) -> Iterator[tuple[Place, Spelling]]:
    """Functions written out, where torch's own would be quicker."""
    for spelling in SPELLED:
        for place in forward(context, spelling.pattern):
            if not (spelling.pattern is MISH and _is_trained_on_cpu(context, place)):
                yield place, spelling
    closed = taken(context)
    for flow in context.flows:
        for place in matches(flow, BY_ITSELF.pattern, closed) if flow.tier != "order" else ():
            yield place, BY_ITSELF


def _is_trained_on_cpu(context: Context, place: Place) -> bool:
    """Whether torch's own would be slower where it has to be: its Mish takes 1.5 times as long backward on a CPU."""
    return not context.trace.on_device and bool(context.backward_rows([unit.row for unit in place.units]))
