"""Does a kernel's machine code do what the measurement says? Claims about its instructions, checked on the code.

A compiler may fold, split, hoist or spill what a source asks for. So each kernel states what its machine code must
show, and what does not hold stops the measurement instead of standing behind a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from probe.kernels.cuda.sass import Instruction

# What a loop may hold beside its work: addresses, the counter, the branch, and moves between the register files.
ARITHMETIC = tuple(
    """
    IADD IADD3 VIADD IMAD ISETP LEA MOV SHF LOP3 PLOP3 SEL NOP BRA BSSY BSYNC BREAK WARPSYNC
    UIADD3 UIMAD UISETP ULEA UMOV USHF ULOP3 UPLOP3 USEL R2UR ULDC LDC LDCU VOTEU CS2UR
    """.split()
)


@dataclass(frozen=True)
class Claim:
    """What a kernel's machine code must show.

    A mnemonic is a prefix in whole dotted parts: "LDG.E" covers LDG.E and LDG.E.128.CONSTANT, not LDGSTS.E.
    """

    exactly: Mapping[str, int] = field(default_factory=dict)  # mnemonic: how many
    at_least: Mapping[str, int] = field(default_factory=dict)
    forbidden: tuple[str, ...] = ("LDL", "STL")  # no spills, no arrays in local memory
    loop_only: tuple[str, ...] | None = None  # all that the innermost loop may hold beside ARITHMETIC; None: anything
    main: str = ""  # the instruction named in the result

    def with_(self, **changes: Any) -> Claim:
        """The same claim with some fields changed."""
        return replace(self, **changes)


def check(claim: Claim, instructions: Sequence[Instruction]) -> tuple[str, ...]:
    """What is not as claimed, one sentence each; empty where all is."""
    wrong = [
        f"{count(mnemonic, instructions)} {mnemonic} instead of {wanted}"
        for mnemonic, wanted in claim.exactly.items()
        if count(mnemonic, instructions) != wanted
    ]
    wrong += [
        f"{count(mnemonic, instructions)} {mnemonic} instead of {wanted} or more"
        for mnemonic, wanted in claim.at_least.items()
        if count(mnemonic, instructions) < wanted
    ]
    wrong += [
        f"{count(mnemonic, instructions)} {mnemonic}, which must not occur"
        for mnemonic in claim.forbidden
        if count(mnemonic, instructions)
    ]
    return (*wrong, *_wrong_in_loop(claim, instructions))


def evidence(
    claim: Claim,
    instructions: Sequence[Instruction],
    *,
    architecture: str,
    registers: int,
    compiler: str,
    local_bytes: int = 0,
) -> dict[str, object]:
    """What was found, as a measurement carries it: the main instruction, how many, what the innermost loop holds."""
    return {
        "instruction": claim.main,
        "count": count(claim.main, instructions) if claim.main else len(instructions),
        "loop": dict(sorted(Counter(i.mnemonic for i in innermost_loop(instructions, claim.main)).items())),
        "architecture": architecture,
        "registers": registers,
        "local_bytes": local_bytes,
        "compiler": compiler,
    }


def count(mnemonic: str, instructions: Sequence[Instruction]) -> int:
    """How many instructions `mnemonic` covers."""
    return sum(covers(mnemonic, instruction.mnemonic) for instruction in instructions)


def covers(mnemonic: str, found: str) -> bool:
    """Whether `found` is `mnemonic` or begins with all of its dotted parts."""
    return found == mnemonic or found.startswith(f"{mnemonic}.")


def innermost_loop(instructions: Sequence[Instruction], main: str = "") -> Sequence[Instruction]:
    """The instructions of the innermost loop, its backward branch included; empty where there is no loop.

    Of several that hold no other loop, the one with the most of `main`, and of those the longest.
    """
    loops = _loops(instructions)
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [[i for i in instructions if low <= i.offset <= high] for low, high in innermost]
    return max(bodies, key=lambda body: (count(main, body) if main else 0, len(body)), default=[])


def _loops(instructions: Sequence[Instruction]) -> set[tuple[int, int]]:
    """(first, last) offset of each loop: a branch back to an earlier instruction; one to itself only pads the end."""
    return {
        (i.target, i.offset) for i in instructions if i.base == "BRA" and i.target is not None and i.target < i.offset
    }


def _wrong_in_loop(claim: Claim, instructions: Sequence[Instruction]) -> list[str]:
    if claim.loop_only is None:
        return []
    body = innermost_loop(instructions, claim.main)
    if not body:
        return ["there is no loop"]
    allowed = (*claim.loop_only, *ARITHMETIC)
    strange = Counter(i.mnemonic for i in body if not any(covers(mnemonic, i.mnemonic) for mnemonic in allowed))
    return [f"{number} {mnemonic} in the innermost loop, which must hold none" for mnemonic, number in strange.items()]
