"""What is the derivative of a chain? A chain again: of the inputs and the outputs' gradients, in reverse order.

Values of the forward pass that the gradients need are computed again from the inputs; what nobody reads is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from probe.kernels.fused.chain import COMPARISONS, Argument, Chain, Operation

# Of activations: operators that only derivatives have, and that have none themselves.
SLOPES = {"silu": "silu_slope", "gelu": "gelu_slope", "gelu_tanh": "gelu_tanh_slope"}
TWO_OVER_ROOT_PI = 1.1283791670955126


class _Growing:
    """A chain to which operators are added; the same one twice is one value."""

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.operations: list[Operation] = []
        self.known: dict[tuple[str, tuple[tuple[type, Argument], ...]], int] = {}

    def __call__(self, name: str, *arguments: Argument) -> int:
        key = (name, tuple((type(a), a) for a in arguments))  # 1 and 1.0 are equal, and mean different things
        if key not in self.known:
            self.operations.append(Operation(name, arguments))
            self.known[key] = self.inputs + len(self.operations) - 1
        return self.known[key]


Grow = _Growing
Rule = Callable[[Grow, int, Sequence[Argument], int], Sequence[int | None]]


def _power(grow: Grow, g: int, arguments: Sequence[Argument], out: int) -> Sequence[int | None]:
    """s x^(s - 1)."""
    base, exponent = arguments[0], float(arguments[1])
    if exponent == 0.0:
        return None, None
    return grow("mul", grow("mul", g, exponent), grow("pow", base, exponent - 1.0)), None


def _extremum(larger: str) -> Rule:
    """The whole gradient to the one chosen, half to each of two equal ones, as torch does."""

    def rule(grow: Grow, g: int, arguments: Sequence[Argument], out: int) -> Sequence[int | None]:
        a, b = arguments
        shared = grow("where", grow("eq", a, b), grow("mul", g, 0.5), 0.0)
        return grow("where", grow(larger, a, b), g, shared), grow("where", grow(larger, b, a), g, shared)

    return rule


def _clamped(grow: Grow, g: int, arguments: Sequence[Argument], out: int) -> Sequence[int | None]:
    """That of x where x lies between the bounds or on them."""
    x, low, high = arguments
    return grow("where", grow("ge", x, low), grow("where", grow("le", x, high), g, 0.0), 0.0), None, None


def _divided(grow: Grow, g: int, arguments: Sequence[Argument], out: int) -> Sequence[int | None]:
    """1 / b, and -(a / b) / b."""
    share = grow("div", g, arguments[1])
    return share, grow("neg", grow("mul", share, out))


def _absolute(grow: Grow, g: int, arguments: Sequence[Argument], out: int) -> Sequence[int | None]:
    """The sign."""
    [x] = arguments
    below = grow("where", grow("lt", x, 0.0), grow("neg", g), 0.0)
    return (grow("where", grow("gt", x, 0.0), g, below),)


def _activation(slope: str) -> Rule:
    """By an operator for the derivative."""
    return lambda grow, g, args, out: (grow("mul", g, grow(slope, args[0])),)


RULES: dict[str, Rule] = {
    "add": lambda grow, g, args, out: (g, g),
    "sub": lambda grow, g, args, out: (g, grow("neg", g)),
    "mul": lambda grow, g, args, out: (grow("mul", g, args[1]), grow("mul", g, args[0])),
    "div": _divided,
    "pow": _power,
    "neg": lambda grow, g, args, out: (grow("neg", g),),
    "abs": _absolute,
    "exp": lambda grow, g, args, out: (grow("mul", g, out),),
    "log": lambda grow, g, args, out: (grow("div", g, args[0]),),
    "tanh": lambda grow, g, args, out: (grow("mul", g, grow("sub", 1.0, grow("mul", out, out))),),
    "sigmoid": lambda grow, g, args, out: (grow("mul", g, grow("mul", out, grow("sub", 1.0, out))),),
    "relu": lambda grow, g, args, out: (grow("where", grow("gt", args[0], 0.0), g, 0.0),),
    "sqrt": lambda grow, g, args, out: (grow("div", grow("mul", g, 0.5), out),),
    "rsqrt": lambda grow, g, args, out: (grow("mul", grow("mul", g, -0.5), grow("pow", out, 3.0)),),
    "reciprocal": lambda grow, g, args, out: (grow("neg", grow("mul", g, grow("mul", out, out))),),
    "square": lambda grow, g, args, out: (grow("mul", grow("mul", g, 2.0), args[0]),),
    "sin": lambda grow, g, args, out: (grow("mul", g, grow("cos", args[0])),),
    "cos": lambda grow, g, args, out: (grow("neg", grow("mul", g, grow("sin", args[0]))),),
    "erf": lambda grow, g, args, out: (
        grow("mul", grow("mul", g, TWO_OVER_ROOT_PI), grow("exp", grow("neg", grow("mul", args[0], args[0])))),
    ),
    "maximum": _extremum("gt"),
    "minimum": _extremum("lt"),
    "clamp": _clamped,
    "where": lambda grow, g, args, out: (
        None, grow("where", args[0], g, 0.0), grow("where", args[0], 0.0, g)
    ),
    **{name: (lambda grow, g, args, out: (None, None)) for name in COMPARISONS},
    **{f"to_{name}": (lambda grow, g, args, out: (g,)) for name in ("float32", "float16", "bfloat16")},
    **{name: _activation(slope) for name, slope in SLOPES.items()},
}  # fmt: skip


@lru_cache(maxsize=1024)
def derivative(chain: Chain, wanted: tuple[bool, ...]) -> tuple[Chain, tuple[int | None, ...]]:
    """The chain of the gradients of the wanted inputs; and for each which of its outputs that is (None: it is 0).

    Its inputs are those of `chain`, then a gradient for each of its outputs.
    """
    grow = _Growing(chain.inputs + len(chain.outputs))
    place: list[int] = list(range(chain.inputs))
    for operation in chain.operations:
        place.append(grow(operation.name, *(place[a] if isinstance(a, int) else a for a in operation.arguments)))
    gradients: dict[int, int] = {}
    for i, output in enumerate(chain.outputs):
        _gather(grow, gradients, output, chain.inputs + i)
    for i in range(len(chain.operations) - 1, -1, -1):
        _back(grow, gradients, chain.operations[i], chain.inputs + i, place)
    found = [gradients.get(i) for i, asked in enumerate(wanted) if asked]
    return _pruned(grow, found)


def _gather(grow: Grow, gradients: dict[int, int], value: int, gradient: int) -> None:
    """Add to the gradient of a value."""
    gradients[value] = gradient if value not in gradients else grow("add", gradients[value], gradient)


def _back(grow: Grow, gradients: dict[int, int], operation: Operation, value: int, place: list[int]) -> None:
    """Hand the gradient of an operator's result on to its arguments."""
    if value not in gradients:
        return
    arguments = [place[a] if isinstance(a, int) else a for a in operation.arguments]
    for argument, part in zip(
        operation.arguments, RULES[operation.name](grow, gradients[value], arguments, place[value]), strict=True
    ):
        if isinstance(argument, int) and part is not None:
            _gather(grow, gradients, argument, part)


def _pruned(grow: Grow, found: list[int | None]) -> tuple[Chain, tuple[int | None, ...]]:
    """Without the operators that nothing needs."""
    needed = {value for value in found if value is not None}
    for i in range(len(grow.operations) - 1, -1, -1):
        if grow.inputs + i in needed:
            needed.update(grow.operations[i].values)
    place = {i: i for i in range(grow.inputs)}
    kept: list[Operation] = []
    for i, operation in enumerate(grow.operations):
        if grow.inputs + i in needed:
            place[grow.inputs + i] = grow.inputs + len(kept)
            arguments = tuple(place[a] if isinstance(a, int) else a for a in operation.arguments)
            kept.append(Operation(operation.name, arguments))
    outputs = tuple(place[value] for value in found if value is not None)
    numbers = iter(range(len(outputs)))
    return Chain(grow.inputs, tuple(kept), outputs), tuple(None if value is None else next(numbers) for value in found)
