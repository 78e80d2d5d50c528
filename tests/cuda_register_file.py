"""What would an SM with a known register file take for the very code it is given? A stand-in that reads its own SASS.

The code of each launch is decoded from the module that was loaded (its loop, operands, `.reuse`, stall counts), and its
cycles follow from a model of banks and ports. Nothing is known here of which variant the suite meant to measure.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fake_cuda import MAJOR, MINOR, Arguments, FakeCuda, Three

from probe.kernels.cuda import cubin, proof, sass
from probe.kernels.cuda.sass import Instruction

CLOCK_HZ = 1.5e9
START_UP = 700  # cycles of a launch outside the loop
THREE_SOURCES = ("FFMA", "IADD3")
REGISTER_FORM, CONSTANT_FORM = 0x200, 0x800  # of the 12 bits of an operation: Rb is a register, or a constant


class Decoding(FakeCuda):
    """A driver that knows which code each launch runs."""

    code = b""

    def _cuLaunchKernel(self, words: Any) -> int:  # noqa: N802 (the driver's name)
        self.code = self._handles[self._handles[words[0]].module]
        return super()._cuLaunchKernel(words)


@dataclass
class RegisterFile:
    """Banks by register number, how many registers each gives a cycle, and the least cycles by instruction."""

    banks: int
    ports: int = 1
    least: dict[str, float] = field(default_factory=dict)
    overlapping: bool = False  # reads of consecutive instructions share the ports' cycles
    noise: Callable[[bytes], float] = lambda code: 1.0  # factor of the cycles, by code
    capability: tuple[int, int] = (9, 0)
    warps: set[int] = field(default_factory=set)  # that were launched
    _known: dict[tuple[bytes, bool], float] = field(default_factory=dict)

    def fake(self, **more: Any) -> Decoding:
        """The driver of a GPU with it."""
        names = ("register_banks", "uniform_path")
        attributes = {MAJOR: self.capability[0], MINOR: self.capability[1], 13: int(CLOCK_HZ / 1e3)}
        made = Decoding(attributes=attributes, **more)
        made.kernels.update({name: lambda *args, name=name: self._run(made, name, *args) for name in names})
        return made

    def _run(self, driver: Decoding, name: str, grid: Three, block: Three, args: Arguments) -> float:
        assert grid == (1, 1, 1)
        warps = block[0] // 32
        self.warps.add(warps)
        iterations = args.value(2, ctypes.c_uint32)
        cycles = START_UP + round(iterations * self.loop_cycles(driver.code, name, warps))
        ns = round(cycles / CLOCK_HZ * 1e9)
        args.array(0, np.uint64, 4)[:] = (5000, 5000 + cycles, 90_000, 90_000 + ns)
        return cycles / CLOCK_HZ

    def loop_cycles(self, code: bytes, name: str, warps: int) -> float:
        """Cycles of one iteration; all warps of a scheduler share it, and one waits while others issue."""
        alone = warps <= 4
        if (code, alone) not in self._known:
            self._known[code, alone] = self._warp_cycles(loop_of(code, name), alone) * self.noise(code)
        return self._known[code, alone] * max(1, warps // 4)

    def _warp_cycles(self, loop: tuple[Instruction, ...], alone: bool) -> float:
        total, kept = 0.0, (None, None, None)
        for instruction in loop:
            cycles, kept = self._cycles(instruction, kept)
            stall = instruction.stall if alone else 1
            total += max(cycles, stall) if instruction.base in THREE_SOURCES else 1
        return total

    def _cycles(self, instruction: Instruction, kept: tuple[int | None, ...]) -> tuple[float, tuple[int | None, ...]]:
        """Cycles of one instruction after one that kept the registers `kept`, by source; and what this one keeps."""
        sources = sources_of(instruction)
        fetched = [r for r, there in zip(sources, kept, strict=True) if r is not None and r != there]
        load = max(Counter(r % self.banks for r in fetched).values(), default=0)
        reading = load / self.ports if self.overlapping else -(-load // self.ports)
        keeps = tuple(r if instruction.reuse >> slot & 1 else None for slot, r in enumerate(sources))
        return max(self.least.get(instruction.base, 1), reading), keeps


def sources_of(instruction: Instruction) -> tuple[int | None, int | None, int | None]:
    """The source registers by place; None for a constant and for instructions that are not modelled."""
    if instruction.base not in THREE_SOURCES:
        return None, None, None
    form = instruction.opcode & 0xE00
    assert form in (REGISTER_FORM, CONSTANT_FORM), instruction
    first, second, third = (r if r != 255 else None for r in (instruction.ra, instruction.rb, instruction.rc))
    return first, second if form == REGISTER_FORM else None, third


def loop_of(code: bytes, name: str) -> tuple[Instruction, ...]:
    """The instructions of the kernel's loop."""
    found = sass.decode(cubin.text(code, name), cubin.architecture(code))
    return tuple(proof.innermost_loop(found))
