"""What is the Triton kernel of a chain? Its source, made from the operators, for inputs of given layouts.

A program takes a tile of columns and walks down a strip of rows. Inputs are "full", or broadcast: a "row" (one number
a column), a "column" (one number a row) or a "scalar". Outputs are "full", or sums: over rows, over the columns of the
tile, over everything a program sees; what the programs sum is added up afterwards in a fixed order.
"""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import triton
import triton.language as tl

from probe.kernels.fused import activations
from probe.kernels.fused.chain import Argument, Chain, Operation
from probe.kernels.fused.chain_derivative import SLOPES

Layout = Literal["full", "row", "column", "scalar"]
INDENT = "    "
_AT: dict[Layout, str] = {
    "full": "tl.load(i{0} + at, mask=inside, other=0.0)",
    "row": "tl.load(i{0} + column, mask=column < columns, other=0.0)[None, :]",
    "column": "tl.load(i{0} + row, mask=row < rows, other=0.0)[:, None]",
    "scalar": "tl.load(i{0})",
}
_FUNCTIONS: dict[str, str] = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "neg": "-{0}",
    "abs": "tl.abs({0})",
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "tanh": "tanh({0})",
    "sqrt": "tl.sqrt_rn({0})",
    "rsqrt": "1.0 / tl.sqrt_rn({0})",
    "reciprocal": "1.0 / {0}",
    "square": "{0} * {0}",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "erf": "tl.erf({0})",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "clamp": "tl.where({0} < {1}, {1}, tl.where({0} > {2}, {2}, {0}))",
    "where": "tl.where({0}, {1}, {2})",
    "to_float32": "{0}",
    "to_float16": "{0}.to(tl.float16).to(tl.float32)",
    "to_bfloat16": "{0}.to(tl.bfloat16).to(tl.float32)",
    **{name: f'activated({{0}}, "{name}")' for name in ("relu", "silu", "gelu", "gelu_tanh", "sigmoid")},
    **{slope: f'slope({{0}}, "{name}")' for name, slope in SLOPES.items()},
}


@lru_cache(maxsize=256)
def kernel(chain: Chain, inputs: tuple[Layout, ...], booleans: tuple[bool, ...], outputs: tuple[Layout, ...]) -> Any:
    """The kernel of a chain, ready to launch; `booleans` are the inputs that are conditions."""
    text = source(chain, inputs, booleans, outputs)
    file = f"<pointwise chain {abs(hash((chain, inputs, booleans, outputs))):x}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # where Triton reads a source
    scope = {"tl": tl, "tanh": activations.tanh, "activated": activations.activated, "slope": activations.slope}
    exec(compile(text, file, "exec"), scope)  # every word of it comes from the tables above or is a number
    return triton.jit(scope["chain_kernel"], do_not_specialize=["rows", "strip"])


def source(
    chain: Chain, inputs: Sequence[Layout], booleans: Sequence[bool], outputs: Sequence[Layout]
) -> str:  # fmt: skip
    """The text of the kernel."""
    pointers = [*(f"i{i}" for i in range(len(inputs))), *(f"o{i}" for i in range(len(outputs)))]
    lines = [
        f"def chain_kernel({', '.join(pointers)}, rows, columns, strip, "
        "tile_rows: tl.constexpr, tile_columns: tl.constexpr):",
        "    across = tl.cdiv(columns, tile_columns)",
        "    which, tile = tl.program_id(0) // across, tl.program_id(0) % across",
        "    column = tile * tile_columns + tl.arange(0, tile_columns)",
        *(_loaded(i, layout, booleans[i]) for i, layout in enumerate(inputs) if layout in ("row", "scalar")),
        *(
            f"    s{i} = tl.zeros((tile_rows, tile_columns), tl.float32)"
            for i, layout in enumerate(outputs)
            if layout in ("row", "scalar")
        ),
        "    for first in range(which * strip, tl.minimum((which + 1) * strip, rows), tile_rows):",
        "        row = first + tl.arange(0, tile_rows)",
        "        inside = (row[:, None] < rows) & (column[None, :] < columns)",
        "        at = row.to(tl.int64)[:, None] * columns + column[None, :]",
    ]
    lines += [
        INDENT + _loaded(i, layout, booleans[i]) for i, layout in enumerate(inputs) if layout in ("full", "column")
    ]
    lines += [f"        v{chain.inputs + i} = {_expression(o)}" for i, o in enumerate(chain.operations)]
    lines += [_stored(i, layout, value) for i, (layout, value) in enumerate(zip(outputs, chain.outputs, strict=True))]
    lines += [line for i, layout in enumerate(outputs) for line in _summed(i, layout)]
    return "\n".join(lines) + "\n"


def _loaded(i: int, layout: Layout, boolean: bool) -> str:
    """An input as float32, or as a condition."""
    return f"    v{i} = {_AT[layout].format(i)}{' != 0' if boolean else '.to(tl.float32)'}"


def _expression(operation: Operation) -> str:
    """What an operator computes."""
    arguments = [_argument(a) for a in operation.arguments]
    if operation.name == "pow":
        return _power(arguments[0], float(operation.arguments[1]))
    return _FUNCTIONS[operation.name].format(*arguments)


def _argument(argument: Argument) -> str:
    """A value by its number, a scalar in brackets (it may be negative)."""
    if isinstance(argument, int):
        return f"v{argument}"
    return f"({argument!r})" if abs(argument) < float("inf") else f'float("{argument}")'


def _power(base: str, exponent: float) -> str:
    """Whole exponents by products, others by logarithms: NaN of what is below 0, as torch's."""
    if exponent.is_integer():
        product = " * ".join([base] * int(abs(exponent))) or f"{base} * 0.0 + 1.0"
        return product if exponent >= 0 else f"1.0 / ({product})"
    roots = {0.5: f"tl.sqrt_rn({base})", -0.5: f"1.0 / tl.sqrt_rn({base})"}
    return roots.get(exponent, f"tl.exp2({exponent!r} * tl.log2({base}))")


def _stored(i: int, layout: Layout, value: int) -> str:
    """Write a value, or take it into a sum."""
    if layout == "full":
        return f"        tl.store(o{i} + at, v{value}.to(o{i}.dtype.element_ty), mask=inside)"
    counted = f"tl.where(inside, v{value}, 0.0)"
    if layout == "column":
        return f"        tl.store(o{i} + row.to(tl.int64) * across + tile, tl.sum({counted}, 1), mask=row < rows)"
    return f"        s{i} += {counted}"


def _summed(i: int, layout: Layout) -> list[str]:
    """Write what a program summed."""
    if layout == "row":
        at = f"o{i} + tl.cast(which, tl.int64) * columns + column"
        return [f"    tl.store({at}, tl.sum(s{i}, 0), mask=column < columns)"]
    return [f"    tl.store(o{i} + tl.program_id(0), tl.sum(tl.sum(s{i}, 1), 0))"] if layout == "scalar" else []
