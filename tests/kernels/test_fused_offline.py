"""Does what Triton compiles of the fused kernels spill nothing, and does it move 128 bits at once?

All dtypes on all architectures where PROBE_ALL_TILES is set; else half precision on each, float32 on one.
"""

import os

import pytest
import torch
from places import ROOT

pytest.importorskip("triton")

from probe.kernels.fused.examples import Example, examples
from probe.kernels.fused.launch import only_compiled
from probe.kernels.fused.resources import compiled, of_launch, run

MOST_NARROW = 3  # seeds, targets, one number a row
QUICK = [(80, torch.bfloat16), (90, torch.bfloat16), (90, torch.float32), (100, torch.bfloat16)]
ALL = [(a, d) for a in (80, 90, 100, 120) for d in (torch.bfloat16, torch.float16, torch.float32)]


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    ALL if "PROBE_ALL_TILES" in os.environ else QUICK,
    ids=lambda v: str(v).removeprefix("torch."),
)
def test_kernels_spill_nothing_and_move_128_bits_at_once(architecture: int, dtype: torch.dtype) -> None:
    found = list(compiled(dtype, architecture, 1024, 4096))

    assert len(found) >= 25
    assert {r.architecture for r in found} == {architecture}
    assert [r for r in found if r.local_bytes] == []
    assert [r for r in found if r.wide < 2 or r.narrow > MOST_NARROW] == []


@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("columns", [8192, 16384])
def test_the_widest_rows_spill_nothing(architecture: int, columns: int) -> None:
    from probe.kernels.fused.residual_norm import RESIDUAL_NORM

    def leaf(*sizes: int) -> torch.Tensor:
        return torch.zeros(sizes, dtype=torch.bfloat16, requires_grad=True)

    x, residual, weight, bias = leaf(64, columns), leaf(64, columns), leaf(columns), leaf(columns)
    options = {"kind": "layer", "p": 0.1, "seed": 1}
    with only_compiled(architecture) as launched:
        run(Example(RESIDUAL_NORM, "widest", (x, residual, weight, bias), options))

    assert len(launched) == (2 if columns == 8192 else 3)
    assert all(of_launch("", one).local_bytes == 0 for one in launched)


def test_odd_sizes_are_compiled_for_narrow_accesses() -> None:
    """The width follows from the sizes of the call: where rows do not start at multiples of 16, nothing is wide."""
    widths = {}
    for columns in (1001, 1008):
        example = next(iter(examples(torch.bfloat16, "cpu", 33, columns)))
        with only_compiled(90) as launched:
            run(example)
        widths[columns] = [of_launch("", one).wide for one in launched]

    assert widths[1001] == [0, 0]
    assert min(widths[1008]) > 0


def test_docs_name_every_kernel() -> None:
    """docs/kernels.py writes the page."""
    text = (ROOT / "docs" / "kernels.md").read_text()
    from probe.kernels.fused.catalogue import KERNELS

    assert all(f"## {kernel.name}" in text for kernel in KERNELS)
