"""What is a chain of pointwise operators? Values that follow from inputs by operators, as data, and run by torch.

Values are numbered: the inputs first, then what each operator gives. An argument is the number of an earlier value
(an int) or a scalar (a float). As text a chain is JSON, which is how torch's operators take it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional

from probe.errors import UsageError

Argument = int | float
MOST_INTEGRAL_POWER = 8
MOST_INPUTS = 16


@dataclass(frozen=True)
class Operation:
    """An operator of OPERATORS and its arguments."""

    name: str
    arguments: tuple[Argument, ...]

    @property
    def values(self) -> tuple[int, ...]:
        """The arguments that are values."""
        return tuple(a for a in self.arguments if isinstance(a, int))


@dataclass(frozen=True)
class Chain:
    """How many inputs, the operators in order, and the numbers of the values that come out."""

    inputs: int
    operations: tuple[Operation, ...]
    outputs: tuple[int, ...]

    def text(self) -> str:
        """As JSON."""
        return json.dumps([self.inputs, [[o.name, *o.arguments] for o in self.operations], self.outputs])


def _cast(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Float64 stays: it is what results are held against."""
    return lambda x: x if x.dtype == torch.float64 else x.to(dtype)


# Each with how many arguments it takes and torch's function for it.
OPERATORS: dict[str, tuple[int, Callable[..., Any]]] = {
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "mul": (2, lambda a, b: a * b),
    "div": (2, lambda a, b: a / b),
    "pow": (2, lambda a, b: a**b),
    "neg": (1, torch.neg),
    "abs": (1, torch.abs),
    "exp": (1, torch.exp),
    "log": (1, torch.log),
    "tanh": (1, torch.tanh),
    "sigmoid": (1, torch.sigmoid),
    "relu": (1, functional.relu),
    "silu": (1, functional.silu),
    "gelu": (1, functional.gelu),
    "gelu_tanh": (1, lambda x: functional.gelu(x, approximate="tanh")),
    "sqrt": (1, torch.sqrt),
    "rsqrt": (1, torch.rsqrt),
    "reciprocal": (1, torch.reciprocal),
    "square": (1, torch.square),
    "sin": (1, torch.sin),
    "cos": (1, torch.cos),
    "erf": (1, torch.erf),
    "maximum": (2, torch.maximum),
    "minimum": (2, torch.minimum),
    "clamp": (3, torch.clamp),
    "where": (3, torch.where),
    "gt": (2, lambda a, b: a > b),
    "ge": (2, lambda a, b: a >= b),
    "lt": (2, lambda a, b: a < b),
    "le": (2, lambda a, b: a <= b),
    "eq": (2, lambda a, b: a == b),
    "ne": (2, lambda a, b: a != b),
    "to_float32": (1, _cast(torch.float32)),
    "to_float16": (1, _cast(torch.float16)),
    "to_bfloat16": (1, _cast(torch.bfloat16)),
}
COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")


@lru_cache(maxsize=1024)
def parsed(text: str) -> Chain:
    """The chain of a JSON text; raises UsageError where it is none."""
    try:
        inputs, operations, outputs = json.loads(text)
        made = tuple(Operation(str(name), tuple(arguments)) for name, *arguments in operations)
        chain = Chain(int(inputs), made, tuple(int(o) for o in outputs))
    except (ValueError, TypeError) as error:
        raise UsageError(f"a chain is [inputs, [[operator, argument, …], …], outputs] in JSON: {error}") from None
    wrong = malformed(chain)
    if wrong:
        raise UsageError(f"pointwise_chain: {wrong}")
    return chain


def malformed(chain: Chain) -> str | None:
    """What makes it no chain of known operators; None if it is one."""
    if not 1 <= chain.inputs <= MOST_INPUTS:
        return f"the chain has {chain.inputs} inputs; 1 to {MOST_INPUTS} are possible"
    for i, operation in enumerate(chain.operations):
        wrong = _wrong(operation, chain.inputs + i)
        if wrong:
            return f"operator {i} of the chain: {wrong}"
    last = chain.inputs + len(chain.operations)
    if not chain.outputs or any(not chain.inputs <= o < last for o in chain.outputs):
        return "an output of the chain is no result of an operator"
    return None


def _wrong(operation: Operation, before: int) -> str | None:
    if operation.name not in OPERATORS:
        return f"{operation.name} is not known"
    if len(operation.arguments) != OPERATORS[operation.name][0] or not operation.values:
        return f"{operation.name} with {len(operation.arguments)} arguments, {len(operation.values)} of them values"
    if any(not 0 <= value < before for value in operation.values):
        return f"{operation.name} of a value that is not there yet"
    return _wrong_scalars(operation)


def _wrong_scalars(operation: Operation) -> str | None:
    scalars = [not isinstance(a, int) for a in operation.arguments]
    if operation.name == "pow":
        exponent = operation.arguments[1]
        if isinstance(exponent, int) or not scalars[1]:
            return "pow with a tensor as exponent"
        if exponent.is_integer() and abs(exponent) > MOST_INTEGRAL_POWER:
            return f"pow with the exponent {exponent:g}; whole ones go to {MOST_INTEGRAL_POWER}"
    if operation.name == "clamp" and scalars != [False, True, True]:
        return "clamp takes a value and two scalars"
    if operation.name == "where" and scalars[0]:
        return "where takes a value as its condition"
    if operation.name in ("maximum", "minimum") and any(scalars):
        return f"{operation.name} takes two values; clamp takes scalars"
    return None


def evaluated(chain: Chain, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs, by torch's operators one after the other."""
    values: list[Any] = list(inputs)
    for operation in chain.operations:
        arguments = [values[a] if isinstance(a, int) else a for a in operation.arguments]
        values.append(OPERATORS[operation.name][1](*arguments))
    return tuple(values[o] for o in chain.outputs)
