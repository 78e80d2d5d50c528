"""What replaces an optimizer that updates parameter after parameter? The same one with foreach=True or fused=True."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from probe.sites import OptimizerSite
from probe.verify.case import Candidate, Case, Problem, Side, Values
from probe.verify.dtypes import floating

if TYPE_CHECKING:
    import torch

NAMES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
STEP = 1e-3  # learning rate; the size of parameters and update is such that an error of either shows
# Values of a trace do not tell the options; SGD without momentum has no state and would be another problem.
OPTIONS: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9}, "adam": {}, "adamw": {}}
CALLS = 2  # after the one that allocates the state: errors build up in it, and its first values are special
HARD_TENSORS = 8
HARD_SIZE = 33


@dataclass(frozen=True)
class OptimizerInputs:
    """Parameters before the first step, and the gradients of every step; the sides clone the former."""

    parameters: tuple[torch.Tensor, ...]
    gradients: tuple[torch.Tensor, ...]

    def exact(self) -> OptimizerInputs:
        """All of them in float64."""
        parameters, gradients = ((t.double() for t in group) for group in (self.parameters, self.gradients))
        return OptimizerInputs(tuple(parameters), tuple(gradients))

    def covered(self, values: Values) -> Values:
        """Everything."""
        return values


def optimizer_case(site: OptimizerSite) -> Case[OptimizerInputs]:
    """The single-tensor loop of torch.optim against its multi-tensor and its fused form."""
    wrong = objection(site)
    recorded = Problem("recorded sizes", partial(_drawn, site))
    return Case(
        name=f"{site.kind} loop",
        original=partial(optimizer_side, site.kind),
        candidates=(
            Candidate("fused", _code_line(site.kind, "fused"), partial(optimizer_side, site.kind, fused=True)),
            Candidate("foreach", _code_line(site.kind, "foreach"), partial(optimizer_side, site.kind, foreach=True)),
        ),
        timed=recorded,
        checked=(recorded, *_hard_problems(site)),
        need_bytes=0 if wrong else _need_bytes(site),
        calls=CALLS,
        objection=wrong,
    )


def _code_line(kind: str, flag: str) -> str:
    """The line to paste; other options stay as they were."""
    return f"torch.optim.{NAMES.get(kind, kind)}(model.parameters(), lr=lr, {flag}=True)"


def optimizer_side(kind: str, inputs: OptimizerInputs, *, foreach: bool = False, fused: bool = False) -> Side:
    """An optimizer on its own copies of the parameters, after one step: the first one only allocates the state."""
    import torch

    parameters = [t.detach().clone().requires_grad_() for t in inputs.parameters]
    for parameter, gradient in zip(parameters, inputs.gradients, strict=True):
        parameter.grad = gradient
    optimizer = getattr(torch.optim, NAMES[kind])(parameters, lr=STEP, foreach=foreach, fused=fused, **OPTIONS[kind])
    optimizer.step()
    return Side(optimizer.step, lambda _: _state(parameters, optimizer))


def _state(parameters: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> Values:
    """The parameters in a row, and each kind of state ("exp_avg", …) likewise."""
    import torch

    states = [optimizer.state[p] for p in parameters]
    kinds = sorted({name for state in states for name, held in state.items() if torch.is_tensor(held)} - {"step"})
    rows = [parameters, *([state[kind] for state in states] for kind in kinds)]
    return Values(tuple(torch.cat([t.detach().flatten() for t in row]) for row in rows))


def _drawn(site: OptimizerSite, rng: torch.Generator) -> OptimizerInputs:
    """Normal gradients, and parameters no larger than a few updates: else their rounding would hide an error."""
    import torch

    normal = partial(torch.randn, generator=rng, device=rng.device, dtype=floating(site.dtype))
    parameters = tuple(normal(size) * (10 * STEP) for size in site.parameters)
    return OptimizerInputs(parameters, tuple(normal(size) for size in site.parameters))


def _hard_problems(site: OptimizerSite) -> tuple[Problem[OptimizerInputs], ...]:
    """Small inputs of the same kind, each of which breaks some implementation."""

    def small(rng: torch.Generator) -> OptimizerInputs:
        return _drawn(_shrunk(site), rng)

    return (
        Problem("odd sizes", small),
        Problem("non-contiguous", lambda rng: _transposed(small(rng))),
        Problem("zero gradients", lambda rng: _scaled(small(rng), 0.0)),
        Problem("large gradients", lambda rng: _scaled(small(rng), 1e3)),
        Problem("tiny gradients", lambda rng: _scaled(small(rng), 1e-6)),
    )


def _shrunk(site: OptimizerSite) -> OptimizerSite:
    """A few small parameters with odd sizes, among them a vector of one and a matrix that is not square."""
    sizes = [tuple(min(n, HARD_SIZE) - 1 | 1 if n else 0 for n in size) for size in site.parameters[: HARD_TENSORS - 2]]
    return replace(site, parameters=(*sizes, (1,), (5, 7)))


def _transposed(inputs: OptimizerInputs) -> OptimizerInputs:
    """Same sizes, the last dimension not the innermost in memory."""
    pair = ((_relaid(t) for t in group) for group in (inputs.parameters, inputs.gradients))
    return OptimizerInputs(*(tuple(group) for group in pair))


def _relaid(tensor: torch.Tensor) -> torch.Tensor:
    """Column-major, where there are two dimensions."""
    return tensor if tensor.dim() < 2 else tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def _scaled(inputs: OptimizerInputs, factor: float) -> OptimizerInputs:
    """The gradients times `factor`."""
    return replace(inputs, gradients=tuple(t * factor for t in inputs.gradients))


def objection(site: OptimizerSite) -> str | None:
    """Why nothing can be run on this record; None where it can."""
    if site.kind not in NAMES:
        return f"no replacement is known for the optimizer {site.kind!r}"
    if any(n < 0 for size in site.parameters for n in size):
        return "a parameter has a negative size"
    if not sum(map(math.prod, site.parameters)):
        return "no parameters were recorded"
    return None if floating(site.dtype) else f"{site.dtype!r} is not a floating-point dtype of this torch"


def _need_bytes(site: OptimizerSite) -> int:
    """Memory for the inputs, both sides with their states and temporaries, and the float64 reference with its own."""
    dtype = floating(site.dtype)
    elements = sum(map(math.prod, site.parameters))
    return elements * ((dtype.itemsize if dtype else 4) * 16 + 8 * 12)
