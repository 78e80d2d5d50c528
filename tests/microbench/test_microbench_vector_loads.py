"""Are loads of each width measured over each level, on a machine whose speed is known?"""

from collections.abc import Callable

import pytest

from probe.kernels.cpu import machine_code
from probe.kernels.cpu.loops import LoadLoop, Loops
from probe.machine import environment
from probe.machine.device import Cache, Device
from probe.microbench import memory
from probe.microbench.cpu import vector_loads
from probe.microbench.suite import Context

KIB, MIB = memory.KIB, memory.MIB
CACHES = (Cache(1, 32 * KIB, 64, 1), Cache(2, 512 * KIB, 64, 1), Cache(3, 32 * MIB, 64, 2))
DEVICE = Device("cpu", "x", cores=2, caches=CACHES)
CLOCK_HZ = 2e9
L1_BYTES = 16 * KIB


class Machine:
    """A fake clock that runs on when a fake loop runs: in the first level a load a cycle, beyond half as many."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[int, int]] = []

    def clock(self) -> float:
        return self.now

    def adds(self, x: int, n: int) -> int:
        self.now += n * 32 / CLOCK_HZ
        return x

    def load(self, width: int) -> Callable[..., int]:
        def call(to: object, x: int, y: object, words: int, repeats: int, gate: object, s: float) -> int:
            self.asked.append((width, 8 * words))
            cycles = 8 * words / width * (1 if 8 * words <= L1_BYTES else 2)
            self.now += repeats * cycles / CLOCK_HZ
            return 0

        return call

    def loops(self, instruction: str | None = "vmovups ymm") -> Loops:
        loads = tuple(LoadLoop(width, self.load(width), instruction, "c4e17c1000") for width in (8, 32))
        return Loops("machine code", "avx2", self.adds, self.adds, {}, loads=loads)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(machine_code, "load", lambda isa: machine.loops())
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    return machine


def test_rates_and_cycles_are_those_of_the_machine(machine: Machine) -> None:
    found = list(vector_loads.run(Context(DEVICE, 0.5, clock=machine.clock)))
    rates = {(m.params["level"], m.params["load_bytes"]): m for m in found}

    assert {level for level, _ in rates} == {"L1", "L2", "L3", "DRAM"}
    assert rates["L1", 32].value == pytest.approx(32 * CLOCK_HZ)
    assert rates["L1", 8].value == pytest.approx(8 * CLOCK_HZ)
    assert rates["L2", 32].params["bytes_per_cycle"] == pytest.approx(16)
    assert all(m.params["clock_hz"] == pytest.approx(CLOCK_HZ) for m in found)
    assert rates["L1", 32].proof == {
        "origin": "machine code", "instruction": "vmovups ymm", "encoding": "c4e17c1000"
    }  # fmt: skip
    assert {m.unit for m in found} == {"B/s"}
    assert {size for _, size in machine.asked} == {size for _, size in memory.footprints(DEVICE)}


def test_the_budget_is_kept(machine: Machine) -> None:
    list(vector_loads.run(Context(DEVICE, 2.0, clock=machine.clock)))

    assert machine.now < 2.5


def test_compiled_loops_say_why_no_instruction_is_known(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "load", lambda isa: machine.loops(None))
    measurement = next(vector_loads.run(Context(DEVICE, 0.1, clock=machine.clock)))

    assert measurement.proof is not None
    assert measurement.proof["instruction"] is None
    assert "compiled" in measurement.proof["reason"]


def test_what_does_not_fit_is_left_out_with_a_warning(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 64 * MIB)
    context = Context(DEVICE, 0.1, clock=machine.clock)
    levels = {m.params["level"] for m in vector_loads.run(context)}

    assert levels == {"L1", "L2", "L3"}
    assert context.warnings == ["vector_loads: 128 MiB (DRAM) is left out, too little memory is free"]


def test_without_reported_caches_there_is_a_warning_and_no_level(machine: Machine) -> None:
    context = Context(Device("cpu", "x", cores=2), 0.1, clock=machine.clock)
    found = list(vector_loads.run(context))

    assert {m.params["level"] for m in found} == {None}
    assert "reports no caches" in context.warnings[0]


def test_real_loops_name_what_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "footprints", lambda device: (("L1", 4 * KIB),))
    device = environment.cpu_device()
    found = list(vector_loads.run(Context(device, 0.05, quick=True)))
    widths = [m.params["load_bytes"] for m in found]

    assert widths == [loop.width_bytes for loop in machine_code.load(device.isa).loads]
    assert all(m.value >= m.median >= m.min > 0 for m in found)
    assert all(m.proof and m.proof["origin"] in ("machine code", "compiled") for m in found)
