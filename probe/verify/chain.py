"""What replaces a recorded chain of operators? The chain run again, and the candidates of every family that fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from probe.sites import ChainSite
from probe.verify.case import Candidate, Case, Problem, Side, Values
from probe.verify.program import CannotReplayError, Outside, Program, program_of
from probe.verify.proposal import Proposal
from probe.verify.views import dense

if TYPE_CHECKING:
    import torch

FLOATING = ("float16", "bfloat16", "float32", "float64")
LARGE = 64.0  # times the usual values: squares and exponentials of them still fit into float32 …
LARGE_CONDITION = 64.0  # … and are known to as many eps more
HARD_EXTENT = 33  # hard inputs have at most so many along each dimension that can be shortened
SMALL_BYTES = 1 << 24  # of results, up to which hard values are tried on the recorded sizes too
SIZED = (".view(", ".expand(", ".narrow(", ".reshape(", ".select(", "convolution", "new_empty", "arange", ".permute(")
ALIVE = 3  # copies of every result: both sides' own, and one for what autograd keeps


@dataclass(frozen=True)
class ChainInputs:
    """The tensors from outside in order, and the gradients of the results where the backward pass runs."""

    tensors: tuple[torch.Tensor, ...]
    cotangents: tuple[torch.Tensor, ...] | None
    is_exact: bool = False

    def exact(self) -> ChainInputs:
        """In float64, integers as they are."""
        return ChainInputs(_doubled(self.tensors), self.cotangents and _doubled(self.cotangents), is_exact=True)

    def covered(self, values: Values) -> Values:
        """Everything."""
        return values


def _doubled(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    import torch

    return tuple(_laid(t.double(), t.stride()) if torch.is_floating_point(t) else t for t in tensors)


def _laid(tensor: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """The same values with these strides, which reading an argument twice over (stride 0) needs."""
    if tensor.stride() == tuple(strides):
        return tensor
    import torch

    if any(s == 0 and n > 1 for s, n in zip(strides, tensor.shape, strict=True)):
        return tensor
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def chain_case(site: ChainSite, proposals: Sequence[Proposal] | None = None) -> Case[ChainInputs]:
    """The recorded operators, and what could replace them; `proposals` instead of what the families propose."""
    try:
        program = program_of(site)
    except CannotReplayError as error:
        return _nothing(site, str(error))
    if proposals is None:
        from probe.verify.replacements.families import propose  # which reads programs

        proposals = tuple(propose(program))
    recorded = Problem("recorded sizes", partial(drawn, program))
    return Case(
        name=f"{site.code}: {len(site.steps)} operators",
        original=partial(replayed, program),
        candidates=tuple(_candidate(program, proposal) for proposal in proposals),
        timed=recorded,
        checked=(recorded, *_hard_problems(program)),
        need_bytes=_need_bytes(program),
        assumed=program.assumed,
        optional=True,
    )


def _nothing(site: ChainSite, why: str) -> Case[ChainInputs]:
    """A case that cannot be run, with one candidate that says why."""

    def refused(inputs: ChainInputs) -> Side:
        raise CannotReplayError(why)

    problem: Problem[ChainInputs] = Problem("recorded sizes", lambda rng: ChainInputs((), None))
    candidate = Candidate("any replacement", "", refused)
    return Case(f"{site.code}", refused, (candidate,), problem, (problem,), 0, objection=why)


def _candidate(program: Program, proposal: Proposal) -> Candidate[ChainInputs]:
    return Candidate(
        proposal.name, proposal.code_line, partial(proposed, program, proposal), proposal.fixed, proposal.floor_dtype,
        proposal.objection, proposal.note, _guard(proposal),
    )  # fmt: skip


def _guard(proposal: Proposal) -> Callable[[ChainInputs], str | None] | None:
    """Asked with the tensors as they are given in a run, gradients wanted where the backward pass runs."""
    asked = proposal.guard
    if asked is None:
        return None
    return lambda inputs: asked(*(_leaf(t, inputs.cotangents is not None) for t in inputs.tensors))


def replayed(program: Program, inputs: ChainInputs) -> Side:
    """The original; in float64 throughout where the inputs are the reference's."""
    device = str(inputs.tensors[0].device) if inputs.tensors else "cpu"
    return _side(program, program.function(exact=inputs.is_exact, device=device), inputs, None, None)


def proposed(program: Program, proposal: Proposal, inputs: ChainInputs) -> Side:
    """A candidate on the same tensors."""
    return _side(program, proposal.function, inputs, proposal.prepare, proposal.unpack)


def _side(program: Program, function: Any, inputs: ChainInputs, prepare: Any, unpack: Any) -> Side:
    """Forward, and the gradients of all floating tensors from outside where there are cotangents."""
    import torch

    given = inputs.tensors if prepare is None else prepare(*inputs.tensors)
    cotangents = inputs.cotangents
    leaves = tuple(_leaf(t, cotangents is not None) for t in given)
    learning = tuple(t for t in leaves if t.requires_grad)

    def call() -> tuple[Any, ...]:
        returned = function(*leaves)
        outputs = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
        if cotangents is None:
            return outputs
        pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
        ends, given_back = [o for o, _ in pairs], [c for _, c in pairs]
        return (*outputs, *torch.autograd.grad(ends, learning, given_back, allow_unused=True))

    def values(returned: tuple[Any, ...]) -> Values:
        count = len(returned) - (len(learning) if cotangents is not None else 0)
        pairs = zip(learning, returned[count:], strict=True) if cotangents is not None else ()
        gradients = tuple(torch.zeros_like(leaf) if g is None else g for leaf, g in pairs)
        if unpack is not None and cotangents is not None:
            gradients = unpack(gradients)
        return Values(tuple(t.detach() for t in returned[:count]), gradients)

    return Side(call, values)


def _leaf(tensor: torch.Tensor, trained: bool) -> torch.Tensor:
    """On its own, so that gradients of one side are not the other's; numbers and integers have none."""
    return tensor.detach().requires_grad_(trained and tensor.is_floating_point() and tensor.dim() > 0)


def drawn(program: Program, rng: torch.Generator) -> ChainInputs:
    """Tensors of the recorded sizes, strides and types, with indices in range."""
    tensors = tuple(_drawn(outside, rng) for outside in program.outside)
    return ChainInputs(tensors, _cotangents(program.results, rng) if _trains(program) else None)


def _trains(program: Program) -> bool:
    """Whether the backward pass was recorded and there is something to differentiate."""
    returned = any(dtype in FLOATING for _, dtype in program.results)
    return program.site.training and returned and any(o.floating and o.dims for o in program.outside)


def _cotangents(results: Sequence[tuple[tuple[int, ...], str]], rng: torch.Generator) -> tuple[torch.Tensor, ...]:
    import torch

    dtypes = [getattr(torch, dtype if dtype in FLOATING else "float32") for _, dtype in results]
    shapes = [dims for dims, _ in results]
    pairs = zip(shapes, dtypes, strict=True)
    return tuple(torch.randn(dims, generator=rng, device=rng.device, dtype=dtype) for dims, dtype in pairs)


def _drawn(outside: Outside, rng: torch.Generator) -> torch.Tensor:
    """One tensor in its recorded layout."""
    import torch

    dtype = getattr(torch, outside.dtype)
    if outside.fill.fill == "causal":
        return _causal_mask(outside, dtype, rng.device)
    size = 0 if 0 in outside.dims else 1 + sum((n - 1) * s for n, s in zip(outside.dims, outside.strides, strict=True))
    if outside.fill.fill == "integers":
        flat = torch.randint(0, outside.fill.high, (size,), generator=rng, device=rng.device)
    elif outside.fill.fill == "positive":
        flat = torch.rand(size, generator=rng, device=rng.device) + 0.5
    elif dtype.is_complex:
        flat = torch.randn(size, generator=rng, device=rng.device, dtype=torch.complex64)
    else:
        flat = torch.randn(size, generator=rng, device=rng.device, dtype=torch.float32)
    return flat.to(dtype).as_strided(outside.dims, outside.strides)


def _causal_mask(outside: Outside, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What a query may see: True, or 0 beside -inf."""
    import torch

    seen = torch.ones(outside.dims, dtype=torch.bool, device=device).tril()
    mask = seen if dtype == torch.bool else torch.zeros(outside.dims, device=device).masked_fill(~seen, -math.inf)
    return _laid(mask.to(dtype), outside.strides)


def _hard_problems(program: Program) -> Iterator[Problem[ChainInputs]]:
    """Hard values on the recorded sizes where those are small; other sizes and layouts where nothing fixes them."""
    shorter = _shortened(program)
    large = program.made_bytes > SMALL_BYTES
    if large and shorter is None:
        return
    usual = partial(drawn, shorter if large and shorter is not None else program)
    yield Problem("zeros", lambda rng: _scaled(usual(rng), 0.0), reshaped=large)
    yield Problem("large values", lambda rng: _scaled(usual(rng), LARGE), LARGE_CONDITION, large)
    if any(len(o.dims) > 1 and o.floating for o in program.outside):
        yield Problem("non-contiguous", lambda rng: _transposed(usual(rng)), reshaped=True)
    if shorter is not None:
        yield Problem("odd sizes", partial(drawn, shorter), reshaped=True)


def _scaled(inputs: ChainInputs, factor: float) -> ChainInputs:
    """The largest tensors times `factor`: activations, not weights or variances."""
    most = max((t.numel() for t in inputs.tensors if t.is_floating_point()), default=0)
    scaled = (t * factor if t.is_floating_point() and t.numel() == most else t for t in inputs.tensors)
    return replace(inputs, tensors=tuple(scaled))


def _transposed(inputs: ChainInputs) -> ChainInputs:
    """Same values, the last dimension not the innermost in memory."""

    def relaid(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() < 2 or not tensor.is_floating_point():
            return tensor
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)

    return replace(inputs, tensors=tuple(map(relaid, inputs.tensors)))


def _shortened(program: Program) -> Program | None:
    """The same chain on smaller odd sizes; None where a size stands in its text and would no longer be true."""
    if any(mark in program.text() for mark in SIZED):
        return None
    outside = tuple(_shorter(o) for o in program.outside)
    results = tuple((_odd(dims), dtype) for dims, dtype in program.results)
    return replace(program, outside=outside, results=results)


def _shorter(outside: Outside) -> Outside:
    """One tensor, its dimensions in the same order in memory; as many indices fewer as there is less to choose from."""
    dims = _odd(outside.dims)
    order = sorted(range(len(dims)), key=lambda i: -outside.strides[i])
    laid = dense(tuple(dims[i] for i in order))
    strides = tuple(laid[order.index(i)] for i in range(len(dims)))
    (high,) = _odd((outside.fill.high,))
    return replace(outside, dims=dims, strides=strides, fill=replace(outside.fill, high=high))


def _odd(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Equal extents stay equal."""
    return tuple(n if n < 3 else min(n, HARD_EXTENT) - 1 | 1 for n in dims)


def _need_bytes(program: Program) -> int:
    """Memory for inputs and gradients of both sides, for what is made, and for the float64 reference."""
    import torch

    width: int = max((getattr(torch, o.dtype).itemsize for o in program.outside), default=4)
    given: int = sum(prod(o.dims) * getattr(torch, o.dtype).itemsize for o in program.outside)
    wider = 8 // max(width, 1)
    factor = 2 if program.site.training else 1
    return int(factor) * (3 * given + ALIVE * program.made_bytes + wider * (given + program.made_bytes))
