"""Which arguments of an operator do not lie in memory as a kernel would like to read them?"""

from __future__ import annotations

from probe.trace import Dims, Signature


def is_strided(signature: Signature) -> bool:
    """Whether an argument has gaps between its elements, or two of the same sizes lie in different orders."""
    laid_out = [
        (dims, strides)
        for dims, strides in zip(signature.dims, signature.strides, strict=False)
        if len(dims) == len(strides) and all(isinstance(n, int) for n in (*dims, *strides))
    ]
    orders: dict[Dims, set[tuple[int, ...]]] = {}
    for dims, strides in laid_out:
        if 0 not in strides:
            moving = [axis for axis, size in enumerate(dims) if size > 1]
            orders.setdefault(dims, set()).add(tuple(sorted(moving, key=lambda axis, s=strides: s[axis])))  # type: ignore[misc]
    return any(_has_gaps(*one) for one in laid_out) or any(len(found) > 1 for found in orders.values())


def _has_gaps(dims: Dims, strides: Dims) -> bool:
    """Whether the elements leave memory between them unused; broadcast dimensions (stride 0) take none."""
    expected = 1
    for stride, size in sorted(pair for pair in zip(strides, dims, strict=True) if pair[1] > 1 and pair[0] != 0):
        if stride != expected:
            return True
        expected = stride * size
    return False
