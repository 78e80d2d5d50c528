"""Did a kernel run on tensor cores (AMD: matrix cores), and could its operator have?

Profilers do not record it; the names that the libraries give their kernels do say it. Each row of the table names the
library whose spelling it is. A name that no row knows decides nothing.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from itertools import chain

from probe.machine.device import Device
from probe.trace import Signature

EIGHT = 8  # elements: sizes that are multiples of it (16 bytes of half precision) use the wide instructions fully


@dataclass(frozen=True)
class Arithmetic:
    """How a matrix kernel multiplies. dtype: torch's name of the type it multiplies in; None where not told."""

    tensor_cores: bool
    dtype: str | None = None


_SPELLED = {
    "tf32": "tf32", "bf16": "bfloat16", "bfloat16": "bfloat16", "f16": "float16", "fp16": "float16", "half": "float16",
    "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2", "i8": "int8", "s8": "int8", "f64": "float64", "fp32": "float32",
    "f32": "float32", "float": "float32",
}  # fmt: skip

# The first row whose pattern is found decides. `dtype` names the type where the pattern captures it.
_TABLE: tuple[tuple[str, bool, str | None], ...] = (
    # cuBLAS and cuDNN "xmma": sm80_xmma_gemm_bf16bf16_…, sm80_xmma_fprop_implicit_gemm_tf32f32_…; ffma: vector units
    (r"xmma_.*(?:_ffma|_simt)", False, "float32"),
    (r"xmma_(?:\w+?_)?(?P<dtype>tf32|bf16|f16|e4m3|e5m2|i8|f64)(?:tf32|bf16|f16|e4m3|e5m2|i8|f32|f64)_", True, None),
    (r"xmma_", True, None),
    # CUTLASS, by its own procedural names: cutlass_80_tensorop_s1688gemm_…, cutlass_tensorop_bf16_s16816gemm_…
    (r"cutlass_(?:\d+_)?simt_", False, None),
    (r"cutlass_(?:\d+_)?(?:wmma_)?tensorop_(?P<dtype>bf16|f16|s8|e4m3|e5m2)_", True, None),
    (r"cutlass_(?:\d+_)?(?:wmma_)?tensorop_\w*?(?P<dtype>tf32)", True, None),
    (r"cutlass_8\d_tensorop_s1688(?:gemm|\w*?(?:fprop|dgrad|wgrad))", True, "tf32"),  # float32 in: TF32's instruction
    (r"cutlass_(?:\d+_)?(?:wmma_)?tensorop_d\d", True, "float64"),
    (r"cutlass_(?:\d+_)?(?:wmma_)?tensorop_", True, None),
    (r"enable_(?:2x|3x)_kernel_for_sm|wgmma|tcgen05", True, None),
    (r"Mma(?:Multistage)?TensorOp|ImplicitGemm\w*TensorOp|OpClassTensorOp", True, None),  # CUTLASS, by its types
    (r"OpClassSimt|MmaSimt", False, "float32"),
    # cuBLAS from Hopper on
    (r"^(?:void )?nvjet_", True, None),
    # cuBLAS and cuDNN before: volta_fp16_s884gemm_…, turing_h1688gemm_…, ampere_bf16_s16816gemm_…; without the digits
    # of an instruction (volta_sgemm_…, ampere_scudnn_…) on the vector units
    (
        r"(?:volta|turing|ampere|hopper)_(?:(?P<dtype>fp16|bf16|fp32)_)?[a-z]?(?:884|1688|8816|16816|16832|161616|sparse)"
        r"\w*(?:gemm|cudnn)", True, None,
    ),
    (r"(?:volta|turing|ampere|maxwell|pascal|hopper)_(?:\w+_)?g?[sdczh]?(?:gemm|cudnn|scudnn)", False, None),
    (r"(?:^|_)(?:hmma|imma|dmma|qmma)(?:_|\d)", True, None),
    # attention: FlashAttention, memory-efficient attention, cuDNN
    (r"flash_(?:fwd|bwd)\w*kernel|flash::|FlashAttn(?:Fwd|Bwd)Sm\d", True, None),
    (r"fmha_cutlass[FB]_(?P<dtype>f16|bf16)_", True, None),
    (r"fmha_cutlass[FB]_f32_\w*_sm8\d", True, "tf32"),
    (r"cudnn_generated_\w*sdpa", True, None),
    # AMD: hipBLASLt and rocBLAS (Tensile), MIOpen, Composable Kernel, AOTriton
    (r"^Cijk_.*_MI\d+x\d+", True, None),
    (r"^Cijk_", False, None),
    (r"igemm_(?:fwd|bwd|wrw)_gtcx\d*_\w*?_(?P<dtype>bf16|fp16|fp32)_", True, None),
    (r"xdlops|_xdl_|mfma|_wmma_|GridwiseGemm\w*[xX]dl", True, None),
    (r"miopenSp3AsmConv|miopenGcnAsm", False, None),
    (r"^attn_(?:fwd|bwd)|^bwd_kernel_(?:dq|dk_dv)|aiter.*fmha|fmha_(?:fwd|bwd)_", True, None),
    # torch's and cuDNN's own kernels on the vector units
    (r"(?:dgrad|wgrad)(?:_alg\d)?_engine<|implicit_convolve_sgemm|\b[sd]gemm_largek", False, "float32"),
    (r"gemv|gemvNSP|dot_kernel|gemmSN_|gemmk1_", False, None),
    (r"(?:^|_)s(?:gemm|cudnn)(?:_|$)", False, "float32"),
)  # fmt: skip
_PATTERNS = tuple((re.compile(pattern), tensor, dtype) for pattern, tensor, dtype in _TABLE)


@functools.lru_cache(maxsize=1 << 14)
def arithmetic(kernel: str) -> Arithmetic | None:
    """What a kernel's name says of its multiplications; None for kernels of which it says nothing."""
    for pattern, tensor, dtype in _PATTERNS:
        found = pattern.search(kernel)
        if found is not None:
            spelled = found.groupdict().get("dtype")
            return Arithmetic(tensor, _SPELLED.get(spelled or "", dtype))
    return None


def float32_runs_in(kernel: str, device: Device) -> str | None:
    """The type in which a kernel multiplies tensors of float32: NVIDIA's tensor cores take them in TF32 only.

    AMD's matrix cores take float32 as it is. None where the name says nothing.
    """
    known = arithmetic(kernel)
    if known is None:
        return "tf32" if "tf32" in kernel.lower() else None
    if not known.tensor_cores or (known.dtype is None and device.kind != "cuda"):
        return "float32"
    return known.dtype or "tf32"


def eligible(dtype: str | None, device: Device) -> bool:
    """Whether the device has tensor cores for products of this type (float32: through TF32)."""
    if device.kind == "rocm":
        return dtype in ("float16", "bfloat16", "float32", "float64", "int8")
    if device.kind != "cuda" or not device.compute_capability:
        return False
    major, minor = (int(part) for part in device.compute_capability.split("."))
    since: dict[str, tuple[int, int]] = {
        "float16": (7, 0), "int8": (7, 2), "bfloat16": (8, 0), "float32": (8, 0), "tf32": (8, 0), "float64": (8, 0),
        "float8_e4m3fn": (8, 9), "float8_e5m2": (8, 9),
    }  # fmt: skip
    return (major, minor) >= since.get(dtype or "", (99, 0))


def unaligned(signature: Signature, multiple: int = EIGHT) -> tuple[int, ...]:
    """The sizes of the last two dimensions of the tensor arguments that are no multiple, each once, in order."""
    plain = (dims for dims in signature.dims if len(dims) >= 2 and all(isinstance(n, int) for n in dims))
    sizes = chain.from_iterable(dims[-2:] for dims in plain)
    return tuple(dict.fromkeys(size for size in sizes if size % multiple and size > 1))
