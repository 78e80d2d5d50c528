"""quack: norms in CuTe for Hopper and later. Read: commit 05bce72."""

from __future__ import annotations

from typing import Any

from probe.verify.adapters.kinds import Adapter


def _rms_norm(x: Any, weight: Any, eps: float) -> Any:
    from quack import rmsnorm

    return rmsnorm(x.reshape(-1, x.shape[-1]), weight, eps=eps).view(x.shape)


ADAPTER = Adapter("quack", "quack", {"rms_norm": ("quack.rmsnorm(x, weight, eps=eps)", _rms_norm)})
