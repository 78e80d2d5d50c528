"""How much memory does a tensor of these sizes and strides touch?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from probe.analyzers.cost_models.dtypes import ElementType, promoted

LIMIT = 2**63  # torch counts elements in an int64


class UndeterminedError(Exception):
    """A cost that the recorded arguments do not determine; `reason` in words. Never leaves this package."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """One tensor argument or result; without strides it is dense."""

    sizes: Sizes
    element: ElementType
    strides: Sizes | None = None

    def __post_init__(self) -> None:
        count = 1
        for size in self.sizes:
            if size < 0:
                raise UndeterminedError("negative size")
            count *= size or 1
            if count >= LIMIT:
                raise UndeterminedError("more elements than torch can count")
        if self.strides is not None and any(not 0 <= s < LIMIT for s in self.strides):
            raise UndeterminedError("negative stride" if min(self.strides) < 0 else "stride beyond 64 bits")

    @cached_property
    def elements(self) -> int:
        """Elements, counting those that share memory each time."""
        return math.prod(self.sizes)

    @cached_property
    def distinct(self) -> int:
        """Distinct memory positions."""
        return self.elements if self.strides is None else distinct(self.sizes, self.strides)

    @property
    def bytes(self) -> int:
        """Bytes of the distinct positions."""
        return self.distinct * self.element.itemsize


def dense(sizes: Iterable[int], element: ElementType) -> Tensor:
    """A freshly made tensor."""
    return Tensor(tuple(sizes), element)


def distinct(sizes: Sizes, strides: Sizes) -> int:
    """Distinct offsets of a strided tensor.

    Exact unless dimensions interleave irregularly; there the smaller of two upper bounds: the number of elements, and
    the positions of their common step between the first and the last (the storage's extent).
    """
    if 0 in sizes:
        return 0
    dims = sorted((stride, size) for stride, size in zip(strides, sizes, strict=True) if size > 1 and stride > 0)
    count, last, step, run = 1, 0, 0, True  # run: the offsets are 0, step, …, last
    for stride, size in dims:
        reach = (size - 1) * stride
        step = step or stride
        if run and stride % step == 0 and stride <= last + step:
            count = (last + reach) // step + 1
        elif stride > last:
            count, run = count * size, False
        else:
            return _bound(dims)
        last += reach
    return count


def _bound(dims: Sequence[tuple[int, int]]) -> int:
    extent = sum((size - 1) * stride for stride, size in dims)
    step = math.gcd(*(stride for stride, _ in dims))
    return min(math.prod(size for _, size in dims), extent // step + 1)


def broadcast(sizes: Iterable[Sizes]) -> Sizes:
    """The sizes that all of these expand to."""
    result: list[int] = []
    for each in sizes:
        result = [1] * (len(each) - len(result)) + result
        offset = len(result) - len(each)
        for i, size in enumerate(each):
            if size != 1 and result[offset + i] not in (1, size):
                raise UndeterminedError("sizes do not broadcast")
            if size != 1:
                result[offset + i] = size
    return tuple(result)


def result_type(operands: Sequence[Tensor]) -> ElementType:
    """The type of a result; a tensor without dimensions counts only where it alone is floating (a wrapped number)."""
    shaped = [t.element for t in operands if t.sizes]
    single = [t.element for t in operands if not t.sizes]
    types = shaped or single
    if not types:
        raise UndeterminedError("no tensor among the arguments")
    if shaped and not any(t.is_floating for t in shaped):
        types = types + [t for t in single if t.is_floating]
    result = types[0]
    for other in types[1:]:
        result = promoted(result, other)
    return result
