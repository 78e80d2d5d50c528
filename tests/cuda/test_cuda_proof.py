"""A claim holds for the machine code that it describes, and says in a sentence each what is otherwise."""

import pytest

from probe.kernels.cuda import nvrtc, proof, sass
from probe.kernels.cuda.proof import Claim
from probe.kernels.cuda.sass import Instruction

SOURCE = """
extern "C" __global__ void twice(float4 *out, const float4 *in, int n) {
#pragma unroll 1
    for (int i = 0; i < n; i++) { float4 v = in[i * 32]; v.x += v.w; out[i * 32] = v; }
#pragma unroll 1
    for (int i = 0; i < n; i++) { float v = ((float *)in)[i]; ((float *)out)[i] = sqrtf(v) + v / (float)i; }
}
"""


def _code(*mnemonics: str) -> list[Instruction]:
    return [Instruction(16 * n, 0, mnemonic) for n, mnemonic in enumerate(mnemonics)]


def _branch(at: int, to: int) -> Instruction:
    """A BRA of sm_80 at instruction `at` to instruction `to`."""
    distance = 4 * (to - at - 1) & (1 << 48) - 1  # in words of four bytes, from behind the branch
    return Instruction(16 * at, distance << 34, "BRA", 80)


def test_mnemonics_match_in_whole_parts() -> None:
    assert proof.covers("LDG.E", "LDG.E.128.CONSTANT")
    assert proof.covers("LDG.E.128", "LDG.E.128")
    assert not proof.covers("LDG.E.12", "LDG.E.128")
    assert not proof.covers("LDG", "LDGSTS.E")
    assert not proof.covers("LDG.E.128", "LDG.E")


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (Claim(exactly={"FFMA": 2}, at_least={"LDG": 1}), ()),
        (Claim(exactly={"FFMA": 3}), ("2 FFMA instead of 3",)),
        (Claim(exactly={"DFMA": 0}), ()),
        (Claim(at_least={"LDG.E.128": 2}), ("1 LDG.E.128 instead of 2 or more",)),
        (Claim(forbidden=("LDG.E.128", "STL")), ("1 LDG.E.128, which must not occur",)),
        (Claim(loop_only=("FFMA",)), ("there is no loop",)),
    ],
)
def test_what_is_not_as_claimed_is_said(claim: Claim, said: tuple[str, ...]) -> None:
    assert proof.check(claim, _code("LDG.E.128", "FFMA", "FFMA.FTZ", "EXIT")) == said


def test_spills_are_never_as_claimed() -> None:
    assert proof.check(Claim(), _code("STL.64", "LDL.64")) == (
        "1 LDL, which must not occur",
        "1 STL, which must not occur",
    )


def test_the_innermost_loop_holds_the_main_instruction() -> None:
    """An outer loop of two inner ones: the one with the most of the main instruction, else the longest."""
    code = _code("MOV", "FFMA", "BRA", "LDG.E", "IADD3", "ISETP", "BRA", "BRA", "EXIT", "BRA")
    for at, to in ((2, 1), (6, 3), (7, 0), (9, 9)):
        code[at] = _branch(at, to)
    assert [i.mnemonic for i in proof.innermost_loop(code, "FFMA")] == ["FFMA", "BRA"]
    assert [i.mnemonic for i in proof.innermost_loop(code)] == ["LDG.E", "IADD3", "ISETP", "BRA"]


def test_the_loop_holds_only_what_is_named_and_its_own_arithmetic() -> None:
    code = _code("LDG.E", "MUFU.RSQ", "IADD3", "ISETP", "BRA", "STG.E", "EXIT")
    code[4] = _branch(4, 0)
    claim = Claim(loop_only=("LDG",), main="LDG")
    assert proof.check(claim, code) == ("1 MUFU.RSQ in the innermost loop, which must hold none",)
    assert proof.check(claim.with_(loop_only=("LDG", "MUFU.RSQ")), code) == ()


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90a", "sm_120"])
def test_evidence_of_compiled_code(architecture: str) -> None:
    code = nvrtc.cubin(SOURCE, architecture)
    instructions = sass.of(code, "twice")
    claim = Claim(exactly={"LDG.E.128": 1, "STG.E.128": 1}, main="LDG.E.128")
    assert proof.check(claim, instructions) == ()
    found = proof.evidence(claim, instructions, architecture=architecture, registers=20, compiler="NVRTC 13.5")
    assert (found["instruction"], found["count"], found["architecture"]) == ("LDG.E.128", 1, architecture)
    loop = found["loop"]
    assert isinstance(loop, dict)
    assert sum(number for mnemonic, number in loop.items() if proof.covers("LDG.E.128", mnemonic)) == 1
    assert loop["FADD"] == 1
    assert not any(mnemonic.startswith("MUFU") for mnemonic in loop)  # that is the other loop's
    assert (found["registers"], found["local_bytes"], found["compiler"]) == (20, 0, "NVRTC 13.5")
