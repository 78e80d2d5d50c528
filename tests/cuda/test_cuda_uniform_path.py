"""Is the index arithmetic of each loop in the datapath it is named after, and do the loops differ in nothing else?"""

from collections import Counter

import pytest
from cuda_register_file import RegisterFile

from probe.kernels.cuda import cubin, nvrtc, proof, sass, uniform_path
from probe.machine.device import Device
from probe.microbench.cuda import register_banks
from probe.microbench.suite import Context

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120")
UNIFORM, VECTOR = ("UIADD3", "ULEA"), ("IADD3", "IADD", "LEA", "IMAD")


def _loop(architecture: str, datapath: str) -> Counter[str]:
    kernel = uniform_path.kernel(datapath)
    code = nvrtc.cubin(kernel.source, architecture, kernel.defines)
    instructions = sass.of(code, kernel.name)
    number = nvrtc.number_of(architecture)
    assert proof.check(kernel.claim_for(number), instructions) == ()
    assert cubin.local_bytes(code, kernel.name) == 0
    return Counter(i.mnemonic for i in proof.innermost_loop(instructions, "FFMA"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_loop_computes_its_indices_where_it_says(architecture: str) -> None:
    none, uniform, vector = (_loop(architecture, datapath) for datapath in uniform_path.DATAPATHS)
    assert none["FFMA"] == uniform["FFMA"] == vector["FFMA"] == uniform_path.FFMA
    for loop, of_it, other in ((uniform, UNIFORM, VECTOR), (vector, VECTOR, UNIFORM)):
        operations = sum(loop[name] for name in of_it)
        assert 0 <= operations - uniform_path.INDEX_OPERATIONS <= 1  # and perhaps the loop's counter
        assert sum(loop[name] for name in other) <= 1
    assert sum(none[name] for name in (*UNIFORM, *VECTOR)) <= 1
    assert uniform["ULEA"] == vector["LEA"] == uniform_path.INDEX_OPERATIONS // 2


def test_a_claim_of_the_other_datapath_does_not_hold() -> None:
    """The claim is what keeps a compiler that decides otherwise from being measured."""
    for datapath, other in (("uniform", "vector"), ("vector", "uniform"), ("none", "uniform")):
        kernel = uniform_path.kernel(other)
        instructions = sass.of(nvrtc.cubin(kernel.source, "sm_90a", kernel.defines), kernel.name)
        assert proof.check(uniform_path.kernel(datapath).claim_for(90), instructions) != ()


def test_the_suite_times_both_beside_the_loop_without_indices() -> None:
    registers = RegisterFile(2, least={"IADD3": 2.0})
    fake = registers.fake()
    context = Context(Device("cuda", "NVIDIA H100 80GB HBM3"), 10.0, quick=True, index=0, clock=fake.clock)
    with fake.gpu() as gpu:
        rows = {m.params["datapath"]: m for m in register_banks.run(context, gpu) if "datapath" in m.params}
    assert fake.error is None
    cycles = {datapath: m.params["cycles"] for datapath, m in rows.items()}
    assert cycles["none"] < cycles["uniform"] < cycles["vector"]
    assert cycles["uniform"] - cycles["none"] >= 128 / 256  # each takes an issue slot
    assert {m.params["index_operations"] for m in rows.values()} == {0, 128}
    assert rows["uniform"].proof["loop"]["ULEA"] == rows["vector"].proof["loop"]["LEA"] == 64
    assert context.warnings == []


def test_a_datapath_that_cannot_be_proved_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = uniform_path.kernel("uniform").claim_for(90).with_(exactly={"ULEA": 63})
    kernels = list(uniform_path.KERNELS)
    kernels[1] = type(kernels[1])("uniform_path", kernels[1].source, claim, kernels[1].defines)
    monkeypatch.setattr(uniform_path, "KERNELS", tuple(kernels))
    fake = RegisterFile(2, least={"IADD3": 2.0}).fake()
    context = Context(Device("cuda", "NVIDIA H100 80GB HBM3"), 10.0, quick=True, index=0, clock=fake.clock)
    with fake.gpu() as gpu:
        found = [m.params["datapath"] for m in register_banks.run(context, gpu) if "datapath" in m.params]
    assert found == ["none", "vector"]
    assert len(context.warnings) == 1
    assert "datapath uniform" in context.warnings[0] and "64 ULEA instead of 63" in context.warnings[0]
