"""The recorded operators of one place as a Python function, and what it has to be given.

Each step is rendered as a call in torch and tried on tensors without memory, so that sizes of all results are known
and the views between the steps can be told. What cannot be rebuilt raises CannotReplayError with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from probe.errors import InputError
from probe.invocation.contents import Content, content
from probe.invocation.schema import Argument, Invocation, ListArgument, TensorArgument, TextArgument, invocation
from probe.sites import ChainSite, Read, Step
from probe.verify.views import dense, view_of

if TYPE_CHECKING:
    import torch

Ints = tuple[int, ...]
Function = Callable[..., Any]

RANDOM = re.compile(r"dropout|bernoulli|rand|normal_|multinomial|uniform_|exponential_|poisson")
FLOATS = re.compile(r"torch\.(float16|bfloat16|float32|float64)\b")
# Numbers that Python code writes arrive as tensors whose value is not recorded; these stand for them.
NUMBER = 0.5
EPSILON = 1e-5  # for what a normalisation adds
NORMS = frozenset({"F03", "F04", "F05"})
INT_NUMBER = 2


class CannotReplayError(Exception):
    """The record does not suffice; the message says why."""


@dataclass(frozen=True)
class Outside:
    """A tensor that the chain is given."""

    dims: Ints
    strides: Ints
    dtype: str
    fill: Content
    role: str  # the name of the first argument that it is

    @property
    def floating(self) -> bool:
        """Whether it can have a gradient."""
        return self.dtype in ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Call:
    """One step as it is called: the operator, and for each argument what stands there."""

    name: str  # "addmm", without namespace and the underscore of in-place forms
    arguments: dict[str, str]  # "x0", "t3.view([4, 8])", "0.5"
    line: str


@dataclass(frozen=True, eq=False)
class Program:
    """x0, x1, … from outside; t0, t1, … made by the steps; `returned` of them come out."""

    site: ChainSite
    outside: tuple[Outside, ...]
    calls: tuple[Call, ...]
    returned: tuple[str, ...]
    results: tuple[tuple[Ints, str], ...]  # sizes and dtype of each returned tensor
    made_bytes: int  # of the results of all steps
    assumed: tuple[str, ...]

    def text(self, *, exact: bool = False, floats: str = "torch.float64") -> str:
        """The function's source; exact: with every cast to a floating type as one to `floats`."""
        names = ", ".join(f"x{i}" for i in range(len(self.outside)))
        body = [call.line for call in self.calls]
        text = "\n    ".join([f"def chain({names}):", *body, f"return ({', '.join(self.returned)},)"])
        return FLOATS.sub(floats, text) if exact else text

    def function(self, *, exact: bool = False, floats: str = "torch.float64", device: str = "cpu") -> Function:
        """The chain as a function of its outside tensors; it returns a tuple."""
        import torch

        space: dict[str, Any] = {"torch": torch, "DEVICE": torch.device(device)}
        exec(compile(self.text(exact=exact, floats=floats), "<recorded chain>", "exec"), space)
        made: Function = space["chain"]
        return made

    def named(self, operator: str) -> Call | None:
        """The first step of that operator."""
        return next((call for call in self.calls if call.name == operator), None)


@dataclass
class _Building:
    """What is known while the steps are read in order."""

    site: ChainSite
    space: dict[str, Any] = field(default_factory=dict)  # names to tensors without memory
    outside: dict[int, Outside] = field(default_factory=dict)  # by the site's number
    bases: dict[int, int] = field(default_factory=dict)  # offset of the first element of each
    numbers: dict[tuple[int, int], int] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    read: set[int] = field(default_factory=set)
    assumed: list[str] = field(default_factory=list)


def program_of(site: ChainSite) -> Program:
    """The chain as a function; CannotReplayError where it cannot be run again."""
    import torch

    if site.why_not or not site.steps:
        raise CannotReplayError(site.why_not or "no operators of it were recorded")
    invocations = [_invocation(step) for step in site.steps]
    building = _Building(site, {"torch": torch, "DEVICE": torch.device("meta")})
    _take_outside(building, invocations)
    for index, (step, found) in enumerate(zip(site.steps, invocations, strict=True)):
        _render(building, index, step, found)
    return _finished(building)


def _invocation(step: Step) -> Invocation:
    name = step.name.removeprefix("aten::")
    if RANDOM.search(name):
        raise CannotReplayError(f"{step.name} draws random numbers: two runs of it differ")
    try:
        found = invocation(step)
    except InputError as error:
        raise CannotReplayError(str(error)) from None
    if not found.registered:
        raise CannotReplayError(f"{step.name} is an operator that the torch at hand does not know")
    return found


def _tensors(found: Invocation) -> Iterator[tuple[Argument, int, TensorArgument | None]]:
    """Its tensors in the order of the record, each with its place in a list."""
    for argument in found.arguments:
        if isinstance(argument.value, TensorArgument):
            yield argument, 0, argument.value
        elif isinstance(argument.value, ListArgument):
            yield from ((argument, place, one) for place, one in enumerate(argument.value.tensors))


def _take_outside(building: _Building, invocations: list[Invocation]) -> None:
    """What comes from outside: of several views of one storage the largest, and the lowest offset."""
    sizes: dict[int, int] = {}
    for step, found in zip(building.site.steps, invocations, strict=True):
        for (argument, place, tensor), read in zip(_tensors(found), step.reads, strict=False):
            if tensor is None or tensor.on_host or read.step is not None:
                continue
            strides = tensor.strides if tensor.strides is not None else dense(tensor.dims)
            if prod(tensor.dims) > sizes.get(read.outside, -1):
                sizes[read.outside] = prod(tensor.dims)
                filled = content(found, argument, tensor, place)
                if building.site.code == "F08" and argument.name == "attn_mask":
                    filled = Content("causal")
                    building.assumed.append("the mask is taken to hide what comes later, and nothing else")
                building.outside[read.outside] = Outside(tensor.dims, strides, tensor.dtype, filled, argument.name)
                building.bases[read.outside] = read.offset or 0
    for name, outside in zip(_names(building), building.outside.values(), strict=True):
        building.space[name] = _without_memory(outside)


def _names(building: _Building) -> list[str]:
    return [f"x{i}" for i in range(len(building.outside))]


def _without_memory(tensor: Outside) -> torch.Tensor:
    import torch

    return torch.empty_strided(tensor.dims, tensor.strides, dtype=getattr(torch, tensor.dtype), device="meta")


def _render(building: _Building, index: int, step: Step, found: Invocation) -> None:
    """The step as a line, tried without memory."""
    count = sum(1 for _ in _tensors(found))
    if count != len(step.reads):
        raise CannotReplayError(f"{step.name}: {count} tensors among its arguments, makers of {len(step.reads)} known")
    reads = iter(step.reads)
    texts = {a.name: _argument(building, index, step, a, reads) for a in found.arguments}
    plain = step.name.rpartition("::")[2]
    if plain.endswith("_") and not texts[found.arguments[0].name].startswith("t"):
        raise CannotReplayError(f"{step.name} changes a tensor that comes from outside")
    positional = [texts[a.name] for a in found.arguments if not a.keyword_only]
    named = [f"{a.name}={texts[a.name]}" for a in found.arguments if a.keyword_only and texts[a.name] != "None"]
    line, made = _tried(building, f"t{index}", step, found, positional, named)
    building.space[f"t{index}"] = made
    building.calls.append(Call(plain.rstrip("_"), texts, line))


def _tried(
    building: _Building, target: str, step: Step, found: Invocation, positional: list[str], named: list[str]
) -> tuple[str, Any]:
    """The shortest spelling that runs: torch's own function or method, as people call it, else the overload itself."""
    import torch

    plain, refused = step.name.rpartition("::")[2], "nothing was tried"
    spellings = [f"{found.text}({', '.join([*positional, *named])})"]
    if plain.endswith("_") and hasattr(torch.Tensor, plain):
        spellings.insert(0, f"{positional[0]}.{plain}({', '.join([*positional[1:], *named])})")
    elif hasattr(torch, plain) and not plain.startswith("_"):
        spellings.insert(0, f"torch.{plain}({', '.join([*positional, *named])})")
    for spelling in spellings:
        try:
            return f"{target} = {spelling}", eval(spelling, dict(building.space))
        except Exception as error:
            refused = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    raise CannotReplayError(f"{step.name} does not run on its recorded arguments here: {refused}")


def _argument(building: _Building, index: int, step: Step, argument: Argument, reads: Iterator[Read]) -> str:
    """What stands in the call for one argument."""
    value = argument.value
    if isinstance(value, TextArgument):
        return value.text
    if isinstance(value, ListArgument):
        each = (_one(building, index, step, argument, tensor, next(reads)) for tensor in value.tensors)
        return f"[{', '.join(each)}]"
    return _one(building, index, step, argument, value, next(reads))


def _one(
    building: _Building, index: int, step: Step, argument: Argument, tensor: TensorArgument | None, read: Read
) -> str:
    """One tensor: a step's result, a tensor from outside, or the number that stands for one."""
    if tensor is None:
        return "None"
    if tensor.on_host:
        return _number(building, step, argument, tensor)
    if read.step is not None:
        building.read.add(read.step)
        name, made = _result(building.space[f"t{read.step}"], f"t{read.step}", prod(tensor.dims))
        offset = None
    else:
        name = f"x{list(building.outside).index(read.outside)}"
        made = building.space[name]
        offset = (read.offset or 0) - building.bases[read.outside]
    wanted = str(made.dtype).removeprefix("torch.")
    if wanted != tensor.dtype:
        raise CannotReplayError(f"{step.name} read {tensor.dtype} where {wanted} was made: a cast was not recorded")
    view = view_of(name, made, tensor.dims, tensor.strides, offset)
    if view is None:
        raise CannotReplayError(
            f"{step.name} read {list(tensor.dims)} of what was {list(made.shape)}: no view of it that sizes tell"
        )
    return view


def _result(made: Any, name: str, elements: int) -> tuple[str, Any]:
    """The tensor of a step's result; of several the first with as many elements."""
    if not isinstance(made, (tuple, list)):
        return name, made
    at = next((i for i, one in enumerate(made) if one is not None and one.numel() == elements), 0)
    return f"{name}[{at}]", made[at]


def _number(building: _Building, step: Step, argument: Argument, tensor: TensorArgument) -> str:
    """What stands for a number whose value was not recorded."""
    plain = step.name.rpartition("::")[2].rstrip("_")
    if tensor.dtype != "float64":
        value = "True" if tensor.dtype == "bool" else str(INT_NUMBER)
    else:
        value = repr(EPSILON if plain == "add" and building.site.code in NORMS else NUMBER)
    said = f"{value} stands for the number that {step.name} was given"
    if said not in building.assumed:
        building.assumed.append(said)
    return value


def _finished(building: _Building) -> Program:
    """The whole, with what comes out of it."""
    count = len(building.calls)
    ends = [i for i in range(count) if i not in building.read or i in building.site.kept]
    made = [_result(building.space[f"t{i}"], f"t{i}", -1) for i in ends]
    returned = [(name, one) for name, one in made if hasattr(one, "shape")]
    if not returned:
        raise CannotReplayError("its operators return no tensor")
    size = sum(_bytes(building.space[f"t{i}"]) for i in range(count))
    return Program(
        building.site, tuple(building.outside.values()), tuple(building.calls), tuple(name for name, _ in returned),
        tuple((tuple(one.shape), str(one.dtype).removeprefix("torch.")) for _, one in returned), size,
        tuple(building.assumed),
    )  # fmt: skip


def _bytes(made: Any) -> int:
    several = made if isinstance(made, (tuple, list)) else (made,)
    return sum(one.numel() * one.element_size() for one in several if hasattr(one, "numel"))
