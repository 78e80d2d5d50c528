"""Which torch dtype has this name, and may it be computed in?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def floating(name: str) -> torch.dtype | None:
    """torch's floating-point dtype of that name ("float32", "bfloat16"); None where there is none."""
    import torch

    dtype = getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else None
