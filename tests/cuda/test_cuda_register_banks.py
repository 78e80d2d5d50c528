"""Is the machine code composed as asked, is a known register file found from it, and is nothing claimed of noise?"""

import dataclasses
import functools
import itertools
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from cuda_listing import disassembled
from cuda_register_file import RegisterFile
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UnavailableError
from probe.kernels.cuda import cubin, nvrtc, proof, recompose, sass
from probe.kernels.cuda import register_banks as kernels
from probe.kernels.cuda.driver import DeviceLost
from probe.kernels.cuda.recompose import FFMA, FFMA_CONSTANT, IADD3, RecomposeError, Word
from probe.kernels.cuda.register_banks import A, B, C, Variant
from probe.machine.device import Device
from probe.microbench.cuda import bank_count, register_banks
from probe.microbench.published import references
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

ARCHITECTURES = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120")
DISASSEMBLED = ARCHITECTURES[1:]  # nvdisasm 13 no longer knows sm_70
MASKS = range(8)
LATENCY = 4  # cycles, of FFMA and IADD3


@functools.cache
def _block(architecture: str) -> recompose.Block:
    kernel = kernels.kernel()
    if nvrtc.number_of(architecture) not in {n for each in nvrtc.available() for n in each.architectures}:
        pytest.skip(f"no NVRTC here compiles for {architecture}")
    return recompose.block(nvrtc.cubin(kernel.source, architecture, kernel.defines), kernel.name)


def _all_variants() -> list[Variant]:
    """Every pattern with every set of reused sources; IADD3, whose registers are chosen alike, with none and all."""
    masks = [(FFMA, mask) for mask in MASKS] + [(IADD3, mask) for mask in (0, A | B | C)]
    return [Variant(r, operation, mask, mask) for r, (operation, mask) in itertools.product(kernels.residues(), masks)]


def _listings(codes: Sequence[bytes], architecture: str, folder: Path) -> list[list[str]]:
    """Each code's instructions as nvdisasm writes them, without the predicates that an IADD3 has from Blackwell on."""
    found = disassembled(codes, architecture, folder)
    return [[" ".join(line.replace("PT, PT, ", "").split()) for line in lines] for lines in found]


# ---- composing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_variant_exists_and_keeps_the_distances_between_dependent_instructions(architecture: str) -> None:
    block = _block(architecture)
    assert len(block.offsets) == kernels.INSTRUCTIONS == 512
    assert max(block.registers) < cubin.registers(block.cubin, block.kernel)
    for variant in _all_variants():
        period = kernels.words(block, variant)
        _check_operands(variant, period)
        written = [word.rd for word in period]
        assert {r for word in period for r in (word.rd, *word.sources)} <= set(block.registers)
        for word in period:
            for slot, register in enumerate(word.sources):
                chained = slot == 2 and not variant.held & C
                assert (register in written) == chained, "a source that is not the accumulator is written"
        if not variant.held & C:  # the accumulators: each is used again only when its result is there
            assert len(set(written)) * variant.stall >= LATENCY
            assert written == [word.rc for word in period]
            assert len(set(written)) == kernels.CHAINS


def _check_operands(variant: Variant, period: tuple[Word, ...]) -> None:
    assert {tuple(r % 8 for r in (w.ra, w.rb, w.rc)) for w in period} == {variant.residues}
    assert {(w.operation, w.reuse, w.stall) for w in period} == {(variant.operation, variant.reuse, variant.stall)}
    for slot, bit in enumerate(kernels.SLOTS):
        sources = [word.sources[slot] for word in period]
        following = [*sources[1:], sources[0]]
        same = {one == other for one, other in zip(sources, following, strict=True)}
        assert same == {bool(variant.held & bit)}, "held sources are the same each time, all others change each time"
    assert all(len({w.ra, w.rb, w.rc}) == 3 for w in period)


@pytest.mark.parametrize("architecture", DISASSEMBLED)
def test_nvdisasm_reads_every_word_as_it_was_asked_for_and_sees_nothing_else_changed(
    architecture: str, tmp_path: Path
) -> None:
    block = _block(architecture)
    variants = [*_all_variants(), Variant((0, 0, 0), FFMA_CONSTANT), Variant((0, 0, 1), FFMA_CONSTANT)]
    wanted = sorted({word for variant in variants for word in kernels.words(block, variant)}, key=str)
    variant = Variant((0, 2, 1), held=A | B, reuse=A | B, stall=2)
    changed_cubin = kernels.recomposed(block, variant)
    texts = [cubin.text(code, block.kernel) for code in (block.cubin, changed_cubin)]
    assert changed_cubin.replace(texts[1], texts[0]) == block.cubin, "only the code changes, nothing else of the file"
    code = b"".join(word.encoded.to_bytes(16, "little") for word in wanted)
    listed, before, after = _listings([code, *texts], architecture, tmp_path)
    assert listed == [str(word) for word in wanted]
    assert len(wanted) > 4000
    assert len(before) == len(after)
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    period = [str(word) for word in kernels.words(block, variant)]
    loop = [line for line in after if line.startswith("FFMA")]
    assert loop == period * (512 // len(period))
    assert set(changed) <= set(period)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_own_decoder_reads_the_variants_back_from_the_whole_file(architecture: str) -> None:
    """Also for sm_70, whose words are those of sm_75, which nvdisasm reads."""
    block = _block(architecture)
    for variant in random.Random(1).sample(_all_variants(), 12):
        code = kernels.recomposed(block, variant)
        assert cubin.registers(code, block.kernel) == cubin.registers(block.cubin, block.kernel)
        loop = proof.innermost_loop(sass.of(code, block.kernel))
        found = [i for i in loop if i.offset in set(block.offsets)]
        period = kernels.words(block, variant)
        assert {i.mnemonic for i in found} == {variant.operation.name}
        fields = [(i.rd, i.ra, i.rb, i.rc, i.stall, i.reuse, i.yields) for i in found]
        assert fields == [(w.rd, w.ra, w.rb, w.rc, w.stall, w.reuse, 1) for w in period] * (512 // len(period))
        assert all(i.bits(110, 6) == 0b111111 for i in found), "an instruction of fixed latency sets no barrier"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("mnemonic", ["FFMA", "IADD3"])
def test_the_compiler_takes_four_cycles_for_the_latency(architecture: str, mnemonic: str) -> None:
    _block(architecture)  # skips without a compiler
    kind, step = {
        "FFMA": ("float", 'asm volatile("fma.rn.f32 %0, %1, %2, %0;" : "+f"(x) : "f"(a), "f"(b));'),
        "IADD3": (
            "int",
            'asm volatile("{ .reg .s32 t; add.s32 t, %0, %1; add.s32 %0, t, %2; }" : "+r"(x) : "r"(a), "r"(b));',
        ),
    }[mnemonic]
    source = f"""extern "C" __global__ void chain({kind} *p) {{
        {kind} x = p[threadIdx.x], a = p[threadIdx.x + 32], b = p[threadIdx.x + 64];
        #pragma unroll
        for (int n = 0; n < 32; n++) {step}
        p[threadIdx.x] = x; }}"""
    code = sass.of(nvrtc.cubin(source, architecture), "chain")
    places = [n for n, i in enumerate(code) if i.base == mnemonic]
    distances = [
        sum(i.stall for i in code[first:second])
        for first, second in itertools.pairwise(places)
        if code[first].rd in (code[second].ra, code[second].rb, code[second].rc)
    ]
    assert len(distances) > 25
    assert min(distances) == LATENCY


def test_the_first_word_waits_for_all_that_the_block_waited_for() -> None:
    block = _block("sm_90a")
    text = bytearray(cubin.text(block.cubin, block.kernel))
    for place, mask in ((3, 0b000001), (77, 0b100000)):
        at = block.offsets[place]
        word = int.from_bytes(text[at : at + 16], "little") | mask << 116
        text[at : at + 16] = word.to_bytes(16, "little")
    waiting = recompose.block(cubin.with_text(block.cubin, block.kernel, bytes(text)), block.kernel)
    found = waiting.read(kernels.recomposed(waiting, Variant((0, 1, 2))))
    assert [word.wait for word in found] == [0b100001] + [0] * 511


def test_what_cannot_be_composed_is_refused() -> None:
    block = _block("sm_90a")
    with pytest.raises(RecomposeError, match="names again"):
        Variant((0, 0, 0), held=A, reuse=A | B)
    with pytest.raises(RecomposeError, match="evenly"):
        block.with_words(kernels.words(block, Variant((0, 0, 0)))[:3])
    few = recompose.Block(block.cubin, block.kernel, block.offsets, block.registers[:20], 0)
    with pytest.raises(RecomposeError, match="too few registers"):
        kernels.words(few, Variant((0, 0, 0)))
    with pytest.raises(RecomposeError, match="no FFMA"):
        source = 'extern "C" __global__ void none(float *p) { p[threadIdx.x] = 1; }'
        recompose.block(nvrtc.cubin(source, "sm_90a"), "none")


registers = st.integers(0, 254)


@given(
    st.sampled_from(recompose.OPERATIONS),
    registers,
    registers,
    registers,
    registers,
    st.integers(0, 15),
    st.integers(0, 7),
    st.integers(0, 63),
)
def test_a_word_reads_back_as_it_was_composed(operation, rd, ra, rb, rc, stall, reuse, wait) -> None:
    rb = recompose.NO_REGISTER if operation.constant is not None else rb
    word = Word(operation, rd, ra, rb, rc, stall, reuse, wait)
    assert recompose.parse(word.encoded) == word
    with pytest.raises(RecomposeError):
        recompose.parse(word.encoded ^ 1 << 75)  # a modifier: another instruction


# ---- counting banks --------------------------------------------------------------------------------------------------


def _modelled(banks: int, ports: int = 1, least: float = 1.0, noise: float = 0.0) -> dict[tuple[int, int, int], float]:
    generator = random.Random(3)
    return {
        r: max(least, -(-max(sum(a % banks == b % banks for a in r) for b in r) // ports))
        * (1 + noise * generator.uniform(-1, 1))
        for r in kernels.residues()
    }


@pytest.mark.parametrize("banks", [2, 4, 8])
@pytest.mark.parametrize("noise", [0.0, 0.015])
def test_the_number_of_banks_is_the_smallest_that_explains_the_times(banks: int, noise: float) -> None:
    found = bank_count.infer(_modelled(banks, noise=noise), 1.0)
    assert (found.count, found.ports) == (banks, 1)
    assert found.conflict_cycles == pytest.approx(2 if banks > 2 else 1, rel=0.1)
    assert found.classes[0].load == 3


def test_ports_are_told_from_what_a_conflict_costs() -> None:
    assert bank_count.infer(_modelled(2, ports=2), 1.0).ports == 2  # three reads take two cycles, two take one
    assert (
        bank_count.infer(_modelled(2, least=2), 2.0).ports == 1
    )  # Volta: only three reads take longer than two cycles
    halves = {r: 1.5 if len({n % 2 for n in r}) == 1 else 1.0 for r in kernels.residues()}
    assert bank_count.infer(halves, 1.0).ports == 2  # reads of neighbours overlap
    odd = {r: 7.0 if len({n % 2 for n in r}) == 1 else 1.0 for r in kernels.residues()}
    assert bank_count.infer(odd, 1.0).ports is None


def test_one_bank_shows_only_by_what_reuse_saves() -> None:
    found = bank_count.infer(_modelled(1), 1.0)
    assert (found.count, found.ports) == (1, 1)


@pytest.mark.parametrize(
    ("cycles", "why"),
    [
        (_modelled(8, least=4), "no pattern is slower than another: all take 4.00 cycles"),
        (_modelled(4, noise=0.2), "should cost the same and differ by"),
        ({r: 1 + 0.5 * r[0] for r in kernels.residues()}, "should cost the same and differ by"),
        ({r: 1 + 2 * (len({n % 2 for n in r}) > 1) for r in kernels.residues()}, "takes longer than ABC"),
        ({(0, 0, 0): 1.0}, "too few patterns"),
        ({(0, 0, 0): 1.0, (0, 1, 2): 0.0}, "too few patterns"),
        ({r: 1 + 0.07 * (len({n % 2 for n in r}) == 1) for r in kernels.residues()}, "too little for a conflict"),
    ],
)
def test_the_number_of_banks_is_unknown_with_a_reason(cycles: dict[tuple[int, int, int], float], why: str) -> None:
    found = bank_count.infer(cycles, 4.0 if min(cycles.values()) >= 4 else 1.0)
    assert found.count is None and found.ports is None
    assert why in found.because


# ---- the suite -------------------------------------------------------------------------------------------------------


def _run(
    registers: RegisterFile,
    *,
    quick: bool = False,
    name: str = "NVIDIA H100 80GB HBM3",
    fail: tuple[str, int, int] = (),
) -> tuple[list[Measurement], Context]:
    """The rows until the suite ends or fails; where it fails the last warning is the error's text."""
    fake = registers.fake(name=name)
    context = Context(Device("cuda", name), 20.0, quick=quick, index=0, clock=fake.clock)
    found: list[Measurement] = []
    with fake.gpu() as gpu:
        if fail:
            fake.fail(*fail)
        try:
            found.extend(register_banks.run(context, gpu))
        except DeviceLost as lost:
            context.warnings.append(str(lost))
    assert fake.error is None
    return found, context


def _banks(found: list[Measurement]) -> set[tuple[str, float, int | None]]:
    rows = [m for m in found if m.metric == "banks"]
    return {(m.params["instruction"], m.value, m.params["reads_per_bank_per_cycle"]) for m in rows}


def _cycles(found: list[Measurement], **params: object) -> list[float]:
    wanted = {"instruction": "FFMA", "warps": 4, "stall": 1, "held": "", "constant": False, **params}
    rows = [m for m in found if m.metric == "time" and wanted.items() <= m.params.items()]
    return [m.params["median_cycles"] for m in rows]


HALF_RATE = {"IADD3": 2.0}
MODELS = {
    "two ports": (RegisterFile(2, 2, HALF_RATE), (2, 2)),
    "two ports that overlap": (RegisterFile(2, 2, HALF_RATE, overlapping=True), (2, 2)),
    "four banks": (RegisterFile(4, 1, HALF_RATE), (4, 1)),
    "eight banks": (RegisterFile(8, 1, HALF_RATE), (8, 1)),
    "Turing": (RegisterFile(2, 1, {"FFMA": 2, "IADD3": 2}, capability=(7, 5)), (2, 1)),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_known_register_file_is_recovered_from_the_code_it_is_given(model: str) -> None:
    registers, banks = MODELS[model]
    found, context = _run(registers, quick=True)
    assert _banks(found) == {("FFMA", *banks)}
    assert context.warnings == []
    assert all(m.flags == () for m in found)


def test_what_each_row_says() -> None:
    registers = RegisterFile(2, 1, HALF_RATE)
    found, context = _run(registers)
    assert context.warnings == []
    assert registers.warps == {1, 4, 8, 16}
    assert _banks(found) == {("FFMA", 2, 1), ("IADD3", 2, 1)}
    assert len({m.name for m in found}) == len(found)
    loop = 4 / 512  # the counter (an IADD3), the comparison and the branch
    assert _cycles(found, pattern="R0 R0 R0") == [pytest.approx(3 + loop, rel=1e-4)]
    assert _cycles(found, pattern="R0 R1 R2") == [pytest.approx(2 + loop, rel=1e-4)]
    assert _cycles(found, pattern="R0 R0 R0", warps=16) == [pytest.approx(3 + loop, rel=1e-4)]
    assert len({m.params["pattern"] for m in found if m.metric == "time" and m.params.get("held") == ""}) >= 67
    held = {"held": "AB", "pattern": "R0 R0 R0"}
    assert _cycles(found, **held, reuse="") == [pytest.approx(3 + loop, rel=1e-4)]  # without the flag nothing is kept
    kept = {"held": "AB", "pattern": "R0.reuse R0.reuse R0"}
    assert _cycles(found, **kept) == [pytest.approx(1 + loop, rel=0.02)]  # each pass fetches once
    assert _cycles(found, pattern="R0 1 R1", constant=True) == [pytest.approx(1 + loop, rel=1e-4)]
    assert _cycles(found, pattern="R0 1 R0", constant=True) == [pytest.approx(2 + loop, rel=1e-4)]
    [conflict] = [m for m in found if m.params.get("pattern") == "R0 R0 R0" and m.params.get("stall") == 2
                  and m.params["warps"] == 4]  # fmt: skip
    assert conflict.params["cycles"] == pytest.approx(3 + loop, rel=1e-4)
    assert conflict.value == pytest.approx(conflict.params["cycles"] / 1.5e9, rel=1e-3)
    assert conflict.params["most_reads_of_a_bank"] == 3
    assert conflict.proof["count"] == 512 and conflict.proof["recomposed"] and conflict.proof["local_bytes"] == 0
    assert re.fullmatch(r"FFMA R(\d+), R\d+, R\d+, R\1", conflict.proof["operands"][0])
    speedups = {m.name: m.median for m in found if m.metric == "speedup"}
    assert speedups == {
        "FFMA remapped": pytest.approx(1.5, rel=0.01),
        "FFMA reused": pytest.approx(3, rel=0.02),
        "IADD3 remapped": pytest.approx(1.5, rel=0.01),
        "IADD3 reused": pytest.approx(1.5, rel=0.02),
    }


def test_a_quick_run_asks_the_same_with_fewer_patterns() -> None:
    found, context = _run(RegisterFile(2, 1, HALF_RATE), quick=True)
    assert _banks(found) == {("FFMA", 2, 1)}
    assert context.warnings == []
    assert len(found) < 60
    assert {m.params["datapath"] for m in found if "datapath" in m.params} == {"none", "uniform", "vector"}


def test_noise_and_a_register_file_without_conflicts_leave_the_number_unknown() -> None:
    noisy = RegisterFile(2, noise=lambda code: 1 + hash(code) % 1000 / 2000)
    for registers, why in ((noisy, "differ by"), (RegisterFile(8, ports=3), "no pattern is slower than another")):
        found, context = _run(registers, quick=True)
        assert _banks(found) == set()
        assert [w for w in context.warnings if "undetermined (FFMA, 4 warps)" in w and why in w]
        assert all("most_reads_of_a_bank" not in m.params for m in found)


def test_times_that_cannot_be_are_flagged_and_tell_no_banks() -> None:
    found, context = _run(RegisterFile(2, ports=8, noise=lambda code: 0.5), quick=True)
    flagged = [m for m in found if "implausible" in m.flags]
    assert {m.params["instruction"] for m in flagged} == {"FFMA", "IADD3"}
    assert len(flagged) > 20
    assert _banks(found) == set()
    assert any("too few patterns" in w for w in context.warnings)


def test_a_loop_that_is_slow_for_another_reason_is_said_to_be() -> None:
    _, context = _run(RegisterFile(2, least={"FFMA": 1.6, "IADD3": 2}), quick=True)
    assert [w for w in context.warnings if "no variant of FFMA reaches the issue floor of 1 cycles" in w]


def test_published_values_are_set_beside_the_rows_they_are_of() -> None:
    turing = RegisterFile(2, least={"FFMA": 2, "IADD3": 2}, capability=(7, 5))
    found, _ = _run(turing, quick=True, name="NVIDIA GeForce RTX 2070")
    device = Device("cuda", "NVIDIA GeForce RTX 2070")
    compared = [m for m in references.annotate(found, device, None, None) if m.reference]
    assert [(m.params["instruction"], m.params["operands"]) for m in compared] == list(
        itertools.product(("FFMA", "IADD3"), ("conflict", "free", "reuse"))
    )
    cycles = {m.params["operands"]: m.reference.low * 1.5e9 for m in compared if m.params["instruction"] == "IADD3"}
    assert cycles == {name: pytest.approx(c, rel=1e-3) for name, c in
                      {"conflict": 3.031, "free": 2.062, "reuse": 2.031}.items()}  # fmt: skip


def test_a_compiler_that_cannot_keep_the_pool_gets_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    spilled, smaller = kernels.KERNELS
    wrong = dataclasses.replace(spilled, claim=kernels.CLAIM.with_(exactly={"FFMA": 513}))
    monkeypatch.setattr(kernels, "KERNELS", (wrong, smaller))
    found, context = _run(RegisterFile(2, 1, HALF_RATE), quick=True)
    assert _banks(found) == {("FFMA", 2, 1)}
    assert context.warnings == []
    assert {m.proof["registers"] for m in found if m.params.get("pattern")} < {*range(100)}


def test_a_variant_that_does_not_load_costs_only_itself() -> None:
    whole, _ = _run(RegisterFile(2, 1, HALF_RATE), quick=True)
    found, context = _run(RegisterFile(2, 1, HALF_RATE), quick=True, fail=("cuModuleLoadData", 1, 12))
    assert len(whole) - len(found) == 1
    assert [w.partition(":")[0] for w in context.warnings] == ["register_banks"]
    assert _banks(found) == {("FFMA", 2, 1)}


def test_what_was_measured_before_the_device_was_lost_is_kept() -> None:
    whole, _ = _run(RegisterFile(2, 1, HALF_RATE), quick=True)
    found, context = _run(RegisterFile(2, 1, HALF_RATE), quick=True, fail=("cuLaunchKernel", 719, 400))
    assert 0 < len(found) < len(whole)
    assert "719" in context.warnings[-1] or "LAUNCH_FAILED" in context.warnings[-1]


def test_older_devices_get_what_they_have() -> None:
    if not any(70 in each.architectures for each in nvrtc.available()):
        pytest.skip("no NVRTC here compiles for sm_70")
    volta = RegisterFile(2, least={"FFMA": 2, "IADD3": 2}, capability=(7, 0))
    found, context = _run(volta, quick=True, name="Tesla V100-SXM2-16GB")
    assert _banks(found) == {("FFMA", 2, 1)}
    assert context.warnings == [
        "register_banks: Tesla V100-SXM2-16GB has no uniform datapath, Turing is the first with one"
    ]
    with pytest.raises(UnavailableError, match="sm_70 or later"):
        _run(RegisterFile(2, capability=(6, 0)), name="Tesla P100")


@pytest.mark.gpu
def test_on_this_gpu() -> None:
    context = Context(Device("cuda", "this one"), 20.0, quick=False, index=0)
    found = list(register_banks.run(context))
    times = [m for m in found if m.metric == "time"]
    assert len(times) > 150
    assert [m.name for m in times if "implausible" in m.flags] == []
    [conflict] = _cycles(found, pattern="R0 R0 R0")
    [free] = _cycles(found, pattern="R0 R1 R2")
    assert conflict >= free * 0.98
