"""Which collective is it, and what do its bandwidths count? Names of torch's backends and of NCCL's kernels."""

from __future__ import annotations

import numpy as np

from probe.analyzers.cost_models.collectives import KERNELS, PREFIXES
from probe.analyzers.cost_models.dtypes import COLLECTIVE_TYPES, ELEMENT_TYPES
from probe.trace import Int32s, Mask

KINDS = (
    "all_reduce", "all_gather", "reduce_scatter", "barrier", "all_to_all", "broadcast", "reduce", "gather", "scatter",
    "send_recv", "unknown",
)  # fmt: skip
# A rank that has finished one of these has heard from every other: it cannot end before the last rank began.
BLOCKING = ("all_reduce", "all_gather", "reduce_scatter", "barrier")
# Every rank waits for every other here too, unless an all-to-all sends nothing between two of them.
MEETINGS = (*BLOCKING, "all_to_all")

# The first that occurs in a name without its underscores decides, so "reducescatter" stands before "reduce".
_SPELLINGS = (
    ("reducescatter", "reduce_scatter"), ("allreduce", "all_reduce"), ("allgather", "all_gather"),
    ("alltoall", "all_to_all"), ("broadcast", "broadcast"), ("barrier", "barrier"), ("send", "send_recv"),
    ("recv", "send_recv"), ("reduce", "reduce"), ("gather", "gather"), ("scatter", "scatter"),
)  # fmt: skip
# NCCL names the kernels of its symmetric memory "ncclSymkDevKernel_…".
_OF_KERNELS = (*(prefix.lower() for prefix in KERNELS), "ncclsym")


def kind_number(kind: str) -> int:
    """Place of a kind in KINDS."""
    return KINDS.index(kind)


def is_kind(column: Int32s, kinds: tuple[str, ...]) -> Mask:
    """Which rows are of one of the kinds, [n]."""
    wanted: Mask = np.isin(column, [KINDS.index(kind) for kind in kinds])
    return wanted


def is_collective_kernel(name: str) -> bool:
    """Whether a kernel is a communication library's."""
    return name.lower().startswith(_OF_KERNELS)


def kind_of_call(name: str) -> str:
    """Kind of "allreduce", "_allgather_base", "c10d::alltoall_base_", "gloo:all_reduce"; "unknown" for others."""
    plain = name.lower().replace("_", "").replace("::", ":").rpartition(":")[2]
    return next((kind for spelling, kind in _SPELLINGS if spelling in plain), KINDS[-1])


def kind_of_kernel(name: str) -> str:
    """Kind of "ncclDevKernel_AllReduce_Sum_f32_RING_LL(…)"; "unknown" for kernels that serve every kind."""
    head = name.partition("(")[0].partition("<")[0]
    return kind_of_call("_".join(head.split("_")[1:2]))


def kind_of_operator(name: str) -> str | None:
    """Kind of an operator that issues a collective; None for others."""
    if not name.startswith(PREFIXES):
        return None
    kind = kind_of_call(name)
    return None if kind == KINDS[-1] else kind


def payload_bytes(elements: int | None, dtype: str | None) -> int:
    """Elements × size of one; -1 where either is not known."""
    element = ELEMENT_TYPES.get(COLLECTIVE_TYPES.get(dtype or "", dtype or ""))
    return -1 if elements is None or element is None else elements * element.itemsize
