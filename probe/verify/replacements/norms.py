"""F.rms_norm and F.layer_norm for norms written out, with a residual's sum where the chain has one (F03, F04, F05)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from probe.verify.program import EPSILON, Program
from probe.verify.proposal import Proposal

CODES = frozenset({"F03", "F04", "F05"})
NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?$")


@dataclass(frozen=True)
class Roles:
    """Which outside tensor is what, by number; `last`: how many dimensions the norm runs over."""

    arrays: tuple[int, ...]  # x, or the two terms of a sum
    vectors: tuple[int, ...]  # weight, bias
    eps: float
    last: int
    dtype: str  # of what comes out
    sums: bool = False  # whether the sum of the arrays comes out too


def propose(program: Program) -> Iterator[Proposal]:
    """torch's own function, where x, weight and bias can be told by their sizes."""
    if program.site.code not in CODES:
        return
    roles = roles_of(program)
    if roles is None:
        return
    if program.site.code == "F04" or (program.site.code == "F03" and program.named("rsqrt")):
        yield Proposal("F.rms_norm", f"F.rms_norm(x, x.shape[-{roles.last}:], weight, eps)", _rms_norm(roles))
    if program.site.code == "F05":
        yield Proposal("F.layer_norm", f"F.layer_norm(x, x.shape[-{roles.last}:], weight, bias, eps)", _layer(roles))


def roles_of(program: Program) -> Roles | None:
    """By sizes: the largest are activations, what has the size of the last dimensions is a weight, then a bias."""
    sizes = [outside.dims for outside in program.outside]
    if not sizes:
        return None
    largest = max(sizes, key=lambda size: (_elements(size), len(size)))
    arrays = tuple(i for i, size in enumerate(sizes) if size == largest)
    vectors = tuple(i for i, size in enumerate(sizes) if size != largest)
    last = _normalised(program, len(largest))
    if any(tuple(n for n in sizes[i] if n != 1) != tuple(n for n in largest[-last:] if n != 1) for i in vectors):
        return None
    if len(arrays) != (2 if program.site.code == "F03" else 1) or len(vectors) > 2:
        return None
    sums = program.site.code == "F03" and len(program.returned) == 2
    return Roles(arrays, vectors, _epsilon(program), last, program.results[-1][1], sums)


def _elements(size: tuple[int, ...]) -> int:
    count = 1
    for n in size:
        count *= n
    return count


def _normalised(program: Program, rank: int) -> int:
    """How many of the last dimensions the mean runs over."""
    mean = program.named("mean") or program.named("var")
    listed = re.search(r"\[(-?\d+(?:, ?-?\d+)*)\]", mean.line) if mean else None
    return len(listed.group(1).split(",")) if listed and rank else 1


def _epsilon(program: Program) -> float:
    """What is added to the mean of squares, as the chain itself has it."""
    for call in program.calls:
        value = call.arguments.get("other", "") or call.arguments.get("eps", "")
        if call.name in ("add", "native_layer_norm") and NUMBER.match(value):
            return float(value)
    return EPSILON


def _rms_norm(roles: Roles) -> Any:
    def rms_norm(*tensors: Any) -> Any:
        import torch

        x = _summed(roles, tensors)
        weight = tensors[roles.vectors[0]].reshape(x.shape[-roles.last :]) if roles.vectors else None
        normed = torch.nn.functional.rms_norm(x, x.shape[-roles.last :], weight, roles.eps)
        return _returned(roles, x, normed)

    return rms_norm


def _layer(roles: Roles) -> Any:
    def layer_norm(*tensors: Any) -> Any:
        import torch

        x = _summed(roles, tensors)
        shape = x.shape[-roles.last :]
        weight, bias = (tensors[roles.vectors[i]].reshape(shape) if len(roles.vectors) > i else None for i in range(2))
        return _returned(roles, x, torch.nn.functional.layer_norm(x, shape, weight, bias, roles.eps))

    return layer_norm


def _summed(roles: Roles, tensors: Any) -> Any:
    """x, or the sum that is normalised."""
    return sum((tensors[i] for i in roles.arrays[1:]), tensors[roles.arrays[0]])


def _returned(roles: Roles, x: Any, normed: Any) -> Any:
    """In the chain's type, with the sum where something else reads it."""
    import torch

    normed = normed.to(getattr(torch, roles.dtype))
    return (x, normed) if roles.sums else normed
