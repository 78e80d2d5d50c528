"""What does a collective's bandwidth count? The factor from algbw to busbw, as nccl-tests defines it.

algbw is the operation's size over its time; busbw is what the links between ranks carry, comparable with their
hardware rate whatever the operation and the number of ranks.
"""

from __future__ import annotations

_SENT_ONCE = ("broadcast", "reduce", "send_recv")
_WITHOUT_PAYLOAD = ("barrier", "unknown")


def bus_factor(kind: str, ranks: int | None) -> float | None:
    """busbw over algbw, by nccl-tests (doc/PERFORMANCE.md; gather and scatter: src/gather.cu, src/scatter.cu)."""
    if kind in _SENT_ONCE:
        return 1.0
    if ranks is None or kind in _WITHOUT_PAYLOAD:
        return None
    return (2.0 if kind == "all_reduce" else 1.0) * (ranks - 1) / ranks
