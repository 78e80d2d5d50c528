"""What do the recorded arguments of a call say? Reads them one by one; what is missing raises UndeterminedError."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from probe.analyzers.cost_models.dtypes import BY_NUMBER, ELEMENT_TYPES, ElementType, names_tensor
from probe.analyzers.cost_models.tensors import LIMIT, Sizes, Tensor, UndeterminedError
from probe.trace import Dims, Signature


@dataclass(frozen=True)
class Hints:
    """What other calls of the trace tell about this one, and which ones did."""

    element: str | None = None  # type of the elements of a tensor list, which the profiler does not record
    output: Dims | None = None  # sizes of the result
    partner: Signature | None = None  # arguments of the call that this one belongs to
    source: str = ""


NO_HINTS = Hints()


@dataclass(frozen=True)
class Call:
    """One operator call; arguments are numbered as in the operator's schema."""

    name: str
    signature: Signature
    hints: Hints = NO_HINTS

    def __len__(self) -> int:
        return len(self.signature.dims)

    def dtype(self, i: int) -> str:
        """The recorded type of argument `i`, "" for none."""
        found = at(self.signature.dtypes, i, "")
        return found if isinstance(found, str) else ""

    def is_tensor(self, i: int) -> bool:
        """Whether argument `i` is a tensor."""
        return i < len(self) and names_tensor(self.dtype(i)) and not is_nested(self.signature.dims[i])

    def tensor(self, i: int) -> Tensor:
        """Argument `i`, which must be a tensor."""
        if not self.is_tensor(i):
            raise UndeterminedError(f"argument {i} is not a recorded tensor")
        strides = at(self.signature.strides, i, ())
        return make_tensor(self.signature.dims[i], self.dtype(i), strides)

    def maybe(self, i: int) -> Tensor | None:
        """Argument `i` if it is a tensor."""
        return self.tensor(i) if self.is_tensor(i) else None

    def tensors(self, start: int = 0, stop: int | None = None) -> list[Tensor]:
        """All tensors among the arguments from `start` to before `stop`."""
        rows = range(start, len(self) if stop is None else min(stop, len(self)))
        return [self.tensor(i) for i in rows if self.is_tensor(i)]

    def tensor_list(self, i: int) -> list[Tensor]:
        """Argument `i`, a list of tensors of one type."""
        sizes = self.list_sizes(i)
        if not sizes:
            return []
        if self.hints.element is None:
            raise UndeterminedError("element type of a tensor list not recorded")
        strides = at(self.signature.strides, i, ())
        strides = strides if len(strides) == len(sizes) and is_nested(strides) else ((),) * len(sizes)
        return [make_tensor(d, self.hints.element, s) for d, s in zip(sizes, strides, strict=True)]

    def list_sizes(self, i: int) -> tuple[Sizes, ...]:
        """Sizes of the tensors in list `i`; an empty list cannot be told from one that was not recorded."""
        dims = at(self.signature.dims, i, ())
        if not is_nested(dims):
            raise UndeterminedError("sizes of a tensor list not recorded")
        return tuple(valid_sizes(d) for d in dims)

    def elements_in_list(self, i: int) -> int:
        """Elements of all tensors in list `i`; their type need not be known."""
        return sum(Tensor(sizes, ELEMENT_TYPES["bool"]).elements for sizes in self.list_sizes(i))

    def scalar(self, i: int, what: str) -> Any:
        """The value of argument `i`, which is no tensor; None where it was passed as None."""
        text = at(self.signature.scalars, i, None)
        if text is None or (text == "" and self.dtype(i) != ""):
            raise UndeterminedError(f"scalar `{what}` not recorded")
        return parsed(str(text))

    def integer(self, i: int, what: str) -> int:
        """Argument `i`, a number."""
        value = self.scalar(i, what)
        if isinstance(value, bool | int) and abs(value) < LIMIT:
            return int(value)
        raise UndeterminedError(f"scalar `{what}` not recorded")

    def number(self, i: int, default: float) -> float:
        """Argument `i` as a number, or the default where it is not recorded."""
        try:
            value = self.scalar(i, "")
        except UndeterminedError:
            return default
        return float(value) if isinstance(value, int | float) and abs(value) < LIMIT else default

    def flag(self, i: int, what: str) -> bool:
        """Argument `i`, True or False."""
        return bool(self.integer(i, what))

    def integers(self, i: int, what: str) -> tuple[int, ...]:
        """Argument `i`, a list of numbers; a single number is a list of one."""
        value = self.scalar(i, what)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, int) and abs(v) < LIMIT for v in values):
            raise UndeterminedError(f"scalar `{what}` not recorded")
        return tuple(values)

    def element(self, i: int, default: ElementType) -> ElementType:
        """The element type that argument `i` (a dtype) asks for, the default where it asks for none."""
        value = self.scalar(i, "dtype")
        if value is None:
            return default
        if isinstance(value, int) and value in BY_NUMBER:
            return BY_NUMBER[value]
        raise UndeterminedError(f"unknown dtype number {value}")

    def output(self) -> Sizes:
        """Sizes of the result as other calls show them."""
        if self.hints.output is None:
            raise UndeterminedError("size of the result not recorded")
        return valid_sizes(self.hints.output)


def at(values: Sequence[Any], i: int, default: Any) -> Any:
    """Item `i`, or the default where the sequence is shorter."""
    return values[i] if 0 <= i < len(values) else default


def is_nested(dims: Any) -> bool:
    """Whether these are the sizes of several tensors."""
    return isinstance(dims, tuple) and bool(dims) and all(isinstance(d, tuple) for d in dims)


def valid_sizes(dims: Any) -> Sizes:
    """Sizes as integers."""
    if not isinstance(dims, tuple) or not all(type(d) is int for d in dims):
        raise UndeterminedError("sizes are not numbers")
    return cast(Sizes, dims)


def make_tensor(dims: Any, dtype: str, strides: Any = ()) -> Tensor:
    """A tensor from recorded sizes, type name and strides (none recorded: dense)."""
    sizes = valid_sizes(dims)
    element = ELEMENT_TYPES.get(dtype)
    if element is None:
        raise UndeterminedError(f"unknown dtype {dtype!r}")
    if not strides:
        return Tensor(sizes, element)
    if len(valid_sizes(strides)) != len(sizes):
        raise UndeterminedError("sizes and strides disagree")
    return Tensor(sizes, element, tuple(strides))


def parsed(text: str) -> Any:
    """The value of a recorded scalar: a number, bool, None, list of these, or the text itself."""
    if text in ("", "None"):
        return None
    if len(text) > 4096:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def all_tensors(call: Call) -> Iterator[Tensor]:
    """Every tensor among the arguments, those in lists too."""
    for i in range(len(call)):
        if call.is_tensor(i):
            yield call.tensor(i)
        elif is_nested(call.signature.dims[i]):
            yield from call.tensor_list(i)
