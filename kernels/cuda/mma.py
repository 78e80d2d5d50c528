"""Which kernels multiply small matrices on the tensor cores, and what must their loops hold? Those products alone.

`mma.sync` is what a warp does on its own registers. On Hopper and on data-centre Blackwell it is the older and slower
way: there `wgmma` and `tcgen05` reach the rate of the datasheet. wgmma is here for Hopper; tcgen05 and float4 are not.
Where an architecture has no instruction of its own for a product, the compiler composes it of others (float8 on Hopper
and data-centre Blackwell of float16 ones): that is no measurement of it, so `only` names where it is native.
"""

from __future__ import annotations

from probe.kernels.cuda.instructions import CHAINS, Operation
from probe.kernels.cuda.kernel import Kernel

PRODUCTS = 32  # in the loop; with 64 the compiler spills registers in that of float64 on Hopper
WARP_GROUP = 128  # threads that issue one wgmma together


def _sync(  # one row of a table
    define: str, shape: tuple[int, int, int], dtype: str, main: str, first: int, only: frozenset[int] = frozenset(),
    per_operation: int = 1, times: int = 1, most_threads: int = 512,
) -> Operation:  # fmt: skip
    m, n, k = shape
    text = f"m{m}n{n}k{k}"
    return Operation(
        name=f"mma.sync {text} {dtype}", define=define, main=main, kind=f"MMA {dtype}", first=first, only=only,
        dtype=dtype, shape=text, macs=m * n * k * times, per_operation=per_operation, operations=PRODUCTS,
        most_threads=most_threads,
    )  # fmt: skip


# A warp of Volta computes four m8n8k4 at once, one a quarter of its lanes, in four steps of machine code.
OPERATIONS: tuple[Operation, ...] = (
    _sync("F16_M8N8K4", (8, 8, 4), "float16", "HMMA", 70, frozenset({70, 72}), per_operation=4, times=4),
    _sync("F16_M16N8K8", (16, 8, 8), "float16", "HMMA", 75, frozenset({75})),
    _sync("F16_M16N8K16", (16, 8, 16), "float16", "HMMA", 80),
    _sync("BF16_M16N8K16", (16, 8, 16), "bfloat16", "HMMA", 80),
    _sync("TF32_M16N8K8", (16, 8, 8), "tf32", "HMMA", 80),
    _sync("F64_M8N8K4", (8, 8, 4), "float64", "DMMA", 80, frozenset({80, 100})),
    _sync("F64_M16N8K16", (16, 8, 16), "float64", "DMMA", 90, frozenset({90}), most_threads=256),
    _sync("S8_M8N8K16", (8, 8, 16), "int8", "IMMA", 75, frozenset({75})),
    _sync("S8_M16N8K32", (16, 8, 32), "int8", "IMMA", 80),
    _sync("E4M3_M16N8K32", (16, 8, 32), "float8_e4m3fn", "QMMA", 89, frozenset({89, 120, 121})),
)


class GroupOperation(Operation):
    """A product by four warps together, which exists on sm_90a alone; `chains` are products under way at once."""

    def kernel(self, chains: int) -> Kernel:
        """The kernel that waits after each `chains` products."""
        return self._kernel(chains, f"{self.name}, {chains} under way", {"GROUP": chains})


WGMMA = GroupOperation(
    name="wgmma m64n256k16 bfloat16", define="WGMMA_BF16", main="HGMMA", kind="MMA bfloat16", first=90,
    only=frozenset({90}), dtype="bfloat16", shape="m64n256k16", macs=64 * 256 * 16, operations=PRODUCTS,
    most_threads=WARP_GROUP, extra=("WARPGROUP", "DEPBAR"),
)  # fmt: skip
UNDER_WAY = (1, 32)  # products of wgmma between two waits: its latency, and its rate
# Those that are native everywhere from their first architecture on; tests compile the others where they are native.
KERNELS: tuple[Kernel, ...] = tuple(
    operation.kernel(chains) for operation in OPERATIONS if not operation.only for chains in CHAINS
)
