"""A product of two tiles on the tensor cores, in Triton, right under its interpreter too."""

import triton
import triton.language as tl


@triton.jit
def product(a, b, total, wide: tl.constexpr):
    """`total` + a b, added up in float32; float32 factors as the sum of two TF32 numbers, in three products.

    `wide` multiplies in float32, for Triton's interpreter: bfloat16 it would multiply as if the bits were integers.
    """
    if wide:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="tf32x3")
