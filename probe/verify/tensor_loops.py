"""What replaces a loop over gradients or weights? The same over lists of tensors, or not at all (F26, F27, H13).

Such loops change what they are given, so each side has its own tensors, made before anything is timed; what they hold
after several calls in a row is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from probe.sites import LoopSite
from probe.verify.case import Candidate, Case, Problem, Side, Values
from probe.verify.dtypes import floating

if TYPE_CHECKING:
    import torch

LIMIT = 1.0  # that norms are clipped to; the recorded one is not known
KEPT = 0.99  # of an average, a step
CALLS = 2
HARD_TENSORS = 8
HARD_SIZE = 33
CODES = ("F26", "F27", "H13")
Tensors = Sequence["torch.Tensor"]
Work = Callable[[list["torch.Tensor"], Tensors], Any]  # on the loop's own tensors, and on others of their sizes


@dataclass(frozen=True)
class LoopInputs:
    """The tensors that the loop changes, and what it changes them by."""

    changed: tuple[torch.Tensor, ...]
    read: tuple[torch.Tensor, ...]

    def exact(self) -> LoopInputs:
        """All of them in float64."""
        return LoopInputs(tuple(t.double() for t in self.changed), tuple(t.double() for t in self.read))

    def covered(self, values: Values) -> Values:
        """Everything."""
        return values


def loop_case(site: LoopSite) -> Case[LoopInputs]:
    """The loop as it is usually written, against lists of tensors."""
    original, replacements = FORMS.get(site.code, (_clip, ()))
    wrong = _objection(site)
    recorded = Problem("recorded sizes", partial(_drawn, site))
    small = replace(site, tensors=(*(tuple(map(_odd, size)) for size in site.tensors[:HARD_TENSORS]), (1,), (5, 7)))
    return Case(
        name=f"{site.code}: a loop over {len(site.tensors)} tensors",
        original=partial(_side, original),
        candidates=tuple(Candidate(name, line, partial(_side, work)) for name, line, work in replacements),
        timed=recorded,
        checked=(
            recorded,
            Problem("odd sizes", partial(_drawn, small)),
            Problem("zeros", lambda rng: _scaled(_drawn(small, rng), 0.0)),
            Problem("large values", lambda rng: _scaled(_drawn(small, rng), 1e3)),
        ),
        need_bytes=0 if wrong else _need_bytes(site),
        calls=CALLS,
        objection=wrong,
        assumed=ASSUMED.get(site.code, ()),
    )


def _odd(extent: int) -> int:
    return min(extent, HARD_SIZE) - 1 | 1 if extent else 0


def _objection(site: LoopSite) -> str | None:
    if site.code not in FORMS:
        return f"no replacement is known for the loop of {site.code}"
    if not site.tensors or not sum(map(math.prod, site.tensors)):
        return "no tensors of the loop were recorded"
    return None if floating(site.dtype) else f"{site.dtype!r} is not a floating-point dtype of this torch"


def _need_bytes(site: LoopSite) -> int:
    """Inputs, both sides' copies, and the float64 reference."""
    dtype = floating(site.dtype)
    return sum(map(math.prod, site.tensors)) * ((dtype.itemsize if dtype else 4) * 8 + 8 * 4)


def _drawn(site: LoopSite, rng: torch.Generator) -> LoopInputs:
    import torch

    normal = partial(torch.randn, generator=rng, device=rng.device, dtype=floating(site.dtype))
    return LoopInputs(*(tuple(normal(size) for size in site.tensors) for _ in range(2)))


def _scaled(inputs: LoopInputs, factor: float) -> LoopInputs:
    return LoopInputs(tuple(t * factor for t in inputs.changed), tuple(t * factor for t in inputs.read))


def _side(work: Work, inputs: LoopInputs) -> Side:
    """On copies of its own; without gradients, as such loops run."""
    import torch

    own = [t.detach().clone() for t in inputs.changed]

    def call() -> None:
        with torch.no_grad():
            work(own, inputs.read)

    return Side(call, lambda _: Values((torch.cat([t.flatten() for t in own]),)))


def _clip(gradients: list[torch.Tensor], _: Tensors) -> None:
    """The norm of each, then of all, then each scaled."""
    total = sum(gradient.norm() ** 2 for gradient in gradients) ** 0.5
    factor = (LIMIT / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def _clip_lists(gradients: list[torch.Tensor], _: Tensors) -> None:
    import torch

    total = torch.nn.utils.get_total_norm(gradients, foreach=True)
    factor = (LIMIT / (total + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)


def _average(averages: list[torch.Tensor], weights: Tensors) -> None:
    for average, weight in zip(averages, weights, strict=True):
        average.mul_(KEPT).add_(weight, alpha=1 - KEPT)


def _average_lists(averages: list[torch.Tensor], weights: Tensors) -> None:
    import torch

    torch._foreach_lerp_(averages, list(weights), 1 - KEPT)


def _zero(gradients: list[torch.Tensor], new: Tensors) -> None:
    """Filled with zeros; the backward pass adds to them."""
    for gradient in gradients:
        gradient.zero_()
    _add(gradients, new)


def _add(gradients: list[torch.Tensor], new: Tensors) -> None:
    for gradient, one in zip(gradients, new, strict=True):
        gradient.add_(one)


def _zero_lists(gradients: list[torch.Tensor], new: Tensors) -> None:
    import torch

    torch._foreach_zero_(gradients)
    _add(gradients, new)


def _drop(gradients: list[torch.Tensor], new: Tensors) -> None:
    """The backward pass puts its results in their place."""
    gradients[:] = new


FORMS: dict[str, tuple[Work, tuple[tuple[str, str, Work], ...]]] = {
    "F26": (
        _clip,
        (("clip_grad_norm_", "torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True)", _clip_lists),),
    ),
    "F27": (_average, (("_foreach_lerp_", "torch._foreach_lerp_(averages, parameters, 1 - decay)", _average_lists),)),
    "H13": (
        _zero,
        (
            ("set_to_none", "optimizer.zero_grad(set_to_none=True)", _drop),
            ("_foreach_zero_", "torch._foreach_zero_([p.grad for p in parameters])", _zero_lists),
        ),
    ),
}
ASSUMED: dict[str, tuple[str, ...]] = {
    "F26": (f"the loop is the usual one, and norms are clipped to {LIMIT:g}",),
    "F27": (f"the loop is mul_ and add_, and the decay is {KEPT:g}",),
    "H13": ("the backward pass adds to each gradient once",),
}
