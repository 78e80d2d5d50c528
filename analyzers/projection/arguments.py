"""The recorded arguments with another batch or element type: what the cost models then say of every call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from operator import mul
from typing import Any

from probe.errors import UsageError
from probe.trace import Signature

# torch's name of a type: the profiler's.
TYPE_NAMES = {"float32": "float", "float64": "double", "bfloat16": "c10::BFloat16", "float16": "c10::Half"}


def with_dtype(signatures: Sequence[Signature | None], dtype: str) -> tuple[Signature | None, ...]:
    """Every floating tensor in that type, as after `model.to(dtype)`. Raises UsageError for an unknown type."""
    if dtype not in TYPE_NAMES:
        raise UsageError(f"--dtype {dtype}: write one of {', '.join(TYPE_NAMES)}")
    new, floating = TYPE_NAMES[dtype], set(TYPE_NAMES.values())
    return tuple(
        None if s is None else replace(s, dtypes=tuple(new if d in floating else d for d in s.dtypes))
        for s in signatures
    )


def with_batch(signatures: Sequence[Signature | None], size: int, factor: float) -> tuple[Signature | None, ...]:
    """The batch of `size` made `factor` as large, in every tensor that carries it.

    A dimension carries the batch where it has its size, or the product of the batch and what follows it in a tensor
    that begins with it (rows of a flattened sequence, heads of a batch): of each tensor one dimension.
    """
    if size < 1 or factor <= 0 or round(size * factor) != size * factor:
        raise UsageError(f"--batch {factor:g} of a batch of {size}: it must come to a whole number of samples above 0")
    carriers = carrying(signatures, size)
    return tuple(None if s is None else _scaled(s, carriers, factor) for s in signatures)


def carrying(signatures: Iterable[Signature | None], size: int) -> frozenset[int]:
    """The sizes of dimensions that the batch is a factor of."""
    found = {size}
    for signature in signatures:
        for dims in signature.dims if signature is not None else ():
            if dims and dims[0] == size and len(dims) > 2 and all(isinstance(d, int) for d in dims):
                found.update(list(accumulate(dims, mul))[:-1])
    return frozenset(found)


def _scaled(signature: Signature, carriers: frozenset[int], factor: float) -> Signature:
    dims = tuple(_dims(each, carriers, factor) for each in signature.dims)
    return signature if dims == signature.dims else replace(signature, dims=dims, strides=())


def _dims(dims: Any, carriers: frozenset[int], factor: float) -> Any:
    if dims and all(isinstance(d, tuple) for d in dims):
        return tuple(_dims(each, carriers, factor) for each in dims)
    at = next((i for i, d in enumerate(dims) if d in carriers and d > 1), None)
    if at is None:
        return dims
    return (*dims[:at], round(dims[at] * factor), *dims[at + 1 :])
