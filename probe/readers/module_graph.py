"""What is in a run's graph file? The operators of a model's forward passes, who made their arguments, and where.

The only file that knows the keys of schema probe.graph/1; see docs/run_format.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from probe.errors import TraceError

SCHEMA = "probe.graph/1"
_SCHEMA = re.compile(r"probe\.graph/(\d+)")

Origin = Literal["", "parameter", "buffer", "input"]


class GraphArgument(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor argument. maker: index of the unit that wrote its storage last; None where no unit did.

    origin: what the storage is where the forward pass did not make it; name: of a parameter or buffer.
    """

    size: tuple[int, ...] = ()
    dtype: str = ""  # torch's name; "" for a number that stands for a tensor
    maker: int | None = None
    origin: Origin = ""
    name: str = ""
    storage: int = -1  # views of one storage share its number
    offset: int = 0  # of the first element, in elements


class GraphUnit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call of a primitive operator. module and line: into the lists of its call and of the graph."""

    name: str  # without namespace and the underscore of in-place forms
    op: str  # "aten.addmm.default"
    arguments: tuple[GraphArgument, ...] = ()
    module: int = -1  # the innermost module call
    line: int = -1


class ModuleCall(msgspec.Struct, frozen=True):
    """One call of a module: it ran the units from `first` to `end`, the latter not included."""

    path: str  # "" for the model itself
    kind: str  # its class
    first: int
    end: int


class GraphCall(msgspec.Struct, frozen=True):
    """The forward pass for inputs of certain sizes."""

    training: bool
    inputs: tuple[str, ...]  # "float32[8, 128]", in order
    modules: tuple[ModuleCall, ...]
    units: tuple[GraphUnit, ...]
    opaque: tuple[str, ...] = ()  # operators ("aten::repeat") that are no units, and into which the graph does not look


class ModuleGraph(msgspec.Struct, frozen=True, kw_only=True):
    """The graphs of a model, one for each kind of call that was seen."""

    schema: str = SCHEMA
    model: str = ""  # class
    torch: str = ""
    lines: tuple[str, ...] = ()  # "model/attention.py:42 in forward"
    calls: tuple[GraphCall, ...] = ()


class _Head(msgspec.Struct):
    schema: str = ""


def encode(graph: ModuleGraph) -> bytes:
    """The graph as JSON."""
    return msgspec.json.encode(graph)


def read(path: Path | str) -> ModuleGraph:
    """The graph in a file. Raises TraceError in one line."""
    path = Path(path)
    try:
        data = path.read_bytes()
        match = _SCHEMA.fullmatch(msgspec.json.decode(data, type=_Head).schema)
        if match is None or int(match[1]) != 1:
            raise TraceError(f"{path}: its schema is not {SCHEMA!r}; update torch-probe, or record the run again")
        graph = msgspec.json.decode(data, type=ModuleGraph)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}; make it readable") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TraceError(f"{path}: damaged ({error}); record the run again") from error
    _check(graph, path)
    return graph


def _check(graph: ModuleGraph, path: Path) -> None:
    """TraceError where a number leads nowhere."""
    for call in graph.calls:
        units = len(call.units)
        spans = all(0 <= module.first <= module.end <= units for module in call.modules)
        for index, unit in enumerate(call.units):
            makers = [argument.maker for argument in unit.arguments if argument.maker is not None]
            known = unit.module < len(call.modules) and unit.line < len(graph.lines)
            spans = spans and known and all(0 <= maker < index for maker in makers)
        if not spans:
            raise TraceError(f"{path}: damaged (a unit names a maker, module or line that is not there)")
