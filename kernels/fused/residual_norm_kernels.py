"""The Triton kernels of dropout + residual + LayerNorm or RMSNorm: a program holds whole rows, in float32.

The residual stream is rounded to its dtype before it is normed, as it is when the sum is an operator of its own. The
backward pass is one kernel for everything: gradients of the rows, and for weight and bias one partial sum a program,
which are added up afterwards in a fixed order. For very wide rows these sums would not fit into registers beside the
rest: they are made by a kernel of their own.
"""

import triton
import triton.language as tl

from probe.kernels.fused.dropout import kept


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(
    x, residual, weight, bias, seed, y, stream, mean, rstd, rows, columns, eps, p, scale,
    centred: tl.constexpr, dropping: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """`tile_rows` rows: y, the new residual stream, and what the backward pass needs of them."""
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    column = tl.arange(0, tile_columns)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if dropping:
        value = tl.where(kept(tl.load(seed), row, 0, p, tile_rows, tile_columns), value * scale, 0.0)
    if residual is not None:
        value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(stream.dtype.element_ty)
        tl.store(stream + at, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if centred:
        middle = tl.sum(value, 1) / columns
        tl.store(mean + row, middle, mask=row < rows)
        value = tl.where(inside, value - middle[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(value * value, 1) / columns + eps)
    tl.store(rstd + row, inverse, mask=row < rows)
    value = value * inverse[:, None]
    if weight is not None:
        value *= tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        value += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "strip"])
def backward_kernel(
    stream, weight, seed, mean, rstd, dy, d_stream, dx, d_residual, d_weight, d_bias, rows, columns, strip, p, scale,
    centred: tl.constexpr, dropping: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """The gradients of `strip` rows, and what they add to those of weight and bias."""
    column = tl.arange(0, tile_columns)
    of_weight = tl.zeros((tile_rows, tile_columns), tl.float32)
    of_bias = tl.zeros((tile_rows, tile_columns), tl.float32)
    first = tl.program_id(0) * strip
    for start in range(first, tl.minimum(first + strip, rows), tile_rows):
        row = start + tl.arange(0, tile_rows)
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        normed = tl.load(stream + at, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(rstd + row, mask=row < rows, other=0.0)
        if centred:
            normed = tl.where(inside, normed - tl.load(mean + row, mask=row < rows, other=0.0)[:, None], 0.0)
        normed *= inverse[:, None]
        gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        if d_weight is not None:
            of_weight += gradient * normed
        if d_bias is not None:
            of_bias += gradient
        if weight is not None:  # again for every row, from the cache: held, it would cost registers
            gradient *= tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
        along = tl.sum(gradient * normed, 1) / columns
        result = gradient - normed * along[:, None]
        if centred:
            result -= (tl.sum(gradient, 1) / columns)[:, None]
        result *= inverse[:, None]
        if d_stream is not None:
            result += tl.load(d_stream + at, mask=inside, other=0.0).to(tl.float32)
        if dropping:
            tl.store(d_residual + at, result.to(d_residual.dtype.element_ty), mask=inside)
            result = tl.where(kept(tl.load(seed), row, 0, p, tile_rows, tile_columns), result * scale, 0.0)
        tl.store(dx + at, result.to(dx.dtype.element_ty), mask=inside)
    at = tl.cast(tl.program_id(0), tl.int64) * columns + column
    if d_weight is not None:
        tl.store(d_weight + at, tl.sum(of_weight, 0), mask=column < columns)
    if d_bias is not None:
        tl.store(d_bias + at, tl.sum(of_bias, 0), mask=column < columns)


@triton.jit(do_not_specialize=["rows", "strip"])
def columns_kernel(
    stream, mean, rstd, dy, d_weight, d_bias, rows, columns, strip,
    centred: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """What `strip` rows of a tile's columns add to the gradients of weight and bias, for rows too wide for both."""
    across = tl.cdiv(columns, tile_columns)
    which = tl.program_id(0) // across
    column = tl.program_id(0) % across * tile_columns + tl.arange(0, tile_columns)
    of_weight = tl.zeros((tile_rows, tile_columns), tl.float32)
    of_bias = tl.zeros((tile_rows, tile_columns), tl.float32)
    for start in range(which * strip, tl.minimum((which + 1) * strip, rows), tile_rows):
        row = start + tl.arange(0, tile_rows)
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        if d_weight is not None:
            normed = tl.load(stream + at, mask=inside, other=0.0).to(tl.float32)
            if centred:
                normed -= tl.load(mean + row, mask=row < rows, other=0.0)[:, None]
            of_weight += gradient * normed * tl.load(rstd + row, mask=row < rows, other=0.0)[:, None]
        if d_bias is not None:
            of_bias += gradient
    at = tl.cast(which, tl.int64) * columns + column
    if d_weight is not None:
        tl.store(d_weight + at, tl.sum(of_weight, 0), mask=column < columns)
    if d_bias is not None:
        tl.store(d_bias + at, tl.sum(of_bias, 0), mask=column < columns)
