"""The decoder names machine words as nvdisasm does, finds where branches go, and raises for no word."""

from pathlib import Path

import nvdisasm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import GOLDEN

from probe.kernels.cuda import nvrtc, sass

# architecture, word, mnemonic as nvdisasm 13.5 writes it: one word of each kind in what NVRTC 12.9 and 13.5 make of two
# hundred small kernels (every width and cache hint of loads and stores, arithmetic, conversions, matrix instructions).
WORDS = [
    (int(number), int(word, 16), mnemonic)
    for line in (GOLDEN / "sass_words.txt").read_text().splitlines()
    for number, word, mnemonic in (line.split(),)
]
LOOP = """
extern "C" __global__ void loop(float *out, int n) {
    float x = out[threadIdx.x];
#pragma unroll 1
    for (int i = 0; i < n; i++) x = x * x + 1.0f;
    out[threadIdx.x] = x;
}
"""
words = st.integers(min_value=0, max_value=2**128 - 1)


def test_words_are_named_as_nvdisasm_names_them() -> None:
    wrong = []
    for number, word, theirs in WORDS:
        mine = sass.mnemonic(word, number)
        expected = theirs if sass.whole(word, number) else theirs.partition(".")[0]
        if mine != expected:
            wrong.append((number, f"{word:032x}", mine, theirs))
    assert wrong == []
    assert len(WORDS) > 1800


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_89", "sm_90a", "sm_100a", "sm_103a", "sm_120a"])
def test_the_recorded_words_are_what_the_installed_nvdisasm_says(architecture: str, tmp_path: Path) -> None:
    rows = [(word, name) for number, word, name in WORDS if number == nvrtc.number_of(architecture)]
    lines = nvdisasm.listing([word for word, _ in rows], architecture, tmp_path)
    assert [nvdisasm.mnemonic(line) for line in lines] == [name for _, name in rows]


@pytest.mark.parametrize(
    ("architecture", "word", "mnemonic"),
    [
        (90, 0x000FC80000000003_0000000201007223, "FFMA"),
        (75, 0x00000000001EEB00_0000000000007381, "LDG.E.64.SYS"),
        (120, 0x004EA20008121908_FE0000040C04797E, "LDG.E.ENL2.256"),
        (80, 0x000000000000000_000000000000007235, "HFMA2.MMA"),
        (120, 0x000000000000000_000000000000007235, "IADD"),
    ],
)
def test_known_words(architecture: int, word: int, mnemonic: str) -> None:
    assert sass.mnemonic(word, architecture) == mnemonic


def test_an_unknown_operation_says_its_code() -> None:
    assert sass.mnemonic(0x0FF, 90) == "?0x0ff"
    assert not sass.whole(0x0FF, 90)


def test_fields_of_an_instruction() -> None:
    (instruction,) = sass.decode(bytes.fromhex("23720001020000000300000000c80f00"))
    assert instruction.mnemonic == instruction.base == "FFMA"
    assert (instruction.opcode, instruction.predicate, instruction.negated) == (0x223, 7, False)
    assert (instruction.rd, instruction.ra, instruction.rb, instruction.rc) == (0, 1, 2, 3)
    assert (instruction.stall, instruction.yields, instruction.reuse) == (4, 0, 0)
    assert instruction.target is None
    assert sass.encode([instruction]) == bytes.fromhex("23720001020000000300000000c80f00")


@pytest.mark.parametrize("architecture", ["sm_75", "sm_89", "sm_90a", "sm_120"])
def test_branches_go_where_the_code_is(architecture: str) -> None:
    """One loop: a branch back into the kernel, and the one to itself that pads the end."""
    instructions = sass.of(nvrtc.cubin(LOOP, architecture), "loop")
    branches = [i for i in instructions if i.target is not None]
    assert all(0 <= (i.target or 0) < 16 * len(instructions) and (i.target or 0) % 16 == 0 for i in branches)
    assert any(i.target == i.offset for i in branches)
    (back,) = [i for i in branches if i.target is not None and i.target < i.offset]
    body = [i for i in instructions if back.target is not None and back.target <= i.offset <= back.offset]
    assert [i.mnemonic for i in body].count("FFMA") == 1


@given(word=words, number=st.sampled_from([70, 75, 80, 89, 90, 100, 120]))
def test_no_word_is_refused(word: int, number: int) -> None:
    (instruction,) = sass.decode(word.to_bytes(16, "little"), number)
    assert instruction.word == word
    assert instruction.mnemonic
    assert isinstance(sass.whole(word, number), bool)
    assert instruction.target is None or instruction.base == "BRA"
