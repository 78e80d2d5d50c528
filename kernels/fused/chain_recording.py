"""What chain do recorded operators make? Names of torch's operators, with their arguments, as a chain.

For operators as a run records them ("aten::mul", arguments in the order of the schema), and for a Python function,
which is traced on examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from probe.errors import UsageError
from probe.kernels.fused.chain import Argument, Chain, Operation, malformed

UNARY = ("neg abs exp log tanh sigmoid relu silu sqrt rsqrt reciprocal square sin cos erf").split()
BINARY = "add sub mul div pow maximum minimum gt ge lt le eq ne".split()
SAME = ("clone", "contiguous", "detach", "alias", "lift_fresh_copy")  # the value itself
CASTS = {torch.float32: "to_float32", torch.float16: "to_float16", torch.bfloat16: "to_bfloat16"}


@dataclass(frozen=True)
class Recorded:
    """One operator: its name, and arguments; a tensor is the number of the value it is, wrapped in `Value`."""

    name: str  # "aten::mul", "mul.Tensor"
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """The number of a value: the inputs first, then what each recorded operator gives."""

    number: int


def of_operators(inputs: int, operators: Sequence[Recorded], outputs: Sequence[int]) -> Chain:
    """The chain; raises UsageError where an operator is not pointwise or not known."""
    made: list[Operation] = []
    place: list[int] = list(range(inputs))

    def grow(name: str, *arguments: Argument) -> int:
        made.append(Operation(name, arguments))
        return inputs + len(made) - 1

    for operator in operators:
        arguments = [place[a.number] if isinstance(a, Value) else a for a in operator.arguments]
        place.append(_translated(grow, operator, arguments))
    chain = Chain(inputs, tuple(made), tuple(place[o] for o in outputs))
    wrong = malformed(chain)
    if wrong:
        raise UsageError(f"pointwise_chain: {wrong}")
    return chain


def _translated(grow: Callable[..., int], operator: Recorded, arguments: list[Any]) -> int:
    """The value of one operator; arguments that are numbers of values are ints of `grow`."""
    name = operator.name.removeprefix("aten::").partition(".")[0].rstrip("_")
    name = {"true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub"}.get(name, name)
    if name in SAME:
        return int(arguments[0])
    values = [_scalar(a, b) for a, b in zip(arguments, operator.arguments, strict=True)]
    if name in UNARY:
        return grow(name, values[0])
    if name == "gelu":
        approximate = operator.options.get("approximate", (*arguments, "none")[1] if len(arguments) > 1 else "none")
        return grow("gelu_tanh" if approximate == "tanh" else "gelu", values[0])
    if name in ("to", "_to_copy", "type_as") or name == "where":
        return _cast(grow, operator, values) if name != "where" else grow("where", *values)
    if name in ("clamp", "clamp_min", "clamp_max", "hardtanh"):
        return _clamp(grow, name, operator, values)
    if name in BINARY:
        alpha = operator.options.get("alpha", operator.arguments[2] if len(operator.arguments) > 2 else 1)
        second = values[1] if alpha in (1, None) else _scaled(grow, values[1], float(alpha))
        return grow(name, values[0], second)
    if name == "rsub":
        return grow("sub", values[1], values[0])
    raise UsageError(f"pointwise_chain: {operator.name} is not among the operators it knows")


def _scalar(placed: Any, recorded: Any) -> Any:
    """Numbers of values stay ints, scalars become floats."""
    if isinstance(recorded, Value):
        return placed
    return float(placed) if isinstance(placed, (int, float)) else placed


def _scaled(grow: Callable[..., int], value: Any, alpha: float) -> Any:
    """alpha · value."""
    return grow("mul", value, alpha) if isinstance(value, int) else value * alpha


def _cast(grow: Callable[..., int], operator: Recorded, values: list[Any]) -> int:
    """A cast; to another type than the known ones nothing is made."""
    dtype = operator.options.get("dtype", next((v for v in values[1:] if isinstance(v, torch.dtype)), None))
    if dtype is None and operator.options.get("device") is None:
        return int(values[0])
    if dtype not in CASTS:
        raise UsageError(f"pointwise_chain: a cast to {dtype} is not among those it knows")
    return grow(CASTS[dtype], values[0])


def _clamp(grow: Callable[..., int], name: str, operator: Recorded, values: list[Any]) -> int:
    """Bounds that are missing are infinite."""
    low = operator.options.get("min", values[1] if len(values) > 1 and name != "clamp_max" else None)
    high = operator.options.get("max", values[2] if len(values) > 2 else None)
    if name == "clamp_max":
        high = operator.options.get("max", values[1] if len(values) > 1 else None)
    infinity = float("inf")
    return grow("clamp", values[0], -infinity if low is None else float(low), infinity if high is None else float(high))


def of_function(function: Callable[..., Any], *examples: torch.Tensor) -> Chain:
    """The chain of what a function does to its arguments; raises UsageError where that is not a chain."""
    from torch.fx.experimental.proxy_tensor import make_fx

    different = [torch.empty_like(one) for one in examples]  # one tensor twice would be traced as one value
    graph = make_fx(function, tracing_mode="fake")(*different).graph
    place: dict[Any, int] = {}
    operators: list[Recorded] = []
    outputs: list[int] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            place[node] = len(place)
        elif node.op == "call_function":
            arguments = tuple(Value(place[a]) if isinstance(a, torch.fx.Node) else a for a in node.args)
            operators.append(Recorded(str(node.target.__name__), arguments, node.kwargs))
            place[node] = len(place)
        elif node.op == "output":
            found = node.args[0] if isinstance(node.args[0], (tuple, list)) else [node.args[0]]
            outputs = [place[one] for one in found]
        else:
            raise UsageError("pointwise_chain: the function reads a tensor that is no argument of it")
    return of_operators(len(examples), operators, outputs)
