"""On what is attention verified? Tensors of the recorded sizes, and the hard inputs on which implementations differ."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from probe.sites import AttentionSite
from probe.verify.case import Problem, Values
from probe.verify.dtypes import floating

if TYPE_CHECKING:
    import torch

EXACT_SCORES = 1 << 22  # score elements that the float64 reference may have: further slices are not compared
HARD_LENGTH = 129  # hard inputs have at most so many queries and keys …
HARD_LEADING = 3  # … and so many of each batch dimension: what they look for does not hide in larger ones
LARGE_LOGITS = 120.0  # beyond exp's range in float32 (88): overflows where the largest is not subtracted first
HIDDEN_FRACTION = 0.2  # of the elements of a recorded mask, whose values are not recorded


@dataclass(frozen=True)
class AttentionInputs:
    """Q [.., T, D], K [.., S, D], V [.., S, Dv]; `mask` [T, S] is added, or boolean with True where hidden.

    `cotangent` is the output's gradient, None where only the forward pass runs.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    cotangent: torch.Tensor | None
    dropout: float = 0.0

    def exact(self) -> AttentionInputs:
        """In float64: all slices of the leading dimensions, or the first, the last and some between."""
        query, key, value = (_slices(t, self._chosen()).double() for t in (self.query, self.key, self.value))
        cotangent = None if self.cotangent is None else _slices(self.cotangent, self._chosen()).double()
        mask = self.mask.double() if self.mask is not None and self.mask.is_floating_point() else self.mask
        return AttentionInputs(query, key, value, mask, cotangent, self.dropout)

    def covered(self, values: Values) -> Values:
        """The slices that `exact` keeps; attention of one does not depend on another."""
        pick = partial(_slices, chosen=self._chosen())
        return Values(tuple(map(pick, values.outputs)), tuple(map(pick, values.gradients)))

    def _chosen(self) -> list[int] | None:
        """Which of the flattened leading slices are compared; None: all, which broadcast operands need."""
        count = math.prod(self.query.shape[:-2])
        affordable = max(2, EXACT_SCORES // (self.query.shape[-2] * self.key.shape[-2]))
        alike = self.query.shape[:-2] == self.key.shape[:-2] == self.value.shape[:-2]
        if not alike or count <= affordable:
            return None
        return [round(i * (count - 1) / (affordable - 1)) for i in range(affordable)]


def _slices(tensor: torch.Tensor, chosen: list[int] | None) -> torch.Tensor:
    """The chosen ones of the leading dimensions, flattened; the tensor itself for all."""
    return tensor if chosen is None else tensor.reshape(-1, *tensor.shape[-2:])[chosen]


def drawn(site: AttentionSite, rng: torch.Generator) -> AttentionInputs:
    """Normal tensors of the site's sizes; the mask and the output's gradient as the site needs them."""
    import torch

    dtype = floating(site.dtype)
    normal = partial(torch.randn, generator=rng, device=rng.device, dtype=dtype)
    query, key, value = normal(site.query), normal(site.key), normal(site.value)
    cotangent = normal((*_leading(site), site.query[-2], site.value[-1])) if site.training else None
    return AttentionInputs(query, key, value, _mask(site, rng), cotangent)


def _mask(site: AttentionSite, rng: torch.Generator) -> torch.Tensor | None:
    """[T, S]: -inf above the diagonal, or hiding elements at random; each query sees the first key."""
    import torch

    if site.mask == "none":
        return None
    size = (site.query[-2], site.key[-2])
    dtype = floating(site.dtype)
    if site.mask == "causal":
        return torch.full(size, -math.inf, device=rng.device, dtype=dtype).triu(1)
    hidden = torch.rand(size, generator=rng, device=rng.device) < HIDDEN_FRACTION
    hidden[:, 0] = False
    return hidden if site.mask == "boolean" else _added(hidden, dtype)


def _added(hidden: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The additive form: the dtype's lowest number where hidden, as Hugging Face's models have it."""
    import torch

    lowest = torch.finfo(dtype or torch.float32).min
    return torch.zeros(hidden.shape, device=hidden.device, dtype=dtype).masked_fill(hidden, lowest)


def hard_problems(site: AttentionSite) -> tuple[Problem[AttentionInputs], ...]:
    """Small inputs of the same kind, each of which breaks some implementation."""

    def small(rng: torch.Generator) -> AttentionInputs:
        return drawn(_shrunk(site), rng)

    problems = (
        Problem("odd sizes", small),
        Problem("non-contiguous", lambda rng: _heads_inside(small(rng))),
        Problem("zeros", lambda rng: _zero(small(rng))),
        Problem("large logits", lambda rng: _large(small(rng), site.scale), LARGE_LOGITS),
    )
    if site.mask not in ("additive", "boolean"):
        return problems
    hidden = Problem("fully masked row", lambda rng: _first_row(small(rng), hide=-math.inf))
    if site.mask == "boolean":
        return (*problems, hidden)
    return (*problems, hidden, Problem("row of lowest numbers", lambda rng: _first_row(small(rng), hide=None)))


def _shrunk(site: AttentionSite) -> AttentionSite:
    """At most HARD_LENGTH odd queries and keys; the head's size stays, kernels are chosen by it."""

    def shrunk(sizes: tuple[int, ...]) -> tuple[int, ...]:
        leading = tuple(min(n, HARD_LEADING) for n in sizes[:-2])
        return (*leading, min(sizes[-2], HARD_LENGTH) - 1 | 1, sizes[-1])

    return replace(site, query=shrunk(site.query), key=shrunk(site.key), value=shrunk(site.value))


def _heads_inside(inputs: AttentionInputs) -> AttentionInputs:
    """Same values, laid out [.., T, heads, D] as a projection's view gives them."""

    def relaid(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() < 3:
            return tensor.t().contiguous().t()
        return tensor.transpose(-3, -2).contiguous().transpose(-3, -2)

    return replace(inputs, query=relaid(inputs.query), key=relaid(inputs.key), value=relaid(inputs.value))


def _zero(inputs: AttentionInputs) -> AttentionInputs:
    """All logits equal."""
    return replace(inputs, query=inputs.query * 0, key=inputs.key * 0)


def _large(inputs: AttentionInputs, recorded: float | None) -> AttentionInputs:
    """All logits larger by LARGE_LOGITS, along a direction that query and key otherwise do not have.

    Logits spread as far would leave one weight of 1 per row and gradients that are differences of equal numbers.
    """
    scale = 1.0 if recorded is None else recorded
    shift = math.sqrt(LARGE_LOGITS / max(abs(scale), 1e-3) / inputs.query.shape[-1])
    query, key = (t - t.mean(-1, keepdim=True) for t in (inputs.query, inputs.key))
    return replace(inputs, query=query + math.copysign(shift, scale), key=key + shift)


def _first_row(inputs: AttentionInputs, hide: float | None) -> AttentionInputs:
    """The first query sees nothing: True, or `hide` (None: the lowest number) in its whole row of the mask.

    Such a query is padding: nothing uses its output, and its gradient is 0. (With another gradient than 0, torch
    2.13's SDPA differs from the formula on a CPU: it recomputes the weights from their logarithmic sum, which has no
    digits left beside the lowest number.)
    """
    import torch

    if inputs.mask is None:
        return inputs
    mask = inputs.mask.clone()
    if mask.is_floating_point():
        mask[0] = torch.finfo(mask.dtype).min if hide is None else hide
    else:
        mask[0] = True
    cotangent = None if inputs.cotangent is None else inputs.cotangent.clone()
    if cotangent is not None:
        cotangent[..., 0, :] = 0
    return replace(inputs, mask=mask, cotangent=cotangent)


def objection(site: AttentionSite) -> str | None:
    """Why nothing can be run on this record; None where it can."""
    sizes = (site.query, site.key, site.value)
    if any(len(size) < 2 or len(size) != len(site.query) for size in sizes):
        return f"query, key and value need the same number of dimensions, at least two; recorded: {_sizes(site)}"
    if any(n <= 0 for size in sizes for n in size):
        return f"sizes must be positive; recorded: {_sizes(site)}"
    if site.query[-1] != site.key[-1] or site.key[-2] != site.value[-2] or not _broadcast(site):
        return f"these sizes do not make an attention: {_sizes(site)}"
    if not 0 <= site.dropout < 1 or (site.scale is not None and not math.isfinite(site.scale)):
        return f"dropout {site.dropout} or scale {site.scale} makes no sense"
    unknown = [name for name in (site.dtype, site.softmax_dtype) if name is not None and floating(name) is None]
    return f"{unknown[0]!r} is not a floating-point dtype of this torch" if unknown else None


def _broadcast(site: AttentionSite) -> bool:
    """Whether the leading dimensions are equal or 1."""
    columns = zip(site.query[:-2], site.key[:-2], site.value[:-2], strict=True)
    return all(len({n for n in column if n != 1}) <= 1 for column in columns)


def _leading(site: AttentionSite) -> tuple[int, ...]:
    """The output's batch dimensions."""
    return tuple(max(column) for column in zip(site.query[:-2], site.key[:-2], site.value[:-2], strict=True))


def _sizes(site: AttentionSite) -> str:
    """The three recorded sizes."""
    return f"{list(site.query)}, {list(site.key)}, {list(site.value)}"


def need_bytes(site: AttentionSite) -> int:
    """Memory for both sides' values, the hand-written scores at their most, and the float64 reference.

    Hand-written: scores, scaled and masked scores and weights are alive together, backward two more.
    """
    dtype = floating(site.dtype)
    width = dtype.itemsize if dtype else 4
    lengths = site.query[-2] * site.key[-2]
    slices = math.prod(_leading(site))
    operands = sum(map(math.prod, (site.query, site.key, site.value)))
    scores = slices * lengths * (max(width, 4) if site.softmax_dtype else width)
    exact = min(slices * lengths, max(2 * lengths, EXACT_SCORES)) * 8
    alive = 6 if site.training else 4
    return operands * width * 8 + alive * (scores + exact)
