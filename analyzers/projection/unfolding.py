"""What does a CPU's convolution take longer in a type that oneDNN does not take? It is unfolded into columns first.

torch's own convolution writes every input as often as the kernel sees it and multiplies those columns: for each product
they are written once and read once, sample by sample. oneDNN takes float32 and not float64; whether it takes 16-bit
types depends on the processor and is not projected.
"""

from __future__ import annotations

from math import prod

from probe.analyzers.cost_models import Cost
from probe.analyzers.cost_models.dtypes import ElementType
from probe.analyzers.roofline import place
from probe.machine.device import Ceilings
from probe.trace import Signature

UNFOLDED = ElementType("float64", 8)
FORWARD = ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::thnn_conv2d", "aten::convolution")
BACKWARD = ("aten::convolution_backward", "aten::_slow_conv2d_backward")


def unfolding_s(name: str, cost: Cost, signature: Signature | None, ceilings: Ceilings) -> float:
    """Seconds of a call for writing and reading columns; 0 where nothing is unfolded."""
    place_of_weight = 1 if name in FORWARD else 2
    if name not in (*FORWARD, *BACKWARD) or cost.dtype != UNFOLDED.name or not cost.flops or signature is None:
        return 0.0
    weight = signature.dims[place_of_weight] if len(signature.dims) > place_of_weight else ()
    if len(weight) != 4 or prod(weight[2:]) == 1:
        return 0.0
    traffic = cost.flops / weight[0] * UNFOLDED.itemsize  # a product is 2 × columns × output channels
    samples = signature.dims[place_of_weight - 1][0]
    columns = Cost(0.0, traffic, "copy", footprint_bytes=traffic / 2 / max(samples, 1))
    return place(columns, ceilings).memory_s or 0.0
