"""Peak rates of accelerators as their makers publish them: dense, never with structured sparsity.

Rates are of the device as torch sees it (an MI250X is two devices). "float32" is what a float32 matrix product can
use without TF32; half precisions are with float32 accumulation, which is what cuBLAS and hipBLASLt run. Where a maker
publishes only the sparse rate, half of it is the dense one. torch names devices as in `names`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from probe.machine.device import Ceilings

# Launching one kernel after another on a stream, where nothing was measured: 2.4 µs on an H200 and 2.6 µs on an A100
# (gpu-benches, gpu-small-kernels, raw results of the repository).
ASSUMED_LAUNCH_S = 2.5e-6


@dataclass(frozen=True)
class Datasheet:
    """One device. Rates in TFLOP/s (TOP/s for int8), bandwidth in GB/s."""

    device: str
    names: str  # regular expression over torch's device name
    bandwidth: float
    tera: dict[str, float]
    source: str

    def ceilings(self) -> Ceilings:
        """The peaks as ceilings, in SI units."""
        return Ceilings(
            origin="datasheet",
            device=self.device,
            dram_bytes_per_s=self.bandwidth * 1e9,
            flops_per_s={dtype: rate * 1e12 for dtype, rate in self.tera.items()},
            launch_s=ASSUMED_LAUNCH_S,
        )


def _rates(
    fp64: float, fp32: float, half: float | None, *, tf32: float | None = None, bf16: bool = True,
    fp8: float | None = None, int8: float | None = None,
) -> dict[str, float]:  # fmt: skip
    """Rates by torch's dtype names; what a device has no units for is left out."""
    given = {
        "float64": fp64,
        "float32": fp32,
        "tf32": tf32,
        "float16": half,
        "bfloat16": half if bf16 else None,
        "float8_e4m3fn": fp8,
        "float8_e5m2": fp8,
        "int8": int8,
    }
    return {dtype: rate for dtype, rate in given.items() if rate is not None}


_VOLTA = "NVIDIA Tesla V100 datasheet"
_AMPERE = "NVIDIA A100 Tensor Core GPU datasheet"
_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet and architecture white paper"
_GH100 = _rates(66.9, 66.9, 989.4, tf32=494.7, fp8=1978.9, int8=1978.9)
_GA100 = _rates(19.5, 19.5, 312, tf32=156, int8=624)

# The first entry whose pattern is found in the name is taken: special forms stand before general ones.
DATASHEETS = (
    Datasheet("V100 PCIe", r"V100-PCIE", 900, _rates(7.0, 14.0, 112, bf16=False), _VOLTA),
    Datasheet("V100 SXM2", r"V100-(SXM|DGX)", 900, _rates(7.8, 15.7, 125, bf16=False), _VOLTA),
    Datasheet("T4", r"\bT4\b", 320, _rates(0.254, 8.1, 65, bf16=False, int8=130), "NVIDIA T4 datasheet"),
    Datasheet("A100 80GB PCIe", r"A100.*80GB.*PCI|A100-PCI\w*-80GB", 1935, _GA100, _AMPERE),
    Datasheet("A100 80GB SXM", r"A100-SXM\d?-80GB", 2039, _GA100, _AMPERE),
    Datasheet("A100 40GB", r"A100-(SXM\d?-40GB|PCI\w*-40GB|PG509)", 1555, _GA100, _AMPERE),
    Datasheet("A10", r"\bA10\b", 600, _rates(0.976, 31.2, 125, tf32=62.5, int8=250), "NVIDIA A10 datasheet"),
    Datasheet("L40S", r"\bL40S\b", 864, _rates(1.4, 91.6, 362, tf32=183, fp8=733, int8=733), "NVIDIA L40S datasheet"),
    Datasheet("L4", r"\bL4\b", 300, _rates(0.47, 30.3, 121, tf32=60, fp8=242.5, int8=242.5), "NVIDIA L4 datasheet"),
    Datasheet(
        "RTX 3090", r"RTX 3090(?! Ti)", 936, _rates(0.556, 35.6, 71, tf32=35.6, int8=284),
        "NVIDIA Ampere GA102 white paper",
    ),
    Datasheet(
        "RTX 4090", r"RTX 4090(?! D)", 1008, _rates(1.29, 82.6, 165.2, tf32=82.6, fp8=330.3, int8=660.6),
        "NVIDIA Ada GPU architecture white paper",
    ),
    Datasheet(
        "RTX A6000", r"RTX A6000", 768, _rates(0.605, 38.7, 154.8, tf32=77.4, int8=309.7), "NVIDIA RTX A6000 datasheet"
    ),
    Datasheet("GH200", r"GH200", 4000, _GH100, "NVIDIA GH200 datasheet (HBM3, 96 GB)"),
    Datasheet("H200", r"H200", 4800, _GH100, "NVIDIA H200 datasheet"),
    Datasheet(
        "H100 PCIe", r"H100 PCIe", 2000, _rates(51.2, 51.2, 756, tf32=378, fp8=1513, int8=1513), _HOPPER
    ),
    Datasheet("H100 SXM", r"H100.*HBM3|H100-SXM|H100 SXM", 3350, _GH100, _HOPPER),
    Datasheet(
        "B200", r"\bB200\b", 7700, _rates(37, 75, 2250, tf32=1125, fp8=4500, int8=4500), "NVIDIA HGX B200 specification"
    ),
    Datasheet(
        "MI250X (one of two dies)", r"MI250X", 1638, _rates(47.9, 47.9, 191.5, int8=191.5),
        "AMD Instinct MI250X datasheet",
    ),
    Datasheet(
        "MI300X", r"MI300X", 5300, _rates(163.4, 163.4, 1307.4, tf32=653.7, fp8=2614.9, int8=2614.9),
        "AMD Instinct MI300X datasheet",
    ),
)  # fmt: skip


def find(name: str) -> Datasheet | None:
    """The datasheet of a device by torch's name for it, or by the short name of this table; None where it is not here.

    A name that does not say which form a device has (a bare "A100") is not guessed.
    """
    wanted = name.strip().lower()
    exact = next((sheet for sheet in DATASHEETS if sheet.device.lower() == wanted), None)
    return exact or next((sheet for sheet in DATASHEETS if re.search(sheet.names, name, re.IGNORECASE)), None)
