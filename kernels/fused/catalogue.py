"""Which fused kernels are there?"""

from __future__ import annotations

from importlib.util import find_spec

from probe.kernels.fused.kernel import FusedKernel


def _importable() -> tuple[FusedKernel, ...]:
    """All that can be imported here: without Triton only what also runs on a CPU."""
    from probe.kernels.fused import linear_cross_entropy

    if find_spec("triton") is None:
        return (linear_cross_entropy.KERNEL,)
    from probe.kernels.fused import (
        bias_activation,
        gated_activation,
        pointwise_chain,
        residual_norm,
        rope,
        scored_attention,
    )

    return (
        bias_activation.KERNEL,
        residual_norm.NORM,
        residual_norm.RESIDUAL_NORM,
        gated_activation.KERNEL,
        rope.KERNEL,
        pointwise_chain.KERNEL,
        linear_cross_entropy.KERNEL,
        scored_attention.KERNEL,
    )


KERNELS = _importable()


def for_rule(code: str) -> tuple[FusedKernel, ...]:
    """Those that replace what a rule finds: "F04"."""
    return tuple(kernel for kernel in KERNELS if code in kernel.codes)
