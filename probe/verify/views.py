"""By which view does an operator read what another one made? Found from both sides' sizes and strides.

Views are no operators of a chain, but what they do can be told: the same elements in another order, a part, or a row
repeated. Each proposal is tried on a tensor without memory and counts only if sizes and strides come out as recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MOST_PERMUTED = 4  # dimensions
Ints = tuple[int, ...]


def view_of(name: str, made: torch.Tensor, dims: Ints, strides: Ints | None, offset: int | None) -> str | None:
    """Python that makes a tensor of these sizes and strides from `made`, which is called `name`; None: no view does.

    offset: of its first element in what was made, in elements, where it is known.
    """
    if tuple(made.shape) == dims and _fits(made, dims, strides):
        return name
    for suffix in _proposals(made, dims, strides, offset or 0):
        try:
            viewed = eval(f"made{suffix}", {"made": made})
        except (RuntimeError, IndexError, TypeError):
            continue
        if _fits(viewed, dims, strides):
            return name + suffix
    same = tuple(made.shape) == dims or (prod(dims) == made.numel() and strides in (None, dense(dims)))
    return None if not same else name if tuple(made.shape) == dims else f"{name}.reshape({list(dims)})"


def dense(dims: Ints) -> Ints:
    """Strides of a contiguous tensor."""
    return tuple(prod(dims[i + 1 :]) for i in range(len(dims)))


def _fits(tensor: torch.Tensor, dims: Ints, strides: Ints | None) -> bool:
    """Whether it has these sizes, and these strides where they say anything."""
    if tuple(tensor.shape) != dims:
        return False
    if strides is None:
        return True
    return all(n == 1 or a == b for n, a, b in zip(dims, tensor.stride(), strides, strict=True))


def _proposals(made: torch.Tensor, dims: Ints, strides: Ints | None, offset: int) -> Iterator[str]:
    """Views that may do it, the plainest first."""
    if prod(dims) == made.numel():
        yield from _reordered(made, dims, strides)
    elif prod(dims) < made.numel():
        yield from _parts(made, dims, offset)
    yield f".expand({list(dims)})"
    if len(dims) > made.dim():  # a dimension of one was put in before it was repeated
        for at in range(made.dim() + 1):
            yield f".unsqueeze({at}).expand({list(dims)})"


def _reordered(made: torch.Tensor, dims: Ints, strides: Ints | None) -> Iterator[str]:
    """The same elements: split or merged dimensions, then permuted ones."""
    yield f".view({list(dims)})"
    if strides is not None and len(strides) == len(dims):
        order = sorted(range(len(dims)), key=lambda i: (-strides[i], i))
        laid, back = [dims[i] for i in order], [order.index(i) for i in range(len(dims))]
        yield f".permute({back})" if laid == list(made.shape) else f".view({laid}).permute({back})"
        for permuted in permutations(range(made.dim())) if made.dim() <= MOST_PERMUTED else ():
            yield f".permute({list(permuted)})"
            yield f".permute({list(permuted)}).view({list(dims)})"


def _parts(made: torch.Tensor, dims: Ints, offset: int) -> Iterator[str]:
    """A range of one dimension, or one entry of it."""
    for at, (whole, stride) in enumerate(zip(made.shape, made.stride(), strict=True)):
        first = offset // stride % whole if stride else 0
        if len(dims) == made.dim() and dims[at] < whole and first + dims[at] <= whole:
            yield f".narrow({at}, {first}, {dims[at]})"
        if len(dims) == made.dim() - 1:
            yield f".select({at}, {first})"
