"""Which kernels follow a chain of addresses, and what must their loops hold? One load a hop, and the loop's counter."""

from __future__ import annotations

from probe.kernels.cuda.kernel import Kernel, source_text
from probe.kernels.cuda.proof import Claim

HOPS = 32  # in one iteration of a timed loop
WARM_HOPS = 8  # in one of the loop that fills the caches before
MOST_THREADS = 1024  # that may warm a cache together before the timed walk

_SOURCE = source_text("chase.cu")
_DEFINES = {"UNROLL": HOPS, "WARM_UNROLL": WARM_HOPS}
_STRONG = "LDG.E.64.STRONG"  # a load that is ordered with others', and looks into no cache nearer than its scope


def _chase(name: str, claim: Claim) -> Kernel:
    return Kernel(name, _SOURCE, claim, _DEFINES)


# Two further ordinary loads fetch where to start. Which of its loops is timed, a claim knows by the most loads in it.
THROUGH_L1 = _chase(
    "chase_l1",
    Claim(exactly={"LDG.E.64": HOPS + WARM_HOPS + 2, _STRONG: 0}, loop_only=("LDG.E.64",), main="LDG.E.64"),
)
PAST_L1 = _chase(
    "chase_l2",
    Claim(exactly={f"{_STRONG}.GPU": HOPS + WARM_HOPS}, loop_only=(f"{_STRONG}.GPU",), main=f"{_STRONG}.GPU"),
)
SHARED = _chase("chase_shared", Claim(exactly={"LDS": HOPS}, loop_only=("LDS",), main="LDS"))
LINE_BY_SM = _chase(
    "line_by_sm",
    Claim(exactly={f"{_STRONG}.GPU": HOPS}, loop_only=(f"{_STRONG}.GPU",), main=f"{_STRONG}.GPU"),
)
LINK = _chase("link_nodes", Claim())
KERNELS: tuple[Kernel, ...] = (THROUGH_L1, PAST_L1, SHARED, LINE_BY_SM, LINK)
