"""In which ways is attention computed on a CUDA device, what does each hold in memory, and what does it move?"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from probe.errors import UnavailableError
from probe.microbench.attention_work import BOTH, FORWARD, NAIVE, SCORES_ALIVE, Point, naive

TRITON = "triton"
BACKENDS = {  # as torch.nn.attention.SDPBackend names them
    "sdpa flash": "FLASH_ATTENTION",
    "sdpa efficient": "EFFICIENT_ATTENTION",
    "sdpa cudnn": "CUDNN_ATTENTION",
    "sdpa math": "MATH",
}
# Times that naive's operators read or write the matrix of scores: product 1, division 2, softmax 2, product 1; backward
# one for the gradient of v, one for that of the weights, three for softmax, two for the division, one each for q and k.
SCORE_PASSES = {FORWARD: 6, BOTH: 6 + 9}
TENSORS = {FORWARD: 4, BOTH: 4 + 8}  # like q, that are read or written, by each product of naive or once by a fused one
FLOAT32_BYTES = 4
Scores = Literal["none", "own", "float32"]  # whether the scores are written, and in which dtype


@dataclass(frozen=True)
class Way:
    """One implementation: `function` of q, k and v; `chosen` is entered around all of its calls."""

    name: str
    function: Callable[..., Any]
    scores: Scores = "none"
    chosen: Callable[[], AbstractContextManager[Any]] = nullcontext

    def score_bytes(self, point: Point) -> int:
        """Of the matrices of scores it holds at once; torch's math computes half precision in float32."""
        if self.scores == "none":
            return 0
        elements = point.score_bytes // point.element_bytes
        return (
            SCORES_ALIVE[point.direction] * elements * (point.element_bytes if self.scores == "own" else FLOAT32_BYTES)
        )

    def bytes_moved(self, point: Point) -> int | None:
        """What its operators read and write at least; None for torch's math, which is composed as torch likes."""
        if self.scores == "float32":
            return None
        tensors = TENSORS[point.direction] * math.prod(point.shape) * point.element_bytes
        return tensors + (SCORE_PASSES[point.direction] * point.score_bytes if self.scores == "own" else 0)


def ways() -> tuple[Way, ...]:
    """Naive first; what this torch, GPU or installation lacks says so when it is called."""
    backends = tuple(_sdpa(name, backend) for name, backend in BACKENDS.items())
    return (Way(NAIVE, naive, "own"), *backends, Way(TRITON, _triton))


def _sdpa(name: str, backend: str) -> Way:
    """scaled_dot_product_attention held to one of its backends."""
    import torch

    def chosen() -> AbstractContextManager[Any]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if not hasattr(SDPBackend, backend):
            raise UnavailableError(f"torch {torch.__version__} has no {backend}")
        manager: AbstractContextManager[Any] = sdpa_kernel(getattr(SDPBackend, backend))
        return manager

    scores: Scores = "float32" if backend == "MATH" else "none"
    return Way(name, torch.nn.functional.scaled_dot_product_attention, scores, chosen)


def _triton(q: Any, k: Any, v: Any) -> Any:
    """Imported on first use: Triton need not be installed."""
    try:
        from probe.kernels.triton.attention import attention
    except ImportError as missing:
        raise UnavailableError(f"Triton cannot be imported ({missing}); pip install 'torch-probe[kernels]'") from None
    return attention(q, k, v)
