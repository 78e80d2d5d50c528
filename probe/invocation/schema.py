"""Which overload of an operator took the recorded arguments, and what is each of them in Python?

The profiler records every argument in the order of the schema: sizes and types of tensors, the text of numbers and
lists, and nothing of what is neither (None, a device, a generator, a string).
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from probe.analyzers.cost_models.dtypes import BY_NUMBER, ELEMENT_TYPES
from probe.errors import InputError
from probe.trace import Signature

LISTS = ("TensorList", "OptionalTensorList", "GenericList")
OLD_SCALARS = ("Int", "Bool", "Double", "GenericList", "String")  # torch < 2.1: types without their values
_LAYOUTS = {0: "torch.strided", 1: "torch.sparse_coo", 5: "torch.jagged"}
_FORMATS = {0: "torch.contiguous_format", 1: "torch.preserve_format", 2: "torch.channels_last",
            3: "torch.channels_last_3d"}  # fmt: skip


class Recorded(Protocol):
    """A call as it was recorded."""

    @property
    def name(self) -> str:
        """ "aten::addmm"."""

    @property
    def signature(self) -> Signature:
        """Its arguments."""

    @property
    def list_dtype(self) -> str | None:
        """The profiler's name of the element type of lists, where it is known from elsewhere."""


@dataclass(frozen=True)
class TensorArgument:
    """A tensor to make."""

    dims: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str  # torch's name
    on_host: bool = False  # a number that torch wrapped as a tensor


@dataclass(frozen=True)
class ListArgument:
    """A list of tensors; None for an entry that is not there."""

    tensors: tuple[TensorArgument | None, ...]


@dataclass(frozen=True)
class TextArgument:
    """What stands in the call as it is."""

    text: str


Value = TensorArgument | ListArgument | TextArgument


@dataclass(frozen=True)
class Argument:
    """One argument of the call; without a name where no schema is known."""

    name: str
    value: Value
    keyword_only: bool = False


@dataclass(frozen=True)
class Invocation:
    """How to call it."""

    target: str  # "torch.ops.aten.add"
    overload: str  # "Tensor"; "" where no schema is known
    arguments: tuple[Argument, ...]
    registered: bool  # whether the operator is known to the torch at hand
    assumed: tuple[str, ...] = ()  # what the record does not say and the call needs

    @property
    def text(self) -> str:
        """torch.ops.aten.add.Tensor; an overload may be named like a word of the language."""
        if keyword.iskeyword(self.overload):
            return f'getattr({self.target}, "{self.overload}")'
        return f"{self.target}.{self.overload}" if self.overload else self.target


def invocation(call: Recorded) -> Invocation:
    """The call in Python; InputError where an argument that it needs was not recorded."""
    schemas = _schemas(call.name)
    space, _, name = call.name.partition("::")
    if not schemas:
        return _unregistered(call, f"torch.ops.{space}.{name}")
    fitting = sorted(((s, cost) for s in schemas if (cost := _cost(s, call)) is not None), key=lambda pair: pair[1])
    if not fitting:
        raise InputError(
            f"{call.name}: no overload of this torch takes the recorded arguments "
            f"({', '.join(_kind(call, i) or 'nothing' for i in range(len(call.signature.dims)))}): the trace is of "
            "another version; run probe repro with the torch that recorded it"
        )
    return _called(fitting[0][0], call, f"torch.ops.{space}.{name}")


def _schemas(name: str) -> list[Any]:
    import torch

    return list(torch._C._jit_get_schemas_for_operator(name))


def _kind(call: Recorded, at: int) -> str:
    dtypes = call.signature.dtypes
    return dtypes[at] if at < len(dtypes) else ""


def _text(call: Recorded, at: int) -> str:
    scalars = call.signature.scalars
    return scalars[at] if at < len(scalars) else ""


def _cost(schema: Any, call: Recorded) -> int | None:
    """How far a schema is from the record: 0 for a perfect fit, None where it cannot have taken these arguments."""
    count, cost = len(call.signature.dims), 0
    if len(schema.arguments) < count:
        return None
    for argument in schema.arguments[count:]:  # of a newer torch
        if not argument.has_default_value():
            return None
        cost += 10
    for at, argument in enumerate(schema.arguments[:count]):
        own = _argument_cost(argument, call, at)
        if own is None:
            return None
        cost += own
    return cost


def _argument_cost(argument: Any, call: Recorded, at: int) -> int | None:
    kind, wanted = _kind(call, at), str(argument.real_type)
    if kind in ELEMENT_TYPES:
        return {"Tensor": 0, "Optional[Tensor]": 1}.get(wanted)
    if _is_list(call, at):
        return 0 if "List[" in wanted and "Tensor" in wanted else None
    if kind == "":
        return _absent_cost(argument, wanted)
    return None if "Tensor" in wanted else _scalar_cost(wanted, kind, _text(call, at))


def _absent_cost(argument: Any, wanted: str) -> int | None:
    """Of an argument of which nothing was recorded."""
    if wanted.startswith("Optional"):
        return 0
    if argument.has_default_value():
        return 2
    return None if _must_be_recorded(wanted) else 3


def _must_be_recorded(wanted: str) -> bool:
    return wanted in ("Tensor", "int", "float", "bool", "number", "SymInt")


def _is_list(call: Recorded, at: int) -> bool:
    dims = call.signature.dims[at]
    return _kind(call, at) in ("TensorList", "OptionalTensorList") or (bool(dims) and isinstance(dims[0], tuple))


def _scalar_cost(wanted: str, kind: str, text: str) -> int | None:
    """Whether a number or a list of numbers of this text can be of the wanted type."""
    inner = wanted.removeprefix("Optional[")
    if kind in ("ScalarList", "GenericList") or text.startswith("["):
        return 0 if inner.startswith("List[") else None
    if inner.startswith("List["):
        return 1 if kind in OLD_SCALARS else None
    if text in ("True", "False"):
        return 0 if inner.startswith("bool") else 1 if inner.startswith("number") else None
    if inner.startswith("bool"):
        return None if text else 0 if kind == "Bool" else 2
    if text and ("." in text or "e" in text or "n" in text):  # 1., 1e-05, inf, nan
        return 0 if inner.startswith(("float", "number")) else None
    return 1 if inner.startswith("float") else 0


def _called(schema: Any, call: Recorded, target: str) -> Invocation:
    arguments, assumed = [], []
    for at, argument in enumerate(schema.arguments[: len(call.signature.dims)]):
        value, said = _value(argument, call, at)
        arguments.append(Argument(argument.name, value, bool(argument.kwarg_only)))
        assumed += said
    return Invocation(target, schema.overload_name or "default", tuple(arguments), True, tuple(assumed))


def _value(argument: Any, call: Recorded, at: int) -> tuple[Value, list[str]]:
    """One argument, and what had to be assumed for it."""
    kind, text = _kind(call, at), _text(call, at)
    if kind in ELEMENT_TYPES:
        return _tensor(call, at), []
    if _is_list(call, at):
        return _tensor_list(call, at)
    if text:
        return TextArgument(_literal(text, str(argument.real_type))), []
    return _not_recorded(argument, call, old=not call.signature.scalars)


def _not_recorded(argument: Any, call: Recorded, old: bool) -> tuple[Value, list[str]]:
    wanted = str(argument.real_type)
    if argument.has_default_value():
        default = argument.default_value
        usual = default is None or wanted.startswith("Optional")
        said = [] if usual and not old else [f"{argument.name} was not recorded: {default!r}, its default, is used"]
        return TextArgument(repr(default)), said
    if wanted.startswith("Optional") and not old:
        return TextArgument("None"), []
    if wanted == "Device":
        return TextArgument("DEVICE"), []
    remedy = "torch before 2.1 records no numbers" if old else "the profiler does not record values of this type"
    raise InputError(
        f"{call.name}: its argument {argument.name} ({wanted}) was not recorded, and it has no default; {remedy}"
    )


def _tensor(call: Recorded, at: int) -> TensorArgument:
    signature = call.signature
    dims = signature.dims[at]
    strides = signature.strides[at] if at < len(signature.strides) else ()
    dtype = ELEMENT_TYPES[signature.dtypes[at]].name
    wrapped = dims == () and dtype in ("float64", "int64", "bool") and any(d for d in signature.dims)
    return TensorArgument(dims, strides if len(strides) == len(dims) else None, dtype, on_host=wrapped)


def _tensor_list(call: Recorded, at: int) -> tuple[Value, list[str]]:
    """A list; the profiler does not record the types of its tensors."""
    signature = call.signature
    told = call.list_dtype or next((d for d in signature.dtypes if d in ELEMENT_TYPES), None)
    indices = call.name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
    dtype = "int64" if indices else ELEMENT_TYPES[told].name if told in ELEMENT_TYPES else "float32"
    strides = signature.strides[at] if at < len(signature.strides) else ()
    tensors = tuple(
        None if indices and dims == () else TensorArgument(dims, _strides_of(strides, n, dims), dtype)
        for n, dims in enumerate(signature.dims[at])
    )
    said = f"element types of lists are not recorded: {dtype} is used"
    return ListArgument(tensors), [] if indices or call.list_dtype else [said]


def _strides_of(strides: tuple[Any, ...], n: int, dims: tuple[int, ...]) -> tuple[int, ...] | None:
    known = strides[n] if n < len(strides) else None
    return known if isinstance(known, tuple) and len(known) == len(dims) else None


def _literal(text: str, wanted: str) -> str:
    """Recorded text as Python: 1. as 1.0, 6 as torch.float32 where a type is wanted, inf as float("inf")."""
    if "ScalarType" in wanted and text.lstrip("-").isdecimal() and int(text) in BY_NUMBER:
        return f"torch.{BY_NUMBER[int(text)].name}"
    named = _LAYOUTS if "Layout" in wanted else _FORMATS if "MemoryFormat" in wanted else None
    if named is not None and text.isdecimal() and int(text) in named:
        return named[int(text)]
    if text.startswith("["):
        return f"[{', '.join(_number(part.strip()) for part in text[1:-1].split(',') if part.strip())}]"
    return _number(text)


def _number(text: str) -> str:
    if text in ("True", "False", "None"):
        return text
    try:
        return repr(int(text))
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return repr(text.strip("\"'"))  # a string
    return repr(number) if math.isfinite(number) else f'float("{number}")'


def _unregistered(call: Recorded, target: str) -> Invocation:
    """An operator of a library that is not here: its arguments in order, as they were recorded."""
    return Invocation(target, "", tuple(_plain(call)), registered=False)


def _plain(call: Recorded) -> Iterator[Argument]:
    for at in range(len(call.signature.dims)):
        kind, text = _kind(call, at), _text(call, at)
        if kind in ELEMENT_TYPES:
            yield Argument("", _tensor(call, at))
        elif _is_list(call, at):
            yield Argument("", _tensor_list(call, at)[0])
        else:
            yield Argument("", TextArgument(_literal(text, "") if text else "None"))
