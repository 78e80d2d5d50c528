"""How much of the device's time per step runs on tensor cores, and how much casts, copies and changes layouts?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probe.analyzers.cost_models import Cost
from probe.analyzers.cost_models.terms import ARITHMETIC
from probe.analyzers.gpu.kernel_names import fused, sort_of
from probe.analyzers.gpu.tensor_cores import arithmetic, eligible, unaligned
from probe.analyzers.operators.op_table import OpGroups
from probe.machine.device import Device

# tensor_core: products on tensor cores; vector: products on the vector units, and of those eligible: what tensor cores
# could have done (float32 through TF32); unaligned: products with a size that is no multiple of 8; cast, copy, layout:
# kernels that do nothing else; generated: kernels that Inductor made.
KEYS = ("tensor_core", "vector", "eligible", "unaligned", "cast", "copy", "layout", "generated")


def kernel_time_s(groups: OpGroups, costs: Sequence[Cost], device: Device) -> dict[str, float]:
    """Seconds per step of the kernels of each kind in KEYS; a kernel may be of several. {} without kernels."""
    if not any(groups.kernels):
        return {}
    found = dict.fromkeys(KEYS, 0.0)
    for group, uses in enumerate(groups.kernels):
        for use in uses:
            for kind in _kinds(groups, group, costs[group], use.name, device):
                found[kind] += use.device_s
    return found


def _kinds(groups: OpGroups, group: int, cost: Cost, kernel: str, device: Device) -> Iterator[str]:
    how = arithmetic(kernel)
    if how is not None:
        yield "tensor_core" if how.tensor_cores else "vector"
        if not how.tensor_cores and cost.kind in ARITHMETIC and eligible(cost.dtype, device):
            yield "eligible"
        signature = groups.signature[group]
        if signature is not None and cost.kind == "matmul" and unaligned(signature):
            yield "unaligned"
    sort = sort_of(kernel)
    if sort in ("cast", "copy", "layout"):
        yield sort
    if fused(kernel):
        yield "generated"
