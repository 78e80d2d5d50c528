"""What is known of the work of one operator call: the words that the cost models and their users share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from probe.analyzers.cost_models.tensors import Tensor, UndeterminedError

Kind: TypeAlias = Literal[
    "matmul", "convolution", "attention", "normalisation", "pointwise", "reduction", "indexing", "copy", "optimizer",
    "collective", "view", "wrapper", "host", "sync", "random", "unknown",
]  # fmt: skip

IDLE: frozenset[Kind] = frozenset(("view", "wrapper", "host", "sync"))  # none of these does device work of its own
ARITHMETIC: frozenset[Kind] = frozenset(("matmul", "convolution", "attention"))  # compared by flops, others by bytes


@dataclass(frozen=True)
class Cost:
    """The work of one call.

    Bytes are compulsory traffic: every distinct address read once and written once, whatever the caches do.
    `reason` says in words why flops or bytes are None; `assumes` what a number rests on that the trace does not show.
    """

    flops: float | None
    bytes: float | None
    kind: Kind
    dtype: str | None = None  # torch's name of the type whose arithmetic peak applies
    reason: str | None = None
    footprint_bytes: float | None = None  # distinct memory touched: what is rewritten in place counts once
    assumes: str | None = None


Part: TypeAlias = Tensor | float | None  # a tensor, a number of bytes, or nothing


def unknown(reason: str, kind: Kind = "unknown", dtype: str | None = None) -> Cost:
    """The cost of a call of which neither flops nor bytes can be told."""
    return Cost(None, None, kind, dtype, reason)


def nothing(kind: Kind) -> Cost:
    """The cost of a call that computes and moves nothing itself."""
    return Cost(0.0, 0.0, kind, footprint_bytes=0.0)


def known(cost: Cost) -> bool:
    """Whether both flops and bytes are numbers."""
    return cost.flops is not None and cost.bytes is not None


def work(
    kind: Kind, dtype: str | None, flops: float | None, reads: Iterable[Part] = (), writes: Iterable[Part] = (),
    updates: Iterable[Part] = (), *, reason: str | None = None, assumes: str | None = None,
) -> Cost:  # fmt: skip
    """The cost of a call that reads, writes, and updates in place (reads and writes) the given memory."""
    once = _bytes(reads) + _bytes(writes)
    twice = _bytes(updates)
    count = None if flops is None else float(flops)
    return Cost(count, once + 2 * twice, kind, dtype, reason, once + twice, assumes)


def attempted(compute: Callable[[], float]) -> tuple[float | None, str | None]:
    """What `compute` gives, or the reason why it cannot be told."""
    try:
        return compute(), None
    except UndeterminedError as undetermined:
        return None, undetermined.reason


def _bytes(parts: Iterable[Part]) -> float:
    return float(sum(p.bytes if isinstance(p, Tensor) else p or 0.0 for p in parts))
