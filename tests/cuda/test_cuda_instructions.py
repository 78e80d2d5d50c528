"""Do the loops hold one instruction alone, are a known SM's figures found, and is what cannot be flagged?"""

import ctypes
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_listing import ARCHITECTURES, compiled, listings, mnemonics
from fake_cuda import Arguments, FakeCuda, Kernel, Three

from probe.errors import UnavailableError
from probe.kernels.cuda import cubin, mma, nvrtc, proof, sass
from probe.kernels.cuda import instructions as kernels
from probe.kernels.cuda.driver import DeviceLost
from probe.kernels.cuda.instructions import Operation
from probe.machine.device import Device
from probe.microbench.cuda import instruction_limits, instructions
from probe.microbench.cuda.instruction_limits import limit_of
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

GPU = Device("cuda", "NVIDIA H100 80GB HBM3")
CLOCK_HZ = 1.5e9
LANES = 32
EVERY = {operation.name: operation for operation in (*kernels.OPERATIONS, *mma.OPERATIONS, mma.WGMMA)}


# ---- machine code ----------------------------------------------------------------------------------------------------


def _wrong(operation: Operation, chains: int, architecture: str) -> list[str]:
    """What the machine code does not show."""
    kernel = operation.kernel(chains)
    code = compiled(kernel, architecture)
    found = sass.of(code, kernel.name)
    claim = kernel.claim_for(nvrtc.number_of(architecture))
    registers = cubin.registers(code, kernel.name)
    evidence = proof.evidence(claim, found, architecture=architecture, registers=registers, compiler="")
    held = operation.wrong_in_loop(evidence)
    return [*proof.check(claim, found), *([held] if held else [])]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loops_hold_the_instruction_and_a_counter(architecture: str) -> None:
    native = instructions.operations(nvrtc.number_of(architecture))
    assert len(native) >= 9
    for operation in native:
        for chains in mma.UNDER_WAY if operation is mma.WGMMA else kernels.CHAINS:
            assert _wrong(operation, chains, architecture) == [], operation.kernel(chains).title


MNEMONICS = {
    "sm_75": {
        "mma.sync m16n8k8 float16": "HMMA.1688.F32",
        "mma.sync m8n8k16 int8": "IMMA.8816.S8.S8",
    },
    "sm_80": {"mma.sync m8n8k4 float64": "DMMA.884"},
    "sm_89": {"mma.sync m16n8k32 float8_e4m3fn": "QMMA.16832.F32.E4M3.E4M3"},
    "sm_90a": {
        "FFMA": "FFMA",
        "DFMA": "DFMA",
        "IMAD": "IMAD",
        "MUFU.EX2": "MUFU.EX2",
        "MUFU.RSQ": "MUFU.RSQ",
        "SHFL.BFLY": "SHFL.BFLY",
        "mma.sync m16n8k16 float16": "HMMA.16816.F32",
        "mma.sync m16n8k16 bfloat16": "HMMA.16816.F32.BF16",
        "mma.sync m16n8k8 tf32": "HMMA.1688.F32.TF32",
        "mma.sync m16n8k16 float64": "DMMA.16x8x16",
        "mma.sync m16n8k32 int8": "IMMA.16832.S8.S8",
        "wgmma m64n256k16 bfloat16": "HGMMA.64x256x16.F32.BF16",
    },
    "sm_100a": {"HFMA2": "HFMA2", "HFMA2.BF16": "HFMA2.BF16_V2"},
}


@pytest.mark.parametrize("architecture", MNEMONICS)
def test_the_disassembler_names_the_type_and_shape(architecture: str, tmp_path: Path) -> None:
    """The decoder at run time knows the operation; that it is of the type and shape in the name is proved here."""
    operations = [EVERY[name] for name in MNEMONICS[architecture]]
    kernels_of = [o.kernel(mma.UNDER_WAY[1] if o is mma.WGMMA else 8) for o in operations]
    counts = {
        operation.name: [m for m in mnemonics(lines) if m.split(".")[0] == operation.main].count(mnemonic)
        for operation, mnemonic, lines in zip(
            operations, MNEMONICS[architecture].values(), listings(kernels_of, architecture, tmp_path), strict=True
        )
    }
    assert counts == {operation.name: operation.counted for operation in operations}


def test_volta_does_a_product_in_four_steps() -> None:
    operation = EVERY["mma.sync m8n8k4 float16"]
    assert _wrong(operation, 1, "sm_70") == []
    assert operation.counted == 4 * operation.operations


def test_products_composed_of_others_are_refused() -> None:
    """Hopper and data-centre Blackwell have no float8 mma.sync: the compiler makes a few float16 ones and additions."""
    float8 = EVERY["mma.sync m16n8k32 float8_e4m3fn"]
    for architecture in ("sm_90a", "sm_100a"):
        wrong = _wrong(float8, 8, architecture)
        assert any("0 QMMA instead of" in sentence for sentence in wrong)
        assert any("FADD in the innermost loop" in sentence for sentence in wrong)
    assert _wrong(EVERY["mma.sync m16n8k16 float64"], 1, "sm_100a") != []


def test_instructions_that_the_compiler_merges_are_refused() -> None:
    """One addition of PTX a step: the compiler makes one IADD3 of two."""
    operation = EVERY["IADD3"]
    kernel = operation.kernel(4)
    source = kernel.source.replace("add.u32 %0, %0, %1; add.u32 %0, %0, %2;", "add.u32 %0, %0, %1;")
    assert source != kernel.source
    merged = dataclasses.replace(kernel, source=source)
    assert proof.check(merged.claim_for(90), sass.of(compiled(merged, "sm_90a"), merged.name)) != ()
    half = {"loop": {"IADD3": operation.counted // 2}}
    assert operation.wrong_in_loop(half) == f"the loop holds {operation.counted // 2} IADD3 instead of 192"


def test_a_loop_is_counted_by_the_mnemonic_and_its_suffixes() -> None:
    held = {"loop": {"HFMA2": 96, "HFMA2.MMA": 96, "IADD3": 1}}
    assert EVERY["HFMA2"].wrong_in_loop(held) is None
    assert EVERY["FFMA"].wrong_in_loop(held) == "the loop holds 0 FFMA instead of 192"
    assert EVERY["FFMA"].wrong_in_loop({}) is not None
    assert EVERY["FFMA"].wrong_in_loop({"loop": {"FFMA": 193}}) is not None
    assert EVERY["IADD3"].wrong_in_loop({"loop": {"IADD3": 193}}) is None  # with the counter
    assert EVERY["IADD3"].wrong_in_loop({"loop": {"IADD3": 194}}) is not None


@pytest.mark.parametrize("number", [70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 120, 121])
def test_no_type_is_measured_twice_by_mma_sync(number: int) -> None:
    found = [o.dtype for o in instructions.operations(number) if o.name.startswith("mma.sync")]
    assert len(found) == len(set(found))
    assert "float16" in found
    assert (mma.WGMMA in instructions.operations(number)) == (number == 90)


def test_what_is_composed_is_said() -> None:
    [hopper] = instructions.left_out(90)
    assert hopper.startswith("mma.sync of float8_e4m3fn is left out")
    assert [s.split()[2] for s in instructions.left_out(86)] == ["float64"]
    assert instructions.left_out(70) == instructions.left_out(80) == ()


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_the_latency_of_a_loop_that_carries_more_is_implausible() -> None:
    """29 cycles have been published for an FMA of an H100."""
    ffma = limit_of("FFMA", (9, 0))
    assert ffma.wrong_latency(29.0, LANES) == "a dependent FFMA every 29 cycles; 8 is the most that is plausible"
    assert ffma.wrong_latency(4.02, LANES) is None
    assert ffma.wrong_latency(0.5, LANES) == "a dependent FFMA every 0.5 cycles; it takes 3 at least"


def test_a_chain_is_no_quicker_than_the_whole_sm() -> None:
    turing = limit_of("DFMA", (7, 5))  # two units: a warp alone takes 16 cycles
    assert turing.wrong_latency(8.0, LANES) is not None
    assert turing.wrong_latency(48.0, LANES) is None
    assert limit_of("DFMA", (7, 0)).wrong_latency(8.0, LANES) is None
    assert limit_of("MMA bfloat16", (9, 0)).wrong_latency(120.0, mma.WGMMA.macs) is not None  # 128 at least


def test_rates_are_bounded_by_lanes_and_multiply_adds() -> None:
    assert limit_of("FFMA", (8, 0)).wrong_rate(64.0) is None
    assert "64 is the most there is" in (limit_of("FFMA", (8, 0)).wrong_rate(128.0) or "")
    assert limit_of("MMA float16", (8, 0)).wrong_rate(1024.0) is None
    assert "multiply-adds" in (limit_of("MMA float16", (8, 0)).wrong_rate(2048.0) or "")
    assert limit_of("MMA int8", (7, 0)).wrong_rate(1e9) is None  # nothing is known


def test_an_unknown_sm_is_bounded_by_what_it_can_issue() -> None:
    unknown = limit_of("FFMA", (99, 0))
    assert unknown.wrong_rate(128.0) is None
    assert "four warp instructions a cycle" in (unknown.wrong_rate(140.0) or "")


@pytest.mark.parametrize("capability", sorted(instruction_limits.LANES_A_CYCLE))
def test_every_limit_leaves_room_for_a_latency(capability: tuple[int, int]) -> None:
    for operation in instructions.operations(10 * capability[0] + capability[1]):
        limit = limit_of(operation.kind, capability)
        assert limit.a_cycle is not None
        assert max((operation.macs or LANES) / limit.a_cycle, limit.latency[0]) < limit.latency[1]
        assert operation.matrix or limit.a_cycle <= instruction_limits.ISSUED_LANES


# ---- the suite on a known SM -----------------------------------------------------------------------------------------


@dataclass
class Machine:
    """An SM of compute capability 9.0: cycles between dependent instructions, and the share of the limits reached."""

    latencies: dict[str, float] = field(
        default_factory=lambda: {"FFMA": 4, "DFMA": 8, "HFMA2": 5, "IMAD": 4, "IADD3": 4, "MUFU": 18, "SHFL": 24}
    )
    matrix_latency: float = 33.0
    group_latency: float = 140.0
    reached: dict[str, float] = field(default_factory=dict)

    def fake(self) -> FakeCuda:
        """The driver of this machine."""
        settings = [
            (o, c) for o in instructions.operations(90) for c in (mma.UNDER_WAY if o is mma.WGMMA else kernels.CHAINS)
        ]
        made = {o.kernel(chains).name: self._answer(o, chains) for o, chains in settings}
        assert len(made) == len(settings), "two kernels have one name"
        return FakeCuda(made, memory_bytes=1 << 24)

    def cycles_a_loop(self, operation: Operation, chains: int, warps: int) -> float:
        """Bound by the chains of one warp, or by the SM."""
        rate = (limit_of(operation.kind, (9, 0)).a_cycle or 0.0) * self.reached.get(operation.kind, 1.0)
        work = operation.macs or LANES
        if operation is mma.WGMMA:
            return operation.operations * max(work / rate, self.group_latency / chains)
        latency = self.matrix_latency if operation.matrix else self.latencies[operation.kind]
        return operation.operations * max(latency / chains, warps * work / rate)

    def _answer(self, operation: Operation, chains: int) -> Kernel:
        def answer(grid: Three, block: Three, args: Arguments) -> float:
            assert grid == (1, 1, 1)
            assert block[0] <= operation.most_threads
            one = self.cycles_a_loop(operation, chains, block[0] // LANES)
            cycles = round(args.value(2, ctypes.c_int32) * one) + 40
            ns = round(cycles / CLOCK_HZ * 1e9)
            args.array(0, np.uint64, 4)[:] = (1000, 1000 + cycles, 5_000_000, 5_000_000 + ns)
            return float(cycles / CLOCK_HZ)

        return answer


def _run(machine: Machine, quick: bool = True, **failing: Any) -> tuple[dict[str, Measurement], list[str]]:
    fake = machine.fake()
    for function, (code, at) in failing.items():
        fake.fail(function, code, at)
    context = Context(GPU, 20.0, quick=quick, index=0, clock=fake.clock)
    with fake.gpu() as gpu:
        found = list(instructions.run(context, gpu))
    assert fake.error is None
    assert fake.allocated_bytes == 0
    assert len({m.name for m in found}) == len(found)
    warnings = [w for w in context.warnings if "float8_e4m3fn is left out" not in w]
    assert len(warnings) == len(context.warnings) - 1
    return {m.name: m for m in found}, warnings


def test_a_known_sm_is_recovered() -> None:
    machine = Machine()
    rows, warnings = _run(machine, quick=False)

    assert warnings == []
    assert len(rows) == 2 * len(instructions.operations(90))
    for operation in instructions.operations(90):
        latency, rate = rows[f"{operation.name} latency"], rows[f"{operation.name} rate"]
        limit = limit_of(operation.kind, (9, 0)).a_cycle
        assert (latency.metric, rate.metric, latency.unit, rate.unit) == ("latency", "time", "s", "s")
        assert latency.flags == rate.flags == ()
        assert rate.params["per_clock"] == pytest.approx(limit, rel=1e-3)
        assert rate.params["limit_per_clock"] == limit
        assert rate.value == pytest.approx((operation.macs or LANES) / rate.params["per_clock"] / CLOCK_HZ, rel=2e-3)
        assert ("flops_per_clock" in rate.params) == operation.matrix
    for kind, cycles in machine.latencies.items():
        [one, *_] = [m for name, m in rows.items() if name.startswith(kind) and name.endswith("latency")]
        assert one.params["cycles"] == pytest.approx(cycles, rel=1e-3)
        assert one.value == pytest.approx(cycles / CLOCK_HZ, rel=2e-3)
    assert rows["mma.sync m16n8k16 bfloat16 latency"].params["cycles"] == pytest.approx(33, rel=1e-3)
    assert rows["wgmma m64n256k16 bfloat16 latency"].params["cycles"] == pytest.approx(140, rel=1e-3)
    assert rows["wgmma m64n256k16 bfloat16 rate"].params["flops_per_clock"] == pytest.approx(4096, rel=1e-3)


def test_the_best_of_the_sweep_is_taken_and_all_of_it_told() -> None:
    rows, _ = _run(Machine(), quick=False)
    rate = rows["FFMA rate"]
    sweep = {(s["chains"], s["warps"]): s["cycles"] for s in rate.params["sweep"]}

    assert set(sweep) == {(c, w) for c in (1, 2, 4, 8) for w in (4, 8, 16, 32)}
    assert sweep[1, 4] == pytest.approx(1.0, rel=1e-3)  # four warps, one every four cycles
    assert sweep[8, 32] == pytest.approx(0.25, rel=1e-3)
    assert rate.params["cycles"] == min(sweep.values())
    assert sweep[rate.params["chains"], rate.params["warps"]] == rate.params["cycles"]


def test_each_row_says_what_its_loop_holds() -> None:
    rows, _ = _run(Machine())

    for m in rows.values():
        operation = EVERY[m.params["instruction"]]
        assert m.proof is not None
        assert (m.proof["instruction"], m.proof["architecture"]) == (operation.main, "sm_90a")
        assert operation.wrong_in_loop(m.proof) is None


def test_an_artefact_is_flagged_and_not_reported_as_a_fact() -> None:
    rows, warnings = _run(Machine(latencies=Machine().latencies | {"FFMA": 29.0}))

    assert rows["FFMA latency"].flags == ("implausible",)
    assert warnings == [
        "instructions: implausible: FFMA: a dependent FFMA every 29 cycles; 8 is the most that is plausible"
    ]
    assert {name for name, m in rows.items() if m.flags} == {"FFMA latency"}


def test_more_than_the_sm_has_is_flagged() -> None:
    rows, warnings = _run(Machine(reached={"DFMA": 2.0, "MMA tf32": 1.5}))

    assert {name for name, m in rows.items() if m.flags} == {"DFMA rate", "mma.sync m16n8k8 tf32 rate"}
    assert len(warnings) == 2
    assert "128 lanes a cycle and SM; 64 is the most there is" in warnings[0]


def test_mma_sync_below_the_limit_is_no_breach() -> None:
    rows, warnings = _run(Machine(reached={"MMA bfloat16": 0.6}))

    assert warnings == []
    rate = rows["mma.sync m16n8k16 bfloat16 rate"]
    assert rate.params["per_clock"] == pytest.approx(0.6 * 2048, rel=1e-3)


def test_a_kernel_that_does_not_load_costs_only_its_setting() -> None:
    rows, warnings = _run(Machine(), cuModuleLoadData=(1, 1))

    assert "FFMA latency" not in rows
    assert "FFMA rate" in rows
    assert len(rows) == 2 * len(instructions.operations(90)) - 1
    assert len(warnings) == 1
    assert warnings[0].startswith("instructions: FFMA, 1 chains, 1 warps: ")


def test_machine_code_that_is_not_as_counted_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "the loop holds 96 IMAD instead of 192"
    real = Operation.wrong_in_loop
    monkeypatch.setattr(Operation, "wrong_in_loop", lambda self, p: refused if self.main == "IMAD" else real(self, p))
    rows, warnings = _run(Machine())

    assert not [name for name in rows if name.startswith("IMAD")]
    assert len(rows) == 2 * len(instructions.operations(90)) - 2
    assert all(refused in warning for warning in warnings)


def test_a_lost_device_ends_the_suite_and_keeps_what_was_measured() -> None:
    fake = Machine().fake()
    context = Context(GPU, 5.0, quick=True, index=0, clock=fake.clock)
    found: list[Measurement] = []
    with fake.gpu() as gpu:
        rows = instructions.run(context, gpu)
        found.extend(next(rows) for _ in range(2))
        fake.fail("cuLaunchKernel", 719, 5)
        with pytest.raises(DeviceLost) as lost:
            found.extend(rows)
    assert isinstance(lost.value, UnavailableError)
    assert [m.name for m in found] == ["FFMA latency", "FFMA rate"]


@pytest.mark.gpu
def test_a_real_gpu_is_plausible() -> None:
    context = Context(Device("cuda", "the GPU here"), 20.0, index=0)
    found = {m.name: m for m in instructions.run(context)}

    assert not [name for name, m in found.items() if "implausible" in m.flags], context.warnings
    assert found["FFMA latency"].params["cycles"] == pytest.approx(4, abs=0.5)
    rate = found["FFMA rate"].params
    assert rate["per_clock"] == pytest.approx(rate["limit_per_clock"], rel=0.1)
