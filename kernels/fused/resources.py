"""What does the machine code of the fused kernels need? Registers, spills, the width of its memory accesses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from probe.kernels.cuda import cubin, sass
from probe.kernels.fused.examples import Example, examples
from probe.kernels.fused.launch import Launched, only_compiled

GLOBAL = ("LDG", "STG")
WIDE = ".128"


@dataclass(frozen=True)
class Resources:
    """Of one kernel of one call, compiled for one architecture."""

    example: str
    kernel: str
    architecture: int
    registers: int  # a thread
    local_bytes: int  # a thread; more than 0 are spills
    shared_bytes: int  # a block
    wide: int  # 128-bit instructions that read or write global memory
    narrow: int  # others: scalars, seeds, one number a row


def compiled(dtype: torch.dtype, architecture: int, rows: int, columns: int) -> Iterator[Resources]:
    """Of all examples of that size, forward and backward, by Triton for compute capability architecture / 10."""
    for example in examples(dtype, "cpu", rows, columns):
        with only_compiled(architecture) as made:
            run(example)
        for launched in made:
            yield of_launch(f"{example.kernel.name}: {example.label}", launched)


def run(example: Example) -> tuple[torch.Tensor, ...]:
    """Outputs and gradients of an example, for gradients of ones; outputs alone where it has none."""
    outputs = example.call()
    if not example.leaves():
        return outputs
    return *outputs, *torch.autograd.grad(outputs, example.leaves(), [torch.ones_like(o) for o in outputs])


def of_launch(example: str, launched: Launched) -> Resources:
    """Read from the machine code."""
    code = launched.compiled.asm["cubin"]
    [name] = cubin.kernels(code)
    found = Counter(i.mnemonic for i in sass.of(code, name) if i.mnemonic.partition(".")[0] in GLOBAL)
    wide = sum(n for mnemonic, n in found.items() if mnemonic.endswith(WIDE))
    return Resources(
        example,
        launched.kernel,
        cubin.architecture(code),
        cubin.registers(code, name),
        cubin.local_bytes(code, name),
        int(launched.compiled.metadata.shared),
        wide,
        sum(found.values()) - wide,
    )
