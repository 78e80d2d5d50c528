"""Which units of a run are the operators of a captured forward pass, and what does its graph say of them?

A part of the graph (a call of the model, or of one of its modules) is looked for in the run by its spelling: the same
operators on the same sizes, in the same order. What operators do inside that the graph knows as one is passed over
(repeat copies), and so are constants that are being made. What is found has the graph's makers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from probe.analyzers.rules.matching.flow import Argument, Flow, by_sizes, tensor_sizes
from probe.analyzers.rules.matching.units import Unit
from probe.readers.module_graph import GraphArgument, GraphCall, ModuleGraph
from probe.trace import Dims

MAKING = frozenset({"fill", "zero", "copy", "to"})  # how constants are made: torch.tensor([..]), torch.full
LEAST_UNITS = 4  # of a module that is looked for on its own: fewer are spelled alike by chance

_Key: TypeAlias = tuple[str, tuple[Dims, ...]]
Arguments: TypeAlias = tuple[tuple[Argument, ...], ...]


@dataclass(frozen=True, eq=False)
class Piece:
    """A call of a module: its units and how they are spelled."""

    call: GraphCall
    first: int
    end: int
    keys: tuple[_Key, ...]
    whole: bool  # the call of the model


@dataclass(frozen=True, eq=False)
class Covered:
    """A stretch of a run that is spelled like a piece. unit_at: of the piece's call, by index in the run."""

    piece: Piece
    first: int
    end: int
    unit_at: Mapping[int, int]


@dataclass(frozen=True)
class Written:
    """Where in the program a unit is written: the class of its module, the line, and which call of which pass it is."""

    kind: str
    step: int  # the row with which the pass begins
    call: int
    line: str


def pieces(graph: ModuleGraph) -> tuple[Piece, ...]:
    """What may be found of a graph, largest first, each spelling once; a spelling that is wired in two ways is none."""
    found: dict[tuple[_Key, ...], Piece] = {}
    unsure: set[tuple[_Key, ...]] = set()
    for call in graph.calls:
        keys = tuple((unit.name, tuple(argument.size for argument in unit.arguments)) for unit in call.units)
        _add(found, unsure, Piece(call, 0, len(keys), keys, whole=True))
        for module in call.modules:
            if module.end - module.first >= LEAST_UNITS:
                piece = Piece(call, module.first, module.end, keys[module.first : module.end], whole=False)
                _add(found, unsure, piece)
    sure = (piece for spelling, piece in found.items() if spelling not in unsure)
    return tuple(sorted(sure, key=lambda piece: len(piece.keys), reverse=True))


def _add(found: dict[tuple[_Key, ...], Piece], unsure: set[tuple[_Key, ...]], piece: Piece) -> None:
    if not piece.keys:
        return
    known = found.setdefault(piece.keys, piece)
    if _wiring(known) != _wiring(piece):
        unsure.add(piece.keys)


def _wiring(piece: Piece) -> list[list[int | str | None]]:
    """For each argument within a piece the unit that made it, counted from its first, or where it comes from."""
    return [
        [
            argument.maker - piece.first
            if argument.maker is not None and piece.first <= argument.maker < piece.end
            else argument.origin
            for argument in unit.arguments
        ]
        for unit in piece.call.units[piece.first : piece.end]
    ]


def covered(
    run: Sequence[Unit], known: Sequence[Piece], is_free: Callable[[Unit], bool], is_inside: Callable[[Unit], bool]
) -> list[Covered]:
    """The stretches of a run that are spelled like pieces, none over another, in order.

    is_free: units that may belong to one. is_inside: those that belong to an operator that the graph knows as one.
    """
    keys: list[_Key] = [("", ()) if is_inside(unit) else (unit.name, tuple(tensor_sizes(unit))) for unit in run]
    begins: dict[_Key, list[int]] = defaultdict(list)
    for index, unit in enumerate(run):
        if is_free(unit):
            begins[keys[index]].append(index)
    taken = [not is_free(unit) for unit in run]
    found = []
    for piece in known:
        for first in begins.get(piece.keys[0], ()):
            stretch = _aligned(keys, taken, piece, first)
            if stretch is not None:
                taken[stretch.first : stretch.end] = [True] * (stretch.end - stretch.first)
                found.append(stretch)
    return sorted(found, key=lambda stretch: stretch.first)


def _aligned(keys: Sequence[_Key], taken: Sequence[bool], piece: Piece, first: int) -> Covered | None:
    """The stretch from `first` on, where it is spelled like the piece."""
    unit_at: dict[int, int] = {}
    index = first
    for offset, wanted in enumerate(piece.keys):
        while offset and index < len(keys) and keys[index] != wanted and _may_pass(keys, taken, index):
            index += 1
        if index >= len(keys) or taken[index] or keys[index] != wanted:
            return None
        unit_at[index] = piece.first + offset
        index += 1
    return Covered(piece, first, index, unit_at)


def _may_pass(keys: Sequence[_Key], taken: Sequence[bool], index: int) -> bool:
    """Whether a unit may stand where the graph has none; nameless are those inside of other operators."""
    name, _ = keys[index]
    return not taken[index] and (not name or name in MAKING)


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a run with its flow: the units from `first` to `end`, and after them those outside that read them."""

    flow: Flow
    first: int
    end: int
    outside: tuple[int, ...] = ()

    def of(self, run: Sequence[Unit]) -> Flow:
        """The flow with the units of another run of the same calls. Those outside have no name: no pattern holds."""
        outside = (run[index]._replace(name="") for index in self.outside)
        return replace(self.flow, units=[*run[self.first : self.end], *outside])


def flows(run: Sequence[Unit], flow: Flow, stretches: Sequence[Covered]) -> list[Part]:
    """The flow with the graph's makers, in parts.

    Recorded makers stay where the graph knows none, and the flow stays whole. Guessed ones would spoil what is known:
    there the run is cut into what the graph knows and the rest. Nothing is guessed across, except who may read what a
    forward pass leaves behind.
    """
    if not stretches:
        return [Part(flow, 0, len(run))]
    if flow.tier != "order":
        return [Part(_confirmed(flow, stretches), 0, len(run))]
    found = [_by_graph(flow, stretch) for stretch in stretches]
    edges = [0, *(edge for stretch in stretches for edge in (stretch.first, stretch.end)), len(run)]
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        if first < end:
            found.append(Part(by_sizes(run[first:end]), first, end))
    return sorted(found, key=lambda part: part.first)


def _confirmed(flow: Flow, stretches: Sequence[Covered]) -> Flow:
    """A recorded flow with what the graph knows for sure."""
    arguments = list(flow.arguments)
    proven: set[int] = set()
    for stretch in stretches:
        at = {unit: index for index, unit in stretch.unit_at.items()}
        for index, unit in stretch.unit_at.items():
            merged = _merged(arguments[index], stretch.piece.call.units[unit].arguments, at)
            if merged is not None:
                arguments[index] = merged
                proven.add(index)
        proven.update(i for i in range(stretch.first, stretch.end) if i not in stretch.unit_at)
    return replace(flow, arguments=tuple(arguments), proven=frozenset(proven), maker_names={})


def _merged(
    recorded: Sequence[Argument], known: Sequence[GraphArgument], at: Mapping[int, int]
) -> tuple[Argument, ...] | None:
    """The recorded arguments with the makers that the graph knows; None where the two do not list the same tensors."""
    if len(recorded) != len(known):
        known = [argument for argument in known if argument.dtype]
    if len(recorded) != len(known):
        return None
    return tuple(_with_maker(old, new, at) for old, new in zip(recorded, known, strict=True))


def _with_maker(old: Argument, new: GraphArgument, at: Mapping[int, int]) -> Argument:
    if new.maker in at and new.maker is not None:
        return replace(old, makers=(at[new.maker],), origin="made")
    if new.maker is None and new.origin in ("parameter", "buffer"):
        return replace(old, makers=(), origin=new.origin)
    return replace(old, origin=origin_of(new))


def origin_of(argument: GraphArgument) -> str | None:
    """What an argument is: "parameter", "buffer", "input", or "made" in the forward pass; None of a plain number."""
    if argument.maker is not None or (argument.dtype and not argument.origin):
        return "made"
    return argument.origin or None


def _by_graph(guessed: Flow, stretch: Covered) -> Part:
    """The flow of a stretch as the graph knows it; of what operators do inside, as sizes allow it."""
    at = {unit: index for index, unit in stretch.unit_at.items()}
    inside = {i for i in range(stretch.first, stretch.end) if i not in stretch.unit_at}
    found: list[tuple[Argument, ...]] = []
    for index in range(stretch.first, stretch.end):
        if index in inside:
            found.append(tuple(_near(argument, stretch) for argument in guessed.arguments[index]))
            continue
        known = stretch.piece.call.units[stretch.unit_at[index]].arguments
        pairs = zip(known, guessed.arguments[index], strict=True)  # as many: their sizes are the same
        found.append(tuple(_exact(argument, guess, stretch.first, at, inside) for argument, guess in pairs))
    outside = []
    for index in range(stretch.end, len(guessed.units)):
        reads = [near for argument in guessed.arguments[index] if (near := _near(argument, stretch)).makers]
        if reads:
            outside.append(index)
            found.append(tuple(reads))
    run = guessed.units
    flow = Flow(run[stretch.first : stretch.end], tuple(found), "graph")
    part = Part(flow, stretch.first, stretch.end, tuple(outside))
    return replace(part, flow=part.of(run))


def _near(argument: Argument, stretch: Covered) -> Argument:
    """What is guessed, as far as it lies in the stretch."""
    makers = tuple(maker - stretch.first for maker in argument.makers if stretch.first <= maker < stretch.end)
    return replace(argument, makers=makers)


def _exact(
    argument: GraphArgument, guess: Argument, first: int, at: Mapping[int, int], inside: Collection[int]
) -> Argument:
    """The argument with its one maker; where an operator that is no unit made it, that may have been done inside."""
    makers: tuple[int, ...] = ()
    if argument.maker is not None:
        makers = (at[argument.maker] - first,) if argument.maker in at else ()
    elif argument.dtype and not argument.origin:
        makers = tuple(maker - first for maker in guess.makers if maker in inside)[:1]
    value = ("storage", argument.storage, argument.offset, *makers)
    return Argument(makers, argument.size, value if argument.dtype else guess.value, origin_of(argument))


def written(stretches: Sequence[Covered], run: Sequence[Unit], graph: ModuleGraph) -> Iterator[tuple[int, Written]]:
    """Row and place in the program of each unit that the graph knows."""
    for stretch in stretches:
        begin, modules = run[stretch.first].row, stretch.piece.call.modules
        for index, unit in stretch.unit_at.items():
            known = stretch.piece.call.units[unit]
            if known.line >= 0 and known.module >= 0:
                yield run[index].row, Written(modules[known.module].kind, begin, known.module, graph.lines[known.line])
