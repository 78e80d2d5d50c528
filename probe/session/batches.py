"""How long does the loop wait for its data?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

_Item = TypeVar("_Item")


class Batches(Generic[_Item]):
    """An iterable that hands on another's items, and tells `waited` how many nanoseconds each took to come.

    Length, truth and attributes (`batches.sampler.set_epoch(1)`) are the other's own; so are its exceptions.
    """

    def __init__(self, iterable: Iterable[_Item], waited: Callable[[int], None]) -> None:
        self._iterable = iterable
        self._waited = waited

    def __iter__(self) -> Iterator[_Item]:
        begin = time.perf_counter_ns()
        try:
            iterator = iter(self._iterable)  # a DataLoader starts its workers here
        finally:
            self._waited(time.perf_counter_ns() - begin)
        return _Timed(iterator, self._waited)

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # raises the TypeError that the iterable raises

    def __bool__(self) -> bool:
        return bool(self._iterable)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterable, name)


class _Timed(Generic[_Item]):
    """The iterator: no generator, so that StopIteration and all else pass as they come."""

    def __init__(self, iterator: Iterator[_Item], waited: Callable[[int], None]) -> None:
        self._next = iterator.__next__
        self._waited = waited

    def __iter__(self) -> _Timed[_Item]:
        return self

    def __next__(self) -> _Item:
        begin = time.perf_counter_ns()
        try:
            return self._next()
        finally:
            self._waited(time.perf_counter_ns() - begin)
