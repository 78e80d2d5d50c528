"""The recorded arguments with another batch or element type: what the cost models then say of every call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
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
    """The batch of `size` made `factor` as large in every tensor that carries it; UsageError where that is not clear.

    Tensors of three and more dimensions carry it in the first: alone, with three also with the heads; else after the
    length of a sequence, alone or with the heads, as where a sequence's tensors are transposed. Matrices carry it in
    either, alone or with what follows it in a larger tensor (the rows of a flattened sequence). A size that is both
    rows and features is not guessed at.
    """
    if size < 1 or factor <= 0 or round(size * factor) != size * factor:
        raise UsageError(f"--batch {factor:g} of a batch of {size}: it must come to a whole number of samples above 0")
    if not any(_beginning(signatures, size)):
        raise UsageError(f"--batch-size {size}: no recorded tensor begins with {size}; give the batch size as recorded")
    carriers = carrying(signatures, size)
    both = carriers.rows & _features(signatures, size)
    if both:
        raise UsageError(
            f"--batch-size {size}: rows and features both come to {min(both)}, so that they cannot be told apart;"
            " record with another batch"
        )
    return tuple(None if s is None else _scaled(s, carriers, factor) for s in signatures)


@dataclass(frozen=True)
class Carriers:
    """Sizes that the batch is a factor of. size: its own; heads: first of three dimensions; rows: any of one or two.

    lengths: those of sequences, which the batch or the heads may also follow.
    """

    size: int
    heads: frozenset[int]
    rows: frozenset[int]
    lengths: frozenset[int] = frozenset()


def carrying(signatures: Iterable[Signature | None], size: int) -> Carriers:
    """What a batch of `size` is a factor of: itself, and with what follows it in tensors that begin with it."""
    heads, rows, lengths = {size}, {size}, set[int]()
    for dims in _beginning(signatures, size):
        if len(dims) == 3:
            lengths.add(dims[1])
        if len(dims) > 3:
            heads.add(dims[0] * dims[1])
        if len(dims) > 2:
            rows.add(prod(dims[:-1]))
    return Carriers(size, frozenset(heads), frozenset(rows), frozenset(lengths))


def _features(signatures: Iterable[Signature | None], size: int) -> set[int]:
    """The last dimensions of matrices and sequences that begin with the batch."""
    return {dims[-1] for dims in _beginning(signatures, size) if len(dims) in (2, 3)}


def _beginning(signatures: Iterable[Signature | None], size: int) -> Iterator[tuple[int, ...]]:
    for signature in signatures:
        for dims in signature.dims if signature is not None else ():
            if len(dims) > 1 and dims[0] == size and all(isinstance(d, int) for d in dims):
                yield dims


def _scaled(signature: Signature, carriers: Carriers, factor: float) -> Signature:
    dims = tuple(_dims(each, carriers, factor) for each in signature.dims)
    if dims == signature.dims:
        return signature
    strides = zip(signature.strides, signature.dims, strict=False)
    return replace(signature, dims=dims, strides=tuple(_strides(s, d, carriers, factor) for s, d in strides))


def _dims(dims: Any, carriers: Carriers, factor: float) -> Any:
    if _nested(dims):
        return tuple(_dims(each, carriers, factor) for each in dims)
    at = _place(dims, carriers)
    return dims if at is None else (*dims[:at], round(dims[at] * factor), *dims[at + 1 :])


def _strides(strides: Any, dims: Any, carriers: Carriers, factor: float) -> Any:
    """Steps over the batch grow with it; what is expanded (a step of 0) stays so."""
    if _nested(dims):
        return tuple(_strides(s, d, carriers, factor) for s, d in zip(strides, dims, strict=False))
    at = _place(dims, carriers)
    if at is None or len(strides) != len(dims) or strides[at] <= 0:
        return strides
    around = strides[at] * dims[at]
    return tuple(round(step * factor) if step >= around else step for step in strides)


def _nested(dims: Any) -> bool:
    """Whether an argument is a list of tensors."""
    return bool(dims) and all(isinstance(d, tuple) for d in dims)


def _place(dims: Any, carriers: Carriers) -> int | None:
    """The dimension of a tensor that carries the batch; None where none does."""
    if len(dims) > 2:
        among = [dims[0] == carriers.size or (len(dims) == 3 and dims[0] in carriers.heads)]
        if not among[0]:
            among += [a in carriers.lengths and b in carriers.heads for a, b in pairwise(dims)]
    else:
        among = [d in carriers.rows for d in dims]
    return among.index(True) if True in among else None
