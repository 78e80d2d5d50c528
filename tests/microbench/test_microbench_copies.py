"""Are copies timed by size, counted once, and do all implementations copy what they say?"""

import ctypes

import numpy as np
import pytest

from probe.machine.device import Device
from probe.microbench import memory
from probe.microbench.cpu import copies
from probe.microbench.cpu.copies import Arrays, Copy, Vector
from probe.microbench.suite import Context

DEVICE = Device("cpu", "x", cores=2)
CALL_S, BYTES_PER_S = 1e-6, 8e9


class Machine:
    """A fake clock that each copy moves on: a fixed time a call, and its bytes at a fixed rate."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def implementations(self, context: Context, destination: Vector, source: Vector) -> list[Copy]:
        def call() -> None:
            self.now += CALL_S + destination.nbytes / BYTES_PER_S

        return [Copy("fake", 1, call), Copy("other", 2, call)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(copies, "implementations", machine.implementations)
    monkeypatch.setattr(memory, "LARGEST_BYTES", memory.MIB)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    return machine


def test_bytes_are_counted_once_and_the_call_is_in_the_time(machine: Machine) -> None:
    found = list(copies.run(Context(DEVICE, 1.0, clock=machine.clock)))
    largest = found[0]

    assert largest.params["size_bytes"] == memory.MIB
    assert largest.value == pytest.approx(memory.MIB / (CALL_S + memory.MIB / BYTES_PER_S))
    assert largest.params["call_s"] == pytest.approx(CALL_S + 4 / BYTES_PER_S)
    assert (largest.params["bytes_counted"], largest.params["traffic_factor"]) == ("copied", 2)
    assert [m.params["threads"] for m in found[:2]] == [1, 2]


def test_sizes_are_powers_of_two_and_quick_takes_each_fourth(machine: Machine) -> None:
    found = list(copies.run(Context(DEVICE, 1.0, quick=True, clock=machine.clock)))

    assert sorted({m.params["size_bytes"] for m in found}) == [1 << 14, 1 << 18]
    assert copies.sizes(quick=False) == tuple(1 << e for e in range(12, 21))


def test_the_budget_is_kept(machine: Machine) -> None:
    list(copies.run(Context(DEVICE, 1.0, clock=machine.clock)))

    assert machine.now < 1.25


def test_sizes_that_do_not_fit_are_left_out_with_a_warning(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 * memory.MIB)
    context = Context(DEVICE, 0.5, clock=machine.clock)
    found = list(copies.run(context))

    assert max(m.params["size_bytes"] for m in found) == 256 * memory.KIB  # two of them in a quarter of 3 MiB
    assert context.warnings == ["copies: sizes from 512 KiB up are left out, too little memory is free"]


def test_each_implementation_copies_everything_and_nothing_else() -> None:
    context = Context(DEVICE, 0.1)
    seen = []
    for index in range(3):
        arrays = Arrays(4096)
        destination, source = arrays.copy_of(2048)
        source[:] = np.arange(512)
        copy = copies.implementations(context, destination, source)[index]
        copy.call()
        seen.append(copy.name)
        whole = arrays.copy_of(4096)[0]

        np.testing.assert_array_equal(whole[:512], source)
        assert (whole[512:] == 1).all()

    assert seen == ["libc memcpy", "numpy copyto", "torch copy_"]
    assert not context.warnings


def test_without_a_c_library_there_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: object) -> None:
        raise OSError("no such library")

    context = Context(DEVICE, 0.1)
    destination, source = Arrays(4096).copy_of(4096)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    names = [[c.name for c in copies.implementations(context, destination, source)] for _ in range(2)]

    assert names == [["numpy copyto", "torch copy_"]] * 2
    assert context.warnings == ["copies: libc's memcpy is left out, it cannot be called here: no such library"]


def test_real_copies_have_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LARGEST_BYTES", 64 * memory.KIB)
    found = list(copies.run(Context(DEVICE, 0.05, quick=True)))

    assert {m.params["size_bytes"] for m in found} == {16 * memory.KIB}
    assert len(found) == 3
    assert all(m.value >= m.median >= m.min > 0 for m in found)
